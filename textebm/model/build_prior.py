"""The prior's part of the recipe -> components (`textebm.model.build` has the others)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from textebm.model import own
from textebm.networks.energy import EnergyNet, LayeredEnergyNet
from textebm.prior.explicit import GaussianMixture, StandardNormal
from textebm.prior.noise import NoiseSchedule, log_snr_ladder, published_ladder
from textebm.prior.prior import ChainSettings, LatentPrior
from textebm.prior.transport import Identity, Ladder, Transport
from textebm.recipe.schema import LAYERS, Recipe

# a prior of each kind where the recipe leaves it open
LEVELS = {
    "gaussian": 1,
    "gaussian_mixture": 1,
    "energy": 1,
    "diffusion_energy": 16,
    "joint_energy": 1,
    "hierarchical_diffusion_energy": 8,
}
STEPS = {
    "gaussian": 40,
    "gaussian_mixture": 40,
    "energy": 40,
    "diffusion_energy": 2,
    "joint_energy": 40,
    "hierarchical_diffusion_energy": 2,
}
VIEW_SIZE = 32  # dimension of contrastive views


def build_prior(recipe: Recipe, layers: Sequence[int], sizes: Mapping[str, int], context_size: int) -> LatentPrior:
    """layers: the latent's dimensions, top first; sizes: the classes of each symbol head."""
    options, dim = recipe.prior, sum(layers)
    view_size = VIEW_SIZE if recipe.objective.contrastive_weight > 0 else 0
    levels = options.num_levels or LEVELS[options.kind]
    ladder = (
        published_ladder(levels)
        if options.schedule == "published"
        else log_snr_ladder(levels, options.log_snr_max, options.log_snr_min)
    )
    explicit: StandardNormal | GaussianMixture | None = None
    if options.kind == "gaussian":
        explicit = StandardNormal()
    elif options.kind == "gaussian_mixture":
        explicit = GaussianMixture(options.components, dim)
    energy: EnergyNet | LayeredEnergyNet
    if name := options.implementation:
        numbers = {
            "dim": dim,
            "num_levels": levels,
            "head_sizes": sizes,
            "hidden_size": options.hidden_size,
            "num_blocks": options.num_blocks,
            "view_size": view_size,
            "context_size": context_size,
        }
        energy = own.own_network("prior.implementation", name, numbers, own.ENERGY)
    elif options.kind in LAYERS:
        places = {head.name: len(layers) - head.layer for head in recipe.heads if head.layer is not None}
        energy = LayeredEnergyNet(
            layers,
            levels,
            sizes,
            head_layers=places,
            hidden_size=options.hidden_size,
            num_blocks=options.num_blocks,
            spectral_norm=options.spectral_norm,
            view_size=view_size,
            context_size=context_size,
        )
    else:
        energy = EnergyNet(
            dim,
            levels,
            sizes,
            hidden_size=options.hidden_size,
            num_blocks=options.num_blocks,
            spectral_norm=options.spectral_norm,
            view_size=view_size,
            context_size=context_size,
        )
    chosen = options.transport or ("ladder" if options.kind in LAYERS else "identity")
    transport: Transport = Ladder(layers, options.hidden_size) if chosen == "ladder" else Identity()
    chain = ChainSettings(
        options.sampler,
        options.steps or STEPS[options.kind],
        options.step_size,
        options.acceptance,
        options.learning == "score_matching" if options.metropolis is None else options.metropolis,
        options.start,
        {"float32": torch.float32, "bf16": torch.bfloat16}[options.chain_precision],
    )
    return LatentPrior(
        dim,
        energy,
        NoiseSchedule(ladder, options.reference),
        transport=transport,
        layers=layers,
        explicit=explicit,
        chain=chain,
        symbol_levels=options.symbol_levels,
        strength=options.strength,
        potential_penalty=options.potential_penalty,
        encoder_gradient=options.encoder_gradient,
        like_strength=options.like_strength,
    )
