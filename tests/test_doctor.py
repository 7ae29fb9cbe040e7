"""Each fault of a run is named by its finding, with evidence beside a reference; a healthy run is not accused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.tiny import recipe
from textebm.cli import app
from textebm.recipe.read import parse_recipe
from textebm.runs.directory import VERDICT
from textebm.runs.train import train
from textebm.runs.verdict import Facts, diagnose
from textebm.text.finding import Finding

RECIPE = parse_recipe(
    {
        "name": "a",
        "latent": {"dim": 16, "max_stddev": 0.9},
        "heads": [{"name": "y", "labels": "tense"}, {"name": "code", "classes": 6}],
    }
)
FAST = parse_recipe(RECIPE.model_dump(mode="json"), ["training.learning_rate=0.12"])
FALLING = [30.0, 20.0, 15.0, 13.0, 12.5, 12.4, 12.35, 12.34]
METRICS = {
    "ppl": 20.0,
    "unigram_ppl": 90.0,
    "bigram_ppl": 30.0,
    "fluency": 0.9,
    "reconstruction_bleu": 60.0,
    "copied": 0.1,
    "head_accuracy_y": 0.93,
    "tfidf_accuracy_y": 0.92,
    "majority_accuracy_y": 0.4,
    "codes_in_use": 6.0,
    "code_agreement": 0.9,
    "control_accuracy_y": 0.9,
    "judge_accuracy_y": 0.95,
}


def lines(bounds: list[float], kl: float = 9.5, reliance: float = 1.5) -> list[dict[str, Any]]:
    return [
        {
            "stage": "autoencoder",
            "step": 100 * n,
            "reconstruction_nll": bound,
            "kl": kl,
            "reliance": reliance,
            "warnings": [],
        }
        for n, bound in enumerate(bounds, 1)
    ]


HEALTHY = Facts(
    recipe=RECIPE,
    history=lines(FALLING),
    metrics=METRICS,
    rows={"train": 6000, "validation": 600, "test": 600},
    mean_tokens=9.0,
    copies=0.02,
    repeats=0.02,
    class_rows={"y": {"past": 2000, "present": 2000, "future": 2000}},
    train_accuracy={"y": 0.97},
    repeating=(0.05, 0.04),
    form=0.2,
)
CAP = 16 * (0.81 - math.log(0.81)) / 2  # d (s² − ln s²) / 2


def test_a_healthy_run_is_not_accused() -> None:
    verdict = diagnose(HEALTHY)
    assert verdict.findings == ()
    assert verdict.lines()[0] == "verdict: nothing found wrong"
    assert "perplexity 20 (unigrams 90, bigrams 30; an upper bound)" in verdict.lines()[1]
    assert any("TF-IDF 0.92, commonest class 0.4" in line for line in verdict.lines())


def test_text_that_was_read_once_is_undertrained_however_flat_its_curve() -> None:
    once = replace(changed(ppl=40.0), rows={"train": 80_000, "test": 600})
    (finding,) = diagnose(once).findings
    assert finding.name == "undertrained" and "counting pairs has 30.0" in finding.evidence
    assert diagnose(replace(once, rows={"train": 6000, "test": 600})).findings == (), "a bound may lie above pairs"


def test_a_latent_of_two_dimensions_is_small_however_little_it_holds() -> None:
    two = parse_recipe(RECIPE.model_dump(mode="json"), ["latent.dim=2", "latent.max_stddev=0.5"])
    verdict = diagnose(replace(changed(reconstruction_bleu=6.0), recipe=two, history=lines(FALLING, kl=1.8)))
    assert [finding.name for finding in verdict.findings] == ["small_latent"]


def test_few_samples_are_not_taken_for_weak_control() -> None:
    few = parse_recipe(RECIPE.model_dump(mode="json"), ["evaluation.samples_per_class=20"])
    weak = changed(control_accuracy_y=0.55)
    assert [finding.name for finding in diagnose(weak).findings] == ["weak_control"]
    assert diagnose(replace(weak, recipe=few)).findings == (), "of 60 sentences"


def test_little_text_that_does_not_write_says_what_works() -> None:
    finding = diagnose(replace(changed(fluency=0.2), rows={"train": 1000, "test": 600})).findings[0]
    assert finding.name == "not_fluent" and "learned from 9,000 tokens" in finding.evidence
    assert "labels, codes, and edits" in finding.effect


def changed(**metrics: float) -> Facts:
    return replace(HEALTHY, metrics={**METRICS, **metrics})


FAULTS: dict[str, tuple[Facts, str]] = {
    "leak": (replace(HEALTHY, copies=0.4), "40% of the test texts are training texts"),
    "little_text": (
        replace(HEALTHY, rows={"train": 600, "test": 300}, repeats=0.9, copies=0.9),
        "60 of them different",
    ),
    "long_texts": (replace(changed(reconstruction_bleu=4.0), mean_tokens=90.0), "90 tokens on average"),
    "one_class": (replace(HEALTHY, class_rows={"y": {"past": 5000}}), "head y was shown 1 class"),
    "few_labels": (replace(HEALTHY, class_rows={"y": {"past": 500, "future": 7}}), "'future' 7"),
    "worse_than_unigrams": (changed(ppl=400.0), "a token has perplexity 400.0; counting tokens alone has 90.0"),
    "learning_rate": (
        replace(
            changed(ppl=45.0), recipe=parse_recipe(RECIPE.model_dump(mode="json"), ["training.learning_rate=0.12"])
        ),
        "at a learning rate of 0.12 (recipes have .0005 to .004) a token has perplexity 45.0",
    ),
    "undertrained": (
        replace(HEALTHY, history=lines([30, 28, 26, 24, 22, 20])),
        "from 31.5 to 29.5 nats over the last 100 steps",
    ),
    "overfitted": (
        replace(HEALTHY, history=lines([30, 20, 15, 16, 18, 20])),
        "best (24.5 nats) at step 300 and rose to 29.5",
    ),
    "collapse": (replace(HEALTHY, history=lines(FALLING, reliance=0.01)), "shuffling latents costs 0.010 nats a word"),
    "posterior_cap": (replace(HEALTHY, history=lines(FALLING, kl=CAP)), f"{CAP:.2f} is the least"),
    "small_latent": (replace(changed(reconstruction_bleu=12.0), history=lines(FALLING, kl=40.0)), "2.5 nats each"),
    "not_fluent": (changed(fluency=0.2), "fluency 0.20 (shuffled words 0, real sentences 1)"),
    "repeating": (replace(HEALTHY, repeating=(0.5, 0.03)), "50% of the samples say a word or pair twice in a row"),
    "copied": (changed(copied=0.9), "90% of the samples are training texts, 2% of the test texts are"),
    "empty_codes": (changed(codes_in_use=1.0), "1 of 6 codes"),
    "mute_codes": (changed(code_agreement=0.2), "20% of the sentences written under a code"),
    "codes_are_form": (replace(HEALTHY, form=0.7), "0.70 of their information"),
    "invented_words": (
        replace(HEALTHY, invented=(0.4, 0.1)),
        "40% of the words of samples are in no training text, 10%",
    ),
    "codes_of_unknown_words": (replace(HEALTHY, code_names={"3": "<unk> the of (90)"}), "code 3"),
    "unreadable_labels": (changed(head_accuracy_y=0.41, tfidf_accuracy_y=0.4), "commonest class 0.400"),
    "weak_head": (changed(head_accuracy_y=0.74), "accuracy 0.740 where TF-IDF with logistic regression has 0.920"),
    "learned_by_heart": (
        replace(
            changed(head_accuracy_y=0.5, tfidf_accuracy_y=0.6),
            train_accuracy={"y": 1.0},
            class_rows={"y": {"a": 100, "b": 100}},
        ),
        "1.000 on the 200 labels it was shown, 0.500 on others",
    ),
    "easy_judge": (changed(fluency=0.3), "control of y is 0.900, of sentences with fluency 0.30"),
    "weak_control": (changed(control_accuracy_y=0.4), "the judge has 0.950 on real text, chance is 0.33"),
    "unreadable_attribute": (
        replace(HEALTHY, attributes={"formal": {"n": 60, "accuracy": 0.55, "majority": 0.5}}),
        "formal reads 0.550 of 60 held-out examples, commonest class 0.500",
    ),
    "unknown_words": (
        replace(HEALTHY, text_findings=[Finding("unknown_words", "60% of the words are unknown", "a", "b")]),
        "60% of the words",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_with_its_evidence(name: str) -> None:
    facts, evidence = FAULTS[name]
    findings = {finding.name: finding for finding in diagnose(facts).findings}
    assert evidence in findings[name].evidence, findings
    assert findings[name].option and findings[name].effect
    allowed = {"easy_judge": {"not_fluent"}, "not_fluent": {"easy_judge"}, "learned_by_heart": {"weak_head"}}
    assert set(findings) <= {name} | allowed.get(name, set()), findings


def test_an_attribute_that_reads_well_is_a_reference() -> None:
    verdict = diagnose(replace(HEALTHY, attributes={"formal": {"n": 60, "accuracy": 0.9, "majority": 0.5}}))
    assert not verdict.findings
    assert (
        "accuracy of the attribute formal",
        "0.9",
        "60 examples, held out; commonest class 0.5",
    ) in verdict.references


def test_a_warning_at_the_end_is_a_finding() -> None:
    history = lines(FALLING)
    history[-1]["warnings"] = ["chain stuck: acceptance 0.10; raise prior.acceptance"]
    (finding,) = diagnose(replace(HEALTHY, history=history)).findings
    assert (finding.name, finding.evidence, finding.option) == (
        "chain_stuck",
        "acceptance 0.10",
        "raise prior.acceptance",
    )


def named(facts: Facts) -> set[str]:
    return {finding.name for finding in diagnose(facts).findings}


def test_what_chance_does_is_accused_of_nothing() -> None:
    """Two coins on 300 rows differ by 1/sqrt(600) = .041 in one standard error; 17 % of 400 samples, by .019."""
    even = replace(changed(head_accuracy_y=0.35, tfidf_accuracy_y=0.47), counts={"head_accuracy_y": 300})
    assert "unreadable_labels" in named(even), ".07 above the commonest class is within two standard errors of it"
    assert "unreadable_labels" not in named(replace(even, counts={"head_accuracy_y": 3000}))
    coin = changed(head_accuracy_y=0.36, tfidf_accuracy_y=0.35, majority_accuracy_y=0.25)
    assert "unreadable_labels" in named(coin), "the commonest class of training is rare in test: 1/3 is chance"
    dull = replace(HEALTHY, repeating=(0.22, 0.02), samples=400)
    assert "repeating" in named(dull)
    assert "repeating" not in named(replace(dull, samples=200)), "200 samples do not show it"


def test_a_run_carries_its_verdict_in_log_card_report_and_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TEXTEBM_CACHE", str(tmp_path / "cache"))
    run = tmp_path / "run"
    train(recipe("training.stages.0.steps=10"), out=run)
    told = capsys.readouterr().err
    kept = json.loads((run / VERDICT).read_text())
    names = {finding["name"] for finding in kept["findings"]}
    assert {"little_text", "not_fluent"} <= names, "300 sentences, ten steps"
    assert "verdict: " in told
    assert "## Verdict" in (run / "README.md").read_text().split("```python")[0]
    assert '"verdict":{' in (run / "report.html").read_text().replace(" ", "")
    done = CliRunner().invoke(app, ["doctor", str(run)])
    assert done.exit_code == 0 and "300 training texts" in done.output
    shown = CliRunner().invoke(app, ["doctor", str(run), "--json"])
    assert {finding["name"] for finding in json.loads(shown.stdout)["findings"]} == names
    (run / "config.json").unlink()
    assert "verdict: " in CliRunner().invoke(app, ["doctor", str(run)]).output
    missing = CliRunner().invoke(app, ["doctor", str(tmp_path / "none")])
    assert missing.exit_code == 2 and "is no run" in missing.output
