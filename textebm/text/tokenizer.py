"""Text to token ids and back, and the corpus as one flat array of ids.

Every tokenizer is a `PreTrainedTokenizerFast` with four distinct special tokens. Those trained here give <pad> <bos>
<eos> <unk> the ids 0..3; a pretrained one keeps its own and gets the ones it lacks (safe: the embeddings are ours,
not its model's). ``vocabulary_size`` counts the words or pieces and <unk>; <pad>, <bos>, <eos> come on top, so that
the 10k words of Penn Treebank fit.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from textebm.errors import RecipeError, refused_by_library
from textebm.text.natural import detokenize, tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD = "<pad>"
BOS = "<bos>"
EOS = "<eos>"
UNK = "<unk>"
BETWEEN = "<|endoftext|>"  # of GPT-2, GPT-NeoX, Qwen, SmolLM
UNKNOWN_IS_WORD = "unknown_is_word"  # a key of what is saved with a tokenizer
SPECIAL = (PAD, BOS, EOS, UNK)
MARKS = ("Ġ", "▁")  # before a piece that a space stands before
CHUNK = 4096  # texts in memory while encoding

T = TypeVar("T")


@dataclass(frozen=True)
class Normalization:
    """What is made equal before text becomes tokens; it is saved with the tokenizer. Unicode is always composed (NFC).

    lowercase: capitals are lost. html: entities and tags are decoded. punctuation_apart: of a word tokenizer, marks are
    tokens of their own, and decoding sets them back where they stood.
    """

    lowercase: bool = False
    html: bool = False
    punctuation_apart: bool = False

    def build(self, *, spaces: bool) -> normalizers.Normalizer:
        """The normalizer of the tokenizers library. spaces: with runs of white space made one space."""
        steps: list[normalizers.Normalizer] = [normalizers.NFC()]
        if self.html:
            steps += [normalizers.Replace(Regex(pattern), text) for pattern, text in HTML]
        if self.lowercase:
            steps.append(normalizers.Lowercase())
        if spaces:
            steps += [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
        return normalizers.Sequence(steps)


PLAIN = Normalization()
# Entities, also those that lost their "&" on the way ("#39;"); "&amp;" first, since many are escaped twice.
HTML = (
    ("&amp;|&#38;", "&"),
    ("&lt;|&#60;", "<"),
    ("&gt;|&#62;", ">"),
    (r"&quot;|&#34;|(?<!\S)quot;", '"'),
    (r" ?(?<!\S)#0?39;(?=(?:s|t|m|re|ve|ll|d)\b)|&apos;|&#x27;|&#0?39;|(?<!\S)#0?39;", "'"),
    (r"&#36;|(?<!\S)#36;", "$"),
    ("&nbsp;|&#160;", " "),
    ("&[lr]squo;|&#821[67];", "’"),
    ("&[lr]dquo;|&#822[01];", '"'),
    ("&[mn]dash;|&#821[12];", "–"),
    ("&hellip;|&#8230;", "…"),
    (r"</?(?:br|p|b|i|u|a|em|strong|font|span|div|li|ul)\b[^<>]{0,300}>", " "),
)
# A mark that is no apostrophe or hyphen inside a word, with the space before it.
MARK = r"▁?(?:[^\w\s▁'’-]|(?<!\w)['’-]|['’-](?!\w))"


def train_word(
    texts: Iterable[str], vocabulary_size: int, normalization: Normalization = PLAIN
) -> PreTrainedTokenizerFast:
    """The most frequent words of *texts* (ties by code point); the others are <unk>. Words are separated by white
    space, and by marks with `punctuation_apart`.

    Decoding gives the normalised sentence back where every word is known.
    """
    watched = _Watched(texts)
    normalizer = normalization.build(spaces=normalization.punctuation_apart)
    splitter: pre_tokenizers.PreTokenizer = pre_tokenizers.WhitespaceSplit()
    if normalization.punctuation_apart:
        splitter = pre_tokenizers.Sequence(
            [pre_tokenizers.Metaspace(), pre_tokenizers.Split(Regex(MARK), behavior="isolated")]
        )
    counts: Counter[str] = Counter()
    for text in watched:
        text = normalizer.normalize_str(text)
        counts.update(
            [word for word, _ in splitter.pre_tokenize_str(text)] if normalization.punctuation_apart else text.split()
        )
    for token in SPECIAL:
        del counts[token]
    words = sorted(counts, key=lambda word: (-counts[word], word))[: vocabulary_size - 1]
    ids = {word: number for number, word in enumerate((*SPECIAL, *words))}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNK))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    if normalization.punctuation_apart:
        tokenizer.decoder = decoders.Sequence([decoders.Replace(UNK, f"▁{UNK}"), decoders.Metaspace()])
    return _wrap(tokenizer, watched.unknown)


def train_bpe(
    texts: Iterable[str], vocabulary_size: int, normalization: Normalization = PLAIN
) -> PreTrainedTokenizerFast:
    """Byte-level byte-pair encoding: it can spell any text, so that <unk> arises only from a corpus's own "<unk>".

    Decoding gives the normalised text back, spacing and marks included. The 256 bytes are always in; a smaller
    *vocabulary_size* is raised to hold them.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalization.build(spaces=True)
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
    watched = _Watched(texts)
    tokenizer.train_from_iterator(watched, trainer)
    return _wrap(tokenizer, watched.unknown)


class _Watched:
    """*texts* to be read once; unknown: whether one that was read holds <unk> as a word, as Penn Treebank's do."""

    def __init__(self, texts: Iterable[str]):
        self.texts, self.unknown = texts, False

    def __iter__(self) -> Iterator[str]:
        for text in self.texts:
            self.unknown = self.unknown or UNK in text
            yield text


def writes_unknown(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether <unk> may be written: where the training text itself holds it as a word."""
    return bool(tokenizer.init_kwargs.get(UNKNOWN_IS_WORD))


def _wrap(tokenizer: Tokenizer, unknown_is_word: bool) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        clean_up_tokenization_spaces=False,
        **{UNKNOWN_IS_WORD: unknown_is_word},
    )


def load_own(name: str, revision: str | None = None, option: str = "tokenizer.name") -> PreTrainedTokenizerFast:
    """The fast tokenizer of a directory or a Hub id, as it is. Raises RecipeError when there is none."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast  # with the tables of all models

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            name, use_fast=True, trust_remote_code=False, revision=revision or "main"
        )
    except Exception as error:  # not found, offline, gated, malformed: transformers and tokenizers raise many kinds
        if not refused_by_library(error):
            raise
        told = f"{type(error).__name__}: {error}".splitlines()[0]
        raise RecipeError(f"{option}: {name!r} cannot be loaded: {told[:300]}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise RecipeError(f"{option}: {name!r} is no fast tokenizer; expected one with tokenizer.json")
    return tokenizer


def load_pretrained(name: str, revision: str | None = None, *, natural: bool = False) -> PreTrainedTokenizerFast:
    """The tokenizer that writes: with pad, bos, eos and unk all there and all distinct.

    BERT's [CLS] and [SEP] are its bos and eos. Tokens that it lacks, or uses for two purposes (GPT-2's end of text),
    are added, after its own. natural: the network writes English as `textebm.text.natural.detokenize` makes it, and
    texts here are lower-case tokens. Otherwise a first word is written as one inside a text, with the space before it,
    which networks know better in small letters. Raises RecipeError when there is none.
    """
    tokenizer = load_own(name, revision)
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    splits = state["pre_tokenizer"] or {}
    splits = splits.get("pretokenizers", [splits])
    if not natural and any(each.get("type") == "ByteLevel" and not each["add_prefix_space"] for each in splits):
        before = tokenizer.backend_tokenizer.normalizer
        space = normalizers.Prepend(" ")
        tokenizer.backend_tokenizer.normalizer = normalizers.Sequence([before, space]) if before else space
    if (decoder := state["decoder"] or {}).get("type") == "WordPiece":  # it would set signs at their words again
        tokenizer.backend_tokenizer.decoder = decoders.WordPiece(decoder["prefix"], cleanup=False)
    tokenizer.init_kwargs["natural"] = natural  # saved with it
    tokenizer.bos_token = tokenizer.bos_token or tokenizer.cls_token
    tokenizer.eos_token = tokenizer.eos_token or tokenizer.sep_token
    taken: set[int] = set()
    for role, token in (("eos_token", EOS), ("bos_token", BOS), ("pad_token", PAD), ("unk_token", UNK)):
        if getattr(tokenizer, role) is None or getattr(tokenizer, f"{role}_id") in taken:
            tokenizer.add_special_tokens({role: AddedToken(token, special=True, normalized=False)})
        taken.add(getattr(tokenizer, f"{role}_id"))
    tokenizer.clean_up_tokenization_spaces = False
    assert len(taken) == 4
    return tokenizer


def first_token(tokenizer: PreTrainedTokenizerFast) -> int:
    """The id that begins a text for the network of a pretrained tokenizer: what stood between the texts it was trained
    on where it has such a token (the bos of a chat model begins a turn), else its own bos, else its eos."""
    between = tokenizer.get_added_vocab().get(BETWEEN)
    if between is not None:
        return int(between)
    return int(tokenizer.eos_token_id if tokenizer.bos_token == BOS else tokenizer.bos_token_id)


def pieces_of(tokenizer: PreTrainedTokenizerFast) -> list[tuple[str, bool]]:
    """Of each token id its text, "" for special ones, and whether a word may begin with it. Beyond ASCII the text of a
    byte-level piece has a letter for each byte."""
    special = set(tokenizer.all_special_ids)
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    marked = any(token[:1] in MARKS for number, token in enumerate(tokens) if number not in special)
    return [
        ("", True)
        if number in special
        else (token.lstrip("".join(MARKS)).removeprefix("##"), token[:1] in MARKS or not (marked or token[:2] == "##"))
        for number, token in enumerate(tokens)
    ]


def not_given_back(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[tuple[str, str]]:
    """Those of *texts* that `decode` of their ids spells otherwise, and how; differences of white space are none."""
    store = TokenStore.build(texts, tokenizer, sys.maxsize)
    pairs = [(" ".join(text.split()), decode(tokenizer, store[row])) for row, text in enumerate(texts)]
    return [(text, spelt) for text, spelt in pairs if text != spelt]


def decode(tokenizer: PreTrainedTokenizerFast, ids: Iterable[int]) -> str:
    """The sentence before the first eos; <bos> and <pad> are left out, <unk> is a word and stays."""
    text = spell(tokenizer, ids)
    return tokenize(text) if tokenizer.init_kwargs.get("natural") else text


def spell(tokenizer: PreTrainedTokenizerFast, ids: Iterable[int]) -> str:
    """`decode`, but a text that is written as English stays so."""
    kept, eos = [], tokenizer.eos_token_id  # each look at the wrapper's attributes takes microseconds
    left_out = (tokenizer.bos_token_id, tokenizer.pad_token_id)
    for number in map(int, ids):
        if number == eos:
            break
        if number not in left_out:
            kept.append(number)
    return str(tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)).strip()


def unknown_words(tokenizer: PreTrainedTokenizerFast, text: str, max_tokens: int) -> list[str]:
    """The words of *text*, as they are spelt there, that become <unk> among its first *max_tokens* tokens."""
    encoded = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
    spans = zip(encoded.ids[:max_tokens], encoded.offsets, strict=False)
    return [text[start:end].strip() for number, (start, end) in spans if number == tokenizer.unk_token_id]


def restore_words(tokenizer: PreTrainedTokenizerFast, text: str, words: Sequence[str]) -> str:
    """A decoded *text* with its <unk> replaced by *words*, in their order; what is left over stays."""
    first, *rest = text.split(tokenizer.unk_token)
    filled = [*words, *[tokenizer.unk_token] * len(rest)]
    return first + "".join(word + after for word, after in zip(filled, rest, strict=False))


@dataclass(frozen=True)
class Encoded:
    """Some rows: their tokens end to end, and how many each has."""

    tokens: NDArray[np.int32]
    lengths: NDArray[np.int64]


def encode_chunks(texts: Iterable[str], tokenizer: PreTrainedTokenizerFast, max_tokens: int) -> Iterator[Encoded]:
    """What `TokenStore.build` joins, a chunk at a time."""
    # The tokenizers library itself is three times as fast as its wrapper; a copy where its switches, its state, are on.
    backend = tokenizer.backend_tokenizer
    if backend.truncation is not None or backend.padding is not None:
        backend = Tokenizer.from_str(backend.to_str())
        backend.no_truncation()
        backend.no_padding()
    reserved = [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id]
    natural = tokenizer.init_kwargs.get("natural")
    for chunk in chunks_of(texts):
        chunk = [detokenize(text) for text in chunk] if natural else chunk
        rows = [encoded.ids[:max_tokens] for encoded in backend.encode_batch_fast(chunk, add_special_tokens=False)]
        tokens = np.fromiter((token for row in rows for token in row), dtype=np.int32)
        tokens[np.isin(tokens, reserved)] = tokenizer.unk_token_id
        yield Encoded(tokens, np.fromiter(map(len, rows), dtype=np.int64, count=len(rows)))


STORE_FILES: dict[str, type[np.integer]] = {"tokens.i32": np.int32, "offsets.i64": np.int64, "lengths.i32": np.int32}


@dataclass(frozen=True)
class TokenStore:
    """Sentences as token ids, end to end, without bos and eos: row i is ``tokens[offsets[i]:offsets[i + 1]]``."""

    tokens: NDArray[np.int32]
    offsets: NDArray[np.int64]
    folder: Path | None = None  # of the files that the arrays are mapped from
    _counted: NDArray[np.integer] | None = None
    _mappings: tuple[mmap.mmap, ...] = ()

    @staticmethod
    def build(texts: Iterable[str], tokenizer: PreTrainedTokenizerFast, max_tokens: int) -> TokenStore:
        """Encode *texts* (a list or a datasets column) in chunks; longer ones are cut to *max_tokens*.

        Text that spells <pad>, <bos> or <eos> cannot forge them: they become <unk>.
        """
        return TokenStore.joined(encode_chunks(texts, tokenizer, max_tokens))

    @staticmethod
    def joined(chunks: Iterable[Encoded]) -> TokenStore:
        """The store of these rows, in memory."""
        parts, lengths = [np.empty(0, dtype=np.int32)], [np.zeros(1, dtype=np.int64)]
        for chunk in chunks:
            parts.append(chunk.tokens)
            lengths.append(chunk.lengths)
        return TokenStore(np.concatenate(parts), np.concatenate(lengths).cumsum())

    @staticmethod
    def write(folder: Path, chunks: Iterable[Encoded]) -> None:
        """The same in files of an empty *folder*, a chunk in memory at a time; `open` maps them."""
        end = 0
        folder.mkdir()
        with ExitStack() as stack:
            tokens, offsets, counted = (stack.enter_context((folder / name).open("wb")) for name in STORE_FILES)
            offsets.write(np.zeros(1, dtype=np.int64).tobytes())
            for chunk in chunks:
                tokens.write(chunk.tokens.tobytes())
                offsets.write((end + chunk.lengths.cumsum()).tobytes())
                counted.write(chunk.lengths.astype(np.int32).tobytes())
                end += int(chunk.lengths.sum())

    @staticmethod
    def open(folder: Path) -> TokenStore:
        """The store of such a folder, mapped into memory. Raises OSError."""
        arrays, mappings = [], []
        for name, dtype in STORE_FILES.items():
            with (folder / name).open("rb") as file:
                if os.fstat(file.fileno()).st_size == 0:  # which cannot be mapped: no row has a token
                    arrays.append(np.empty(0, dtype=dtype))
                    continue
                mappings.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            arrays.append(np.frombuffer(mappings[-1], dtype=dtype))
        tokens, offsets, counted = arrays
        return TokenStore(tokens, offsets, folder, counted, tuple(mappings))

    def __reduce__(self) -> tuple[Callable[..., TokenStore], tuple[Any, ...]]:
        """For another process: files are mapped there again."""
        return (TokenStore, (self.tokens, self.offsets)) if self.folder is None else (TokenStore.open, (self.folder,))

    def release(self) -> None:
        """Give back the memory that reading the files has taken; the next reading takes it again."""
        for mapping in self._mappings:
            if hasattr(mmap, "MADV_DONTNEED"):
                mapping.madvise(mmap.MADV_DONTNEED)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> NDArray[np.int32]:
        """The tokens of one sentence, a view."""
        if not 0 <= row < len(self):
            raise IndexError(row)
        return self.tokens[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> NDArray[np.integer]:
        """(n,) tokens of each sentence, without bos and eos."""
        return np.diff(self.offsets) if self._counted is None else self._counted


def encode_corpus(
    splits: dict[str, Any], tokenizer: PreTrainedTokenizerFast, max_tokens: int, column: str = "text"
) -> dict[str, TokenStore]:
    """A TokenStore for each split of a DatasetDict."""
    return {split: TokenStore.build(rows[column], tokenizer, max_tokens) for split, rows in splits.items()}


def unknown_share(store: TokenStore, tokenizer: PreTrainedTokenizerFast) -> float:
    """Share of the tokens that are <unk>."""
    return float(np.mean(store.tokens == tokenizer.unk_token_id)) if len(store.tokens) else 0.0


def chunks_of(texts: Iterable[T]) -> Iterator[list[T]]:
    """The texts (or what else a column holds) a few thousand at a time."""
    if isinstance(texts, Sequence):  # a list, or a datasets column, which is quick to slice and slow to iterate
        for start in range(0, len(texts), CHUNK):
            yield list(texts[start : start + CHUNK])
        return
    chunk: list[T] = []
    for text in texts:
        chunk.append(text)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
