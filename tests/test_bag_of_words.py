"""Bag-of-words networks: hand-worked weights, one likelihood in two ways, and what they write."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from textebm.networks.bag_of_words import WORDS_WRITTEN, BagOfWordsDecoder, BagOfWordsEncoder, fit_words
from textebm.networks.posterior import PosteriorHead
from textebm.text.batches import TokenBatch

SPECIAL = (0, 1, 2, 3)  # pad, bos, eos, unk


def encoder(size: int = 10, dropout: float = 0.0) -> BagOfWordsEncoder:
    torch.manual_seed(0)
    net = BagOfWordsEncoder(size, 6, 8, special=SPECIAL, dropout=dropout)
    net.head = PosteriorHead(net.num_features, 4, standardize=False, max_stddev=None, segments=1, context=0)
    return net.eval()


def decoder(size: int = 30) -> BagOfWordsDecoder:
    torch.manual_seed(0)
    return BagOfWordsDecoder(size, 6, 4, end=2, special=SPECIAL).eval()


def test_weights_are_tf_idf_at_unit_length() -> None:
    net = encoder()
    # three documents: 4 4 5 | 4 6 | 4; idf is ln(4 / (1 + df)): word 4 is everywhere and says nothing
    fit_words([net], np.array([4, 4, 5, 4, 6, 4]), np.array([0, 3, 5, 6]))
    assert net.inverse_frequency[4].item() == pytest.approx(0.0)
    assert net.inverse_frequency[5].item() == pytest.approx(math.log(2))
    assert net.inverse_frequency[7].item() == pytest.approx(math.log(4)) and net.inverse_frequency[2].item() == 0
    tokens = torch.tensor([[1, 5, 7, 5, 2, 0]])
    weights = net.weights(tokens, torch.tensor([5]))[0]
    five, seven = (1 + math.log(2)) * math.log(2), math.log(4)
    norm = math.hypot(five, seven)
    expected = [0, five / norm / 2, seven / norm, five / norm / 2, 0, 0]
    assert torch.allclose(weights, torch.tensor(expected), atol=1e-6)


def test_the_order_of_words_and_padding_change_nothing() -> None:
    net = encoder()
    first = torch.tensor([[1, 5, 7, 5, 8, 2]])
    second = torch.tensor([[1, 8, 5, 5, 7, 2, 0, 0]])
    one, other = net(first, torch.tensor([6])), net(second, torch.tensor([6]))
    assert torch.allclose(one.mean, other.mean, atol=1e-6) and torch.allclose(one.stddev, other.stddev, atol=1e-6)


def test_a_document_without_words_is_read_without_a_nan() -> None:
    assert encoder()(torch.tensor([[1, 2], [1, 3]]), torch.tensor([2, 2])).mean.isfinite().all()


def test_the_background_is_the_log_frequency_with_half_a_word_added() -> None:
    net = decoder(8)
    fit_words([net], np.array([4, 4, 5]), np.array([0, 2, 3]))
    counts = torch.tensor([0.5, 0.5, 2.5, 0.5, 2.5, 1.5, 0.5, 0.5])  # two documents end
    assert torch.allclose(net.background, (counts / counts.sum()).log())


def test_one_softmax_a_document_is_the_sum_over_its_words() -> None:
    net = decoder()
    fit_words([net], np.arange(4, 30).repeat(3), np.array([0, 40, 78]))
    tokens = torch.tensor([[1, 5, 9, 5, 2], [1, 7, 2, 0, 0]])
    batch = TokenBatch(tokens, torch.tensor([5, 3]), {}, torch.arange(2))
    z = torch.randn(2, 4)
    words = net.nll(net.hidden(tokens[:, :-1], z).flatten(0, 1)[batch.places], tokens[:, 1:].flatten()[batch.places])
    summed = torch.stack([words[:4].sum(), words[4:].sum()])
    counts = batch.word_counts(30)
    assert counts[0, 5] == 2 and counts[1].sum() == 2
    assert torch.allclose(net.bag_nll(counts, z), summed, atol=1e-4)


def test_probabilities_sum_to_one_and_common_words_keep_their_background() -> None:
    net = decoder(100)
    often = np.repeat(np.arange(10, 80)[None], 3, axis=0)  # 70 words in 3 of 60 documents each, word 4 in all
    rows = [np.append(often[i] if i < 3 else [], 4).astype(int) for i in range(60)]
    fit_words([net], np.concatenate(rows), np.cumsum([0, *map(len, rows)]))
    assert net.topical.sum() == 70 and not net.topical[4] and not net.topical[90]
    log_p = net.logits(net.hidden(torch.zeros(2, 3, dtype=torch.long), torch.randn(2, 4)))
    torch.testing.assert_close(log_p.exp().sum(-1), torch.ones(2, 3))
    assert torch.equal(log_p[0, 0, [2, 4, 90]], net.background[[2, 4, 90]])
    assert not torch.equal(log_p[0, 0, 10:80], net.background[10:80])


def test_a_written_list_has_each_word_once_and_ends() -> None:
    net, z = decoder(), torch.randn(3, 4)
    state, tokens, written = net.start(z), torch.full((3,), 1), []
    for _ in range(WORDS_WRITTEN + 1):
        logits, state = net.step(tokens, z, state)
        tokens = logits.argmax(-1)
        written.append(tokens)
    rows = torch.stack(written, dim=1)
    assert (rows[:, -1] == 2).all() and (rows[:, :-1] > 3).all()
    assert all(len(set(row.tolist())) == WORDS_WRITTEN + 1 for row in rows)
