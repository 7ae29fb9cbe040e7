"""What an inspection holds, and the same as pandas tables: one row a sentence, a sample, a code, a level.

| name | a row is | columns |
|---|---|---|
| sentences | a sentence | text, the labels, `<head>`, `<head> confidence`, energy, loss (nats), `<map> x`, `<map> y` |
| samples | a prior sample | text, energy (nats), `<map> x`, `<map> y` |
| codes | a class of a head | as `textebm codes --csv` has them |
| words | a word of a class | head, code, word, score (c-TF-IDF), count, z |
| labels | a class of a head and of a label | head, code, label, name, count, share (of the code), lift |
| control | a strength of a head | head, strength, agreement, n |
| chains | a level of the prior | level, signal, acceptance, steps, ess_position, ess_energy |
| energies | a bin at a level | level, from, to (nats), means, draws, samples (shares) |

Where a label has a head's name, the head's column is `predicted <head>`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from textebm.inspection import figures, paths, sampler
from textebm.inspection.codes import CodeCard, to_rows
from textebm.inspection.projection import Projection
from textebm.inspection.rows import LabelColumn, Rows
from textebm.notebook import html_table
from textebm.use.reading import Encoding

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Control:
    """How a head steers: for each class in order, the share of its card's generated sentences that the model's own
    classifier gives that class; and the strengths."""

    head: str
    agreement: tuple[float | None, ...]
    sweep: tuple[paths.Strength, ...]


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found. energies (at posterior means) and losses: one a row of *rows*, nats; the sample_* ones: one
    a prior sample. `frames` gives the same as pandas tables, described at the head of this file."""

    rows: Rows
    encoding: Encoding
    energies: list[float]
    losses: list[float]
    cards: dict[str, list[CodeCard]]
    projection: Projection
    sample_texts: list[str]
    sample_energies: list[float]
    control: list[Control]
    composition: paths.Composition | None
    walks: list[tuple[str, ...]]
    edits: list[paths.Edit]
    layers: paths.Layers | None
    diffusions: list[paths.Diffusion]
    acceptance: list[float | None]
    chains: list[sampler.Chain]
    energy_levels: list[sampler.Energies]
    attributes: list[paths.Added] = field(default_factory=list)
    twins: list[paths.Twins] = field(default_factory=list)

    def __repr__(self) -> str:
        heads = ", ".join(f"{head} ({len(cards)})" for head, cards in self.cards.items()) or "none"
        drawn = ", ".join(self.projection.layouts)
        return f"Inspection({len(self.rows)} sentences; heads: {heads}; maps: {drawn}; .frames() has its tables)"

    def _repr_html_(self) -> str:
        rows = [
            (head, card.name, card.size, " ".join(word.text for word in card.words[:6]))
            for head, cards in self.cards.items()
            for card in cards
        ]
        return html_table(f"Inspection of {len(self.rows)} sentences", rows, ("head", "class", "sentences", "words"))

    def plot_map(
        self, by: str | None = None, *, layout: str | None = None, samples: bool = False, width: float = 5.0
    ) -> Figure:
        """The map as a matplotlib figure (extra ``[figures]``), coloured by a head or label column *by* (the codes).

        layout: tsne (the default), pca or umap. samples: with the prior's. Raises TextEBMError for an unknown name.
        """
        layout = figures.choose(layout, list(self.projection.layouts), "map", "tsne")
        known = list(dict.fromkeys([*self.cards, *self.rows.labels]))
        by = figures.choose(by, known, "head or label", next(reversed(self.cards), None))
        if by in self.rows.labels:
            names, values = self.rows.labels[by].classes, self.rows.labels[by].values
        else:
            names, values = tuple(card.name for card in self.cards[by]), self.encoding.codes[by].numpy()
        chosen = self.projection.layouts[layout]
        return figures.draw_map(chosen, names, values, title=f"by {by}", samples=samples, width=width)

    def plot_codes(self, head: str | None = None, *, width: float = 6.5) -> Figure:
        """The codes of a head as bars with their words. Raises TextEBMError for an unknown head."""
        head = figures.choose(head, list(self.cards), "head", next(reversed(self.cards), None))
        return figures.draw_codes(self.cards[head], width=width)

    def plot_control(self, *, width: float = 4.5) -> Figure:
        """How often sentences generated under a class are read as it, by strength, beside guessing."""
        swept = [each for each in self.control if each.sweep]
        return figures.draw_control(
            {each.head: [(s.strength, s.agreement) for s in each.sweep] for each in swept},
            {each.head: 1 / len(each.agreement) for each in swept},
            width=width,
        )

    def frames(self) -> dict[str, pd.DataFrame]:
        """The tables as pandas frames, by name: one without rows where the model has nothing of the kind."""
        return frames(self)


def frames(inspection: Inspection) -> dict[str, pd.DataFrame]:
    """All tables by name; one without rows where the model has nothing of the kind."""
    cards = [card for own in inspection.cards.values() for card in own]
    words = [(c.head, c.name, w.text, w.score, w.count, w.z) for c in cards for w in c.words]
    labels = [(c.head, c.name, s.label, s.name, s.count, s.share, s.lift) for c in cards for s in c.labels]
    control = [(each.head, s.strength, s.agreement, s.n) for each in inspection.control for s in each.sweep]
    chains = [asdict(each) for each in inspection.chains]
    return {
        "sentences": sentences(inspection),
        "samples": samples(inspection),
        "codes": pd.DataFrame(to_rows(cards)),
        "words": pd.DataFrame(words, columns=["head", "code", "word", "score", "count", "z"]),
        "labels": pd.DataFrame(labels, columns=["head", "code", "label", "name", "count", "share", "lift"]),
        "control": pd.DataFrame(control, columns=["head", "strength", "agreement", "n"]),
        "chains": pd.DataFrame(chains) if chains else pd.DataFrame(columns=["level", "signal", "acceptance"]),
        "energies": energies(inspection),
    }


def sentences(inspection: Inspection) -> pd.DataFrame:
    columns: dict[str, Any] = {"text": inspection.rows.texts}
    for name, label in inspection.rows.labels.items():
        columns[name] = _names(label)
    for head, cards in inspection.cards.items():
        codes = inspection.encoding.codes[head]
        taken = head if head not in columns else f"predicted {head}"
        columns[taken] = [cards[code].name for code in codes.tolist()]
        columns[f"{head} confidence"] = inspection.encoding.probabilities[head].gather(1, codes[:, None])[:, 0].numpy()
    columns |= {"energy": inspection.energies, "loss": inspection.losses}
    for name, layout in inspection.projection.layouts.items():
        columns |= {f"{name} x": layout.points[:, 0], f"{name} y": layout.points[:, 1]}
    return pd.DataFrame(columns)


def samples(inspection: Inspection) -> pd.DataFrame:
    columns: dict[str, Any] = {"text": inspection.sample_texts, "energy": inspection.sample_energies}
    for name, layout in inspection.projection.layouts.items():
        columns |= {f"{name} x": layout.samples[:, 0], f"{name} y": layout.samples[:, 1]}
    return pd.DataFrame(columns)


def energies(inspection: Inspection) -> pd.DataFrame:
    pieces = []
    for each in inspection.energy_levels:
        edges = np.linspace(each.low, each.high, len(each.draws) + 1)
        pieces.append(
            pd.DataFrame(
                {
                    "level": each.level,
                    "from": edges[:-1],
                    "to": edges[1:],
                    "means": each.means,
                    "draws": each.draws,
                    "samples": each.samples,
                }
            )
        )
    columns = ["level", "from", "to", "means", "draws", "samples"]
    return pd.concat(pieces, ignore_index=True) if pieces else pd.DataFrame(columns=columns)


def _names(label: LabelColumn) -> list[str | None]:
    return [label.classes[value] if value >= 0 else None for value in label.values.tolist()]
