"""Steered generation: latents drawn from the prior under what is asked, and the sentences they are decoded to."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from textebm.errors import TextEBMError
from textebm.model.decoding import DecodingOptions, decode_tokens
from textebm.model.latent_text_model import LatentTextModel
from textebm.networks.hardware import rows_at_once
from textebm.notebook import track
from textebm.prior.condition import Condition
from textebm.prior.sampling import LatentSample, perturb, sample
from textebm.text.tokenizer import TokenStore
from textebm.text.tokenizer import decode as decode_ids
from textebm.text.words import share_changed
from textebm.use.calibration import CONFIDENCE, Curves, calibrated, read_back
from textebm.use.contexts import Contexts, contexts_of_texts, named_contexts, parse_contexts, read_contexts
from textebm.use.reading import check_width, encode
from textebm.use.steering import Steering, condition_of, one_class_each
from textebm.use.wording import BLANK, CANDIDATES, WRITTEN, Wanted, choose, containing, fill, prefix_losses, word_tokens

logger = logging.getLogger(__name__)


def generate(
    model: LatentTextModel,
    n: int,
    steering: Steering,
    decoding: DecodingOptions,
    *,
    seed: int = 0,
    steps_factor: int = 1,
    resample_from_layer: int | None = None,
    latents: Tensor | None = None,
    confidence: float | None = None,
    wanted: Wanted = Wanted(),  # noqa: B008 (frozen)
    curves: Curves | None = None,
) -> list[str]:
    """n new sentences; see `textebm.TextEBM.generate`. curves: what pilot draws told before, by request; added to."""
    wanted.check()
    words = [word_tokens(model, f" {word}", "containing", inner=True) for word in wanted.containing]
    if wanted.prompt is not None:
        decoding = replace(decoding, prefix=word_tokens(model, wanted.prompt, "the prompt"))
    if words and decoding.decoding == "beam":
        raise TextEBMError("containing goes with decoding greedy or sample")
    fixed = resample_from_layer is not None or latents is not None
    if fixed and (wanted != Wanted(without=wanted.without) or steering.strength == "auto"):
        raise TextEBMError(
            "a prompt, words to contain, a length and strength='auto' go with latents drawn for them; leave "
            "resample_from_layer and latents out"
        )
    if confidence is not None and (not steering.symbols or latents is not None or not 0 < confidence < 1):
        raise TextEBMError(
            f"confidence must lie between 0 and 1 and goes with symbols, without latents; got {confidence}"
        )
    if confidence is not None and resample_from_layer is not None:  # sentences that are drawn again share the layers
        latents = sample_latents(model, min(n, 1), steering.rows(range(min(n, 1))), seed=seed)

    def write(asked: Steering, number: int, seed: int) -> list[str]:
        asked = one_class_each(model, asked, number, seed)
        if words:
            u, vectors = candidate_latents(model, number, asked, WRITTEN, seed=seed, steps_factor=steps_factor)
            texts = containing(model, u, vectors, words, decoding, seed=seed)
            context = read_contexts(model, asked.contexts, number)
            return texts if context is None else [*context.turns(texts)]
        if decoding.prefix:
            u = prompted_latents(model, number, asked, decoding.prefix, seed=seed, steps_factor=steps_factor)
            return decode(model, u, decoding, seed=seed, contexts=asked.contexts)
        u = sample_latents(
            model,
            number,
            asked,
            seed=seed,
            steps_factor=steps_factor,
            resample_from_layer=resample_from_layer,
            latents=latents,
        )
        return decode(model, u, decoding, seed=seed, contexts=asked.contexts)

    fits = None if wanted in (Wanted(), Wanted(wanted.prompt)) else lambda text: not wanted.unmet(text)
    if steering.strength == "auto":
        share, kept = CONFIDENCE if confidence is None else confidence, curves or Curves()
        texts = calibrated(model, n, steering, write, share, kept, (decoding, steps_factor, wanted), seed, fits)
    elif confidence is None and fits is None:
        texts = write(steering, n, seed)
    else:
        texts = read_back(model, n, steering, write, [confidence or 0.0] * n, seed, fits)
    if fits is not None and (failed := sum(not fits(text) for text in texts)):
        logger.warning("%d of %d sentences are not what was asked: %s", failed, n, _problems(wanted, texts))
    return texts


def _problems(wanted: Wanted, texts: Sequence[str]) -> str:
    counts = Counter(problem for text in texts for problem in wanted.unmet(text))
    return ", ".join(f"{problem} ({count})" for problem, count in counts.most_common(5))


def candidate_latents(
    model: LatentTextModel, n: int, steering: Steering, count: int, *, seed: int, steps_factor: int = 1
) -> tuple[Tensor, Tensor | None]:
    """*count* draws of the tilted prior for each of n rows, (n · count, d) on the CPU, and their context vectors."""
    rows = [i for i in range(n) for _ in range(count)]
    u = sample_latents(model, len(rows), steering.rows(rows), seed=seed, steps_factor=steps_factor)
    context = read_contexts(model, steering.contexts, n)
    return u, None if context is None else context.vectors[rows]


def infill(
    model: LatentTextModel, text: str, n: int, steering: Steering, decoding: DecodingOptions, *, seed: int = 0
) -> list[str]:
    """n ways to fill the blanks of *text*; see `textebm.TextEBM.infill`."""
    told = text.split(BLANK)
    if len(told) < 2:
        raise TextEBMError(f"infill: the text has no blank; write {BLANK} where words are wanted")
    if decoding.decoding == "beam":
        raise TextEBMError("infill goes with decoding greedy or sample")
    pieces = [
        word_tokens(model, piece.rstrip(), "the text", inner=number > 0) if piece.strip() else ()
        for number, piece in enumerate(told)
    ]
    u, vectors = candidate_latents(model, n, steering, WRITTEN, seed=seed)
    texts = fill(model, u, vectors, pieces, decoding, seed=seed)
    context = read_contexts(model, steering.contexts, n)
    return texts if context is None else [*context.turns(texts)]


def respond(
    model: LatentTextModel,
    contexts: Contexts,
    n: int,
    steering: Steering,
    decoding: DecodingOptions,
    *,
    confidence: float | None = None,
    seed: int = 0,
) -> list[list[str]]:
    """n answers to each history; see `textebm.TextEBM.respond`."""
    if n < 0:
        raise TextEBMError(f"expected n >= 0, got {n}")
    if not model.reads_context:
        read_contexts(model, contexts, 0)  # says why not
    histories = parse_contexts(contexts)
    asked = steering.repeated(n, [history for history in histories for _ in range(n)])
    texts = generate(model, n * len(histories), asked, decoding, confidence=confidence, seed=seed)
    return [texts[i * n : (i + 1) * n] for i in range(len(histories))]


@torch.no_grad()
def sample_latents(
    model: LatentTextModel,
    n: int,
    steering: Steering,
    *,
    seed: int = 0,
    steps_factor: int = 1,
    resample_from_layer: int | None = None,
    latents: Tensor | None = None,
    batch_size: int | None = None,
) -> Tensor:
    """(n, d) draws of the tilted prior, on the CPU; see `textebm.TextEBM.sample_latents`."""
    if n < 0 or steps_factor < 1:
        raise TextEBMError(f"expected n >= 0 and steps_factor >= 1, got n={n}, steps_factor={steps_factor}")
    if batch_size is not None and batch_size < 1:
        raise TextEBMError(f"batch_size must be at least 1, got {batch_size}")
    generator = torch.Generator(model.device).manual_seed(seed)
    condition, _ = condition_of(model, one_class_each(model, steering, n, seed), n)
    held = _held_layers(model, n, resample_from_layer, latents, condition, generator)
    pieces, rows = [torch.zeros(0, model.prior.dim)], batch_size or rows_at_once(model.device, 1024)
    with model.evaluating():
        for start in track(range(0, n, rows), "drawing latents"):
            stop = min(start + rows, n)
            drawn = sample(
                model.prior,
                stop - start,
                condition=condition.rows(slice(start, stop)),
                steps_factor=steps_factor,
                generator=generator,
                held=None if held is None else held[start:stop],
            )
            pieces.append(drawn.z.cpu())
    return torch.cat(pieces)


def _held_layers(
    model: LatentTextModel,
    n: int,
    layer: int | None,
    latents: Tensor | None,
    condition: Condition,
    generator: torch.Generator,
) -> Tensor | None:
    """The coordinates (n, k) above *layer* that stay; None where nothing does."""
    layers, dim = model.prior.layers, model.prior.dim
    if layer is None:
        if latents is not None:
            raise TextEBMError("latents have no effect here; they need resample_from_layer")
        return None
    if not 1 <= layer <= len(layers):
        raise TextEBMError(f"resample_from_layer must lie between 1 and {len(layers)} for this model, got {layer}")
    if latents is None:
        with model.evaluating():
            first = condition.rows(slice(1))
            latents = sample(model.prior, min(n, 1), condition=first, generator=generator).z
    if latents.ndim != 2 or latents.shape[1] != dim or len(latents) not in (min(n, 1), n):
        raise TextEBMError(f"expected latents of shape (1, {dim}) or ({n}, {dim}), got {tuple(latents.shape)}")
    return latents[:, : sum(layers[: len(layers) - layer])].to(model.device).expand(n, -1)


@torch.no_grad()
def prompted_latents(
    model: LatentTextModel, n: int, steering: Steering, prefix: Sequence[int], *, seed: int = 0, steps_factor: int = 1
) -> Tensor:
    """(n, d) draws of the tilted prior given that the sentence begins with *prefix*, p(u) p(prefix | u), on the CPU.

    Each is chosen among 32 draws with p(prefix | u) as its weight (sampling-importance resampling, Rubin 1987). Where
    hardly more than one of them counts, a warning gives the effective number.
    """
    u, context = candidate_latents(model, n, steering, CANDIDATES, seed=seed, steps_factor=steps_factor)
    likelihoods = []
    with model.evaluating():
        size = rows_at_once(model.device, 1024, gpu=1)
        for start in range(0, len(u), size):
            chosen = u[start : start + size].to(model.device)
            z = model.decoder_input(chosen, None if context is None else context[start : start + size])
            likelihoods.append(-prefix_losses(model, z, prefix).cpu())
    fits = torch.cat([torch.zeros(0), *likelihoods]).view(n, CANDIDATES)
    return u[torch.arange(n) * CANDIDATES + choose(fits, "the prompt", seed)[:, 0]] if n else u


def banned_tokens(model: LatentTextModel, words: Sequence[str]) -> tuple[int, ...]:
    """The token ids of those words that are one token; sentences with another are drawn again. An unknown word is
    none, except <unk> itself."""
    unk, banned = model.tokenizer.unk_token_id, list[int]()
    for word in words:
        ids = TokenStore.build([word], model.tokenizer, model.max_tokens)[0].tolist()
        if len(ids) == 1 and (ids[0] != unk or word == model.tokenizer.unk_token):
            banned.append(ids[0])
    return tuple(banned)


@dataclass(frozen=True)
class Twin:
    """Two sentences from the same noise under two requests; changed: the share of words that differ, 0 … 1."""

    a: str
    b: str
    changed: float


def compare(
    model: LatentTextModel, a: Steering, b: Steering, n: int, decoding: DecodingOptions, *, seed: int = 0
) -> list[Twin]:
    """n counterfactual twins; see `textebm.TextEBM.compare`."""
    pairs = zip(*(generate(model, n, each, decoding, seed=seed) for each in (a, b)), strict=True)
    return [Twin(one, two, share_changed(one, two)) for one, two in pairs]


@torch.no_grad()
def sample_path(model: LatentTextModel, n: int, steering: Steering, *, seed: int = 0) -> LatentSample:
    """n draws with their way from noise: ``.path`` (levels, n, d), the noisiest first and ``.z`` last."""
    condition, _ = condition_of(model, one_class_each(model, steering, n, seed), n)
    generator = torch.Generator(model.device).manual_seed(seed)
    with model.evaluating():
        return sample(model.prior, n, condition=condition, generator=generator, keep_path=True)


def decode(
    model: LatentTextModel,
    latents: Tensor,
    decoding: DecodingOptions,
    *,
    seed: int = 0,
    batch_size: int | None = None,
    contexts: Contexts | None = None,
) -> list[str]:
    """Sentences of the latents (n, d); see `textebm.TextEBM.decode`."""
    check_width(model, latents)
    context = read_contexts(model, contexts, len(latents))
    vectors = None if context is None else context.vectors
    texts = decode_with(model, latents, vectors, decoding, seed=seed, batch_size=batch_size)
    return texts if context is None else context.turns(texts)


@torch.no_grad()
def decode_with(
    model: LatentTextModel,
    latents: Tensor,
    context: Tensor | None,
    decoding: DecodingOptions,
    *,
    seed: int = 0,
    batch_size: int | None = None,
) -> list[str]:
    """Sentences of latents (n, d) with context vectors (n, C)."""
    decoding.check()
    if batch_size is not None and batch_size < 1:
        raise TextEBMError(f"batch_size must be at least 1, got {batch_size}")
    if not bool(torch.isfinite(latents).all()):
        raise TextEBMError("the latents hold numbers that are not finite (NaN or infinity); nothing can be decoded")
    with model.evaluating():
        z = model.decoder_input(latents.to(model.device), context)
        generator = torch.Generator(model.device).manual_seed(seed)
        rows = batch_size or rows_at_once(model.device, 512)
        ids = decode_tokens(model.decoder, z, model.tokenizer, decoding, generator, batch_size=rows)
    return [decode_ids(model.tokenizer, row) for row in ids]


def reconstruct(
    model: LatentTextModel,
    texts: Sequence[str],
    decoding: DecodingOptions,
    *,
    seed: int = 0,
    refine: int = 0,
    contexts: Contexts | None = None,
    batch_size: int | None = None,
) -> list[str]:
    """The sentence that the posterior mean of each text is decoded to."""
    contexts = named_contexts(model, texts, contexts)
    mean = encode(model, texts, batch_size=batch_size, refine=refine, seed=seed, contexts=contexts).mean
    return decode(model, mean, decoding, seed=seed, batch_size=batch_size, contexts=contexts)


@torch.no_grad()
def interpolate(
    model: LatentTextModel,
    a: str,
    b: str,
    steps: int,
    decoding: DecodingOptions,
    *,
    level: int | None = None,
    seed: int = 0,
    contexts: Contexts | None = None,
) -> list[str]:
    """*steps* sentences from a to b; see `textebm.TextEBM.interpolate`."""
    if steps < 2:
        raise TextEBMError(f"interpolate needs at least 2 steps, its two ends, got {steps}")
    share = torch.linspace(0, 1, steps)
    context = contexts_of_texts(model, [a, b], contexts)
    ends = encode(model, [a, b], contexts=None if context is None else context.histories).mean
    z, vectors = slerp(ends[0], ends[1], share), None
    if context is not None:
        vectors = torch.lerp(context.vectors[0], context.vectors[1], share.to(model.device)[:, None])
    if level is not None:
        generator = torch.Generator(model.device).manual_seed(seed)
        z = denoise(model, z.to(model.device), level, Condition(context=vectors), generator).cpu()
    return decode_with(model, z, vectors, decoding, seed=seed)


def denoise(
    model: LatentTextModel, z: Tensor, level: int | None, condition: Condition, generator: torch.Generator
) -> Tensor:
    """z (n, d) diffused to *level* (default: half-way) and denoised under *condition*. Raises TextEBMError.

    A prior with fewer than two levels has no ladder to climb: there the level-0 chain moves z.
    """
    top = model.prior.num_levels - 1
    with model.evaluating():
        if top < 1:
            if level is not None:
                raise TextEBMError("this prior has no noise ladder: leave level out")
            return perturb(model.prior, z, condition, generator=generator)
        level = max(1, (top + 1) // 2) if level is None else level
        if not 1 <= level <= top:
            raise TextEBMError(f"level must lie between 1 and {top} for this model, got {level}")
        noise = torch.empty_like(z).normal_(generator=generator)
        u = model.prior.schedule.diffuse(z, torch.full((len(z),), level, device=z.device), noise)
        return sample(model.prior, len(z), condition=condition, generator=generator, start=(level, u)).z


def slerp(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """Points on the arc from a to b (d,), at *share* (n,) of the way; the norm changes linearly. (n, d)"""
    norm_a, norm_b = a.norm().clamp_min(1e-8), b.norm().clamp_min(1e-8)
    unit_a, unit_b = a / norm_a, b / norm_b
    angle = torch.arccos((unit_a @ unit_b).clamp(-1, 1))
    share = share[:, None]
    if angle < 1e-3:  # the arc is a line
        return (1 - share) * a + share * b
    direction = (torch.sin((1 - share) * angle) * unit_a + torch.sin(share * angle) * unit_b) / torch.sin(angle)
    return direction * ((1 - share) * norm_a + share * norm_b)
