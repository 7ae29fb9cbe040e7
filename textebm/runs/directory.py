"""What a run directory holds that decides something, under checksums; and what a run may change when it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset

from textebm.errors import CheckpointError, FileError, RecipeError
from textebm.files import checksum, digest, json_bytes, parse_json, read_bytes, write_atomically
from textebm.recipe.read import dump_recipe, load_recipe, parse_recipe
from textebm.recipe.schema import Recipe
from textebm.training.data import check_corpus, corpus_digest

CHECKSUMS, FORMAT = "checksums.json", "textebm-run"
RECIPE, METRICS, EVALUATION, PROJECTION = "recipe.yaml", "metrics.jsonl", "evaluation.json", "projection.json"
CORPUS, VERDICT, DATA = "corpus.json", "verdict.json", "data"  # what was trained on, what is wrong, files kept
# Options (a full stop: a section) that change neither the shape of anything saved nor the order of the data.
CHANGEABLE = (
    "description",
    "evaluation.",
    "prior.potential_penalty",
    "training.learning_rate",
    "training.prior_learning_rate",
    "training.pretrained_learning_rate",
    "training.gradient_clip",
    "training.evaluate_every",
    "training.checkpoint_every",
    "training.keep_checkpoints",
    "training.trackers",
)

# --- checksums --------------------------------------------------------------------------------------------------------


def write_recorded(directory: Path, name: str, data: bytes | str) -> None:
    """Replace a file of the run and its checksum. The caller holds the directory's lock. Raises FileError.

    The new checksum stands beside the old one while the file is replaced: whoever comes after a crash finds one of the
    two files, and either fits.
    """
    data = data.encode("utf-8", errors="replace") if isinstance(data, str) else data
    known = _read_checksums(directory)
    _write_checksums(directory, {**known, name: [*known.get(name, ()), checksum(data)]})
    write_atomically(directory / name, data)
    _write_checksums(directory, {**known, name: [checksum(data)]})


def record(directory: Path, name: str) -> None:
    """Record the checksum of what a log holds now; it may grow afterwards. Raises FileError."""
    if (directory / name).exists():
        known = _read_checksums(directory)
        _write_checksums(directory, {**known, name: [checksum(read_bytes(directory / name))]})


def read_recorded(directory: Path, name: str) -> bytes:
    """A file of the run, if it is what was written; a run of an earlier textebm has no checksums, and its files are
    taken as they are. Raises CheckpointError where it is damaged, and FileError where it is not there."""
    expected = _read_checksums(directory).get(name)
    if expected is None:
        return read_bytes(directory / name)
    if not (directory / name).exists():
        raise CheckpointError(f"{directory / name} is missing")
    data = read_bytes(directory / name)
    for each in expected:
        length = each["size"] if name.endswith(".jsonl") else len(data)
        if length <= len(data) and checksum(data[:length]) == each:
            return data
    raise CheckpointError(f"{directory / name} is damaged or was changed by hand (its SHA-256 differs)")


def _read_checksums(directory: Path) -> dict[str, list[dict[str, Any]]]:
    path = directory / CHECKSUMS
    if not path.exists():
        return {}
    try:
        content = parse_json(read_bytes(path), CHECKSUMS)
        files = content["files"]
        if content["format"] != FORMAT or content["sha256"] != digest(json_bytes(files)):
            raise FileError(f"{CHECKSUMS} is damaged (its SHA-256 differs)")
    except (FileError, KeyError, TypeError):
        raise CheckpointError(
            f"{path} is damaged, so the run's files cannot be checked; if you trust them, delete it and try again"
        ) from None
    return dict(files)


def _write_checksums(directory: Path, files: Mapping[str, Any]) -> None:
    write_atomically(
        directory / CHECKSUMS, json_bytes({"format": FORMAT, "files": files, "sha256": digest(json_bytes(files))})
    )


# --- the recipe -------------------------------------------------------------------------------------------------------


def begin_recipe(directory: Path, recipe: Recipe) -> None:
    """Write the recipe of a run that begins. Raises FileError."""
    write_recorded(directory, RECIPE, dump_recipe(recipe))


def begin_corpus(directory: Path, corpus: Mapping[str, Dataset]) -> None:
    """Record what a run is trained and measured on; where that was done before, see that it is the same.

    Raises CorpusError where it is not, and FileError.
    """
    if (directory / CORPUS).exists():
        check_run_corpus(directory, corpus)
    else:
        write_recorded(directory, CORPUS, json_bytes(corpus_digest(corpus)))


def data_place(directory: Path, recipe: Recipe, data_dir: str | Path | None) -> str | Path | None:
    """Where a run's corpus is looked for: *data_dir*; else, for files, the run's own folder, which moves with it."""
    own = directory / DATA
    return own if data_dir is None and recipe.data.corpus == "files" and own.is_dir() else data_dir


def check_run_corpus(directory: Path, corpus: Mapping[str, Dataset]) -> None:
    """Raises CorpusError where *corpus* is not the one of the run; a run of an earlier textebm recorded none."""
    if (directory / CORPUS).exists():
        check_corpus(parse_json(read_recorded(directory, CORPUS), CORPUS), corpus, str(directory))


def resume_recipe(directory: Path, recipe: Recipe, saved: Mapping[str, Any] | None, *, write: bool) -> list[str]:
    """The options in which *recipe* differs from the one that a run was trained with, as ``option: before → now``.

    saved: that recipe as the checkpoint has it; None in a run of an earlier textebm, whose recipe.yaml counts.
    write: take the changes over into recipe.yaml, and put back one that is missing or damaged. Raises RecipeError for
    an option that cannot change in mid-run, and CheckpointError for a damaged recipe.yaml.
    """
    path = directory / RECIPE
    if path.exists():
        try:
            read_recorded(directory, RECIPE)
        except CheckpointError as error:
            if saved is None or not write or CHECKSUMS in str(error):
                raise
            begin_recipe(directory, parse_recipe(saved))
            raise CheckpointError(
                f"{error}. It is put back as the last checkpoint has it: resume again, with changes as OPTION=VALUE"
            ) from None
    before = parse_recipe(saved) if saved is not None else load_recipe(path) if path.exists() else recipe
    changes = differences(before.model_dump(mode="json"), recipe.model_dump(mode="json"))
    refused = [text for option, text in changes if not option.startswith(CHANGEABLE)]
    if refused:
        raise RecipeError(
            f"{directory} was trained with another recipe ({'; '.join(refused[:5])}"
            f"{'; …' if len(refused) > 5 else ''}): resume with its own recipe.yaml, or choose another directory with "
            "--out. Learning rates and evaluation options may change"
        )
    if write and (changes or not path.exists()):
        begin_recipe(directory, recipe)
    return [text for _, text in changes]


def differences(before: Any, now: Any, option: str = "") -> list[tuple[str, str]]:
    """(option, ``option: before → now``) for each option in which two recipes, as plain data, differ."""
    if before == now:
        return []
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        names = dict.fromkeys([*before, *now])
        return [
            each
            for name in names
            for each in differences(before.get(name), now.get(name), f"{option}.{name}" if option else str(name))
        ]
    return [(option, f"{option}: {_short(before)} → {_short(now)}")]


def _short(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
