"""What `textebm data list` tells: the published corpora, and whether they are here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from textebm.errors import CorpusError
from textebm.text import grammar
from textebm.text.corpora import FILES, SOURCES, find_corpus, load_corpus

LABELS = {
    "ptb": (),
    "dailydialog": ("act", "emotion"),
    "yelp": ("sentiment",),
    "agnews": ("topic",),
    "smd": ("domain", "speaker"),
}


def list_corpora(data_dir: str | Path | None = None) -> list[dict[str, Any]]:
    """Each corpus: name, found (its folder, "embedded", or None), sentences (train, or None), labels, source."""
    listed: list[dict[str, Any]] = [
        {
            "name": "grammar",
            "found": "embedded",
            "sentences": grammar.language_size(),
            "labels": list(grammar.FACTORS),
            "source": "generated",
        }
    ]
    for name in FILES:
        entry = {"name": name, "found": None, "sentences": None, "labels": list(LABELS[name]), "source": SOURCES[name]}
        try:
            folder = find_corpus(name, data_dir)
        except CorpusError:
            listed.append(entry)
            continue
        listed.append(entry | {"found": str(folder), "sentences": _count(name, folder)})
    return listed


def _count(name: str, folder: Path) -> int:
    """Training sentences, counted as the readers do."""
    if name == "dailydialog":
        return len((folder / "train" / "dialogues_act_train.txt").read_bytes().split())
    if name in ("agnews", "smd"):  # which rows are trained on depends on which files are here
        return len(load_corpus(name, data_dir=folder.parent)["train"])
    paths = {"ptb": ["ptb.train.txt"], "yelp": ["sentiment.train.0", "sentiment.train.1"]}[name]
    return sum(sum(1 for line in (folder / path).open("rb") if line.strip()) for path in paths)
