"""The encoder of whole words: a word is the same in whatever pieces and capitals, and its vector is its say."""

from __future__ import annotations

import math

import pytest
import torch

from textebm.networks.bag_of_words import fit_words
from textebm.networks.posterior import PosteriorHead
from textebm.networks.whole_words import LENGTH, NONE, WORDS, WholeWordsEncoder
from textebm.text.tokenizer import Normalization, TokenStore, pieces_of, train_bpe, train_word

# pad bos eos unk, then pieces: four spellings of "cats", "dog", a mark, digits
PIECES = [("", True)] * 4 + [
    *(("cat", True), ("s", False), ("ca", True), ("ts", False), ("Cats", True)),
    *(("dog", True), (",", False), ("19", True), ("84", False)),
]
CAT, S, CA, TS, CATS, DOG, COMMA, NINETEEN, EIGHTY_FOUR = range(4, 13)


def net(dim: int = 3) -> WholeWordsEncoder:
    torch.manual_seed(0)
    return WholeWordsEncoder(PIECES, dim).eval()


def words(*ids: int) -> list[int]:
    hashes, ends = net().hashes(torch.tensor([[1, *ids, 2, 0]]), torch.tensor([len(ids) + 2]))
    return hashes[ends].tolist()


def test_a_word_does_not_depend_on_pieces_or_capitals() -> None:
    assert words(CAT, S) == words(CA, TS) == words(CATS) != words(CAT)
    assert words(CAT, S, DOG) == words(CATS) + words(DOG) and len(words(CAT, S, DOG)) == 2
    assert words(CATS, COMMA, DOG) == words(CATS, DOG), "a mark is no word, and parts two"
    assert len(words(NINETEEN, EIGHTY_FOUR)) == 1 and len(words(DOG, EIGHTY_FOUR)) == 2, "digits are words of their own"
    assert words(CAT, 3, S) == words(CAT) + words(S), "an unknown piece parts two words"


def test_the_features_are_the_weighted_sum_of_the_words_vectors() -> None:
    """Three texts: cats dog | cats | dog dog; idf of both is ln(4 / 3) + 1, so that weights are 1/√2 each or 1."""
    encoder = net()
    rows = [[CAT, S, DOG], [CATS], [DOG, DOG]]
    flat, offsets = [token for row in rows for token in row], [0, 3, 4, 6]
    fit_words([encoder], torch.tensor(flat).numpy(), torch.tensor(offsets).numpy())
    assert (encoder.known != NONE).sum() == 2 and torch.equal(encoder.known, encoder.known.sort().values)
    assert encoder.inverse_frequency[:2].tolist() == pytest.approx([math.log(4 / 3) + 1] * 2)
    place = {key: encoder.known.tolist().index(words(token)[0]) for key, token in (("cats", CATS), ("dog", DOG))}
    cats, dog = (encoder.embedding.weight[place[name]] for name in ("cats", "dog"))  # type: ignore[union-attr,index]
    tokens = torch.tensor([[1, CA, TS, DOG, 2], [1, DOG, DOG, 2, 0], [1, NINETEEN, 2, 0, 0]])
    features = encoder.features(tokens, torch.tensor([5, 4, 3]))
    assert torch.allclose(features[0], LENGTH * (cats + dog) / math.sqrt(2), atol=1e-7)
    assert torch.allclose(features[1], LENGTH * dog, atol=1e-7)
    assert torch.equal(features[2], torch.zeros(3)), "a word that training did not meet says nothing"
    head = PosteriorHead(3, 3, standardize=False, direct=True)
    assert torch.allclose(head(features).mean, features + head.mean.bias)  # type: ignore[arg-type]
    assert encoder.embedding.weight.shape == (WORDS, 3)  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["bpe", "word", "apart"])
def test_every_tokenizer_gives_the_same_words(kind: str) -> None:
    texts = ["The cats, 1984: naïve CATS!", "cats sat", "über Straße"] * 3
    plain = [text.replace(",", " ,").replace(":", " :").replace("!", " !") for text in texts]
    tokenizer = {
        "bpe": lambda: train_bpe(texts, 300),
        "word": lambda: train_word(plain, 50),
        "apart": lambda: train_word(texts, 50, Normalization(punctuation_apart=True)),
    }[kind]()
    encoder = WholeWordsEncoder(pieces_of(tokenizer), 2)
    store = TokenStore.build(plain if kind == "word" else texts, tokenizer, 40)
    fit_words([encoder], store.tokens, store.offsets)
    assert int((encoder.known != NONE).sum()) == 7, "the cats 1984 naïve sat über straße"
