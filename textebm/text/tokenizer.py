"""Text to token ids and back, and the corpus as one flat array of ids.

Every tokenizer is a `PreTrainedTokenizerFast` with four distinct special tokens. Those trained here give <pad> <bos>
<eos> <unk> the ids 0..3; a pretrained one keeps its own and gets the ones it lacks (safe: the embeddings are ours,
not its model's). ``vocabulary_size`` counts the words or pieces and <unk>; <pad>, <bos>, <eos> come on top, so that
the 10k words of Penn Treebank fit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from textebm.errors import RecipeError

PAD = "<pad>"
BOS = "<bos>"
EOS = "<eos>"
UNK = "<unk>"
SPECIAL = (PAD, BOS, EOS, UNK)
CHUNK = 4096  # texts in memory while encoding


def train_word(texts: Iterable[str], vocabulary_size: int) -> PreTrainedTokenizerFast:
    """The most frequent white-space-separated words of *texts* (ties by code point); the others are <unk>.

    Decoding joins the words with spaces: the sentence itself where every word is known.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text.split())
    for token in SPECIAL:
        del counts[token]
    words = sorted(counts, key=lambda word: (-counts[word], word))[: vocabulary_size - 1]
    ids = {word: number for number, word in enumerate((*SPECIAL, *words))}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _wrap(tokenizer)


def train_bpe(texts: Iterable[str], vocabulary_size: int) -> PreTrainedTokenizerFast:
    """Byte-level byte-pair encoding: it can spell any text, so that <unk> arises only from a corpus's own "<unk>".

    The 256 bytes are always in; a smaller *vocabulary_size* is raised to hold them.
    """
    tokenizer = Tokenizer(models.BPE())
    # A prefix space makes a word the same token at the start of a sentence as inside it; the decoder takes it away
    # again.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size + 3,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _wrap(tokenizer)


def _wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        clean_up_tokenization_spaces=False,
    )


def load_pretrained(name: str) -> PreTrainedTokenizerFast:
    """The fast tokenizer of a directory or a Hub id, with pad, bos, eos and unk all there and all distinct.

    Tokens that it lacks, or uses for two purposes (GPT-2's end of text), are added. Raises RecipeError when there is
    none.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, use_fast=True, trust_remote_code=False)
    except Exception as error:  # not found, offline, gated, malformed: transformers raises many kinds
        raise RecipeError(f"tokenizer.name: {name!r} cannot be loaded: {type(error).__name__}: {error}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise RecipeError(f"tokenizer.name: {name!r} is no fast tokenizer; expected one with tokenizer.json")
    taken: set[int] = set()
    for role, token in (("eos_token", EOS), ("bos_token", BOS), ("pad_token", PAD), ("unk_token", UNK)):
        if getattr(tokenizer, role) is None or getattr(tokenizer, f"{role}_id") in taken:
            tokenizer.add_special_tokens({role: AddedToken(token, special=True, normalized=False)})
        taken.add(getattr(tokenizer, f"{role}_id"))
    tokenizer.clean_up_tokenization_spaces = False
    assert len(taken) == 4
    return tokenizer


def decode(tokenizer: PreTrainedTokenizerFast, ids: Iterable[int]) -> str:
    """The sentence before the first eos; <bos> and <pad> are left out, <unk> is a word and stays."""
    kept, eos = [], tokenizer.eos_token_id  # each look at the wrapper's attributes takes microseconds
    left_out = (tokenizer.bos_token_id, tokenizer.pad_token_id)
    for number in map(int, ids):
        if number == eos:
            break
        if number not in left_out:
            kept.append(number)
    return str(tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)).strip()


@dataclass(frozen=True)
class TokenStore:
    """Sentences as token ids, end to end, without bos and eos: row i is ``tokens[offsets[i]:offsets[i + 1]]``."""

    tokens: NDArray[np.int32]
    offsets: NDArray[np.int64]

    @staticmethod
    def build(texts: Iterable[str], tokenizer: PreTrainedTokenizerFast, max_tokens: int) -> TokenStore:
        """Encode *texts* (a list or a datasets column) in chunks; longer ones are cut to *max_tokens*.

        Text that spells <pad>, <bos> or <eos> cannot forge them: they become <unk>.
        """
        parts: list[NDArray[np.int32]] = []
        lengths: list[NDArray[np.int64]] = []
        # The tokenizers library itself is three times as fast as its wrapper; a copy, since the switches are its state.
        backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        backend.no_truncation()
        backend.no_padding()
        for chunk in _chunks(texts):
            rows = [encoded.ids[:max_tokens] for encoded in backend.encode_batch_fast(chunk, add_special_tokens=False)]
            lengths.append(np.fromiter(map(len, rows), dtype=np.int64, count=len(rows)))
            parts.append(np.fromiter((token for row in rows for token in row), dtype=np.int32))
        tokens = np.concatenate([*parts, np.empty(0, dtype=np.int32)])
        reserved = [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id]
        tokens[np.isin(tokens, reserved)] = tokenizer.unk_token_id
        offsets = np.concatenate([np.zeros(1, dtype=np.int64), *lengths]).cumsum()
        return TokenStore(tokens, offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> NDArray[np.int32]:
        """The tokens of one sentence, a view."""
        if not 0 <= row < len(self):
            raise IndexError(row)
        return self.tokens[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(n,) tokens of each sentence, without bos and eos."""
        return np.diff(self.offsets)


def encode_corpus(
    splits: dict[str, Any], tokenizer: PreTrainedTokenizerFast, max_tokens: int, column: str = "text"
) -> dict[str, TokenStore]:
    """A TokenStore for each split of a DatasetDict."""
    return {split: TokenStore.build(rows[column], tokenizer, max_tokens) for split, rows in splits.items()}


def unknown_share(store: TokenStore, tokenizer: PreTrainedTokenizerFast) -> float:
    """Share of the tokens that are <unk>."""
    return float(np.mean(store.tokens == tokenizer.unk_token_id)) if len(store.tokens) else 0.0


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    if isinstance(texts, Sequence):  # a list, or a datasets column, which is quick to slice and slow to iterate
        for start in range(0, len(texts), CHUNK):
            yield list(texts[start : start + CHUNK])
        return
    chunk: list[str] = []
    for text in texts:
        chunk.append(text)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
