"""What each code of a head stands for: its words, its sentences, its labels, its neighbours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from textebm.errors import TextEBMError, did_you_mean
from textebm.evaluation.words import Word, top_words
from textebm.inspection.rows import LabelColumn, Rows, choose_rows
from textebm.use.attribution import attribute, usual_method

if TYPE_CHECKING:
    from datasets import Dataset

    from textebm.api import TextEBM
    from textebm.use.reading import Encoding

NEIGHBOURS = 3
EXPLAINED = 100  # sentences of a head that are explained word by word
DUPLICATE_COSINE, DUPLICATE_WORDS = 0.9, 0.5
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # and their wide forms


@dataclass(frozen=True)
class Typical:
    """A sentence and p(code|z) at its posterior mean. words, parts: what each word adds to log p(code|z), nats
    (`use.attribution`), where that was asked."""

    text: str
    probability: float
    words: tuple[str, ...] = ()
    parts: tuple[float, ...] = ()


@dataclass(frozen=True)
class LabelShare:
    """Of a code's labelled sentences, *share* have the class *name* of the column *label*: *lift* times as many as in
    the whole split."""

    label: str
    name: str
    count: int
    share: float
    lift: float


@dataclass(frozen=True)
class Neighbour:
    """Another code, and the cosine between the two centroids, seen from the mean of all sentences."""

    name: str
    cosine: float


@dataclass(frozen=True)
class CodeCard:
    """One code of one head. confidence: mean p(code|z) of its sentences, None where it has none. duplicates: codes
    with nearly the same place and the same words."""

    head: str
    code: int
    name: str
    size: int
    share: float
    confidence: float | None
    words: tuple[Word, ...]
    typical: tuple[Typical, ...]
    generated: tuple[str, ...]
    labels: tuple[LabelShare, ...]
    nearest: tuple[Neighbour, ...]
    duplicates: tuple[str, ...]

    @property
    def unused(self) -> bool:
        return self.size == 0


def inspect_codes(
    model: TextEBM,
    dataset: Dataset | Rows,
    head: str,
    *,
    generated: int = 5,
    typical: int = 5,
    seed: int = 0,
    encoding: Encoding | None = None,
) -> list[CodeCard]:
    """A card for each code (or class) of *head*, in the head's order, from the sentences of *dataset*.

    generated: sentences to write for each code. typical: sentences of highest p(code|z) to show. encoding: what
    ``model.encode`` gave for these rows, if it is there already. Raises TextEBMError for an unknown head.
    """
    if head not in model.heads:
        known = did_you_mean(head, model.heads) if model.heads else "; this model has none"
        raise TextEBMError(f"unknown head {head!r}{known}")
    rows = dataset if isinstance(dataset, Rows) else choose_rows(dataset)
    classes = model.heads[head].classes
    encoding = model.encode(rows.texts) if encoding is None else encoding
    probabilities, codes = encoding.probabilities[head].numpy(), encoding.codes[head].numpy()
    written = write_for_codes(model, head, generated, seed)
    members = [np.flatnonzero(codes == code) for code in range(len(classes))]
    words = top_words([[rows.texts[i] for i in rows_of] for rows_of in members])
    cosines = centroid_cosines(encoding.mean.numpy(), members)
    cards = []
    for code, (name, own) in enumerate(zip(classes, members, strict=True)):
        confidence = probabilities[own, code]
        order = own[np.argsort(-confidence, kind="stable")]
        near = [other for other in np.argsort(-cosines[code], kind="stable").tolist() if cosines[code, other] > -2]
        twins = [
            classes[other]
            for other in near
            if cosines[code, other] >= DUPLICATE_COSINE and _overlap(words[code], words[other]) >= DUPLICATE_WORDS
        ]
        cards.append(
            CodeCard(
                head=head,
                code=code,
                name=name,
                size=len(own),
                share=len(own) / len(rows),
                confidence=float(confidence.mean()) if len(own) else None,
                words=words[code],
                typical=_distinct(((rows.texts[i], float(probabilities[i, code])) for i in order), typical),
                generated=tuple(written[code]),
                labels=label_shares(rows.labels, own),
                nearest=tuple(Neighbour(classes[o], float(cosines[code, o])) for o in near[:NEIGHBOURS]),
                duplicates=tuple(twins),
            )
        )
    return cards


def explain_cards(model: TextEBM, cards: Sequence[CodeCard], most: int = EXPLAINED) -> list[CodeCard]:
    """The cards, whose typical sentences say what each word adds to log p(code|z); at most *most* sentences in all."""
    each = max(1, most // max(1, len(cards)))
    chosen = [(card, text) for card in cards for text in card.typical[:each]]
    head, classes = cards[0].head, [card.code for card, _ in chosen]
    network, texts = model.network, [text.text for _, text in chosen]
    found = iter(attribute(network, texts, head, method=usual_method(network), classes=classes))
    explained = []
    for card in cards:
        why = [next(found) for _ in card.typical[:each]]
        own = [replace(text, words=w.words, parts=w.parts) for text, w in zip(card.typical, why, strict=False)]
        explained.append(replace(card, typical=(*own, *card.typical[each:])))
    return explained


def write_for_codes(model: TextEBM, head: str, n: int, seed: int) -> list[list[str]]:
    """n sentences for each class of *head*, by one call of the sampler."""
    count = len(model.heads[head].classes)
    asked = [code for code in range(count) for _ in range(n)]
    texts = model.generate(len(asked), symbols={head: asked}, seed=seed) if asked else []
    return [texts[code * n : (code + 1) * n] for code in range(count)]


def centroid_cosines(mean: NDArray[np.floating[Any]], members: Sequence[NDArray[np.integer[Any]]]) -> NDArray[Any]:
    """Cosines between the classes' centroids about the mean of all rows, (K, K); -inf for a class and itself and for
    empty classes. mean (n, d)"""
    middle = mean.mean(0)
    centroids = np.stack([mean[own].mean(0) - middle if len(own) else np.zeros_like(middle) for own in members])
    norms = np.linalg.norm(centroids, axis=1)
    units = centroids / np.maximum(norms, 1e-12)[:, None]
    cosines = np.clip(units @ units.T, -1.0, 1.0).astype(np.float64)
    empty = np.array([len(own) == 0 for own in members])
    cosines[empty] = cosines[:, empty] = -np.inf
    np.fill_diagonal(cosines, -np.inf)
    return cosines


def label_shares(labels: Mapping[str, LabelColumn], own: NDArray[np.integer[Any]]) -> tuple[LabelShare, ...]:
    """For each label column the classes that the rows *own* have, most frequent first."""
    found = []
    for label, column in labels.items():
        all_counts = label_counts(column)
        counts = label_counts(column, own)
        known, everybody = int(counts.sum()), int(all_counts.sum())
        for value in np.argsort(-counts, kind="stable").tolist():
            if counts[value]:
                share = counts[value] / known
                lift = share / (all_counts[value] / everybody)
                found.append(LabelShare(label, column.classes[value], int(counts[value]), float(share), float(lift)))
    return tuple(found)


def label_counts(column: LabelColumn, own: NDArray[np.integer[Any]] | None = None) -> NDArray[np.int64]:
    """How many rows (of *own*, if given) have each class; missing labels count nowhere."""
    values = column.values if own is None else column.values[own]
    return np.bincount(values[values >= 0], minlength=len(column.classes)).astype(np.int64)


def _distinct(pairs: Iterable[tuple[str, float]], n: int) -> tuple[Typical, ...]:
    """The first n pairs whose sentences differ."""
    found: dict[str, float] = {}
    for text, probability in pairs:
        if len(found) >= n:
            break
        found.setdefault(text, probability)
    return tuple(Typical(text, probability) for text, probability in found.items())


def _overlap(a: Sequence[Word], b: Sequence[Word]) -> float:
    """Shared words over all words of two lists (Jaccard)."""
    first, second = {word.text for word in a}, {word.text for word in b}
    return len(first & second) / max(1, len(first | second))


# -- as a table ----------------------------------------------------------------------------------------------------


def to_rows(cards: Sequence[CodeCard]) -> list[dict[str, str | int | float | None]]:
    """Flat records, one a card, with the same columns in each: what a data frame or a CSV file wants."""
    labels = list(dict.fromkeys(share.label for card in cards for share in card.labels))
    rows = []
    for card in cards:
        row: dict[str, str | int | float | None] = {
            "head": card.head,
            "code": card.name,
            "size": card.size,
            "share": card.share,
            "confidence": card.confidence,
            "unused": int(card.unused),
            "duplicates": " ".join(card.duplicates),
            "words": " ".join(word.text for word in card.words),
        }
        for label in labels:
            best = next((share for share in card.labels if share.label == label), None)
            row[f"{label}"] = best.name if best else None
            row[f"{label} share"] = best.share if best else None
            row[f"{label} lift"] = best.lift if best else None
        row["nearest"] = " ".join(near.name for near in card.nearest)
        row["typical"] = " | ".join(each.text for each in card.typical)
        row["generated"] = " | ".join(card.generated)
        rows.append(row)
    return rows


def spreadsheet_safe(value: object) -> object:
    """A cell that no spreadsheet takes for a formula: text that begins like one gets an apostrophe before it."""
    if isinstance(value, str) and value.lstrip(" ").startswith(_FORMULA):
        return f"'{value}"
    return value
