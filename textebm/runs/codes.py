"""The codebook of a run: made from what the codes' sentences say, changed by people, carried to a retrained model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from textebm.api import TextEBM
from textebm.errors import CorpusError, TextEBMError, did_you_mean
from textebm.evaluation.code_scores import names_from_words, stability
from textebm.inspection.rows import Rows, choose_rows
from textebm.runs.lock import RunLock
from textebm.runs.report import open_run
from textebm.text.words import content_words
from textebm.use.codebook import Codebook, HeadBook, code_levels, load_codebook, save_codebook, threshold_for

if TYPE_CHECKING:
    from datasets import DatasetDict

SENTENCES = 10_000  # from which a code gets its words


@dataclass(frozen=True)
class Carried:
    """A code of the old model, its name, the new model's code that has most of its texts, and overlap: the texts that
    both have over those that either has, 0 for none."""

    old: int
    name: str
    new: int
    overlap: float


@dataclass(frozen=True)
class Threshold:
    """Below it a sentence has no code. precision: how often a kept sentence's code is right on the validation split;
    none: the share of validation sentences without one."""

    threshold: float
    precision: float
    none: float


def describe_codes(model: TextEBM, corpus: DatasetDict, book: Codebook | None = None, *, seed: int = 0) -> Codebook:
    """Every head's words from the training sentences that it gives each code; what people said in *book* stays, and
    classes that labels or seeds named keep their names."""
    texts = _rows(corpus, "train", seed).texts
    heads = dict(book.heads) if book else {}
    codes = model.encode(texts).codes
    for head in model.heads.values():
        found = names_from_words(texts, codes[head.name].numpy(), len(head.classes))
        words = tuple(tuple(own) for own in found)
        old = heads.get(head.name)
        if old is not None and len(old.words) == len(words):
            heads[head.name] = old.describe(words)
        else:
            named = {k: name for k, name in enumerate(head.classes) if name != str(k)}
            heads[head.name] = HeadBook(words=words, names=named)
    return Codebook(heads=heads)


def codebook_of_run(directory: Path, *, data_dir: str | Path | None = None, seed: int = 0) -> Codebook:
    """The run's codebook; one is made of its training sentences where there is none. Raises TextEBMError subclasses."""
    book = load_codebook(directory)
    if book is None:
        model, corpus = open_run(directory, data_dir)
        book = describe_codes(model, corpus, seed=seed)
    return book


def change_codes(
    directory: str | Path,
    head: str | None,
    change: Callable[[HeadBook], HeadBook],
    *,
    data_dir: str | Path | None = None,
) -> HeadBook:
    """Write *change* of one head's book into the run, and return it. head: the first with codes that were found unless
    given. Raises TextEBMError subclasses; the run is then as it was."""
    directory = Path(directory)
    with RunLock(directory):
        book = codebook_of_run(directory, data_dir=data_dir)
        name = head_of(book, head)
        new = change(book.head(name))
        save_codebook(book.replace(name, new), directory)
    return new


def head_of(book: Codebook, head: str | None) -> str:
    """*head*, or the first that has no names of its own, as found codes have none. Raises CodebookError."""
    if head is not None:
        book.head(head)
        return head
    if not book.heads:
        raise TextEBMError("this model has no symbol heads, and so no codes")
    found = (name for name, each in book.heads.items() if len(each.names) < len(each.words))
    return next(found, next(iter(book.heads)))


def set_threshold(
    directory: str | Path, head: str | None, precision: float, *, data_dir: str | Path | None = None, seed: int = 0
) -> Threshold:
    """Choose on the validation split how probable a sentence's best code must be, and write it into the run.

    A label is right where it is the one given; a found code where a draw of q(z|x) has it, too.
    Raises TextEBMError where no threshold reaches the precision.
    """
    directory = Path(directory)
    model, corpus = open_run(directory, data_dir)
    with RunLock(directory):
        book = load_codebook(directory) or describe_codes(model, corpus, seed=seed)
        name = head_of(book, head)
        rows = _rows(corpus, "validation", seed)
        texts = rows.texts
        encoding, own = model.encode(texts), book.head(name)
        p, _ = own.gather(encoding.probabilities[name].numpy())
        codes = p.argmax(1)
        column = model.heads[name].column
        if column is None:
            drawn, _ = own.gather(model.symbol_probabilities(model.posterior_draws(texts, seed=seed))[name].numpy())
            right, known = drawn.argmax(1) == codes, np.ones(len(texts), dtype=bool)
        else:
            labels = rows.labels[column].values
            right, known = labels == codes, labels >= 0
        found = Threshold(*threshold_for(p.max(1)[known], right[known], precision))
        save_codebook(book.replace(name, own.with_threshold(found.threshold)), directory)
    return found


def carry_codes(
    old: str | Path,
    new: str | Path,
    head: str | None = None,
    *,
    least: float = 0.0,
    data_dir: str | Path | None = None,
    seed: int = 0,
) -> list[Carried]:
    """Give the codes of run *new* the names, notes, merges and hidden codes of run *old*, matched by the validation
    sentences of *new* that both codings share; pairs of less overlap than *least* are left alone."""
    old, new = Path(old), Path(new)
    before = codebook_of_run(old, data_dir=data_dir, seed=seed)
    name = head_of(before, head)
    own = before.head(name)
    (first, _), (second, corpus) = open_run(old, data_dir), open_run(new, data_dir)
    if name not in second.heads:
        raise TextEBMError(f"{new} has no head {name!r}{did_you_mean(name, second.heads)}")
    texts = _rows(corpus, "validation", seed).texts
    a, b = (model.encode(texts).codes[name].numpy() for model in (first, second))
    count = max(len(own.words), len(second.heads[name].classes))
    match = stability(a, b, count)
    partner = [place if share >= least else -1 for place, share in zip(match.partner, match.overlap, strict=True)][
        : len(own.words)
    ]
    with RunLock(new):
        book = load_codebook(new) or describe_codes(second, corpus, seed=seed)
        save_codebook(book.replace(name, book.head(name).carry(partner, own)), new)
    return [
        Carried(code, own.name(code), place, match.overlap[code] if place >= 0 else 0.0)
        for code, place in enumerate(partner)
    ]


def levels_of_run(
    directory: str | Path, groups: int, head: str | None = None, *, data_dir: str | Path | None = None, seed: int = 0
) -> list[list[int]]:
    """A head's shown codes gathered into *groups* by their words (`use.codebook.code_levels`), the largest first."""
    directory = Path(directory)
    model, corpus = open_run(directory, data_dir)
    book = load_codebook(directory) or describe_codes(model, corpus, seed=seed)
    name = head_of(book, head)
    own, texts = book.head(name), _rows(corpus, "train", seed).texts
    codes = own.read(model.encode(texts).probabilities[name].numpy())
    shown = [code for code in own.shown if (codes == code).any()]
    counts: list[Counter[str]] = [Counter() for _ in shown]
    for text, code in zip(texts, codes.tolist(), strict=True):
        if code in shown:
            counts[shown.index(code)].update(content_words(text))
    found = code_levels(counts, groups)
    gathered = [[code for code, group in zip(shown, found, strict=True) if group == each] for each in set(found)]
    return sorted(gathered, key=lambda group: -int(np.isin(codes, group).sum()))


def _rows(corpus: DatasetDict, split: str, seed: int) -> Rows:
    """At most SENTENCES of a split, a seeded choice in their order."""
    if split not in corpus:
        raise CorpusError(f"the corpus has no split {split!r}{did_you_mean(split, list(corpus))}")
    return choose_rows(corpus[split], limit=SENTENCES, seed=seed)
