"""Rows of the published corpora as they lie on disk: Penn Treebank, Yelp, DailyDialog."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import merge
from itertools import zip_longest
from pathlib import Path

from textebm.errors import CorpusError
from textebm.text.lines import text_lines
from textebm.text.natural import tokenize
from textebm.text.readers import Row, one_line

ACTS = ("inform", "question", "directive", "commissive")  # written 1..4
EMOTIONS = ("none", "anger", "disgust", "fear", "happiness", "sadness", "surprise")  # written 0..6
SENTIMENTS = ("negative", "positive")  # written .0 and .1


def ptb_rows(folder: Path, split: str) -> Iterator[Row]:
    """Penn Treebank sentences as Mikolov prepared them."""
    path = folder / f"ptb.{'valid' if split == 'validation' else split}.txt"
    return ({"text": text} for line in text_lines(path) if (text := one_line(line)))


def yelp_rows(folder: Path, split: str) -> Iterator[Row]:
    """Yelp sentences; both sentiments are merged in proportion, so that any prefix has the shares of the whole."""
    name = "dev" if split == "validation" else split

    def labelled(sentiment: int) -> Iterator[tuple[float, int, Row]]:
        lines = list(text_lines(folder / f"sentiment.{name}.{sentiment}"))
        # The references are in the order of the test sentences: "source <tab> human rewrite".
        rewrites = list(text_lines(folder / f"reference.{sentiment}")) if name == "test" else []
        if rewrites and len(rewrites) != len(lines):
            raise CorpusError(
                f"{folder}: sentiment.test.{sentiment} has {len(lines)} lines, reference.{sentiment} {len(rewrites)}; "
                "expected as many"
            )
        for number, line in enumerate(lines):
            row: Row = {"text": one_line(line), "sentiment": sentiment}
            if rewrites:
                row["reference"] = one_line(rewrites[number].partition("\t")[2])
            if row["text"]:
                yield (number + 0.5) / len(lines), sentiment, row

    return (row for _, _, row in merge(labelled(0), labelled(1), key=lambda item: item[:2]))


def dailydialog_rows(folder: Path, split: str, warn: Callable[[str], None]) -> Iterator[Row]:
    """DailyDialog, one row a turn: text, act, emotion, and the dialogue's earlier turns as context.

    A dialogue with more turns than labels (one of the release) keeps its labelled turns; *warn* is told.
    """
    names = ("dialogues", "dialogues_act", "dialogues_emotion")
    paths = [folder / split / f"{name}_{split}.txt" for name in names]
    for number, lines in enumerate(zip_longest(*map(text_lines, paths)), start=1):
        if None in lines:
            raise CorpusError(
                f"{folder / split}: the files of dialogues, acts and emotions differ in their number of lines"
            )
        turns = lines[0].strip().removesuffix("__eou__").split("__eou__")
        try:
            acts = [int(label) - 1 for label in lines[1].split()]
            emotions = [int(label) for label in lines[2].split()]
            if not all(0 <= act < len(ACTS) for act in acts) or not all(0 <= e < len(EMOTIONS) for e in emotions):
                raise ValueError
        except ValueError as error:
            raise CorpusError(f"{folder / split}, line {number}: expected acts of 1..4 and emotions of 0..6") from error
        labelled = min(len(acts), len(emotions))
        if len(acts) != len(emotions) or labelled > len(turns):
            raise CorpusError(
                f"{paths[0]}, line {number}: {len(turns)} turns, {len(acts)} acts, {len(emotions)} emotions"
            )
        if labelled < len(turns):
            warn(f"{paths[0]}, line {number}: {len(turns)} turns, {labelled} labels; turns without label are left out")
        context: list[str] = []
        for turn, act, emotion in zip(turns, acts, emotions, strict=False):
            if text := tokenize(turn):
                yield {"text": text, "context": list(context), "act": act, "emotion": emotion}
                context.append(text)
