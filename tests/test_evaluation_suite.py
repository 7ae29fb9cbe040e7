"""The suite on a small made-up language and a deterministic model of it, so that every number can be worked out by
hand.

A sentence is "the NOUN was ADJECTIVE ."; the noun is the code (and the topic), the adjective the sentiment.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from textebm.errors import CorpusError, TextEBMError
from textebm.evaluation import suite
from textebm.evaluation.control import (
    ClassifierJudge,
    CodeJudge,
    ParserJudge,
    code_agreement,
    composition_accuracy,
    control_accuracy,
)
from textebm.evaluation.metric import Evaluation, UndefinedMetricError
from textebm.evaluation.probes import layer_probes
from textebm.evaluation.state import Effort
from textebm.evaluation.suite import evaluate

torch.set_num_threads(1)

NOUNS = ("food", "staff", "room")  # codes 0, 1, 2; code 3 is never used
ADJECTIVES = ("bad", "good")


def sentence(noun: int, adjective: int) -> str:
    return f"the {NOUNS[noun]} was {ADJECTIVES[adjective]} ."


def parse(text: str) -> dict[str, str] | None:
    words = text.split()
    if len(words) != 5 or words[1] not in NOUNS or words[3] not in ADJECTIVES:
        return None
    return {"topic": words[1], "sentiment": "positive" if words[3] == "good" else "negative"}


@dataclass
class Head:
    classes: tuple[str, ...]
    column: str | None


SENTIMENT = Head(("negative", "positive"), "sentiment")
CODE = Head(("0", "1", "2", "3"), None)


@dataclass
class Encoding:
    mean: torch.Tensor
    stddev: torch.Tensor
    probabilities: dict[str, torch.Tensor]
    codes: dict[str, torch.Tensor]


@dataclass
class Terms:
    reconstruction_nll: torch.Tensor
    kl: torch.Tensor
    num_tokens: torch.Tensor


@dataclass
class Interval:
    lower: torch.Tensor
    upper: torch.Tensor
    num_tokens: torch.Tensor
    effective_draws: torch.Tensor


@dataclass
class FakeModel:
    """Reads and writes the language without a fault, except: it writes code 1 as code 2, and every fourth positive
    sentence is empty. With more sampler steps it falls to one sentence.
    """

    heads: dict[str, Head] = field(default_factory=lambda: {"sentiment": SENTIMENT, "code": CODE})
    mute: bool = False
    nll: float = 2.0
    layers: tuple[int, ...] = (3,)
    guided: bool = False
    reads_context: bool = False

    def encode(self, texts: list[str]) -> Encoding:
        assert all(text.strip() for text in texts), "an empty sentence was given to the encoder"
        factors = [parse(text) or {"topic": NOUNS[0], "sentiment": "negative"} for text in texts]
        codes = torch.tensor([NOUNS.index(f["topic"]) for f in factors])
        mood = torch.tensor([int(f["sentiment"] == "positive") for f in factors])
        numbers = {name: (codes if head.column is None else mood) for name, head in self.heads.items()}
        one_hot = {name: torch.eye(len(self.heads[name].classes))[found] for name, found in numbers.items()}
        mean = torch.stack([codes.float(), mood.float(), torch.zeros(len(texts))], dim=1)
        return Encoding(mean, torch.full_like(mean, 1e-3), one_hot, numbers)

    def elbo_terms(self, texts: list[str], *, seed: int = 0) -> Terms:
        words = torch.tensor([len(text.split()) for text in texts])
        return Terms(self.nll * words.float(), torch.ones(len(texts)), words)

    def energies(self, z: torch.Tensor) -> torch.Tensor:
        return -0.5 * z.square().sum(-1)  # so that F − ½‖z‖² is 0

    def posterior_draws(self, texts: list[str], *, seed: int = 0) -> torch.Tensor:
        return self.encode(texts).mean

    def reconstruction_losses(self, texts: list[str], *, latents: torch.Tensor | None = None) -> torch.Tensor:
        return self.elbo_terms(texts).reconstruction_nll

    def reconstruct(self, texts: list[str], *, decoding: str = "greedy", refine: int = 0) -> list[str]:
        assert decoding == "greedy"
        return [""] * len(texts) if self.mute else list(texts)

    def generate(
        self, n, *, symbols=None, strength=None, seed=0, decoding="greedy", temperature=1.0, confidence=None
    ) -> list[str]:
        if self.mute:
            return [""] * n
        texts = []
        for i in range(n):
            noun, adjective = i % 3, (i // 3) % 2
            for name, value in (symbols or {}).items():
                number = self.heads[name].classes.index(value if isinstance(value, str) else value[i])
                if self.heads[name].column is None:
                    noun = {0: 0, 1: 2, 2: 2, 3: 0}[number]
                else:
                    adjective = number
            mute = "sentiment" in (symbols or {}) and adjective == 1 and i % 4 == 3
            texts.append("" if mute else sentence(noun, adjective))
        return texts

    def sample_latents(self, n, *, symbols=None, strength=None, seed=0, steps_factor=1) -> torch.Tensor:
        return steps_factor * (torch.arange(n) % 2).float()[:, None].expand(n, 3)  # standard deviation factor / 2

    def decode(self, latents, *, seed=0, decoding="greedy", temperature=1.0) -> list[str]:
        if float(latents.max()) > 1 and not self.mute:  # more steps
            return [sentence(0, 0)] * len(latents)
        if decoding == "greedy" and not self.mute:  # greedy decoding has its favourite
            return [sentence(i % 3, 1) for i in range(len(latents))]
        return self.generate(len(latents), seed=seed)

    def nll_interval(
        self, texts, *, draws=16, temperatures=4, chains=1, seed=0, progress=None, scaling_texts=(), q_steps=0
    ) -> Interval:
        assert scaling_texts and q_steps == 40, "the suite fits q, on other sentences and on each"
        words = torch.tensor([len(text.split()) for text in texts])
        return Interval(words.float() - 1, words.float(), words, torch.full((len(texts),), 2.0))

    def edit(self, texts, symbols, *, keep=None, level=None, strength=None, seed=0, decoding="greedy") -> list[str]:
        """Up to level 4; level 2 changes nothing, another also spoils the noun of every other sentence."""
        if level is not None and level > 4:
            raise TextEBMError("level must lie between 1 and 4")
        if level == 2:
            return list(texts)
        (asked,) = symbols.values()
        found = []
        for i, (text, mood) in enumerate(zip(texts, asked, strict=True)):
            words = text.split()
            words[3] = "good" if mood == "positive" else "bad"
            words[1] = "food" if i % 2 else words[1]
            found.append(" ".join(words))
        return found


def corpus(rows: list[tuple[str, int, int]], features: Features | None = None) -> Dataset:
    features = features or Features(
        {
            "text": Value("string"),
            "sentiment": ClassLabel(names=["negative", "positive"]),
            "topic": ClassLabel(names=list(NOUNS)),
        }
    )
    columns = dict(zip(("text", "sentiment", "topic"), map(list, zip(*rows, strict=True)), strict=True))
    return Dataset.from_dict({name: columns[name] for name in features}, features=features)


def all_rows(times: int) -> list[tuple[str, int, int]]:
    return [(sentence(noun, mood), mood, noun) for _ in range(times) for noun in range(3) for mood in range(2)]


@pytest.fixture(scope="module")
def data() -> DatasetDict:
    return DatasetDict(train=corpus(all_rows(10)), validation=corpus(all_rows(2)), test=corpus(all_rows(4)))


WORDS_OF_CODES = ("code_coherence", "code_diversity", "code_detection", "code_intruder", "code_loop", "permuted_code")
SMALL = {"effort": Effort(samples=60, samples_per_class=24)}


def values(found: Evaluation) -> dict[str, float]:
    return {name: metric.value for name, metric in found.metrics.items()}


def test_the_whole_suite_gives_the_numbers_worked_out_by_hand(data: DatasetDict, tmp_path: Path) -> None:
    parts: list[str] = []
    found = evaluate(FakeModel(), data, parser=parse, seed=3, progress=parts.append, **SMALL)
    # Of six units, "the was . </s>" have 1/6 each, a noun 1/18 and an adjective 1/12; the discount .1 of each of the
    # nine kinds goes to ten words (the unknown one too) in equal parts.
    smooth = [(60 * share - 0.1 + 0.1 * 9 / 10) / 60 for share in (1, 1, 1, 1, 1 / 3, 1 / 2)]
    unigram_ppl = math.exp(-sum(math.log(p / 6) for p in smooth) / 6)
    by_words = {name: value for name, value in values(found).items() if name.startswith(WORDS_OF_CODES)}
    assert len(by_words) in (8, 9) and by_words["code_detection_auroc"] > 0.5  # worked out in test_code_scores.py
    assert {name: value for name, value in values(found).items() if name not in by_words} == pytest.approx(
        {
            "reconstruction_bleu": 100.0,
            "reconstruction_nll": 10.0,
            "kl": 1.0,
            # means 0, 1, 2 of the code and 0, 1 of the mood, stddev 1e-3 in three dimensions
            "kl_standard_normal": 0.5 * (5 / 3 + 1 / 2 + 3e-6 - 3) + 3 * math.log(1000),
            "elbo": -11.0,
            "reliance": 0.0,  # the fake writes a sentence as surely from another's latent
            "ppl": math.exp(11 / 5),
            "unigram_ppl": unigram_ppl,
            "bigram_ppl": found.metrics["bigram_ppl"].value,
            "fluency": found.metrics["fluency"].value,
            "fluency_sampled": found.metrics["fluency_sampled"].value,
            "kl_per_unit_used": 3,
            # the third unit is 0 ± 1e-3 for every sentence
            "kl_per_unit_smallest": 0.5 * (1e-6 - 1) + math.log(1000),
            "kl_per_unit_largest": 0.5 * (5 / 3 + 1e-6 - 1) + math.log(1000),
            "mutual_information_xz": math.log(6),  # six separated places
            "latent_stddev": 0.5,
            "latent_stddev_more_steps": 2.0,
            "latent_stddev_posterior": math.sqrt((2 / 3 + 1 / 4) / 3),
            "wkl": 0.2 * math.log(2),  # "good" twice as often as in train
            "wkl_real": 0.0,
            "self_bleu": 100.0,  # every sentence occurs ten times
            "self_bleu_real": 100.0,
            "distinct_2": 8 / 240,
            "copied": 1.0,
            "empty": 0.0,
            "grammatical": 1.0,
            "wkl_sampled": 0.0,
            "self_bleu_sampled": 100.0,
            "distinct_2_sampled": 10 / 240,  # the N (3), N was (3), was A (2), A . (2)
            "copied_sampled": 1.0,
            "empty_sampled": 0.0,
            "grammatical_sampled": 1.0,
            "mutual_information_zy": math.log(3),
            "mutual_information_zy_sentiment": math.log(2),
            "codes_in_use": 3,
            "code_perplexity": 3.0,
            "homogeneity_sentiment": 0.0,
            "v_measure_sentiment": 0.0,
            "purity_sentiment": 0.5,
            "permuted_purity_sentiment": found.metrics["permuted_purity_sentiment"].value,
            "purity_topic": 1.0,
            **{
                f"{chance}homogeneity_batch{size}_{label}": found.metrics[
                    f"{chance}homogeneity_batch{size}_{label}"
                ].value
                for chance in ("", "permuted_")
                for size in (30, 128)
                for label in ("sentiment", "topic")
            },
            "permuted_purity_topic": found.metrics["permuted_purity_topic"].value,
            "ami_sentiment": found.metrics["ami_sentiment"].value,
            "permuted_homogeneity_sentiment": found.metrics["permuted_homogeneity_sentiment"].value,
            "homogeneity_topic": 1.0,
            "v_measure_topic": 1.0,
            "ami_topic": 1.0,
            "permuted_homogeneity_topic": found.metrics["permuted_homogeneity_topic"].value,
            "code_agreement": 2 / 3,  # code 1 is written as code 2
            "head_accuracy_sentiment": 1.0,
            "majority_accuracy_sentiment": 0.5,
            "tfidf_accuracy_sentiment": 1.0,
            "judge_accuracy_sentiment": 1.0,
            "control_accuracy_sentiment": (1 + 3 / 4) / 2,
            "control_accuracy_sentiment_negative": 1.0,
            "control_accuracy_sentiment_positive": 3 / 4,
            # Negative: each sentence eight times. Positive: the same, but 6 of 24 are empty and score 0.
            "control_self_bleu_sentiment": (100.0 + 75.0) / 2,
            # Four sentences for each of 3 codes x 2 sentiments; one of four positive ones is empty, code 1 is never
            # there.
            "composition_joint_sentiment_code": (8 + 6) / 24,
            "composition_geometric_sentiment_code": math.sqrt((12 + 9) / 24 * (8 + 6) / 24),
        },
        abs=1e-5,
    )
    assert found.metrics["ami_sentiment"].value < 0.05 and found.metrics["permuted_homogeneity_topic"].value < 0.5
    counts = {
        name: found.metrics[name].n for name in ("reconstruction_bleu", "wkl", "self_bleu_real", "code_agreement")
    }
    assert counts == {"reconstruction_bleu": 24, "wkl": 60, "self_bleu_real": 24, "code_agreement": 60}
    assert found.metrics["control_accuracy_sentiment"].n == 48 and found.metrics["judge_accuracy_sentiment"].n == 24
    assert parts[0] == "1 of 8 · reconstruction" and len(set(parts)) == len(parts)
    assert any(re.fullmatch(r"7 of 8 · control of sentiment · about \d+ (s|min)(.*)? left", part) for part in parts)

    saved = json.loads(found.save(tmp_path / "evaluation.json").read_text(), parse_constant=pytest.fail)
    assert set(saved["metrics"]) == set(found.metrics)
    assert set(saved["metrics"]["wkl"]) == {"value", "unit", "higher_is_better", "n"}
    assert saved["seed"] == 3 and saved["sizes"]["evaluated"] == 24 and saved["sizes"]["train"] == 60
    assert {"python", "torch", "transformers", "sacrebleu", "scikit-learn", "textebm"} <= set(saved["versions"])
    assert "tok:none|smooth:none" in saved["sacrebleu_signature"] and "smooth:floor" in saved["self_bleu_signature"]
    assert len(found.samples["free"]) == 50 and len(found.samples["code=1"]) == 3
    assert found.samples["sentiment=positive"][0] == "the food was good ." and "# code=2\n" in found.samples_text()
    assert evaluate(FakeModel(), data, parser=parse, seed=3, **SMALL).to_json() == found.to_json()


def test_probes_say_which_layer_carries_a_label(data: DatasetDict) -> None:
    found = values(evaluate(FakeModel(layers=(1, 2)), data, parser=parse, **SMALL))  # means: (topic | sentiment, 0)
    assert found["probe_topic_layer2"] == 1.0 and found["probe_sentiment_layer1"] == 1.0
    assert found["probe_topic_layer1"] < 0.7 and found["probe_sentiment_layer2"] < 0.8
    assert found["probe_base_topic"] < 0.5 and "probe_topic_layer3" not in found
    few = {"train": data["train"], "test": data["test"].select(range(12))}
    result = evaluate(FakeModel(layers=(1, 2)), DatasetDict(few), parser=parse, **SMALL)
    assert any(note.startswith("probe_topic: left out, too few") for note in result.notes)


def test_layer_probes_leave_out_missing_labels_and_say_chance() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 600)
    means = np.stack([rng.normal(size=600), labels + 0.1 * rng.normal(size=600)], axis=1)
    accuracies, base, n = layer_probes(means, np.where(np.arange(600) < 200, -1, labels), (1, 1))
    assert n == 200 and accuracies[1] > 0.98 and abs(accuracies[0] - 1 / 3) < 0.12 and abs(base - 1 / 3) < 0.12
    with pytest.raises(ValueError, match="expected means of shape"):
        layer_probes(means, labels, (1, 2))


def test_a_mute_model_scores_nothing_and_writes_no_nan(data: DatasetDict, tmp_path: Path) -> None:
    found = evaluate(FakeModel(mute=True), data, parser=parse, **SMALL)
    got = values(found)
    assert (got["reconstruction_bleu"], got["grammatical"], got["empty"], got["copied"]) == (0.0, 0.0, 1.0, 0.0)
    assert (got["control_accuracy_sentiment"], got["code_agreement"], got["self_bleu"]) == (0.0, 0.0, 0.0)
    assert got["composition_joint_sentiment_code"] == 0.0
    assert got["fluency"] < 0.5
    for name in ("wkl", "wkl_sampled", "distinct_2"):
        assert name not in got and any(note.startswith(f"{name}: left out") for note in found.notes)
    json.loads(found.save(tmp_path / "evaluation.json").read_text(), parse_constant=pytest.fail)


def test_terms_that_are_not_finite_are_left_out_and_said(data: DatasetDict) -> None:
    found = evaluate(FakeModel(nll=math.nan), data, **SMALL)
    assert not {"reconstruction_nll", "elbo", "ppl"} & set(found.metrics) and "kl" in found.metrics
    assert any(note.startswith("elbo: left out") for note in found.notes)
    huge = evaluate(FakeModel(nll=1e4), data, **SMALL)
    assert "ppl" not in huge.metrics and huge.metrics["elbo"].value == pytest.approx(-50001.0)


def test_a_model_without_heads_gets_no_code_or_control_metrics(data: DatasetDict) -> None:
    found = evaluate(FakeModel(heads={}), data, **SMALL)
    heads = ("code", "homogeneity", "ami", "control", "judge", "composition", "mutual_information_zy", "grammatical")
    assert not [name for name in found.metrics if name.startswith(heads)]
    assert "no unsupervised head: no code metrics" in found.notes
    assert found.metrics["reconstruction_bleu"].value == pytest.approx(100.0)


def test_a_head_is_compared_on_the_labels_that_it_was_shown() -> None:
    """Two labelled rows of train, both of one class, teach nothing; the head itself reads everything."""
    data = DatasetDict(train=corpus(all_rows(10)), test=corpus([*all_rows(2), (sentence(0, 0), -1, 0)]))
    found = evaluate(FakeModel(), data, shown_labels={"sentiment": [1, 3]}, parser=parse, **SMALL)
    assert values(found)["head_accuracy_sentiment"] == 1.0 and found.metrics["head_accuracy_sentiment"].n == 12
    assert values(found)["majority_accuracy_sentiment"] == 0.5 and "tfidf_accuracy_sentiment" not in found.metrics
    assert "2 labels" in found.settings["head_accuracy_sentiment"]
    # a head that reads the opposite shows it, and so does TF-IDF where test contradicts train
    turned = DatasetDict(train=data["train"], test=corpus([(text, 1 - mood, noun) for text, mood, noun in all_rows(2)]))
    found = evaluate(FakeModel(), turned, parser=parse, **SMALL)
    assert values(found)["head_accuracy_sentiment"] == values(found)["tfidf_accuracy_sentiment"] == 0.0
    assert values(found)["majority_accuracy_sentiment"] == 0.5


def test_a_corpus_without_labels_and_a_head_that_it_cannot_judge() -> None:
    features = Features({"text": Value("string")})
    plain = DatasetDict(train=corpus(all_rows(2), features), test=corpus(all_rows(1), features))
    found = evaluate(FakeModel(), plain, **SMALL)
    assert "control_accuracy_sentiment" not in found.metrics and "homogeneity_topic" not in found.metrics
    assert any("no judge" in note for note in found.notes)
    assert found.metrics["code_agreement"].value == pytest.approx(2 / 3)


def test_one_sentence(data: DatasetDict) -> None:
    found = evaluate(FakeModel(), data, limit=1, effort=Effort(1, 1), parser=parse)
    undefined = {"mutual_information_xz", "latent_stddev", "self_bleu", "homogeneity_topic"}
    assert not undefined & set(found.metrics)
    assert found.metrics["code_agreement"].n == 1 and found.metrics["control_accuracy_sentiment"].value == 1.0
    assert found.metrics["codes_in_use"].value == 1


def test_a_second_unsupervised_head_gets_its_name(data: DatasetDict) -> None:
    found = evaluate(FakeModel(heads={"code": CODE, "style": CODE}), data, **SMALL)
    for name in ("mutual_information_zy", "code_agreement", "codes_in_use", "ami_topic"):
        assert found.metrics[f"{name}_style"] == found.metrics[name]


def test_missing_labels_are_left_out_of_labels_and_judges() -> None:
    rows = [(text, -1 if i % 2 else mood, noun) for i, (text, mood, noun) in enumerate(all_rows(3))]
    some = DatasetDict(train=corpus(all_rows(5)), test=corpus(rows))
    found = evaluate(FakeModel(), some, parser=parse, **SMALL)
    assert found.metrics["judge_accuracy_sentiment"].n == 9  # of 18; all nine are negative
    assert "homogeneity_sentiment" not in found.metrics and found.metrics["homogeneity_topic"].n == 18
    none = DatasetDict(train=some["train"], test=corpus([(text, -1, noun) for text, _, noun in rows]))
    found = evaluate(FakeModel(), none, parser=parse, **SMALL)
    assert any(note.startswith("judge_accuracy_sentiment: left out") for note in found.notes)


def test_the_judge_corpus_is_preferred_and_the_training_split_is_owned_up_to(data: DatasetDict) -> None:
    independent = evaluate(FakeModel(), data, judge_corpus=corpus(all_rows(5)), **SMALL)
    own = evaluate(FakeModel(), data, **SMALL)
    assert not any("not independent" in note for note in independent.notes)
    assert any("not independent" in note for note in own.notes)
    for found in (independent, own):
        assert found.metrics["judge_accuracy_sentiment"].value == 1.0
        assert found.metrics["control_accuracy_sentiment"].value == pytest.approx(7 / 8)
    # A judge taught the wrong way round must show in its own accuracy: the metric can fail.
    wrong = corpus([(text, 1 - mood, noun) for text, mood, noun in all_rows(5)])
    found = evaluate(FakeModel(), data, judge_corpus=wrong, **SMALL)
    assert found.metrics["judge_accuracy_sentiment"].value == found.metrics["control_accuracy_sentiment"].value == 0.0


def test_limit_is_a_seeded_choice_of_a_sorted_file() -> None:
    rows = sorted(all_rows(20), key=lambda row: row[1])
    chosen = suite._choose(corpus(rows), 40, 0, Evaluation(seed=0))
    assert len(chosen) == 40 and 10 < sum(chosen["sentiment"]) < 30
    assert list(suite._choose(corpus(rows), 40, 0, Evaluation(seed=0))["text"]) == list(chosen["text"])


def test_blank_sentences_and_missing_splits(data: DatasetDict) -> None:
    blank = DatasetDict(train=data["train"], test=corpus([(" ", 0, 0), *all_rows(1)]))
    found = evaluate(FakeModel(), blank, parser=parse, **SMALL)
    assert found.sizes["evaluated"] == 6 and "1 blank sentences of test left out" in found.notes
    with pytest.raises(CorpusError, match="did you mean 'test'"):
        evaluate(FakeModel(), data, split="tset")
    with pytest.raises(CorpusError, match="train"):
        evaluate(FakeModel(), DatasetDict(test=data["test"]))
    with pytest.raises(CorpusError, match="no sentence"):
        evaluate(FakeModel(), DatasetDict(train=data["train"], test=corpus([("", 0, 0)])))
    with pytest.raises(ValueError, match="at least 1"):
        evaluate(FakeModel(), data, effort=Effort(samples=0))
    validated = evaluate(FakeModel(), data, split="validation", limit=5, **SMALL)
    assert validated.sizes["evaluated"] == 5 and "measured on validation, not on test" in validated.notes


# Control on its own


def test_control_and_composition_count_per_class() -> None:
    model, judge = FakeModel(), ParserJudge(parse, "sentiment")
    found = control_accuracy(model, "sentiment", judge, 8)
    assert found.per_class == {"negative": 1.0, "positive": 0.75} and found.n == 16
    assert control_accuracy(model, "sentiment", judge, 8, classes=["negative"]).accuracy == 1.0
    both = composition_accuracy(model, {"sentiment": judge, "code": CodeJudge(model, "code")}, 4)
    # Of four codes 0 and 2 are written as themselves; 7 of 8 sentences are not empty.
    assert both.joint == pytest.approx(0.5 * 7 / 8) and both.n == 32
    assert both.per_head == pytest.approx({"sentiment": 7 / 8, "code": 0.5 * 7 / 8})
    assert both.geometric_mean == pytest.approx(7 / 8 * math.sqrt(0.5))
    with pytest.raises(UndefinedMetricError):
        control_accuracy(model, "sentiment", judge, 0)
    with pytest.raises(ValueError, match="two heads"):
        composition_accuracy(model, {"sentiment": judge}, 4)


def test_code_agreement_by_code() -> None:
    found = code_agreement(FakeModel(), "code", 5)
    assert found.per_class == {"0": 1.0, "1": 0.0, "2": 1.0, "3": 0.0} and found.accuracy == 0.5
    assert code_agreement(FakeModel(), "code", 5, codes=[0, 2]).accuracy == 1.0
    assert CodeJudge(FakeModel(), "code").predict(["", sentence(2, 0), " "]) == [None, "2", None]


def test_symbols_strength_and_seeds_reach_the_model() -> None:
    asked = []

    class Recorder(FakeModel):
        def generate(self, n, *, symbols=None, seed=0, **options) -> list[str]:
            asked.append((n, symbols, options, seed))
            return [sentence(0, 0)] * n

    control_accuracy(Recorder(), "sentiment", ParserJudge(parse, "sentiment"), 2, strength=3.0, seed=10)
    assert asked == [(4, {"sentiment": ["negative"] * 2 + ["positive"] * 2}, {"strength": 3.0}, 10)]


def test_a_model_that_gives_too_few_sentences_is_refused() -> None:
    class Short(FakeModel):
        def generate(self, n, **keywords) -> list[str]:
            return super().generate(n - 1, **keywords)

    with pytest.raises(ValueError, match="15 sentences for 16 of sentiment"):
        control_accuracy(Short(), "sentiment", ParserJudge(parse, "sentiment"), 8)


def test_the_classifier_judge_learns_words_and_reads_nothing_from_nothing() -> None:
    texts = [text for text, _, _ in all_rows(5)]
    moods = [mood for _, mood, _ in all_rows(5)]
    judge = ClassifierJudge.fit([*texts, "unlabelled words", ""], [*moods, -1, 0], ["negative", "positive"], seed=0)
    assert judge.predict(["the soup was good .", "the soup was bad .", " "]) == ["positive", "negative", None]
    assert judge.predict([]) == []
    with pytest.raises(UndefinedMetricError, match="two classes"):
        ClassifierJudge.fit(texts, [0] * len(texts), ["negative", "positive"])


def test_numpy_is_seeded_by_argument_only(data: DatasetDict) -> None:
    before = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    evaluate(FakeModel(), data, parser=parse, limit=6, effort=Effort(6, 2))
    assert (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before


def test_time_left_is_the_shares_left_at_the_pace_so_far_less_what_the_section_in_work_has_taken() -> None:
    said: list[str] = []
    now = [0.0]
    course = suite._Course(said.append, ["own", "another", "third"], clock=lambda: now[0])  # a share of 1 each
    for name, seconds in (("own", 0), ("another", 10), (None, 14), ("third", 20)):
        now[0] = float(seconds)
        if name:
            course.begin(name)
        course(name or "another")
    assert said == [
        "1 of 3 · own",
        "2 of 3 · another · about 20 s left",
        "2 of 3 · another · about 16 s left",
        "3 of 3 · third · about 10 s left",
    ]
