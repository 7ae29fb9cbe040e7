"""Greedy, sampled and beam decoding on a decoder whose probabilities are known, and on the real ones."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from textebm.errors import TextEBMError
from textebm.model.decoding import DecodingOptions, decode_tokens, forbidden_ids
from textebm.networks.decoder import Decoder, DecoderState, RecurrentDecoder, TransformerDecoder
from textebm.text.tokenizer import decode, train_bpe, train_word


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    found = train_word(["a b c d e f g h"], 12)
    assert len(found) == 12
    return found


class Table:
    """p(next | this) from a table (V, V) of probabilities; which row is read can be moved by the latent.

    It counts its rows, to see what leaves the batch, and keeps the last tokens as its state, to see them reordered.
    """

    def __init__(self, table: Tensor):
        self.log_p = table.log()
        self.rows: list[int] = []

    def start(self, z: Tensor) -> DecoderState:
        return (torch.full((len(z),), -1),)

    def step(self, tokens: Tensor, z: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        self.rows.append(len(tokens))
        assert len(tokens) == len(z) == len(state[0])
        return self.log_p[tokens] + 0 * z[:, :1], (tokens,)

    def hidden(self, inputs: Tensor, z: Tensor) -> Tensor:
        raise NotImplementedError

    def nll(self, hidden: Tensor, targets: Tensor) -> Tensor:
        raise NotImplementedError


def table(tokenizer: PreTrainedTokenizerFast, transitions: dict[str, dict[str, float]]) -> Table:
    """From {"a": {"b": 0.6, …}}; "^" is <bos>, "." is <eos>. What is not named after a named word has probability 0."""
    number = {"^": tokenizer.bos_token_id, ".": tokenizer.eos_token_id}
    number |= {word: tokenizer.convert_tokens_to_ids(word) for word in "abcdefgh"}
    found = torch.full(
        (len(tokenizer), len(tokenizer)), 1 / len(tokenizer)
    )  # rows never reached are finite all the same
    for this, following in transitions.items():
        found[number[this]] = 0
        assert sum(following.values()) == pytest.approx(1.0)
        for word, probability in following.items():
            found[number[this], number[word]] = probability
    return Table(found)


def words(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> str:
    return " ".join(tokenizer.convert_ids_to_tokens(ids))


GARDEN_PATH = {  # greedy takes a (.6), then has nothing good; b is followed by what is certain
    "^": {"a": 0.6, "b": 0.4},
    "a": {"c": 0.35, "d": 0.33, "e": 0.32},
    "b": {"f": 0.99, "g": 0.01},
    **{word: {".": 1.0} for word in "cdefgh"},
}


def test_greedy_takes_the_likeliest_word(tokenizer: PreTrainedTokenizerFast) -> None:
    decoder = table(tokenizer, GARDEN_PATH)
    found = decode_tokens(decoder, torch.zeros(2, 3), tokenizer, DecodingOptions())
    assert [words(tokenizer, ids) for ids in found] == ["a c", "a c"]
    assert decoder.rows == [2, 2, 2], "no step after the last sentence has ended"
    assert decode_tokens(decoder, torch.zeros(0, 3), tokenizer, DecodingOptions()) == []


def test_greedy_never_emits_bos_or_pad(tokenizer: PreTrainedTokenizerFast) -> None:
    decoder = table(tokenizer, {"^": {"a": 1.0}, "a": {".": 1.0}})
    with torch.no_grad():
        decoder.log_p[tokenizer.bos_token_id, [tokenizer.pad_token_id, tokenizer.bos_token_id]] = 5.0
    for options in (DecodingOptions(), DecodingOptions("beam"), DecodingOptions("sample")):
        assert [words(tokenizer, ids) for ids in decode_tokens(decoder, torch.zeros(1, 1), tokenizer, options)] == ["a"]


@pytest.mark.parametrize("train", [train_word, train_bpe])
def test_the_unknown_word_is_written_only_where_the_training_text_holds_it(
    train: Callable[..., PreTrainedTokenizerFast], tmp_path: Path
) -> None:
    train(["a b <unk> c"], 300).save_pretrained(tmp_path)
    for tokenizer, written in (
        (train(["a b c"], 300), "a"),
        (PreTrainedTokenizerFast.from_pretrained(tmp_path), "<unk>"),
    ):
        (a,) = tokenizer("a", add_special_tokens=False)["input_ids"]
        decoder = Table(torch.full((len(tokenizer), len(tokenizer)), 1e-9))
        decoder.log_p[tokenizer.bos_token_id, [tokenizer.unk_token_id, a]] = torch.tensor([9.0, 8.0])
        decoder.log_p[[a, tokenizer.unk_token_id], tokenizer.eos_token_id] = 50.0
        for options in (DecodingOptions(), DecodingOptions("beam"), DecodingOptions("sample", top_k=1)):
            found = decode_tokens(decoder, torch.zeros(1, 1), tokenizer, options)
            assert decode(tokenizer, found[0]) == written, options


def test_beam_finds_what_greedy_misses(tokenizer: PreTrainedTokenizerFast) -> None:
    """log-probability a token over three tokens: b f . is .396, a c . is .21."""
    decoder = table(tokenizer, GARDEN_PATH)
    for beams, expected in ((1, "a c"), (2, "b f"), (4, "b f"), (40, "b f")):
        options = DecodingOptions("beam", num_beams=beams)
        found = decode_tokens(decoder, torch.zeros(3, 2), tokenizer, options)
        assert [words(tokenizer, ids) for ids in found] == [expected] * 3


def test_a_full_beam_is_exhaustive(tokenizer: PreTrainedTokenizerFast) -> None:
    """With a beam as wide as all prefixes, the winner is the best of all sentences, found here by trying each."""
    g = torch.Generator().manual_seed(3)
    letters = "abc"
    for _ in range(5):
        transitions = {}
        for this in "^" + letters:
            p = torch.rand(4, generator=g) ** 3 + 0.01
            transitions[this] = dict(zip(letters + ".", (p / p.sum()).tolist(), strict=True))
        decoder = table(tokenizer, transitions)

        def score(sentence: tuple[str, ...], given: dict[str, dict[str, float]] = transitions) -> float:
            path = ["^", *sentence] + (["."] if len(sentence) < 4 else [])
            logs = [math.log(given[a][b]) for a, b in zip(path, path[1:], strict=False)]
            return sum(logs) / len(logs)

        best = max((s for n in range(5) for s in itertools.product(letters, repeat=n)), key=score)
        options = DecodingOptions("beam", num_beams=200, max_tokens=4)
        found = decode_tokens(decoder, torch.zeros(1, 2), tokenizer, options)
        assert words(tokenizer, found[0]) == " ".join(best)


def test_max_tokens_cuts(tokenizer: PreTrainedTokenizerFast) -> None:
    decoder = table(tokenizer, {"^": {"a": 1.0}, "a": {"b": 1.0}, "b": {"a": 1.0}})
    for kind in ("greedy", "sample", "beam"):
        options = DecodingOptions(kind, max_tokens=5)
        assert words(tokenizer, decode_tokens(decoder, torch.zeros(1, 1), tokenizer, options)[0]) == "a b a b a"


REAL = {
    "gru": lambda: RecurrentDecoder("gru", 12, 6, 10, 3, num_layers=2),
    "lstm": lambda: RecurrentDecoder("lstm", 12, 6, 10, 3),
    "transformer": lambda: TransformerDecoder(12, 6, 8, 3, num_heads=2),
    "gru, segments": lambda: RecurrentDecoder("gru", 12, 6, 10, 3, segments=3, num_heads=2),
}


def uneven(kind: str, tokenizer: PreTrainedTokenizerFast) -> tuple[Decoder, Tensor]:
    """A random decoder with large weights and latents: its greedy sentences end at very different lengths."""
    torch.manual_seed(2)
    decoder = REAL[kind]().eval()
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if "norm" not in name:
                parameter.mul_(2)
        decoder.output_bias[tokenizer.eos_token_id] += 1.0
    return decoder, 2 * torch.randn(24, 3)


@pytest.mark.parametrize("kind", REAL)
@pytest.mark.parametrize("decoding", ["greedy", "beam"])
@torch.no_grad()
def test_a_sentence_is_the_same_alone(kind: str, decoding: str, tokenizer: PreTrainedTokenizerFast) -> None:
    decoder, z = uneven(kind, tokenizer)
    options = DecodingOptions(decoding, max_tokens=15, num_beams=3)
    together = decode_tokens(decoder, z, tokenizer, options)
    assert len({len(ids) for ids in together}) >= 3, "sentences must end at different times"
    assert together == [decode_tokens(decoder, row[None], tokenizer, options)[0] for row in z]


@pytest.mark.parametrize("kind", REAL)
@torch.no_grad()
def test_greedy_is_the_argmax_of_teacher_forcing(kind: str, tokenizer: PreTrainedTokenizerFast) -> None:
    decoder, z = uneven(kind, tokenizer)
    for row, ids in zip(z, decode_tokens(decoder, z, tokenizer, DecodingOptions(max_tokens=15)), strict=True):
        inputs = torch.tensor([[tokenizer.bos_token_id, *ids]])
        logits = decoder.logits(decoder.hidden(inputs, row[None]))[0]
        logits[:, forbidden_ids(tokenizer)] = -torch.inf
        expected = [*ids, tokenizer.eos_token_id][:15]
        assert logits.argmax(-1).tolist()[: len(expected)] == expected


@pytest.mark.parametrize("kind", REAL)
@torch.no_grad()
def test_a_full_beam_is_exhaustive_on_real_decoders(kind: str, tokenizer: PreTrainedTokenizerFast) -> None:
    """Every sentence of at most three words is scored by teacher forcing; states must follow their beams."""
    decoder, z = uneven(kind, tokenizer)
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    decoder.output_bias[eos] -= 8.0  # long sentences win: their later words need the right states
    never = forbidden_ids(tokenizer)
    alphabet = [i for i in range(len(tokenizer)) if i not in (*never, eos)]
    paths = [torch.tensor([bos, *s, eos][:4]) for n in range(4) for s in itertools.product(alphabet, repeat=n)]
    inputs = torch.stack([torch.cat([path, torch.full((4 - len(path),), eos)]) for path in paths])  # (N, 4)
    steps = torch.tensor([len(path) - 1 for path in paths])
    for row in z[:8]:
        logits = decoder.logits(decoder.hidden(inputs[:, :-1], row.expand(len(inputs), -1)))
        logits[..., never] = -torch.inf
        log_p = logits.log_softmax(-1).gather(-1, inputs[:, 1:, None])[..., 0]
        score = (log_p * (torch.arange(3) < steps[:, None])).sum(-1) / steps
        best = paths[int(score.argmax())].tolist()[1:]
        options = DecodingOptions("beam", num_beams=1200, max_tokens=3)
        assert decode_tokens(decoder, row[None], tokenizer, options)[0] == [i for i in best if i != eos]


def test_finished_sentences_leave_the_batch(tokenizer: PreTrainedTokenizerFast) -> None:
    ends = {"^": {"a": 0.5, "b": 0.5}, "a": {".": 1.0}, "b": {"b": 0.9, ".": 0.1}}
    decoder = table(tokenizer, ends)
    options = DecodingOptions("sample", max_tokens=30)
    found = decode_tokens(decoder, torch.zeros(400, 1), tokenizer, options, torch.Generator().manual_seed(0))
    assert len(found) == 400
    assert decoder.rows[0] == 400 and decoder.rows[2] < 300 and decoder.rows[-1] < 40
    texts = [words(tokenizer, ids) for ids in found]
    assert {t for t in texts if t.startswith("a")} == {"a"}
    assert all(set(t.split()) == {"b"} for t in texts if t.startswith("b"))
    share = sum(t == "a" for t in texts) / 400
    assert share == pytest.approx(0.5, abs=0.1)
    lengths = torch.tensor([len(t.split()) for t in texts if t.startswith("b")]).double()
    assert lengths.mean().item() == pytest.approx(sum(0.9**k for k in range(30)), rel=0.2)


def first_words(
    tokenizer: PreTrainedTokenizerFast, options: DecodingOptions, seed: int = 0, n: int = 4000
) -> dict[str, float]:
    start = {"a": 0.5, "b": 0.25, "c": 0.15, "d": 0.1}
    decoder = table(tokenizer, {"^": start, **{word: {".": 1.0} for word in start}})
    found = decode_tokens(decoder, torch.zeros(n, 1), tokenizer, options, torch.Generator().manual_seed(seed))
    texts = [words(tokenizer, ids) for ids in found]
    return {word: texts.count(word) / n for word in sorted(set(texts))}


@pytest.mark.parametrize(
    "options, expected",
    [
        (DecodingOptions("sample"), {"a": 0.5, "b": 0.25, "c": 0.15, "d": 0.1}),
        (DecodingOptions("sample", top_k=2), {"a": 2 / 3, "b": 1 / 3}),
        (DecodingOptions("sample", top_k=500), {"a": 0.5, "b": 0.25, "c": 0.15, "d": 0.1}),
        (DecodingOptions("sample", top_p=0.8), {"a": 5 / 9, "b": 2.5 / 9, "c": 1.5 / 9}),  # the least set above .8
        (DecodingOptions("sample", top_p=0.1), {"a": 1.0}),
        # p^2: .25, .0625, .0225, .01
        (DecodingOptions("sample", temperature=0.5), {"a": 0.7246, "b": 0.1812, "c": 0.0652, "d": 0.0290}),
        (DecodingOptions("sample", temperature=0.5, top_k=2), {"a": 0.8, "b": 0.2}),
    ],
)
def test_sampling_has_the_tables_frequencies(
    options: DecodingOptions, expected: dict[str, float], tokenizer: PreTrainedTokenizerFast
) -> None:
    found = first_words(tokenizer, options)
    assert found.keys() == expected.keys(), "the support"
    assert found == pytest.approx(expected, abs=0.03)


def test_sampling_follows_its_generator(tokenizer: PreTrainedTokenizerFast) -> None:
    options = DecodingOptions("sample")
    torch.manual_seed(1)
    one = first_words(tokenizer, options, seed=5, n=200)
    torch.manual_seed(2)
    assert first_words(tokenizer, options, seed=5, n=200) == one
    assert first_words(tokenizer, options, seed=6, n=200) != one


@pytest.mark.parametrize(
    "options, named",
    [
        ({"decoding": "gredy"}, ["greedy, sample or beam"]),
        ({"temperature": 0.0}, ["temperature"]),
        ({"temperature": math.nan}, ["temperature"]),
        ({"top_k": -1}, ["top_k"]),
        ({"top_p": 0.0}, ["top_p"]),
        ({"top_p": 1.5}, ["top_p"]),
        ({"num_beams": 0}, ["num_beams"]),
        ({"max_tokens": 0}, ["max_tokens"]),
        ({"temperature": -1.0, "top_p": 2.0, "max_tokens": -3}, ["temperature", "top_p", "max_tokens"]),
    ],
)
def test_bad_options_are_one_clear_error(options: dict[str, float], named: list[str]) -> None:
    with pytest.raises(TextEBMError) as caught:
        DecodingOptions(**options).check()
    message = str(caught.value)
    assert all(name in message for name in named) and message.count(";") == len(named) - 1
    DecodingOptions("sample", temperature=0.7, top_k=5, top_p=0.9).check()
