"""What every evaluation measures of symbols: what layers carry, what codes mean, whether both can be asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from textebm.evaluation import control, fluency, guidance, interpretability, latent
from textebm.evaluation.interpretability import CodeLabelMatch
from textebm.evaluation.metric import UndefinedMetricError
from textebm.evaluation.protocols import Encoding
from textebm.evaluation.setting import MAX_JUDGE_SENTENCES, Setting, judge_of, some_rows, texts_of

KEPT_PER_CLASS, KEPT_PER_CODE = 10, 3
MAX_EXAMPLES = 100  # to generate by
MATCHES = (
    "homogeneity",
    "v_measure",
    "ami",
    "purity",
    "mutual_information",
    "permuted_homogeneity",
    "permuted_v_measure",
    "permuted_purity",
)


def add_match(run: Setting, match: CodeLabelMatch, label: str, head: str) -> None:
    for metric in MATCHES:
        run.result.add(run.own(f"{metric}_{label}", head), getattr(match, metric), match.n)


def probes(run: Setting, encoding: Encoding) -> None:
    """How much of each label each layer carries, where there are several."""
    layers = tuple(run.model.layers)
    if len(layers) < 2:
        return
    run.progress("probes of the layers")
    for label in run.labels:
        try:
            found, base, n = interpretability.layer_probes(
                encoding.mean.numpy(), run.data[label], layers, seed=run.seed
            )
        except UndefinedMetricError as reason:
            run.result.note(f"probe_{label}: left out, {reason}")
            continue
        run.result.add(f"probe_base_{label}", base, n)
        for number, accuracy in zip(range(len(layers), 0, -1), found, strict=True):
            run.result.add(f"probe_{label}_layer{number}", accuracy, n)


def codes(run: Setting, encoding: Encoding) -> None:
    """Information and use of every head; for unsupervised heads also what the codes mean and whether they can be
    steered.
    """
    result, n = run.result, len(run.texts)
    for head, probabilities in encoding.probabilities.items():
        result.measure(run.own("mutual_information_zy", head), n, latent.mutual_information_zy, probabilities)
    if not run.unsupervised:
        result.note("no unsupervised head: no code metrics")
    for head in run.unsupervised:
        run.progress(f"codes of {head}")
        found_codes = encoding.codes[head]
        used = latent.codes_in_use(found_codes)
        result.add(run.own("codes_in_use", head), len(used), n)
        result.measure(run.own("code_perplexity", head), n, latent.code_perplexity, found_codes)
        for label in run.labels:
            try:
                match = interpretability.match_codes_to_labels(
                    found_codes.numpy(), np.array(run.data[label]), seed=run.seed
                )
            except UndefinedMetricError as reason:
                result.note(f"codes of {head} against {label}: left out, {reason}")
                continue
            add_match(run, match, label, head)
        per_code = max(1, run.samples // len(used))
        found = interpretability.code_agreement(run.model, head, per_code, codes=used, seed=run.seed, writer=run.write)
        result.add(run.own("code_agreement", head), found.accuracy, found.n)
        for code, texts in found.texts.items():
            result.samples[f"{head}={code}"] = texts[:KEPT_PER_CODE]


def head_accuracies(run: Setting, encoding: Encoding) -> None:
    """Each labelled head on the evaluated sentences, beside the commonest class and TF-IDF with logistic regression,
    both fitted on the labels that the head was shown."""
    for head in run.labelled:
        column, classes = run.model.heads[head].column, run.model.heads[head].classes
        if column not in run.data.features:
            continue
        truth = np.array(run.data[column])
        known = np.flatnonzero(truth >= 0)
        if not len(known):
            continue
        run.progress(f"accuracy of {head}")
        truth, n, result = truth[known], len(known), run.result
        result.add(f"head_accuracy_{head}", float((encoding.codes[head].numpy()[known] == truth).mean()), n)
        shown = run.shown_labels.get(head)
        limit = "all labels of train" if shown is None else f"{len(shown):,} labels"
        result.settings[f"head_accuracy_{head}"] = f"p(y|z) of a model that saw {limit}"
        train = run.corpus["train"]
        if column not in train.features:
            continue
        train = some_rows(train if shown is None else train.select(shown), MAX_JUDGE_SENTENCES, run.seed)
        labels = np.array(train[column])
        if (labels >= 0).any():
            commonest = np.bincount(labels[labels >= 0]).argmax()
            result.add(f"majority_accuracy_{head}", float((truth == commonest).mean()), n)
        try:
            judge = control.ClassifierJudge.fit(list(train["text"]), labels.tolist(), classes, run.seed)
        except UndefinedMetricError as reason:
            result.note(f"tfidf_accuracy_{head}: left out, {reason}")
            continue
        right = control.accuracy(judge.predict([run.texts[i] for i in known]), [classes[k] for k in truth])
        result.add(f"tfidf_accuracy_{head}", right, n)


def controlled(run: Setting, encoding: Encoding) -> None:
    result, model = run.result, run.model
    judges: dict[str, control.Judge] = {}
    for head in run.labelled:
        run.progress(f"control of {head}")
        try:
            judges[head] = judge_of(run, head)
        except UndefinedMetricError as reason:
            result.note(f"control_accuracy_{head}: left out, no judge: {reason}")
            continue
        _judge_accuracy(run, head, judges[head])
        found = control.control_accuracy(
            model, head, judges[head], run.samples_per_class, seed=run.seed, writer=run.write
        )
        result.add(f"control_accuracy_{head}", found.accuracy, found.n)
        diversity: list[float] = []
        for name, texts in found.texts.items():
            result.add(f"control_accuracy_{head}_{name}", found.per_class[name], len(texts))
            result.samples[f"{head}={name}"] = texts[:KEPT_PER_CLASS]
            if len(texts) > 1:
                diversity.append(fluency.self_bleu(texts))
        if diversity:
            result.add(f"control_self_bleu_{head}", math.fsum(diversity) / len(diversity), run.samples_per_class)

    classes: dict[str, Sequence[str]] = {head: model.heads[head].classes for head in judges}
    if run.unsupervised and judges:  # the first head's codes combine with the labelled symbols; only codes in use
        head = run.unsupervised[0]
        judges[head] = control.CodeJudge(model, head)
        classes[head] = [model.heads[head].classes[code] for code in latent.codes_in_use(encoding.codes[head])]
    for pair in combinations(judges, 2):
        run.progress(f"{pair[0]} with {pair[1]}")
        per_pair = max(1, run.samples_per_class // (len(classes[pair[0]]) * len(classes[pair[1]])))
        both = control.composition_accuracy(
            model, {head: judges[head] for head in pair}, per_pair, seed=run.seed, classes=classes, writer=run.write
        )
        result.add(f"composition_joint_{pair[0]}_{pair[1]}", both.joint, both.n)
        result.add(f"composition_geometric_{pair[0]}_{pair[1]}", both.geometric_mean, both.n)


def by_example(run: Setting, reconstructions: list[str]) -> None:
    """Likeness to examples, where the model can generate by them."""
    if not run.model.guided:
        return
    run.progress("generation by example")
    chosen = np.random.default_rng(run.seed).permutation(len(run.texts))[:MAX_EXAMPLES].tolist()
    examples, made = [run.texts[i] for i in chosen], [reconstructions[i] for i in chosen]
    try:
        found = guidance.likeness(run.model, examples, made, list(texts_of(run.corpus["train"])), seed=run.seed)
    except UndefinedMetricError as reason:
        run.result.note(f"like_similarity: left out, {reason}")
        return
    for name in ("generated", "free", "real", "reconstruction"):
        metric = "like_similarity" if name == "generated" else f"like_similarity_{name}"
        run.result.add(metric, getattr(found, name), found.n if name in ("generated", "free") else len(examples))


def _judge_accuracy(run: Setting, head: str, judge: control.Judge) -> None:
    column = run.model.heads[head].column
    if column not in run.data.features:
        run.result.note(f"judge_accuracy_{head}: left out, {run.result.split} has no column {column!r}")
        return
    names = run.data.features[column].names
    known = [(text, names[label]) for text, label in zip(run.texts, run.data[column], strict=True) if label >= 0]
    verdicts = judge.predict([text for text, _ in known])
    truth = [name for _, name in known]
    run.result.measure(f"judge_accuracy_{head}", len(known), control.accuracy, verdicts, truth)
