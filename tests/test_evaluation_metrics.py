"""Hand-worked numbers, closed forms and failures of each metric on its own."""

from __future__ import annotations

import json
import math
import random
import re
from pathlib import Path

import pytest
import torch
from rich.console import Console
from sacrebleu.metrics.bleu import BLEU

from textebm.evaluation import fluency, latent
from textebm.evaluation.catalogue import PAGE, catalogue, describe
from textebm.evaluation.metric import Evaluation, MetricValue, UndefinedMetricError
from textebm.evaluation.reconstruction import reconstruction_bleu

torch.set_num_threads(1)


# Fluency


def test_wkl_of_a_hand_worked_case() -> None:
    # f_gen: a 3/4, b 1/4; f_train: a 1/2, b 1/4, c 1/4. 3/4 log(3/2) + 1/4 log 1.
    assert fluency.wkl(["a a", "a b"], {"a": 2, "b": 1, "c": 1}) == pytest.approx(0.75 * math.log(1.5), abs=1e-12)


def test_wkl_normalises_before_it_drops_words_that_training_lacks() -> None:
    # f_gen(a) = 1/2, f_train(a) = 1: 1/2 log 1/2, below 0 since the other half costs nothing.
    assert fluency.wkl(["a x"], {"a": 5}) == pytest.approx(0.5 * math.log(0.5), abs=1e-12)
    assert fluency.unseen_share(["a x"], {"a": 5}) == 0.5


def test_wkl_is_zero_for_the_same_text_and_undefined_without_a_common_word() -> None:
    texts = ["the cat sat", "the dog"]
    assert fluency.wkl(texts, fluency.word_counts(texts)) == pytest.approx(0.0, abs=1e-12)
    for nothing in (["x y"], ["", " "], []):
        with pytest.raises(UndefinedMetricError, match="no word"):
            fluency.wkl(nothing, {"a": 1})


def _random_sentences(n: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    vocabulary = [f"w{i}" for i in range(12)]
    return [" ".join(rng.choices(vocabulary, k=rng.randint(0, 9))) for _ in range(n)]


@pytest.mark.parametrize("seed", range(4))
def test_self_bleu_equals_sacrebleu(seed: int) -> None:
    samples = _random_sentences(25, seed)
    samples[3] = samples[7]  # a duplicate: its own n-grams must still count as a reference
    bleu = BLEU(tokenize="none", smooth_method="floor", smooth_value=0.1, effective_order=True, force=True)
    scores = [bleu.sentence_score(text, samples[:i] + samples[i + 1 :]).score for i, text in enumerate(samples)]
    assert fluency.self_bleu(samples) == pytest.approx(sum(scores) / len(scores), abs=1e-9)
    assert fluency.self_bleu_signature(len(samples)) == str(bleu.get_signature())


def test_self_bleu_at_its_ends() -> None:
    assert fluency.self_bleu(["a b c d e"] * 3) == pytest.approx(100.0)
    assert fluency.self_bleu(["a b c d e", "f g h i j"]) == 0.0
    assert fluency.self_bleu(["ok .", "ok ."]) == pytest.approx(100.0)  # effective order: no 4-gram is needed
    assert fluency.self_bleu(["", ""]) == 0.0
    with pytest.raises(UndefinedMetricError):
        fluency.self_bleu(["a b c d"])


def test_distinct_copied_and_empty() -> None:
    samples = ["a b a b", "a b", ""]
    assert fluency.distinct_n(samples, 1) == pytest.approx(2 / 6)
    assert fluency.distinct_n(samples, 2) == pytest.approx(2 / 4)  # a b, b a, a b | a b
    assert fluency.copied_share(["a  b", "a b", "b a", ""], iter(["a b", "", "c"])) == 0.5
    assert fluency.empty_share(["a", " ", "", "b"]) == 0.5
    with pytest.raises(UndefinedMetricError):
        fluency.distinct_n(["a", "b"], 2)
    for share in (lambda: fluency.copied_share([], ["a"]), lambda: fluency.empty_share([])):
        with pytest.raises(UndefinedMetricError):
            share()


# Reconstruction


def test_reconstruction_bleu_of_a_hand_worked_case() -> None:
    # One word of six wrong, at the end: precisions 5/6, 4/5, 3/4, 2/3; no brevity penalty.
    found = reconstruction_bleu(["a b c d e x"], ["a b c d e f"])
    assert found.score == pytest.approx(100 * (5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** 0.25, abs=1e-9)
    assert "tok:none" in found.signature and "smooth:none" in found.signature


def test_reconstruction_bleu_can_fail_and_takes_empty_output() -> None:
    assert reconstruction_bleu(["a b c d"], ["a b c d"]).score == pytest.approx(100.0)
    assert reconstruction_bleu(["x y z w"], ["a b c d"]).score == 0.0
    # Half of the output is missing: precision 1 everywhere, brevity penalty exp(1 - 8/4).
    assert reconstruction_bleu(["a b c d", ""], ["a b c d", "e f g h"]).score == pytest.approx(100 * math.exp(-1))
    with pytest.raises(ValueError, match="1 for 2"):
        reconstruction_bleu(["a"], ["a", "b"])
    with pytest.raises(UndefinedMetricError):
        reconstruction_bleu([], [])


# Latent


def test_kl_of_each_unit_by_hand() -> None:
    """An untrained and a collapsed unit are low: the prior itself costs nothing, a moving mean ½ E[mean²]."""
    means = torch.tensor([[0.0, 1.0, 0.0], [0.0, -1.0, 0.0]])
    stddevs = torch.tensor([[1.0, 1.0, 0.5], [1.0, 1.0, 0.5]])
    expected = [0.0, 0.5, 0.5 * (0.25 - 1) + math.log(2)]
    assert latent.kl_per_unit(means, stddevs).tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("d", "s", "tolerance"), [(1, 0.5, 0.03), (2, 0.3, 0.08)])
def test_information_of_a_gaussian_aggregate(d: int, s: float, tolerance: float) -> None:
    """Means N(0, 1 - s²) and noise s make N(0, I): I(x; z) = -d log s."""
    means = math.sqrt(1 - s * s) * torch.randn(4000, d, generator=torch.Generator().manual_seed(1))
    found = latent.mutual_information_xz(means, torch.full_like(means, s), seed=2)
    assert found == pytest.approx(-d * math.log(s), abs=tolerance)


def test_information_of_separated_posteriors_is_log_n_and_of_equal_ones_zero() -> None:
    means = 1000.0 * torch.arange(50.0)[:, None].expand(50, 3)
    assert latent.mutual_information_xz(means, torch.full((50, 3), 1e-3)) == pytest.approx(math.log(50), abs=1e-9)
    assert latent.mutual_information_xz(torch.zeros(50, 3), torch.full((50, 3), 0.7)) == pytest.approx(0.0, abs=1e-12)
    with pytest.raises(UndefinedMetricError):
        latent.mutual_information_xz(means[:1], torch.ones(1, 3))


def test_information_does_not_depend_on_chunks_or_on_where_the_latents_are(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(101, 4, generator=generator)
    stddevs = 0.2 + torch.rand(101, 4, generator=generator)
    whole = latent.mutual_information_xz(means, stddevs, seed=3)
    assert latent.mutual_information_xz(means + 100, stddevs, seed=3) == pytest.approx(whole, abs=1e-4)
    monkeypatch.setattr(latent, "CHUNK_ELEMENTS", 7 * 101)
    assert latent.mutual_information_xz(means, stddevs, seed=3) == pytest.approx(whole, abs=1e-12)
    # Against the definition, one pair of sentence and posterior at a time.
    noise = torch.randn(101, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    z = means.double() + stddevs.double() * noise
    pairs = torch.distributions.Normal(means.double(), stddevs.double()).log_prob(z[:, None]).sum(-1)
    assert whole == pytest.approx(float((pairs.diagonal() - pairs.logsumexp(1) + math.log(101)).mean()), abs=1e-10)


def test_information_about_codes() -> None:
    assert latent.mutual_information_zy(torch.eye(4)) == pytest.approx(math.log(4))
    assert latent.mutual_information_zy(torch.full((9, 4), 0.25)) == 0.0
    # H(1/2, 1/2) minus the mean of 0 and of H(0, 1) = 0, then halfway: p = (3/4, 1/4), (1/4, 3/4).
    half = torch.tensor([[0.75, 0.25], [0.25, 0.75]])
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert latent.mutual_information_zy(half) == pytest.approx(math.log(2) - entropy)
    assert math.isnan(latent.mutual_information_zy(torch.tensor([[float("nan"), 1.0]])))


def test_codes_in_use_and_their_perplexity() -> None:
    codes = torch.tensor([5, 5, 2, 2])
    assert latent.codes_in_use(codes) == [2, 5]
    assert latent.code_perplexity(codes) == pytest.approx(2.0)
    assert latent.code_perplexity(torch.tensor([3, 3, 3])) == pytest.approx(1.0)


def test_latent_stddevs() -> None:
    z = torch.tensor([[0.0, 5.0], [2.0, 5.0]])  # variances 1 and 0
    assert latent.latent_stddev(z) == pytest.approx(math.sqrt(0.5))
    assert latent.aggregate_stddev(z, torch.ones(2, 2)) == pytest.approx(math.sqrt(1.5))
    with pytest.raises(UndefinedMetricError):
        latent.latent_stddev(z[:1])


# MetricValue and Evaluation


def test_the_catalogue_finds_the_pattern_that_says_most() -> None:
    for name, key in {
        "ami_topic": "ami_<label>",
        "permuted_homogeneity_act": "permuted_homogeneity_<label>",
        "homogeneity_batch30_act": "homogeneity_batch<n>_<label>",
        "wkl_real": "wkl_real",
        "wkl_sampled": "wkl[_sampled]",
        "code_agreement": "code_agreement[_<head>]",
        "code_agreement_other": "code_agreement[_<head>]",
        "control_accuracy_mood": "control_accuracy_<head>",
        "rnn_lm_outlier_auroc_ptb": "rnn_lm_outlier_auroc_<corpus>",
        "sweep_self_bleu_mood_strength0.5": "sweep_self_bleu_<head>_strength<s>",
    }.items():
        assert describe(name) is catalogue()[key], name
    with pytest.raises(KeyError, match="self_bleu"):
        describe("selfbleu")
    with pytest.raises(KeyError):
        describe("ami_")


def test_every_entry_stands_alone_and_the_documentation_is_current() -> None:
    for name, entry in catalogue().items():
        assert entry.group and entry.unit and entry.description.endswith("."), name
        assert not re.match("the same|its|their", entry.description, re.IGNORECASE), name
        # a metric that has a better way says what to compare it with, or how it flatters, unless its unit is a bound
        for other in re.findall(r"`?\b([a-z]+_[a-z_]*(?:<\w+>)?)`?", entry.beside):
            assert other.split("<")[0].rstrip("_*") in " ".join(catalogue()) + " evaluation.refine", (name, other)
    page = Path(__file__).parent.parent / "docs" / "metrics.md"
    current = page.read_text(encoding="utf-8") == PAGE.read_text(encoding="utf-8")
    assert current, "write it again: python -m textebm.evaluation.catalogue > docs/metrics.md"


def test_a_metric_must_be_finite() -> None:
    assert MetricValue.named("wkl", 0.5, 3) == MetricValue(0.5, "nats", False, 3)
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="finite"):
            MetricValue.named("wkl", bad, 3)


def test_an_undefined_metric_is_a_note_and_never_nan(tmp_path) -> None:
    found = Evaluation(seed=4)
    found.add("kl", math.nan, 3)
    found.compute("wkl", 1, fluency.wkl, ["x"], {"a": 1})
    found.compute("wkl_sampled", 1, fluency.wkl, ["a"], {"a": 1})
    saved = json.loads(found.save(tmp_path / "new" / "evaluation.json").read_text())
    assert set(saved["metrics"]) == {"wkl_sampled"}
    assert saved["metrics"]["wkl_sampled"] == {"value": 0.0, "unit": "nats", "higher_is_better": False, "n": 1}
    assert [note.split(":")[0] for note in saved["notes"]] == ["kl", "wkl"]
    assert saved["seed"] == 4


def test_tables_show_the_direction_and_take_odd_names() -> None:
    found = Evaluation(seed=0, notes=["a | b"], samples={"free": ["one\ntwo", ""]})
    found.add("wkl", 0.25, 10)
    found.add("control_accuracy_[red]_a|b", 1.0, 10)
    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    found.table(console)
    text = console.export_text()
    assert "↓" in text and "↑" in text and "[red]" in text
    assert "| wkl | ↓ | 0.25 | nats | 10 |" in found.markdown()
    assert "a\\|b" in found.markdown()
    assert found.samples_text() == "# free\none two\n\n"
    assert Evaluation.from_json(found.to_json()).markdown() == found.markdown()
