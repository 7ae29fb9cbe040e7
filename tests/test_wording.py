"""Sentences with words of one's own: held, made to occur, left out, filled in; and what is unmet is said."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from tiny import trained
from typer.testing import CliRunner

from textebm import TextEBM, Wanted
from textebm.cli import app
from textebm.errors import TextEBMError
from textebm.model.decoding import DecodingOptions
from textebm.text.batches import collate_texts
from textebm.text.tokenizer import decode
from textebm.use.edit_search import word_losses
from textebm.use.wording import choose, prefix_losses, word_tokens, write_around

torch.set_num_threads(1)


def test_what_is_unmet_is_told_by_hand() -> None:
    wanted = Wanted("the food", ("good", "at all"), ("bad",), (3, 5))
    assert wanted.unmet("the food good at all") == []
    missing = ["does not begin with 'the food'", "lacks 'good'", "lacks 'at all'"]
    assert wanted.unmet("the foods at night") == missing
    assert wanted.unmet("the food was good at all , not bad")[0] == "has 'bad'"
    assert wanted.unmet("the food good at all !") == ["has 6 words, not 3 to 5"]
    assert Wanted().unmet("") == []


def test_held_tokens_stand_and_log_p_is_the_decoders() -> None:
    """Against teacher forcing of the sentence that came out."""
    model = trained().network
    tokenizer, z = model.tokenizer, torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    words = word_tokens(model, "the pizza was", "it")
    forced = torch.full((6, 7), -1)
    forced[:3, 2:5] = torch.tensor(words)
    forced[3:, :3] = torch.tensor(words)
    with model.evaluating():
        inputs = model.decoder_input(z, None)
        options = DecodingOptions(max_tokens=model.max_tokens)
        rows, held, everything = write_around(model.decoder, inputs, forced, tokenizer, options)
        for row, places in zip(rows, [slice(2, 5)] * 3 + [slice(0, 3)] * 3, strict=True):
            assert tuple(row[places]) == words
        batch = collate_texts([decode(tokenizer, row) for row in rows], tokenizer, model.max_tokens)
        losses = word_losses(model.decoder, inputs, batch.tokens, tokenizer.eos_token_id)
        begun = prefix_losses(model, inputs, words)
    ended = torch.tensor([len(row) < model.max_tokens for row in rows])
    torch.testing.assert_close(everything[ended], -losses.sum(-1)[ended], atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(held[3:], -losses[3:, :3].sum(-1), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(begun[3:], losses[3:, :3].sum(-1), atol=1e-3, rtol=1e-4)


def test_candidates_are_chosen_by_their_weights() -> None:
    log_p = torch.tensor([0.6, 0.3, 0.1]).log().expand(4000, 3)
    picked = choose(log_p, "it", seed=0, count=2)
    assert (picked[:, 0] != picked[:, 1]).all()
    shares = torch.bincount(picked[:, 0], minlength=3) / 4000
    torch.testing.assert_close(shares, torch.tensor([0.6, 0.3, 0.1]), atol=0.03, rtol=0)


def test_words_occur_in_every_sentence() -> None:
    model = trained()
    for options in ({}, {"symbols": {"sentiment": 1}}, {"prompt": "my friends"}, {"decoding": "sample"}):
        texts = model.generate(8, containing=["pizza"], seed=1, **options)  # type: ignore[arg-type]
        assert all("pizza" in text.split() for text in texts)
        assert texts == model.generate(8, containing=["pizza"], seed=1, **options)  # type: ignore[arg-type]
        assert "prompt" not in options or all(text.startswith("my friends") for text in texts)
    both = model.generate(8, containing=["pizza", "the phone"], without=["was"], seed=1)
    assert all({"pizza", "phone"} <= set(text.split()) and "was" not in text.split() for text in both)


def test_words_are_drawn_among_the_likeliest_as_everywhere() -> None:
    model = trained()
    greedy = model.generate(6, containing=["pizza"], seed=1)
    assert model.generate(6, containing=["pizza"], decoding="sample", top_k=1, seed=1) == greedy
    assert model.generate(6, containing=["pizza"], decoding="sample", seed=1) != greedy


def test_blanks_are_filled_and_the_rest_stays() -> None:
    model = trained()
    for text in model.infill("the ___ was great ___", 8, symbols={"sentiment": "positive"}, seed=2):
        words = text.split()
        assert words[0] == "the" and "was great" in text
        assert 1 <= text.split().index("was") - 1 <= 4 and 1 <= len(words) - words.index("great") - 1 <= 4
    for wrong, message in (
        ("the pizza was great .", "write ___ where words are wanted"),
        ("the ___ was zyzzyva .", "does not know: zyzzyva"),
        ("the ___ " + "was " * 40, "longer than the model's"),
    ):
        with pytest.raises(TextEBMError, match=message):
            model.infill(wrong)


def test_a_length_is_met_by_drawing_again_and_what_is_not_is_said(caplog: pytest.LogCaptureFixture) -> None:
    model = trained()
    free = model.generate(30, seed=3, decoding="sample")
    median = sorted(len(text.split()) for text in free)[15]
    asked = model.generate(30, seed=3, decoding="sample", length=(median - 1, median + 1))
    assert sum(abs(len(text.split()) - median) <= 1 for text in asked) > sum(
        abs(len(text.split()) - median) <= 1 for text in free
    )
    kept = [text for text in free if abs(len(text.split()) - median) <= 1]
    assert [new for new, old in zip(asked, free, strict=True) if old in kept] == kept, "what fits is not drawn again"
    with caplog.at_level(logging.WARNING):
        model.generate(2, seed=3, length=(300, 400))
    assert "2 of 2 sentences are not what was asked: has" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": (5, 3)}, "the fewest and the most words"),
        ({"length": 5}, "the fewest and the most words"),
        ({"containing": ["pizza"], "without": ["pizza"]}, "pizza: asked for and to be left out"),
        ({"containing": "pizza"}, "containing: expected a list of texts, got one string"),
        ({"containing": ["pizza"], "decoding": "beam"}, "goes with decoding greedy or sample"),
        ({"length": (3, 5), "resample_from_layer": 1}, "leave resample_from_layer and latents out"),
    ],
)
def test_what_cannot_be_asked_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(TextEBMError, match=message):
        trained().generate(2, seed=0, **options)  # type: ignore[arg-type]


def test_on_the_command_line(tmp_path: Path) -> None:
    trained().save_pretrained(tmp_path)
    assert isinstance(TextEBM.from_pretrained(tmp_path), TextEBM)
    run = CliRunner().invoke
    asked = [
        "generate",
        str(tmp_path),
        "-n",
        "3",
        "--seed",
        "0",
        "--containing",
        "pizza",
        "--length",
        "30-40",
        "--json",
    ]
    told = json.loads(run(app, asked).stdout)
    assert all("pizza" in text.split() for text in told["sentences"])
    assert [len(each) for each in told["unmet"]] == [1, 1, 1] and told["length"] == [30, 40]
    filled = run(app, ["infill", str(tmp_path), "the ___ was great .", "-n", "2"])
    assert filled.exit_code == 0 and len(filled.stdout.splitlines()) == 2
    wrong = run(app, ["generate", str(tmp_path), "--length", "many"])
    assert wrong.exit_code == 2 and "--length expects the fewest and the most words" in wrong.output
