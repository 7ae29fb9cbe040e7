"""The likelihood interval of the evaluated sentences (`textebm.use.likelihood` says what its ends promise).

Its q has the scale and the width that suit other sentences best: those of validation, or of train where validation is
what is evaluated. From there `evaluation.q_steps` gradient steps fit each sentence's own.
"""

from __future__ import annotations

import math

import numpy as np

from textebm.evaluation.protocols import Encoding
from textebm.evaluation.setting import Setting, texts_of

SCALING_SENTENCES = 4000


def measure(run: Setting, encoding: Encoding) -> None:
    run.progress("likelihood interval")
    effort, texts = run.effort, run.texts
    found = run.model.nll_interval(
        texts,
        draws=effort.draws,
        temperatures=effort.temperatures,
        chains=effort.chains,
        seed=run.seed,
        progress=lambda done, n: run.progress(f"likelihood interval, {done:,} of {n:,} sentences"),
        scaling_texts=_others(run),
        q_steps=effort.q_steps,
    )
    lower, upper, tokens = found.lower.double(), found.upper.double(), float(found.num_tokens.sum())
    result, n = run.result, len(texts)
    result.add("nll_upper", float(upper.mean()), n)
    result.add("nll_lower", float(lower.mean()), n)
    result.add("nll_width", float((upper - lower).mean()), n)
    result.add("ppl_upper", math.exp(min(float(upper.sum()) / tokens, 700.0)), n)
    effective = float(found.effective_draws.double().mean())
    result.add("effective_draws", effective, n)
    result.settings["likelihood"] = (
        f"{effort.draws} draws, {effort.temperatures} temperatures, {effort.chains} chains a log Z; "
        f"q's scale and width fitted on other sentences, then {effort.q_steps} steps on each sentence's own"
    )
    if effective < 1.5 and effort.draws > 1:
        result.note(
            f"nll_lower: {effective:.2f} of {effort.draws} draws carry the weight; read it as an estimate, not a bound"
        )


def _others(run: Setting) -> list[str]:
    """Sentences that are not evaluated, a seeded choice of at most `SCALING_SENTENCES`."""
    split = "validation" if "validation" in run.corpus and run.result.split != "validation" else "train"
    data = run.corpus[split]
    chosen = np.random.default_rng(run.seed).permutation(len(data))[:SCALING_SENTENCES]
    return [text for text in texts_of(data.select(np.sort(chosen).tolist())) if text.strip()]
