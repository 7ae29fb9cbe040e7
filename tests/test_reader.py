"""A pretrained network that reads: its own tokens, its layers, pooled or word by word; at rest it reads a row once."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from transformers import BertConfig, BertModel

from textebm.networks.encoder import RecurrentEncoder, SentenceEncoder
from textebm.networks.posterior import PosteriorHead
from textebm.networks.pretrained import resting_names
from textebm.networks.reader import ContextualEmbedding, Pooling, Reader, WidthMatched

PAD = 0


def bert() -> BertModel:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=60,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        initializer_range=0.2,
    )
    return BertModel(config).eval()


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    lengths = torch.tensor([4, 7, 2])
    tokens = torch.randint(1, 60, (3, 7), generator=torch.Generator().manual_seed(1))
    return tokens.where(torch.arange(7) < lengths[:, None], torch.tensor(PAD)), lengths


@pytest.mark.parametrize("layer", [[-1], [0], [1], [1, -1]])
def test_states_are_those_of_each_row_by_itself(layer: list[int]) -> None:
    network, (tokens, lengths) = bert(), batch()
    reader = Reader(network, pad=PAD, tune="rest", layer=layer)
    for row, length, states in zip(tokens, lengths.tolist(), reader(tokens, lengths), strict=True):
        hidden = network(input_ids=row[None, :length], output_hidden_states=True).hidden_states
        expected = torch.cat([hidden[each][0] for each in layer], dim=-1)
        assert states.shape == (length, reader.size)
        torch.testing.assert_close(states, expected, atol=1e-5, rtol=1e-4)


BY_HAND = {"mean": lambda states: states.mean(0), "first": lambda states: states[0], "last": lambda states: states[-1]}


@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
def test_pooled(pooling: Pooling) -> None:
    network, (tokens, lengths) = bert(), batch()
    pooled = Reader(network, pad=PAD, tune="full", pooling=pooling)(tokens, lengths)
    for states, vector in zip(Reader(network, pad=PAD, tune="rest")(tokens, lengths), pooled, strict=True):
        torch.testing.assert_close(vector, BY_HAND[pooling](states), atol=1e-5, rtol=1e-4)


def test_a_network_at_rest_reads_each_row_once() -> None:
    network, (tokens, lengths) = bert(), batch()
    read: list[int] = []
    network.register_forward_pre_hook(lambda _, args, kwargs: read.append(len(kwargs["input_ids"])), with_kwargs=True)
    reader = Reader(network, pad=PAD, tune="rest", pooling="mean")
    first = reader(tokens, lengths)
    again = reader(tokens[[2, 0, 0]], lengths[[2, 0, 0]])
    assert read == [3] and all(torch.equal(a, first[i]) for a, i in zip(again, (2, 0, 0), strict=True))
    tokens[0, 1] += 1
    assert not torch.equal(reader(tokens, lengths)[0], first[0]) and read == [3, 1]
    reader.double()
    assert len(reader(tokens, lengths)) == 3 and read == [3, 1, 3], "what was kept is of the float32"
    full = Reader(network, pad=PAD, tune="full")
    assert full(tokens, lengths)[0].requires_grad and full(tokens, lengths)[0].requires_grad and read[3:] == [3, 3]


def test_what_does_not_fit_is_read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("textebm.networks.reader.CACHE_BYTES", 2 * 16 * 4)  # two vectors of 16 numbers, not quite
    network, (tokens, lengths) = bert(), batch()
    read: list[int] = []
    network.register_forward_pre_hook(lambda _, args, kwargs: read.append(len(kwargs["input_ids"])), with_kwargs=True)
    reader = Reader(network, pad=PAD, tune="rest", pooling="mean")
    first, second = reader(tokens, lengths), reader(tokens, lengths)
    assert read == [3, 2] and all(torch.allclose(a, b, atol=1e-6) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("tune", ["rest", "lora", "full"])
def test_an_encoder_on_it_learns_and_padding_is_inert(tune: str) -> None:
    tokens, lengths = batch()
    for encoder in (
        SentenceEncoder(Reader(bert(), pad=PAD, tune=tune, pooling="mean")),  # type: ignore[arg-type]
        RecurrentEncoder("gru", 0, 10, 6),
    ):
        if isinstance(encoder, RecurrentEncoder):
            encoder.embedding = ContextualEmbedding(Reader(bert(), pad=PAD, tune=tune), 10)  # type: ignore[arg-type]
        encoder.head = PosteriorHead(encoder.num_features, 4, standardize=False)
        posterior = encoder(tokens, lengths)
        wider = encoder(F.pad(tokens, (0, 3), value=PAD), lengths)
        torch.testing.assert_close(posterior.mean, wider.mean, atol=1e-5, rtol=1e-4)
        (posterior.mean.square().sum() + posterior.stddev.sum()).backward()
        resting = resting_names(encoder)
        assert bool(resting) is (tune != "full")
        for name, value in encoder.named_parameters():
            learns = value.grad is not None and bool(value.grad.abs().max() > 0)
            expected = name not in resting and "lora_A" not in name and "pooler" not in name
            assert learns == expected or "lora_A" in name or "key.bias" in name, name


def test_it_reads_the_text_in_its_own_tokens() -> None:
    network, (tokens, lengths) = bert(), batch()
    reader = Reader(network, pad=PAD, tune="rest", retokenize=lambda rows: [(7, *row[::-1], 8) for row in rows])
    embedding = ContextualEmbedding(reader, 5)
    words, counts = embedding(tokens, lengths)
    assert counts.tolist() == [6, 9, 4] and words.shape == (3, 9, 5)
    own = torch.tensor([[7, *tokens[2, :2].flip(0).tolist(), 8]])
    torch.testing.assert_close(words[2, :4], embedding.project(network(own).last_hidden_state[0]), atol=1e-5, rtol=1e-4)


def test_another_networks_embedding_is_read_whatever_its_width() -> None:
    shared = torch.nn.Embedding(60, 16).requires_grad_(False)
    tokens, lengths = batch()
    encoder = RecurrentEncoder("gru", 0, 10, 6)
    encoder.embedding = WidthMatched(shared, 10)
    encoder.features(tokens, lengths).sum().backward()
    assert shared.weight.grad is None and encoder.embedding.project.weight.grad is not None
