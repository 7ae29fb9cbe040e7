"""Models that know nothing go through the same door as ours, and corpora whose test contradicts train: a metric that
flatters, or that was fitted on what it measures, shows itself."""

from __future__ import annotations

import math
from collections import Counter
from functools import cache
from hashlib import md5
from typing import Any

import numpy as np
import pytest
import torch
from datasets import DatasetDict
from test_evaluation_suite import SENTIMENT, SMALL, FakeModel, Head, all_rows, parse, sentence
from test_evaluation_suite import corpus as made_up

from textebm.evaluation import baselines, language, suite
from textebm.evaluation.calibration import ASKED
from textebm.evaluation.language_model import TextScores
from textebm.evaluation.metric import Evaluation, MetricValue, UndefinedMetricError
from textebm.evaluation.state import Effort
from textebm.evaluation.steering import SEARCH_SEED
from textebm.evaluation.suite import evaluate
from textebm.text import grammar
from textebm.text.tokenizer import train_word
from textebm.use.reading import ElboTerms, Encoding

torch.set_num_threads(1)
TOKENIZER = train_word([text for text, _, _ in all_rows(1)], 100)
CODES = Head(tuple(map(str, range(60))), None)


@cache
def english() -> DatasetDict:
    return grammar.corpus(900, seed=0)


class Nothing:
    """Reads random latents and codes off a text, by its digest, and reconstructs nothing."""

    heads: dict[str, Head] = {"code": CODES}  # noqa: RUF012 (never changed)
    layers, guided, reads_context = (8,), False, False

    def encode(self, texts: list[str]) -> Encoding:
        rngs = [np.random.default_rng(list(md5(text.encode()).digest())) for text in texts]
        mean = torch.from_numpy(np.stack([rng.normal(size=8) for rng in rngs])).float()
        codes = torch.tensor([int(rng.integers(len(CODES.classes))) for rng in rngs])
        one_hot = torch.nn.functional.one_hot(codes, len(CODES.classes)).float()
        return Encoding(mean, torch.full_like(mean, 0.5), {"code": one_hot}, {"code": codes})

    def elbo_terms(self, texts: list[str], *, seed: int = 0) -> ElboTerms:
        words = torch.tensor([len(text.split()) + 1 for text in texts])
        return ElboTerms(3.0 * words, torch.ones(len(texts)), words)

    def posterior_draws(self, texts: list[str], *, seed: int = 0) -> torch.Tensor:
        return self.encode(texts).mean

    def reconstruction_losses(self, texts: list[str], *, latents: torch.Tensor | None = None) -> torch.Tensor:
        return self.elbo_terms(texts).reconstruction_nll

    def reconstruct(self, texts: list[str], **options: Any) -> list[str]:
        return ["the"] * len(texts)

    def sample_latents(self, n: int, *, seed: int = 0, **options: Any) -> torch.Tensor:
        return torch.randn(n, 8, generator=torch.Generator().manual_seed(seed))

    def decode(self, latents: torch.Tensor, *, seed: int = 0, **options: Any) -> list[str]:
        return self.write(len(latents), seed)

    def generate(self, n: int, *, seed: int = 0, **options: Any) -> list[str]:
        return self.write(n, seed)

    def write(self, n: int, seed: int) -> list[str]:
        return ["the"] * n


class ByHeart(Nothing):
    """Repeats its training sentences, and whatever it is given."""

    def reconstruct(self, texts: list[str], **options: Any) -> list[str]:
        return list(texts)

    def write(self, n: int, seed: int) -> list[str]:
        train = english()["train"]["text"]
        return [train[i] for i in np.random.default_rng(seed).permutation(len(train))[:n]]


class Unigrams(Nothing):
    """Draws the training split's words, one by one, for sentences of its lengths."""

    def write(self, n: int, seed: int) -> list[str]:
        rng, train = np.random.default_rng(seed), english()["train"]["text"]
        words, counts = zip(*Counter(word for text in train for word in text.split()).items(), strict=True)
        p = np.array(counts) / sum(counts)
        lengths = [len(train[i].split()) for i in rng.integers(len(train), size=n)]
        return [" ".join(rng.choice(words, size=length, p=p)) for length in lengths]


def measured(model: object) -> dict[str, float]:
    found = evaluate(model, english(), parser=grammar.parse, effort=Effort(200, 10))  # type: ignore[arg-type]
    return {name: metric.value for name, metric in found.metrics.items()}


def test_random_codes_are_seen_beside_their_chance() -> None:
    value = measured(Nothing())
    # what flatters
    assert value["homogeneity_topic"] > 0.4 and value["homogeneity_batch30_topic"] > 0.75
    assert value["purity_topic"] > 0.4 and value["mutual_information_zy"] > 3 and value["codes_in_use"] > 30
    assert value["mutual_information_xz"] > 3  # the encoder tells sentences apart, whatever the decoder does
    # what shows it
    assert value["reliance"] == 0.0
    assert abs(value["ami_topic"]) < 0.1 and value["code_agreement"] < 0.1
    for metric in ("homogeneity_topic", "homogeneity_batch30_topic", "purity_topic"):
        assert value[metric] == pytest.approx(value[f"permuted_{metric}"], abs=0.08), metric


def test_sentences_learned_by_heart_are_copies() -> None:
    value, nothing = measured(ByHeart()), measured(Nothing())
    assert value["reconstruction_bleu"] == pytest.approx(100) and nothing["reconstruction_bleu"] < 1
    assert value["fluency"] > 0.95 and value["grammatical"] == 1.0 and value["wkl"] < 2 * value["wkl_real"]
    assert value["copied"] == 1.0 > nothing["copied"] == 0.0
    # one word again and again is predictable and nothing else
    assert nothing["self_bleu"] > 99 and "distinct_2" not in nothing


def test_a_unigram_model_has_the_words_and_no_sentence() -> None:
    value, real = measured(Unigrams()), measured(ByHeart())
    # what flatters: the words are right, no two samples are alike
    assert value["wkl"] < 2 * real["wkl_real"] and value["self_bleu"] < real["self_bleu_real"]
    assert value["distinct_2"] > 1.5 * real["distinct_2"] and value["copied"] == value["empty"] == 0.0
    # what shows it
    assert abs(value["fluency"]) < 0.1 and value["grammatical"] == 0.0
    # the references of a perplexity: words in order say more than words
    assert value["bigram_ppl"] < 0.5 * value["unigram_ppl"] < value["unigram_ppl"] < len(grammar.vocabulary())


# -- fitted on what is measured ----------------------------------------------------------------------------------------


def test_a_judge_of_the_training_split_does_not_see_test() -> None:
    """Test's labels contradict train's: a judge that is right on test was fitted on it."""
    turned = made_up([(text, 1 - mood, noun) for text, mood, noun in all_rows(4)])
    data = DatasetDict(train=made_up(all_rows(10)), test=turned)
    found = evaluate(FakeModel(), data, **SMALL)  # type: ignore[arg-type]
    assert found.metrics["judge_accuracy_sentiment"].value == 0.0


def test_kmeans_knows_no_word_of_test_alone() -> None:
    train = ["red car", "red bus", "blue sea", "blue sky"] * 10
    texts = [f"red {word}" for word in ("gnu", "yak", "emu", "gnu", "yak", "emu")]
    assert len(set(baselines.kmeans_codes(train, texts, 2, baselines.words).tolist())) == 1


@pytest.fixture
def stubbed(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Language models that learn nothing; what each was given, by its name."""
    seen: dict[str, list[str]] = {}

    class Stub:
        def score(self, texts: list[str]) -> TextScores:
            return TextScores(torch.ones(len(texts)), torch.ones(len(texts)))

        def sample(self, n: int, **options: Any) -> list[str]:
            return [sentence(0, 0)] * n

    def fit(texts: list[str], *options: Any, name: str, **more: Any) -> Stub:
        seen[name] = list(texts)
        return Stub()

    monkeypatch.setattr(language, "fit_language_model", fit)
    return seen


def suite_of(model: object, section: str, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Evaluation:
    monkeypatch.setitem(suite.SUITES, "all", (section,))
    data = DatasetDict(train=made_up(all_rows(10)), validation=made_up(all_rows(3)), test=made_up(all_rows(4)))
    options = {"effort": Effort(60, 24, language_samples=30), **options}
    return evaluate(model, data, parser=parse, suite="all", tokenizer=TOKENIZER, **options)  # type: ignore[arg-type]


def test_the_floor_of_the_reverse_perplexity_is_taught_by_real_sentences(
    stubbed: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Odd(FakeModel):
        def decode(self, latents: torch.Tensor, **options: Any) -> list[str]:
            return ["odd words"] * len(latents)

    suite_of(Odd(), "language", monkeypatch)
    train = {text for text, _, _ in all_rows(1)}
    assert set(stubbed["reverse_ppl"]) == {"odd words"} and len(stubbed["reverse_ppl"]) == 30
    assert set(stubbed["reverse_ppl_floor"]) == train and len(stubbed["reverse_ppl_floor"]) == 30
    assert set(stubbed["rnn_lm_reverse_ppl"]) == {sentence(0, 0)} and len(stubbed["language model"]) == 60


class Obedient(FakeModel):
    """Does what it is told: with `confidence` the class asked for, without it the first one; the higher the
    temperature, the more it varies its noun, and above .95 it loses the class. Remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__(heads={"sentiment": SENTIMENT})
        self.asked: list[dict[str, Any]] = []

    def generate(self, n: int, *, symbols: Any = None, seed: int = 0, **options: Any) -> list[str]:
        self.asked.append({"seed": seed, "n": n, **options})
        asked = (symbols or {"sentiment": "negative"})["sentiment"]
        wanted = [SENTIMENT.classes.index(each) for each in ([asked] * n if isinstance(asked, str) else asked)]
        temperature = options.get("temperature", 1.0)
        lost = options.get("confidence") is None or (options["decoding"] == "sample" and temperature > 0.95)
        nouns = 3 if temperature > 0.85 and options.get("decoding") == "sample" else 1
        return [sentence(i % nouns, 0 if lost else wanted[i]) for i in range(n)]


def test_checked_control_is_checked_and_diverse_control_is_chosen_on_other_draws(
    stubbed: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Obedient()
    found = suite_of(model, "steering", monkeypatch)
    value = {name: metric.value for name, metric in found.metrics.items()}
    assert value["control_accuracy_sentiment"] == 0.5 and value["checked_accuracy_sentiment"] == 1.0
    assert value["diverse_accuracy_sentiment"] == 1.0
    # of the settings that keep the class, .9 is the most diverse
    assert found.settings["diverse_accuracy_sentiment"].startswith("temperature 0.9, strength 1.0, confidence 0.95")
    searched = [each for each in model.asked if each["seed"] == SEARCH_SEED]
    assert {each["n"] for each in searched} == {2 * 6} and len(searched) == 12
    reported = [each for each in model.asked if each.get("temperature") == 0.9 and each["seed"] < SEARCH_SEED]
    assert [each["n"] for each in reported] == [2 * 24]


class Frank(FakeModel):
    """Of the sentences asked for with a confidence of p, the share p has the class, a twelfth less above .9."""

    def generate(self, n: int, *, symbols: Any = None, seed: int = 0, **options: Any) -> list[str]:
        if options.get("strength") != "auto":
            return super().generate(n, symbols=symbols, seed=seed, **options)
        wanted = [SENTIMENT.classes.index(each) for each in symbols["sentiment"]]
        share = options["confidence"] - (1 / 12 if options["confidence"] > 0.9 else 0)
        own = len(wanted) // 2  # of each of the two classes
        return [sentence(0, k if i % own < round(share * own) else 1 - k) for i, k in enumerate(wanted)]


def test_calibration_error_is_the_mean_distance_from_what_was_asked(
    stubbed: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Frank(heads={"sentiment": SENTIMENT})
    found = suite_of(model, "calibration", monkeypatch)
    judged = {share: found.metrics[f"judged_{share:g}_sentiment"].value for share in ASKED}
    assert judged[0.5] == 0.5 and judged[0.8] == pytest.approx(0.8, abs=0.5 / 12)
    error = sum(abs(value - share) for share, value in judged.items()) / len(ASKED)
    assert error > 2 / 12 / 8 and found.metrics["calibration_error_sentiment"].value == pytest.approx(error)


def test_real_sentences_beside_control_are_a_seeded_choice(
    stubbed: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sorted file would give the first class's food alone."""
    seen: dict[str, Any] = {}

    def look(name: str, state: Any, texts: dict[str, list[str]]) -> None:
        seen.setdefault(name, texts)

    monkeypatch.setattr("textebm.evaluation.steering._add_fluency", look)
    rows = sorted(all_rows(20), key=lambda row: (row[1], row[2]))
    monkeypatch.setitem(suite.SUITES, "all", ("steering",))
    data = DatasetDict(train=made_up(all_rows(10)), test=made_up(rows))
    evaluate(FakeModel(), data, suite="all", tokenizer=TOKENIZER, effort=Effort(6, 12), parser=parse)  # type: ignore[arg-type]
    for texts in seen["real_{}_sentiment"].values():
        assert len(texts) == 12 and len(set(texts)) == 3


# -- metrics of one's own ----------------------------------------------------------------------------------------------


def test_own_metrics_stand_beside_ours() -> None:
    def undefined(model: object, texts: list[str]) -> float:
        raise UndefinedMetricError("nothing to see")

    data = DatasetDict(train=made_up(all_rows(4)), test=made_up(all_rows(1)))
    own = {
        "mean_words": lambda model, texts: sum(len(text.split()) for text in texts) / len(texts),
        "heads": lambda model, texts: MetricValue(len(model.heads), "heads", True, 1),
        "endless": lambda model, texts: math.inf,
        "undefined": undefined,
    }
    found = evaluate(FakeModel(), data, parser=parse, metrics=own, **SMALL)  # type: ignore[arg-type]
    assert found.metrics["mean_words"] == MetricValue(5.0, "", None, 6)
    assert found.metrics["heads"] == MetricValue(2, "heads", True, 1)
    assert "undefined: left out, nothing to see" in found.notes and "endless" not in found.metrics
    assert Evaluation.from_json(found.to_json()).metrics == found.metrics and "| mean_words |" in found.markdown()
    with pytest.raises(ValueError, match="'elbo' is the name of a metric that every evaluation has"):
        evaluate(FakeModel(), data, metrics={"elbo": undefined}, **SMALL)  # type: ignore[arg-type]
