"""Does the likelihood know its own kind of text? Against the evaluated sentences stand those of other corpora, the same
sentences with their words shuffled, and those of a class that the training split has no sentence of (a model trained
with one class left out). Three scores, each a token, so that length alone says little: the bound (the negative ELBO at
one draw), the unnormalised log-posterior, and a language model's −log p(x).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from textebm.evaluation import language
from textebm.evaluation.metric import UndefinedMetricError
from textebm.evaluation.state import EvaluationState, choose

if TYPE_CHECKING:
    from textebm.api import TextEBM
    from textebm.use.reading import Encoding

MOST = 2000  # sentences of either kind


@dataclass(frozen=True)
class Separation:
    """auroc: .5 by chance. auprc: average precision with the outliers as positives, by chance their share."""

    auroc: float
    auprc: float
    n: int


def separation(inside: ArrayLike, outside: ArrayLike) -> Separation:
    """How well a score, higher for outliers, tells *outside* from *inside*. Undefined unless both have a value."""
    pair = [np.nan_to_num(np.asarray(each, dtype=np.float64), posinf=1e9) for each in (inside, outside)]
    if not len(pair[0]) or not len(pair[1]):
        raise UndefinedMetricError("there is no such sentence")
    truth, score = np.repeat([0, 1], [len(each) for each in pair]), np.concatenate(pair)
    return Separation(float(roc_auc_score(truth, score)), float(average_precision_score(truth, score)), len(truth))


def bound_score(model: TextEBM, texts: list[str], seed: int = 0) -> NDArray[np.float64]:
    """An upper bound of −log p(x), nats a token. (n,)"""
    terms = model.elbo_terms(texts, seed=seed)
    return ((terms.reconstruction_nll + terms.kl).double() / terms.num_tokens.double().clamp_min(1)).numpy()


def posterior_score(model: TextEBM, texts: list[str], seed: int = 0) -> NDArray[np.float64]:
    """−(log p(x|z) + F(z) − ½‖z‖²) at the posterior mean, nats a token: the log-posterior without its normaliser, the
    decision function of Pang et al. 2020 (arXiv 2006.08205) for anomalies. (n,)"""
    z = model.encode(texts).mean
    score = model.reconstruction_losses(texts).double() + model.energies(z).double() + 0.5 * z.double().square().sum(-1)
    return (score / model.elbo_terms(texts, seed=seed).num_tokens.double().clamp_min(1)).numpy()


def left_out_classes(state: EvaluationState) -> dict[str, list[int]]:
    """The places of evaluated sentences whose class no training sentence has, by ``label_class``."""
    places: dict[str, list[int]] = {}
    for label in state.labels:
        rows, classes = state.known(label)
        if label not in state.corpus["train"].features:
            continue
        for missing in sorted(set(classes.tolist()) - set(state.corpus["train"][label])):
            name = state.data.features[label].names[missing]
            places[f"{label}_{name}"] = rows[classes == missing].tolist()
    return places


def add_outliers(state: EvaluationState, encoding: Encoding) -> None:
    state.progress("outliers")
    left_out = left_out_classes(state)
    strange = {place for places in left_out.values() for place in places}
    known = [text for i, text in enumerate(state.texts) if i not in strange]
    inside = [known[i] for i in choose(len(known), MOST, state.seed)]
    others = {name: [state.texts[i] for i in places] for name, places in left_out.items()}
    others |= {name: [text for text in texts if text.strip()] for name, texts in state.other_texts.items()}
    others["shuffled"] = shuffle_words(inside, state.seed)
    scores: dict[str, Callable[[list[str]], ArrayLike]] = {
        "": lambda texts: bound_score(state.model, texts, state.seed),
        "posterior_": lambda texts: posterior_score(state.model, texts, state.seed),
    }
    with state.result.noting("outliers by the language model"):
        language_model = language.train_model(state)
        scores["rnn_lm_"] = lambda texts: language_model.score(texts).per_token.numpy()
    for whose, score in scores.items():
        own = score(inside)
        for name, texts in others.items():
            with state.result.noting(f"{whose}outlier_auroc_{name}"):
                drawn = [texts[i] for i in choose(len(texts), len(inside), state.seed)]  # no more than there are inside
                seen = separation(own, score(drawn) if drawn else [])
                state.result.add(f"{whose}outlier_auroc_{name}", seen.auroc, seen.n)
                state.result.add(f"{whose}outlier_auprc_{name}", seen.auprc, seen.n)


def shuffle_words(texts: Sequence[str], seed: int) -> list[str]:
    """The sentences in another order of words, those that have one."""
    rng, mixed = np.random.default_rng(seed), []
    for text in texts:
        words = text.split()
        if len(set(words)) < 2:
            continue
        new = words
        while new == words:
            new = rng.permutation(words).tolist()
        mixed.append(" ".join(new))
    return mixed
