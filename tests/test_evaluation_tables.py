"""A suite on the made-up language: every part gives what it promises; tables and several runs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from datasets import ClassLabel, DatasetDict, Features, Value
from test_evaluation_suite import NOUNS, FakeModel, all_rows, corpus, parse, sentence
from tiny import recipe, save_trained
from typer.testing import CliRunner

from textebm.cli import app
from textebm.errors import RecipeError, TextEBMError
from textebm.evaluation import baselines, outliers, suite
from textebm.evaluation.language_model import LanguageModel, LanguageModelSettings, TextScores, fit_language_model
from textebm.evaluation.metric import Evaluation, MetricValue, UndefinedMetricError
from textebm.evaluation.several import summarize
from textebm.evaluation.state import Effort, EvaluationState
from textebm.evaluation.suite import SUITES, evaluate
from textebm.evaluation.tables import TABLES, field_tables
from textebm.runs.evaluate import check_suite, effort_of, evaluate_run
from textebm.text.tokenizer import train_word

torch.set_num_threads(1)
TINY = LanguageModelSettings(embedding_size=16, hidden_size=24, epochs=6, batch_size=16, learning_rate=1e-2)
TEXTS = [text for text, _, _ in all_rows(40)]
TOKENIZER = train_word(TEXTS, 100)


# -- the language model ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return fit_language_model(TEXTS, TOKENIZER, 12, settings=TINY)


def test_the_language_model_learns_the_entropy_of_a_small_language(model: LanguageModel) -> None:
    """Six sentences, equally likely: −log p(x) = ln 6, which no model can beat on average."""
    scores = model.score([sentence(noun, mood) for noun in range(3) for mood in range(2)])
    assert math.log(6) - 1e-3 < float(scores.nll.mean()) < math.log(6) + 0.15
    assert scores.num_tokens.tolist() == [6] * 6
    assert scores.perplexity == pytest.approx(math.exp(float(scores.nll.sum()) / 36))
    written = model.sample(200, seed=3)
    assert sum(text in TEXTS for text in written) > 180 and written == model.sample(200, seed=3)
    assert model.sample(50, seed=4) != written[:50]


def test_its_score_is_that_of_its_own_steps_and_padding_is_inert(model: LanguageModel) -> None:
    texts = ["the food was good .", "the", "the staff was bad . the room"]
    together = model.score(texts).nll
    for text, nll in zip(texts, together.tolist(), strict=True):
        assert float(model.score([text]).nll[0]) == pytest.approx(nll, abs=1e-4)
        ids = TOKENIZER.encode(text, add_special_tokens=False)
        state, total = model.start(torch.zeros(1, 0)), 0.0
        for given, wanted in zip([TOKENIZER.bos_token_id, *ids], [*ids, TOKENIZER.eos_token_id], strict=True):
            logits, state = model.step(torch.tensor([given]), torch.zeros(1, 0), state)
            total -= float(logits.detach().log_softmax(-1)[0, wanted])
        assert total == pytest.approx(nll, abs=1e-3)


def test_fitting_is_seeded_leaves_global_state_and_refuses_too_little() -> None:
    before = torch.get_rng_state()
    few = LanguageModelSettings(embedding_size=8, hidden_size=8, epochs=1)
    first, again = (fit_language_model(TEXTS, TOKENIZER, 12, settings=few, seed=5) for _ in range(2))
    assert torch.equal(first.output_bias, again.output_bias) and torch.equal(torch.get_rng_state(), before)
    with pytest.raises(UndefinedMetricError, match="at least 40"):
        fit_language_model(TEXTS[:10], TOKENIZER, 12)
    with pytest.raises(UndefinedMetricError, match="no sentences"):
        _ = TextScores(torch.zeros(0), torch.zeros(0)).perplexity


# -- single measures ---------------------------------------------------------------------------------------------------


def test_kmeans_finds_the_words_that_separate() -> None:
    train, test = TEXTS, [sentence(i % 3, 0) for i in range(30)]
    codes = baselines.kmeans_codes(train, test, 3, baselines.words)
    assert len(codes) == 30 and set(codes.tolist()) <= {0, 1, 2}
    assert baselines.ends("a b c d e") == ["0:a", "1:b", "-1:e", "-2:d"] and baselines.ends("a") == ["0:a", "-1:a"]
    assert baselines.ngrams("a b c") == ["a", "b", "c", "a b", "b c", "a b c"]
    with pytest.raises(UndefinedMetricError, match="cannot make"):
        baselines.kmeans_codes(train[:2], test, 3, baselines.words)


def test_shuffling_keeps_the_words_and_never_the_order() -> None:
    found = outliers.shuffle_words(["a b c d", "x", "y y", "a b"], seed=0)
    assert len(found) == 2 and found[0] != "a b c d" and sorted(found[0].split()) == ["a", "b", "c", "d"]
    assert found[1] == "b a"


# -- the suite ---------------------------------------------------------------------------------------------------------

FEATURES = Features(
    {
        "text": Value("string"),
        "sentiment": ClassLabel(names=["negative", "positive"]),
        "topic": ClassLabel(names=list(NOUNS)),
    }
)


@pytest.fixture(scope="module")
def measured() -> Evaluation:
    test = corpus(all_rows(4))
    opposite = [text.replace("good", "BAD").replace("bad", "good").replace("BAD", "bad") for text in test["text"]]
    data = DatasetDict(train=corpus(all_rows(80)), test=test.add_column("reference", opposite))
    effort = Effort(30, 12, language_samples=60, draws=4, language_model=TINY)
    seen: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        without = tuple(
            name for name in SUITES["all"] if name != "attribution"
        )  # which asks the network (its own test)
        patch.setitem(SUITES, "all", without)
        found = evaluate(
            FakeModel(),
            data,
            parser=parse,
            effort=effort,
            suite="all",
            tokenizer=TOKENIZER,
            max_tokens=12,
            other_texts={"foreign": ["bad good", "room staff food", "was was"]},
            progress=seen.append,
            shown_labels={"sentiment": list(range(20))},
        )
    assert any("epoch 1" in part for part in seen) and any("outliers" in part for part in seen)
    return found


def test_the_names_of_the_issue_are_all_there(measured: Evaluation) -> None:
    promised = (
        "nll_lower",
        "nll_upper",
        "rnn_lm_nll",
        "reverse_ppl",
        "reverse_ppl_floor",
        "forward_ppl",
        "ppl_upper",
        "outlier_auroc_foreign",
        "outlier_auroc_shuffled",
        "edit_accuracy",
        "edit_input_bleu",
        "edit_reference_bleu",
    )
    assert set(promised) <= set(measured.metrics)
    json.dumps(measured.to_json(), allow_nan=False)


def test_likelihood_and_language(measured: Evaluation) -> None:
    value = {name: metric.value for name, metric in measured.metrics.items()}
    assert (value["nll_lower"], value["nll_upper"], value["nll_width"]) == (4.0, 5.0, 1.0)
    assert value["ppl_upper"] == pytest.approx(math.e) and value["effective_draws"] == 2.0
    assert math.log(6) - 0.02 < value["rnn_lm_nll"] < math.log(6) + 0.3
    assert value["forward_ppl"] == pytest.approx(value["rnn_lm_ppl"], rel=0.02)  # the samples are the corpus
    # greedy decoding never says "bad": what learns from it is surprised by real text
    assert value["reverse_ppl_greedy"] > 1.3 * value["reverse_ppl"]
    assert "temperature 1" in measured.settings["free samples"] and measured.settings["suite"] == "all"


def test_edits(measured: Evaluation) -> None:
    value = {name: metric.value for name, metric in measured.metrics.items()}
    assert value["edit_accuracy"] == value["edit_accuracy_level4"] == 1.0 and value["edit_accuracy_level2"] == 0.0
    assert value["edit_input_bleu_level2"] == pytest.approx(100.0) and "edit_accuracy_level6" not in value
    assert value["edit_human_accuracy"] == 1.0
    assert value["edit_copy_reference_bleu"] == pytest.approx(value["edit_reference_bleu_level2"])
    assert value["edit_reference_bleu"] > value["edit_copy_reference_bleu"]
    assert any(" -> " in text for text in measured.samples["edited to the other sentiment"])


def test_steering_baselines_labels_and_outliers(measured: Evaluation) -> None:
    value = {name: metric.value for name, metric in measured.metrics.items()}
    for strength in ("0.5", "1", "2", "4", "8"):
        assert value[f"sweep_accuracy_sentiment_strength{strength}"] == pytest.approx(7 / 8)
    assert value["class_lm_accuracy_sentiment"] > 0.9 and value["real_self_bleu_sentiment"] > 0
    assert value["checked_accuracy_sentiment"] > 0 and value["diverse_accuracy_sentiment"] > 0
    assert value["diverse_self_bleu_sentiment"] > 0 and value["diverse_forward_ppl_sentiment"] > 1
    assert value["kmeans_words_homogeneity_topic"] >= 0 and "kmeans_ends_ami_sentiment" in value
    assert value["few_labels_tfidf_200_sentiment"] == value["few_labels_means_200_topic"] == 1.0
    # the encoder was taught sentiment, from every label that the head saw: its means have learned more than 200 labels
    assert "few_labels_means_200_sentiment" not in value
    assert any(note.startswith("few_labels_means_<number>_sentiment: left out") for note in measured.notes)
    assert "few_labels_tfidf_2500_sentiment" not in value  # train has 480 sentences
    assert value["head_accuracy_sentiment"] == 1.0 and "20 labels" in measured.settings["head_accuracy_sentiment"]
    assert value["rnn_lm_outlier_auroc_shuffled"] > 0.95 and value["rnn_lm_outlier_auroc_foreign"] > 0.95
    assert 0 <= value["outlier_auroc_foreign"] <= 1
    assert set(measured.code_names) == {"0", "1", "2"} and "staff" in measured.code_names["1"]


@pytest.mark.parametrize("name", ["ptb", "dailydialog", "yelp", "grammar"])
def test_tables_print_measured_beside_published(measured: Evaluation, name: str) -> None:
    page = field_tables(measured, name, "tiny")
    for table in TABLES.get(name, ()):
        assert table.title in page and table.source in page
        for row in (*table.published, *table.own):
            assert len(row) == len(table.columns) + 1, row
    assert "### Other text" in page and "| 1 | " in page and "staff" in page
    lines = [line for line in page.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in lines)
    if name == "yelp":
        assert "| LatentOps | .99 | 13.0 | – | 5.5 |" in page and "| **written anew from level 4** | 1 |" in page
    if name == "ptb":
        assert "| RNN-LM | – | – | – | 101.21 |" in page and "**RNN-LM of the same run**" in page


def test_a_suite_needs_its_tokenizer_and_a_known_name() -> None:
    data = DatasetDict(train=corpus(all_rows(2)), test=corpus(all_rows(1)))
    assert set(SUITES) == {"ptb", "dailydialog", "yelp", "outliers", "all"}
    for options in ({"suite": "ptb"}, {"suite": "bible", "tokenizer": TOKENIZER}):
        with pytest.raises(ValueError, match="a suite is one of"):
            evaluate(FakeModel(), data, **options)


# -- several runs ------------------------------------------------------------------------------------------------------


def made(value: float, **more: float) -> Evaluation:
    found = Evaluation(seed=0)
    for name, each in {"wkl": value, **more}.items():
        found.metrics[name] = MetricValue.named(name, each, 10)
    return found


def test_mean_and_standard_deviation_by_hand() -> None:
    summary = summarize({"a": made(1.0), "b": made(2.0, kl=3.0), "c": made(6.0)})
    spread = summary.metrics["wkl"]
    assert (spread.mean, spread.values) == (3.0, (1.0, 2.0, 6.0)) and spread.stddev == pytest.approx(math.sqrt(7))
    assert summary.partial == ("kl",) and "kl" in summary.notes[0] and "kl" not in summary.metrics
    assert "3 ± 2.646" in summary.markdown() and summary.to_json()["runs"] == ["a", "b", "c"]
    assert summarize({"a": made(1.0)}).metrics["wkl"].stddev is None
    with pytest.raises(ValueError, match="no run"):
        summarize({})


def test_an_evaluation_read_again_is_the_same(measured: Evaluation, tmp_path: Path) -> None:
    again = Evaluation.load(measured.save(tmp_path / "evaluation.json"))
    assert again.to_json() == measured.to_json()
    assert np.isfinite([metric.value for metric in again.metrics.values()]).all()


# -- the command -------------------------------------------------------------------------------------------------------


def command(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture
def two_runs(tmp_path: Path) -> list[Path]:
    runs = [tmp_path / "one", tmp_path / "two"]
    for value, run in enumerate(runs):
        run.mkdir()
        (run / "config.json").write_text("{}")
        made(float(value), kl=2.0).save(run / "evaluation.json")
    return runs


def test_saved_runs_are_averaged(two_runs: list[Path]) -> None:
    found = json.loads(command(*two_runs, "--saved", "--json").stdout)
    assert found["metrics"]["wkl"]["mean"] == 0.5 and found["metrics"]["wkl"]["stddev"] == pytest.approx(0.5**0.5)
    assert found["metrics"]["kl"]["stddev"] == 0.0 and found["runs"] == [str(run) for run in two_runs]
    assert "0.5 ± 0.7071" in command(*two_runs, "--saved").stdout


def test_what_evaluate_refuses(two_runs: list[Path]) -> None:
    one, two = two_runs
    for arguments, words in (
        ((one, "--samples", 50), "it needs --suite"),
        ((one, two, "--saved", "--suite", "all"), "leave --suite, --limit and OPTION=VALUE out"),
        ((one, one, "--saved"), "given twice"),
        ((one, two / "gone", "--saved"), "does not exist"),
    ):
        result = command(*arguments)
        assert result.exit_code == 2 and words in result.stderr and not result.stdout
    (two / "evaluation.json").write_text("{")
    assert "make it with: textebm evaluate" in command(one, two, "--saved").stderr


def test_the_suite_of_another_corpus_is_refused() -> None:
    for name in ("all", "outliers", None):
        check_suite(name, recipe())
    with pytest.raises(TextEBMError, match="this run is on 'grammar': use --suite all"):
        check_suite("ptb", recipe())
    with pytest.raises(TextEBMError, match="use --suite yelp or --suite all"):
        check_suite("ptb", recipe("data.corpus=yelp", "heads=[]"))


def test_recipe_options_reach_the_evaluation() -> None:
    given = recipe(
        "evaluation.decoding=sample",
        "evaluation.temperature=0.8",
        "evaluation.draws=5",
        "evaluation.temperatures=7",
        "evaluation.chains=3",
        "evaluation.q_steps=9",
        "evaluation.language_model.samples=99",
        "evaluation.language_model.hidden_size=31",
        "evaluation.language_model.max_epochs=2",
    )
    effort = effort_of(given)
    assert (effort.decoding, effort.temperature, effort.draws, effort.temperatures, effort.chains) == (
        "sample",
        0.8,
        5,
        7,
        3,
    )
    assert effort.q_steps == 9 and effort.language_samples == 99 and effort_of(given, 50).language_samples == 50
    assert (effort.language_model.hidden_size, effort.language_model.epochs) == (31, 2)


def test_symbols_are_written_as_the_recipe_says() -> None:
    asked = []

    class Recorder(FakeModel):
        def generate(self, n, *, symbols=None, decoding="greedy", temperature=1.0, **more) -> list[str]:
            asked.append((decoding, temperature))
            return super().generate(n, symbols=symbols)

    data = DatasetDict(train=corpus(all_rows(4)), test=corpus(all_rows(1)))
    evaluate(Recorder(), data, parser=parse, effort=Effort(6, 6, decoding="sample", temperature=0.7))
    assert set(asked) == {("sample", 0.7), ("greedy", 1.0)}  # greedy: the free samples of this fake


def test_a_stopped_suite_keeps_what_it_had_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, options = save_trained(tmp_path / "run"), ["evaluation.samples=7", "evaluation.limit=9"]
    unfinished = directory / "evaluation.unfinished.json"

    def stop(state: object, encoding: object) -> None:
        raise KeyboardInterrupt

    def add(state: EvaluationState, encoding: object) -> None:
        state.result.add("nll_width", 1.5, 9)

    monkeypatch.setitem(suite.SUITES, "all", ("intervals", "language"))
    monkeypatch.setitem(suite.SECTIONS, "intervals", add)
    monkeypatch.setitem(suite.SECTIONS, "language", stop)
    with pytest.raises(KeyboardInterrupt):
        evaluate_run(directory, suite="all", overrides=options)
    kept = json.loads(unfinished.read_text())["metrics"]
    assert kept["nll_width"]["value"] == 1.5 and "reconstruction_bleu" in kept
    monkeypatch.setitem(suite.SECTIONS, "language", lambda state, encoding: None)
    found = evaluate_run(directory, suite="all", overrides=options)
    assert found.metrics["nll_width"].value == 1.5 and not unfinished.exists()
    unfinished.mkdir()
    with pytest.raises(TextEBMError, match=r"cannot write .*evaluation\.unfinished\.json"):
        evaluate_run(directory, suite="all", overrides=options)


def test_a_trained_run_is_measured_with_other_options_of_evaluation_only(tmp_path: Path) -> None:
    directory = save_trained(tmp_path / "run")
    found = evaluate_run(directory, overrides=["evaluation.samples=7", "evaluation.refine=1", "evaluation.limit=9"])
    assert (found.sizes["samples"], found.sizes["evaluated"]) == (7, 9)
    assert "reconstruction_bleu_refined" in found.metrics
    with pytest.raises(TextEBMError, match="'latent.dim=3': a trained run can change its evaluation.… only"):
        evaluate_run(directory, overrides=["latent.dim=3"])
    with pytest.raises(RecipeError, match="did you mean 'draws'"):
        evaluate_run(directory, overrides=["evaluation.draw=3"])
