"""Models on disk and on the Hub: safetensors and JSON, nothing that can run."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from pydantic import ValidationError
from torch import Tensor

from textebm.errors import (
    CheckpointError,
    CodeNotAllowedError,
    DivergenceError,
    FileError,
    RecipeError,
    refused_by_library,
)
from textebm.files import (
    check_finite,
    checksum,
    digest,
    json_bytes,
    parse_json,
    parse_tensors,
    read_bytes,
    read_json,
    read_verified,
    sync_directory,
    tensor_bytes,
    write_atomically,
    write_new,
)
from textebm.model.bases import load_stored, stored_state
from textebm.model.build import model_config, rebuild_model
from textebm.model.inference import ShortRun
from textebm.model.latent_text_model import LatentTextModel
from textebm.recipe.checks import explain
from textebm.text import saved_tokenizer
from textebm.text.saved_tokenizer import SavedTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MODEL_FORMAT, FORMAT_VERSION = "textebm", 1
WEIGHTS, CONFIG = "model.safetensors", "config.json"
TOKENIZER_FILES = list(saved_tokenizer.FILES)
FILES = [WEIGHTS, CONFIG, *TOKENIZER_FILES, "README.md", "evaluation.json", "codes.yaml", "attributes/*"]


class SavedModel(NamedTuple):
    """What `publish_model` was given, every byte verified."""

    tensors: dict[str, Tensor]
    config: dict[str, Any]
    files: dict[str, bytes]


def save(model: LatentTextModel, directory: str | Path) -> None:
    """model.safetensors, config.json, the tokenizer's files and, unless there is one, a model card.

    A model that is there already stays whole until all of the new one is written. Raises CheckpointError if the model
    holds a number that is not finite, and if the disk refuses.
    """
    if model.recipe is None:
        raise CheckpointError(
            "a model without a recipe could not be rebuilt; make it with textebm.model.build.build_model"
        )
    directory = Path(directory)
    stored = stored_state(model, full=model.recipe["training"].get("save_full", False))
    tensors = {name: tensor.detach().cpu() for name, tensor in stored.items()}
    try:
        check_finite(tensors, "the model was not saved")
    except DivergenceError as error:
        raise CheckpointError(f"{directory}: {error}; load an earlier checkpoint, or train with a lower rate") from None
    try:
        with TemporaryDirectory() as folder:
            model.tokenizer.save_pretrained(folder)
            files = {name: (Path(folder) / name).read_bytes() for name in TOKENIZER_FILES}
    except OSError as error:
        raise CheckpointError(f"{directory}: saving the tokenizer failed: {error.strerror or error}") from error
    publish_model(directory, tensors, model_config(model), files)
    if not (directory / "README.md").exists():
        write_atomically(directory / "README.md", model_card(model))


def locate(
    name: str | Path, *, revision: str | None = None, token: str | None = None, cache_dir: str | Path | None = None
) -> Path:
    """The directory of a run, a saved model, or of a Hub id, which is downloaded. Raises CheckpointError."""
    directory = Path(name)
    if not directory.exists() and _looks_like_hub_id(str(name)):
        return _download(str(name), revision, token, cache_dir)
    return directory


def load(directory: str | Path) -> LatentTextModel:
    """The model of a run directory or a saved model. Raises CheckpointError with what is wrong."""
    directory = Path(directory)
    saved = read_model(directory)
    tokenizer = _read_tokenizer(directory, saved.files)
    try:
        model = rebuild_model(saved.config, tokenizer, directory)
        load_stored(model, saved.tensors)
    except CodeNotAllowedError:
        raise
    except RecipeError as error:
        raise CheckpointError(
            f"{directory}: what it was built on is not there: {error} (it may also lie in the model's directory, under "
            "its own name)"
        ) from error
    except ValidationError as error:
        raise CheckpointError(
            f"{directory} comes from another version: {'; '.join(explain(error))}. Train it again with this textebm, "
            "or read it with the one that saved it"
        ) from error
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{directory}: weights and config.json do not belong together, or come from another version: "
            f"{' '.join(str(error).split())}"
        ) from error
    return model.eval()


def publish_model(
    directory: Path | str,
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    files: Mapping[str, bytes] | None = None,
) -> None:
    """Write model.safetensors, *files* and config.json into *directory*, other files in it left alone.

    They change together: all are written aside first, the rename of config.json, which holds their checksums, decides,
    and `read_model` takes what it names from aside if the process dies before the other renames. Raises CheckpointError
    if the disk refuses.
    """
    directory = Path(directory)
    contents = {WEIGHTS: tensor_bytes(tensors), **(files or {})}
    kept = json.loads(json_bytes(config))  # as `read_model` will see it: tuples are lists, keys are strings
    checksums = {name: checksum(data) for name, data in contents.items()}
    header = {
        "format": MODEL_FORMAT,
        "format_version": FORMAT_VERSION,
        "checksums": {**checksums, "config": digest(json_bytes(kept))},
    }
    if clash := header.keys() & kept.keys():
        raise ValueError(f"publish_model: these names are its own: {', '.join(sorted(clash))}")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _settle(directory)
        for name, data in contents.items():
            write_new(_pending(directory, name), data)
        sync_directory(directory)
        write_atomically(directory / CONFIG, json_bytes({**header, **kept}))
        for name in contents:
            os.replace(_pending(directory, name), directory / name)
        sync_directory(directory)
    except (OSError, FileError) as error:
        problem = (error.strerror or error) if isinstance(error, OSError) else error
        raise CheckpointError(
            f"{directory}: saving the model failed: {problem}; check free space and permissions"
        ) from error


def read_model(directory: Path | str) -> SavedModel:
    """What `publish_model` was given, the tensors on the CPU.

    Raises CheckpointError, in one sentence, for a directory or file that is missing, cut short, damaged, of a later
    format or not textebm's.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: no such directory; expected a run directory or a saved model")
    if not (directory / CONFIG).exists():
        raise CheckpointError(f"{directory}: no {CONFIG}; expected a saved model, or a run whose training has finished")
    try:
        config = parse_json(read_bytes(directory / CONFIG), CONFIG)
        if config.pop("format", None) != MODEL_FORMAT:
            raise CheckpointError(f"{CONFIG} is not that of a textebm model")
        version = config.pop("format_version", None)
        if version != FORMAT_VERSION:
            raise CheckpointError(f"saved in format version {version!r}, where this textebm reads {FORMAT_VERSION}")
        checksums = config.pop("checksums", None)
        if not isinstance(checksums, dict) or checksums.get("config") != digest(json_bytes(config)):
            raise CheckpointError(f"{CONFIG} was changed after it was saved (its SHA-256 differs)")
        if unknown := sorted(checksums.keys() - {"config", WEIGHTS, *TOKENIZER_FILES}):
            raise CheckpointError(f"{CONFIG} is damaged: it names files that no model has: {', '.join(unknown)[:200]}")
        files = {}
        earlier = config.pop("tokenizer", {})  # where the checksums of these stood before
        for name in TOKENIZER_FILES:
            if name in checksums:
                files[name] = _read_either(directory, name, checksums[name])
            elif isinstance(earlier, dict) and name in earlier:
                files[name] = read_bytes(directory / name)
                if digest(files[name]) != earlier[name]:
                    raise CheckpointError(f"{name} is damaged or of another model (its SHA-256 differs)")
        return SavedModel(parse_tensors(_read_either(directory, WEIGHTS, checksums.get(WEIGHTS))), config, files)
    except (CheckpointError, FileError) as error:
        raise CheckpointError(f"{directory}: {error}") from error


def _pending(directory: Path, name: str) -> Path:
    return directory / f".{name}.pending"


def _read_either(directory: Path, name: str, expected: Any) -> bytes:
    """A file in its place, or aside where a killed `publish_model` left it."""
    try:
        return read_verified(directory / name, expected)
    except FileError:
        if not _pending(directory, name).exists():
            raise
        return read_verified(_pending(directory, name), expected)


def _settle(directory: Path) -> None:
    """End what a killed `publish_model` began, so that no file is overwritten while config.json needs it."""
    for pending in directory.glob(".*.pending"):
        name = pending.name.removeprefix(".").removesuffix(".pending")
        try:
            read_verified(pending, read_json(directory / CONFIG)["checksums"][name])
        except (KeyError, TypeError, FileError):
            pending.unlink()  # config.json never named it
        else:
            os.replace(pending, directory / name)


@torch.no_grad()
def adopt(model: LatentTextModel, name: str | Path) -> None:
    """Give *model* the encoder, decoder and transport of a saved one; its prior begins fresh.

    What the saved model has beyond that is left. A model that infers by short runs takes no encoder: its chains follow
    the decoder. Raises CheckpointError where a weight is missing or has another shape, and where the vocabularies
    differ.
    """
    other = load(name)
    if other.tokenizer.get_vocab() != model.tokenizer.get_vocab():
        raise CheckpointError(
            f"training.start_from: {name} has another vocabulary ({len(other.tokenizer):,} entries, here "
            f"{len(model.tokenizer):,}); use the data and tokenizer options it was trained with"
        )
    weights = other.state_dict()
    adopted: tuple[str, ...] = ("context_encoder.", "decoder.", "prior.transport.")
    if not isinstance(model.encoder, ShortRun):
        adopted = ("encoder.", *adopted)
    if _tied(model) and not _tied(other):
        raise CheckpointError(
            f"training.start_from: {name} has encoder.tie_embedding=false, here it is true; set it so"
        )
    for key, value in model.state_dict().items():
        if not key.startswith(adopted):
            continue
        if key not in weights or weights[key].shape != value.shape:
            found = f"has shape {tuple(weights[key].shape)}" if key in weights else "does not exist"
            raise CheckpointError(
                f"training.start_from: {key} {found} in {name}, expected {tuple(value.shape)}; encoder, decoder, "
                "latent, prior.transport and (for generation by example) objective.contrastive_weight must fit it"
            )
        value.copy_(weights[key])


def _tied(model: LatentTextModel) -> bool:
    """Whether the encoder reads in the decoder's embedding."""
    embedding = model.encoder.embedding
    return embedding is not None and embedding is getattr(model.decoder, "embedding", None)


def _read_tokenizer(directory: Path, files: Mapping[str, bytes]) -> PreTrainedTokenizerFast:
    if missing := set(TOKENIZER_FILES) - files.keys():
        raise CheckpointError(f"{directory}: config.json has no checksum for {', '.join(sorted(missing))}")
    try:  # the very bytes that were checked are read
        tokenizer = SavedTokenizer({name: files[name] for name in TOKENIZER_FILES}, str(directory))
    except Exception as error:
        if not refused_by_library(error) and not isinstance(error, FileError):
            raise
        raise CheckpointError(f"{directory}: the tokenizer cannot be read: {error}") from error
    return cast("PreTrainedTokenizerFast", tokenizer)


def push(write: Callable[[str], None], repo_id: str, *, private: bool = False) -> str:
    """Upload what *write* puts into a directory to the Hub; the token is the one `hf auth login` stored. Returns the
    address. Raises CheckpointError."""
    from huggingface_hub import HfApi

    api = HfApi()
    with TemporaryDirectory() as folder:
        write(folder)
        try:
            address = str(api.create_repo(repo_id, private=private, exist_ok=True))
            api.upload_folder(repo_id=repo_id, folder_path=folder)
        except _hub_errors() as error:
            raise CheckpointError(
                f"{repo_id!r} was not uploaded ({type(error).__name__}: {error}); check the name and the connection, "
                "and log in with: hf auth login"
            ) from error
    return address


def model_card(model: LatentTextModel, table: str | None = None, verdict: str = "") -> str:
    """README.md of a saved model: a verdict on it if there is one, what it is, how to use it, and what was measured."""
    recipe = model.recipe or {}
    heads = "\n".join(
        f"- `{h.name}`: " + (f"{len(h.classes)} codes, found" if h.column is None else _plain(", ".join(h.classes)))
        for h in model.heads.values()
    )
    symbols = next((f"{{{h.name!r}: {h.classes[0]!r}}}" for h in model.heads.values()), "None")
    call = f"model.generate(5, symbols={symbols}, seed=0)"
    if model.reads_context:
        call = f"model.respond([['how are you ?']], symbols={symbols}, n=5, seed=0)"
    sources = {side: recipe.get(side, {}).get("pretrained") for side in ("encoder", "decoder")}
    named = {side: Path(name).name if Path(name).is_absolute() else name for side, name in sources.items() if name}
    began = "".join(f" Its {side} was built on `{name}`." for side, name in named.items())
    measured = f"\n## Measured\n\n{table}\n" if table else ""
    return f"""---
library_name: textebm
tags: [text-generation, vae, energy-based-model]
---

# {recipe.get("name", "textebm model")}

{recipe.get("description", "")}
{chr(10) + verdict if verdict else ""}
A sequence VAE with a `{recipe.get("prior", {}).get("kind", "?")}` prior ({model.prior.num_levels} learned levels,
{model.prior.dim}-d latent), made by [textebm](recipe.yaml).{began}

```python
import textebm
model = textebm.TextEBM.from_pretrained(".")
{call}
```

## Symbols

{heads or "none"}
{measured}"""


def _plain(text: str) -> str:
    """Labels of a corpus as one line of Markdown that holds no markup."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", " ".join(text.split()))


def _looks_like_hub_id(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not name.endswith("/")


def _download(repo_id: str, revision: str | None, token: str | None, cache_dir: str | Path | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(repo_id, allow_patterns=FILES, revision=revision, token=token, cache_dir=cache_dir)
        )
    except _hub_errors() as error:
        raise CheckpointError(
            f"{repo_id!r} is no directory here, and the Hub did not give it ({type(error).__name__}); "
            "check the path, the id, or the connection"
        ) from error


def _hub_errors() -> tuple[type[BaseException], ...]:
    """What the Hub's client raises: its own errors, those of its HTTP library (which has changed before) and of ids."""
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    return (*HfHubHTTPError.__bases__, EntryNotFoundError, ValueError)
