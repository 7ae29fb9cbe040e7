"""The chunked cross-entropy beside a weight that rests."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from textebm.networks import softmax


@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("rests", ["weight", "bias", "hidden"])
def test_a_gradient_that_nobody_wants_is_not_made(rests: str, alike: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(softmax, "LEAST_ROWS", 1)
    monkeypatch.setitem(softmax.CHUNK_BYTES, "cpu", 4 * 50 * 30)
    inputs = {"hidden": torch.randn(100, 6), "weight": torch.randn(50, 6), "bias": torch.randn(50)}
    wanted = [each.requires_grad_() for name, each in inputs.items() if name != rests]
    targets, scale = torch.randint(50, (100,)), torch.full((100,), 0.3) if alike else torch.rand(100)
    ours = softmax.linear_cross_entropy(**inputs, targets=targets)
    kept = [each.shape for each in ours.grad_fn.saved_tensors if each is not None]  # type: ignore[union-attr]
    assert kept.count(inputs[rests].shape) == 1, "the input itself, and no gradient of its form"
    theirs = F.cross_entropy(
        F.linear(**{k.replace("hidden", "input"): v for k, v in inputs.items()}), targets, reduction="none"
    )
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    ways = [torch.autograd.grad((nll * scale).sum(), wanted) for nll in (ours, theirs)]
    for one, other in zip(*ways, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_chunks_have_rows_enough_for_a_large_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk reads the whole weight, so that few rows at a time read it often."""
    rows: list[int] = []
    product = torch.Tensor.softmax
    monkeypatch.setattr(torch.Tensor, "softmax", lambda self, dim: rows.append(len(self)) or product(self, dim))
    monkeypatch.setitem(softmax.CHUNK_BYTES, "cpu", 4 * 1000 * 64)
    softmax.linear_cross_entropy(
        torch.randn(600, 4), torch.randn(1000, 4), torch.zeros(1000), torch.zeros(600, dtype=torch.long)
    )
    assert rows == [256, 256, 256]
