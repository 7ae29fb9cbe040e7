"""Schedules, free bits, the bottleneck and clustering, by hand-worked numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_mutual_info_score

from textebm.objective.bottleneck import symbol_mutual_information
from textebm.objective.clustering import align, cluster_latents, find_clusters, label_effects, without_labels
from textebm.objective.schedules import free_bits, kl_weight, learning_rate_factor


@pytest.mark.parametrize(
    "schedule, progress, expected",
    [
        ("constant", 0.0, 0.8),
        ("constant", 1.0, 0.8),
        ("linear", 0.0, 0.0),
        ("linear", 0.1, 0.16),
        ("linear", 0.25, 0.4),
        ("linear", 0.5, 0.8),
        ("linear", 1.0, 0.8),
        # four cycles, each a ramp over its first half: one eighth of the whole
        ("cyclical", 0.0, 0.0),
        ("cyclical", 0.0625, 0.4),
        ("cyclical", 0.125, 0.8),
        ("cyclical", 0.2, 0.8),
        ("cyclical", 0.25, 0.0),
        ("cyclical", 0.3125, 0.4),
        ("cyclical", 0.75, 0.0),
        ("cyclical", 0.9375, 0.8),
        ("cyclical", 1.0, 0.8),
    ],
)
def test_kl_weight(schedule: str, progress: float, expected: float) -> None:
    found = kl_weight(schedule, progress, weight=0.8, warmup=0.5)
    assert found == pytest.approx(expected, abs=1e-12)


def test_kl_weight_without_warmup_is_constant() -> None:
    assert kl_weight("linear", 0.0, weight=0.3, warmup=0) == kl_weight("cyclical", 0.0, weight=0.3, warmup=0) == 0.3


def test_free_bits() -> None:
    kl = torch.tensor([[0.1, 2.0, 0.6], [0.3, 4.0, 0.2]], requires_grad=True)  # means .2, 3, .4
    assert free_bits(kl, 0.0).item() == pytest.approx(3.6)
    total = free_bits(kl, 0.3)
    assert total.item() == pytest.approx(0.3 + 3.0 + 0.4)  # the batch's mean is what is floored, not each sentence
    total.backward()
    torch.testing.assert_close(kl.grad, torch.tensor([[0.0, 0.5, 0.5]] * 2))


def test_learning_rate_factor() -> None:
    factors = [learning_rate_factor(step, 1000, warmup=100, final=0.02) for step in range(1001)]
    assert factors[0] == pytest.approx(0.01) and factors[49] == pytest.approx(0.5) and factors[99] == factors[100] == 1
    assert factors[550] == pytest.approx(0.51)  # half-way down the cosine: (1 + .02)/2
    assert factors[1000] == pytest.approx(0.02)
    assert all(a > b for a, b in zip(factors[100:], factors[101:], strict=False))
    assert learning_rate_factor(5000, 1000) == pytest.approx(0.02), "past the end it stays"
    assert [learning_rate_factor(s, 20) for s in (0, 1)] == [0.5, 1.0], "a short stage warms up for a tenth of it"
    assert learning_rate_factor(0, 1) == 1.0


def test_mutual_information_closed_forms() -> None:
    k = 5
    assert symbol_mutual_information(torch.zeros(7, k)).item() == pytest.approx(0.0, abs=1e-6)  # knows nothing
    certain = 1000 * torch.eye(k)
    assert symbol_mutual_information(certain).item() == pytest.approx(math.log(k), abs=1e-5)  # each code once
    assert symbol_mutual_information(certain[:1].repeat(6, 1)).item() == pytest.approx(0.0, abs=1e-6)  # one code only
    assert symbol_mutual_information(certain[[0, 0, 1, 2]]).item() == pytest.approx(1.5 * math.log(2), abs=1e-5)
    p = torch.tensor([[0.9, 0.1], [0.1, 0.9]])  # a binary symmetric channel: ln 2 − H(.1)
    capacity = math.log(2) + 0.9 * math.log(0.9) + 0.1 * math.log(0.1)
    assert symbol_mutual_information(p.log()).item() == pytest.approx(capacity, abs=1e-6)


def test_mutual_information_has_a_gradient_that_raises_it() -> None:
    logits = torch.randn(32, 4, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    before = symbol_mutual_information(logits)
    (gradient,) = torch.autograd.grad(before, logits)
    assert symbol_mutual_information(logits.detach() + 5 * gradient) > before + 0.01


def test_align_undoes_a_permutation() -> None:
    rng = np.random.default_rng(0)
    previous = rng.integers(6, size=500)
    permutation = np.array([3, 0, 5, 1, 4, 2])
    assert (align(permutation[previous], previous, 6) == previous).all()
    noisy = previous.copy()
    noisy[:60] = rng.integers(6, size=60)
    assert (align(permutation[noisy], previous, 6) == noisy).all()
    unknown = previous.copy()
    unknown[::3] = -1  # rows without a name yet are renamed with the others
    assert (align(permutation[previous], unknown, 6) == previous).all()
    found = align(permutation[previous], np.full(500, -1), 6)
    assert sorted(set(found)) == list(range(6)), "names stay a permutation even where nothing is known"


def blobs(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Five directions in eight dimensions, well apart; lengths vary, since only directions count."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(5, size=n)
    directions = np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))[0][:5]
    points = directions[labels] * rng.uniform(4, 5, size=(n, 1)) + 0.15 * rng.normal(size=(n, 8))
    return points.astype(np.float32), labels


def test_clustering_finds_separated_blobs() -> None:
    means, labels = blobs(600)
    found = cluster_latents(means, 5, components=4, seed=0)
    assert found.dtype == np.int64 and found.shape == (600,) and set(found) == set(range(5))
    assert adjusted_mutual_info_score(labels, found) == pytest.approx(1.0)
    assert (found == cluster_latents(means, 5, components=4, seed=0)).all()


def test_clustering_keeps_the_last_epochs_names() -> None:
    means, _ = blobs(600)
    previous = cluster_latents(means, 5, components=4, seed=0)
    rotation = np.linalg.qr(np.random.default_rng(5).normal(size=(8, 8)))[0].astype(np.float32)
    differ = 0
    for seed in (1, 2, 3):  # the encoder moves on and k-means starts elsewhere: the names stay
        assert (cluster_latents(means @ rotation, 5, components=4, seed=seed, previous=previous) == previous).all()
        differ += int((cluster_latents(means @ rotation, 5, components=4, seed=seed) != previous).any())
    assert differ > 0, "the test must be able to fail"


def test_clustering_of_fewer_rows_than_classes() -> None:
    means, _ = blobs(3)
    found = cluster_latents(means, 5, components=16, seed=0)
    assert set(found) <= set(range(5)) and found.shape == (3,)


def test_without_labels_removes_what_labels_explain() -> None:
    rng = np.random.default_rng(0)
    labels, topics = rng.integers(2, size=800), rng.integers(3, size=800)
    directions = np.eye(6)
    means = 8 * directions[labels] + 2 * directions[2 + topics] + 0.1 * rng.normal(size=(800, 6))

    def residuals(of: list[np.ndarray], sizes: list[int]) -> np.ndarray:
        given = means.astype(np.float32)
        return without_labels(given, of, sizes, label_effects(given, of, sizes))

    rest = residuals([labels], [2])
    for k in range(2):  # nothing linear of the labels is left: the class means agree
        np.testing.assert_allclose(rest[labels == k].mean(0), 0, atol=1e-3)
    found = cluster_latents(rest, 3, components=6, seed=0)
    assert adjusted_mutual_info_score(topics, found) > 0.99
    assert rest.dtype == np.float32
    missing = np.where(rng.random(800) < 0.5, -1, labels)
    assert np.isfinite(residuals([missing, np.full(800, -1)], [2, 0])).all()
    np.testing.assert_allclose(residuals([], []), means - means.mean(0), atol=1e-5)


def test_cells_say_of_any_row_which_cluster_it_is_in() -> None:
    means, _ = blobs(200)
    labels = np.random.default_rng(1).integers(3, size=len(means))
    previous = cluster_latents(means, 5, components=4, seed=3)
    for given in (None, [labels]):
        found, cells = find_clusters(means, 5, components=4, seed=0, previous=previous, labels=given)
        assert (cells.assign(means, given) == found).mean() > 0.99
        assert (found == previous).mean() > 0.95, "named after those before"
        near = means + np.float32(1e-4)
        assert (cells.assign(near, given) == found).mean() > 0.99
