"""Does the likelihood know its own kind of text? Sentences of another corpus, and the same sentences with their words
shuffled, against those of the evaluated split; the score is log p(x) a token (its lower bound, the ELBO at one draw),
so that length alone says little. A language model's likelihood stands beside it.
"""

from __future__ import annotations

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from textebm.evaluation import language
from textebm.evaluation.metric import UndefinedMetricError
from textebm.evaluation.protocols import Encoding
from textebm.evaluation.setting import Setting

MOST = 2000  # sentences of either kind


def measure(run: Setting, encoding: Encoding) -> None:
    run.progress("outliers")
    own = run.texts[:MOST]
    others = {name: [text for text in texts if text.strip()][: len(own)] for name, texts in run.outliers.items()}
    others["shuffled"] = shuffled(own, run.seed)
    try:
        model = language.train_model(run)
    except UndefinedMetricError as reason:
        run.result.note(f"outliers by the language model: left out, {reason}")
        model = None
    inside = _elbo_per_token(run, own)
    inside_model = None if model is None else model.score(own).per_token.numpy()
    for name, texts in others.items():
        if not texts:
            run.result.note(f"outlier_auroc_{name}: left out, there is no such sentence")
            continue
        _add(run, "", name, inside, _elbo_per_token(run, texts))
        if model is not None and inside_model is not None:
            _add(run, "rnn_lm_", name, inside_model, model.score(texts).per_token.numpy())


def shuffled(texts: list[str], seed: int) -> list[str]:
    """The sentences in another order of words, those that have one."""
    rng, found = np.random.default_rng(seed), []
    for text in texts:
        words = text.split()
        if len(set(words)) < 2:
            continue
        new = words
        while new == words:
            new = rng.permutation(words).tolist()
        found.append(" ".join(new))
    return found


def _elbo_per_token(run: Setting, texts: list[str]) -> np.ndarray:
    """An upper bound of −log p(x), nats a token. (n,)"""
    terms = run.model.elbo_terms(texts, seed=run.seed)
    return ((terms.reconstruction_nll + terms.kl).double() / terms.num_tokens.double().clamp_min(1)).numpy()


def _add(run: Setting, prefix: str, name: str, inside: np.ndarray, outside: np.ndarray) -> None:
    truth = np.concatenate([np.zeros(len(inside)), np.ones(len(outside))])
    score = np.nan_to_num(np.concatenate([inside, outside]), posinf=1e9)
    run.result.add(f"{prefix}outlier_auroc_{name}", float(roc_auc_score(truth, score)), len(truth))
    run.result.add(f"{prefix}outlier_auprc_{name}", float(average_precision_score(truth, score)), len(truth))
