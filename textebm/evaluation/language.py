"""What a language model without latents gets on the same tokens, and what it says of the samples.

Reverse perplexity (Zhao et al. 2018): a fresh language model learns the samples and is tested on real text. Its floor
is the same with as many real sentences. Forward perplexity: a language model of the training text reads the samples;
low values are bought with dull samples, so both stand together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from textebm.evaluation import fluency
from textebm.evaluation.language_model import LanguageModel, fit_language_model
from textebm.evaluation.metric import UndefinedMetricError
from textebm.evaluation.protocols import Encoding
from textebm.evaluation.setting import Setting, texts_of

PUBLISHED_SAMPLES = 40_000


def measure(run: Setting, encoding: Encoding) -> None:
    try:
        own = train_model(run)
    except UndefinedMetricError as reason:
        run.result.note(f"language model: left out, {reason}")
        return
    result, n, wanted = run.result, len(run.texts), run.effort.language_samples
    scores = own.score(run.texts)
    result.add("rnn_lm_nll", float(scores.nll.mean()), n)
    result.add("rnn_lm_ppl", scores.perplexity, n)
    result.settings["language model"] = f"{run.effort.language_model}; {wanted:,} samples (published: 40,000)"

    run.progress("samples for the language model")
    latents = run.model.sample_latents(wanted, symbols=None, strength=None, seed=run.seed + 1)
    temperature = run.effort.temperature
    sampled = run.model.decode(latents, seed=run.seed + 1, decoding="sample", temperature=temperature)
    greedy = run.model.decode(latents, seed=run.seed + 1, decoding="greedy")
    theirs = own.sample(wanted, seed=run.seed + 1)
    result.samples["language model"] = theirs[:10]
    result.measure("forward_ppl", wanted, forward_perplexity, own, sampled)
    result.measure("forward_ppl_greedy", wanted, forward_perplexity, own, greedy)
    result.measure("rnn_lm_forward_ppl", wanted, forward_perplexity, own, theirs)
    counts = fluency.word_counts(texts_of(run.corpus["train"]))
    few = theirs[: run.samples]
    result.measure("rnn_lm_wkl", len(few), fluency.wkl, few, counts)
    result.measure("rnn_lm_self_bleu", len(few), fluency.self_bleu, few)
    result.measure("rnn_lm_distinct_2", len(few), fluency.distinct_n, few, 2)
    # at the number of the perplexities, since wKL falls with it
    for name, texts in (("wkl_large", sampled), ("wkl_large_greedy", greedy), ("rnn_lm_wkl_large", theirs)):
        result.measure(name, len(texts), fluency.wkl, texts, counts)

    real = _real(run, wanted)
    for name, texts in (
        ("reverse_ppl", sampled),
        ("reverse_ppl_greedy", greedy),
        ("rnn_lm_reverse_ppl", theirs),
        ("reverse_ppl_floor", real),
    ):
        result.measure(name, len(texts), reverse_perplexity, run, texts, name)


def train_model(run: Setting) -> LanguageModel:
    """The language model of the training split, fitted once an evaluation."""
    if run.language_model is None:
        run.progress("language model of the training split")
        run.language_model = fit(run, list(texts_of(run.corpus["train"])), "language model")
    return run.language_model


def fit(run: Setting, texts: Sequence[str], name: str) -> LanguageModel:
    assert run.tokenizer is not None, "suites have the tokenizer"
    return fit_language_model(
        texts,
        run.tokenizer,
        run.max_tokens,
        settings=run.effort.language_model,
        seed=run.seed,
        name=name,
        progress=run.progress,
    )


def forward_perplexity(model: LanguageModel, texts: Sequence[str]) -> float:
    """Per token of *texts*; those without a word are left out (`empty` counts them)."""
    return model.score([text for text in texts if text.strip()]).perplexity


def reverse_perplexity(run: Setting, texts: Sequence[str], name: str) -> float:
    """Of the evaluated sentences, for a fresh language model of *texts*."""
    return fit(run, texts, name).score(run.texts).perplexity


def _real(run: Setting, n: int) -> list[str]:
    """n real training sentences by a seeded choice, or all when there are fewer."""
    train = run.corpus["train"]
    if n >= len(train):
        return list(texts_of(train))
    chosen = np.sort(np.random.default_rng(run.seed).choice(len(train), n, replace=False))
    return list(texts_of(train.select(chosen.tolist())))
