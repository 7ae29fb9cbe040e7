"""Networks that know which words a document has, and not their order: a document of any length is a bag of words.

Both follow the protocols of the other encoders and decoders, and both hold what the training text says of words: the
encoder their document frequencies, the decoder their background frequencies (`fit_words`, before training).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from textebm.networks.decoder import DecoderState
from textebm.networks.dropout import Dropout
from textebm.networks.encoder import EncoderHeads
from textebm.networks.posterior import Head
from textebm.networks.view import ViewHead
from textebm.networks.whole_words import ROWS, WholeWordsEncoder, tf_idf

WORDS_WRITTEN = 12  # a list that is read at a glance
RARE, COMMON, FEW = 3, 0.1, 50  # documents; share of the documents; words
LENGTH = 5.0  # of a document's weights as the perceptron sees them
RELEVANCE = 0.4  # weight of a word's log-probability beside its lift over the background (Sievert & Shirley 2014)


class BagOfWordsEncoder(EncoderHeads):
    """Words weighted by (1 + log tf) · idf, at unit length as in TF-IDF, embedded, summed, and read by a perceptron,
    whose first layer the embedding is: with one layer hidden_size has no part.

    special: token ids that are no words (padding, <bos>, <eos>, <unk>). dropout: share of the words hidden in training,
    and of the hidden units.
    """

    inverse_frequency: Tensor  # (V,) idf; 0 for what is no word

    def __init__(
        self,
        vocabulary_size: int,
        embedding_size: int,
        hidden_size: int,
        *,
        special: Sequence[int] = (),
        head: Head | None = None,
        num_layers: int = 1,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.embedding: nn.Module | None = nn.Embedding(vocabulary_size, embedding_size) if vocabulary_size else None
        if isinstance(self.embedding, nn.Embedding):
            nn.init.normal_(self.embedding.weight, std=0.01)  # a word that training hardly met says hardly anything
        sizes = [embedding_size, *[hidden_size] * (num_layers - 1)]
        layers = [(nn.Linear(*pair), nn.GELU(), Dropout(dropout)) for pair in zip(sizes, sizes[1:], strict=False)]
        self.layers = nn.Sequential(nn.GELU(), *(module for layer in layers for module in layer))
        self.hide = Dropout(dropout)
        self.num_features = sizes[-1]
        self.special = tuple(special)
        self.register_buffer("inverse_frequency", torch.ones(vocabulary_size))
        self.inverse_frequency[list(special)] = 0.0
        self.head = head
        self.view: ViewHead | None = None

    def weights(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Of each token's place: its word's TF-IDF weight, shared by the places where the word stands. tokens (B, T),
        lengths (B,) -> (B, T), 0 in padding; Σ over words of the squares is 1."""
        counted = (torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]).float()
        counted = counted * (self.inverse_frequency[tokens] > 0)
        return tf_idf(tokens, counted, self.inverse_frequency)

    def features(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """tokens (B, T), lengths (B,) -> (B, F)."""
        assert self.embedding is not None
        weights = self.hide(self.weights(tokens, lengths))
        return self._perceptron((self.embedding(tokens) * (LENGTH * weights)[..., None]).sum(1))

    def read(self, words: Tensor, lengths: Tensor) -> Tensor:
        """Words that are embedded already (a dialogue's history), all of one weight. words (B, T, E) -> (B, F)."""
        mask = (torch.arange(words.shape[1], device=words.device) < lengths[:, None])[..., None]
        return self._perceptron((words * mask).sum(1) / lengths[:, None].clamp_min(1).sqrt())

    def _perceptron(self, bag: Tensor) -> Tensor:
        features: Tensor = self.layers(bag)
        return features.float()


class BagOfWordsDecoder(nn.Module):
    """Words drawn one by one, whatever stands before them: a multinomial likelihood of their counts, up to the number
    of orders, with the end of the document as a word.

    Topical words (`fit_words`) have softmax(background + W A z) and together their share of the training text; the
    others, which every document has or hardly any, have their background, so that the latent is spent on topics. What
    it writes is a list of the most relevant words, each once (`step`).
    """

    background: Tensor  # (V,) log-frequency of each word in the training text
    topical: Tensor  # (V,) bool

    def __init__(
        self,
        vocabulary_size: int,
        embedding_size: int,
        latent_dim: int,
        *,
        end: int,
        special: Sequence[int] = (),
        dropout: float = 0.0,
    ):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, embedding_size)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.project = nn.Linear(latent_dim, embedding_size)
        self.dropout = Dropout(dropout)
        self.end, self.special = end, tuple(special)
        self.register_buffer("background", torch.full((vocabulary_size,), -math.log(vocabulary_size)))
        topical = torch.ones(vocabulary_size, dtype=torch.bool)
        topical[list(special)] = False
        self.register_buffer("topical", topical)

    def hidden(self, inputs: Tensor, z: Tensor) -> Tensor:
        """inputs (B, T), whose words do not matter, z (B, d) -> (B, T, E)."""
        return self._bag(z)[:, None].expand(-1, inputs.shape[1], -1)

    def logits(self, hidden: Tensor) -> Tensor:
        """log p(word|z), (…, E) -> (…, V)."""
        scores = F.linear(hidden, self.embedding.weight).float() + self.background
        share = self.background[self.topical].logsumexp(0)
        among_topical = scores.masked_fill(~self.topical, -torch.inf).log_softmax(-1) + share
        return torch.where(self.topical, among_topical, self.background)

    def nll(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """hidden (N, E), targets (N,) -> −log p(target), (N,) nats."""
        return -self.logits(hidden).gather(-1, targets[:, None])[:, 0]

    def bag_nll(self, counts: Tensor, z: Tensor) -> Tensor:
        """−Σ_w n_w log p(w|z), nats: what `hidden` and `nll` give, summed over a document, in one softmax a document.
        counts (B, V), z (B, d) -> (B,)"""
        places = self.topical.nonzero()[:, 0]
        scores = F.linear(self._bag(z), self.embedding.weight[places]).float() + self.background[places]
        topical = counts[:, places]
        share = self.background[places].logsumexp(0) - scores.logsumexp(-1)
        others = (counts * self.background.masked_fill(self.topical, 0.0)).sum(-1)
        return -((topical * scores).sum(-1) + topical.sum(-1) * share + others)

    def _bag(self, z: Tensor) -> Tensor:
        bag: Tensor = self.dropout(self.project(z))
        return bag

    def start(self, z: Tensor) -> DecoderState:
        """Which words are written, (B, V), and how many, (B, 1)."""
        return torch.zeros(len(z), len(self.background), device=z.device), torch.zeros(len(z), 1, device=z.device)

    def step(self, tokens: Tensor, z: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """tokens (B,), z (B, d) -> each topical word's relevance as a logit (B, V), and the next state. A word is
        written once; the end comes after `WORDS_WRITTEN` words."""
        written, count = state
        written = written.scatter(1, tokens[:, None], 1.0)
        logits = self.logits(self._bag(z)) - (1 - RELEVANCE) * self.background
        logits = logits.masked_fill(~self.topical | (written > 0), -torch.inf)
        over = (count[:, 0] >= WORDS_WRITTEN) | torch.isinf(logits).all(-1)
        logits[:, self.end] = torch.where(over, 1e4, -torch.inf)
        return logits, (written, count + 1)


def fit_words(modules: Iterable[nn.Module], tokens: NDArray[np.integer], offsets: NDArray[np.integer]) -> None:
    """Give the bag-of-words networks among *modules* what the training text says of words.

    tokens (N,): the words of all documents, one document after the other; offsets (n + 1,): where each begins. idf is
    log((1 + n)/(1 + df)), 0 for words that are not topical: those of fewer than `RARE` documents or of more than
    `COMMON` of them (all are topical where that would leave hardly any). The background is the log-frequency, half a
    word added to each, the ends counted.
    """
    modules = list(modules)
    for module in modules:
        if isinstance(module, WholeWordsEncoder):
            module.fit(_padded(tokens, offsets))
    readers = [each for each in modules if isinstance(each, BagOfWordsEncoder | BagOfWordsDecoder)]
    n = len(offsets) - 1
    for each in readers:
        size = len(each.inverse_frequency if isinstance(each, BagOfWordsEncoder) else each.background)
        document = np.repeat(np.arange(n), np.diff(offsets))
        pairs = np.unique(np.stack([document, tokens[: len(document)].astype(np.int64)]), axis=1)[1]
        with_word = torch.from_numpy(np.bincount(pairs, minlength=size))
        topical = (with_word >= RARE) & (with_word <= COMMON * n)
        if topical.sum() < FEW:
            topical = torch.ones(size, dtype=torch.bool)
        topical[list(each.special)] = False
        if isinstance(each, BagOfWordsEncoder):
            each.inverse_frequency.copy_(((1 + n) / (1 + with_word)).log() * topical)
        else:
            counts = torch.from_numpy(np.bincount(tokens, minlength=size)) + 0.5
            counts[each.end] += n
            each.background.copy_((counts / counts.sum()).log())
            each.topical.copy_(topical)


def _padded(tokens: NDArray[np.integer], offsets: NDArray[np.integer]) -> Iterator[tuple[Tensor, Tensor]]:
    """The documents as rows of one width (n, T), and how many tokens each has, some thousand at a time."""
    for start in range(0, len(offsets) - 1, ROWS):
        ends = torch.from_numpy(np.asarray(offsets[start : start + ROWS + 1], dtype=np.int64))
        lengths = ends.diff()
        place = torch.arange(int(lengths.max()))
        inside = place < lengths[:, None]
        rows = torch.zeros(inside.shape, dtype=torch.long)
        rows[inside] = torch.from_numpy(np.asarray(tokens[ends[0] : ends[-1]], dtype=np.int64))
        yield rows, lengths
