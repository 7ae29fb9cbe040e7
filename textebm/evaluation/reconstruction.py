"""How much of a sentence survives the latent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sacrebleu.metrics.bleu import BLEU

from textebm.evaluation.metric import UndefinedMetricError


@dataclass(frozen=True)
class Bleu:
    """Corpus BLEU (0-100) and sacrebleu's signature of how it was computed."""

    score: float
    signature: str


def reconstruction_bleu(reconstructions: Sequence[str], texts: Sequence[str]) -> Bleu:
    """Corpus BLEU-4 of each reconstruction against its own sentence: words are what spaces separate, nothing is
    smoothed.

    Equal to multi-bleu.perl on tokenised text. An empty reconstruction only shortens the output (brevity penalty).
    Undefined without sentences; ValueError when the two lists differ in length.
    """
    if len(reconstructions) != len(texts):
        raise ValueError(f"expected one reconstruction a sentence, got {len(reconstructions)} for {len(texts)}")
    if not texts:
        raise UndefinedMetricError("there are no sentences")
    bleu = BLEU(
        tokenize="none", smooth_method="none", force=True
    )  # force: sacrebleu would warn that the text is tokenised
    score = bleu.corpus_score(list(reconstructions), [list(texts)])
    return Bleu(float(score.score), str(bleu.get_signature()))
