"""A class that training never saw, told from the others by four priors on the same networks (docs/measuring.md).

    python tests/benchmarks/outliers.py agnews topic=business --data ../shared/data [--seeds 3] [OPTION=VALUE …]

As in Cui, Wu & Han 2023: one class is left out of training and validation and stands among the test texts. Each prior
has the recipe's networks and data; the two of one layer share an autoencoder, and so do the two of two layers. Scores,
a token: the unnormalised log-posterior, the bound, and the likelihood of a language model of the same training texts.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from textebm import TextEBM
from textebm.evaluation.language_model import LanguageModelSettings, fit_language_model
from textebm.evaluation.outliers import bound_score, posterior_score, separation
from textebm.model.build import build_corpus
from textebm.recipe.read import load_recipe
from textebm.runs.train import build_trainer

ONE, LAYERED = ["prior.num_levels=null", "prior.steps=null"], ["prior.num_levels=null", "prior.steps=40"]
SYSTEMS = {  # the prior's kind, its options, and whose autoencoder it takes
    "VAE": ("gaussian", ONE, None),
    "LDEBM": ("diffusion_energy", [], "VAE"),
    "joint EBM": ("joint_energy", LAYERED, None),
    "hierarchical EBM diffusion": ("hierarchical_diffusion_energy", [], "joint EBM"),
}


def measure(
    name: str, left_out: str, seed: int, data: str, limit: int, prior_steps: int, overrides: list[str]
) -> list[dict[str, Any]]:
    """A row for each system and score of one seed."""
    label, _, missing = left_out.partition("=")
    base = [f"data.leave_out={left_out}", f"seed={seed}", *overrides]
    recipe = load_recipe(name, base)
    corpus = build_corpus(recipe.data, data_dir=data, seed=seed)
    test, rng = corpus["test"], np.random.default_rng(seed)
    strange = np.array(test[label]) == test.features[label].names.index(missing)
    rows = rng.permutation(len(test))
    texts = [[test[int(i)]["text"] for i in rows[strange[rows] == kind][:limit]] for kind in (False, True)]
    found, model, epochs = [], None, recipe.training.stages[0].epochs

    def add(system: str, score: str, values: list[Any]) -> None:
        seen = separation(*values)
        row = {"system": system, "score": score, "seed": seed, "auroc": seen.auroc, "auprc": seen.auprc, "n": seen.n}
        found.append(row)
        print(json.dumps(row), flush=True)

    with tempfile.TemporaryDirectory() as folder:
        for system, (kind, options, autoencoder) in SYSTEMS.items():
            stages = [] if autoencoder else [f"{{name: autoencoder, epochs: {epochs}}}"]
            stages += [] if kind == "gaussian" else [f"{{name: prior, steps: {prior_steps}}}"]
            changed = [f"prior.kind={kind}", *options, f"training.stages=[{', '.join(stages)}]"]
            start = None if autoencoder is None else Path(folder) / autoencoder
            torch.manual_seed(seed)
            trainer = build_trainer(load_recipe(name, base + changed), corpus, start_from=start)
            for _ in trainer.steps():
                pass
            model = TextEBM(trainer.model.eval())
            model.save_pretrained(Path(folder) / system)
            add(system, "log-posterior", [posterior_score(model, own, seed) for own in texts])
            add(system, "bound", [bound_score(model, own, seed) for own in texts])
    assert model is not None
    settings = LanguageModelSettings(128, 128, epochs=6)
    judge = fit_language_model(corpus["train"]["text"], model.tokenizer, model.max_tokens, settings=settings, seed=seed)
    add("language model", "likelihood", [judge.score(own).per_token.numpy() for own in texts])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("left_out", metavar="LABEL=CLASS")
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--limit", type=int, default=500, help="test texts of either kind")
    parser.add_argument("--prior-steps", type=int, default=600)
    parser.add_argument("overrides", nargs="*", metavar="OPTION=VALUE")
    asked = parser.parse_intermixed_args()
    for seed in range(asked.seeds):
        measure(asked.recipe, asked.left_out, seed, asked.data, asked.limit, asked.prior_steps, asked.overrides)


if __name__ == "__main__":
    main()
