"""What people call the codes of a model: `codes.yaml` beside its weights, read back typed and written whole.

A code's name is the one that a person gave, else its words: a number says nothing. Codes that say the same are merged
into one, codes that say nothing hidden, and a sentence that no code fits well enough has none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from textebm.errors import RecipeError, TextEBMError, did_you_mean
from textebm.files import write_atomically
from textebm.model.latent_text_model import LatentTextModel
from textebm.recipe.yaml_text import read_yaml, write_yaml

FILE = "codes.yaml"
SHOWN_WORDS = 3  # of a code that nobody named


def shown_name(code: int, name: str, words: str = "") -> str:
    """``2 · novel memoir book`` of a code that is called by its number, and by *words* where its name has none; else
    the name."""
    number, _, own = name.partition(" ")
    words = own or words
    return f"{code} · {words}" if number == str(code) and words else name


class CodebookError(TextEBMError):
    """A codes.yaml that cannot be used, or a code that does not exist."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HeadBook(_Strict):
    """One head's codes 0 … K − 1. words: what each stands for, the first ones its default name; names, notes: what
    people say of some; merged: codes that are another's part; hidden: codes that are shown nowhere; threshold: a
    sentence whose best code is less probable has none."""

    words: tuple[tuple[str, ...], ...] = Field(min_length=1)
    names: dict[int, str] = {}
    merged: dict[int, int] = {}
    hidden: tuple[int, ...] = ()
    notes: dict[int, str] = {}
    threshold: float | None = Field(None, ge=0, lt=1)

    @model_validator(mode="after")
    def _hangs_together(self) -> HeadBook:
        known = range(len(self.words))
        for what, codes in (
            ("names", self.names),
            ("notes", self.notes),
            ("hidden", self.hidden),
            ("merged", [*self.merged, *self.merged.values()]),
        ):
            if wrong := [code for code in codes if code not in known]:
                raise ValueError(f"{what}: there is no code {wrong[0]}; the head has 0 to {len(self.words) - 1}")
        if both := [into for into in self.merged.values() if into in self.merged]:
            raise ValueError(f"merged: code {both[0]} is itself merged into {self.merged[both[0]]}")
        if empty := [code for code, name in self.names.items() if not name.strip()]:
            raise ValueError(f"names: code {empty[0]} has an empty name; leave it out instead")
        for code in self.shown:
            if (other := self._owner(self.names.get(code, ""), but=code)) is not None:
                raise ValueError(f"names: codes {other} and {code} are both called {self.names[code]!r}; merge them")
        return self

    # -- what is there -------------------------------------------------------------------------------------------

    @property
    def shown(self) -> tuple[int, ...]:
        """The codes that are neither part of another nor hidden."""
        return tuple(k for k in range(len(self.words)) if k not in self.merged and k not in self.hidden)

    def name(self, code: int) -> str:
        """What *code* is called, that of its whole where it is merged; "none of these" for −1."""
        if code < 0:
            return "none of these"
        code = self.merged.get(code, code)
        return self.names.get(code) or " ".join((str(code), *self.words[code][:SHOWN_WORDS]))

    def members(self, code: int) -> tuple[int, ...]:
        """*code* and those that are merged into it."""
        return (code, *sorted(part for part, into in self.merged.items() if into == code))

    def code(self, asked: str | int) -> int:
        """The code of a name, a number, or a default name; of a merged one its whole. Raises CodebookError."""
        number = self.number(asked)
        return self.merged.get(number, number)

    def number(self, asked: str | int) -> int:
        """The same, but a merged code by itself."""
        text = str(asked).strip()
        if text.lstrip("-").isdigit():
            if 0 <= int(text) < len(self.words):
                return int(text)
            raise CodebookError(f"there is no code {text}; there are 0 to {len(self.words) - 1}")
        found = self._owner(text, among=range(len(self.words)))
        if found is None:
            raise CodebookError(f"no code is called {text!r}{did_you_mean(text, map(self.name, self.shown))}")
        return found

    def _owner(self, name: str, but: int = -1, among: Iterable[int] | None = None) -> int | None:
        wanted, codes = name.casefold(), self.shown if among is None else among
        codes = [code for code in codes if code not in self.merged and code != but]
        return next((code for code in codes if wanted and self.name(code).casefold() == wanted), None)

    def read(self, probabilities: ArrayLike) -> NDArray[np.int64]:
        """The code of each text, (n,), from p(code|z) (n, K): merged codes add up, hidden ones and what stays below
        the threshold are −1."""
        p, _ = self.gather(probabilities)
        best = p.argmax(1)
        codes = np.where(p[np.arange(len(p)), best] >= (self.threshold or 0.0), best, -1)
        codes[np.isin(codes, self.hidden)] = -1
        return codes.astype(np.int64)

    def gather(self, probabilities: ArrayLike) -> tuple[NDArray[np.float64], tuple[int, ...]]:
        """p(code|z) (n, K) with each merged code's part added to its whole and 0 left behind, and the shown codes."""
        p = np.asarray(probabilities).astype(np.float64)
        if p.ndim != 2 or p.shape[1] != len(self.words):
            raise ValueError(f"expected probabilities of shape (n, {len(self.words)}), got {p.shape}")
        for part, into in self.merged.items():
            p[:, into] += p[:, part]
            p[:, part] = 0.0
        return p, self.shown

    def index_names(self) -> tuple[str, ...]:
        """A name for each code 0 … K − 1, all different: merged and hidden ones say so."""
        named = [self.name(code) for code in range(len(self.words))]
        for code in range(len(self.words)):
            if code in self.merged:
                named[code] = f"{named[code]} ({code})"
            elif code in self.hidden:
                named[code] = f"{named[code]} (hidden)"
        return tuple(named)

    # -- changes: each gives a new book ----------------------------------------------------------------------------

    def describe(self, words: Sequence[Sequence[str]]) -> HeadBook:
        """The same with other words."""
        return self._with(words=tuple(tuple(own) for own in words))

    def rename(self, code: int, name: str, note: str | None = None) -> HeadBook:
        """Call *code* by *name*; "" gives it back its words."""
        text = " ".join(name.split())
        names = {**{k: v for k, v in self.names.items() if k != code}, **({code: text} if text else {})}
        notes = self.notes if note is None else {**self.notes, code: note}
        return self._with(names=names, notes=notes)

    def merge(self, into: int, parts: Iterable[int]) -> HeadBook:
        """Make *parts*, with all that was merged into them, parts of *into*."""
        merged = dict(self.merged)
        for part in parts:
            if part == into:
                raise CodebookError(f"code {part} cannot be merged into itself")
            merged.update({member: into for member in self.members(part)})
        merged.pop(into, None)
        kept = {code: name for code, name in self.names.items() if code not in merged}
        return self._with(merged=merged, names=kept, hidden=tuple(k for k in self.hidden if k not in merged))

    def split(self, code: int) -> HeadBook:
        """Take apart what was merged into *code*."""
        return self._with(merged={part: into for part, into in self.merged.items() if into != code})

    def hide(self, codes: Iterable[int], hidden: bool = True) -> HeadBook:
        """Show *codes* nowhere; hidden=False shows them again."""
        chosen = set(self.hidden) | set(codes) if hidden else set(self.hidden) - set(codes)
        return self._with(hidden=tuple(sorted(chosen)))

    def with_threshold(self, threshold: float | None) -> HeadBook:
        return self._with(threshold=threshold)

    def carry(self, partner: Sequence[int], old: HeadBook) -> HeadBook:
        """This book with the names, notes, merges and hidden codes of an *old* one; partner[k]: this book's code for
        the old code k, −1 for none (`evaluation.code_scores.stability`)."""
        place = {code: new for code, new in enumerate(partner) if new >= 0}
        return self._with(
            names={place[code]: name for code, name in old.names.items() if code in place},
            notes={place[code]: note for code, note in old.notes.items() if code in place},
            merged={place[a]: place[b] for a, b in old.merged.items() if a in place and b in place},
            hidden=tuple(sorted(place[code] for code in old.hidden if code in place)),
        )

    def _with(self, **changes: Any) -> HeadBook:
        try:
            return HeadBook.model_validate({**self.model_dump(), **changes})
        except ValidationError as error:
            raise CodebookError(_told(error)) from None


class Codebook(_Strict):
    """The books of a model's heads by name."""

    format: Literal["textebm-codes"] = "textebm-codes"
    version: Literal[1] = 1
    heads: dict[str, HeadBook] = {}

    def head(self, name: str) -> HeadBook:
        if name not in self.heads:
            known = did_you_mean(name, self.heads) if self.heads else "; no head has any"
            raise CodebookError(f"no codes are described for head {name!r}{known}")
        return self.heads[name]

    def labels(self, name: str, probabilities: ArrayLike) -> list[str] | None:
        """What the code of each text is called, from p(code|z) (n, K); None for a head without a book."""
        book = self.heads.get(name)
        return None if book is None else [book.name(code) for code in book.read(probabilities).tolist()]

    def replace(self, name: str, book: HeadBook) -> Codebook:
        return Codebook(heads={**self.heads, name: book})


def load_codebook(directory: Path) -> Codebook | None:
    """The codebook in *directory*; None where there is none. Raises CodebookError naming what cannot be taken."""
    path = Path(directory) / FILE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise CodebookError(f"{path}: cannot be read: {error}") from None
    try:
        reading = read_yaml(text, str(path))
        if reading.problems:
            raise CodebookError("\n".join(reading.problems))
        return Codebook.model_validate(_keys_as_numbers(reading.data))
    except RecipeError as error:
        raise CodebookError(str(error).replace("a recipe is", "it is")) from None
    except ValidationError as error:
        raise CodebookError(f"{path}: {_told(error)}") from None


def save_codebook(book: Codebook, directory: Path) -> None:
    """Write *book* into *directory*, whole or not at all. Raises FileError."""
    heads = {}
    for name, head in book.heads.items():
        kept: dict[str, Any] = {}
        for option in ("names", "merged", "notes"):
            if value := getattr(head, option):
                kept[option] = {str(code): value[code] for code in sorted(value)}
        if head.hidden:
            kept["hidden"] = list(head.hidden)
        if head.threshold is not None:
            kept["threshold"] = head.threshold
        kept["words"] = {str(code): " ".join(words) for code, words in enumerate(head.words)}
        heads[name] = kept
    data = {"format": book.format, "version": book.version, "heads": heads}
    write_atomically(Path(directory) / FILE, write_yaml(data))


def name_codes(model: LatentTextModel, book: Codebook | None) -> None:
    """Let the classes of *model*'s found heads be called as *book* says, wherever they are asked for or shown. A head
    whose number of codes is another is left alone: the book is of another model."""
    for name, own in (book.heads if book else {}).items():
        head = model.heads.get(name)
        if head is not None and head.column is None and len(head.classes) == len(own.words):
            model.heads[name] = replace(head, classes=own.index_names())


def _keys_as_numbers(data: Any) -> Any:
    """The file's words are lines of text by their code; its codes may be written as numbers or as text."""
    if not isinstance(data, Mapping) or not isinstance(data.get("heads"), Mapping):
        return data
    heads = {}
    for name, head in data["heads"].items():
        head = dict(head) if isinstance(head, Mapping) else head
        words = head.get("words") if isinstance(head, dict) else None
        if isinstance(words, Mapping):
            rows = [str(words.get(str(k), words.get(k, ""))).split() for k in range(len(words))]
            head["words"] = rows
        heads[str(name)] = head
    return {**data, "heads": heads}


def _told(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else str(first["msg"]).removeprefix("Value error, ")


# -- none of these, and a tree -------------------------------------------------------------------------------------


def threshold_for(confidence: ArrayLike, right: ArrayLike, precision: float) -> tuple[float, float, float]:
    """The least threshold at which the texts that keep their code are right in *precision* of cases: (threshold, the
    precision there, the share of texts that get none). confidence (n,): p of each text's best code; right (n,) bool.

    Raises TextEBMError where no threshold reaches it.
    """
    p, correct = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=bool)
    order = np.argsort(-p, kind="stable")
    kept = np.arange(1, len(p) + 1)
    reached = np.cumsum(correct[order]) / kept
    whole = np.append(p[order][1:] < p[order][:-1], True)  # equal confidences are kept or dropped together
    possible = np.flatnonzero((reached >= precision) & whole)
    if not len(possible):
        most = f"{reached[whole].max():.2f}" if len(p) else "nothing"
        raise TextEBMError(f"no threshold reaches a precision of {precision:g}: the highest is {most}")
    last = int(possible[-1])
    threshold = 0.0 if last == len(p) - 1 else float(p[order][last])
    return threshold, float(reached[last]), 1.0 - (last + 1) / len(p)


def code_levels(counts: Sequence[Mapping[str, int]], groups: int) -> list[int]:
    """Codes gathered into *groups* by what words they use: the group of each, numbered by its first code.

    Average linkage (Sokal & Michener 1958) on the Jensen-Shannon distance of their word distributions, cut where so
    many groups are left. counts: how often each code's texts use a word.
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    if groups >= len(counts):
        return list(range(len(counts)))
    places = {word: place for place, word in enumerate(sorted({word for own in counts for word in own}))}
    p = np.full((len(counts), len(places)), 1e-12)
    for row, own in enumerate(counts):
        for word, count in own.items():
            p[row, places[word]] += count
    p /= p.sum(1, keepdims=True)
    divergence = np.stack([(row * np.log(2 * row / (row + p))).sum(1) for row in p])
    distance = np.sqrt(np.maximum((divergence + divergence.T) / 2, 0))
    np.fill_diagonal(distance, 0)
    found = fcluster(linkage(squareform(distance, checks=False), "average"), groups, "maxclust")
    numbers: dict[int, int] = {}
    return [numbers.setdefault(int(group), len(numbers)) for group in found]
