"""The quick way to the most probable word finds the same word."""

from __future__ import annotations

import pytest
import torch

from textebm.networks import best_word
from textebm.networks.best_word import LARGE, BestWord

VOCABULARY, SIZE = LARGE, 32


@pytest.fixture
def words() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(VOCABULARY, SIZE), torch.randn(VOCABULARY)


def screened(weight: torch.Tensor, bias: torch.Tensor, banned: list[int]) -> BestWord:
    found = BestWord(weight, bias, banned)
    assert found.small is not None
    return found


@pytest.fixture
def any_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU without bfloat16 products computes them too, only slowly."""
    monkeypatch.setattr(best_word, "has_bfloat16_products", lambda device: True)


@pytest.mark.parametrize("rows", [1, 64, 300])
def test_it_is_the_argmax_in_float32(words: tuple[torch.Tensor, torch.Tensor], any_hardware: None, rows: int) -> None:
    weight, bias = words
    hidden = torch.randn(rows, SIZE)
    logits = hidden @ weight.t() + bias
    first = logits.argmax(-1)
    assert torch.equal(screened(weight, bias, [])(hidden), first)
    banned = first.unique().tolist()
    logits[:, banned] = -torch.inf
    assert torch.equal(screened(weight, bias, banned)(hidden), logits.argmax(-1))


def test_near_ties_are_settled_in_float32(words: tuple[torch.Tensor, torch.Tensor], any_hardware: None) -> None:
    weight, bias = words
    hidden = torch.randn(200, SIZE)
    logits = hidden @ weight.t() + bias
    best = logits.argmax(-1).unique()
    nearly = 1 + 1e-4 * (-1) ** torch.arange(len(best))[:, None]  # far within bfloat16's error of the best
    twins = torch.cat([weight, weight[best] * nearly])
    more = torch.cat([bias, bias[best]])
    wanted = (hidden @ twins.t() + more).argmax(-1)
    assert (wanted >= VOCABULARY).any() and (wanted < VOCABULARY).any()
    assert torch.equal(screened(twins, more, [])(hidden), wanted)


def test_a_small_vocabulary_and_other_hardware_take_the_plain_way(
    words: tuple[torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    weight, bias = words
    assert BestWord(weight[:100], bias[:100], []).small is None
    monkeypatch.setattr(best_word, "has_bfloat16_products", lambda device: False)
    plain = BestWord(weight, bias, [3])
    hidden = torch.randn(5, SIZE)
    logits = hidden @ weight.t() + bias
    logits[:, 3] = -torch.inf
    assert plain.small is None and torch.equal(plain(hidden), logits.argmax(-1))
