"""The tokenizer of a saved model is the one that transformers would read, without transformers."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from textebm.errors import FileError
from textebm.text.grammar import corpus
from textebm.text.saved_tokenizer import FILES, SavedTokenizer
from textebm.text.tokenizer import pieces_of, spell, train_bpe, train_word, unknown_words, writes_unknown

TEXTS = [*corpus(60)["train"]["text"], "an unknown <unk> word , é", ""]


def saved(tokenizer: PreTrainedTokenizerFast, folder: Path) -> SavedTokenizer:
    tokenizer.save_pretrained(folder)
    return SavedTokenizer({name: (folder / name).read_bytes() for name in FILES}, str(folder))


@pytest.mark.parametrize("train", [train_word, train_bpe])
def test_it_is_what_transformers_reads(train, tmp_path: Path) -> None:
    ours = saved(train(TEXTS, 120), tmp_path)
    theirs = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    for name in ("pad", "bos", "eos", "unk"):
        assert getattr(ours, f"{name}_token") == getattr(theirs, f"{name}_token")
        assert getattr(ours, f"{name}_token_id") == getattr(theirs, f"{name}_token_id")
    assert len(ours) == len(theirs) and ours.get_vocab() == theirs.get_vocab()
    assert sorted(ours.all_special_ids) == sorted(theirs.all_special_ids)
    assert ours.convert_ids_to_tokens(range(len(ours))) == theirs.convert_ids_to_tokens(list(range(len(theirs))))
    assert ours.convert_ids_to_tokens(3) == theirs.convert_ids_to_tokens(3)
    assert pieces_of(ours) == pieces_of(theirs) and writes_unknown(ours) == writes_unknown(theirs)
    for text in TEXTS:
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        assert ours(text, add_special_tokens=False)["input_ids"] == ids
        assert spell(ours, ids) == spell(theirs, ids)
        assert unknown_words(ours, text, 9) == unknown_words(theirs, text, 9)


def test_what_it_does_not_do_itself_transformers_does(tmp_path: Path) -> None:
    ours = saved(train_word(TEXTS, 120), tmp_path / "first")
    assert ours.cls_token is None and ours.special_tokens_map["eos_token"] == ours.eos_token
    assert ours.convert_tokens_to_string(["the", "food"]) == "the food"
    ours.save_pretrained(tmp_path / "second")
    for name in FILES:
        first, second = (json.loads((tmp_path / place / name).read_text()) for place in ("first", "second"))
        assert first == second
    with pytest.raises(AttributeError, match="nothing"):
        _ = ours.nothing


def test_it_is_copied_and_sent_to_other_processes(tmp_path: Path) -> None:
    ours = saved(train_word(TEXTS, 120), tmp_path)
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert other.get_vocab() == ours.get_vocab() and other.eos_token_id == ours.eos_token_id
    with pytest.raises(FileError, match="tokenizer_config.json"):
        SavedTokenizer({FILES[0]: (tmp_path / FILES[0]).read_bytes(), FILES[1]: b"{"}, "x")
