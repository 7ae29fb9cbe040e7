"""What the tests of models and runs share: recipes that train in a second or two."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from textebm.api import TextEBM
from textebm.model.build import build_corpus, build_heads, build_model, build_tokenizer
from textebm.model.latent_text_model import LatentTextModel
from textebm.model.objective import LatentBatch, Objective, StageName, Targets, TrainingObjective
from textebm.networks.bag_of_words import fit_words
from textebm.networks.energy import EnergyNet
from textebm.objective.schedules import Weights
from textebm.recipe.read import load_recipe, parse_recipe
from textebm.recipe.schema import Recipe
from textebm.text.batches import TokenBatch
from textebm.training import loop
from textebm.training.data import Split, label_names, read_split
from textebm.training.loop import Trainer

loop.CALIBRATION_ROUNDS = 10  # a quarter, for a chain that need not be exact

RECIPE: dict[str, Any] = {
    "name": "tiny",
    "data": {"corpus": "grammar", "size": 300, "max_tokens": 16},
    "encoder": {"embedding_size": 12, "hidden_size": 16, "word_dropout": 0.0},
    "decoder": {"embedding_size": 12, "hidden_size": 16},
    "latent": {"dim": 8},
    "heads": [
        {"name": "sentiment", "labels": "sentiment"},
        {"name": "topic", "labels": "topic", "label_limit": 30},
        {"name": "code", "classes": 5},
    ],
    "prior": {"kind": "diffusion_energy", "hidden_size": 16, "num_blocks": 1, "num_levels": 4, "steps": 2},
    "objective": {
        "mutual_information_weight": 0.1,
        "cluster_weight": 1.0,
        "cluster_features": "latent",
        "cluster_start": 0.0,
    },
    "training": {
        "batch_size": 32,
        "prior_batch_size": 64,
        "learning_rate": 5e-3,
        "stages": [{"name": "autoencoder", "steps": 26}, {"name": "prior", "steps": 12}],
        "evaluate_every": 7,
        "checkpoint_every": 4,
    },
    "evaluation": {"samples": 20, "samples_per_class": 4, "limit": 20},
}


def recipe(*overrides: str) -> Recipe:
    """The tiny recipe: ten batches an epoch, an autoencoder stage of 2.6 epochs, a prior stage of 2.4."""
    return parse_recipe(RECIPE, overrides)


@cache
def splits(of: Recipe) -> tuple[Any, dict[str, Split], dict[str, list[str]]]:
    """(tokenizer, train and validation, the classes of each label column)."""
    corpus = build_corpus(of.data, seed=of.seed)
    tokenizer = build_tokenizer(of, corpus["train"]["text"])
    read = {name: read_split(corpus[name], tokenizer, of.data.max_tokens) for name in ("train", "validation")}
    return tokenizer, read, label_names(corpus["train"])


def untrained(*overrides: str) -> TextEBM:
    """A fresh model of the tiny recipe, with a potential that is not zero, as one has it for use."""
    return TextEBM(network(*overrides).eval())


def network(*overrides: str) -> LatentTextModel:
    """The network of `untrained`."""
    chosen = recipe(*overrides)
    tokenizer, _, names = splits(recipe(*(each for each in overrides if each.startswith(("data.", "tokenizer.")))))
    torch.manual_seed(chosen.seed)
    model = build_model(chosen, tokenizer, build_heads(chosen, names))
    for net in model.prior.energy.modules():
        if isinstance(net, EnergyNet):
            torch.nn.init.normal_(net.outputs.weight, std=0.5)
    return model


def trainer(*overrides: str) -> Trainer:
    chosen = recipe(*overrides)
    tokenizer, read, names = splits(recipe(*(each for each in overrides if each.startswith(("data.", "tokenizer.")))))
    torch.manual_seed(chosen.seed)
    model = build_model(chosen, tokenizer, build_heads(chosen, names))
    fit_words(model.modules(), read["train"].store.tokens, read["train"].store.offsets)
    return Trainer(model, read["train"], read["validation"], chosen)


@cache
def trained(*overrides: str) -> TextEBM:
    """A model after the tiny recipe's stages. Shared: let no test change it."""
    worker = trainer(*overrides)
    for _ in worker.steps():
        pass
    return TextEBM(worker.model.eval())


def objective_of(
    model: LatentTextModel,
    batch: TokenBatch | LatentBatch,
    stage: StageName,
    weights: Weights,
    targets: Targets | None = None,
    generator: torch.Generator | None = None,
) -> Objective:
    """What a training step computes."""
    return TrainingObjective(model)(batch, stage, weights, targets, generator)


@cache
def sentences(n: int = 40) -> tuple[str, ...]:
    return tuple(build_corpus(recipe().data)["test"]["text"][:n])


def save_trained(directory: Path) -> Path:
    """The tiny recipe's trained model, saved in *directory* as a run has it."""
    directory.mkdir()
    trained().save_pretrained(directory)
    return directory


def write_recipe(path: Path, *overrides: str) -> Path:
    """The tiny recipe as a file, for the command line."""
    from textebm.recipe.read import dump_recipe

    path.write_text(dump_recipe(recipe(*overrides)), encoding="utf-8")
    assert load_recipe(path) == recipe(*overrides)
    return path


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "COLUMNS": "200"}


def start(*arguments: str | Path, python: Sequence[str] = (), **options: Any) -> subprocess.Popen[str]:
    """`textebm …` in a process of its own."""
    command = [sys.executable, *(python or ("-m", "textebm")), *map(str, arguments)]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": ENVIRONMENT, **options}
    return subprocess.Popen(command, **options)


def run(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    process = start(*arguments, **options)
    output, errors = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)
