"""Steered generation: what a user does with a trained model.

`Generation` gives `TextEBM` its public methods. The latents that these take and give are u, before the
transport. It needs only the model's parts (encoder, decoder, prior, tokenizer, heads) and knows nothing of recipes or
training. All randomness comes from ``seed``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from textebm.decoding import DecodingOptions, decode_tokens
from textebm.errors import TextEBMError, did_you_mean
from textebm.networks.decoder import RecurrentDecoder, TransformerDecoder
from textebm.networks.encoder import RecurrentEncoder, TransformerEncoder
from textebm.prior.likelihood import log_prob_bound
from textebm.prior.prior import LatentPrior, LatentSample, Symbols
from textebm.text.batches import TokenBatch, collate_texts
from textebm.text.tokenizer import decode as decode_ids

Decoding = Literal["greedy", "sample", "beam"]
Encoder = RecurrentEncoder | TransformerEncoder
Decoder = RecurrentDecoder | TransformerDecoder
SymbolRequest = Mapping[str, "str | int | Sequence[str | int]"]


@dataclass(frozen=True)
class SymbolHead:
    """A discrete variable of the prior. column: the label column it was taught, None for codes that were found."""

    name: str
    classes: tuple[str, ...]
    column: str | None = None

    def index(self, value: str | int) -> int:
        """The class's number. Raises TextEBMError for one that does not exist."""
        if str(value) in self.classes:
            return self.classes.index(str(value))
        if isinstance(value, int) and 0 <= value < len(self.classes):
            return value
        raise TextEBMError(f"symbol {self.name!r} has no class {str(value)!r}{did_you_mean(str(value), self.classes)}")


@dataclass(frozen=True)
class Encoding:
    """mean, stddev (n, d); probabilities[head] (n, K); codes[head] (n,), the most probable class. CPU tensors."""

    mean: Tensor
    stddev: Tensor
    probabilities: dict[str, Tensor]
    codes: dict[str, Tensor]


@dataclass(frozen=True)
class Classification:
    """labels: class name of each text; probabilities (n, K) in the order of the head's classes."""

    labels: list[str]
    probabilities: Tensor


@dataclass(frozen=True)
class ElboTerms:
    """Of each text, nats: reconstruction_nll (n,), kl (n,) on its safe (upper) side; num_tokens (n,) counts <eos>."""

    reconstruction_nll: Tensor
    kl: Tensor
    num_tokens: Tensor


class Generation(nn.Module):
    """The controllable-generation methods of `TextEBM`, which has these parts and gives −log p(x|z)."""

    encoder: Encoder
    decoder: Decoder
    prior: LatentPrior
    tokenizer: PreTrainedTokenizerFast
    heads: dict[str, SymbolHead]
    max_tokens: int
    reconstruction_nll: Callable[[TokenBatch, Tensor], Tensor]

    @property
    def device(self) -> torch.device:
        return self.prior.rho.device

    @property
    def layers(self) -> tuple[int, ...]:
        """Dimensions of the latent's layers, top first; layer numbers count from 1, the lowest."""
        return self.prior.layers

    # -- texts in ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, texts: Sequence[str], batch_size: int = 256) -> Encoding:
        """Posterior means and symbol posteriors p(y|z) at the means."""
        means, stddevs = [], []
        with self._evaluating():
            rows, inverse = _by_length(texts)
            for batch in self._batches([texts[i] for i in rows], batch_size):
                posterior = self.encoder(batch.tokens, batch.lengths)
                means.append(posterior.mean.cpu())
                stddevs.append(posterior.stddev.cpu())
            empty = torch.zeros(0, self.prior.dim)
            mean = torch.cat(means)[inverse] if means else empty
            stddev = torch.cat(stddevs)[inverse] if stddevs else empty
            probabilities = self.symbol_probabilities(mean)
        codes = {name: p.argmax(-1) for name, p in probabilities.items()}
        return Encoding(mean, stddev, probabilities, codes)

    @torch.no_grad()
    def symbol_probabilities(self, z: Tensor) -> dict[str, Tensor]:
        """p(y^h | z) of each head, (n, K_h) on the CPU. z (n, d)"""
        logits = self.prior.symbol_logits(z.to(self.device))
        return {name: f.softmax(-1).cpu() for name, f in logits.items()}

    def classify(self, texts: Sequence[str], head: str) -> Classification:
        """The most probable class of each text. Raises TextEBMError for an unknown head."""
        probabilities = self.encode(texts).probabilities[self._head(head).name]
        labels = [self.heads[head].classes[i] for i in probabilities.argmax(-1).tolist()]
        return Classification(labels, probabilities)

    @torch.no_grad()
    def elbo_terms(self, texts: Sequence[str], *, seed: int = 0, batch_size: int = 256) -> ElboTerms:
        """−log p(x|z) at one posterior draw and KL(q ‖ p) of each text, nats.

        The KL is closed for N(0, I), one Monte Carlo draw for a mixture; for an energy-based prior one draw with the
        partition functions bounded on the safe side by reverse annealed importance sampling (`prior.likelihood`).
        """
        generator = self._generator(seed)
        nll, kl, lengths = [], [], []
        with self._evaluating():
            rows, inverse = _by_length(texts)
            for batch in self._batches([texts[i] for i in rows], batch_size):
                draw = self.encoder(batch.tokens, batch.lengths).draw(generator)
                u, given = draw.u, draw.given
                nll.append(self.reconstruction_nll(batch, u).cpu())
                divergence = given.kl_to_standard_normal().sum(-1)
                if self.prior.num_levels > 0:
                    log_p = log_prob_bound(self.prior, u, generator=generator)
                    noise = (u - given.mean) / given.stddev  # entropy and cross-entropy at the same draw
                    log_q = -0.5 * (noise.square() + math.log(2 * math.pi)) - given.stddev.log()
                    divergence = log_q.sum(-1) - log_p
                elif self.prior.explicit is not None:
                    divergence = divergence - self.prior.explicit.log_ratio(u)
                kl.append(divergence.cpu())
                lengths.append(batch.lengths.cpu() - 1)
        if not nll:
            return ElboTerms(torch.zeros(0), torch.zeros(0), torch.zeros(0, dtype=torch.long))
        return ElboTerms(torch.cat(nll)[inverse], torch.cat(kl)[inverse], torch.cat(lengths)[inverse])

    @torch.no_grad()
    def reconstruction_losses(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        """−log p(x|z) of each text at its posterior mean, nats a sentence, (n,) on the CPU."""
        losses = []
        with self._evaluating():
            rows, inverse = _by_length(texts)
            for batch in self._batches([texts[i] for i in rows], batch_size):
                mean = self.encoder(batch.tokens, batch.lengths).mean
                losses.append(self.reconstruction_nll(batch, mean).cpu())
        return torch.cat(losses)[inverse] if losses else torch.zeros(0)

    @torch.no_grad()
    def energies(self, z: Tensor) -> Tensor:
        """−F(z) at level 0, (n,) on the CPU: low where the prior finds z likely (beyond its reference). z (n, d)"""
        with self._evaluating():
            level = torch.zeros(len(z), dtype=torch.long, device=self.device)
            return -self.prior.potential(z.to(self.device), level).cpu()

    # -- texts out -----------------------------------------------------------------------------------------------

    def generate(
        self, n: int, *, symbols: SymbolRequest | None = None, strength: float | None = None, seed: int = 0,
        steps_factor: int = 1, resample_from_layer: int | None = None, latents: Tensor | None = None,
        decoding: Decoding = "greedy", temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0,
        num_beams: int = 4, max_tokens: int | None = None,
    ) -> list[str]:  # fmt: skip
        """n new sentences: u from the prior, tilted by *symbols* if given, then decoded.

        symbols: head -> class (name or number), or a sequence of n of them; several heads compose as a product of
        experts.
        strength: how strongly log p(y|z) tilts the prior (1 = Bayes; the recipe's default is usually more).
        steps_factor: multiply the chain's steps; a sound model's samples do not change with it.
        resample_from_layer: hold the layers above this one and draw it and those below it from the prior given them
        (layer 1 is the lowest). Held are those of *latents* (n, d) or (1, d), such as ``encode(texts).mean``; without
        latents, those of one draw that all n sentences share.
        """
        u = self.sample_latents(
            n, symbols=symbols, strength=strength, seed=seed, steps_factor=steps_factor,
            resample_from_layer=resample_from_layer, latents=latents,
        )  # fmt: skip
        return self.decode(
            u, seed=seed, decoding=decoding, temperature=temperature, top_k=top_k, top_p=top_p, num_beams=num_beams,
            max_tokens=max_tokens,
        )  # fmt: skip

    @torch.no_grad()
    def sample_latents(
        self, n: int, *, symbols: SymbolRequest | None = None, strength: float | None = None, seed: int = 0,
        steps_factor: int = 1, resample_from_layer: int | None = None, latents: Tensor | None = None,
        batch_size: int = 1024,
    ) -> Tensor:  # fmt: skip
        """(n, d) draws of the (tilted) prior, on the CPU. Arguments as in `generate`."""
        if n < 0 or steps_factor < 1:
            raise TextEBMError(f"expected n >= 0 and steps_factor >= 1, got n={n}, steps_factor={steps_factor}")
        chosen, generator = self._symbols(symbols, n, strength), self._generator(seed)
        held = self._held(n, resample_from_layer, latents, chosen, strength, generator)
        pieces = [torch.zeros(0, self.prior.dim)]
        with self._evaluating():
            for start in range(0, n, batch_size):
                stop = min(start + batch_size, n)
                rows = {head: classes[start:stop] for head, classes in chosen.items()}
                sample = self.prior.sample(
                    stop - start, symbols=rows, strength=strength, steps_factor=steps_factor, generator=generator,
                    held=None if held is None else held[start:stop],
                )  # fmt: skip
                pieces.append(sample.z.cpu())
        return torch.cat(pieces)

    @torch.no_grad()
    def sample_path(
        self, n: int, *, symbols: SymbolRequest | None = None, strength: float | None = None, seed: int = 0
    ) -> LatentSample:
        """n draws with their way from noise: ``.path`` (levels, n, d), the noisiest first and ``.z`` last."""
        chosen, generator = self._symbols(symbols, n, strength), self._generator(seed)
        with self._evaluating():
            return self.prior.sample(n, symbols=chosen, strength=strength, generator=generator, keep_path=True)

    @torch.no_grad()
    def decode(
        self, latents: Tensor, *, seed: int = 0, decoding: Decoding = "greedy", temperature: float = 1.0,
        top_k: int = 0, top_p: float = 1.0, num_beams: int = 4, max_tokens: int | None = None, batch_size: int = 512,
    ) -> list[str]:  # fmt: skip
        """Sentences of the latents (n, d). greedy: the most probable word each time; sample: by temperature, top-k
        and top-p; beam: the best of num_beams by mean log-probability a word."""
        options = DecodingOptions(
            decoding, temperature, top_k, top_p, num_beams, self.max_tokens if max_tokens is None else max_tokens
        )
        options.check()
        if latents.ndim != 2 or latents.shape[1] != self.prior.dim:
            raise TextEBMError(f"expected latents of shape (n, {self.prior.dim}), got {tuple(latents.shape)}")
        generator, texts = self._generator(seed), []
        with self._evaluating():
            for start in range(0, len(latents), batch_size):
                z = self.prior.transport(latents[start : start + batch_size].to(self.device))
                ids = decode_tokens(self.decoder, z, self.tokenizer, options, generator)
                texts += [decode_ids(self.tokenizer, row) for row in ids]
        return texts

    def reconstruct(
        self, texts: Sequence[str], *, decoding: Decoding = "greedy", seed: int = 0, num_beams: int = 4
    ) -> list[str]:
        """Decode the posterior mean of each text."""
        return self.decode(self.encode(texts).mean, decoding=decoding, seed=seed, num_beams=num_beams)

    @torch.no_grad()
    def edit(
        self, texts: Sequence[str], symbols: SymbolRequest, *, level: int | None = None, strength: float | None = None,
        seed: int = 0, decoding: Decoding = "greedy",
    ) -> list[str]:  # fmt: skip
        """Rewrite each text under *symbols*: encode, diffuse to *level*, denoise under the symbols, decode.

        level (1 … num_levels − 1, default half-way) trades content for control (figures: recipes/README.md).
        A prior with fewer than two levels has no ladder to climb: there the level-0 chain moves the posterior mean
        instead, and *level* must be left out.
        """
        if not symbols:
            raise TextEBMError("edit needs at least one symbol, such as {'sentiment': 'positive'}")
        chosen, generator = self._symbols(symbols, len(texts), strength), self._generator(seed)
        z = self.encode(texts).mean.to(self.device)
        z = self._denoise(z, level, chosen, strength, generator)
        return self.decode(z.cpu(), seed=seed, decoding=decoding)

    def interpolate(
        self, a: str, b: str, steps: int = 8, *, level: int | None = None, seed: int = 0, decoding: Decoding = "greedy"
    ) -> list[str]:
        """*steps* sentences from a to b along the arc between their posterior means (ends included).

        With *level*, each point is diffused to that level and denoised, which draws it towards the data.
        """
        if steps < 2:
            raise TextEBMError(f"interpolate needs at least 2 steps, its two ends, got {steps}")
        ends = self.encode([a, b]).mean
        z = slerp(ends[0], ends[1], torch.linspace(0, 1, steps))
        if level is not None:
            with torch.no_grad():
                z = self._denoise(z.to(self.device), level, {}, None, self._generator(seed)).cpu()
        return self.decode(z, seed=seed, decoding=decoding)

    # -- helpers -------------------------------------------------------------------------------------------------

    def _denoise(
        self, z: Tensor, level: int | None, symbols: Symbols, strength: float | None, generator: torch.Generator
    ) -> Tensor:
        top = self.prior.num_levels - 1
        with self._evaluating():
            if top < 1:
                if level is not None:
                    raise TextEBMError("this prior has no noise ladder: leave level out")
                return self.prior.perturb(z, symbols, strength=strength, generator=generator)
            level = max(1, (top + 1) // 2) if level is None else level
            if not 1 <= level <= top:
                raise TextEBMError(f"level must lie between 1 and {top} for this model, got {level}")
            noise = torch.empty_like(z).normal_(generator=generator)
            u = self.prior.schedule.diffuse(z, torch.full((len(z),), level, device=z.device), noise)
            sample = self.prior.sample(
                len(z), symbols=symbols, strength=strength, generator=generator, start=(level, u)
            )
            return sample.z

    def _held(
        self, n: int, layer: int | None, latents: Tensor | None, symbols: Symbols, strength: float | None,
        generator: torch.Generator,
    ) -> Tensor | None:  # fmt: skip
        """The coordinates (n, k) above *layer* that stay; None where nothing does."""
        if layer is None:
            if latents is not None:
                raise TextEBMError("latents have no effect here; they need resample_from_layer")
            return None
        if not 1 <= layer <= len(self.layers):
            raise TextEBMError(
                f"resample_from_layer must lie between 1 and {len(self.layers)} for this model, got {layer}"
            )
        size = sum(self.layers[: len(self.layers) - layer])
        if latents is None:
            with self._evaluating():
                first = {head: classes[:1] for head, classes in symbols.items()}
                latents = self.prior.sample(min(n, 1), symbols=first, strength=strength, generator=generator).z
        if latents.ndim != 2 or latents.shape[1] != self.prior.dim or len(latents) not in (min(n, 1), n):
            raise TextEBMError(
                f"expected latents of shape (1, {self.prior.dim}) or ({n}, {self.prior.dim}), "
                f"got {tuple(latents.shape)}"
            )
        return latents[:, :size].to(self.device).expand(n, -1)

    def _head(self, name: str) -> SymbolHead:
        if name not in self.heads:
            known = did_you_mean(name, self.heads) if self.heads else "; this model has none"
            raise TextEBMError(f"unknown symbol {name!r}{known}")
        return self.heads[name]

    def _symbols(self, symbols: SymbolRequest | None, n: int, strength: float | None) -> dict[str, Tensor]:
        """Class numbers (n,) for each head asked for."""
        if strength is not None and not 0 <= strength < math.inf:
            raise TextEBMError(f"strength must be a number from 0 up, got {strength}")
        chosen = {}
        for name, value in (symbols or {}).items():
            head = self._head(name)
            values = [value] * n if isinstance(value, (str, int)) else list(value)
            if isinstance(value, (str, int)):
                head.index(value)  # answered even when n is 0
            if len(values) != n:
                raise TextEBMError(f"symbol {name!r}: expected one class or {n} of them, got {len(values)}")
            chosen[name] = torch.tensor([head.index(v) for v in values], dtype=torch.long, device=self.device)
        return chosen

    def _generator(self, seed: int) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(seed)

    def _batches(self, texts: Sequence[str], batch_size: int) -> Iterator[TokenBatch]:
        for start in range(0, len(texts), batch_size):
            yield collate_texts(texts[start : start + batch_size], self.tokenizer, self.max_tokens).to(self.device)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        was_training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(was_training)


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


def _by_length(texts: Sequence[str]) -> tuple[list[int], Tensor]:
    """Rows in order of length, so that batches have little padding, and the permutation that undoes it."""
    if isinstance(texts, str):  # a sequence of texts too, of one letter each
        raise TextEBMError(f"expected a list of texts, got one string: write [{texts[:40]!r}]")
    rows = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    inverse = torch.empty(len(rows), dtype=torch.long)
    inverse[torch.tensor(rows, dtype=torch.long)] = torch.arange(len(rows))
    return rows, inverse
