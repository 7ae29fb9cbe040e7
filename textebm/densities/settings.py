"""The priors of the bench as plain numbers: one setting a system, and the published one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal, get_args, get_type_hints

import torch
from torch import Tensor

from textebm.densities.targets import Mixture, Target
from textebm.errors import TextEBMError, did_you_mean
from textebm.networks.energy import EnergyNet, LayeredEnergyNet
from textebm.prior.explicit import GaussianMixture, StandardNormal
from textebm.prior.noise import NoiseSchedule, log_snr_ladder, published_ladder
from textebm.prior.prior import ChainSettings, LatentPrior
from textebm.prior.transport import Identity, Ladder

EXPLICIT: dict[str, Callable[[int], StandardNormal | GaussianMixture]] = {
    "normal": lambda dim: StandardNormal(),
    "mixture": lambda dim: GaussianMixture(16, dim),
}


@dataclass(frozen=True)
class Setting:
    """A prior, how it learns and how it is sampled; names and meaning as in the recipe's section `prior`. *density* is
    a closed form, a network, a network a layer behind a ladder, or the target's own potential."""

    density: Literal["normal", "mixture", "network", "layers", "exact"] = "network"
    learning: Literal["score_matching", "recovery"] = "score_matching"
    num_levels: int = 16
    schedule: Literal["log_snr", "published"] = "log_snr"
    reference: Literal["stationary", "flat"] = "stationary"
    log_snr_max: float = 5.0
    log_snr_min: float = -4.0
    sampler: Literal["semi_implicit", "langevin"] = "semi_implicit"
    steps: int = 2
    step_size: float = 0.1
    start: Literal["tweedie", "reference"] = "tweedie"
    acceptance: float = 0.9
    metropolis: bool = True
    hidden_size: int = 128
    num_blocks: int = 2
    classes: int = 1  # of the one symbol whose logsumexp is F
    input_scale: float = 1.0  # of the network's first weights
    spectral_norm: bool = False
    potential_penalty: float = 1e-3
    learning_rate: float = 3e-3
    standardize: bool = False  # the prior's coordinates have unit variance, as latents of text have


# Recovery does not reject (prior.metropolis in the recipe). Published: Yu et al. 2022, six levels of 50 Langevin steps.
SETTINGS: dict[str, Setting] = {
    "gaussian": Setting(density="normal", num_levels=1),
    "gaussian_mixture": Setting(density="mixture", num_levels=1),
    "energy": Setting(num_levels=1, steps=40),
    "energy-recovery": Setting(
        num_levels=1, steps=40, learning="recovery", metropolis=False, acceptance=0.8, learning_rate=1e-3
    ),
    "diffusion_energy": Setting(),
    "diffusion_energy-recovery": Setting(
        num_levels=6, steps=7, learning="recovery", metropolis=False, acceptance=0.8, log_snr_max=4.0, log_snr_min=-3.0
    ),
    "diffusion_energy-published": Setting(
        num_levels=6,
        steps=50,
        learning="recovery",
        schedule="published",
        reference="flat",
        sampler="langevin",
        step_size=2e-3**0.5,
        start="reference",
        metropolis=False,
        learning_rate=1e-3,
    ),
    # The network of the release's own synthetic experiments: one hidden layer of 200, 8 classes, 100 Langevin steps.
    "energy-release": Setting(
        num_levels=1,
        steps=100,
        learning="recovery",
        sampler="langevin",
        step_size=0.4,
        start="reference",
        metropolis=False,
        hidden_size=200,
        num_blocks=0,
        classes=8,
        potential_penalty=0.0,
        learning_rate=1e-4,
    ),
    "joint_energy": Setting(density="layers", num_levels=1, steps=40),
    "hierarchical_diffusion_energy": Setting(density="layers", num_levels=8, steps=5),
    "exact": Setting(density="exact"),
}


def setting_of(name: str, changes: Mapping[str, str] | None = None) -> Setting:
    """The setting of that name with some options changed, values as text. Raises TextEBMError."""
    if name not in SETTINGS:
        raise TextEBMError(f"unknown prior {name!r}{did_you_mean(name, SETTINGS)}")
    hints = get_type_hints(Setting)
    options = {field.name: hints[field.name] for field in fields(Setting) if field.name not in ("density", "learning")}
    read: dict[str, object] = {}
    for option, text in (changes or {}).items():
        if option not in options:
            raise TextEBMError(f"unknown option {option!r}{did_you_mean(option, options)}")
        read[option] = _read(option, text, options[option])
    setting = replace(SETTINGS[name], **read)  # type: ignore[arg-type]
    for option, least in {"num_levels": 1, "steps": 1, "hidden_size": 1, "classes": 1, "num_blocks": 0}.items():
        if getattr(setting, option) < least:
            raise TextEBMError(f"{option} must be at least {least}, got {getattr(setting, option)}")
    if not 0 < setting.acceptance < 1 or min(setting.step_size, setting.learning_rate, setting.input_scale) <= 0:
        raise TextEBMError(
            "acceptance must lie between 0 and 1; step_size, learning_rate and input_scale must be greater than 0"
        )
    if setting.schedule == "log_snr" and setting.num_levels > 2 and setting.log_snr_max <= setting.log_snr_min:
        raise TextEBMError("log_snr_max must be greater than log_snr_min")
    return setting


def _read(option: str, text: str, kind: type) -> object:
    choices = [str(choice) for choice in get_args(kind)] or (["true", "false"] if kind is bool else [])
    if choices:
        if text not in choices:
            raise TextEBMError(f"{option}: unknown value {text!r}{did_you_mean(text, choices)}")
        return text == "true" if kind is bool else text
    try:
        return kind(text)
    except ValueError:
        words = "a whole number" if kind is int else "a number"
        raise TextEBMError(f"{option}: expected {words}, got {text!r}") from None


class ExactNet(EnergyNet):
    """The potential that a perfect network would have: log p_t(u) − log N(u; 0, I), up to a constant. What is then
    wrong with samples is the sampler's fault."""

    def __init__(self, target: Mixture, schedule: NoiseSchedule, smoothing: float):
        super().__init__(target.dim, schedule.num_levels, {}, hidden_size=1, num_blocks=1)
        self.target, self.alpha_bar, self.smoothing = target, schedule.alpha_bar, smoothing

    def logits_and_view(
        self, u: Tensor, level: Tensor, context: Tensor | None = None
    ) -> tuple[list[Tensor], Tensor | None]:
        log_p = self.target.diffused_log_prob(u, self.alpha_bar[level], self.smoothing)
        return [(log_p + 0.5 * u.square().sum(-1))[:, None]], None


def build_prior(setting: Setting, target: Target, *, smoothing: float, seed: int = 0) -> LatentPrior:
    """A fresh prior for the target. Raises TextEBMError where the setting and the target do not fit."""
    ladder = (
        published_ladder(setting.num_levels)
        if setting.schedule == "published"
        else log_snr_ladder(setting.num_levels, setting.log_snr_max, setting.log_snr_min)
    )
    schedule = NoiseSchedule(ladder, setting.reference)
    layers = (target.dim // 2, target.dim - target.dim // 2)
    layered = setting.density == "layers"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        energy: EnergyNet | LayeredEnergyNet
        if setting.density == "exact":
            if not isinstance(target, Mixture) or setting.reference != "stationary" or setting.standardize:
                raise TextEBMError(
                    "the prior 'exact' knows the diffused density of Gaussian mixtures alone, with "
                    "reference=stationary, standardize=false: choose --target gaussians, mixture8, mixture40 or "
                    "release-gaussians"
                )
            energy = ExactNet(target, schedule, smoothing)
        elif layered:
            energy = LayeredEnergyNet(
                layers,
                setting.num_levels,
                {},
                hidden_size=setting.hidden_size,
                num_blocks=setting.num_blocks,
                spectral_norm=setting.spectral_norm,
            )
        else:
            energy = EnergyNet(
                target.dim,
                setting.num_levels,
                {"code": setting.classes} if setting.classes > 1 else {},
                input_scale=setting.input_scale,
                hidden_size=setting.hidden_size,
                num_blocks=setting.num_blocks,
                spectral_norm=setting.spectral_norm,
            )
        explicit = EXPLICIT[setting.density](target.dim) if setting.density in EXPLICIT else None
        transport = Ladder(layers, setting.hidden_size) if layered else Identity()
    chain = ChainSettings(
        setting.sampler, setting.steps, setting.step_size, setting.acceptance, setting.metropolis, setting.start
    )
    return LatentPrior(
        target.dim,
        energy,
        schedule,
        transport=transport,
        layers=layers if layered else (),
        explicit=explicit,
        chain=chain,
        potential_penalty=setting.potential_penalty,
    )
