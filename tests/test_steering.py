"""Steering beyond what was trained: other classes, several classes, added attributes, directions, prompts, twins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import network, sentences, trained, trainer, untrained
from torch import Tensor

from textebm.api import TextEBM
from textebm.errors import CheckpointError, TextEBMError
from textebm.model.latent_text_model import Attribute
from textebm.prior.condition import Condition, Tilt, log_probability_of
from textebm.prior.fixed import fixed_potential
from textebm.prior.nearest import ascend
from textebm.prior.sampler import potential_and_gradient
from textebm.use.attributes import calibration_error, remove_attribute
from textebm.use.steering import Direction, Others, Steering, classes_meant, one_class_each
from textebm.use.wording import word_tokens
from textebm.use.writing import prompted_latents, sample_latents

TEXTS = list(sentences(40))


def test_the_probability_of_several_classes_is_the_sum_of_theirs() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, -1.0], [0.5, 0.5, 0.5]])
    p = logits.softmax(-1)
    allowed = torch.tensor([[True, True, False], [False, True, True], [True, True, True]])
    expected = torch.stack([(p[0, 0] + p[0, 1]).log(), (1 - p[1, 0]).log(), torch.tensor(0.0)])
    torch.testing.assert_close(log_probability_of(logits, allowed), expected)
    classes = torch.tensor([2, -1, 0])
    torch.testing.assert_close(
        log_probability_of(logits, classes), torch.stack([p[0, 2].log(), p.new_zeros(()), p[2, 0].log()])
    )


def test_a_request_names_classes_in_every_form() -> None:
    head = trained().heads["topic"]
    n = len(head.classes)
    first, second = head.classes[:2]
    assert classes_meant(head, first) == {0} and classes_meant(head, 1) == {1}
    assert classes_meant(head, f"!{first}") == classes_meant(head, Others(first)) == set(range(1, n))
    assert classes_meant(head, {first, 1}) == classes_meant(head, f"{first}, {second}") == {0, 1}
    assert classes_meant(head, Others({first, second})) == set(range(2, n))
    with pytest.raises(TextEBMError, match="has no class 'nothing'"):
        classes_meant(head, "!nothing")
    with pytest.raises(TextEBMError, match="nothing is left to be"):
        classes_meant(head, Others(set(head.classes)))


def test_a_tilt_by_hand() -> None:
    """weight · log p(y ∈ asked): classes with logits u and −u at u = 1, at the second of two levels."""
    slopes, offsets = torch.zeros(2, 2, 1), torch.zeros(2, 2)
    slopes[1, :, 0] = torch.tensor([1.0, -1.0])
    u, level = torch.ones(2, 1), torch.tensor([1, 0])
    value = Tilt(slopes, offsets, torch.tensor([0, 0]), 2.5).value(u, level)
    expected = 2.5 * torch.tensor([1 / (1 + np.exp(-2)), 0.5]).log()
    torch.testing.assert_close(value, expected.to(value.dtype))


def test_an_ascent_asks_the_noisy_heads_where_diffusion_leads() -> None:
    """One step at level t goes along ∇_z log p(y | ᾱ_t z, t), and not along the gradient at z itself."""
    prior = untrained().prior
    z, asked = torch.randn(5, 8, generator=torch.Generator().manual_seed(0)), {"code": torch.tensor([0, 1, 2, 3, 4])}
    moved = ascend(prior, z, Condition(asked), level=2, steps=1, length=0.1)
    leaf, levels = z.clone().requires_grad_(True), torch.full((5,), 2)
    for alpha, same in ((float(prior.schedule.alpha_bar[2]), True), (1.0, False)):
        log_p = prior.symbol_logits(alpha * leaf, levels)["code"].log_softmax(-1)
        (gradient,) = torch.autograd.grad(log_p.diagonal().sum(), leaf)
        expected = z + 0.1 * torch.nn.functional.normalize(gradient, dim=-1)
        assert torch.allclose(moved, expected, atol=1e-6) is same


def test_a_prompts_latents_are_those_that_would_write_it() -> None:
    """Chosen by p(prefix | u): their mean log-likelihood of the prefix is above that of as many plain draws."""
    model = trained().network
    prefix = word_tokens(model, "they will find the", "the prompt")
    tokens = torch.tensor([model.tokenizer.bos_token_id, *prefix])

    def log_likelihood(u: Tensor) -> Tensor:
        state, total, z = model.decoder.start(model.decoder_input(u)), torch.zeros(len(u)), model.decoder_input(u)
        for word, following in zip(tokens[:-1], tokens[1:], strict=True):
            logits, state = model.decoder.step(word.expand(len(u)), z, state)
            total += logits.float().log_softmax(-1)[:, following]
        return total

    with torch.no_grad():
        chosen = log_likelihood(prompted_latents(model, 300, Steering(), prefix, seed=0))
        plain = log_likelihood(sample_latents(model, 300, Steering(), seed=1))
    assert float(chosen.mean() - plain.mean()) > 3 * float(plain.std()) / 300**0.5


@pytest.mark.parametrize("tilted", [False, True])
def test_the_closed_gradient_of_several_classes_is_autograds(tilted: bool) -> None:
    prior = untrained().prior
    u, level = torch.randn(6, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, 0, 1])
    allowed = torch.tensor([[True, False, True, False, False]]).expand(6, -1).clone()
    allowed[3] = True  # a row that asks nothing
    tilts = ()
    if tilted:
        slopes = torch.randn(4, 3, 8, generator=torch.Generator().manual_seed(1))
        tilts = (Tilt(slopes, torch.zeros(4, 3), torch.tensor([0, 1, 2, -1, 0, 1]), 1.5),)
    condition = Condition({"code": allowed, "sentiment": torch.tensor([0, 1, -1, 0, 1, -1])}, 2.0, tilts=tilts)
    value, gradient = potential_and_gradient(fixed_potential(prior, level, condition, dtype=torch.float32), u)
    leaf = u.clone().requires_grad_(True)
    plain = prior.potential(leaf, level, condition)
    torch.testing.assert_close(value, plain.detach(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(gradient, torch.autograd.grad(plain.sum(), leaf)[0], atol=1e-4, rtol=1e-4)
    rows = condition.chosen(torch.tensor([3]))
    with torch.no_grad():
        asked = prior.potential(u[3:4], level[3:4], rows) - prior.potential(u[3:4], level[3:4])
        log_p = prior.symbol_logits(u[3:4], level[3:4])["sentiment"].log_softmax(-1)[:, 0]
    torch.testing.assert_close(asked, 2.0 * log_p, atol=1e-5, rtol=1e-4)


def test_negation_and_either_or_tilt_by_the_sum_of_the_classes() -> None:
    """Under N(0, 1) and p(y|u) = softmax(w u), asked not to be one class of three: the mean of the tilted density."""
    model = TextEBM(network("prior.kind=gaussian", "prior.steps=60").eval())
    slopes = torch.zeros(1, 3, 8)
    slopes[0, :, 0] = torch.tensor([-3.0, 0.0, 3.0])
    model.network.attributes["side"] = Attribute("side", ("left", "middle", "right"), slopes, torch.zeros(1, 3))
    grid = torch.linspace(-6, 6, 4001)
    p = (grid[:, None] * slopes[0, :, 0]).softmax(-1)
    for value, kept in (("!left", [1, 2]), ({"left", "middle"}, [0, 1]), ("right", [2]), ("left,right", [0, 2])):
        density = torch.exp(-0.5 * grid.square()) * p[:, kept].sum(-1)
        u = model.sample_latents(3000, symbols={"side": value}, strength=1.0, seed=1)[:, 0]
        assert float(u.mean()) == pytest.approx(float((grid * density).sum() / density.sum()), abs=0.07), value
        expected = float((grid.square() * density).sum() / density.sum())
        assert float(u.square().mean()) == pytest.approx(expected, abs=0.12), value


def test_a_class_of_several_is_drawn_by_the_shares_of_training() -> None:
    """Any of three, of which one is never seen, and anything but one; codes that were not counted stay."""
    model = network()
    model.heads["topic"] = replace(model.heads["topic"], shares=(0.1, 0.2, 0.0, 0.7, 0.0, 0.0))
    asked = Steering({"topic": ["!" + model.heads["topic"].classes[3]] * 300 + [{0, 2, 3}] * 300})
    drawn = one_class_each(model, asked, 600, 0).drawn["topic"]
    assert [drawn[:300].count(k) for k in range(4)] == pytest.approx([100, 200, 0, 0], abs=25)
    only = one_class_each(model, Steering({"topic": {0, 1, 3}}), 300, 0)
    assert [only.drawn["topic"].count(k) for k in range(4)] == pytest.approx([30, 60, 0, 210], abs=1)
    assert only.rows([5, 7]).drawn["topic"] == [only.drawn["topic"][i] for i in (5, 7)]
    assert one_class_each(model, only, 300, 1).drawn == only.drawn, "what was drawn stays"
    code = next(head for head in model.heads.values() if head.column is None)
    assert not one_class_each(model, Steering({code.name: "!0"}), 5, 0).drawn
    several = Steering({"topic": set(model.heads["topic"].classes)})
    assert one_class_each(model, several, 5, 0).drawn == {"topic": [-1] * 5}, "any class: nothing is asked"


def test_training_counts_the_classes_and_the_model_keeps_them(tmp_path: Path) -> None:
    worker = trainer()
    for _ in worker.steps():
        pass
    worker.end()
    labels = worker.classes.labels["topic"]
    expected = [float((labels == k).sum() / (labels >= 0).sum()) for k in range(6)]
    TextEBM(worker.model.eval()).save_pretrained(tmp_path)
    heads = TextEBM.from_pretrained(tmp_path).heads
    assert heads == worker.model.heads and heads["topic"].shares == pytest.approx(expected)
    assert all(sum(head.shares) == pytest.approx(1) for head in heads.values())


def readable(n: int = 60) -> tuple[TextEBM, list[str], list[str]]:
    """A model, and texts with labels that its latents tell: the sign of their first coordinate."""
    model = TextEBM(trained("latent.standardize=true").network)
    model.network.attributes.clear()
    texts = list(sentences(n))
    return model, texts, ["high" if each > 0 else "low" for each in model.encode(texts).mean[:, 0].tolist()]


def test_an_attribute_is_added_used_saved_and_removed(tmp_path: Path) -> None:
    model, texts, labels = readable()
    report = model.add_attribute("first", texts, labels, seed=0)
    assert report.n == len(texts) and report.classes == ("high", "low") and "held-out accuracy" in str(report)
    assert report.accuracy > 0.8 > report.majority and report.calibration_error < 0.2
    free, high, other = (
        model.sample_latents(200, seed=3, strength=3.0, symbols=asked)[:, 0].mean()
        for asked in (None, {"first": "high"}, {"first": "!high"})
    )
    assert high > free + 0.2 and other < free - 0.2, "the density is tilted towards what was asked"
    assert model.classify(texts[:5], "first").labels and set(model.encode(texts[:3]).codes) >= {"first", "sentiment"}
    assert len(model.edit(texts[:3], {"first": "low"})) == 3
    both = model.generate(4, symbols={"first": "!low", "sentiment": 0}, seed=1)
    model.save_pretrained(tmp_path)
    loaded = TextEBM.from_pretrained(tmp_path)
    assert loaded.generate(4, symbols={"first": "!low", "sentiment": 0}, seed=1) == both
    assert loaded.attributes["first"].facts["n"] == len(texts)
    stored = tmp_path / "attributes" / "first.safetensors"
    data = stored.read_bytes()
    stored.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="first.safetensors is damaged"):
        TextEBM.from_pretrained(tmp_path)
    remove_attribute(tmp_path, "first")
    assert TextEBM.from_pretrained(tmp_path).attributes == {}
    with pytest.raises(TextEBMError, match="no attribute 'first'"):
        remove_attribute(tmp_path, "first")


@pytest.mark.parametrize(
    ("name", "texts", "labels", "message"),
    [
        ("sentiment", TEXTS[:12], [0, 1] * 6, "was trained with a symbol 'sentiment'"),
        ("../x", TEXTS[:12], [0, 1] * 6, "an attribute is named by letters"),
        ("formal", TEXTS[:12], [0, 1], "12 texts and 2 labels"),
        ("formal", TEXTS[:6], ["yes"] * 3 + ["no"] * 3, "5 examples each, got no: 3, yes: 3"),
        ("formal", TEXTS[:12], ["yes"] * 12, "at least two classes"),
    ],
)
def test_examples_that_cannot_teach_are_refused(
    name: str, texts: list[str], labels: list[object], message: str
) -> None:
    with pytest.raises(TextEBMError, match=message):
        trained().add_attribute(name, texts, labels)


def test_calibration_error_by_hand() -> None:
    """Nine of ten at .8 are right, and half of two at .6: (10 · |.9 − .8| + 2 · |.5 − .6|) / 12."""
    confidence = np.array([0.8] * 10 + [0.6] * 2)
    correct = np.array([True] * 9 + [False] + [True, False])
    assert calibration_error(confidence, correct) == pytest.approx((10 * 0.1 + 2 * 0.1) / 12)


def test_directions_add_up_and_turn_round() -> None:
    model = trained()
    positive, tense = model.symbol("sentiment", 1), model.direction(TEXTS[:12], TEXTS[12:24])
    assert (2 * positive).terms == (positive * 2).terms == ((2.0, "sentiment", 1),)
    assert (-positive).terms == ((1.0, "sentiment", Others(1)),) == (positive * -1).terms
    assert len((positive - tense).terms) == 2

    def read(direction: Direction | None) -> float:
        """log p(sentiment = 1) − log p(sentiment = 0) where the density is tilted, of latents before decoding."""
        u = sample_latents(model.network, 300, Steering(direction=direction), seed=2)
        return float(model.symbol_probabilities(u)["sentiment"].log().diff(dim=-1).mean())

    assert read(-8 * positive) < read(None) < read(8 * positive)
    assert len(model.generate(3, direction=2 * tense, seed=0)) == 3
    with pytest.raises(TextEBMError, match="is asked for twice"):
        model.generate(2, symbols={"sentiment": 0}, direction=positive)
    with pytest.raises(TextEBMError, match="unknown symbol 'nothing'"):
        model.symbol("nothing", 1)


def test_a_prompt_stands_at_the_start_and_words_can_be_left_out() -> None:
    model = trained()
    for decoding in ("greedy", "sample"):
        texts = model.generate(20, prompt="this is", decoding=decoding, seed=1)
        assert all(text.split()[:2] == ["this", "is"] for text in texts)
        assert texts == model.generate(20, prompt="this is", decoding=decoding, seed=1)
    steered = model.generate(20, prompt="the", symbols={"sentiment": 1}, confidence=0.6, seed=1)
    assert all(text.split()[0] == "the" for text in steered)
    assert any("the" in text.split() for text in model.generate(40, seed=1))
    assert not any("the" in text.split() for text in model.generate(40, seed=1, without=["the", "zyzzyva"]))
    for wrong, message in (("zyzzyva", "words that the model does not know: zyzzyva"), ("", "the prompt has no words")):
        with pytest.raises(TextEBMError, match=message):
            model.generate(2, prompt=wrong)
    with pytest.raises(TextEBMError, match="a prompt goes with decoding greedy or sample"):
        model.generate(2, prompt="this is", decoding="beam")


def test_twins_share_their_noise() -> None:
    model = trained()
    same = model.compare(None, None, 6, seed=2)
    assert all(twin.a == twin.b and twin.changed == 0 for twin in same)
    twins = model.compare({"sentiment": 0}, {"sentiment": 1}, 12, seed=2)
    assert [twin.a for twin in twins] == model.generate(12, symbols={"sentiment": 0}, seed=2)
    strangers = model.generate(12, symbols={"sentiment": 1}, seed=77)
    apart = [len(set(twin.a.split()) ^ set(other.split())) for twin, other in zip(twins, strangers, strict=True)]
    near = [len(set(twin.a.split()) ^ set(twin.b.split())) for twin in twins]
    assert np.mean(near) < np.mean(apart), "a twin is nearer than a sentence of other noise"


def test_attributes_and_new_requests_on_the_command_line(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from textebm.cli import app

    model, texts, labels = readable()
    model.save_pretrained(tmp_path / "run")
    rows = "".join(f"{text}\t{label}\n" for text, label in zip(texts, labels, strict=True))
    (tmp_path / "examples.tsv").write_text(f"text\tside\n{rows}")
    runner = CliRunner()

    def call(*arguments: str, code: int = 0) -> str:
        done = runner.invoke(app, list(map(str, arguments)))
        assert done.exit_code == code, done.output
        return done.stdout if code == 0 else done.output

    run, file = str(tmp_path / "run"), str(tmp_path / "examples.tsv")
    assert "held-out accuracy" in call("attribute", "add", run, "side", file, "--label", "side")
    assert "side" in call("attribute", "list", run)
    assert "accuracy" in call("attribute", "evaluate", run, "side", file, "--label", "side")
    out = call("generate", run, "-n", "3", "--symbol", "side=!low", "--prompt", "this is", "--without", "zyzzyva")
    assert all(line.startswith("this is") for line in out.splitlines() if line.strip())
    call("attribute", "remove", run, "side")
    assert "no attribute 'side'" in call("attribute", "remove", run, "side", code=2)
    assert "unknown symbol 'side'" in call("generate", run, "--symbol", "side=low", code=2)
