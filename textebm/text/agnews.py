"""AG News: headline and text of a news item, and its topic; a JSON object a line, as published with VAMPIRE."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from textebm.errors import CorpusError
from textebm.text.lines import text_lines
from textebm.text.natural import tokenize
from textebm.text.readers import Row

TOPICS = ("world", "sports", "business", "science")  # written 1..4
COLUMNS = ("text", "headline")  # data.text_column: headline and text together, or headlines alone
VALIDATION = 10  # where the training file is not there, one in so many documents of dev

NUMBERED = re.compile(r" ?&?#(\d{1,6});")  # "Kuwait #39;s": references that lost their ampersand
NAMED = re.compile(r" ?&?\b(quot|amp|lt|gt|nbsp);")
TAG = re.compile(r"<[^<>]*>?")


def agnews_rows(folder: Path, split: str, column: str) -> Iterator[Row]:
    """Rows of train, validation or test: text and topic. With a train.jsonl its documents are trained on and dev.jsonl
    is validation; without one, dev.jsonl is parted into training and validation, always alike. Raises CorpusError."""
    whole = (folder / "train.jsonl").is_file()
    name = "test" if split == "test" else "train" if whole and split == "train" else "dev"
    parted = not whole and split != "test"
    draw = np.random.default_rng(0)
    for number, line in enumerate(text_lines(folder / f"{name}.jsonl"), start=1):
        row = _row(line, f"{folder / name}.jsonl, line {number}", column)
        validation = draw.integers(VALIDATION) == 0
        if row["text"] and (not parted or validation == (split == "validation")):
            yield row


def _row(line: str, where: str, column: str) -> Row:
    try:
        item = json.loads(line)
        texts = [item["headline"]] if column == "headline" else [item["headline"], item["text"]]
        topic = int(item["label"]) - 1
        if topic not in range(len(TOPICS)) or not all(isinstance(text, str) for text in texts):
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorpusError(f"{where}: expected headline, text and a label of 1..4") from error
    return {"text": " . ".join(clean for text in texts if (clean := tokenize(plain(text)))), "topic": topic}


def plain(text: str) -> str:
    """The text without mark-up, references and backslashes."""
    text = NAMED.sub(lambda match: html.unescape(f"&{match[1]};"), text)
    text = NUMBERED.sub(lambda match: html.unescape(f"&#{match[1]};"), text)
    return TAG.sub(" ", text).replace("\\", " ")
