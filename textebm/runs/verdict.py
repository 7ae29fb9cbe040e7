"""The verdict on a run: findings, each with its evidence beside a reference, the option to turn, and what that does.

`diagnose` is a pure function of `Facts`: what the run's files say, and a few counts on its corpus and model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from textebm.recipe.schema import Recipe
from textebm.text.finding import Finding, Verdict
from textebm.training.health import COLLAPSED

LITTLE_TEXT = 500  # different training texts; below, a generator repeats them
LITTLE_TOKENS = 30_000  # of training; below, sentences are hardly fluent unless they are all alike
FEW_LABELS = 20  # rows of a class
FALLING = 0.03  # share of the validation bound that the last fifth of a stage still gained
HIGH_RATE = 0.02  # a learning rate that no recipe has
FEW_PASSES = 3  # over the training text, after which a falling learning rate makes any curve flat
FEW_DIMENSIONS = 8  # of a latent; the least that any shipped recipe has is 16
RISEN = 0.03  # share by which the validation bound lies above its best


@dataclass(frozen=True)
class Facts:
    """history: the lines of metrics.jsonl. metrics: of the evaluation, by name; empty where there is none. counts: on
    how many sentences each of them was measured. samples: how many were written for what is counted here.

    rows: of each split. copies: share of test texts that are training texts; repeats: share of the training texts that
    repeat an earlier one, what such copies are measured against. class_rows: for each taught head, the rows of each
    class that it was shown. train_accuracy: of heads on labels that they were shown. repeating: share of free samples
    that say a word or pair twice in a row, beside that of real texts. invented: share of the samples' words that are in
    no training text, likewise. form: of codes, normalised mutual information with a text's length and last mark.
    attributes: of each that was added after training, what `AttributeReport` says (n, accuracy, majority, …).
    """

    recipe: Recipe
    history: Sequence[Mapping[str, Any]] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    samples: int = 400
    rows: Mapping[str, int] = field(default_factory=dict)
    mean_tokens: float = 0.0
    copies: float = 0.0
    repeats: float = 0.0
    class_rows: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    train_accuracy: Mapping[str, float] = field(default_factory=dict)
    repeating: tuple[float, float] = (0.0, 0.0)
    invented: tuple[float, float] = (0.0, 0.0)
    form: float = 0.0
    code_names: Mapping[str, str] = field(default_factory=dict)
    text_findings: Sequence[Finding] = ()
    attributes: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def diagnose(facts: Facts) -> Verdict:
    """What is wrong with a run, the gravest first."""
    findings = [finding for check in CHECKS for finding in check(facts)]
    return Verdict(tuple(findings), tuple(_references(facts)))


# --- the corpus -------------------------------------------------------------------------------------------------------


def _leak(facts: Facts) -> Iterator[Finding]:
    if facts.copies > 0.05 + 1.5 * facts.repeats:
        yield Finding(
            "leak",
            f"{facts.copies:.0%} of the test texts are training texts, while {facts.repeats:.0%} of the training texts "
            "repeat one another",
            "remove them from one of the two, or set data.group_column",
            "test figures are then of unseen text",
        )


def _little_text(facts: Facts) -> Iterator[Finding]:
    rows = facts.rows.get("train", LITTLE_TEXT)
    if (different := round(rows * (1 - facts.repeats))) < LITTLE_TEXT:
        yield Finding(
            "little_text",
            f"{rows:,} training texts, {different:,} of them different; a generator learns fewer than {LITTLE_TEXT} by "
            "heart",
            "more text, or training.start_from=RUN of a model of similar text",
            "what works with so little: codes and classes from a pretrained encoder (encoder.pretrained)",
        )


def _text(facts: Facts) -> Iterator[Finding]:
    yield from facts.text_findings
    if facts.mean_tokens > 40 and facts.metrics.get("reconstruction_bleu", 100.0) < 10:
        yield Finding(
            "long_texts",
            f"texts have {facts.mean_tokens:.0f} tokens on average and are reconstructed with BLEU "
            f"{facts.metrics['reconstruction_bleu']:.1f} (a copy has 100)",
            "one sentence or paragraph a row, or latent.segments",
            "one latent holds about a sentence",
        )


def _labels(facts: Facts) -> Iterator[Finding]:
    for head, counts in facts.class_rows.items():
        if len(counts) < 2:
            yield Finding(
                "one_class",
                f"head {head} was shown {len(counts)} class{'es' if len(counts) != 1 else ''}",
                "leave the head out",
                "there is nothing to be told apart",
            )
            continue
        rare = [name for name, count in counts.items() if count < FEW_LABELS]
        if rare:
            shown = ", ".join(f"{name!r} {counts[name]}" for name in rare[:4])
            yield Finding(
                "few_labels",
                f"head {head} was shown under {FEW_LABELS} labels of {len(rare)} of {len(counts)} classes ({shown})",
                "label more rows, or join classes",
                "so few are learned by heart",
            )


# --- training ---------------------------------------------------------------------------------------------------------


def _text_lines(facts: Facts) -> list[Mapping[str, Any]]:
    """The health lines of the stages in which text was learned."""
    return [line for line in facts.history if line.get("stage") != "prior" and _number(line, "reconstruction_nll")]


def _number(line: Mapping[str, Any], name: str) -> float:
    value = line.get(name)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else 0.0


def _bound(line: Mapping[str, Any], facts: Facts) -> float:
    """What training lowers, on validation sentences."""
    return _number(line, "reconstruction_nll") + facts.recipe.objective.kl_weight * _number(line, "kl")


def _course(facts: Facts) -> Iterator[Finding]:
    """Undertrained or overfitted, by the validation sentences' bound."""
    lines = _text_lines(facts)
    settled = lines[math.ceil(len(lines) * facts.recipe.objective.kl_warmup) :]  # the KL weight rises before
    if len(settled) < 2:
        return
    bounds = [_bound(line, facts) for line in settled]
    best = min(range(len(bounds)), key=lambda place: bounds[place])
    last, before = bounds[-1], bounds[-1 - math.ceil(len(bounds) / 5)]
    if last > bounds[best] * (1 + RISEN):
        yield Finding(
            "overfitted",
            f"the validation bound was best ({bounds[best]:.1f} nats) at step {settled[best].get('step')} and rose to "
            f"{last:.1f}, while training text got better",
            "training.patience=3, or encoder.dropout and decoder.dropout",
            "training stops there and keeps the best weights",
        )
    elif best == len(bounds) - 1 and before - last > FALLING * last:
        steps = [int(_number(line, "step")) for line in settled]
        yield Finding(
            "undertrained",
            f"the validation bound still fell, from {before:.1f} to {last:.1f} nats over the last "
            f"{steps[-1] - steps[-1 - math.ceil(len(bounds) / 5)]} steps",
            "more epochs of the text's stage (training.stages.0.epochs)",
            "the bound, reconstructions and fluency go on improving",
        )
    else:
        own, pairs = facts.metrics.get("ppl", 0.0), facts.metrics.get("bigram_ppl", math.inf)
        steps_taken, rows = _number(lines[-1], "step"), facts.rows.get("train", 0)
        passes = steps_taken * facts.recipe.training.batch_size / max(1, rows)
        if rows and passes < FEW_PASSES and own > pairs:
            yield Finding(
                "undertrained",
                f"text was read {passes:.1f} times before the learning rate ended; a token has perplexity {own:.1f}, "
                f"counting pairs has {pairs:.1f}",
                "more epochs of the text's stage (training.stages.0.epochs)",
                "the bound, reconstructions and fluency go on improving",
            )


def _worse_than_counting(facts: Facts) -> Iterator[Finding]:
    own, unigram = facts.metrics.get("ppl"), facts.metrics.get("unigram_ppl")
    lines, rate = _text_lines(facts), facts.recipe.training.learning_rate
    if own is not None and unigram is not None and own > unigram:
        yield Finding(
            "worse_than_unigrams",
            f"a token has perplexity {own:.1f}; counting tokens alone has {unigram:.1f}",
            f"training.learning_rate={rate / 10:g}" if rate > 0.003 else "more epochs, or a smaller model",
            "the model has learned less than the tokens' frequencies",
        )
    elif own is not None and own > facts.metrics.get("bigram_ppl", math.inf) and rate >= HIGH_RATE:
        yield Finding(
            "learning_rate",
            f"at a learning rate of {rate:g} (recipes have .0005 to .004) a token has perplexity {own:.1f}; counting "
            f"pairs has {facts.metrics['bigram_ppl']:.1f}",
            f"training.learning_rate={rate / 30:.1g}",
            "steps become small enough to arrive",
        )
    elif not facts.metrics and len(lines) > 1 and _bound(lines[-1], facts) > 1.5 * _bound(lines[0], facts):
        yield Finding(
            "diverging",
            f"the validation bound rose from {_bound(lines[0], facts):.0f} to {_bound(lines[-1], facts):.0f} nats",
            f"training.learning_rate={facts.recipe.training.learning_rate / 10:g}",
            "training falls again",
        )


# --- the latent -------------------------------------------------------------------------------------------------------


def _latent(facts: Facts) -> Iterator[Finding]:
    latent, lines = facts.recipe.latent, _text_lines(facts)
    if not lines:
        return
    line = lines[-1]
    kl, reliance = (_number(line, name) for name in ("kl", "reliance"))
    least = 0.0
    if latent.standardize and latent.max_stddev is not None and facts.recipe.inference.kind == "amortized":
        least = latent.dim * (latent.max_stddev**2 - math.log(latent.max_stddev**2)) / 2
    capped = least > 0 and 0.97 * least < kl < 1.03 * least
    weight = facts.recipe.objective.kl_weight
    if reliance < COLLAPSED:
        yield Finding(
            "collapse",
            f"shuffling latents costs {reliance:.3f} nats a word of reconstruction, so the decoder ignores them",
            f"objective.kl_weight={min(1.0, weight / 4):g}" if weight > 0.5 else "decoder.word_dropout=0.3",
            "the latent then says something of the text",
        )
    if capped:
        low = latent.max_stddev is not None and latent.max_stddev < 0.8
        turn = "latent.max_stddev=0.9" if low else f"objective.kl_weight={min(1.0, weight / 4):g}"
        yield Finding(
            "posterior_cap",
            f"the KL is {kl:.2f} nats, and d (s² − ln s²) / 2 = {least:.2f} is the least that the cap of "
            f"{latent.max_stddev} on {latent.dim} standard deviations allows",
            turn,
            "objective.kl_weight has an effect again" if low else "posteriors narrow and say more of the text",
        )
    bleu = facts.metrics.get("reconstruction_bleu")
    full = kl > 1.8 * latent.dim and not capped
    if (full or latent.dim < FEW_DIMENSIONS) and bleu is not None and bleu < 40 and reliance >= COLLAPSED:
        yield Finding(
            "small_latent",
            f"{latent.dim} dimensions carry {kl / latent.dim:.1f} nats each, and reconstruction BLEU is {bleu:.1f} "
            "(a copy has 100)",
            f"latent.dim={max(16, 2 * latent.dim)}",
            "more of a text fits in",
        )


def _warned(facts: Facts) -> Iterator[Finding]:
    """Warnings of the last health line that no check here makes."""
    if not facts.history:
        return
    for warning in facts.history[-1].get("warnings", ()):
        name, _, told = str(warning).partition(": ")
        evidence, _, cure = told.partition("; ")
        if name not in ("posterior collapse", "few active units", "code collapse"):
            yield Finding(name.replace(" ", "_"), evidence, cure, "the prior then draws what the decoder knows")


# --- what it writes ---------------------------------------------------------------------------------------------------


def _samples(facts: Facts) -> Iterator[Finding]:
    score = facts.metrics.get("fluency_sampled", facts.metrics.get("fluency"))
    if score is not None and score < 0.6:
        tokens = facts.rows.get("train", 0) * facts.mean_tokens
        little = 0 < tokens < LITTLE_TOKENS
        yield Finding(
            "not_fluent",
            f"samples have fluency {score:.2f} (shuffled words 0, real sentences 1)"
            + (f", learned from {tokens:,.0f} tokens" if little else ""),
            f"more text ({LITTLE_TOKENS:,} tokens and more), or decoder.pretrained"
            if little
            else "more epochs or text; a lower objective.kl_weight; decoder.pretrained",
            "until then labels, codes, and edits of sentences that are given work, new sentences do not"
            if little
            else "samples come nearer to sentences",
        )
    own, real = facts.repeating
    if own > real + 0.15 + 2 * math.sqrt(own * (1 - own) / facts.samples):
        yield Finding(
            "repeating",
            f"{own:.0%} of the samples say a word or pair twice in a row, {real:.0%} of real texts do",
            "more epochs; --decoding sample instead of greedy",
            "sentences go on instead of round",
        )
    own, real = facts.invented
    if own > real + 0.1:
        yield Finding(
            "invented_words",
            f"{own:.0%} of the words of samples are in no training text, {real:.0%} of those of real texts are",
            "more text or epochs, a larger tokenizer.vocabulary_size, or tokenizer.kind=word",
            "words are then spelt as they are; fluency counts an invented word as a rare one",
        )
    copied = facts.metrics.get("copied", 0.0)
    if copied > facts.copies + 0.5:
        yield Finding(
            "copied",
            f"{copied:.0%} of the samples are training texts, {facts.copies:.0%} of the test texts are",
            "dropout, or fewer epochs (training.patience)",
            "samples are then new",
        )


def _codes(facts: Facts) -> Iterator[Finding]:
    codes = next((head.classes for head in facts.recipe.heads if head.labels is None and head.classes), None)
    used, agreement = facts.metrics.get("codes_in_use"), facts.metrics.get("code_agreement")
    if codes is None:
        return
    if used is not None and used < max(2, 0.25 * codes):
        yield Finding(
            "empty_codes",
            f"{used:.0f} of {codes} codes are in use",
            "fewer codes, or a higher objective.cluster_weight",
            "codes then divide the text",
        )
    if agreement is not None and agreement < 0.5 and agreement < 1 / codes + 0.3:
        yield Finding(
            "mute_codes",
            f"{agreement:.0%} of the sentences written under a code are read as that code (chance {1 / codes:.0%})",
            "raise objective.cluster_weight and prior.strength",
            "codes then steer",
        )
    if facts.form > 0.5:
        yield Finding(
            "codes_are_form",
            f"codes share {facts.form:.2f} of their information with a text's length and last mark (0 none, 1 all)",
            "fewer codes (heads.N.classes), or texts of like length",
            "codes then follow content",
        )
    strange = [name for name, words in facts.code_names.items() if "<unk>" in words.split()[:3]]
    if strange:
        yield Finding(
            "codes_of_unknown_words",
            f"<unk> is among the first words of {len(strange)} codes (code {strange[0]})",
            "tokenizer.kind=bpe",
            "codes then follow words",
        )


def _two_errors(rows: float) -> float:
    """Two standard errors of the difference of two accuracies on the same *rows*, at most: of independent answers, each
    of which is right with p = 1/2."""
    return 2 * math.sqrt(0.5 / max(1, rows))


def _heads(facts: Facts) -> Iterator[Finding]:
    for head, counts in facts.class_rows.items():
        own, tfidf, majority = (facts.metrics.get(f"{kind}_accuracy_{head}") for kind in ("head", "tfidf", "majority"))
        if own is None or tfidf is None or majority is None or len(counts) < 2:
            continue
        shown = sum(counts.values())
        noise = _two_errors(facts.counts.get(f"head_accuracy_{head}", facts.rows.get("test", 1)))
        if max(own, tfidf) < max(majority, 1 / len(counts)) + max(0.03, noise):
            yield Finding(
                "unreadable_labels",
                f"{head}: accuracy {own:.3f}, TF-IDF with logistic regression {tfidf:.3f}, commonest class "
                f"{majority:.3f}",
                "see whether the labels belong to these rows",
                "nothing in the text tells them",
            )
        elif own < tfidf - max(0.05, noise):
            yield Finding(
                "weak_head",
                f"{head}: accuracy {own:.3f} where TF-IDF with logistic regression has {tfidf:.3f} on the same labels",
                "raise objective.supervised_weight, encoder.dropout=0.3, or encoder.pretrained",
                "the encoder reads what tells the label",
            )
        train = facts.train_accuracy.get(head, 0.0)
        if train > 0.97 and own < train - 0.25 and own < tfidf and shown < 1000:
            yield Finding(
                "learned_by_heart",
                f"{head}: {train:.3f} on the {shown} labels it was shown, {own:.3f} on others (TF-IDF {tfidf:.3f})",
                "more labels, or encoder.dropout=0.3",
                "it then learns what classes have in common",
            )


def _attributes(facts: Facts) -> Iterator[Finding]:
    for name, measured in facts.attributes.items():
        if measured["accuracy"] < measured["majority"] + max(0.05, _two_errors(measured["n"])):
            yield Finding(
                "unreadable_attribute",
                f"the attribute {name} reads {measured['accuracy']:.3f} of {measured['n']:.0f} held-out examples, "
                f"commonest class {measured['majority']:.3f}",
                f"textebm attribute add {name} with more examples, or teach it in training as a head",
                "what latents do not tell cannot steer",
            )


def _control(facts: Facts) -> Iterator[Finding]:
    score = facts.metrics.get("fluency_sampled", facts.metrics.get("fluency", 1.0))
    for head, counts in facts.class_rows.items():
        control, judge = (facts.metrics.get(f"{kind}_accuracy_{head}") for kind in ("control", "judge"))
        if control is None or judge is None or len(counts) < 2:
            continue
        if control > 0.85 and score < 0.5:
            yield Finding(
                "easy_judge",
                f"control of {head} is {control:.3f}, of sentences with fluency {score:.2f} (real text 1): the judge "
                "reads single words",
                "read samples before this figure",
                "word salad with the right words passes, too",
            )
        noise = 2 * math.sqrt(0.25 / (facts.recipe.evaluation.samples_per_class * len(counts)))
        if judge > 1.2 / len(counts) and control + noise < 1 / len(counts) + 0.5 * (judge - 1 / len(counts)):
            yield Finding(
                "weak_control",
                f"control of {head} is {control:.3f}; the judge has {judge:.3f} on real text, chance is "
                f"{1 / len(counts):.2f}",
                "raise prior.strength, or objective.supervised_weight",
                "symbols then steer",
            )


CHECKS: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    *(_leak, _little_text, _text, _labels, _worse_than_counting, _course, _latent, _warned),
    *(_samples, _heads, _attributes, _codes, _control),
)


def _references(facts: Facts) -> Iterator[tuple[str, str, str]]:
    metrics = facts.metrics

    def shown(name: str) -> str:
        return f"{metrics[name]:.3g}" if name in metrics else "not measured"

    if "ppl" in metrics:
        beside = f"unigrams {shown('unigram_ppl')}, bigrams {shown('bigram_ppl')}; an upper bound"
        yield "perplexity", shown("ppl"), beside
    if "fluency" in metrics:
        yield "fluency", shown("fluency"), "shuffled words 0, real text 1"
    for head in facts.class_rows:
        if f"head_accuracy_{head}" in metrics:
            beside = f"TF-IDF {shown(f'tfidf_accuracy_{head}')}, commonest class {shown(f'majority_accuracy_{head}')}"
            yield f"accuracy of {head}", shown(f"head_accuracy_{head}"), beside
    for name, measured in facts.attributes.items():
        beside = f"{measured['n']:.0f} examples, held out; commonest class {measured['majority']:.3g}"
        yield f"accuracy of the attribute {name}", f"{measured['accuracy']:.3g}", beside
