"""The whole evaluation of one model on one corpus.

What a model or a corpus cannot give (no unsupervised head, no labels, one sentence) is left out and said in the
notes; nothing is filled in. Everything is a function of the seed.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import combinations
from typing import Literal, Protocol

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict
from torch import Tensor

from textebm.errors import CorpusError, did_you_mean
from textebm.evaluation import context, control, fluency, guidance, interpretability, latent, reconstruction
from textebm.evaluation.metric import Evaluation, UndefinedMetricError
from textebm.text.history import texts_of

__all__ = ["Evaluation", "Model", "evaluate"]

MORE_STEPS = 4
MAX_POSTERIORS = 10_000  # for I(x; z), whose time is quadratic
MAX_EXAMPLES = 100  # to generate by
MAX_JUDGE_SENTENCES = 100_000
KEPT_FREE, KEPT_PER_CLASS, KEPT_PER_CODE, KEPT_PAIRS = 50, 10, 3, 20
PACKAGES = ("torch", "transformers", "sacrebleu", "scikit-learn", "textebm")


class Head(Protocol):
    """A symbol head; `column` None means unsupervised codes."""

    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def column(self) -> str | None: ...


class Encoding(Protocol):
    """mean, stddev (n, d); probabilities[head] (n, K); codes[head] (n,)."""

    @property
    def mean(self) -> Tensor: ...
    @property
    def stddev(self) -> Tensor: ...
    @property
    def probabilities(self) -> Mapping[str, Tensor]: ...
    @property
    def codes(self) -> Mapping[str, Tensor]: ...


class ElboTerms(Protocol):
    """Each (n,): nats per sentence, and tokens per sentence."""

    @property
    def reconstruction_nll(self) -> Tensor: ...
    @property
    def kl(self) -> Tensor: ...
    @property
    def num_tokens(self) -> Tensor: ...


class Model(Protocol):
    """What is asked of a model (`textebm.TextEBM` has it). It makes its own batches of whatever number it is given."""

    @property
    def heads(self) -> Mapping[str, Head]: ...
    @property
    def layers(self) -> Sequence[int]: ...
    @property
    def guided(self) -> bool: ...
    @property
    def reads_context(self) -> bool: ...
    def encode(self, texts: list[str], /) -> Encoding: ...
    def elbo_terms(self, texts: list[str], /, *, seed: int = 0) -> ElboTerms: ...
    def reconstruct(self, texts: list[str], /, *, decoding: Literal["greedy"] = "greedy") -> list[str]: ...
    def generate(
        self,
        n: int,
        /,
        *,
        symbols: dict[str, str | int] | None = None,
        strength: float | None = None,
        like: Sequence[str] = (),
        seed: int = 0,
        steps_factor: int = 1,
    ) -> list[str]: ...
    def sample_latents(
        self,
        n: int,
        /,
        *,
        symbols: dict[str, str | int] | None = None,
        strength: float | None = None,
        seed: int = 0,
        steps_factor: int = 1,
    ) -> Tensor: ...


@dataclass
class _Run:
    """What the parts of one evaluation share."""

    model: Model
    corpus: DatasetDict
    data: Dataset  # the sentences evaluated: a part of the split, without blanks
    texts: list[str]
    result: Evaluation
    seed: int
    samples: int
    samples_per_class: int
    judge_corpus: Dataset | None
    parser: control.Parser | None
    progress: Callable[[str], None]

    @property
    def unsupervised(self) -> list[str]:
        return [name for name, head in self.model.heads.items() if head.column is None]

    @property
    def labelled(self) -> list[str]:
        return [name for name, head in self.model.heads.items() if head.column is not None]

    def own(self, metric: str, head: str) -> str:
        """The metric's name for *head*: bare for the first unsupervised head, with the head's name for any other."""
        return metric if self.unsupervised[:1] == [head] else f"{metric}_{head}"


def evaluate(
    model: Model,
    corpus: DatasetDict,
    *,
    judge_corpus: Dataset | None = None,
    seed: int = 0,
    limit: int | None = None,
    split: str = "test",
    samples: int = 2000,
    samples_per_class: int = 500,
    parser: control.Parser | None = None,
    progress: Callable[[str], None] | None = None,
) -> Evaluation:
    """Measure *model* on *split* of *corpus*, against its train split.

    limit: use a seeded choice of so many sentences of the split (not the first ones: files may be sorted by label).
    samples: free samples; as many in all for code agreement. samples_per_class: sentences a class of each labelled
    head, and in all for each pair of heads. judge_corpus: labelled sentences that the model never saw, to fit judges
    on. parser: the exact parser of a generated corpus (it also judges grammaticality). progress is called with the
    name of each part as it starts.

    CorpusError if the split or the train split is missing or has no sentence.
    """
    if samples < 1 or samples_per_class < 1 or (limit is not None and limit < 1):
        raise ValueError(
            f"samples, samples_per_class and limit must be at least 1, got {samples}, {samples_per_class}, {limit}"
        )
    for name in ("train", split):
        if name not in corpus:
            raise CorpusError(f"the corpus has no split {name!r}{did_you_mean(name, list(corpus))}")
    result = Evaluation(seed=seed, split=split, versions=_versions())
    data = _choose(corpus[split], limit, seed, result)
    run = _Run(
        model,
        corpus,
        data,
        texts_of(data),
        result,
        seed,
        samples,
        samples_per_class,
        judge_corpus,
        parser,
        progress or (lambda name: None),
    )
    result.sizes = {
        "train": len(corpus["train"]),
        "split": len(corpus[split]),
        "evaluated": len(data),
        "samples": samples,
        "samples_per_class": samples_per_class,
    }
    if split != "test":
        result.note(f"measured on {split}, not on test")
    reconstructions = _reconstruction(run)
    encoding = _latent(run)
    _fluency(run, reconstructions)
    _probes(run, encoding)
    _codes(run, encoding)
    _control(run, encoding)
    _guidance(run, reconstructions)
    return result


def _choose(data: Dataset, limit: int | None, seed: int, result: Evaluation) -> Dataset:
    """The sentences with words, or a seeded choice of *limit* of them, in the order of the file."""
    written = np.array([i for i, text in enumerate(data["text"]) if text.strip()], dtype=int)
    if len(written) < len(data):
        result.note(f"{len(data) - len(written)} blank sentences of {result.split} left out")
    if len(written) == 0:
        raise CorpusError(f"the split {result.split!r} has no sentence with a word; evaluate on a split that has text")
    if limit is not None and limit < len(written):
        written = np.sort(np.random.default_rng(seed).choice(written, limit, replace=False))
    return data.select(written.tolist())


def _reconstruction(run: _Run) -> list[str]:
    run.progress("reconstruction")
    result, texts = run.result, run.texts
    found = run.model.reconstruct(texts, decoding="greedy")
    bleu = reconstruction.reconstruction_bleu(found, texts)
    result.sacrebleu_signature = bleu.signature
    result.add("reconstruction_bleu", bleu.score, len(texts))
    result.samples["reconstructed sentences"] = texts[:KEPT_PAIRS]
    result.samples["their reconstructions"] = found[:KEPT_PAIRS]

    run.progress("elbo")
    terms = run.model.elbo_terms(texts, seed=run.seed)
    nll, kl = terms.reconstruction_nll.double(), terms.kl.double()
    result.add("reconstruction_nll", float(nll.mean()), len(texts))
    result.add("kl", float(kl.mean()), len(texts))
    result.add("elbo", -float((nll + kl).mean()), len(texts))
    per_token = float((nll + kl).sum()) / max(float(terms.num_tokens.sum()), 1.0)
    ppl = math.exp(per_token) if per_token < 700 else math.inf  # math.exp would raise; infinity becomes a note
    result.add("ppl", ppl, len(texts))
    if run.model.reads_context:
        gains = context.context_gain(run.model, texts, float(nll.mean()), float(kl.mean()), seed=run.seed)
        for name, gain in gains.items():
            result.add(name, gain, len(texts))
    return found


def _latent(run: _Run) -> Encoding:
    run.progress("latent")
    result, n = run.result, len(run.texts)
    encoding = run.model.encode(run.texts)
    mean, stddev = encoding.mean, encoding.stddev
    result.measure("active_units", n, latent.active_units, mean)
    few = np.random.default_rng(run.seed).permutation(n)[:MAX_POSTERIORS].tolist()
    name = "mutual_information_xz"
    result.measure(name, len(few), latent.mutual_information_xz, mean[few], stddev[few], seed=run.seed)
    cap = math.log(len(few))
    if name in result.metrics and result.metrics[name].value > 0.9 * cap:
        result.note(f"{name} is near its cap, log n = {cap:.2f} nats: read it as 'at least'")
    result.measure("latent_stddev_posterior", n, latent.aggregate_stddev, mean, stddev)
    for name, factor in (("latent_stddev", 1), ("latent_stddev_more_steps", MORE_STEPS)):
        z = run.model.sample_latents(run.samples, symbols=None, strength=None, seed=run.seed, steps_factor=factor)
        result.measure(name, len(z), latent.latent_stddev, z)
    return encoding


def _fluency(run: _Run, reconstructions: list[str]) -> None:
    run.progress("samples")
    result = run.result
    counts = fluency.word_counts(_texts(run.corpus["train"]))
    if not counts:
        raise CorpusError("the split 'train' has no sentence with a word; wKL needs the training words")
    free = run.model.generate(run.samples, seed=run.seed)
    n = len(free)
    result.samples["free"] = free[:KEPT_FREE]
    # One seeded choice serves both: real and reconstructed sentences compare only at equal numbers.
    matched = np.random.default_rng(run.seed).permutation(len(run.texts))[: run.samples].tolist()
    result.measure("wkl", n, fluency.wkl, free, counts)
    result.measure("wkl_matched", min(n, len(matched)), fluency.wkl, free[: len(matched)], counts)
    result.measure("wkl_reconstruction", len(matched), fluency.wkl, [reconstructions[i] for i in matched], counts)
    real = list(_texts(run.corpus[result.split]))
    result.measure("wkl_real", len(real), fluency.wkl, real, counts)
    unseen = fluency.unseen_share(free, counts)
    if unseen > 0.01:
        result.note(f"{unseen:.1%} of the words of the free samples are not in train; wkl does not count them")
    result.measure("self_bleu", n, fluency.self_bleu, free)
    result.self_bleu_signature = fluency.self_bleu_signature(n)
    result.measure("self_bleu_real", len(matched), fluency.self_bleu, [run.texts[i] for i in matched])
    result.measure("distinct_1", n, fluency.distinct_n, free, 1)
    result.measure("distinct_2", n, fluency.distinct_n, free, 2)
    result.measure("copied", n, fluency.copied_share, free, _texts(run.corpus["train"]))
    result.measure("empty", n, fluency.empty_share, free)
    if run.parser is not None:
        result.add("grammatical", sum(factors is not None for factors in map(run.parser, free)) / n, n)

    run.progress("samples with more steps")
    more = run.model.generate(run.samples, seed=run.seed, steps_factor=MORE_STEPS)
    result.measure("wkl_more_steps", len(more), fluency.wkl, more, counts)


def _probes(run: _Run, encoding: Encoding) -> None:
    """How much of each label each layer carries, where there are several."""
    layers = tuple(run.model.layers)
    if len(layers) < 2:
        return
    run.progress("probes of the layers")
    for label in (name for name, kind in run.data.features.items() if isinstance(kind, ClassLabel)):
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


def _codes(run: _Run, encoding: Encoding) -> None:
    """Information and use of every head; for unsupervised heads also what the codes mean and whether they can be
    steered.
    """
    result, n = run.result, len(run.texts)
    for head, probabilities in encoding.probabilities.items():
        result.measure(run.own("mutual_information_zy", head), n, latent.mutual_information_zy, probabilities)
    if not run.unsupervised:
        result.note("no unsupervised head: no code metrics")
    labels = [name for name, kind in run.data.features.items() if isinstance(kind, ClassLabel)]
    for head in run.unsupervised:
        run.progress(f"codes of {head}")
        codes = encoding.codes[head]
        used = latent.codes_in_use(codes)
        result.add(run.own("codes_in_use", head), len(used), n)
        result.measure(run.own("code_perplexity", head), n, latent.code_perplexity, codes)
        for label in labels:
            try:
                match = interpretability.match_codes_to_labels(codes.numpy(), np.array(run.data[label]), seed=run.seed)
            except UndefinedMetricError as reason:
                result.note(f"codes of {head} against {label}: left out, {reason}")
                continue
            for metric in ("homogeneity", "v_measure", "ami", "permuted_homogeneity", "permuted_v_measure"):
                result.add(run.own(f"{metric}_{label}", head), getattr(match, metric), match.n)
        per_code = max(1, run.samples // len(used))
        found = interpretability.code_agreement(run.model, head, per_code, codes=used, seed=run.seed)
        result.add(run.own("code_agreement", head), found.accuracy, found.n)
        for code, texts in found.texts.items():
            result.samples[f"{head}={code}"] = texts[:KEPT_PER_CODE]


def _control(run: _Run, encoding: Encoding) -> None:
    result, model = run.result, run.model
    judges: dict[str, control.Judge] = {}
    for head in run.labelled:
        run.progress(f"control of {head}")
        try:
            judges[head] = _judge(run, head)
        except UndefinedMetricError as reason:
            result.note(f"control_accuracy_{head}: left out, no judge: {reason}")
            continue
        _judge_accuracy(run, head, judges[head])
        found = control.control_accuracy(model, head, judges[head], run.samples_per_class, seed=run.seed)
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
            model, {head: judges[head] for head in pair}, per_pair, seed=run.seed, classes=classes
        )
        result.add(f"composition_joint_{pair[0]}_{pair[1]}", both.joint, both.n)
        result.add(f"composition_geometric_{pair[0]}_{pair[1]}", both.geometric_mean, both.n)


def _guidance(run: _Run, reconstructions: list[str]) -> None:
    """Likeness to examples, where the model can generate by them."""
    if not run.model.guided:
        return
    run.progress("generation by example")
    chosen = np.random.default_rng(run.seed).permutation(len(run.texts))[:MAX_EXAMPLES].tolist()
    examples, made = [run.texts[i] for i in chosen], [reconstructions[i] for i in chosen]
    try:
        found = guidance.likeness(run.model, examples, made, list(_texts(run.corpus["train"])), seed=run.seed)
    except UndefinedMetricError as reason:
        run.result.note(f"like_similarity: left out, {reason}")
        return
    for name in ("generated", "free", "real", "reconstruction"):
        metric = "like_similarity" if name == "generated" else f"like_similarity_{name}"
        run.result.add(metric, getattr(found, name), found.n if name in ("generated", "free") else len(examples))


def _judge(run: _Run, head: str) -> control.Judge:
    """The exact parser if it knows the factor, else a classifier on the judge corpus, else one on the training split
    (which is not independent; noted).
    """
    column = run.model.heads[head].column
    assert column is not None, "unsupervised heads have no judge"
    if run.parser is not None and any(column in (run.parser(text) or {}) for text in run.texts[:20]):
        return control.ParserJudge(run.parser, column)
    if run.judge_corpus is not None and column in run.judge_corpus.features:
        source = run.judge_corpus
    else:
        source = run.corpus["train"]
        if column not in source.features:
            raise UndefinedMetricError(f"neither a judge corpus nor train has the column {column!r}")
        run.result.note(
            f"{head}: judged by a classifier fitted on the model's own training split; it is not independent"
        )
    if len(source) > MAX_JUDGE_SENTENCES:
        chosen = np.random.default_rng(run.seed).choice(len(source), MAX_JUDGE_SENTENCES, replace=False)
        source = source.select(np.sort(chosen).tolist())  # Dataset.shuffle would write a cache file
    return control.ClassifierJudge.fit(
        list(source["text"]), list(source[column]), source.features[column].names, run.seed
    )


def _judge_accuracy(run: _Run, head: str, judge: control.Judge) -> None:
    column = run.model.heads[head].column
    if column not in run.data.features:
        run.result.note(f"judge_accuracy_{head}: left out, {run.result.split} has no column {column!r}")
        return
    names = run.data.features[column].names
    known = [(text, names[label]) for text, label in zip(run.texts, run.data[column], strict=True) if label >= 0]
    verdicts = judge.predict([text for text, _ in known])
    truth = [name for _, name in known]
    run.result.measure(f"judge_accuracy_{head}", len(known), control.accuracy, verdicts, truth)


def _texts(data: Dataset) -> Iterator[str]:
    """The texts a thousand at a time, so that memory does not grow with the corpus."""
    for batch in data.select_columns(["text"]).iter(batch_size=1000):
        yield from batch["text"]


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"  # e.g. textebm run from its source folder
    return found
