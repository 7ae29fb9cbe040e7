from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from textebm.errors import RecipeError
from textebm.text import grammar
from textebm.text.tokenizer import (
    Normalization,
    TokenStore,
    decode,
    encode_corpus,
    load_pretrained,
    train_bpe,
    train_word,
    unknown_share,
)

TEXTS = [example.text for example in grammar.generate(400, seed=0)]
WORD, BPE = train_word(TEXTS, 10000), train_bpe(TEXTS, 500)


@pytest.mark.parametrize("tokenizer", [WORD, BPE], ids=["word", "bpe"])
def test_special_tokens_have_the_first_ids(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id]
    assert ids == [0, 1, 2, 3]
    assert tokenizer.convert_ids_to_tokens(ids) == ["<pad>", "<bos>", "<eos>", "<unk>"]


@pytest.mark.parametrize("tokenizer", [WORD, BPE], ids=["word", "bpe"])
def test_decoding_gives_the_sentence_back_also_after_saving(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    again = [kind.from_pretrained(tmp_path) for kind in (PreTrainedTokenizerFast, AutoTokenizer)]
    for loaded in (tokenizer, *again):
        store = TokenStore.build(TEXTS, loaded, max_tokens=100)
        assert [decode(loaded, store[row]) for row in range(len(store))] == TEXTS
    assert not list(tmp_path.glob("*.py")) and (tmp_path / "tokenizer.json").is_file()


def test_word_vocabulary_is_the_most_frequent() -> None:
    tokenizer = train_word(["b a <unk>", "b c a", "b d"], vocabulary_size=3)
    assert tokenizer.convert_ids_to_tokens(range(len(tokenizer))) == ["<pad>", "<bos>", "<eos>", "<unk>", "b", "a"]
    store = TokenStore.build(["a b c <unk> n't"], tokenizer, max_tokens=9)
    assert store.tokens.tolist() == [5, 4, 3, 3, 3]
    assert decode(tokenizer, [1, *store[0], 2, 4, 4]) == "a b <unk> <unk> <unk>"
    assert unknown_share(store, tokenizer) == 0.6


def test_the_vocabulary_size_leaves_room_for_the_special_tokens() -> None:
    assert len(train_word(["a b c"], vocabulary_size=4)) == 7  # a b c and <unk>, and the three others
    assert len(train_bpe(TEXTS, vocabulary_size=300)) == 303


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(alphabet=st.characters(exclude_categories=("C", "Z")), min_size=1), min_size=1))
def test_bpe_spells_any_text(words: list[str]) -> None:
    text = unicodedata.normalize("NFC", " ".join(words))
    if not any(token in text for token in ("<pad>", "<bos>", "<eos>", "<unk>")):
        assert decode(BPE, TokenStore.build([text], BPE, 10**6)[0]) == text


@pytest.mark.parametrize("tokenizer", [WORD, BPE], ids=["word", "bpe"])
def test_the_corpus_unk_is_unk_and_other_specials_cannot_be_forged(tokenizer: PreTrainedTokenizerFast) -> None:
    tokens = TokenStore.build(["the <unk> was <eos> <pad> great <bos> ."], tokenizer, 50).tokens
    assert (tokens == tokenizer.unk_token_id).sum() == 4
    assert not np.isin(tokens, [0, 1, 2]).any()


def test_a_store_cuts_keeps_empty_rows_and_reads_any_iterable() -> None:
    store = TokenStore.build(["the pizza was great .", "", "i"], WORD, max_tokens=3)
    assert store.lengths.tolist() == [3, 0, 1] and len(store) == 3
    assert store.tokens.dtype == np.int32 and store.offsets.dtype == np.int64
    assert decode(WORD, store[0]) == "the pizza was"
    many = [TEXTS[row % 400] for row in range(5000)]  # more than one chunk
    one, other = TokenStore.build(many, WORD, 20), TokenStore.build(iter(many), WORD, 20)
    assert np.array_equal(one.tokens, other.tokens) and np.array_equal(one.offsets, other.offsets)
    assert len(TokenStore.build([], WORD, 5)) == 0
    with pytest.raises(IndexError):
        store[3]


def test_a_datasets_column_is_encoded_in_its_order() -> None:
    splits = grammar.corpus(300, seed=1)
    stores = encode_corpus(splits, WORD, max_tokens=30)
    assert decode(WORD, stores["test"][5]) == " ".join(
        word if word in WORD.get_vocab() else "<unk>" for word in splits["test"][5]["text"].split()
    )
    assert [len(store) for store in stores.values()] == [len(rows) for rows in splits.values()]


def saved(path: Path, **special: str) -> str:
    listed = ["[CLS]", "[SEP]", "[PAD]", "[UNK]", "<|end|>", "hello", "there"]
    words = {word: number for number, word in enumerate(listed)}
    backend = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.enable_truncation(1)
    backend.enable_padding(length=9)
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(path)
    return str(path)


@pytest.mark.parametrize(
    "special",
    [
        {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"},  # as BERT
        {"bos_token": "<|end|>", "eos_token": "<|end|>", "unk_token": "<|end|>"},  # as GPT-2
        {},
    ],
)
def test_a_pretrained_tokenizer_gets_the_special_tokens_it_lacks(tmp_path: Path, special: dict[str, str]) -> None:
    tokenizer = load_pretrained(saved(tmp_path, **special))
    ids = {tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id}
    assert len(ids) == 4 and None not in ids and max(ids) < len(tokenizer)
    for role, token in special.items():
        assert getattr(tokenizer, role) == token or special.get("eos_token") == token
    store = TokenStore.build(["hello there hello"], tokenizer, 10)  # its own truncation and padding are not ours
    assert decode(tokenizer, store[0]) == "hello there hello"


def test_a_missing_pretrained_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="tokenizer.name"):
        load_pretrained(str(tmp_path / "nothing"))


RAW = ["Microsoft Unveils New Search Engine!", "It's \"great\" (really), isn't it? A well-known -- e.g. this."]
WRITTEN = ["AT&amp;T #39;soars #39;<br />now", "Bush #39;s team", "caf\u0065\u0301  au\tlait\n"]


@pytest.mark.parametrize("train", [train_word, train_bpe])
def test_own_text_is_given_back_with_its_spacing_marks_and_capitals(train: Any, tmp_path: Path) -> None:
    tokenizer = train([*RAW, "café au lait"], 1000, Normalization(punctuation_apart=True))
    tokenizer.save_pretrained(tmp_path)
    for each in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        store = TokenStore.build([*RAW, WRITTEN[2]], each, 100)
        assert [decode(each, store[row]) for row in range(3)] == [*RAW, "café au lait"]
    lower = train(RAW, 1000, Normalization(lowercase=True, punctuation_apart=True))
    assert decode(lower, TokenStore.build(RAW[:1], lower, 100)[0]) == RAW[0].lower()


def test_marks_are_words_of_their_own_beside_words_with_hyphens_and_apostrophes() -> None:
    tokenizer = train_word(RAW, 1000, Normalization(punctuation_apart=True))
    words = tokenizer.convert_ids_to_tokens(TokenStore.build(RAW, tokenizer, 100)[1].tolist())
    assert words[:9] == ["▁It's", '▁"', "great", '"', "▁(", "really", ")", ",", "▁isn't"]
    assert "▁well-known" in words
    assert decode(tokenizer, TokenStore.build(["It's rotten (really)!"], tokenizer, 9)[0]) == "It's <unk> (really)!"


@pytest.mark.parametrize("train", [train_word, train_bpe])
def test_html_is_read_as_what_it_stands_for(train: Any) -> None:
    clean = ["AT&T 'soars ' now", "Bush's team"]
    tokenizer = train(clean, 1000, Normalization(html=True, punctuation_apart=True))
    store = TokenStore.build(WRITTEN[:2], tokenizer, 100)
    assert [decode(tokenizer, store[row]) for row in range(2)] == clean


@pytest.mark.parametrize(
    "text", ["我今天去公园吃饭很好。", "مرحبا بالعالم", "🙂 see https://x.org/a?b=1 #tag @you", "naïve", "Ⅳ ﬁ ½"]
)
def test_bpe_writes_every_script_and_no_unk(text: str) -> None:
    store = TokenStore.build([text], BPE, 200)
    assert unknown_share(store, BPE) == 0 and decode(BPE, store[0]) == unicodedata.normalize("NFC", text)
