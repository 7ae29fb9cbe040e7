"""A split of a corpus as the arrays that training reads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset
from datasets.table import MemoryMappedTable
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from textebm.errors import CorpusError
from textebm.objective.semi_supervised import bag_of_tokens, estimate_labels
from textebm.recipe.schema import Head
from textebm.text.cache import cache_root, cached_as
from textebm.text.finding import Finding
from textebm.text.history import COLUMN, encode_histories
from textebm.text.shuffle import LARGE
from textebm.text.tokenizer import CHUNK, Encoded, TokenStore, encode_chunks, unknown_share


@dataclass(frozen=True)
class Split:
    """Sentences as token ids, and for each label column the class of each sentence, (n,), −1 where missing.
    contexts: the turns before each sentence, for a model that reads them. features: what each head's codes are found
    in, (n, k), or the classes that its seeds gave, (n,), by the head's name (`training.features`)."""

    store: TokenStore
    labels: dict[str, NDArray[np.integer]]
    contexts: TokenStore | None = None
    features: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.store)


def read_split(
    rows: Dataset,
    tokenizer: PreTrainedTokenizerFast,
    max_tokens: int,
    *,
    context_turns: int = 0,
    context_tokens: int = 0,
    large: int = LARGE,
) -> Split:
    """Encode a split. Sentences that are empty after tokenising are kept: they are an end of sentence alone.

    context_turns: how many of the turns before each sentence to encode, at most context_tokens tokens of them.
    large: the token ids of more sentences than that are kept in the cache, mapped into memory.
    """
    labels: dict[str, NDArray[np.integer]] = {
        name: np.fromiter(_column(rows, name), dtype=np.int16 if feature.num_classes < 2**15 else np.int32)
        for name, feature in rows.features.items()
        if isinstance(feature, ClassLabel)
    }

    def store(name: str, encoded: Callable[[], Iterable[Encoded]], options: list[int]) -> TokenStore:
        files = rows.cache_files  # none: a data set that lives in memory
        if len(rows) <= large or not files:
            return TokenStore.joined(encoded())
        spelling = [tokenizer.backend_tokenizer.to_str(), tokenizer.init_kwargs.get("natural", False)]
        key = [[file["filename"] for file in files], rows._fingerprint, spelling, options]
        return cached_as(
            name,
            key,
            lambda folder: TokenStore.write(folder / name, encoded()),
            cache_root(),
            lambda folder: TokenStore.open(folder / name),
            ("tokenizer", "history"),
        )

    contexts = None
    if context_turns:
        contexts = store(
            "contexts",
            lambda: encode_histories(_column(rows, COLUMN), tokenizer, turns=context_turns, max_tokens=context_tokens),
            [context_turns, context_tokens],
        )
    tokens = store("tokens", lambda: encode_chunks(_column(rows, "text"), tokenizer, max_tokens), [max_tokens])
    return Split(tokens, labels, contexts)


def _column(rows: Dataset, name: str) -> Iterator[Any]:
    """A column's values, a few thousand in memory."""
    table = rows.data
    if isinstance(table, MemoryMappedTable) and not table.replays and rows._indices is None:
        with pa.OSFile(table.path) as file:  # read, not mapped: what was mapped once counts as ours until the end
            for record in pa.ipc.open_stream(file):
                yield from record.column(name).to_pylist()
        return
    for batch in rows.select_columns([name]).iter(batch_size=CHUNK):
        yield from batch[name]


def words_of(rows: Dataset, context_turns: int = 0) -> Iterator[str]:
    """The texts that a tokenizer is made from: the sentences, and what each one answers if contexts are read."""
    yield from _column(rows, "text")
    if context_turns:
        yield from (history[-1] for history in _column(rows, COLUMN) if history)


def label_names(rows: Dataset) -> dict[str, list[str]]:
    """The classes of each label column."""
    return {name: feature.names for name, feature in rows.features.items() if isinstance(feature, ClassLabel)}


def shown_rows(labels: NDArray[np.integer], limit: int, seed: int) -> NDArray[np.int64]:
    """The rows whose label a head with `label_limit` sees, a seeded choice among those that have one. labels (n,)"""
    return np.random.default_rng(seed).permutation(np.flatnonzero(labels >= 0))[:limit]


def corpus_digest(corpus: Mapping[str, Dataset]) -> dict[str, dict[str, Any]]:
    """Of each split its number of rows and a hash of texts, turns and labels, in their order: what a run was trained
    and measured on."""
    digests = {}
    for split, rows in corpus.items():
        names = sorted(rows.column_names)
        digest = hashlib.sha256(json.dumps([names, label_names(rows)]).encode())
        for values in zip(*(_column(rows, name) for name in names), strict=True):
            digest.update(json.dumps(values, ensure_ascii=False).encode("utf-8", "surrogatepass"))
        digests[split] = {"rows": len(rows), "sha256": digest.hexdigest()}
    return digests


def check_corpus(recorded: Mapping[str, Any], corpus: Mapping[str, Dataset], run: str) -> None:
    """Raises CorpusError where *corpus* is not the one whose `corpus_digest` a run recorded."""
    changed = []
    for split, now in corpus_digest(corpus).items():
        then = recorded.get(split)
        if then != now:
            rows = then.get("rows", "?") if isinstance(then, Mapping) else "no"
            changed.append(f"{split} had {rows} rows, now {now['rows']}" if rows != now["rows"] else f"{split} differs")
    if changed:
        raise CorpusError(
            f"the corpus is not the one of {run} ({'; '.join(changed)}): what was training text may now be test text. "
            "Bring the old files back, or train a new run"
        )


def split_findings(
    corpus: Mapping[str, Dataset], splits: Mapping[str, Split], tokenizer: PreTrainedTokenizerFast, max_tokens: int
) -> list[Finding]:
    """What of the text is lost on the way to tokens: unknown words and cut ends."""
    findings = []
    for name, split in splits.items():
        unknown = unknown_share(split.store, tokenizer)
        if name != "train" and unknown > 0.05:
            findings.append(
                Finding(
                    "unknown_words",
                    f"{unknown:.0%} of the {name} words are unknown",
                    "tokenizer.kind=bpe",
                    "which can spell every word",
                )
            )
    train = splits["train"]
    full = np.flatnonzero(train.store.lengths >= max_tokens)
    if len(full) > 0.02 * len(train):  # those of just that length are not cut: count some
        some = full[np.random.default_rng(0).permutation(len(full))[:1000]]
        uncut = TokenStore.build(corpus["train"].select(np.sort(some))["text"], tokenizer, max_tokens + 1)
        share = len(full) / len(train) * float(np.mean(uncut.lengths > max_tokens))
        if share > 0.02:
            findings.append(
                Finding(
                    "cut_texts",
                    f"{share:.0%} of the training texts are cut to {max_tokens} tokens",
                    "raise data.max_tokens, or write one sentence or paragraph a row",
                    "the model neither reads nor writes what is cut",
                )
            )
    return findings


def known_labels(split: Split, heads: Mapping[str, Head], seed: int) -> dict[str, NDArray[np.integer]]:
    """What each supervised head may see: its column, with all but `label_limit` labels hidden (−1), chosen by seed;
    or estimated from the others and the texts, where it says `estimate_labels`."""
    known = {}
    for name, head in heads.items():
        if head.labels is None:
            continue
        labels = split.labels[head.labels]
        if head.label_limit is not None:
            shown, all_labels = shown_rows(labels, head.label_limit, seed), labels
            labels = np.full_like(all_labels, -1)
            labels[shown] = all_labels[shown]
        if head.estimate_labels:
            counts = bag_of_tokens(split.store.tokens, split.store.offsets)
            labels = estimate_labels(counts, labels, int(split.labels[head.labels].max(initial=0)) + 1)
        known[name] = labels
    return known
