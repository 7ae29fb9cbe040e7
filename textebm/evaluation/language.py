"""What a language model without latents gets on the same tokens, and what it says of the samples.

Reverse perplexity (Zhao et al. 2018): a fresh language model learns the samples and is tested on real text. Its floor
is the same with as many real sentences. Forward perplexity: a language model of the training text reads the samples;
low values are bought with dull samples, so both stand together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from textebm.evaluation import fluency
from textebm.evaluation.language_model import LanguageModel, fit_language_model
from textebm.evaluation.state import EvaluationState, plain_texts, some_rows

if TYPE_CHECKING:
    from textebm.use.reading import Encoding


def add_language_model(state: EvaluationState, encoding: Encoding) -> None:
    with state.result.noting("language model"):
        _add_language_model(state, train_model(state))


def _add_language_model(state: EvaluationState, own: LanguageModel) -> None:
    result, n, wanted, seed = state.result, len(state.texts), state.effort.language_samples, state.seed + 1
    scores = own.score(state.texts)
    result.add("rnn_lm_nll", float(scores.nll.mean()), n)
    result.add("rnn_lm_ppl", scores.perplexity, n)
    result.settings["language model"] = f"{state.effort.language_model}; {wanted:,} samples (published: 40,000)"

    state.progress("samples for the language model")
    latents = state.model.sample_latents(wanted, seed=seed)
    samples = {
        "": state.model.decode(latents, seed=seed, decoding="sample", temperature=state.effort.temperature),
        "_greedy": state.model.decode(latents, seed=seed, decoding="greedy"),
        "rnn_lm_": own.sample(wanted, seed=seed),
    }
    theirs = samples["rnn_lm_"]
    result.samples["language model"] = theirs[:10]
    train = state.corpus["train"]
    counts, few = fluency.word_counts(plain_texts(train)), theirs[: state.effort.samples]
    result.compute("rnn_lm_wkl", len(few), fluency.wkl, few, counts)
    result.compute("rnn_lm_self_bleu", len(few), fluency.self_bleu, few)
    result.compute("rnn_lm_distinct_2", len(few), fluency.distinct_n, few, 2)
    for whose, texts in samples.items():
        prefix, suffix = (whose, "") if whose.endswith("lm_") else ("", whose)
        result.compute(f"{prefix}forward_ppl{suffix}", wanted, forward_perplexity, own, texts)
        # at the number of the perplexities, since wKL falls with it
        result.compute(f"{prefix}wkl_large{suffix}", len(texts), fluency.wkl, texts, counts)
        name = f"{prefix}reverse_ppl{suffix}"
        result.compute(name, len(texts), reverse_perplexity, state, texts, name)
    real = list(plain_texts(some_rows(train, wanted, state.seed)))
    result.compute("reverse_ppl_floor", len(real), reverse_perplexity, state, real, "reverse_ppl_floor")


def train_model(state: EvaluationState) -> LanguageModel:
    """The language model of the training split, fitted once an evaluation."""
    if state.language_model is None:
        state.progress("language model of the training split")
        state.language_model = fit(state, list(plain_texts(state.corpus["train"])), "language model")
    return state.language_model


def fit(state: EvaluationState, texts: Sequence[str], name: str) -> LanguageModel:
    assert state.tokenizer is not None, "suites have the tokenizer"
    return fit_language_model(
        texts,
        state.tokenizer,
        state.max_tokens,
        settings=state.effort.language_model,
        seed=state.seed,
        name=name,
        progress=state.progress,
    )


def forward_perplexity(model: LanguageModel, texts: Sequence[str]) -> float:
    """Per token of *texts*; those without a word are left out (`empty` counts them)."""
    return model.score([text for text in texts if text.strip()]).perplexity


def reverse_perplexity(state: EvaluationState, texts: Sequence[str], name: str) -> float:
    """Of the evaluated sentences, for a fresh language model of *texts*."""
    return fit(state, texts, name).score(state.texts).perplexity
