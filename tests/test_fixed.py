"""Chains by hand-written gradients are chains by autograd."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from textebm.networks.energy import EnergyNet
from textebm.networks.energy_gradient import fix
from textebm.prior import fixed
from textebm.prior.condition import FREE, Condition
from textebm.prior.fixed import FixedPotential, fixed_potential
from textebm.prior.noise import NoiseSchedule, log_snr_ladder
from textebm.prior.prior import ChainSettings, LatentPrior
from textebm.prior.sampler import potential_and_gradient
from textebm.prior.sampling import sample
from textebm.prior.transport import Ladder

DIM, LEVELS, ROWS = 6, 4, 9
HEADS = {"sentiment": 2, "code": 5}


def energy(spectral_norm: bool = False, heads: dict[str, int] = HEADS) -> EnergyNet:
    torch.manual_seed(0)
    net = EnergyNet(DIM, LEVELS, heads, hidden_size=16, num_blocks=2, spectral_norm=spectral_norm).eval()
    torch.nn.init.normal_(net.outputs.weight)
    torch.nn.init.normal_(net.outputs.bias)
    return net


def prior(net: EnergyNet | None = None, **options: object) -> LatentPrior:
    schedule = NoiseSchedule(log_snr_ladder(LEVELS, 3.0, -3.0))
    return LatentPrior(DIM, net or energy(), schedule, **options).eval()  # type: ignore[arg-type]


def by_autograd(of: LatentPrior, level: Tensor, condition: Condition, w: Tensor) -> tuple[Tensor, Tensor]:
    return potential_and_gradient(lambda point: of.potential(point, level, condition), w)


CONDITIONS = {
    "free": FREE,
    "one head": Condition({"code": torch.arange(ROWS) % 5}, 1.0),
    "two heads, strong, some rows free": Condition(
        {"sentiment": torch.arange(ROWS) % 3 - 1, "code": torch.arange(ROWS) % 6 - 1}, 3.0
    ),
}


@pytest.mark.parametrize("symbol_levels", ["all", "first"])
@pytest.mark.parametrize("condition", CONDITIONS.values(), ids=CONDITIONS.keys())
def test_value_and_gradient_are_those_of_autograd(condition: Condition, symbol_levels: str) -> None:
    of = prior(symbol_levels=symbol_levels)
    level, w = torch.arange(ROWS) % LEVELS, torch.randn(ROWS, DIM)
    potential = fixed_potential(of, level, condition)
    assert isinstance(potential, FixedPotential)
    value, gradient = potential_and_gradient(potential, w)
    expected_value, expected_gradient = by_autograd(of, level, condition, w)
    assert expected_gradient.norm() > 0.1
    torch.testing.assert_close(value, expected_value, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(potential(w), expected_value, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradient, expected_gradient, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("net", [energy(spectral_norm=True), energy(heads={})], ids=["spectral norm", "no heads"])
def test_spectral_norm_and_a_plain_potential(net: EnergyNet) -> None:
    of = prior(net)
    level, w = torch.arange(ROWS) % LEVELS, torch.randn(ROWS, DIM)
    value, gradient = potential_and_gradient(fixed_potential(of, level), w)
    expected_value, expected_gradient = by_autograd(of, level, FREE, w)
    torch.testing.assert_close(value, expected_value, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradient, expected_gradient, atol=1e-5, rtol=1e-5)


def test_one_level_for_all_rows_may_be_a_scalar() -> None:
    net, w = energy(), torch.randn(ROWS, DIM)
    one, many = fix(net, torch.tensor(2)), fix(net, torch.full((ROWS,), 2))
    for a, b in zip(one.logits(w)[0], many.logits(w)[0], strict=True):
        torch.testing.assert_close(a, b)


def test_bfloat16_is_near_and_not_the_same() -> None:
    of = prior(chain=ChainSettings(dtype=torch.bfloat16))
    level, w = torch.arange(ROWS) % LEVELS, torch.randn(ROWS, DIM)
    value, gradient = potential_and_gradient(fixed_potential(of, level), w)
    expected_value, expected_gradient = by_autograd(of, level, FREE, w)
    assert value.dtype == gradient.dtype == torch.float32
    assert 0 < (gradient - expected_gradient).norm() / expected_gradient.norm() < 0.03
    assert (value - expected_value).abs().max() < 0.2


def test_what_has_no_closed_gradient_goes_by_autograd() -> None:
    level = torch.zeros(ROWS, dtype=torch.long)
    ladder = prior(transport=Ladder((3, 3), 8), layers=(3, 3))
    assert not isinstance(fixed_potential(ladder, level), FixedPotential)
    w = torch.randn(ROWS, DIM)
    torch.testing.assert_close(fixed_potential(ladder, level)(w), ladder.potential(w, level))


@pytest.mark.parametrize("metropolis", [False, True])
@pytest.mark.parametrize("condition", CONDITIONS.values(), ids=CONDITIONS.keys())
def test_samples_are_those_of_autograd(condition: Condition, metropolis: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    of = prior(chain=ChainSettings(steps=5, metropolis=metropolis))

    def draw() -> Tensor:
        return sample(of, ROWS, condition=condition, generator=torch.Generator().manual_seed(3)).z

    fast = draw()
    monkeypatch.setattr(fixed, "Identity", Ladder)  # the identity is not recognised: every gradient by autograd
    torch.testing.assert_close(fast, draw(), atol=1e-4, rtol=1e-4)


def test_the_chain_leaves_the_gradient_that_the_next_level_starts_from() -> None:
    of = prior(chain=ChainSettings(steps=2, start="tweedie"))
    whole = sample(of, 3, generator=torch.Generator().manual_seed(0))
    assert whole.evaluations == LEVELS * 3
    restarted = sample(of, 3, start=(2, whole.z), generator=torch.Generator().manual_seed(0))
    assert restarted.evaluations == 2 * 3 + 1, "where no chain ended, the first start costs an evaluation"
    plain = prior(chain=replace(of.chain, start="reference"))
    assert sample(plain, 3).evaluations == LEVELS * 3
