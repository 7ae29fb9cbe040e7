"""What the model does, shown: classes asked for, compositions, strengths, walks, edits, and the diffusion itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from textebm.inspection.rows import Rows
from textebm.model.latent_text_model import SymbolHead
from textebm.text.words import share_changed, word_changes, words_of

if TYPE_CHECKING:
    from textebm.api import TextEBM

STRENGTHS = (0.0, 1.0, 2.0, 4.0, 8.0)
SENTENCES_PER_STRENGTH = 60
MAX_CELLS, PER_CELL = 40, 2
WALKS, WALK_STEPS = 3, 7
EDITED, EDIT_LEVELS = 4, 5
DIFFUSED = 5
PER_ATTRIBUTE = 4
TWIN_HEADS, TWINS, SHOWN_TWINS = 3, 40, 4
LAYERED, PER_LAYER, LAYER_SENTENCES = 3, 3, 40


@dataclass(frozen=True)
class Strength:
    """Of n sentences generated at this strength, the share that the model's own classifier gives the class asked."""

    strength: float
    agreement: float
    n: int


@dataclass(frozen=True)
class Cell:
    """Sentences generated under two classes at once; agreement: the share that is found to have both."""

    first: str
    second: str
    texts: tuple[str, ...]
    agreement: float


@dataclass(frozen=True)
class Composition:
    """All pairs of classes of two heads, row by row."""

    heads: tuple[str, str]
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Edit:
    """A sentence rewritten towards *target* at several levels; found: the class that each rewriting is given."""

    text: str
    head: str
    source: str
    target: str
    levels: tuple[int | None, ...]
    texts: tuple[str, ...]
    found: tuple[str, ...]


@dataclass(frozen=True)
class Twins:
    """n pairs of sentences from the same noise, asked to be *first* and *second* of *head*: what that changes.

    changed: the share of words that differ; read: of the pairs of which both are read as asked; kept: of those that are
    read alike by another head. The chances are those of sentences from different noise. changes: of the pairs that are
    shown, the way from one to the other (`text.words.word_changes`).
    """

    head: str
    first: str
    second: str
    n: int
    changed: float
    changed_chance: float
    read: float
    kept: dict[str, float]
    kept_chance: dict[str, float]
    changes: tuple[tuple[tuple[str, str], ...], ...]


@dataclass(frozen=True)
class Diffusion:
    """One draw of the prior from noise to sentence: the level's number and signal (alpha_bar), and the decoded text."""

    levels: tuple[int, ...]
    signal: tuple[float, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Added:
    """An attribute that the model was given after training: what was measured then (facts), what it reads in each
    sentence and how surely, and sentences generated under each class."""

    name: str
    classes: tuple[str, ...]
    facts: dict[str, Any]
    codes: tuple[int, ...]
    confidence: tuple[float, ...]
    generated: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Layer:
    """What changes when layer *number* (1 is the lowest) and those below it are drawn anew, the others held.

    size: its dimensions. words: share of a sentence's words that come back, on average over n sentences, and
    words_chance, the same against another sentence's. kept: head -> the share of sentences that keep the class of
    that head, by the model's own classifier. texts: for each sentence that is shown, some new versions.
    """

    number: int
    size: int
    words: float
    words_chance: float
    kept: dict[str, float]
    n: int
    texts: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Layers:
    """A hierarchical model's layers, the lowest first, seen through the same sentences; heads that have classes to
    keep."""

    sentences: tuple[str, ...]
    heads: tuple[str, ...]
    layers: tuple[Layer, ...]


def sorted_heads(model: TextEBM) -> list[SymbolHead]:
    """Heads that were taught, then those that were found."""
    return sorted(model.heads.values(), key=lambda head: head.column is None)


def own_agreement(model: TextEBM, head: str, texts: Sequence[str], wanted: Sequence[str]) -> list[bool]:
    """Whether the model's own classifier gives each text the class that was asked for; blank texts have none."""
    written = [i for i, text in enumerate(texts) if text.strip()]
    labels = model.classify([texts[i] for i in written], head).labels if written else []
    agreed = [False] * len(texts)
    for i, label in zip(written, labels, strict=True):
        agreed[i] = label == wanted[i]
    return agreed


def added(model: TextEBM, mean: Tensor, *, seed: int = 0) -> list[Added]:
    """The attributes of *model*, read at posterior means (n, d)."""
    shown = []
    for each in model.attributes.values():
        confidence, codes = each.probabilities(mean).max(-1)
        asked = [name for name in each.classes for _ in range(PER_ATTRIBUTE)]
        texts = model.generate(len(asked), symbols={each.name: asked}, seed=seed)
        generated = tuple(tuple(texts[i : i + PER_ATTRIBUTE]) for i in range(0, len(texts), PER_ATTRIBUTE))
        surely = tuple(round(value, 3) for value in confidence.tolist())
        shown.append(Added(each.name, each.classes, dict(each.facts), tuple(codes.tolist()), surely, generated))
    return shown


def strength_sweep(model: TextEBM, head: str, *, seed: int = 0) -> list[Strength]:
    """Agreement at several strengths, classes asked equally often."""
    classes = model.heads[head].classes
    wanted = [classes[i % len(classes)] for i in range(max(SENTENCES_PER_STRENGTH, len(classes)))]
    sweep = []
    for strength in STRENGTHS:
        texts = model.generate(len(wanted), symbols={head: wanted}, strength=strength, seed=seed)
        agreed = own_agreement(model, head, texts, wanted)
        sweep.append(Strength(strength, sum(agreed) / len(agreed), len(agreed)))
    return sweep


def compose(model: TextEBM, *, seed: int = 0) -> Composition | None:
    """The first two heads (taught ones first) whose pairs of classes fit a page; None if there are no two."""
    heads = sorted_heads(model)
    for i, first in enumerate(heads):
        for second in heads[i + 1 :]:
            pairs = [(a, b) for a in first.classes for b in second.classes]
            if len(pairs) > MAX_CELLS:
                continue
            wanted = [pair for pair in pairs for _ in range(PER_CELL)]
            asked = {first.name: [a for a, _ in wanted], second.name: [b for _, b in wanted]}
            texts = model.generate(len(wanted), symbols=asked, seed=seed)
            one, two = (own_agreement(model, name, texts, asked[name]) for name in asked)
            cells = []
            for number, (a, b) in enumerate(pairs):
                own = slice(number * PER_CELL, (number + 1) * PER_CELL)
                both = [x and y for x, y in zip(one[own], two[own], strict=True)]
                cells.append(Cell(a, b, tuple(texts[own]), sum(both) / len(both)))
            return Composition((first.name, second.name), tuple(cells))
    return None


def twins(model: TextEBM, *, seed: int = 0) -> list[Twins]:
    """Of at most three heads, taught ones if there are any, the first two classes beside each other."""
    heads = [head for head in sorted_heads(model) if len(head.classes) > 1]
    heads = [head for head in heads if head.column is not None] or heads
    found = []
    for head in heads[:TWIN_HEADS]:
        first, second = head.classes[:2]
        pairs = model.compare({head.name: first}, {head.name: second}, TWINS, seed=seed)
        a, b = (model.encode(texts).codes for texts in ([each.a for each in pairs], [each.b for each in pairs]))
        unrelated = [share_changed(pairs[i].a, pairs[i - 1].b) for i in range(len(pairs))]
        own = (a[head.name] == 0) & (b[head.name] == 1)
        others = [name for name in model.heads if name != head.name]
        found.append(
            Twins(
                head.name,
                first,
                second,
                len(pairs),
                float(np.mean([each.changed for each in pairs])),
                float(np.mean(unrelated)),
                float(own.float().mean()),
                {name: float((a[name] == b[name]).float().mean()) for name in others},
                {name: float((a[name] == b[name].roll(1)).float().mean()) for name in others},
                tuple(tuple(word_changes(each.a, each.b)) for each in pairs[:SHOWN_TWINS]),
            )
        )
    return found


def walks(model: TextEBM, rows: Rows, *, seed: int = 0) -> list[tuple[str, ...]]:
    """Interpolations between sentences drawn by the seed: the two sentences, with what is decoded between them."""
    drawn = np.random.default_rng(seed).permutation(len(rows))[: 2 * WALKS].tolist()
    texts = [rows.texts[i] for i in drawn]
    pairs = zip(texts[::2], texts[1::2], strict=False)
    return [(first, *model.interpolate(first, last, WALK_STEPS), last) for first, last in pairs]


def edits(model: TextEBM, rows: Rows, *, seed: int = 0) -> list[Edit]:
    """Sentences of the rows, each sent to the class that follows its own, at levels from near to far."""
    heads = [head for head in sorted_heads(model) if len(head.classes) > 1]
    if not heads:
        return []
    head = heads[0]
    drawn = np.random.default_rng(seed + 1).permutation(len(rows))[:EDITED].tolist()
    texts = [rows.texts[i] for i in drawn]
    sources = model.classify(texts, head.name).labels
    targets = [head.classes[(head.index(source) + 1) % len(head.classes)] for source in sources]
    top = model.prior.num_levels - 1
    levels: list[int | None] = [None]
    if top >= 1:
        levels = [*sorted({max(1, math.ceil(top * (k + 1) / EDIT_LEVELS)) for k in range(EDIT_LEVELS)})]
    written = [model.edit(texts, {head.name: targets}, level=level, seed=seed) for level in levels]
    named = [_classes(model, head.name, each) for each in written]
    return [
        Edit(
            text,
            head.name,
            sources[i],
            targets[i],
            tuple(levels),
            tuple(each[i] for each in written),
            tuple(each[i] for each in named),
        )
        for i, text in enumerate(texts)
    ]


def _classes(model: TextEBM, head: str, texts: Sequence[str]) -> list[str]:
    """Class of each text, empty for a blank one."""
    labels = iter(model.classify([text for text in texts if text.strip()], head).labels)
    return [next(labels) if text.strip() else "" for text in texts]


def layers(model: TextEBM, rows: Rows, *, seed: int = 0) -> Layers | None:
    """Sentences with ever more of their layers drawn anew; None for a latent of one layer."""
    sizes = model.layers
    if len(sizes) < 2:
        return None
    drawn = np.random.default_rng(seed + 2).permutation(len(rows))[:LAYER_SENTENCES].tolist()
    texts = [rows.texts[i] for i in drawn]
    latents = model.encode(texts).mean
    repeated = latents[:LAYERED].repeat_interleave(PER_LAYER, 0)
    heads = [head.name for head in sorted_heads(model) if len(head.classes) > 1]
    wanted = {head: _classes(model, head, texts) for head in heads}
    resampled = []
    for number in range(1, len(sizes) + 1):
        both = torch.cat([latents, repeated])
        made = model.generate(len(both), resample_from_layer=number, latents=both, seed=seed)
        new, shown = made[: len(texts)], made[len(texts) :]
        agreed = {head: own_agreement(model, head, new, wanted[head]) for head in heads}
        resampled.append(
            Layer(
                number,
                sizes[-number],
                _shared_words(texts, new),
                _shared_words(texts, [*new[1:], *new[:1]]),
                {head: sum(each) / len(each) for head, each in agreed.items()},
                len(texts),
                tuple(tuple(shown[i : i + PER_LAYER]) for i in range(0, len(shown), PER_LAYER)),
            )
        )
    return Layers(tuple(texts[:LAYERED]), tuple(heads), tuple(resampled))


def _shared_words(texts: Sequence[str], new: Sequence[str]) -> float:
    """Share of the words of *texts* that the new text has too, on average."""
    shares = []
    for before, after in zip(texts, new, strict=True):
        words = set(words_of(before))
        shares.append(len(words & set(words_of(after))) / max(1, len(words)))
    return sum(shares) / max(1, len(shares))


def diffusions(model: TextEBM, *, seed: int = 0) -> tuple[list[Diffusion], list[float | None]]:
    """Some draws of the prior with every level decoded as it stands, and acceptance by level (None: not sampled)."""
    sample = model.sample_path(DIFFUSED, seed=seed)
    return of_path(model, sample.path), shares_of(sample.acceptance)


def of_path(model: TextEBM, path: Tensor | None) -> list[Diffusion]:
    """The first draws of a path (levels, n, d), the noisiest level first, decoded; none where there is one level."""
    if path is None or len(path) < 2:
        return []
    path = path[:, :DIFFUSED].cpu()
    count, n = path.shape[:2]
    texts = model.decode(path.flatten(0, 1))
    levels = tuple(range(count - 1, -1, -1))
    signal = tuple(float(model.prior.schedule.alpha_bar[level]) for level in levels)
    return [Diffusion(levels, signal, tuple(texts[i::n])) for i in range(n)]


def shares_of(acceptance: Tensor) -> list[float | None]:
    """By level; None where a level was not sampled."""
    return [value if math.isfinite(value) else None for value in acceptance.tolist()]
