"""The likelihood interval of the evaluated sentences (`textebm.use.likelihood` says what its ends promise).

Its q has the scale and the width that suit other sentences best: those of validation, or of train where validation is
what is evaluated. From there `evaluation.q_steps` gradient steps fit each sentence's own.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from textebm.evaluation.state import EvaluationState, plain_texts, some_rows

if TYPE_CHECKING:
    from textebm.use.reading import Encoding

SCALING_SENTENCES = 4000


def add_likelihood_interval(state: EvaluationState, encoding: Encoding) -> None:
    state.progress("likelihood interval")
    effort, texts = state.effort, state.texts
    split = "validation" if "validation" in state.corpus and state.result.split != "validation" else "train"
    others = some_rows(state.corpus[split], SCALING_SENTENCES, state.seed)
    interval = state.model.nll_interval(
        texts,
        draws=effort.draws,
        temperatures=effort.temperatures,
        chains=effort.chains,
        seed=state.seed,
        progress=lambda done, n: state.progress(f"likelihood interval, {done:,} of {n:,} sentences"),
        scaling_texts=[text for text in plain_texts(others) if text.strip()],
        q_steps=effort.q_steps,
    )
    lower, upper, tokens = interval.lower.double(), interval.upper.double(), float(interval.num_tokens.sum())
    result, n = state.result, len(texts)
    result.add("nll_upper", float(upper.mean()), n)
    result.add("nll_lower", float(lower.mean()), n)
    result.add("nll_width", float((upper - lower).mean()), n)
    result.add("ppl_upper", math.exp(min(float(upper.sum()) / tokens, 700.0)), n)
    effective = float(interval.effective_draws.double().mean())
    result.add("effective_draws", effective, n)
    result.settings["likelihood"] = (
        f"{effort.draws} draws, {effort.temperatures} temperatures, {effort.chains} chains a log Z; "
        f"q's scale and width fitted on other sentences, then {effort.q_steps} steps on each sentence's own"
    )
    if effective < 1.5 and effort.draws > 1:
        result.note(
            f"nll_lower: {effective:.2f} of {effort.draws} draws carry the weight; read it as an estimate, not a bound"
        )
