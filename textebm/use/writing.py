"""Steered generation: what a user does with a trained model.

`Generation` gives `TextEBM` the methods that give texts out; `use.reading` has those that take them in. It needs
only the model's parts (encoder, decoder, prior, tokenizer, heads) and knows nothing of recipes or training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor

from textebm.errors import TextEBMError
from textebm.networks.hardware import rows_at_once
from textebm.prior.condition import Condition
from textebm.prior.sampling import LatentSample, perturb, sample
from textebm.text.history import Turn
from textebm.text.tokenizer import decode as decode_ids
from textebm.use.contexts import Contexts, Given
from textebm.use.decoding import DecodingOptions, decode_tokens
from textebm.use.editing import CONFIDENCE, KEEP, rewrite, surest
from textebm.use.reading import Reading

if TYPE_CHECKING:
    from datasets import Dataset

    from textebm.api import TextEBM
    from textebm.inspection.report import Inspection

Decoding = Literal["greedy", "sample", "beam"]
SymbolRequest = Mapping[str, "str | int | Sequence[str | int]"]


class Generation(Reading):
    """The controllable-generation methods of `TextEBM`."""

    # -- texts out -----------------------------------------------------------------------------------------------

    def generate(
        self,
        n: int,
        *,
        symbols: SymbolRequest | None = None,
        strength: float | None = None,
        like: Sequence[str] = (),
        like_strength: float | None = None,
        seed: int = 0,
        steps_factor: int = 1,
        resample_from_layer: int | None = None,
        latents: Tensor | None = None,
        decoding: Decoding = "greedy",
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        num_beams: int = 4,
        max_tokens: int | None = None,
        contexts: Contexts | None = None,
        confidence: float | None = None,
    ) -> list[str]:
        """n new sentences: u from the prior, tilted by *symbols* and *like* if given, then decoded.

        symbols: head -> class (name or number), or a sequence of n of them; several heads compose as a product of
        experts.
        strength: how strongly log p(y|z) tilts the prior (1 = Bayes; the recipe's default is usually more).
        like: example sentences; all n shall be like each of them (a product of experts too), which composes with
        symbols. For models trained with contrastive guidance. like_strength: 1 = Bayes.
        steps_factor: multiply the chain's steps; a sound model's samples do not change with it.
        resample_from_layer: hold the layers above this one and draw it and those below it from the prior given them
        (layer 1 is the lowest). Held are those of *latents* (n, d) or (1, d), such as ``encode(texts).mean``; without
        latents, those of one draw that all n sentences share.
        contexts: dialogue models: what each of the n sentences answers; see `respond`.
        confidence: draw again, at most 8 times, each sentence in which the encoder does not read every symbol asked
        with at least this probability; where no draw is so sure, the surest stays.
        """

        def write(rows: list[int] | None, seed: int) -> list[str]:
            number, some, given = n, symbols, contexts
            if rows is not None:
                number, given = len(rows), None if contexts is None else [contexts[i] for i in rows]
                some = {
                    name: value if isinstance(value, str | int) else [value[i] for i in rows]
                    for name, value in (symbols or {}).items()
                }
            u = self.sample_latents(
                number,
                symbols=some,
                strength=strength,
                like=like,
                like_strength=like_strength,
                seed=seed,
                steps_factor=steps_factor,
                resample_from_layer=resample_from_layer,
                latents=latents,
                contexts=given,
            )
            return self.decode(
                u,
                seed=seed,
                decoding=decoding,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                num_beams=num_beams,
                max_tokens=max_tokens,
                contexts=given,
            )

        if confidence is None:
            return write(None, seed)
        if not symbols or latents is not None or not 0 < confidence < 1:
            raise TextEBMError(
                f"confidence must lie between 0 and 1 and goes with symbols, without latents; got {confidence}"
            )
        return surest(write, n, lambda rows, texts: self._certainty_of(rows, texts, symbols, n), confidence, seed)

    def respond(
        self,
        contexts: Contexts,
        *,
        symbols: SymbolRequest | None = None,
        n: int = 1,
        strength: float | None = None,
        like: Sequence[str] = (),
        like_strength: float | None = None,
        seed: int = 0,
        decoding: Decoding = "greedy",
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        num_beams: int = 4,
        max_tokens: int | None = None,
    ) -> list[list[str]]:
        """n answers to each history, under *symbols* and *like* if given.

        contexts: histories, each a list of turns (oldest first) or one text; [] begins a dialogue. symbols: head ->
        class, or a sequence with a class for each history. The rest as in `generate`.
        """
        if n < 0:
            raise TextEBMError(f"expected n >= 0, got {n}")
        if self.context_encoder is None:
            self._given(contexts, 0)  # says why not
        histories = self._parsed(contexts)
        asked = {
            name: value if isinstance(value, str | int) else [each for each in value for _ in range(n)]
            for name, value in (symbols or {}).items()
        }
        texts = self.generate(
            n * len(histories),
            symbols=asked,
            strength=strength,
            like=like,
            like_strength=like_strength,
            seed=seed,
            decoding=decoding,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            num_beams=num_beams,
            max_tokens=max_tokens,
            contexts=[history for history in histories for _ in range(n)],
        )
        return [texts[i * n : (i + 1) * n] for i in range(len(histories))]

    @torch.no_grad()
    def sample_latents(
        self,
        n: int,
        *,
        symbols: SymbolRequest | None = None,
        strength: float | None = None,
        like: Sequence[str] = (),
        like_strength: float | None = None,
        seed: int = 0,
        steps_factor: int = 1,
        resample_from_layer: int | None = None,
        latents: Tensor | None = None,
        batch_size: int | None = None,
        contexts: Contexts | None = None,
    ) -> Tensor:
        """(n, d) draws of the (tilted) prior, on the CPU. Arguments as in `generate`; batch_size rows at a time, by
        default 1,024, on a GPU 8,192."""
        if n < 0 or steps_factor < 1:
            raise TextEBMError(f"expected n >= 0 and steps_factor >= 1, got n={n}, steps_factor={steps_factor}")
        given, generator = self._given(contexts, n), self._generator(seed)
        condition = self._condition(symbols, n, strength, like, like_strength, given=given)
        held = self._held(n, resample_from_layer, latents, condition, generator)
        pieces, rows = [torch.zeros(0, self.prior.dim)], batch_size or rows_at_once(self.device, 1024)
        with self._evaluating():
            for start in range(0, n, rows):
                stop = min(start + rows, n)
                drawn = sample(
                    self.prior,
                    stop - start,
                    condition=condition.rows(slice(start, stop)),
                    steps_factor=steps_factor,
                    generator=generator,
                    held=None if held is None else held[start:stop],
                )
                pieces.append(drawn.z.cpu())
        return torch.cat(pieces)

    @torch.no_grad()
    def sample_path(
        self,
        n: int,
        *,
        symbols: SymbolRequest | None = None,
        strength: float | None = None,
        seed: int = 0,
        contexts: Contexts | None = None,
    ) -> LatentSample:
        """n draws with their way from noise: ``.path`` (levels, n, d), the noisiest first and ``.z`` last."""
        condition = self._condition(symbols, n, strength, given=self._given(contexts, n))
        generator = self._generator(seed)
        with self._evaluating():
            return sample(self.prior, n, condition=condition, generator=generator, keep_path=True)

    @torch.no_grad()
    def decode(
        self,
        latents: Tensor,
        *,
        seed: int = 0,
        decoding: Decoding = "greedy",
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        num_beams: int = 4,
        max_tokens: int | None = None,
        batch_size: int | None = None,
        contexts: Contexts | None = None,
    ) -> list[str]:
        """Sentences of the latents (n, d). greedy: the most probable word each time; sample: by temperature, top-k
        and top-p; beam: the best of num_beams by mean log-probability a word. With contexts they are `Turn`s.
        batch_size rows at a time, by default 512, on a GPU 4,096."""
        options = DecodingOptions(
            decoding, temperature, top_k, top_p, num_beams, self.max_tokens if max_tokens is None else max_tokens
        )
        options.check()
        if latents.ndim != 2 or latents.shape[1] != self.prior.dim:
            raise TextEBMError(f"expected latents of shape (n, {self.prior.dim}), got {tuple(latents.shape)}")
        given = self._given(contexts, len(latents))
        return self._decode(latents, None if given is None else given.vectors, given, options, seed, batch_size)

    @torch.no_grad()
    def _decode(
        self,
        latents: Tensor,
        context: Tensor | None,
        given: Given | None,
        options: DecodingOptions,
        seed: int,
        batch_size: int | None = None,
    ) -> list[str]:
        """Sentences of latents (n, d) with context (n, C); those of *given* know their histories."""
        with self._evaluating():
            z = self.decoder_input(latents.to(self.device), context)
            rows = decode_tokens(
                self.decoder,
                z,
                self.tokenizer,
                options,
                self._generator(seed),
                batch_size=batch_size or rows_at_once(self.device, 512),
            )
        texts = [decode_ids(self.tokenizer, row) for row in rows]
        return texts if given is None else _turns(texts, given)

    def reconstruct(
        self,
        texts: Sequence[str],
        *,
        decoding: Decoding = "greedy",
        seed: int = 0,
        num_beams: int = 4,
        refine: int = 0,
        contexts: Contexts | None = None,
    ) -> list[str]:
        """Decode the posterior mean of each text; refine: as in `encode`."""
        contexts = self._histories(texts, contexts)
        mean = self.encode(texts, refine=refine, seed=seed, contexts=contexts).mean
        return self.decode(mean, decoding=decoding, seed=seed, num_beams=num_beams, contexts=contexts)

    @torch.no_grad()
    def edit(
        self,
        texts: Sequence[str],
        symbols: SymbolRequest,
        *,
        method: Literal["nearest", "denoise"] | None = None,
        keep: float | None = None,
        confidence: float | None = None,
        level: int | None = None,
        strength: float | None = None,
        seed: int = 0,
        decoding: Decoding = "greedy",
        contexts: Contexts | None = None,
    ) -> list[str]:
        """Rewrite each text under *symbols*. By default with the least change that is read (`textebm.use.editing`).

        nearest: keep (nats, default 6) is what another word must be likelier by before it replaces the text's own, and
        confidence (default .95) the probability that the encoder must give each symbol, read off the new sentence.
        denoise (also meant by a level or a strength): encode, diffuse to *level*, denoise under the symbols, decode:
        a new sentence of the same kind. level (1 … num_levels − 1, default half-way) trades content for control
        (figures: recipes/README.md). A prior with fewer than two levels has no ladder to climb: there the level-0 chain
        moves the posterior mean instead, and *level* must be left out.
        """
        if not symbols:
            raise TextEBMError("edit needs at least one symbol, such as {'sentiment': 'positive'}")
        contexts = self._histories(texts, contexts)
        given = self._given(contexts, len(texts))
        condition = self._condition(symbols, len(texts), strength, given=given)
        if _edits_nearby(method, decoding, keep=keep, confidence=confidence, level=level, strength=strength):
            texts = rewrite(
                self,
                texts,
                condition,
                keep=KEEP if keep is None else keep,
                seed=seed,
                contexts=contexts,
                confidence=CONFIDENCE if confidence is None else confidence,
                decoding=cast("Literal['greedy', 'sample']", decoding),
            )
            return texts if given is None else _turns(texts, given)
        z = self.encode(texts, contexts=contexts).mean.to(self.device)
        z = self._denoise(z, level, condition, self._generator(seed))
        return self.decode(z.cpu(), seed=seed, decoding=decoding, contexts=contexts)

    @torch.no_grad()
    def interpolate(
        self,
        a: str,
        b: str,
        steps: int = 8,
        *,
        level: int | None = None,
        seed: int = 0,
        decoding: Decoding = "greedy",
        contexts: Contexts | None = None,
    ) -> list[str]:
        """*steps* sentences from a to b along the arc between their posterior means (ends included).

        With *level*, each point is diffused to that level and denoised, which draws it towards the data.
        contexts: of a and of b, in a dialogue; their vectors are mixed in step with the way.
        """
        if steps < 2:
            raise TextEBMError(f"interpolate needs at least 2 steps, its two ends, got {steps}")
        contexts, share = self._histories([a, b], contexts), torch.linspace(0, 1, steps)
        ends, given = self.encode([a, b], contexts=contexts).mean, self._given(contexts, 2)
        z = slerp(ends[0], ends[1], share)
        context = None
        if given is not None:
            context = torch.lerp(given.vectors[0], given.vectors[1], share.to(self.device)[:, None])
        if level is not None:
            condition = Condition(context=context)
            z = self._denoise(z.to(self.device), level, condition, self._generator(seed)).cpu()
        options = DecodingOptions(decoding, max_tokens=self.max_tokens)
        options.check()
        return self._decode(z, context, None, options, seed)

    # -- a look inside -------------------------------------------------------------------------------------------

    def inspect(
        self, data: Dataset | Sequence[str], *, limit: int | None = 3000, seed: int = 0, umap: bool = False
    ) -> Inspection:
        """What `textebm report` shows of these sentences, as typed values; ``.frames()`` gives pandas tables.

        data: texts, or a data set with a column ``text`` and label columns (ClassLabel). limit: at most so many, a
        seeded choice; None for all. umap: with a UMAP map, which needs the extra ``[umap]``.
        """
        from textebm.inspection.report import inspect_data

        return inspect_data(cast("TextEBM", self), data, limit=limit, seed=seed, umap=umap)

    # -- helpers -------------------------------------------------------------------------------------------------

    def _denoise(self, z: Tensor, level: int | None, condition: Condition, generator: torch.Generator) -> Tensor:
        top = self.prior.num_levels - 1
        with self._evaluating():
            if top < 1:
                if level is not None:
                    raise TextEBMError("this prior has no noise ladder: leave level out")
                return perturb(self.prior, z, condition, generator=generator)
            level = max(1, (top + 1) // 2) if level is None else level
            if not 1 <= level <= top:
                raise TextEBMError(f"level must lie between 1 and {top} for this model, got {level}")
            noise = torch.empty_like(z).normal_(generator=generator)
            u = self.prior.schedule.diffuse(z, torch.full((len(z),), level, device=z.device), noise)
            return sample(self.prior, len(z), condition=condition, generator=generator, start=(level, u)).z

    def _certainty_of(self, rows: list[int], texts: list[str], symbols: SymbolRequest, n: int) -> Tensor:
        """How surely the encoder reads in each text the classes asked of that row of n."""
        asked = self._condition(symbols, n, None).symbols
        return self.certainty(texts, {name: classes[rows] for name, classes in asked.items()})

    def _held(
        self, n: int, layer: int | None, latents: Tensor | None, condition: Condition, generator: torch.Generator
    ) -> Tensor | None:
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
                first = condition.rows(slice(1))
                latents = sample(self.prior, min(n, 1), condition=first, generator=generator).z
        if latents.ndim != 2 or latents.shape[1] != self.prior.dim or len(latents) not in (min(n, 1), n):
            raise TextEBMError(
                f"expected latents of shape (1, {self.prior.dim}) or ({n}, {self.prior.dim}), "
                f"got {tuple(latents.shape)}"
            )
        return latents[:, :size].to(self.device).expand(n, -1)

    def _condition(
        self,
        symbols: SymbolRequest | None,
        n: int,
        strength: float | None,
        like: Sequence[str] = (),
        like_strength: float | None = None,
        given: Given | None = None,
    ) -> Condition:
        """The classes asked for as numbers, (n,) for each head, the views of the examples, and the contexts. Strengths
        None: the recipe's."""
        for option, number in (("strength", strength), ("like_strength", like_strength)):
            if number is not None and not 0 <= number < math.inf:
                raise TextEBMError(f"{option} must be a number from 0 up, got {number}")
        chosen = {}
        for name, value in (symbols or {}).items():
            head = self._head(name)
            values = [value] * n if isinstance(value, (str, int)) else list(value)
            if isinstance(value, (str, int)):
                head.index(value)  # answered even when n is 0
            if len(values) != n:
                raise TextEBMError(f"symbol {name!r}: expected one class or {n} of them, got {len(values)}")
            chosen[name] = torch.tensor([head.index(v) for v in values], dtype=torch.long, device=self.device)
        views = self.views(like).sum(0).to(self.device).expand(n, -1) if len(like) else None
        return Condition(
            chosen,
            self.prior.strength if strength is None else strength,
            views,
            self.prior.like_strength if like_strength is None else like_strength,
            None if given is None else given.vectors,
        )


def _turns(texts: Sequence[str], given: Given) -> list[str]:
    """The texts, each knowing what it answers."""
    return [Turn(text, history) for text, history in zip(texts, given.histories, strict=True)]


def _edits_nearby(
    method: str | None,
    decoding: str,
    *,
    keep: float | None,
    confidence: float | None,
    level: int | None,
    strength: float | None,
) -> bool:
    """Whether an edit is the nearest one. Raises TextEBMError for options of both ways, or out of range."""
    if method not in (None, "nearest", "denoise"):
        raise TextEBMError(f"method must be nearest or denoise, got {method!r}")
    noisy = {"level": level, "strength": strength}
    near = {"keep": keep, "confidence": confidence}
    nearby = method == "nearest" or (method is None and all(value is None for value in noisy.values()))
    strange = [name for name, value in (noisy if nearby else near).items() if value is not None]
    if strange:
        ways = ("nearest", "denoise") if nearby else ("denoise", "nearest")
        raise TextEBMError(f"{strange[0]} has no effect on an edit by {ways[0]}; it belongs to method={ways[1]!r}")
    if keep is not None and not 0 <= keep < math.inf:
        raise TextEBMError(f"keep must be a number of nats from 0 up, got {keep}")
    if confidence is not None and not 0 < confidence < 1:
        raise TextEBMError(f"confidence must lie between 0 and 1, got {confidence}")
    if nearby and decoding == "beam":
        raise TextEBMError("an edit by nearest decodes greedily or by sampling; beam needs method='denoise'")
    return nearby


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
