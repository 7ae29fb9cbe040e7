"""The published networks that a model stands on: named, not stored, where their weights rest.

A saved model holds the name (in its recipe), the revision and the SHA-256 of each weight file of such a base, and no
weight of it; it loads from wherever the base lies: the directory or the Hub's cache, or a directory of that name inside
the model's own. Once the base is on disk no network is needed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from textebm.errors import RecipeError
from textebm.files import file_digest
from textebm.networks.pretrained import Pretrained, Source, check_place, pretrained_modules, resting_names
from textebm.text.tokenizer import load_own

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def split_revision(name: str) -> tuple[str, str | None]:
    """`owner/model@revision` in two; a directory has none, and a network that is made here is the one where it lies."""
    if name.startswith("made:"):
        from textebm.model.made import made_directory

        return str(made_directory(name)), None
    if Path(name).exists() or "@" not in name:
        return name, None
    base, _, revision = name.rpartition("@")
    return base, revision


def locate(
    named: str, kept: Mapping[str, Any] | None, directory: Path | None, option: str
) -> tuple[Source, str | None]:
    """Where to load a network from that the recipe names, and its revision. kept: what the model saved in *directory*
    holds of it (`kept_of`): where that is no more than the files' SHA-256, they must be the same.

    Raises RecipeError where a file is gone or changed.
    """
    if kept is not None and "files" not in kept:
        settings: Mapping[str, Any] = kept.get("settings", kept)
        return settings, None
    name, revision = split_revision(_place_of(named, directory))
    if kept is not None:
        revision = kept["revision"]
        now = _hashes(name, revision, option)
        changed = sorted(file for file, value in kept["files"].items() if now.get(file) != value)
        if changed:
            raise RecipeError(
                f"{option}: {name} has changed: the SHA-256 of {', '.join(changed)} is not that of training; put the "
                "former file back, or train again"
            )
    return name, revision


def base_of(source: Source, module: Pretrained) -> dict[str, Any] | None:
    """What is kept of a network at rest that was loaded from *source*: revision (the Hub's commit, None of a directory)
    and files (SHA-256 by name). None where its weights are saved: tuned in full, or given without a source."""
    if not isinstance(source, str) or not resting_names(module):
        return None
    commit = getattr(module.network.config, "_commit_hash", None)
    return {"revision": commit, "files": _hashes(source, commit, "pretrained")}


def own_tokenizer(
    named: str, kept: Mapping[str, Any] | None, directory: Path | None, option: str
) -> PreTrainedTokenizerFast:
    """The tokenizer of a network that reads in its own, from its source or from a model saved in full."""
    if kept is None or "tokenizer" not in kept:
        return load_own(*split_revision(_place_of(named, directory)), option)
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer.from_str(json.dumps(kept["tokenizer"]["backend"]))
    return PreTrainedTokenizerFast(tokenizer_object=backend, **kept["tokenizer"]["roles"])


def _place_of(name: str, directory: Path | None) -> str:
    """The base *name*, or where it is not there the directory of that name inside the model's own."""
    beside = directory / Path(name).name if directory is not None else None
    if beside is not None and beside.is_dir() and not Path(name).exists():
        return str(beside)
    return name


def stored_state(model: nn.Module, *, full: bool = False) -> dict[str, Tensor]:
    """The state of *model* that is to be saved: without what its bases hold, unless *full*."""
    resting = set() if full else resting_names(model)
    return {name: value for name, value in model.state_dict().items() if name not in resting}


@torch.no_grad()
def load_stored(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Take back what `stored_state` gave. Raises RuntimeError where an entry is missing, unknown or misshapen."""
    resting = resting_names(model)
    missing, unknown = model.load_state_dict(dict(tensors), strict=False)
    lost = [name for name in missing if name not in resting]
    if lost or unknown:
        told = [
            f"{len(names)} {what}, such as {names[0]}"
            for names, what in ((lost, "missing"), (unknown, "unknown"))
            if names
        ]
        raise RuntimeError(f"entries of the state: {'; '.join(told)}")


def kept_of(model: nn.Module, *, full: bool = False) -> dict[str, Any]:
    """Of each pretrained network by the side it is on ("encoder", "decoder"): its settings, and where its weights are
    not saved its base. full: they are, and so is the tokenizer that it reads in."""
    kept = {}
    for name, module in pretrained_modules(model):
        own = getattr(getattr(module, "retokenize", None), "reader", None)
        entry: dict[str, Any] = {"settings": module.settings}
        if not full:
            entry |= module.base or {}
        elif own is not None:
            backend = json.loads(own.backend_tokenizer.to_str())
            entry["tokenizer"] = {"backend": backend, "roles": {k: str(v) for k, v in own.special_tokens_map.items()}}
        kept[name.partition(".")[0]] = entry
    return kept


def _hashes(name: str, revision: str | None, option: str) -> dict[str, str]:
    return {path.name: _sha256(path) for path in _weight_files(name, revision, option)}


def _weight_files(name: str, revision: str | None, option: str) -> list[Path]:
    from transformers.utils.hub import cached_file

    check_place(name, option)

    def place(file: str) -> Path | None:
        try:
            path = cached_file(name, file, revision=revision, _raise_exceptions_for_missing_entries=False)
        except (OSError, ValueError) as error:
            raise RecipeError(f"{option}: {name} is not to be had: {str(error).splitlines()[0][:200]}") from error
        return None if path is None else Path(path)

    single, index = place(WEIGHTS), place(INDEX)
    if single is not None:
        return [single]
    shards = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index else []
    paths = [place(shard) for shard in shards]
    if not paths or None in paths:
        raise RecipeError(f"{option}: {name} holds no {WEIGHTS}")
    return [path for path in paths if path is not None]


def _sha256(path: Path) -> str:
    """Once for each state of a file."""
    state = path.stat()
    return _hashed(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)
def _hashed(path: Path, size: int, changed: int) -> str:
    return file_digest(path)
