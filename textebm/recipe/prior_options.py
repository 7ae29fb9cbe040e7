"""The section of a recipe that decides what the prior of the latent is and how it is learned and sampled."""

from __future__ import annotations

from typing import Literal

from textebm.recipe.model_options import Part, implementation, option


class Prior(Part):
    kind: Literal[
        "gaussian", "gaussian_mixture", "energy", "diffusion_energy", "joint_energy", "hierarchical_diffusion_energy"
    ] = option(
        "diffusion_energy",
        "The prior of the latent: a VAE's N(0, I), a mixture (GM-VAE), an energy of one level (SVEBM), a diffusion of "
        "energies (LDEBM), a layered energy (joint-EBM), a diffusion of layered energies.",
        "to compare published systems; another kind takes prior.num_levels and prior.steps back to their defaults.",
    )
    transport: Literal["identity", "ladder"] | None = option(
        None,
        "The map from noise to latents; null is ladder under joint_energy and hierarchical_diffusion_energy, else "
        "identity.",
        "a ladder under another prior (it needs latent.layers), or layered energies without one.",
    )
    learning: Literal["score_matching", "recovery"] = option(
        "score_matching",
        "How the energy is learned: its gradient regressed on known noise, without chains; or the contrast of data and "
        "samples with a chain a step, as published.",
        "recovery to reproduce published models, with prior.acceptance=0.8.",
    )
    num_levels: int | None = option(
        None,
        "Levels of noise; null is 16 (diffusion_energy) or 8 (hierarchical_diffusion_energy). Other kinds have one.",
        "8 to 10 are as good for sentences and faster; the published models have 6.",
        ge=1,
    )
    schedule: Literal["log_snr", "published"] = option(
        "log_snr",
        "Where the levels lie: equally spaced in log signal-to-noise, or as in Gao et al. 2021 and LDEBM.",
        "to reproduce published models.",
    )
    reference: Literal["stationary", "flat"] = option(
        "stationary",
        "What a zero energy means: N(0, I) at every level, or (published) a flat density below the top level.",
        "to reproduce published models.",
    )
    log_snr_max: float = option(
        5.0, "log_snr: the first noisy level's log signal-to-noise.", "samples are blurred (raise it)."
    )
    log_snr_min: float = option(
        -4.0, "log_snr: the top level's log signal-to-noise.", "samples lack variety (lower it)."
    )
    sampler: Literal["semi_implicit", "langevin"] = option(
        "semi_implicit",
        "The chain at each level: pCN-Langevin, exact on the Gaussian; or plain Langevin, as published.",
        "to reproduce published models, with prior.step_size and more prior.steps.",
    )
    steps: int | None = option(
        None,
        "Chain steps a level; null is 2 (diffusions) or 40 (other kinds).",
        "the report's sampler section shows a change with more steps.",
        ge=1,
    )
    step_size: float = option(
        0.1, "langevin: the step in units of a level's sigma.", "prior.sampler is langevin.", gt=0
    )
    start: Literal["tweedie", "reference"] = option(
        "tweedie",
        "Where a level's chain begins: at the denoised mean, or (published) at a draw of the Gaussian.",
        "to reproduce published models.",
    )
    acceptance: float = option(
        0.9,
        "semi_implicit: the Metropolis acceptance that the step size is adapted to.",
        "0.8 with prior.learning=recovery; lower is faster mixing with larger errors.",
        gt=0,
        lt=1,
    )
    metropolis: bool | None = option(
        None,
        "Reject proposals (Metropolis-Hastings); null is true for score_matching and false for recovery, which "
        "diverges with it.",
        "set it to false to see what rejection is worth.",
    )
    chain_precision: Literal["float32", "bf16"] = option(
        "bf16",
        "Precision of a chain's matrix products; bf16 only where the hardware has it.",
        "to rule out rounding as a reason.",
    )
    implementation: str | None = implementation("The energy network of your own")
    hidden_size: int = option(256, "Dimension of the energy network.", "grow it for large corpora, up to 384.", ge=1)
    num_blocks: int = option(3, "Residual blocks of the energy network.", "2 are enough for simple text.", ge=1)
    spectral_norm: bool = option(
        False, "Bound the energy network's slope by spectral normalisation.", "recovery diverges; it costs accuracy."
    )
    potential_penalty: float = option(
        1e-3, "Weight of F², which keeps the energy near 0.", "training stops because |F| ran away (raise it).", ge=0
    )
    encoder_gradient: Literal["full", "positive_only"] = option(
        "full",
        "What the encoder learns from a recovery prior in joint training: the whole gradient of the bound, or only its "
        "positive phase, as published code has it.",
        "to reproduce published models.",
    )
    components: int = option(20, "Components of the mixture.", "prior.kind is gaussian_mixture.", ge=1)
    symbol_levels: Literal["all", "first"] = option(
        "all",
        "Levels at which symbols steer; the published model steers at the first one only.",
        "to reproduce published models; control is then far weaker.",
    )
    strength: float = option(
        2.0,
        "Default strength of symbols in generation; 1 is Bayes' rule.",
        "control is weak (raise it, 3 to 6) or samples repeat themselves (lower it).",
        ge=0,
    )
    like_strength: float = option(
        2.0,
        "Default strength of likeness to examples; 1 is Bayes' rule.",
        "objective.contrastive_weight is above 0 and samples are too unlike their examples.",
        ge=0,
    )
