"""What the benchmark runs on: the Penn Treebank recipe's model, made-up sentences of its lengths, and the yardstick."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from textebm.bench.reference import PlainModel, Published
from textebm.model.build import build_heads, build_model
from textebm.model.latent_text_model import LatentTextModel
from textebm.networks.decoder import RecurrentDecoder
from textebm.networks.energy import EnergyNet
from textebm.prior.noise import NoiseSchedule, published_ladder
from textebm.prior.prior import ChainSettings, LatentPrior
from textebm.recipe.read import load_recipe
from textebm.recipe.schema import Recipe
from textebm.text.batches import TokenBatch, collate
from textebm.text.tokenizer import TokenStore, train_word


@dataclass(frozen=True)
class Sizes:
    """What is measured. *published* also sets the text networks of both sides, so that they do the same work."""

    published: Published = Published()
    latents: int = 100
    sentences: int = 10_000
    reference_sentences: int = 1024
    corpus: int = 42_068  # training sentences of the Penn Treebank
    epoch_steps: int = 329
    repeats: int = 5
    prior_batch: int = 256
    energy_width: int | None = None  # None: the recipe's
    report_sentences: int = 1000


def lengths(n: int, longest: int, seed: int = 0) -> NDArray[np.int64]:
    """Words of n sentences, distributed as the Penn Treebank's: a gamma of mean 21 and standard deviation 10."""
    drawn = np.random.default_rng(seed).gamma(4.4, 21 / 4.4 * longest / 40, n)
    return np.clip(drawn.round().astype(np.int64), 1, longest)


@dataclass
class Setting:
    """Both sides, on one device. *store*: the corpus as token ids; *levels*: one published ladder for both."""

    sizes: Sizes
    device: torch.device
    recipe: Recipe
    model: LatentTextModel
    plain: PlainModel
    store: TokenStore

    def batch(self, seed: int = 0) -> TokenBatch:
        """A batch of similar lengths, as training makes them, the same for both sides."""
        size = self.sizes.published.batch
        order = np.argsort(self.store.lengths, kind="stable")
        middle = int(len(order) * (0.35 + 0.1 * (seed % 4)))
        tokenizer = self.model.tokenizer
        ids = {"pad": tokenizer.pad_token_id, "bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id}
        return collate(self.store, order[middle : middle + size], {}, **ids).to(self.device)

    def published_prior(self) -> LatentPrior:
        """Our prior at the published settings: six levels, 50 Langevin steps, 12 layers of 200, spectral norm."""
        size = self.sizes.published
        net = EnergyNet(
            size.dim,
            size.levels,
            {"code": size.classes},
            hidden_size=size.width,
            num_blocks=max(1, size.blocks // 2),
            spectral_norm=True,  # a block of ours has two layers
        )
        # step² = 2e−3 σ², as the yardstick's
        chain = ChainSettings(
            "langevin", size.chain_steps, math.sqrt(2e-3), start="reference", dtype=self.model.prior.chain.dtype
        )
        prior = LatentPrior(size.dim, net, NoiseSchedule(published_ladder(size.levels), "flat"), chain=chain)
        return _awake(prior).to(self.device)


def build_setting(sizes: Sizes, device: torch.device) -> Setting:
    """Fresh models from seed 0."""
    torch.manual_seed(0)
    size = sizes.published
    recipe = load_recipe("ptb", _of(sizes))
    words = [f"w{number}" for number in range(size.vocabulary - 4)]
    tokenizer = train_word([" ".join(words)] * 2, size.vocabulary)
    model = build_model(recipe, tokenizer, build_heads(recipe, {}))
    _awake(model.prior)
    plain = PlainModel(replace(size, vocabulary=len(tokenizer)))
    for decoder in (model.decoder, plain):
        _ending(decoder, size, tokenizer.eos_token_id)
    drawn = lengths(sizes.corpus, size.max_tokens)
    offsets = np.concatenate([[0], drawn.cumsum()])
    ids = np.random.default_rng(0).zipf(1.2, int(offsets[-1])) % (len(tokenizer) - 4) + 4
    store = TokenStore(ids.astype(np.int32), offsets)
    return Setting(sizes, device, recipe, model.to(device), plain.to(device), store)


def _of(sizes: Sizes) -> list[str]:
    size = sizes.published
    width = [f"prior.hidden_size={sizes.energy_width}"] if sizes.energy_width else []
    return [
        f"tokenizer.vocabulary_size={size.vocabulary}",
        f"data.max_tokens={size.max_tokens}",
        *(f"{side}.embedding_size={size.embedding}" for side in ("encoder", "decoder")),
        *(f"{side}.hidden_size={size.hidden}" for side in ("encoder", "decoder")),
        f"latent.dim={size.dim}",
        "latent.segments=1",
        f"heads.0.classes={size.classes}",
        f"training.batch_size={size.batch}",
        f"training.prior_batch_size={sizes.prior_batch}",
        *width,
    ]


def _awake(prior: Any) -> Any:
    """A fresh energy net is zero; a small output layer makes its gradient work as a trained one's does."""
    for net in prior.modules():
        if isinstance(net, EnergyNet):
            nn.init.normal_(net.outputs.weight, std=0.05)
    return prior


@torch.no_grad()
def _ending(decoder: Any, size: Published, eos: int) -> None:
    """Weights with which sentences end as the corpus's do: an untrained decoder would go on to the longest.

    One unit of the GRU's state begins at tanh(2 z_0) and decays towards −1 by a constant update gate; when it falls
    below −.9, the logit of <eos> rises above all others. The mean is about 20 words, the standard deviation 10.
    """
    if isinstance(decoder, RecurrentDecoder):
        recurrent: Any = decoder.layers[0]
        core, initial = recurrent.core, decoder.initial
        vectors, project, bias = decoder.embedding.weight, decoder.project, decoder.output_bias
    else:
        core, initial, vectors, project, bias = (
            decoder.decoder,
            decoder.initial,
            decoder.outputs.weight,
            decoder.project,
            decoder.outputs.bias,
        )
    width, unit, decay = size.hidden, 0, 0.9 ** (40 / size.max_tokens)
    initial.weight[unit], initial.bias[unit] = 0, 0
    initial.weight[unit, 0] = 2.0
    for weight, offset in ((core.weight_ih_l0, core.bias_ih_l0), (core.weight_hh_l0, core.bias_hh_l0)):
        for gate in range(3):
            weight[gate * width + unit], offset[gate * width + unit] = 0, 0
    core.bias_ih_l0[width + unit] = math.log(decay / (1 - decay))  # the update gate, constant
    core.bias_ih_l0[2 * width + unit] = -20.0  # the candidate, −1
    some = slice(0, max(1, size.embedding // 4))
    project.weight[some], project.bias[some] = 0, 0
    project.weight[some, unit] = -1.0
    vectors[:, some] = 0
    vectors[eos] = 0
    vectors[eos, some] = 40.0 / (some.stop - some.start)
    bias[eos] = -40 * 0.9
