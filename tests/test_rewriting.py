"""Edits by the least change: what is kept, what is asked, and what is answered to options that do not fit."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace

import pytest
import torch
from tiny import sentences, trained, untrained
from torch import Tensor

from textebm.errors import TextEBMError
from textebm.prior.condition import Condition
from textebm.prior.nearest import ascend
from textebm.text.tokenizer import restore_words, unknown_words
from textebm.use.edit_search import search_near, word_losses

torch.set_num_threads(1)
TEXTS = list(sentences(12))


PAD, BOS, EOS, UNK, WORDS = 0, 1, 2, 3, (4, 5, 6)
TOKENIZER = SimpleNamespace(eos_token_id=EOS, unk_token_id=UNK, all_special_ids=[PAD, BOS, EOS, UNK], init_kwargs={})


class Pairs:
    """A decoder whose next word depends on the one before alone, by a table of logits."""

    def __init__(self, seed: int):
        self.table = torch.randn(7, 7, generator=torch.Generator().manual_seed(seed)) * 2

    def start(self, z: Tensor) -> tuple[Tensor, ...]:
        return (z,)

    def step(self, tokens: Tensor, z: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self.table[tokens].clone(), state

    def hidden(self, inputs: Tensor, z: Tensor) -> Tensor:
        return self.table[inputs]

    def nll(self, hidden: Tensor, targets: Tensor) -> Tensor:
        return -hidden.log_softmax(-1).gather(-1, targets[:, None])[:, 0]

    def log_prob(self, sentence: tuple[int, ...]) -> float:
        """Of words that may be written, <unk> for nothing."""
        table = self.table.clone()
        table[:, [PAD, BOS, UNK]] = -torch.inf
        log_p, total, before = table.log_softmax(-1), 0.0, BOS
        for word in (*sentence, EOS):
            total += 0.0 if word == UNK else float(log_p[before, word])
            before = word
        return total


def distance(a: tuple[int, ...], b: tuple[int, ...], keep: float, losses: tuple[float, ...]) -> float:
    """What it costs to make *b* of *a*, by the recursion of edit distance; *losses* of a's words."""
    if not a:
        return keep * len(b)
    deleted = distance(a[1:], b, keep, losses[1:]) + keep + losses[0]
    if not b:
        return deleted
    kept = distance(a[1:], b[1:], keep, losses[1:]) + keep * (a[0] != b[0])
    return min(deleted, distance(a, b[1:], keep, losses) + keep, kept)


@pytest.mark.parametrize("keep", [0.0, 0.7, 2.0, 50.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_search_finds_the_best_of_all_sentences(keep: float, seed: int) -> None:
    """Against every sentence of up to five words: log p(y) − d(x, y), inputs of other lengths beside it."""
    decoder, inputs = Pairs(seed), [(4, 5, 6), (5,), (6, 6, 4)]
    batch, z = torch.zeros(3, 5, dtype=torch.long), torch.zeros(3, 2)
    for row, words in zip(batch, inputs, strict=True):
        row[: len(words) + 2] = torch.tensor([BOS, *words, EOS])
    losses = torch.tensor([[0.3], [1.0], [1.7]]).expand(3, 4)  # alike in a row: it does not matter which word goes
    versions = search_near(decoder, z, batch, losses, TOKENIZER, keep, beams=200)  # type: ignore[arg-type]
    everything = [words for n in range(6) for words in product(WORDS, repeat=n)]
    for words, near, cost in zip(inputs, versions, losses.tolist(), strict=True):
        value = {each: decoder.log_prob(each) - distance(words, each, keep, tuple(cost)) for each in everything}
        best = max(value, key=value.__getitem__)
        assert tuple(near[0].ids) == best and near[0].value == pytest.approx(value[best], abs=1e-4)
        assert [each.value for each in near] == sorted((each.value for each in near), reverse=True)
        if keep == 50.0:
            assert best == words


def test_the_losses_of_words_are_the_decoders_and_end_with_the_sentence() -> None:
    decoder, batch = Pairs(3), torch.tensor([[BOS, 4, 5, EOS, PAD], [BOS, 6, EOS, PAD, PAD]])
    losses = word_losses(decoder, torch.zeros(2, 2), batch, EOS)  # type: ignore[arg-type]
    log_p = decoder.table.log_softmax(-1)
    expected = [[-log_p[BOS, 4], -log_p[4, 5], -log_p[5, EOS], 0], [-log_p[BOS, 6], -log_p[6, EOS], 0, 0]]
    torch.testing.assert_close(losses, torch.tensor(expected))


def test_an_unknown_word_is_neither_lost_nor_written() -> None:
    batch = torch.tensor([[BOS, 4, UNK, 5, EOS, PAD], [BOS, 4, 5, 6, 4, EOS]])
    for seed in range(5):
        near = search_near(Pairs(seed), torch.zeros(2, 2), batch, torch.ones(2, 5), TOKENIZER, 0.0)  # type: ignore[arg-type]
        assert all(each.ids.count(UNK) == 1 for each in near[0]) and all(UNK not in each.ids for each in near[1])


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
    edited = model.edit(TEXTS, {"sentiment": 1}, keep=0.5, confidence=0.6)
    after = model.certainty(edited, asked)
    assert (after >= before - 1e-5).all() and float(after.mean()) > float(before.mean())
    for text, new, sure in zip(TEXTS, edited, before.tolist(), strict=True):
        if sure >= 0.6:
            assert new == text
    assert model.edit(TEXTS, {"sentiment": 1}, keep=1e6, confidence=0.6) == TEXTS  # no word may change
    assert model.edit(TEXTS, {"sentiment": 1}, keep=0.5, confidence=0.6, seed=5) == edited  # nothing is drawn
    one_by_one = [model.edit([text], {"sentiment": 1}, keep=0.5, confidence=0.6)[0] for text in TEXTS[:4]]
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
        ({"decoding": "beam"}, "decoding='beam' needs method='denoise'"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, object], message: str) -> None:
    with pytest.raises(TextEBMError, match=message.replace("(", r"\(")):
        trained().edit(TEXTS[:1], {"sentiment": 1}, **options)  # type: ignore[arg-type]


def test_an_unknown_word_stays_and_none_is_written() -> None:
    """An edit of a sentence with words outside the vocabulary keeps each of them, capitals and all."""
    model = trained()
    texts = ["the Zyzzyva was cold .", "xyzzy , the service was slow .", "the food was cold ."]
    edited = model.edit(texts, {"sentiment": ["positive", "positive", "positive"]}, keep=0.0, confidence=0.99, seed=0)
    assert edited[0].split().count("Zyzzyva") == 1 == edited[1].split().count("xyzzy")
    assert not any("<unk>" in text for text in edited)


def test_unknown_words_are_named_and_put_back() -> None:
    tokenizer = trained().tokenizer
    assert unknown_words(tokenizer, "the Zyzzyva was xyzzy .", 16) == ["Zyzzyva", "xyzzy"]
    assert unknown_words(tokenizer, "the Zyzzyva was xyzzy .", 3) == ["Zyzzyva"]
    assert restore_words(tokenizer, "the <unk> was <unk> <unk> .", ["a", "b"]) == "the a was b <unk> ."
    assert restore_words(tokenizer, "the food .", ["a"]) == "the food ."
