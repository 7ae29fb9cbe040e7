"""One draw a row by the inverse distribution function."""

from __future__ import annotations

import pytest
import torch

from textebm.networks import drawn_word
from textebm.networks.drawn_word import DrawnWord, draw


@pytest.mark.parametrize("size", [5, 400])
def test_frequencies_are_the_probabilities(size: int) -> None:
    g = torch.Generator().manual_seed(0)
    weights = torch.rand(size, generator=g) ** 3
    weights[::4] = 0
    n = 60_000
    found = draw(weights.expand(n, -1), g).bincount(minlength=size).double() / n
    p = (weights / weights.sum()).double()
    assert found[::4].sum() == 0, "what has probability 0 is never drawn"
    chi_square = (n * (found - p).square() / p)[p > 0].sum()
    free = int((p > 0).sum()) - 1
    assert abs(chi_square - free) < 4 * (2 * free) ** 0.5


def test_each_row_has_its_own_distribution_and_the_generator_decides() -> None:
    eye = torch.zeros(300, 300).fill_diagonal_(2.0)
    assert torch.equal(draw(eye), torch.arange(300))
    flat = torch.ones(50, 1000)
    drawn = [draw(flat, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("share", [0.0, 1 - 2.0**-24])
def test_the_ends_of_the_unit_interval_draw_words_that_can_be(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = torch.rand(40, 265, generator=torch.Generator().manual_seed(0))
    weights[:, :128] = 0
    weights[:, 256:] = 0
    monkeypatch.setattr(torch, "rand", lambda rows, **options: torch.full((rows,), share))
    assert bool((weights.gather(1, draw(weights)[:, None]) > 0).all())


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_words_follow_the_softmax_at_the_temperature(temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawn_word, "CHUNK", 1000)
    torch.manual_seed(0)
    weight, bias, hidden = torch.randn(30, 4), torch.randn(30), torch.randn(1, 4)
    n = 40_000
    drawn = DrawnWord(weight, bias, [3, 7], temperature)(hidden.expand(n, -1), torch.Generator().manual_seed(0))
    logits = (hidden @ weight.t() + bias)[0]
    logits[[3, 7]] = -torch.inf
    p = (logits / temperature).softmax(-1)
    found = drawn.bincount(minlength=30) / n
    assert found[[3, 7]].sum() == 0
    assert (found - p).abs().max() < 4 * (0.25 / n) ** 0.5
