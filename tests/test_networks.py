"""Encoders, decoders, the recurrent loop and the energy network."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textebm.model.latent_text_model import LatentTextModel
from textebm.networks import softmax
from textebm.networks.decoder import RecurrentDecoder, TransformerDecoder
from textebm.networks.dropout import Dropout
from textebm.networks.encoder import RecurrentEncoder, TransformerEncoder
from textebm.networks.energy import EnergyNet
from textebm.networks.posterior import Posterior, PosteriorHead
from textebm.networks.recurrent import Cell, RecurrentLayer, reverse_within
from textebm.networks.segments import SegmentAttention, SegmentPooling, in_layers, in_segments
from textebm.prior.explicit import StandardNormal
from textebm.prior.noise import NoiseSchedule
from textebm.prior.prior import LatentPrior
from textebm.text.batches import TokenBatch
from textebm.text.tokenizer import train_word

VOCABULARY, DIM = 13, 5
ENCODERS: dict[str, Callable[[], RecurrentEncoder | TransformerEncoder]] = {
    "gru": lambda: RecurrentEncoder("gru", VOCABULARY, 6, 7, num_layers=2),
    "gru, one direction": lambda: RecurrentEncoder("gru", VOCABULARY, 6, 7, bidirectional=False),
    "lstm": lambda: RecurrentEncoder("lstm", VOCABULARY, 6, 7),
    "transformer": lambda: TransformerEncoder(VOCABULARY, 6, 8, num_heads=2),
    "gru, segments": lambda: RecurrentEncoder("gru", VOCABULARY, 6, 7, segments=3),
    "transformer, segments": lambda: TransformerEncoder(VOCABULARY, 6, 8, num_heads=2, segments=2),
}
DECODERS: dict[str, Callable[[], RecurrentDecoder | TransformerDecoder]] = {
    "gru": lambda: RecurrentDecoder("gru", VOCABULARY, 6, 7, DIM, num_layers=2),
    "lstm": lambda: RecurrentDecoder("lstm", VOCABULARY, 6, 7, DIM, num_layers=2),
    "gru, skip": lambda: RecurrentDecoder("gru", VOCABULARY, 6, 7, DIM, num_layers=2, skip=True),
    "gru, ladder": lambda: RecurrentDecoder("gru", VOCABULARY, 6, 7, DIM, num_layers=3, latent_layers=(2, 3)),
    "lstm, ladder": lambda: RecurrentDecoder("lstm", VOCABULARY, 6, 7, DIM, num_layers=2, latent_layers=(1, 2, 2)),
    "transformer": lambda: TransformerDecoder(VOCABULARY, 6, 8, DIM, num_heads=2),
    "gru, segments": lambda: RecurrentDecoder("gru", VOCABULARY, 6, 7, DIM, segments=2, segmented=(2, 2), num_heads=2),
    "lstm, segments": lambda: RecurrentDecoder("lstm", VOCABULARY, 6, 7, DIM, num_layers=2, segments=5),
    "transformer, segments": lambda: TransformerDecoder(
        VOCABULARY, 6, 8, DIM, num_heads=2, segments=2, segmented=(2, 2)
    ),
}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def padded(extra: int, junk: int = 0) -> tuple[Tensor, Tensor]:
    """Three sentences of 6, 4 and 1 tokens; behind their ends stands *junk*, and *extra* columns more of it."""
    lengths = torch.tensor([6, 4, 1])
    tokens = torch.randint(4, VOCABULARY, (3, 6), generator=torch.Generator().manual_seed(1))
    tokens = torch.cat([tokens, torch.zeros(3, extra, dtype=torch.long)], dim=1)
    return tokens.masked_fill(torch.arange(6 + extra) >= lengths[:, None], junk), lengths


@pytest.mark.parametrize("kind", ENCODERS)
def test_padding_is_inert_in_the_encoder(kind: str) -> None:
    encoder = ENCODERS[kind]().eval()
    features = encoder.features(*padded(0))
    assert torch.isfinite(features).all()
    assert torch.equal(features, encoder.features(*padded(0, junk=5))), "what the padding says matters"
    torch.testing.assert_close(encoder.features(*padded(9)), features, atol=1e-6, rtol=0)
    tokens, lengths = padded(0)
    for row in range(3):  # and each sentence is what it is alone
        alone = encoder.features(tokens[row : row + 1, : lengths[row]], lengths[row : row + 1])
        torch.testing.assert_close(alone[0], features[row], atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ENCODERS)
def test_padding_gets_no_gradient(kind: str) -> None:
    encoder = ENCODERS[kind]()
    encoder.features(*padded(3, junk=3)).square().sum().backward()
    gradient = encoder.embedding.weight.grad
    assert gradient is not None
    assert gradient[3].abs().max() == 0
    assert gradient[padded(0)[0][0, 0]].abs().max() > 0


def tiny_model(decoder: RecurrentDecoder | TransformerDecoder) -> LatentTextModel:
    tokenizer = train_word(["a b c d e f g h i"], VOCABULARY)
    assert len(tokenizer) == VOCABULARY
    encoder = ENCODERS["gru"]()
    encoder.head = PosteriorHead(encoder.num_features, DIM)
    prior = LatentPrior(DIM, EnergyNet(DIM, 1, {}), NoiseSchedule(torch.ones(1)), explicit=StandardNormal())
    return LatentTextModel(encoder, decoder, prior, tokenizer, {})


@pytest.mark.parametrize("kind", DECODERS)
def test_padding_is_inert_in_the_reconstruction(kind: str) -> None:
    model = tiny_model(DECODERS[kind]()).eval()
    z = torch.randn(3, DIM)

    def nll(extra: int) -> Tensor:
        tokens, lengths = padded(extra)
        return model.reconstruction_nll(TokenBatch(tokens, lengths, {}, torch.arange(3)), z)

    torch.testing.assert_close(nll(8), nll(0), atol=1e-5, rtol=0)
    assert nll(0)[2] == 0, "a sentence of one token predicts nothing"
    tokens, lengths = padded(0)
    logits = model.decoder.logits(model.decoder.hidden(tokens[1:2, :3], z[1:2]))  # four tokens: three to predict
    by_hand = -logits[0].log_softmax(-1)[torch.arange(3), tokens[1, 1:4]].sum()
    torch.testing.assert_close(nll(0)[1], by_hand, atol=1e-5, rtol=0)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_recurrent_loop_equals_torch(cell: Cell) -> None:
    layer = RecurrentLayer(cell, 4, 5)
    inputs = torch.randn(3, 6, 4, requires_grad=True)
    state = tuple(torch.randn(3, 5) for _ in range(layer.num_states))
    outputs = layer(inputs, state)
    packed = tuple(s[None] for s in state)
    expected = layer.core(inputs, packed if cell == "lstm" else packed[0])[0]
    torch.testing.assert_close(outputs, expected, atol=1e-6, rtol=1e-5)
    direction = torch.randn_like(outputs)
    wanted = [inputs, *layer.core.parameters()]
    for ours, theirs in zip(
        torch.autograd.grad((outputs * direction).sum(), wanted),
        torch.autograd.grad((expected * direction).sum(), wanted),
        strict=True,
    ):
        assert theirs.abs().max() > 0
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(layer(inputs), layer.core(inputs)[0], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_a_layers_gradients_are_those_of_its_single_steps(cell: Cell) -> None:
    layer = RecurrentLayer(cell, 2, 3).double()
    inputs = torch.randn(2, 4, 2, dtype=torch.double, requires_grad=True)
    state = tuple(torch.randn(2, 3, dtype=torch.double, requires_grad=True) for _ in range(layer.num_states))

    def by_steps() -> torch.Tensor:
        here, outputs = state, []
        for step in range(inputs.shape[1]):
            here = layer.step(inputs[:, step], here)
            outputs.append(here[0])
        return torch.stack(outputs, dim=1)

    torch.testing.assert_close(layer(inputs, state), by_steps())
    zero = tuple(torch.zeros_like(each) for each in state)
    torch.testing.assert_close(layer(inputs), layer(inputs, zero))
    direction, wanted = torch.randn(2, 4, 3, dtype=torch.double), (inputs, *state, *layer.parameters())
    ours = torch.autograd.grad((layer(inputs, state) * direction).sum(), wanted)
    torch.testing.assert_close(ours, torch.autograd.grad((by_steps() * direction).sum(), wanted))


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_a_bfloat16_layer_is_close(cell: Cell) -> None:
    layer, inputs = RecurrentLayer(cell, 16, 32), torch.randn(4, 20, 16)
    exact = layer(inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = layer(inputs)
    error = (rough.float() - exact).abs()
    assert 0 < error.max() < 0.05  # bfloat16 keeps 8 bits; errors must not grow over the steps
    assert error.mean() < 0.005


@pytest.mark.parametrize("kind", DECODERS)
def test_steps_equal_teacher_forcing(kind: str) -> None:
    decoder = DECODERS[kind]().eval()
    inputs, z = torch.randint(VOCABULARY, (3, 9)), torch.randn(3, DIM)
    forced = decoder.logits(decoder.hidden(inputs, z))
    assert forced.shape == (3, 9, VOCABULARY)
    state = decoder.start(z)
    for position in range(9):
        logits, state = decoder.step(inputs[:, position], z, state)
        torch.testing.assert_close(logits, forced[:, position], atol=2e-6, rtol=1e-5)
        if position == 4:  # a caller may drop and reorder rows of any state
            keep = torch.tensor([2, 0])
            inputs, z, forced, state = inputs[keep], z[keep], forced[keep], tuple(part[keep] for part in state)


@pytest.mark.parametrize("kind", DECODERS)
def test_decoders_are_causal_and_read_the_latent_everywhere(kind: str) -> None:
    decoder = DECODERS[kind]().eval()
    inputs, z = torch.randint(VOCABULARY, (1, 6)), torch.randn(1, DIM)
    changed = inputs.clone()
    changed[0, 3] = (inputs[0, 3] + 1) % VOCABULARY
    before, after = decoder.hidden(inputs, z)[0], decoder.hidden(changed, z)[0]
    torch.testing.assert_close(after[:3], before[:3], atol=1e-6, rtol=0)
    assert ((after[3:] - before[3:]).abs().amax(-1) > 1e-4).all()
    assert ((decoder.hidden(inputs, z + 0.5)[0] - before).abs().amax(-1) > 1e-4).all()


def test_reverse_within() -> None:
    rows = torch.tensor([[1, 2, 3, 0], [4, 0, 0, 0], [5, 6, 7, 8]])
    expected = torch.tensor([[3, 2, 1, 0], [4, 0, 0, 0], [8, 7, 6, 5]])
    lengths = torch.tensor([3, 1, 4])
    assert torch.equal(reverse_within(rows, lengths), expected)
    assert torch.equal(
        reverse_within(rows[..., None].expand(-1, -1, 2), lengths), expected[..., None].expand(-1, -1, 2)
    )


@pytest.mark.parametrize("kind", ENCODERS)
def test_every_encoder_parameter_gets_a_gradient(kind: str) -> None:
    encoder = ENCODERS[kind]()
    encoder.head = PosteriorHead(encoder.num_features, DIM, standardize=False)
    posterior = encoder(*padded(0))
    (posterior.mean.pow(3).sum() + posterior.stddev.sum()).backward()
    assert_all_gradients(encoder)


@pytest.mark.parametrize("kind", DECODERS)
def test_every_decoder_parameter_gets_a_gradient(kind: str) -> None:
    decoder = DECODERS[kind]()
    logits = decoder.logits(decoder.hidden(torch.randint(VOCABULARY, (4, 7)), torch.randn(4, DIM)))
    logits.log_softmax(-1)[..., 0].sum().backward()
    assert_all_gradients(decoder)


@pytest.mark.parametrize("spectral_norm", [False, True])
def test_every_energy_parameter_gets_a_gradient(spectral_norm: bool) -> None:
    net = EnergyNet(DIM, 2, {"a": 3, "b": 2}, hidden_size=8, num_blocks=2, spectral_norm=spectral_norm)
    nn.init.normal_(net.outputs.weight)  # zero at first: nothing below it would learn from the first step
    net.potential(torch.randn(6, DIM), torch.tensor([0, 1] * 3)).square().sum().backward()
    assert_all_gradients(net)


@pytest.mark.parametrize(
    ("num_layers", "expected"),
    [(1, [(0, 6)]), (2, [(0, 1), (1, 6)]), (3, [(0, 1), (1, 3), (3, 6)]), (4, [(0, 1), (1, 3), (3, 6), (3, 6)])],
)
def test_a_decoder_ladder_reads_the_top_first(num_layers: int, expected: list[tuple[int, int]]) -> None:
    decoder = RecurrentDecoder("gru", VOCABULARY, 6, 7, 6, num_layers=num_layers, latent_layers=(1, 2, 3))
    assert [(rung.start, rung.stop) for rung in decoder.rungs] == expected
    z, other = torch.zeros(1, 6), torch.tensor([[0.0, 1, 1, 1, 1, 1]])
    same = [torch.equal(a, b) for a, b in zip(decoder.start(z), decoder.start(other), strict=True)]
    assert same == [stop == 1 for _, stop in expected], "the first layer's state knows the top alone"


def assert_all_gradients(module: nn.Module) -> None:
    dead = [n for n, p in module.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not dead


@pytest.mark.parametrize("rows", [0, 1, 100])
@pytest.mark.parametrize("alike", [True, False])
def test_chunked_cross_entropy_equals_torch(rows: int, alike: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(softmax, "LEAST_ROWS", 1)
    monkeypatch.setitem(softmax.CHUNK_BYTES, "cpu", 4 * 50 * 30)  # 30 rows of 50 words, padded to 64: two chunks
    hidden, weight, bias = (torch.randn(*shape, requires_grad=True) for shape in ((rows, 6), (50, 6), (50,)))
    targets = torch.randint(50, (rows,))
    scale = torch.full((rows,), 0.3) if alike else torch.rand(rows)
    ours = softmax.linear_cross_entropy(hidden, weight, bias, targets)
    theirs = F.cross_entropy(F.linear(hidden, weight, bias), targets, reduction="none")
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    found, expected = (torch.autograd.grad((nll * scale).sum(), [hidden, weight, bias]) for nll in (ours, theirs))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        assert torch.equal(softmax.linear_cross_entropy(hidden, weight, bias, targets), ours)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = softmax.linear_cross_entropy(hidden, weight, bias, targets)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, theirs, atol=0.15, rtol=0)


def test_energy_net_formula() -> None:
    net = EnergyNet(DIM, 3, {"mood": 2, "code": 4}, hidden_size=8, num_blocks=1)
    u, level = torch.randn(7, DIM), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    assert net.potential(u, level).abs().max() < 1e-6, "zero logits must mean F = 0"
    nn.init.normal_(net.outputs.weight)
    logits = net(u, level)
    assert {name: f.shape[-1] for name, f in logits.items()} == {"mood": 2, "code": 4}
    expected = sum(f.exp().sum(-1).log() for f in logits.values()) - math.log(2) - math.log(4)
    torch.testing.assert_close(net.potential(u, level), expected, atol=1e-5, rtol=1e-5)
    assert (net.potential(u[:1], level[:1]) - net.potential(u[:1], level[1:2])).abs() > 1e-4, "the level matters"


def test_energy_net_without_heads_is_a_plain_potential() -> None:
    net = EnergyNet(DIM, 1, {}, hidden_size=8)
    nn.init.normal_(net.outputs.weight)
    u, level = torch.randn(4, DIM), torch.zeros(4, dtype=torch.long)
    assert net(u, level) == {}
    torch.testing.assert_close(net.potential(u, level), net.outputs(net.features(u, level))[:, 0])


def test_spectral_norm_bounds_the_layers() -> None:
    net = EnergyNet(DIM, 1, {}, hidden_size=16, num_blocks=1, spectral_norm=True)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(5)
        for _ in range(100):  # power iterations run in training mode
            net.potential(torch.randn(2, DIM), torch.zeros(2, dtype=torch.long))
    for layer in [net.inputs, *net.blocks[0]]:
        assert torch.linalg.matrix_norm(layer.weight, ord=2).item() == pytest.approx(1.0, abs=1e-3)


def test_absorb_statistics_is_exact() -> None:
    head = PosteriorHead(6, DIM)
    features = torch.randn(500, 6) @ torch.randn(6, 6) + 3
    head.train()
    for rows in features.split(100):
        head(rows)  # running statistics on their way
    head.eval()
    for _ in range(2):  # and again: exact ones stay
        head.absorb_statistics(head(features))
        mean = head(features).mean.detach().double()
        torch.testing.assert_close(mean.mean(0), torch.zeros(DIM).double(), atol=1e-5, rtol=0)
        torch.testing.assert_close(mean.var(0, unbiased=False), torch.ones(DIM).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(head(features[:1]).mean, head(features).mean[:1], atol=1e-5, rtol=0)


def test_standardised_means_of_a_training_batch() -> None:
    head = PosteriorHead(6, DIM)
    mean = head(torch.randn(64, 6) * 4 + 2).mean
    torch.testing.assert_close(mean.mean(0), torch.zeros(DIM), atol=1e-5, rtol=0)
    torch.testing.assert_close(mean.var(0, unbiased=False), torch.ones(DIM), atol=1e-3, rtol=0)
    assert torch.isfinite(head(torch.randn(1, 6)).mean).all(), "a batch of one has no statistics, and is not an error"
    assert PosteriorHead(6, DIM, standardize=False).norm is None


def test_max_stddev_is_respected() -> None:
    head = PosteriorHead(6, DIM, standardize=False, max_stddev=0.3)
    torch.testing.assert_close(head(torch.randn(4, 6)).stddev, torch.full((4, DIM), 0.15))  # a logistic's middle
    nn.init.normal_(head.raw_stddev.weight, std=100.0)
    stddev = head(torch.randn(200, 6)).stddev
    assert stddev.max() <= 0.3 and stddev.max() > 0.29
    assert stddev.min() >= 1e-4


def test_posterior_closed_forms() -> None:
    posterior = Posterior(torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 1.0]]))
    # KL(N(1, 4) ‖ N(0, 1)) = (1 + 4 − 1)/2 − ln 2; H = ln 2 + ln 1 + 2 · (1 + ln 2π)/2
    torch.testing.assert_close(posterior.kl_to_standard_normal(), torch.tensor([[2 - math.log(2), 0.0]]))
    torch.testing.assert_close(posterior.entropy(), torch.tensor([math.log(2) + 1 + math.log(2 * math.pi)]))
    z = Posterior(*(x.expand(20_000, 2) for x in (posterior.mean, posterior.stddev))).sample()
    torch.testing.assert_close(z.mean(0), torch.tensor([1.0, 0.0]), atol=0.06, rtol=0)
    torch.testing.assert_close(z.std(0), torch.tensor([2.0, 1.0]), atol=0.04, rtol=0)


def test_segments_are_windows_on_the_sentence() -> None:
    pooling = SegmentPooling(4, 3)
    outputs, lengths = torch.randn(2, 9, 4), torch.tensor([9, 5])
    with torch.no_grad():
        pooling.content.weight.copy_(torch.randn(3, 4))
    pooled = pooling(outputs, lengths).unflatten(1, (3, 4))
    for row, segment in ((0, 0), (0, 2), (1, 1)):  # by hand, word by word
        length = int(lengths[row])
        weights = [
            math.exp(
                float(pooling.content.weight[segment].detach() @ outputs[row, i])
                - ((i + 0.5) / length - (segment + 0.5) / 3) ** 2 / (2 * (1 / 3) ** 2)
            )
            for i in range(length)
        ]
        mean = sum(w * outputs[row, i] for i, w in enumerate(weights)) / sum(weights)
        torch.testing.assert_close(pooled[row, segment], mean, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        pooling.content.weight.zero_()
        pooling.log_width.fill_(math.log(0.02))  # narrow: each segment reads its own word
    torch.testing.assert_close(pooling(outputs, lengths)[0].unflatten(0, (3, 4)), outputs[0, [1, 4, 7]])


def test_segments_share_their_maps() -> None:
    head = PosteriorHead(3 * 4 + 2, 6, standardize=False, segments=3, context=2)
    features = torch.randn(2, 14)
    turned = torch.cat([features[:, :12].unflatten(1, (3, 4)).roll(1, 1).flatten(1), features[:, 12:]], dim=-1)
    with torch.no_grad():
        head.mean.context.weight.zero_()
    means = head(features).mean.unflatten(1, (3, 2))
    torch.testing.assert_close(head(turned).mean.unflatten(1, (3, 2)), means.roll(1, 1))
    with torch.no_grad():
        head.mean.context.weight[4].fill_(1.0)  # the context reaches a coordinate of any segment
    told = head(features).mean - means.flatten(1)
    torch.testing.assert_close(told[:, 4], features[:, 12:].sum(-1))
    assert told[:, [0, 1, 2, 3, 5]].abs().max() < 1e-6


def test_layers_and_segments() -> None:
    flat = torch.arange(10.0)[None]
    parts = in_segments(flat, (4, 6), 2)
    assert parts.tolist() == [[[0, 1, 4, 5, 6], [2, 3, 7, 8, 9]]]
    assert torch.equal(in_layers(parts, (4, 6)), flat)


def test_attention_to_segments_by_hand() -> None:
    attention = SegmentAttention((2, 2), 2, 7, 6, num_heads=1)
    z, states = torch.randn(1, 5), torch.randn(1, 3, 7)
    found = attention(states, *attention.entries(z))
    told = F.silu(attention.coordinates(z[0, [[0, 2], [1, 3]]]) + attention.place)  # the m-th of each layer
    weights = (attention.query(states[0]) @ attention.key(told).t() / 64**0.5).softmax(-1)
    torch.testing.assert_close(found[0], attention.out(weights @ attention.value(told)), atol=1e-5, rtol=1e-4)
    other = z.clone()
    other[0, 4] = 9.0  # a context behind the segments is not looked up
    assert torch.equal(attention(states, *attention.entries(other)), found)


def test_a_skip_hears_the_latent_without_the_recurrence() -> None:
    decoder = RecurrentDecoder("gru", VOCABULARY, 6, 7, DIM, skip=True)
    with torch.no_grad():
        decoder.project.weight[:, :7] = 0  # deaf to the recurrent state
    inputs, z = torch.randint(VOCABULARY, (1, 4)).expand(2, -1), torch.randn(2, DIM)
    hidden = decoder.hidden(inputs, z)
    expected = z @ decoder.project.weight[:, 7:].t() + decoder.project.bias
    torch.testing.assert_close(hidden, expected[:, None].expand(-1, 4, -1))


@pytest.mark.parametrize("rate", [0.1, 0.5, 1e-9, 1 - 1e-9])
def test_dropout_keeps_the_mean_and_drops_at_its_rate(rate: float) -> None:
    layer, x = Dropout(rate), torch.ones(1000, 501, requires_grad=True)
    torch.manual_seed(3)
    y = layer(x)
    dropped = float((y == 0).float().mean())
    assert dropped == pytest.approx(rate, abs=4 * (rate * (1 - rate) / x.numel()) ** 0.5 + 2**-15)
    if rate < 0.9:
        assert float(y.detach().mean()) == pytest.approx(1, abs=0.01)
        assert y.detach().unique().tolist() == pytest.approx([0, 1 / (1 - rate)][rate < 1e-6 :], rel=1e-4)
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], y.detach()), "what is dropped has no gradient"
    torch.manual_seed(3)
    assert torch.equal(layer(x), y) and torch.equal(layer.eval()(x), x)
    if rate == 0.5:  # neighbours are independent
        both = ((y[:, 1:] == 0) & (y[:, :-1] == 0)).float().mean()
        assert float(both) == pytest.approx(0.25, abs=0.005)
