"""Models on disk and on the Hub: safetensors and JSON, nothing that can run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from transformers import PreTrainedTokenizerFast

from textebm.errors import CheckpointError
from textebm.model.build import model_config, rebuild_model
from textebm.model.inference import ShortRun
from textebm.model.latent_text_model import LatentTextModel
from textebm.recipe.checks import explain
from textebm.runs.checkpoint import publish_model, read_model, write_atomically

TOKENIZER_FILES = ["tokenizer.json", "tokenizer_config.json"]
FILES = ["model.safetensors", "config.json", *TOKENIZER_FILES, "README.md", "evaluation.json"]


def save(model: LatentTextModel, directory: str | Path) -> None:
    """model.safetensors, config.json, the tokenizer's files and, unless there is one, a model card.

    config.json, written last, has the checksums of the others. Raises CheckpointError if the disk refuses.
    """
    if model.recipe is None:
        raise CheckpointError(
            "a model without a recipe could not be rebuilt; make it with textebm.model.build.build_model"
        )
    directory = Path(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        model.tokenizer.save_pretrained(directory)
        checksums = {name: _checksum(directory / name) for name in TOKENIZER_FILES}
    except OSError as error:
        raise CheckpointError(f"{directory}: saving the tokenizer failed: {error.strerror or error}") from error
    tensors = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    publish_model(directory, tensors, {**model_config(model), "tokenizer": checksums})
    if not (directory / "README.md").exists():
        write_atomically(directory / "README.md", model_card(model).encode())


def load(name: str | Path) -> LatentTextModel:
    """A run directory, a saved model, or a Hub id. Raises CheckpointError with what is wrong."""
    directory = Path(name)
    if not directory.exists() and _looks_like_hub_id(str(name)):
        directory = _download(str(name))
    tensors, config = read_model(directory)
    tokenizer = _read_tokenizer(directory, config)
    try:
        model = rebuild_model(config, tokenizer)
        model.load_state_dict(tensors)
    except ValidationError as error:
        raise CheckpointError(f"{directory} comes from another version: {'; '.join(explain(error))}") from error
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{directory}: weights and config.json do not belong together, or come from another version: {error}"
        ) from error
    return model.eval()


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


def _read_tokenizer(directory: Path, config: Mapping[str, Any]) -> PreTrainedTokenizerFast:
    try:
        for name, checksum in config.get("tokenizer", {}).items():
            if _checksum(directory / name) != checksum:
                raise CheckpointError(f"{directory}: {name} is damaged or of another model (its SHA-256 differs)")
        return PreTrainedTokenizerFast.from_pretrained(directory, local_files_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # the tokenizers library raises plain Exception for a file it cannot read
        raise CheckpointError(f"{directory}: the tokenizer cannot be read: {error}") from error


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def push(model: LatentTextModel, repo_id: str, *, private: bool = False) -> str:
    """Upload to the Hub; the token is the one `hf auth login` stored. Returns the address. Raises CheckpointError."""
    from tempfile import TemporaryDirectory

    from huggingface_hub import HfApi

    api = HfApi()
    with TemporaryDirectory() as folder:
        save(model, folder)
        try:
            address = str(api.create_repo(repo_id, private=private, exist_ok=True))
            api.upload_folder(repo_id=repo_id, folder_path=folder)
        except Exception as error:  # the Hub's errors and those of its HTTP library, which has changed before
            raise CheckpointError(
                f"{repo_id!r} was not uploaded ({type(error).__name__}: {error}); check the name and the connection, "
                "and log in with: hf auth login"
            ) from error
    return address


def model_card(model: LatentTextModel, table: str | None = None) -> str:
    """README.md of a saved model: what it is, how to use it, and the measured table if there is one."""
    recipe = model.recipe or {}
    heads = "\n".join(
        f"- `{h.name}`: " + (f"{len(h.classes)} codes, found" if h.column is None else ", ".join(h.classes))
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


def _looks_like_hub_id(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not name.endswith("/")


def _download(repo_id: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo_id, allow_patterns=FILES))
    except Exception as error:  # as above
        raise CheckpointError(
            f"{repo_id!r} is no directory here, and the Hub did not give it ({type(error).__name__}); "
            "check the path, the id, or the connection"
        ) from error
