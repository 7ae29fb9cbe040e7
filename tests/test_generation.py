"""What a user does with a model: each call is a function of its seed, and each mistake is one clear error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny import sentences, trained, untrained

from textebm.api import TextEBM
from textebm.errors import TextEBMError
from textebm.model.latent_text_model import SymbolHead
from textebm.networks.hardware import rows_at_once
from textebm.prior.condition import FREE
from textebm.text.batches import collate_texts
from textebm.use import reading
from textebm.use.writing import denoise, slerp

TEXTS = list(sentences(12))
KINDS = ["gaussian", "gaussian_mixture", "energy", "diffusion_energy", "joint_energy", "hierarchical_diffusion_energy"]


def prior_of(kind: str) -> TextEBM:
    return untrained(f"prior.kind={kind}", "prior.steps=3")


CALLS: dict[str, Callable[[TextEBM, int], Any]] = {
    "generate": lambda model, seed: model.generate(6, symbols={"sentiment": 1}, seed=seed),
    "sample": lambda model, seed: model.generate(6, decoding="sample", top_k=9, top_p=0.9, temperature=2.0, seed=seed),
    "beam": lambda model, seed: model.generate(6, decoding="beam", num_beams=3, seed=seed),
    "edit": lambda model, seed: model.edit(TEXTS[:6], {"sentiment": "positive"}, level=2, seed=seed),
    "latents": lambda model, seed: model.sample_latents(6, seed=seed).tolist(),
    "elbo": lambda model, seed: model.elbo_terms(TEXTS, seed=seed).kl.tolist(),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_seed_decides_everything(call: str) -> None:
    model = untrained()
    torch.manual_seed(0)
    first = CALLS[call](model, 3)
    torch.manual_seed(1)  # the global state is not asked
    assert CALLS[call](model, 3) == first
    assert CALLS[call](model, 4) != first


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_prior_does_everything(kind: str) -> None:
    model = prior_of(kind)
    assert len(model.generate(3)) == len(model.generate(3, symbols={"code": 2, "sentiment": "negative"})) == 3
    assert len(model.edit(TEXTS[:3], {"topic": "food"})) == 3
    assert len(model.interpolate(TEXTS[0], TEXTS[1], 5)) == 5
    terms = model.elbo_terms(TEXTS)
    assert torch.isfinite(terms.kl).all() and (terms.reconstruction_nll > 0).all()
    assert terms.num_tokens.tolist() == [len(text.split()) + 1 for text in TEXTS]
    if kind == "gaussian":
        encoding = model.encode(TEXTS)
        by_hand = 0.5 * (encoding.mean**2 + encoding.stddev**2 - 1 - 2 * encoding.stddev.log()).sum(-1)
        torch.testing.assert_close(terms.kl, by_hand)


def test_symbols_may_differ_from_row_to_row() -> None:
    model = untrained()
    mixed = model.sample_latents(64, symbols={"sentiment": ["negative", 1] * 32}, strength=8.0, seed=0)
    p = model.symbol_probabilities(mixed)["sentiment"][:, 1]
    assert p[1::2].mean() > p[0::2].mean() + 0.2
    both = model.sample_latents(64, symbols={"sentiment": "positive", "topic": ["food"] * 64}, strength=8.0, seed=0)
    assert model.symbol_probabilities(both)["topic"][:, model.heads["topic"].index("food")].mean() > 1 / 6


def test_strength_steers_and_strength_zero_is_free() -> None:
    model = untrained()
    free = model.sample_latents(64, seed=0)
    assert torch.allclose(model.sample_latents(64, symbols={"sentiment": 1}, strength=0.0, seed=0), free, atol=1e-5)
    p = [
        model.symbol_probabilities(model.sample_latents(128, symbols={"sentiment": 1}, strength=s))["sentiment"][
            :, 1
        ].mean()
        for s in (0.0, 1.0, 6.0)
    ]
    assert p[0] < p[1] < p[2]


def test_the_default_strength_is_the_recipes() -> None:
    model = untrained("prior.strength=3.0")
    default, three, one = (model.sample_latents(6, symbols={"sentiment": 1}, strength=s) for s in (None, 3.0, 1.0))
    assert torch.equal(default, three) and not torch.equal(default, one)


def test_more_steps_are_another_draw_of_the_same_density() -> None:
    model = untrained()
    one, four = model.sample_latents(500, seed=0), model.sample_latents(500, seed=0, steps_factor=4)
    assert not torch.equal(one, four)
    assert float(one.std(0).mean()) == pytest.approx(float(four.std(0).mean()), rel=0.1)


def test_nothing_asked_is_nothing_given() -> None:
    model = untrained()
    assert model.generate(0) == model.generate(0, symbols={"sentiment": 1}) == []
    assert model.reconstruct([]) == model.edit([], {"sentiment": 1}) == model.decode(torch.zeros(0, 8)) == []
    encoding = model.encode([])
    assert encoding.mean.shape == encoding.stddev.shape == (0, 8)
    assert encoding.probabilities["code"].shape == (0, 5) and encoding.codes["code"].shape == (0,)
    assert model.classify([], "sentiment").labels == []
    assert all(len(each) == 0 for each in vars(model.elbo_terms([])).values())


STRANGE = ["", "   ", "zzz qqq unseen words 東京 🙂", "the " * 5000, "<eos> <pad> the food", "a\tb\nc", "x" * 100_000]


def test_strange_texts_are_texts() -> None:
    model = untrained()
    encoding = model.encode(STRANGE)
    assert torch.isfinite(encoding.mean).all()
    assert torch.equal(encoding.mean[0], encoding.mean[1])
    cut = model.encode(["the " * 16]).mean[0]  # to max_tokens
    torch.testing.assert_close(encoding.mean[3], cut, rtol=1e-4, atol=1e-5)
    assert len(model.reconstruct(STRANGE)) == len(STRANGE)
    assert model.elbo_terms(STRANGE).num_tokens.max() == 17
    assert all(len(text.split()) <= 16 for text in model.reconstruct(STRANGE))


def test_encode_does_not_depend_on_the_batch() -> None:
    model = untrained()
    texts = [*TEXTS, STRANGE[2], "", *TEXTS[:3]]
    together = model.encode(texts)
    torch.testing.assert_close(model.encode(texts, batch_size=2).mean, together.mean, rtol=1e-4, atol=1e-5)
    for i, text in enumerate(texts):
        torch.testing.assert_close(model.encode([text]).mean[0], together.mean[i], rtol=1e-4, atol=1e-5)
    assert torch.equal(together.mean[0], together.mean[len(TEXTS) + 2]) or torch.allclose(
        together.mean[0], together.mean[len(TEXTS) + 2], atol=1e-5
    )
    back = model.encode(texts[::-1])
    torch.testing.assert_close(back.mean.flip(0), together.mean, rtol=1e-4, atol=1e-5)
    assert torch.equal(together.codes["code"], together.probabilities["code"].argmax(-1))
    torch.testing.assert_close(together.probabilities["topic"].sum(-1), torch.ones(len(texts)))


def test_a_long_path_of_decoding_does_not_depend_on_the_batch() -> None:
    model = trained()
    z = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    for options in ({}, {"decoding": "beam", "num_beams": 3}):
        assert model.decode(z, batch_size=3, **options) == model.decode(z, **options)


def test_a_gpu_takes_more_rows_at_once() -> None:
    assert [rows_at_once(torch.device(name), 512) for name in ("cpu", "cuda")] == [512, 4096]


def test_interpolation_ends_at_the_reconstructions() -> None:
    model = trained()
    path = model.interpolate(TEXTS[0], TEXTS[1], 5)
    assert [path[0], path[-1]] == model.reconstruct(TEXTS[:2])
    assert len(set(model.interpolate(TEXTS[0], TEXTS[0], 3))) == 1
    assert len(model.interpolate(TEXTS[0], TEXTS[1], 3, level=1)) == 3


def test_slerp_is_an_arc() -> None:
    a, b = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 4.0])
    points = slerp(a, b, torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(points, torch.tensor([[2.0, 0.0], [3 / 2**0.5, 3 / 2**0.5], [0.0, 4.0]]))
    for other in (a, -a, torch.zeros(2)):
        assert torch.isfinite(slerp(a, other, torch.linspace(0, 1, 5))).all()


def test_editing_at_a_higher_level_keeps_less() -> None:
    model = untrained("latent.standardize=true")
    z = model.encode(TEXTS).mean
    kept = []
    for level in (1, 3):
        generator = torch.Generator().manual_seed(0)
        kept.append(float((denoise(model.network, z, level, FREE, generator) - z).norm()))
    assert kept[0] < kept[1]


def test_classify_names_the_most_probable_class() -> None:
    model = untrained()
    found = model.classify(TEXTS, "topic")
    assert found.labels == [model.heads["topic"].classes[i] for i in found.probabilities.argmax(-1).tolist()]


def test_calls_leave_the_mode_as_it_was() -> None:
    model = untrained("decoder.word_dropout=0.5", "encoder.dropout=0.5")
    model.network.train()
    assert model.reconstruct(TEXTS) == model.reconstruct(TEXTS)
    assert model.network.training
    with pytest.raises(TextEBMError):
        model.edit(TEXTS, {"sentiment": 1}, level=99)
    assert model.network.training


MISTAKES: dict[str, tuple[Callable[[TextEBM], object], str]] = {
    "head": (lambda m: m.generate(1, symbols={"sentimant": 1}), "did you mean 'sentiment'"),
    "class": (lambda m: m.generate(1, symbols={"sentiment": "positiv"}), "did you mean 'positive'"),
    "class with no text": (lambda m: m.generate(0, symbols={"sentiment": "no"}), "no class 'no'"),
    "number": (lambda m: m.generate(1, symbols={"code": 5}), "no class '5'"),
    "rows": (lambda m: m.generate(3, symbols={"code": [1, 2]}), "expected one class or 3 of them, got 2"),
    "classify": (lambda m: m.classify(["a"], "cod"), "did you mean 'code'"),
    "edit nothing": (lambda m: m.edit(["a"], {}), "at least one symbol"),
    "level 0": (lambda m: m.edit(["a"], {"code": 1}, level=0), "between 1 and 3"),
    "level 4": (lambda m: m.edit(["a"], {"code": 1}, level=4), "between 1 and 3"),
    "n": (lambda m: m.generate(-1), "n must be a whole number from 0 up"),
    "steps": (lambda m: m.generate(1, steps_factor=0), "steps_factor must be a whole number from 1 up"),
    "strength": (lambda m: m.generate(1, symbols={"code": 1}, strength=float("nan")), "strength"),
    "decoding": (lambda m: m.generate(1, decoding="gredy"), "greedy, sample or beam"),  # type: ignore[arg-type]
    "temperature": (lambda m: m.generate(1, decoding="sample", temperature=0.0), "temperature must be above 0"),
    "top_p": (lambda m: m.generate(1, decoding="sample", top_p=1.5), "top_p"),
    "beams": (lambda m: m.generate(1, decoding="beam", num_beams=0), "num_beams"),
    "max_tokens": (lambda m: m.generate(1, max_tokens=0), "max_tokens"),
    "interpolate": (lambda m: m.interpolate("a", "b", 1), "at least 2"),
    "one string": (lambda m: m.encode("a sentence"), "a list of texts"),
    "width": (lambda m: m.decode(torch.zeros(2, 3)), "(n, 8)"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_clear_error(name: str) -> None:
    call, words = MISTAKES[name]
    with pytest.raises(TextEBMError) as caught:
        call(untrained())
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_model_without_a_ladder_has_no_levels() -> None:
    with pytest.raises(TextEBMError, match="no noise ladder"):
        prior_of("energy").edit(TEXTS[:1], {"sentiment": 1}, level=1)


def test_a_model_without_heads_says_so() -> None:
    model = untrained("heads=[]")
    assert len(model.generate(2)) == 2 and model.encode(TEXTS).codes == {}
    with pytest.raises(TextEBMError, match="this model has none"):
        model.generate(1, symbols={"sentiment": 1})


def test_a_class_may_be_a_name_or_a_number() -> None:
    stars = SymbolHead("stars", ("1", "3", "5"))
    assert [stars.index(value) for value in ("5", 5, 3, 0, 2)] == [2, 2, 1, 0, 2], "a name comes before a position"
    with pytest.raises(TextEBMError):
        stars.index(-1)


def test_a_place_and_a_batch_size_for_every_method(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is computed does not depend on how many rows are computed together; how many are is told once for all."""
    model, sizes = trained(), list[int]()

    def spied(texts: Any, *arguments: Any) -> Any:
        sizes.append(len(texts))
        return collate_texts(texts, *arguments)

    texts = TEXTS[:7]
    calls: list[Callable[[], Any]] = [
        lambda: model.encode(texts).mean,
        lambda: model.symbol_probabilities(model.encode(texts).mean)["code"],
        lambda: model.reconstruction_losses(texts),
        lambda: model.certainty(texts, {"sentiment": torch.ones(7, dtype=torch.long)}),
        lambda: torch.tensor(model.attribute(texts, "code", method="leave_one_out")[0].parts),
    ]
    before = [call() for call in calls]
    monkeypatch.setattr(reading, "collate_texts", spied)
    with model.on(batch_size=2) as same:
        assert same is model
        for call, expected in zip(calls, before, strict=True):
            torch.testing.assert_close(call(), expected, rtol=1e-4, atol=1e-4)
        assert max(sizes) == 2
        model.encode(texts, batch_size=5)
        assert max(sizes) == 5
    model.encode(texts)
    assert max(sizes) == 7


def test_a_model_comes_back_from_where_it_was_sent() -> None:
    model = trained()
    with pytest.raises(ZeroDivisionError), model.on("cpu:0", batch_size=3):
        assert rows_at_once(model.device, 512) == 3
        _ = 1 / 0
    assert rows_at_once(model.device, 512) == 512 and model.device == torch.device("cpu")
    for wrong in ("nowhere", "cuda:99"):
        with pytest.raises(TextEBMError, match=f"device '{wrong}' cannot be used here.*cpu always can"):
            model.to(wrong)
    with pytest.raises(TextEBMError, match="batch_size must be a whole number"):
        model.on(batch_size=0)
