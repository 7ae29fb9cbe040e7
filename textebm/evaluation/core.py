"""What every evaluation measures of a latent text model: reconstruction, the latent, free samples."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from textebm.errors import CorpusError
from textebm.evaluation import dialogue, fluency, latent, ngram
from textebm.evaluation import reconstruction as bleu
from textebm.evaluation.state import EvaluationState, plain_texts
from textebm.text.tokenizer import TokenStore
from textebm.text.words import split_words

if TYPE_CHECKING:
    from textebm.use.reading import Encoding

MORE_STEPS = 4
MAX_POSTERIORS = 10_000  # for I(x; z), whose time is quadratic
KEPT_FREE, KEPT_PAIRS = 50, 20


def add_reconstruction(state: EvaluationState) -> list[str]:
    """Reconstructions, the bound, and perplexities that need no model. Gives the reconstructions."""
    state.progress("reconstruction")
    result, texts, n = state.result, state.texts, len(state.texts)
    reconstructions = state.model.reconstruct(texts, decoding="greedy")
    score = bleu.reconstruction_bleu(reconstructions, texts)
    result.sacrebleu_signature = score.signature
    result.add("reconstruction_bleu", score.score, n)
    result.samples["reconstructed sentences"] = texts[:KEPT_PAIRS]
    result.samples["their reconstructions"] = reconstructions[:KEPT_PAIRS]
    if state.effort.refine:
        state.progress("reconstruction of refined latents")
        refined = state.model.reconstruct(texts, decoding="greedy", refine=state.effort.refine)
        result.add("reconstruction_bleu_refined", bleu.reconstruction_bleu(refined, texts).score, n)
        result.settings["refined latents"] = f"{state.effort.refine} gradient steps from the encoder's means"
    state.progress("elbo")
    terms = state.model.elbo_terms(texts, seed=state.seed)
    nll, kl = terms.reconstruction_nll.double(), terms.kl.double()
    result.add("reconstruction_nll", float(nll.mean()), n)
    result.add("kl", float(kl.mean()), n)
    result.add("elbo", -float((nll + kl).mean()), n)
    per_token = float((nll + kl).sum()) / max(float(terms.num_tokens.sum()), 1.0)
    result.add("ppl", math.exp(per_token) if per_token < 700 else math.inf, n)  # infinity becomes a note
    state.progress("reliance on the latent")
    shuffled = state.model.posterior_draws(texts, seed=state.seed)[latent.circle(n, state.seed)]
    lost = state.model.reconstruction_losses(texts, latents=shuffled).double().sum() - nll.sum()
    result.add("reliance", float(lost) / max(float(terms.num_tokens.sum()), 1.0), n)
    _add_ngram_perplexities(state)
    if state.model.reads_context:
        dialogue.add_context_gain(state, float(nll.mean()), float(kl.mean()))
        dialogue.add_responses(state)
    return reconstructions


def _add_ngram_perplexities(state: EvaluationState) -> None:
    """Of the same tokens as `ppl`, where the tokenizer is known; else of words."""

    def sentences(texts: list[str]) -> list[list[int]] | list[list[str]]:
        if state.tokenizer is None:
            return [split_words(text) for text in texts]
        store = TokenStore.build(texts, state.tokenizer, state.max_tokens)
        return [store[i].tolist() for i in range(len(store))]

    train, own = sentences(state.train_texts), sentences(state.texts)
    for order, name in ((1, "unigram_ppl"), (2, "bigram_ppl")):
        with state.result.noting(name):
            state.result.add(name, ngram.NGramModel.fit(train, order=order).perplexity(own), len(own))


def add_latent(state: EvaluationState) -> Encoding:
    """Use of the latent, and what the prior makes of it. Gives the posteriors."""
    state.progress("latent")
    result, n = state.result, len(state.texts)
    encoding = state.model.encode(state.texts)
    mean, stddev = encoding.mean, encoding.stddev
    kl = latent.kl_per_unit(mean, stddev)
    result.add("kl_standard_normal", float(kl.sum()), n)
    result.add("kl_per_unit_used", int((kl > latent.USED_NATS).sum()), n)
    result.add("kl_per_unit_largest", float(kl.max()), n)
    result.add("kl_per_unit_smallest", float(kl.min()), n)
    few = np.random.default_rng(state.seed).permutation(n)[:MAX_POSTERIORS].tolist()
    name = "mutual_information_xz"
    result.compute(name, len(few), latent.mutual_information_xz, mean[few], stddev[few], seed=state.seed)
    cap = math.log(len(few))
    if name in result.metrics and result.metrics[name].value > 0.9 * cap:
        result.note(f"{name} is near its cap, log n = {cap:.2f} nats: read it as 'at least'")
    result.compute("latent_stddev_posterior", n, latent.aggregate_stddev, mean, stddev)
    result.compute("latent_stddev", len(state.latents), latent.latent_stddev, state.latents)
    more = state.model.sample_latents(state.effort.samples, seed=state.seed, steps_factor=MORE_STEPS)
    result.compute("latent_stddev_more_steps", len(more), latent.latent_stddev, more)
    return encoding


def add_free_samples(state: EvaluationState) -> None:
    """Sentences of the prior, their words the most probable and drawn."""
    state.progress("samples")
    result, effort, train = state.result, state.effort, state.corpus["train"]
    counts = fluency.word_counts(plain_texts(train))
    if not counts:
        raise CorpusError("the split 'train' has no sentence with a word; wKL needs the training words")
    written = {
        "": state.model.decode(state.latents, seed=state.seed, decoding="greedy"),
        "_sampled": state.model.decode(
            state.latents, seed=state.seed, decoding="sample", temperature=effort.temperature
        ),
    }
    result.samples["free"], result.samples["free, sampled words"] = (texts[:KEPT_FREE] for texts in written.values())
    trigrams = ngram.fit_words(state.train_texts)
    for suffix, free in written.items():
        n = len(free)
        with result.noting(f"fluency{suffix}"):
            result.add(f"fluency{suffix}", ngram.fluency(free, state.texts, trigrams, seed=state.seed).score, n)
        result.compute(f"wkl{suffix}", n, fluency.wkl, free, counts)
        result.compute(f"self_bleu{suffix}", n, fluency.self_bleu, free)
        result.compute(f"distinct_2{suffix}", n, fluency.distinct_n, free, 2)
        result.compute(f"copied{suffix}", n, fluency.copied_share, free, plain_texts(train))
        result.compute(f"empty{suffix}", n, fluency.empty_share, free)
        if state.parser is not None:
            result.add(f"grammatical{suffix}", sum(factors is not None for factors in map(state.parser, free)) / n, n)
        if (unseen := fluency.unseen_share(free, counts)) > 0.01:
            result.note(
                f"{unseen:.1%} of the words of the free {'sampled' if suffix else 'greedy'} samples are not in train; "
                "wkl does not count them"
            )
    result.self_bleu_signature = fluency.self_bleu_signature(effort.samples)
    real = list(plain_texts(state.corpus[result.split]))
    result.compute("wkl_real", len(real), fluency.wkl, real, counts)
    matched = np.random.default_rng(state.seed).permutation(len(state.texts))[: effort.samples].tolist()
    result.compute("self_bleu_real", len(matched), fluency.self_bleu, [state.texts[i] for i in matched])
