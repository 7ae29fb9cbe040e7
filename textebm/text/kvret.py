"""Stanford multi-domain dialogues (Eric et al. 2017): a driver and an assistant; the task as label."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from textebm.errors import CorpusError
from textebm.text.natural import tokenize
from textebm.text.readers import Row

DOMAINS = ("navigate", "schedule", "weather")
SPEAKERS = ("driver", "assistant")
VALIDATION = 10  # where the training file is not there, one in so many dialogues of the test file


def kvret_files(folder: Path) -> dict[str, tuple[Path, int | None]]:
    """The file of each split, and which dialogues of it: None for all, 0 for every tenth, 1 for the others. Without the
    training file the test file is trained on and validated by, and the dev file is the test split."""
    train, dev, test = (folder / f"kvret_{name}_public.json" for name in ("train", "dev", "test"))
    if train.is_file():
        return {"train": (train, None), "validation": (dev, None), "test": (test, None)}
    return {"train": (test, 1), "validation": (test, 0), "test": (dev, None)}


def kvret_rows(folder: Path, split: str) -> Iterator[Row]:
    """A row for each turn: text, the dialogue's earlier turns as context, domain and speaker. Raises CorpusError."""
    path, chosen = kvret_files(folder)[split]
    for number, dialogue in enumerate(_dialogues(path)):
        if chosen is not None and (number % VALIDATION != 0) != bool(chosen):
            continue
        try:
            domain = DOMAINS.index(dialogue["scenario"]["task"]["intent"])
            turns = [(SPEAKERS.index(turn["turn"]), str(turn["data"]["utterance"])) for turn in dialogue["dialogue"]]
        except (KeyError, TypeError, ValueError) as error:
            raise CorpusError(f"{path}, dialogue {number + 1}: expected turns and an intent as published") from error
        context: list[str] = []
        for speaker, utterance in turns:
            if text := tokenize(utterance):
                yield {"text": text, "context": list(context), "domain": domain, "speaker": speaker}
                context.append(text)


def _dialogues(path: Path) -> list[dict[str, Any]]:
    try:
        dialogues = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(dialogues, list):
            raise ValueError("it is no list")
    except (OSError, ValueError, RecursionError) as error:
        raise CorpusError(f"{path}: cannot be read as published dialogues: {error}") from error
    return dialogues
