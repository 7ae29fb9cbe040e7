"""What every evaluation measures of a latent text model: reconstruction, the latent, free samples."""

from __future__ import annotations

import math

import numpy as np

from textebm.errors import CorpusError
from textebm.evaluation import context, fluency, latent, ngram
from textebm.evaluation import reconstruction as bleu
from textebm.evaluation.metric import UndefinedMetricError
from textebm.evaluation.protocols import Encoding
from textebm.evaluation.setting import Setting, some_texts, texts_of
from textebm.text.tokenizer import TokenStore
from textebm.text.words import split_words

MORE_STEPS = 4
MAX_NGRAM_SENTENCES = 100_000
MAX_POSTERIORS = 10_000  # for I(x; z), whose time is quadratic
KEPT_FREE, KEPT_PAIRS = 50, 20


def reconstruction(run: Setting) -> list[str]:
    run.progress("reconstruction")
    result, texts = run.result, run.texts
    found = run.model.reconstruct(texts, decoding="greedy")
    score = bleu.reconstruction_bleu(found, texts)
    result.sacrebleu_signature = score.signature
    result.add("reconstruction_bleu", score.score, len(texts))
    result.samples["reconstructed sentences"] = texts[:KEPT_PAIRS]
    result.samples["their reconstructions"] = found[:KEPT_PAIRS]

    if run.effort.refine:
        run.progress("reconstruction of refined latents")
        better = run.model.reconstruct(texts, decoding="greedy", refine=run.effort.refine)
        result.add("reconstruction_bleu_refined", bleu.reconstruction_bleu(better, texts).score, len(texts))
        result.settings["refined latents"] = f"{run.effort.refine} gradient steps from the encoder's means"
    run.progress("elbo")
    terms = run.model.elbo_terms(texts, seed=run.seed)
    nll, kl = terms.reconstruction_nll.double(), terms.kl.double()
    result.add("reconstruction_nll", float(nll.mean()), len(texts))
    result.add("kl", float(kl.mean()), len(texts))
    result.add("elbo", -float((nll + kl).mean()), len(texts))
    per_token = float((nll + kl).sum()) / max(float(terms.num_tokens.sum()), 1.0)
    ppl = math.exp(per_token) if per_token < 700 else math.inf  # math.exp would raise; infinity becomes a note
    result.add("ppl", ppl, len(texts))
    _ngram_perplexities(run)
    if run.model.reads_context:
        gains = context.context_gain(run.model, texts, float(nll.mean()), float(kl.mean()), seed=run.seed)
        for name, gain in gains.items():
            result.add(name, gain, len(texts))
    return found


def _ngram_perplexities(run: Setting) -> None:
    """Of the same tokens as `ppl`, where the tokenizer is known; else of words."""

    def sentences(texts: list[str]) -> list[list[int]] | list[list[str]]:
        if run.tokenizer is None:
            return [split_words(text) for text in texts]
        store = TokenStore.build(texts, run.tokenizer, run.max_tokens)
        return [store[i].tolist() for i in range(len(store))]

    train, own = sentences(some_texts(run.corpus["train"], MAX_NGRAM_SENTENCES, run.seed)), sentences(run.texts)
    for order, name in ((1, "unigram_ppl"), (2, "bigram_ppl")):
        run.result.measure(name, len(own), lambda order=order: ngram.NGramModel.fit(train, order=order).perplexity(own))


def latent_health(run: Setting) -> Encoding:
    run.progress("latent")
    result, n = run.result, len(run.texts)
    encoding = run.model.encode(run.texts)
    mean, stddev = encoding.mean, encoding.stddev
    kl = latent.kl_per_unit(mean, stddev)
    result.add("kl_standard_normal", float(kl.sum()), n)
    result.add("kl_per_unit_used", int((kl > latent.USED_NATS).sum()), n)
    result.add("kl_per_unit_largest", float(kl.max()), n)
    result.add("kl_per_unit_smallest", float(kl.min()), n)
    few = np.random.default_rng(run.seed).permutation(n)[:MAX_POSTERIORS].tolist()
    name = "mutual_information_xz"
    result.measure(name, len(few), latent.mutual_information_xz, mean[few], stddev[few], seed=run.seed)
    cap = math.log(len(few))
    if name in result.metrics and result.metrics[name].value > 0.9 * cap:
        result.note(f"{name} is near its cap, log n = {cap:.2f} nats: read it as 'at least'")
    result.measure("latent_stddev_posterior", n, latent.aggregate_stddev, mean, stddev)
    result.measure("latent_stddev", len(run.latents), latent.latent_stddev, run.latents)
    return encoding


def free_samples(run: Setting, reconstructions: list[str]) -> None:
    run.progress("samples")
    result = run.result
    counts = fluency.word_counts(texts_of(run.corpus["train"]))
    if not counts:
        raise CorpusError("the split 'train' has no sentence with a word; wKL needs the training words")
    effort = run.effort
    written = {
        "": run.model.decode(run.latents, seed=run.seed, decoding="greedy"),
        "_sampled": run.model.decode(run.latents, seed=run.seed, decoding="sample", temperature=effort.temperature),
    }
    result.samples["free"], result.samples["free, sampled words"] = (texts[:KEPT_FREE] for texts in written.values())
    # One seeded choice serves both: real and reconstructed sentences compare only at equal numbers.
    matched = np.random.default_rng(run.seed).permutation(len(run.texts))[: run.samples].tolist()
    words = ngram.fit_words(some_texts(run.corpus["train"], MAX_NGRAM_SENTENCES, run.seed))
    for suffix, free in written.items():
        n = len(free)
        try:
            result.add(f"fluency{suffix}", ngram.fluency(free, run.texts, words, seed=run.seed).score, n)
        except UndefinedMetricError as reason:
            result.note(f"fluency{suffix}: left out, {reason}")
        result.measure(f"wkl{suffix}", n, fluency.wkl, free, counts)
        result.measure(f"wkl_matched{suffix}", min(n, len(matched)), fluency.wkl, free[: len(matched)], counts)
        result.measure(f"self_bleu{suffix}", n, fluency.self_bleu, free)
        result.measure(f"distinct_1{suffix}", n, fluency.distinct_n, free, 1)
        result.measure(f"distinct_2{suffix}", n, fluency.distinct_n, free, 2)
        result.measure(f"copied{suffix}", n, fluency.copied_share, free, texts_of(run.corpus["train"]))
        result.measure(f"empty{suffix}", n, fluency.empty_share, free)
        if run.parser is not None:
            result.add(f"grammatical{suffix}", sum(factors is not None for factors in map(run.parser, free)) / n, n)
        unseen = fluency.unseen_share(free, counts)
        if unseen > 0.01:
            kind = "sampled" if suffix else "greedy"
            result.note(
                f"{unseen:.1%} of the words of the free {kind} samples are not in train; wkl does not count them"
            )
    result.self_bleu_signature = fluency.self_bleu_signature(run.samples)
    result.measure("wkl_reconstruction", len(matched), fluency.wkl, [reconstructions[i] for i in matched], counts)
    real = list(texts_of(run.corpus[result.split]))
    result.measure("wkl_real", len(real), fluency.wkl, real, counts)
    result.measure("self_bleu_real", len(matched), fluency.self_bleu, [run.texts[i] for i in matched])

    run.progress("samples with more steps")
    z = run.model.sample_latents(run.samples, symbols=None, strength=None, seed=run.seed, steps_factor=MORE_STEPS)
    result.measure("latent_stddev_more_steps", len(z), latent.latent_stddev, z)
    more = run.model.decode(z, seed=run.seed, decoding="greedy")
    result.measure("wkl_more_steps", len(more), fluency.wkl, more, counts)
