"""Edits by the least change: what is kept, what is asked, and what is answered to options that do not fit."""

from __future__ import annotations

import pytest
import torch
from tiny import sentences, trained, untrained
from torch import Tensor

from textebm.errors import TextEBMError
from textebm.prior.condition import Condition
from textebm.prior.nearest import ascend
from textebm.text.batches import collate_texts
from textebm.text.tokenizer import restore_words, unknown_words
from textebm.use.editing import decode_near

torch.set_num_threads(1)
TEXTS = list(sentences(12))


class Echo:
    """A decoder that always wants token 7 by two nats, and never ends by itself."""

    def start(self, z: Tensor) -> tuple[Tensor, ...]:
        return (z,)

    def step(self, tokens: Tensor, z: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        logits = torch.zeros(len(tokens), 40)
        logits[:, 7] = 2.0
        return logits, state


@pytest.mark.parametrize(("keep", "same"), [(2.5, True), (1.5, False)])
def test_a_word_stays_unless_another_is_likelier_by_keep(keep: float, same: bool) -> None:
    tokenizer = trained().tokenizer
    batch = collate_texts(TEXTS[:3], tokenizer, 16)
    inputs = batch.tokens.clamp_max(39)
    own = [row[1 : length - 1].tolist() for row, length in zip(inputs, batch.lengths, strict=True)]
    written = decode_near(Echo(), torch.zeros(3, 8), inputs, tokenizer, keep)  # type: ignore[arg-type]
    if same:
        assert written == own
    else:
        assert all(set(row) == {7} for row in written) and len(written[0]) < 2 * inputs.shape[1]


def test_words_are_drawn_by_seed() -> None:
    tokenizer = trained().tokenizer
    inputs = collate_texts(TEXTS[:3], tokenizer, 16).tokens.clamp_max(39)
    drawn = [
        decode_near(Echo(), torch.zeros(3, 8), inputs, tokenizer, 1.0, "sample", torch.Generator().manual_seed(seed))  # type: ignore[arg-type]
        for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_ascent_climbs_in_steps_of_one_length_and_heads_compose() -> None:
    prior = untrained().prior
    z = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    sentiment, topic = torch.tensor([0, 1, 0, 1, 0, -1]), torch.full((6,), 2)
    condition = Condition({"sentiment": sentiment, "topic": topic})

    def total(z: Tensor) -> Tensor:
        logits = prior.symbol_logits(z)
        each = logits["sentiment"].log_softmax(-1).gather(-1, sentiment.clamp_min(0)[:, None])[:, 0]
        return torch.where(sentiment >= 0, each, 0.0) + logits["topic"].log_softmax(-1)[:, 2]

    moved = ascend(prior, z, condition, level=0, steps=1, length=0.01)
    torch.testing.assert_close((moved - z).norm(dim=-1), torch.full((6,), 0.01))
    gain = (total(moved) - total(z)).detach()
    assert (gain > 0).all()
    # no other direction of the same length gains as much
    other = torch.nn.functional.normalize(torch.randn(200, 6, 8), dim=-1) * 0.01
    best = torch.stack([total(z + each) - total(z) for each in other]).amax(0).detach()
    assert (gain >= best - 1e-6).all()


def test_an_edit_is_read_as_asked_more_surely_than_its_input_and_what_reads_so_stays() -> None:
    model = trained()
    asked = {"sentiment": torch.ones(12, dtype=torch.long)}
    before = model.certainty(TEXTS, asked)
    edited = model.edit(TEXTS, {"sentiment": 1}, keep=2.0, confidence=0.6)
    after = model.certainty(edited, asked)
    assert (after >= before - 1e-5).all() and float(after.mean()) > float(before.mean())
    for text, new, sure in zip(TEXTS, edited, before.tolist(), strict=True):
        if sure >= 0.6:
            assert new == text
    assert model.edit(TEXTS, {"sentiment": 1}, keep=1e6, confidence=0.6) == TEXTS  # no word may change
    assert model.edit(TEXTS, {"sentiment": 1}, keep=2.0, confidence=0.6, seed=5) == edited  # greedy: nothing is drawn
    one_by_one = [model.edit([text], {"sentiment": 1}, keep=2.0, confidence=0.6)[0] for text in TEXTS[:4]]
    assert one_by_one == edited[:4]


def test_sentences_drawn_until_they_read_as_asked() -> None:
    model = trained()
    asked = {"sentiment": torch.tensor([0, 1] * 10)}
    symbols = {"sentiment": ["negative", "positive"] * 10}
    plain = model.generate(20, symbols=symbols, strength=0.0, seed=0)
    checked = model.generate(20, symbols=symbols, strength=0.0, seed=0, confidence=0.55)
    before, after = model.certainty(plain, asked), model.certainty(checked, asked)
    assert (after >= before - 1e-6).all() and float(after.mean()) > float(before.mean()) + 0.03
    assert [new for new, sure in zip(checked, before.tolist(), strict=True) if sure >= 0.55] == [
        text for text, sure in zip(plain, before.tolist(), strict=True) if sure >= 0.55
    ]
    assert checked == model.generate(20, symbols=symbols, strength=0.0, seed=0, confidence=0.55)
    for wrong in ({"confidence": 1.5, "symbols": symbols}, {"confidence": 0.5}):
        with pytest.raises(TextEBMError, match="confidence must lie between 0 and 1 and goes with symbols"):
            model.generate(20, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["gaussian", "gaussian_mixture", "energy", "joint_energy"])
def test_every_prior_edits_nearby(kind: str) -> None:
    extra = () if "gaussian" in kind else ("prior.num_levels=null",)
    model = untrained(f"prior.kind={kind}", *extra)
    assert len(model.edit(TEXTS[:4], {"sentiment": "positive", "code": [0, 1, 2, 3]})) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 1.0, "level": 2}, "keep has no effect on an edit by denoise; it belongs to method='nearest'"),
        ({"method": "nearest", "level": 2}, "level has no effect on an edit by nearest"),
        ({"method": "far"}, "method must be nearest or denoise, got 'far'"),
        ({"keep": -1.0}, "keep must be a number of nats from 0 up, got -1.0"),
        ({"confidence": 1.0}, "confidence must lie between 0 and 1, got 1.0"),
        ({"decoding": "beam"}, "beam needs method='denoise'"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, object], message: str) -> None:
    with pytest.raises(TextEBMError, match=message.replace("(", r"\(")):
        trained().edit(TEXTS[:1], {"sentiment": 1}, **options)  # type: ignore[arg-type]


def test_an_unknown_word_stays_in_its_place_and_none_is_written() -> None:
    """An edit of a sentence with words outside the vocabulary keeps each of them where it stood, capitals and all."""
    model = trained()
    texts = ["the Zyzzyva was cold .", "xyzzy , the service was slow .", "the food was cold ."]
    edited = model.edit(texts, {"sentiment": ["positive", "positive", "positive"]}, keep=0.0, confidence=0.99, seed=0)
    assert edited[0].split()[1] == "Zyzzyva" and edited[1].split()[0] == "xyzzy"
    assert not any("<unk>" in text for text in edited)
    drawn = model.edit(texts, {"sentiment": "positive"}, keep=0.0, confidence=0.99, decoding="sample", seed=3)
    assert drawn[0].split()[1] == "Zyzzyva" and "<unk>" not in " ".join(drawn)


def test_unknown_words_are_named_and_put_back() -> None:
    tokenizer = trained().tokenizer
    assert unknown_words(tokenizer, "the Zyzzyva was xyzzy .", 16) == ["Zyzzyva", "xyzzy"]
    assert unknown_words(tokenizer, "the Zyzzyva was xyzzy .", 3) == ["Zyzzyva"]
    assert restore_words(tokenizer, "the <unk> was <unk> <unk> .", ["a", "b"]) == "the a was b <unk> ."
    assert restore_words(tokenizer, "the food .", ["a"]) == "the food ."
