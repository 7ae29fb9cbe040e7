"""What the interval and the KL are made of, by hand: which weights each end takes, and the signs."""

from __future__ import annotations

import math

import pytest
import torch
from tiny import sentences, untrained

from textebm.prior.likelihood import log_prob_bound
from textebm.use.likelihood import bounds_from_weights


def test_the_ends_of_two_draws_take_their_own_weights() -> None:
    """Each of two folds has one draw to choose from: the lower end is the mean of the flattering weights alone."""
    safe, flattering = torch.tensor([[-3.0], [-1.0]]), torch.tensor([[-0.5], [-2.0]])
    found = bounds_from_weights(safe, flattering)
    assert found.upper.item() == pytest.approx(-math.log((math.exp(-3) + math.exp(-1)) / 2), abs=1e-6)
    assert found.lower.item() == pytest.approx(-math.log((math.exp(-0.5) + math.exp(-2)) / 2), abs=1e-6)


def test_the_posterior_draw_of_each_fold_is_chosen_by_the_safe_weights() -> None:
    """Folds {0, 4}, {1, 5}, {2, 6}, {3, 7}. Draw 0 has all the safe weight, and draw 1 where 0 is left out."""
    safe = torch.full((8, 1), -100.0)
    safe[:2, 0] = torch.tensor([0.0, -50.0])
    flattering = torch.tensor([0.3, -0.7, 2.0, 1.1, -1.3, 0.2, 0.9, -0.4])
    together = [[1, 0, 4], [0, 1, 5], [0, 2, 6], [0, 3, 7]]
    expected = sum(math.log(3) - float(torch.logsumexp(flattering[rows], 0)) for rows in together) / 4
    found = bounds_from_weights(safe, flattering[:, None], torch.Generator().manual_seed(0))
    assert found.lower.item() == pytest.approx(expected, abs=1e-5)
    assert found.upper.item() == pytest.approx(math.log(8), abs=1e-5)
    assert found.effective_draws.item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("kind", ["energy", "diffusion_energy", "gaussian"])
def test_without_a_potential_the_kl_is_that_to_the_standard_normal(kind: str) -> None:
    """F = 0: a single draw's log q − log p has the closed form as its mean (its sign and all of its terms)."""
    model = untrained(f"prior.kind={kind}")
    for parameter in model.prior.energy.parameters():
        torch.nn.init.zeros_(parameter)
    texts = list(sentences(12))
    encoding = model.encode(texts)
    variance = encoding.stddev.square()
    exact = 0.5 * (encoding.mean.square() + variance - 1 - variance.log()).sum(-1)
    found = torch.stack([model.elbo_terms(texts, seed=seed).kl for seed in range(20)])
    error = float(found.std() / math.sqrt(found.numel()))
    assert float(found.mean()) == pytest.approx(float(exact.mean()), abs=4 * error + 1e-4)
    assert float(exact.mean()) > 10 * error, "the test must be able to fail"


def test_a_texts_log_density_does_not_depend_on_its_neighbours() -> None:
    """One level: at the same latent, alone and in a batch of 40, after texts of quite another kind or before them."""
    model = untrained("prior.kind=energy", "prior.num_levels=null")
    prior = model.prior
    torch.nn.init.normal_(prior.energy.outputs.weight, generator=torch.Generator().manual_seed(0))
    u = model.posterior_draws(list(sentences(40)), seed=0)
    batch = log_prob_bound(prior, torch.cat([u, 9 * u]))[:40]
    alone = torch.cat([log_prob_bound(prior, row[None]) for row in u])
    torch.testing.assert_close(alone, batch)
    assert float(alone.std()) > 0.1
