"""English from the field's tokens and back, and one tokenizer's rows read in another's."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from textebm.text.batches import collate_texts
from textebm.text.natural import detokenize, tokenize
from textebm.text.retokenize import Retokenizer
from textebm.text.tokenizer import decode, first_token, load_pretrained, not_given_back, spell, train_word

PAIRS = [
    ("it 's not like we would n't pay for both lanes .", "It's not like we wouldn't pay for both lanes."),
    ("i 'd go , but i ca n't . sorry !", "I'd go, but I can't. Sorry!"),
    ("( chicken is $ 5 ) and 20 % off ...", "(Chicken is $5) and 20% off..."),
    ('he said " come in " , twice .', 'He said "come in", twice.'),
    ("hi , i 'm here at 6:30 p.m. on-site ; ok ?", "Hi, I'm here at 6:30 p.m. On-site; ok?"),
    ("", ""),
]


@pytest.mark.parametrize("tokens, english", PAIRS)
def test_english_and_back(tokens: str, english: str) -> None:
    if "p.m." not in tokens:  # where a sentence seems to end, and does not, is a capital too many
        assert detokenize(tokens) == english
    assert tokenize(detokenize(tokens)) == tokens
    assert detokenize(tokenize(english)) == detokenize(tokens)


def pieces(folder: Path, texts: list[str]) -> Path:
    """A byte-level tokenizer like GPT-2's in *folder*."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=400, special_tokens=["<|e|>"], initial_alphabet=alphabet)
    )
    PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<|e|>", eos_token="<|e|>").save_pretrained(folder)
    return folder


def word_pieces(folder: Path, texts: list[str]) -> Path:
    """A tokenizer like BERT's in *folder*."""
    from tokenizers.processors import TemplateProcessing

    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    made.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=200, special_tokens=special))
    made.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    roles = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=made, **roles).save_pretrained(folder)
    return folder


TEXTS = [tokens for tokens, _ in PAIRS if tokens]


def test_a_network_that_knows_english_writes_the_fields_tokens(tmp_path: Path) -> None:
    place = pieces(tmp_path / "own", [english for _, english in PAIRS])
    tokenizer = load_pretrained(str(place), natural=True)
    tokenizer.save_pretrained(tmp_path / "saved")
    for each in (tokenizer, PreTrainedTokenizerFast.from_pretrained(tmp_path / "saved")):
        batch = collate_texts(TEXTS, each, 99)
        assert spell(each, batch.tokens[0].tolist()) == PAIRS[0][1]
        assert [decode(each, row) for row in batch.tokens.tolist()] == TEXTS
        assert not_given_back(each, TEXTS) == []


def test_the_first_word_is_written_as_one_inside_a_text(tmp_path: Path) -> None:
    tokenizer = load_pretrained(str(pieces(tmp_path / "own", TEXTS * 3)))
    once, twice = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("it", "it it"))
    assert twice == once * 2
    assert first_token(tokenizer) == tokenizer.eos_token_id != tokenizer.bos_token_id, "it had no bos of its own"
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|endoftext|>"]})
    assert first_token(tokenizer) == tokenizer.convert_tokens_to_ids("<|endoftext|>") == len(tokenizer) - 1


def test_what_a_tokenizer_cannot_give_back_is_known(tmp_path: Path) -> None:
    words = load_pretrained(str(word_pieces(tmp_path, TEXTS)))
    spoilt = dict(not_given_back(words, [*TEXTS, "all is well ."]))
    assert "i 'd go , but i ca n't . sorry !" in spoilt and len(spoilt) >= 4
    assert not_given_back(train_word(TEXTS, 100), [*TEXTS, "it  's"]) == []


def test_rows_are_read_in_another_tokenizers_ids(tmp_path: Path) -> None:
    writer, reader = train_word(TEXTS, 100), PreTrainedTokenizerFast.from_pretrained(word_pieces(tmp_path, TEXTS))
    retokenize = Retokenizer(writer, reader, longest=12)
    batch = collate_texts(TEXTS[:2], writer, 99)
    rows = [tuple(row[:length]) for row, length in zip(batch.tokens.tolist(), batch.lengths.tolist(), strict=True)]
    assert retokenize(rows)[1] == tuple([*reader(TEXTS[1])["input_ids"][:11], 3])
    two = (writer.bos_token_id, *rows[1][1:3], writer.eos_token_id, *rows[1][3:5], writer.eos_token_id)
    assert two == (1, *rows[1][1:3], 2, *rows[1][3:5], 2)
    assert retokenize([two]) == [tuple(reader("i 'd [SEP] go ,")["input_ids"])], "a separator between two turns"
    assert retokenize([(1, 2)]) == [(2, 3)]


def test_a_reader_of_english_is_given_english(tmp_path: Path) -> None:
    place = str(pieces(tmp_path / "own", [english for _, english in PAIRS]))
    writer, reader = load_pretrained(place, natural=True), PreTrainedTokenizerFast.from_pretrained(place)
    batch = collate_texts(TEXTS[:1], writer, 99)
    assert Retokenizer(writer, reader, 99)([tuple(batch.tokens[0].tolist())]) == [
        tuple(reader(PAIRS[0][1])["input_ids"])
    ]
