"""The latent-variable model of text, as a network: encoder q(z|x), decoder p(x|z), prior p(z) with its symbol heads.

Latents are written u where they stand before the transport of a hierarchical prior and z = T(u) after it; the two are
the same for all other priors. In a dialogue q, p(x|z) and p(z) are all conditioned on c, the vector of the turns before
(`TokenBatch.context`): the same networks with one more input. Without a context encoder c has width 0.

What the network is trained on is `textebm.model.objective`; what one does with it once it is trained is `textebm.use`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from textebm.errors import TextEBMError, did_you_mean
from textebm.model.inference import Refinement, Score, ShortRun, frozen, text_noise
from textebm.networks.bag_of_words import BagOfWordsDecoder, BagOfWordsEncoder
from textebm.networks.decoder import CountsWords, RecurrentDecoder, TransformerDecoder
from textebm.networks.encoder import ContextEncoder, OwnEncoder, RecurrentEncoder, SentenceEncoder, TransformerEncoder
from textebm.networks.language_model import PretrainedDecoder
from textebm.networks.modes import held
from textebm.networks.posterior import Posterior
from textebm.networks.whole_words import WholeWordsEncoder
from textebm.objective.contrastive import Contrastive
from textebm.prior.condition import Condition
from textebm.prior.prior import LatentPrior
from textebm.prior.sampler import potential_and_gradient
from textebm.text.batches import TokenBatch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Encoder = (
    RecurrentEncoder
    | TransformerEncoder
    | SentenceEncoder
    | BagOfWordsEncoder
    | WholeWordsEncoder
    | OwnEncoder
    | ShortRun
)
Decoder = RecurrentDecoder | TransformerDecoder | BagOfWordsDecoder | PretrainedDecoder


@dataclass(frozen=True)
class SymbolHead:
    """A discrete variable of the prior. column: the label column it was taught, None for codes that were found. shares:
    how often training had each class, among the sentences whose class it knew; empty where no one has counted."""

    name: str
    classes: tuple[str, ...]
    column: str | None = None
    shares: tuple[float, ...] = ()

    def index(self, value: str | int) -> int:
        """The class's number. Raises TextEBMError for one that does not exist."""
        if str(value) in self.classes:
            return self.classes.index(str(value))
        number = int(value) if isinstance(value, int) or (self.column is None and value.isdecimal()) else -1
        if 0 <= number < len(self.classes):  # a code that has got a name keeps its number
            return number
        raise TextEBMError(f"symbol {self.name!r} has no class {str(value)!r}{did_you_mean(str(value), self.classes)}")


@dataclass(frozen=True)
class Attribute:
    """A reading of noisy latents that a finished model was given (`textebm.use.attributes`).

        p(y | u, t) = softmax(W_t u + b_t)

    slopes (T, K, d), offsets (T, K), on the CPU; facts: how well it reads, for people.
    """

    name: str
    classes: tuple[str, ...]
    slopes: Tensor
    offsets: Tensor
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def head(self) -> SymbolHead:
        """It is named and asked for as a head is."""
        return SymbolHead(self.name, self.classes, self.name)

    def logits(self, u: Tensor) -> Tensor:
        """log p(y | u) at level 0, up to a constant of each row, (B, K). u (B, d)"""
        return u @ self.slopes[0].to(u).t() + self.offsets[0].to(u)

    def probabilities(self, u: Tensor) -> Tensor:
        """p(y | u) at level 0, (B, K). u (B, d)"""
        return self.logits(u).softmax(-1)


class LatentTextModel(nn.Module):
    """Encoder, decoder, prior and symbol heads of one model, with the tokenizer whose ids they read and write.

    encoder, decoder, prior: any objects with the methods of `textebm.networks.encoder`, `textebm.networks.decoder` and
    `textebm.prior.prior` (docs/extending.md says which). word_dropout: the share of the decoder's input words that
    are hidden in training; encoder_word_dropout: of the encoder's, which is how <unk> is learned where the vocabulary
    covers the training text. learning: how F is learned. recipe: what the model was built from, kept to be saved.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        prior: LatentPrior,
        tokenizer: PreTrainedTokenizerFast,
        heads: Mapping[str, SymbolHead],
        *,
        max_tokens: int = 40,
        word_dropout: float = 0.0,
        encoder_word_dropout: float = 0.0,
        learning: Literal["score_matching", "recovery"] = "score_matching",
        contrastive: Contrastive | None = None,
        refinement: Refinement | None = None,
        recipe: dict[str, Any] | None = None,
        context_encoder: ContextEncoder | None = None,
    ):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.prior = prior
        self.context_encoder = context_encoder
        self.tokenizer = tokenizer
        self.heads = dict(heads)
        self.max_tokens = max_tokens
        self.word_dropout = word_dropout
        self.encoder_word_dropout = encoder_word_dropout
        self.learning = learning
        self.contrastive = contrastive
        self.refinement = refinement
        self.recipe = recipe
        self.attributes: dict[str, Attribute] = {}

    @property
    def device(self) -> torch.device:
        return self.prior.rho.device

    @property
    def reads_context(self) -> bool:
        """Whether it reads the turns before each text."""
        return self.context_encoder is not None

    def head(self, name: str) -> SymbolHead:
        """The symbol head or the attribute of this name. Raises TextEBMError where there is none."""
        if name in self.attributes:
            return self.attributes[name].head
        if name not in self.heads:
            names = [*self.heads, *self.attributes]
            known = did_you_mean(name, names) if names else "; this model has none"
            raise TextEBMError(f"unknown symbol {name!r}{known}")
        return self.heads[name]

    def read_context(self, batch: TokenBatch) -> Tensor | None:
        """c (B, C), what the turns before each sentence say; None for a model without context."""
        if self.context_encoder is None:
            return None
        assert batch.context is not None and not isinstance(self.encoder, ShortRun)
        words, lengths = self.encoder.embed(batch.context.tokens, batch.context.lengths)
        return self.context_encoder(words, lengths)

    def posterior(
        self,
        batch: TokenBatch,
        generator: torch.Generator | None = None,
        *,
        seed: int = 0,
        learned_prior: bool = True,
        refine: int = 0,
        features: Tensor | None = None,
        context: Tensor | None = None,
    ) -> Posterior:
        """q(u|x, c): the encoder's, or the end of a short run, whose noise is the generator's or that of text and seed.

        learned_prior: whether a chain's target has the prior as it is now, or N(0, I). refine: steps uphill from there.
        features: the encoder's, where they are known. context (B, C): `read_context` of the batch.
        """
        if isinstance(self.encoder, ShortRun):
            shape = (self.encoder.steps, len(batch), self.prior.dim)
            if generator is None:
                noise = text_noise(batch.tokens, batch.lengths, shape[0], shape[2], seed)
            else:
                noise = torch.empty(shape, device=self.device).normal_(generator=generator)
            posterior = self.encoder(lambda rows: self.posterior_score(batch.rows(rows), learned_prior), noise)
        else:
            features = self.encoder.features(batch.tokens, batch.lengths) if features is None else features
            posterior = self.encoder.posterior(features, context)
        if refine:
            chain = self.refinement or Refinement()
            posterior = chain.mode(self.posterior_score(batch, learned_prior, context), posterior, refine)
        return posterior

    def posterior_score(self, batch: TokenBatch, learned_prior: bool = True, context: Tensor | None = None) -> Score:
        """∇_u log p(x, u | c) of the batch's texts as a function of u: no dropout, no gradient in any parameter."""
        condition = Condition(context=context).detached

        def score(u: Tensor) -> Tensor:
            with frozen(self):
                _, gradient = potential_and_gradient(
                    lambda w: -self.reconstruction_nll(batch, w, context=condition.context), u
                )
                level = torch.zeros(len(u), dtype=torch.long, device=u.device)
                return gradient + (self.prior.score(u, level, condition) if learned_prior else -u)

        return score

    def decoder_input(self, u: Tensor, context: Tensor | None = None) -> Tensor:
        """[z, c] with z = T(u), what the decoder reads: (B, d + C)."""
        with torch.autocast(u.device.type, enabled=False):
            z = self.prior.transport(u)
        return z if context is None else torch.cat([z, context], dim=-1)

    def reconstruction_nll(
        self, batch: TokenBatch, u: Tensor, generator: torch.Generator | None = None, context: Tensor | None = None
    ) -> Tensor:
        """−log p(x|z, c) at z = T(u), nats per sentence, the end of the sentence included. u (B, d) -> (B,)"""
        z = self.decoder_input(u, context)
        if isinstance(self.decoder, CountsWords):
            return self.decoder.bag_nll(batch.word_counts(len(self.tokenizer)), z)
        inputs, words = batch.tokens[:, :-1], batch.tokens[:, 1:]  # (B, T−1)
        if self.training and self.word_dropout > 0:
            inputs = self.hide_words(inputs, self.word_dropout, generator)
        places = batch.places  # padding never meets the softmax
        hidden = self.decoder.hidden(inputs, z).flatten(0, 1).index_select(0, places)  # (words, E)
        nll = self.decoder.nll(hidden, words.flatten()[places])
        return torch.zeros(len(z), device=z.device).index_add_(0, places // words.shape[1], nll)

    def hide_words(self, tokens: Tensor, share: float, generator: torch.Generator | None) -> Tensor:
        """tokens (B, T) with about *share* of them replaced by <unk>, the first of each sentence and its end never."""
        hidden = torch.rand(tokens.shape, device=tokens.device, generator=generator) < share
        hidden[:, 0] = False
        hidden &= tokens != self.tokenizer.eos_token_id
        return tokens.masked_fill(hidden, self.tokenizer.unk_token_id)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Inside, the model is in evaluation mode, for all threads that use it at once."""

        def take() -> Callable[[], None]:
            mode = self.training
            if mode:
                self.eval()

            def give_back() -> None:
                if mode:
                    self.train()

            return give_back

        with held(self, "evaluating", take):
            yield
