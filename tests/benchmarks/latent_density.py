"""How much of the latents' density F has learned.

    PYTHONPATH=. python tests/benchmarks/latent_density.py RUN… --data DIR

On up to 3,000 test sentences of each run's corpus: the score error ‖τ ∇log p_t(u_t) + ε‖², summed over the dimensions
and over all levels, of N(0, I) and of F; the KL of the posteriors to N(0, I) and to the prior, from both sides
(`prior.likelihood.log_prob_bound`); standard deviations of free and of posterior draws. Prints a row of a Markdown
table each.
"""

from __future__ import annotations

import argparse
import math

import torch
from torch import Tensor

from textebm.model.build import build_corpus
from textebm.model.files import load
from textebm.networks.posterior import Posterior
from textebm.prior.likelihood import log_prob_bound
from textebm.prior.prior import LatentPrior
from textebm.prior.sampling import sample
from textebm.recipe.schema import Recipe

SENTENCES, SEED = 3000, 0


def error(prior: LatentPrior, posterior: Posterior, learned: bool) -> float:
    total = 0.0
    for t in range(prior.schedule.num_levels):
        level = torch.full((len(posterior.mean),), t)
        drawn = posterior.diffused(prior.schedule.alpha_bar[t], torch.Generator().manual_seed(t))
        score = prior.score(drawn.u, level) if learned else prior.reference_score(drawn.u, level)
        total += float((drawn.tau * score + drawn.noise).square().sum(-1).mean())
    return total


@torch.no_grad()
def row(run: str, data: str | None) -> str:
    model = load(run).eval()
    recipe = Recipe.model_validate(model.recipe)
    texts = list(build_corpus(recipe.data, data_dir=data, seed=recipe.seed)["test"]["text"])[:SENTENCES]
    encoding, prior = model.encode(texts), model.prior
    posterior = Posterior(encoding.mean, encoding.stddev)
    u = posterior.sample(torch.Generator().manual_seed(SEED))
    entropy = (0.5 * math.log(2 * math.pi * math.e) + encoding.stddev.log()).sum(-1).mean()

    def kl(log_p: Tensor) -> float:
        return float(-entropy - log_p.mean())

    generator = torch.Generator().manual_seed(SEED)
    forward, reverse = (
        kl(log_prob_bound(prior, u, direction=direction, temperatures=10, generator=generator))
        for direction in ("forward", "reverse")
    )
    errors = [error(prior, posterior, learned) for learned in (False, True)]
    normal = kl(torch.distributions.Normal(0, 1).log_prob(u).sum(-1))
    free = sample(prior, SENTENCES, generator=generator).z.std()
    return (
        f"| {run} | {errors[0]:.1f} | {errors[1]:.1f} | {normal:.1f} | {forward:.1f} – {reverse:.1f} | "
        f"{free:.3f}, {u.std():.3f} |"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--data")
    arguments = parser.parse_args()
    print("| run | score error: N(0, I) | F | KL to N(0, I) | to the prior | stddev free, posterior |")
    print("|---|---:|---:|---:|---:|---:|", flush=True)
    for each in arguments.runs:
        print(row(each, arguments.data), flush=True)
