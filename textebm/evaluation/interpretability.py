"""Do the found codes mean something that people named, and can they be steered?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_mutual_info_score, homogeneity_completeness_v_measure, mutual_info_score
from sklearn.metrics.cluster import contingency_matrix
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from textebm.evaluation.control import CodeJudge, Control, Writer, control_accuracy
from textebm.evaluation.metric import UndefinedMetricError

if TYPE_CHECKING:
    from textebm.evaluation.protocols import Model


@dataclass(frozen=True)
class CodeLabelMatch:
    """How codes match a label over the n sentences that have one. `permuted_*`: the mean for the same codes shuffled.

    purity: share of sentences that have their code's commonest label. mutual_information: I(code; label), nats.
    Homogeneity and purity rise with the number of codes whatever they mean: read them beside their permuted values, or
    read AMI, which is 0 by chance.
    """

    homogeneity: float
    v_measure: float
    ami: float
    purity: float
    mutual_information: float
    permuted_homogeneity: float
    permuted_v_measure: float
    permuted_purity: float
    n: int


def match_codes_to_labels(
    codes: ArrayLike, labels: ArrayLike, *, seed: int = 0, permutations: int = 5
) -> CodeLabelMatch:
    """Compare codes (n,) with labels (n,), leaving out sentences with a missing (negative) label.

    AMI uses the arithmetic mean of the entropies. Undefined unless two labels occur: any codes are homogeneous in a
    single one.
    """
    codes, labels = np.asarray(codes), np.asarray(labels)
    if codes.shape != labels.shape or codes.ndim != 1:
        raise ValueError(f"expected codes and labels of one shape (n,), got {codes.shape} and {labels.shape}")
    present = labels >= 0
    codes, labels = codes[present], labels[present]
    if len(np.unique(labels)) < 2:
        raise UndefinedMetricError("fewer than two different labels occur")
    homogeneity, _, v_measure = homogeneity_completeness_v_measure(labels, codes)
    rng = np.random.default_rng(seed)
    mixed = [rng.permutation(codes) for _ in range(permutations)]
    shuffled = [homogeneity_completeness_v_measure(labels, each) for each in mixed]
    return CodeLabelMatch(
        homogeneity=float(homogeneity),
        v_measure=float(v_measure),
        ami=float(adjusted_mutual_info_score(labels, codes)),
        purity=purity(codes, labels),
        mutual_information=max(float(mutual_info_score(labels, codes)), 0.0),
        permuted_homogeneity=float(np.mean([h for h, _, _ in shuffled])),
        permuted_v_measure=float(np.mean([v for _, _, v in shuffled])),
        permuted_purity=float(np.mean([purity(each, labels) for each in mixed])),
        n=int(present.sum()),
    )


def purity(codes: ArrayLike, labels: ArrayLike) -> float:
    """Share of sentences whose label is the commonest of their code (Manning et al. 2008). codes, labels (n,)"""
    counts = contingency_matrix(labels, codes)
    return float(counts.max(axis=0).sum() / counts.sum())


def layer_probes(
    means: ArrayLike, labels: ArrayLike, layers: Sequence[int], *, seed: int = 0
) -> tuple[list[float], float, int]:
    """What each layer of the latent alone says of a label: the accuracy of a logistic regression on that layer's
    posterior means.

    means (n, d), labels (n,), negative where missing; layers: dimensions, top first. Fitted on a random half of the
    labelled sentences, measured on the other. Gives the accuracies in the order of *layers*, the share of the commonest
    label of the fitted half in the other (what no information gives), and how many sentences were measured. Undefined
    unless each half has ten sentences and the fitted one two labels.
    """
    means, labels = np.asarray(means, dtype=np.float64), np.asarray(labels)
    if means.ndim != 2 or means.shape != (len(labels), sum(layers)):
        raise ValueError(f"expected means of shape ({len(labels)}, {sum(layers)}), got {means.shape}")
    present = np.random.default_rng(seed).permutation(np.flatnonzero(labels >= 0))
    fitted, measured = present[: len(present) // 2], present[len(present) // 2 :]
    if len(fitted) < 10 or len(np.unique(labels[fitted])) < 2:
        raise UndefinedMetricError("too few labelled sentences to fit a probe and to measure it")
    accuracies = []
    for part in np.split(means, np.cumsum(layers)[:-1], axis=1):
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(part[fitted], labels[fitted])
        accuracies.append(float(probe.score(part[measured], labels[measured])))
    commonest = np.bincount(labels[fitted]).argmax()
    return accuracies, float((labels[measured] == commonest).mean()), len(measured)


def code_agreement(
    model: Model,
    head: str,
    n_per_code: int,
    *,
    codes: Sequence[int] | None = None,
    strength: float | None = None,
    seed: int = 0,
    writer: Writer | None = None,
) -> Control:
    """Share of sentences generated under code k that encode back to k; *n_per_code* for each of *codes* (those in
    use; default all).
    """
    classes = model.heads[head].classes
    names = list(classes) if codes is None else [classes[code] for code in codes]
    return control_accuracy(
        model, head, CodeJudge(model, head), n_per_code, strength=strength, seed=seed, classes=names, writer=writer
    )
