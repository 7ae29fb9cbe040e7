"""What every evaluation measures of symbols: what layers carry, what codes mean, whether both can be asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from textebm.evaluation import control, fluency, latent, likeness
from textebm.evaluation.assignments import Assignments, score_assignments
from textebm.evaluation.code_scores import detection, names_from_words, score_codes, shuffled, tfidf_judge
from textebm.evaluation.metric import UndefinedMetricError
from textebm.evaluation.probes import layer_probes
from textebm.evaluation.state import MAX_SENTENCES, EvaluationState, fit_classifier, some_rows
from textebm.text.history import texts_of
from textebm.use.attribution import deletion_test, usual_method

if TYPE_CHECKING:
    from textebm.use.reading import Encoding

NAMING = 5000  # training sentences from which a code gets its words
KEPT_PER_CLASS, KEPT_PER_CODE = 10, 3
MAX_EXAMPLES = 100  # to generate by
EXPLAINED = 200  # sentences whose words are deleted


def add_probes(state: EvaluationState, encoding: Encoding) -> None:
    """How much of each label each layer carries, where there are several."""
    layers = tuple(state.model.layers)
    if len(layers) < 2:
        return
    state.progress("probes of the layers")
    for label in state.labels:
        with state.result.noting(f"probe_{label}"):
            means, labels = encoding.mean.numpy(), state.data[label]
            accuracies, base, n = layer_probes(means, labels, layers, seed=state.seed)
            state.result.add(f"probe_base_{label}", base, n)
            for number, accuracy in zip(range(len(layers), 0, -1), accuracies, strict=True):
                state.result.add(f"probe_{label}_layer{number}", accuracy, n)


def code_metrics(match: Assignments) -> dict[str, float]:
    """The figures of a comparison by the catalogue's names, the label left out."""
    own, chance = match.pooled, match.random_pooled
    values = {
        "homogeneity": own.homogeneity,
        "v_measure": own.v_measure,
        "ami": own.ami,
        "purity": own.purity,
        "permuted_homogeneity": chance.homogeneity,
        "permuted_purity": chance.purity,
    }
    for size, batch in match.batches.items():
        values[f"homogeneity_batch{size}"] = batch.homogeneity
        values[f"permuted_homogeneity_batch{size}"] = match.random_batches[size].homogeneity
    return values


def add_codes(state: EvaluationState, encoding: Encoding) -> None:
    """Information of every head; for unsupervised heads also what the codes mean and whether they can be steered."""
    result, n = state.result, len(state.texts)
    for head, probabilities in encoding.probabilities.items():
        result.compute(state.own("mutual_information_zy", head), n, latent.mutual_information_zy, probabilities)
    if not state.unsupervised:
        result.note("no unsupervised head: no code metrics")
    for head in state.unsupervised:
        state.progress(f"codes of {head}")
        codes = encoding.codes[head]
        used = latent.codes_in_use(codes)
        result.add(state.own("codes_in_use", head), len(used), n)
        result.compute(state.own("code_perplexity", head), n, latent.code_perplexity, codes)
        for label in state.labels:
            with result.noting(f"codes of {head} against {label}"):
                match = score_assignments(codes.numpy(), np.array(state.data[label]), seed=state.seed)
                for metric, value in code_metrics(match).items():
                    result.add(state.own(f"{metric}_{label}", head), value, match.n)
        per_code = max(1, state.effort.samples // len(used))
        agreement = control.code_agreement(state.model, head, per_code, codes=used, seed=state.seed, **state.decoding)
        result.add(state.own("code_agreement", head), agreement.accuracy, agreement.n)
        for code, texts in agreement.texts.items():
            result.samples[f"{head}={code}"] = texts[:KEPT_PER_CODE]
        with result.noting(f"words of the codes of {head}"):
            _add_words(state, head, codes.numpy(), agreement.texts)


def _add_words(state: EvaluationState, head: str, codes: np.ndarray, generated: dict[str, list[str]]) -> None:
    """The scores that need no label: words from training sentences, measured on the evaluated ones, and on those
    generated under each code."""
    texts = texts_of(some_rows(state.train, NAMING, state.seed))
    naming = state.model.encode(texts).codes[head].numpy()
    scores = score_codes((texts, naming), (state.texts, codes), seed=state.seed)
    one, other = shuffled(naming, codes, state.seed)
    chance = score_codes((texts, one), (state.texts, other), seed=state.seed)
    for name in ("coherence", "diversity", "detection_auroc", "detection_f1", "intruder"):
        state.result.add(state.own(f"code_{name}", head), getattr(scores, name), len(codes))
    for name in ("coherence", "detection_f1"):
        state.result.add(state.own(f"permuted_code_{name}", head), getattr(chance, name), len(codes))
    classes = state.model.heads[head].classes
    asked = [classes.index(name) for name, own in generated.items() for _ in own]
    words = names_from_words(texts, naming, len(classes))
    written = [text for own in generated.values() for text in own]
    loop = detection(words, written, asked, tfidf_judge(state.texts))
    state.result.add(state.own("code_loop_auroc", head), loop.auroc, len(written))
    state.result.add(state.own("code_loop_f1", head), loop.f1, len(written))


def add_deletions(state: EvaluationState, encoding: Encoding) -> None:
    """Whether the words that are said to make a code do so: the deletion test (`textebm.use.attribution`)."""
    network, texts = state.model.network, state.texts[:EXPLAINED]
    for head in state.unsupervised:
        state.progress(f"words of the codes of {head}, deleted")
        found = deletion_test(network, texts, head, method=usual_method(network), seed=state.seed)
        if found.n:
            state.result.add(state.own("deleted_top_words", head), found.top, found.n)
            state.result.add(state.own("deleted_random_words", head), found.random, found.n)


def add_head_accuracies(state: EvaluationState, encoding: Encoding) -> None:
    """Each labelled head on the evaluated sentences, beside the commonest class and TF-IDF with logistic regression,
    both fitted on the labels that the head was shown."""
    for head, column in state.labelled.items():
        places, truth = state.known(column)
        if not len(places):
            continue
        state.progress(f"accuracy of {head}")
        result, n, classes = state.result, len(places), state.model.heads[head].classes
        result.add(f"head_accuracy_{head}", float((encoding.codes[head].numpy()[places] == truth).mean()), n)
        shown = state.shown_labels.get(head)
        limit = "all labels of train" if shown is None else f"{len(shown):,} labels"
        result.settings[f"head_accuracy_{head}"] = f"p(y|z) of a model that saw {limit}"
        if column not in state.train.features:
            continue
        train = state.train if shown is None else state.corpus["train"].select(shown)
        labels = np.array(train[column])
        if (labels >= 0).any():
            commonest = np.bincount(labels[labels >= 0]).argmax()
            result.add(f"majority_accuracy_{head}", float((truth == commonest).mean()), n)
        with result.noting(f"tfidf_accuracy_{head}"):
            if shown is None:
                judge = state.train_classifier(column)
            else:
                judge = fit_classifier(some_rows(train, MAX_SENTENCES, state.seed), column, state.seed)
            verdicts = judge.predict([state.texts[i] for i in places])
            result.add(f"tfidf_accuracy_{head}", control.accuracy(verdicts, [classes[k] for k in truth]), n)


def add_control(state: EvaluationState, encoding: Encoding) -> None:
    """Sentences under each class, and under each pair of classes of two heads."""
    result, model, n = state.result, state.model, state.effort.samples_per_class
    judges: dict[str, control.Judge] = {}
    for head in state.labelled:
        state.progress(f"control of {head}")
        try:
            judges[head] = state.judge(head)
        except UndefinedMetricError as reason:
            result.note(f"control_accuracy_{head}: left out, no judge: {reason}")
            continue
        _add_judge_accuracy(state, head, judges[head])
        own = control.control_accuracy(model, head, judges[head], n, seed=state.seed, **state.decoding)
        result.add(f"control_accuracy_{head}", own.accuracy, own.n)
        for name, texts in own.texts.items():
            result.add(f"control_accuracy_{head}_{name}", own.per_class[name], len(texts))
            result.samples[f"{head}={name}"] = texts[:KEPT_PER_CLASS]
        if n > 1:
            result.add(f"control_self_bleu_{head}", fluency.mean_self_bleu(own.texts.values()), n)

    classes: dict[str, Sequence[str]] = {head: model.heads[head].classes for head in judges}
    if state.unsupervised and judges:  # the first head's codes combine with the labelled symbols; only codes in use
        head = state.unsupervised[0]
        judges[head] = control.CodeJudge(model, head)
        classes[head] = [model.heads[head].classes[code] for code in latent.codes_in_use(encoding.codes[head])]
    for pair in combinations(judges, 2):
        state.progress(f"{pair[0]} with {pair[1]}")
        per_pair, two = max(1, n // math.prod(len(classes[head]) for head in pair)), {h: judges[h] for h in pair}
        both = control.composition_accuracy(model, two, per_pair, seed=state.seed, classes=classes, **state.decoding)
        result.add(f"composition_joint_{pair[0]}_{pair[1]}", both.joint, both.n)
        result.add(f"composition_geometric_{pair[0]}_{pair[1]}", both.geometric_mean, both.n)


def add_likeness(state: EvaluationState, reconstructions: list[str]) -> None:
    """Likeness to examples, where the model can generate by them."""
    if not state.model.guided:
        return
    state.progress("generation by example")
    chosen = np.random.default_rng(state.seed).permutation(len(state.texts))[:MAX_EXAMPLES].tolist()
    examples, made = [state.texts[i] for i in chosen], [reconstructions[i] for i in chosen]
    with state.result.noting("like_similarity"):
        cosines = likeness.likeness(state.model, examples, made, state.train_texts, seed=state.seed)
        state.result.add("like_similarity", cosines.generated, cosines.n)
        state.result.add("like_similarity_free", cosines.free, cosines.n)
        state.result.add("like_similarity_real", cosines.real, len(examples))
        state.result.add("like_similarity_reconstruction", cosines.reconstruction, len(examples))


def _add_judge_accuracy(state: EvaluationState, head: str, judge: control.Judge) -> None:
    column = state.labelled[head]
    if column not in state.data.features:
        state.result.note(f"judge_accuracy_{head}: left out, {state.result.split} has no column {column!r}")
        return
    names, (places, classes) = state.data.features[column].names, state.known(column)
    verdicts = judge.predict([state.texts[i] for i in places])
    truth = [names[k] for k in classes]
    state.result.compute(f"judge_accuracy_{head}", len(places), control.accuracy, verdicts, truth)
