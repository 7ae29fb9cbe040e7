"""The map, the codes and the heat map as figures for a paper, by matplotlib: vector graphics, fonts embedded as text.

No figure is shown and no global state is touched: each function returns a matplotlib Figure, `save` writes one. Colours
and marks are those of the report: eight hues that stay apart for colour-blind readers (after Okabe & Ito 2008), then
other shapes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from textebm.errors import TextEBMError, did_you_mean
from textebm.files import check_output, output
from textebm.inspection.codes import CodeCard
from textebm.inspection.projection import Layout

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HUES = ("#0072b2", "#d98e00", "#00875f", "#cf4f00", "#3fa0dc", "#b8568c", "#857800", "#565c66")
SHAPES = ("o", "s", "^", "D", "P", "v")
MISSING = "#b9bdc4"
FORMATS = ("pdf", "svg", "png")
LEGEND = 24  # more names than this would be a page of their own
STYLE = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.linewidth": 0.6,
    "font.family": ["sans-serif"],
    # what is there is taken, glyph by glyph: Latin, then Chinese, Japanese, Korean, Arabic, Devanagari
    "font.sans-serif": [
        "DejaVu Sans",
        "Noto Sans CJK SC",
        "Noto Sans CJK JP",
        "WenQuanYi Zen Hei",
        "Noto Sans Arabic",
        "Noto Sans Devanagari",
        "Arial Unicode MS",
    ],
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "textebm",
    "text.parse_math": False,  # a label may hold dollars
    "figure.dpi": 200,
    "savefig.dpi": 300,
}


def find_matplotlib() -> Any:
    """The package. Raises TextEBMError where it is not installed."""
    try:
        import matplotlib
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise TextEBMError(f"figures need matplotlib ({error}): pip install 'textebm[figures]'") from None
    return matplotlib


def check_out(path: Path) -> None:
    """Raises TextEBMError for a file that cannot be written, or of a format that is none."""
    ending = path.suffix.lstrip(".").lower()
    if ending not in FORMATS:
        known = ", ".join(f".{each}" for each in FORMATS)
        raise TextEBMError(f"a figure's file ends in one of {known}, got {path.name!r}")
    check_output(path)


def save(figure: Figure, path: Path) -> None:
    """The figure as PDF, SVG or PNG, by the file's ending; the same bytes each time. Raises TextEBMError."""
    check_out(path)
    ending = path.suffix.lstrip(".").lower()
    undated: dict[str, Any] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(ending, {})
    with output(path) as file, _style():
        figure.savefig(file, format=ending, bbox_inches="tight", pad_inches=0.03, metadata=undated)


def draw_map(
    layout: Layout,
    names: Sequence[str],
    values: NDArray[Any],
    *,
    title: str = "",
    samples: bool = False,
    width: float = 5.0,
) -> Figure:
    """The sentences on a map, coloured by class. values (n,): class of each point, −1 for none. samples: with the
    prior's samples as open diamonds. width: inches."""
    with _style():
        figure, axes = _axes(width, width * 0.8)
        size = float(np.clip(9000 / max(1, len(values)), 3.0, 18.0))
        counts = np.bincount(values[values >= 0], minlength=len(names))
        if (values < 0).any():
            axes.scatter(
                *layout.points[values < 0].T, s=size, c=MISSING, linewidths=0, label="no label", rasterized=True
            )
        for index, name in enumerate(names):
            if counts[index]:  # the rarer a class, the higher its marks lie
                own = layout.points[values == index]
                colour, shape = mark(index)
                axes.scatter(
                    *own.T,
                    s=size,
                    c=colour,
                    marker=shape,
                    linewidths=0,
                    alpha=0.85,
                    label=f"{name} ({counts[index]:,})",
                    rasterized=len(values) > 5000,
                    zorder=2 + 1 / (1 + counts[index]),
                )
        if samples and len(layout.samples):
            axes.scatter(
                *layout.samples.T,
                s=9,
                marker="D",
                facecolors="none",
                edgecolors="#1d2126",
                linewidths=0.5,
                zorder=4,
                label=f"prior samples ({len(layout.samples)})",
            )
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_color("#d0d2d6")
        axes.set_title(title, loc="left")
        axes.set_xlabel(layout.note, fontsize=6.5, color="#5f6670", loc="left")
        handles, written = axes.get_legend_handles_labels()
        if handles and len(handles) <= LEGEND:
            axes.legend(
                handles,
                written,
                loc="center left",
                bbox_to_anchor=(1.01, 0.5),
                frameon=False,
                markerscale=1.6,
                fontsize=7,
                ncols=1 + (len(handles) > 14),
                handletextpad=0.2,
                labelspacing=0.35,
            )
    return figure


def draw_codes(cards: Sequence[CodeCard], *, width: float = 6.5, words: int = 6, most: int = 40) -> Figure:
    """Sizes of the codes as bars, the largest first, each with its words and its most lifted label."""
    shown = sorted(cards, key=lambda card: (-card.size, card.code))[:most]
    with _style():
        figure, axes = _axes(width * 0.42, 0.19 * len(shown) + 0.35)
        places = np.arange(len(shown))
        axes.barh(places, [card.size for card in shown], height=0.72, color=HUES[0], alpha=0.85)
        axes.set_yticks(places, [card.name for card in shown])
        axes.invert_yaxis()
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlabel("sentences")
        axes.tick_params(length=0, axis="y")
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        for place, card in zip(places, shown, strict=True):
            said = " ".join(word.text for word in card.words[:words]) or ("unused" if card.unused else "")
            # what the label says of the code, in nats: a lift counts for as much as its share
            best = max(card.labels, key=lambda each: each.share * np.log(each.lift), default=None)
            axes.text(1.03, place, said, transform=axes.get_yaxis_transform(), va="center", fontsize=7)
            if best is not None:
                axes.text(
                    1.03 + 1.15 * 6.5 / width,
                    place,
                    f"{best.name} {best.share:.0%} ×{best.lift:.1f}",
                    transform=axes.get_yaxis_transform(),
                    va="center",
                    fontsize=6.5,
                    color="#5f6670",
                )
        title = f"{shown[0].head}: {len(cards)} classes" if shown else "no codes"
        axes.set_title(title + (f", the {most} largest" if len(cards) > most else ""), loc="left")
    return figure


def draw_control(
    curves: Mapping[str, Sequence[tuple[float, float]]], chance: Mapping[str, float], *, width: float = 4.5
) -> Figure:
    """By head, the share of sentences read as they were asked (0 … 1) at each strength, and guessing as a dashed
    line. Raises TextEBMError where no head was swept."""
    if not curves:
        raise TextEBMError("no strengths were tried: the model has no head with 2 to 20 classes")
    with _style():
        figure, axes = _axes(width, width * 0.62)
        for index, (head, points) in enumerate(curves.items()):
            axes.plot(*zip(*points, strict=True), color=mark(index)[0], marker="o", markersize=3, label=head)
            axes.axhline(chance[head], color=mark(index)[0], linewidth=0.8, linestyle="--")
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("strength (1 = Bayes)")
        axes.set_ylabel("share read as asked, by the model's encoder")
        axes.set_title("Control (dashed: guessing)", loc="left")
        axes.legend(frameon=False, loc="lower right")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    return figure


def draw_heatmap(
    counts: NDArray[np.int64],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    head: str,
    label: str,
    width: float | None = None,
) -> Figure:
    """Codes against a label's classes: the shade is the share of the row, the number the count. counts (K, L)"""
    order = np.argsort(-counts.sum(1), kind="stable")
    counts = counts[order]
    shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
    with _style():
        figure, axes = _axes(width or 0.55 * len(columns) + 0.8, 0.17 * len(rows) + 0.5)
        axes.pcolormesh(shares, cmap="Blues", vmin=0, vmax=1.15, edgecolors="white", linewidth=0.8)
        axes.invert_yaxis()
        for row, column in np.ndindex(*counts.shape):
            dark = shares[row, column] > 0.65
            axes.text(
                column + 0.5,
                row + 0.5,
                f"{counts[row, column]:,}",
                ha="center",
                va="center",
                fontsize=6,
                color="white" if dark else "#1d2126",
            )
        axes.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=35 if len(columns) > 3 else 0, ha="left")
        if len(columns) <= 3:
            axes.set_xticklabels(columns, ha="center")
        axes.set_yticks(np.arange(len(rows)) + 0.5, [rows[i] for i in order])
        axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
        axes.set_ylabel(head)
        axes.set_title(label, pad=4)
        for spine in axes.spines.values():
            spine.set_visible(False)
    return figure


def mark(index: int) -> tuple[str, str]:
    """Colour and shape of a class; 48 that differ, then they come again."""
    return HUES[index % len(HUES)], SHAPES[index // len(HUES) % len(SHAPES)]


def choose(asked: str | None, known: Sequence[str], what: str, default: str | None = None) -> str:
    """The name that was asked for, or the default, or the first. Raises TextEBMError for one that is not there."""
    if not known:
        raise TextEBMError(f"there is no {what} here to draw by")
    if asked is None:
        return default if default is not None and default in known else known[0]
    if asked not in known:
        raise TextEBMError(f"unknown {what} {asked!r}{did_you_mean(asked, known)}")
    return asked


def _axes(width: float, height: float) -> tuple[Figure, Any]:
    figure = find_matplotlib().figure.Figure(figsize=(width, height))
    figure._repr_png_ = partial(_png, figure)  # what a notebook shows of a figure that pyplot does not hold
    return figure, figure.add_axes((0.0, 0.0, 1.0, 1.0))


def _png(figure: Figure) -> bytes:
    with BytesIO() as file, _style():
        figure.savefig(file, format="png", dpi=120, bbox_inches="tight", pad_inches=0.05)
        return file.getvalue()


@contextmanager
def _style() -> Iterator[None]:
    with find_matplotlib().rc_context(STYLE):
        yield
