"""`TextEBM`, what a user holds: a trained network, its words and symbols. Methods call functions of `textebm.use`."""

from __future__ import annotations

import logging
import secrets
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from textebm.model import files
from textebm.model.decoding import Decoding, DecodingOptions
from textebm.model.latent_text_model import Attribute, Decoder, Encoder, LatentTextModel, SymbolHead
from textebm.networks.hardware import rows_together
from textebm.networks.pretrained import cast_networks
from textebm.notebook import html_table
from textebm.prior.prior import LatentPrior
from textebm.prior.sampling import LatentSample
from textebm.recipe.implementation import code_allowed
from textebm.recipe.stated import stated_networks, stated_prior
from textebm.text.history import History
from textebm.use import attributes, attribution, editing, likelihood, reading, writing
from textebm.use.arguments import checked
from textebm.use.attributes import AttributeReport
from textebm.use.attribution import Attribution
from textebm.use.calibration import Curves
from textebm.use.codebook import Codebook, load_codebook, name_codes, save_codebook
from textebm.use.contexts import Contexts, parse_contexts
from textebm.use.inputs import as_device, as_latents, as_symbols, as_texts, lost_in_reading
from textebm.use.likelihood import NllInterval, Progress
from textebm.use.reading import Classification, ElboTerms, Encoding
from textebm.use.steering import Direction, Steering, SymbolRequest, classes_meant
from textebm.use.wording import Wanted
from textebm.use.writing import Twin

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

logger = logging.getLogger(__name__)


@checked
class TextEBM:
    """A text model that writes, edits and reads sentences, steered by named symbols.

    Example::

        model = TextEBM.from_pretrained("runs/quickstart")
        model.generate(5, symbols={"sentiment": "positive"}, seed=0)
        model.encode(["i hated the sauce of this pizza ."]).codes["code"]

    network: the `LatentTextModel` itself, for those who train or take it apart. codes: what people call its codes
    (`textebm.use.codebook`), empty where nobody said. Texts are lists of strings, or columns of pandas, numpy or
    datasets, in their own order; latents are tensors (n, d) on the CPU, or arrays. The same seed gives the same result
    on one machine. Models of dialogues also take *contexts*, the turns before each text: a list of turns (oldest
    first) or one text for each row.
    """

    def __init__(
        self, network: LatentTextModel, *, answering: Sequence[History] | None = None, codes: Codebook | None = None
    ):
        self.network = network
        self.codes = codes or Codebook()
        self._answering = answering
        self._told = False  # that words were unknown or texts cut
        self._curves = Curves()  # what share of sentences is read as asked, by strength

    def __repr__(self) -> str:
        return f"TextEBM({'; '.join(f'{name} {value}' for name, value in self._facts())})"

    def _repr_html_(self) -> str:
        return html_table(f"TextEBM {(self.recipe or {}).get('name', '')}", self._facts())

    def _facts(self) -> list[tuple[str, str]]:
        """What it is made of, in a few words."""
        recipe, heads = self.recipe or {}, [*self.heads.values(), *(each.head for each in self.attributes.values())]
        weights = sum(each.numel() for each in self.network.parameters())
        return [
            ("text", stated_networks(recipe)),
            ("prior", f"{stated_prior(recipe.get('prior', {}))}, {self.prior.dim} dimensions"),
            ("symbols", ", ".join(f"{head.name} ({len(head.classes)})" for head in heads) or "none"),
            ("weights", f"{weights:,} on {self.device}"),
        ]

    # -- files and places ----------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        token: str | None = None,
        cache_dir: str | Path | None = None,
        allow_code: bool = False,
    ) -> TextEBM:
        """A model from a run directory, a saved model or a Hub id. Raises CheckpointError.

        revision, token, cache_dir: of the Hub. dtype: in which pretrained networks compute, if not in float32; the rest
        of the model stays as it is. allow_code: import the classes that its recipe names as package.module:Class
        (docs/extending.md).
        Example: ``TextEBM.from_pretrained("runs/quickstart", device="cuda")``.
        """
        directory = files.locate(name, revision=revision, token=token, cache_dir=cache_dir)
        with code_allowed(allow_code):
            network = files.load(directory)
        network.attributes = attributes.load_attributes(network, directory)
        if dtype is not None:
            cast_networks(network, dtype)
        book = load_codebook(directory)
        name_codes(network, book)
        model = cls(network.to(as_device(device)), codes=book)
        model._curves = Curves.beside(directory)
        return model

    def save_pretrained(self, directory: str | Path) -> None:
        """Write model.safetensors, config.json, tokenizer files and a model card, with the attributes that were added
        and what its codes are called. Raises CheckpointError.
        Example: ``model.save_pretrained("my-model")``.
        """
        files.save(self.network, directory)
        for attribute in self.attributes.values():
            attributes.save_attribute(attribute, Path(directory))
        if self.codes.heads:
            save_codebook(self.codes, Path(directory))

    def push_to_hub(self, repo_id: str, *, private: bool = False) -> str:
        """Upload what `save_pretrained` writes; returns the address. Raises CheckpointError.
        Example: ``model.push_to_hub("me/my-model", private=True)``.
        """
        return files.push(self.save_pretrained, repo_id, private=private)

    def to(self, device: str | torch.device) -> TextEBM:
        """Move the network to a device; returns the model itself. Raises TextEBMError where there is no such device.
        Example: ``model.to("cuda")``.
        """
        self.network.to(as_device(device))
        return self

    @contextmanager
    def on(self, device: str | torch.device | None = None, *, batch_size: int | None = None) -> Iterator[TextEBM]:
        """Within, all methods compute on *device* (None: where it is), *batch_size* rows at a time unless they are told
        another number; then the network goes back.
        Example: ``with model.on("cuda", batch_size=64): model.edit(texts, {"sentiment": "positive"})``.
        """
        before = self.device
        with rows_together(batch_size):
            try:
                yield self if device is None else self.to(device)
            finally:
                self.network.to(before)

    # -- what it is made of --------------------------------------------------------------------------------------

    @property
    def heads(self) -> dict[str, SymbolHead]:
        """The symbols by name, with their classes."""
        return self.network.heads

    @property
    def attributes(self) -> dict[str, Attribute]:
        """What it was given with `add_attribute`, by name."""
        return self.network.attributes

    @property
    def prior(self) -> LatentPrior:
        return self.network.prior

    @property
    def encoder(self) -> Encoder:
        return self.network.encoder

    @property
    def decoder(self) -> Decoder:
        return self.network.decoder

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        return self.network.tokenizer

    @property
    def max_tokens(self) -> int:
        """The length at which texts are cut, tokens."""
        return self.network.max_tokens

    @property
    def recipe(self) -> dict[str, Any] | None:
        """What it was trained by, as plain values."""
        return self.network.recipe

    @property
    def device(self) -> torch.device:
        return self.network.device

    @property
    def layers(self) -> tuple[int, ...]:
        """Dimensions of the latent's layers, top first; layer numbers count from 1, the lowest."""
        return self.prior.layers

    @property
    def guided(self) -> bool:
        """Whether the model can generate by example (trained with contrastive guidance)."""
        return self.encoder.view is not None

    @property
    def reads_context(self) -> bool:
        """Whether it reads the turns before each text."""
        return self.network.reads_context

    # -- texts out -----------------------------------------------------------------------------------------------

    def generate(
        self,
        n: int,
        *,
        symbols: SymbolRequest | None = None,
        strength: float | Literal["auto"] | None = None,
        like: Sequence[str] = (),
        like_strength: float | None = None,
        seed: int | None = None,
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
        direction: Direction | None = None,
        prompt: str | None = None,
        containing: Sequence[str] = (),
        without: Sequence[str] = (),
        length: tuple[int, int] | None = None,
    ) -> list[str]:
        """n new sentences: latents from the prior, tilted by *symbols* and *like* if given, then decoded.

        symbols: head or attribute -> class (name or number), ``"!name"`` (any other), a set or ``"a,b"`` (any of them;
        each sentence gets one, by training's shares), or a sequence of n; several compose as a product of experts.
        strength: how strongly log p(y|z) tilts the prior (1 = Bayes; the recipe's default is usually more). "auto": the
        strength at which the share *confidence* (default .95) of the sentences is read as asked, found on 4,400 pilot
        draws of each request, which are kept beside the weights; where none reaches it, some are drawn again.
        like: example sentences; all n shall be like each of them (a product of experts too), which composes with
        symbols. For models trained with contrastive guidance. like_strength: 1 = Bayes.
        seed: the same one gives the same sentences; without one they differ from call to call, and the seed that was
        drawn is printed on stderr.
        steps_factor: multiply the chain's steps; a sound model's samples do not change with it.
        resample_from_layer: hold the layers above this one and draw it and those below it from the prior given them
        (layer 1 is the lowest). Held are those of *latents* (n, d) or (1, d), such as ``encode(texts).mean``; without
        latents, those of one draw that all n sentences share.
        decoding, temperature, top_k, top_p, num_beams, max_tokens: as in `decode`.
        contexts: dialogue models: what each of the n sentences answers; see `respond`.
        confidence: with strength="auto", the share of sentences that are read as asked. Else draw again, at most 8
        times, each sentence in which the encoder does not read every symbol asked with at least this probability; where
        no draw is so sure, the surest stays.
        direction: a tilt beside the symbols: ``2 * model.direction(these, those) - model.symbol("tense", "past")``.
        prompt: how each sentence begins; its latent is drawn given that. containing: words that each has. without:
        words that are not written. length: the fewest and the most words. A sentence that is not as asked is drawn
        again, at most 8 times; a warning says what could not be met (`textebm.Wanted(…).unmet(text)` tells which).
        Raises TextEBMError for symbols the model does not have and options out of range.
        Example: ``model.generate(5, symbols={"sentiment": "positive"}, strength=3.0, seed=0)``.
        """
        told_contexts = self._contexts(contexts, n)
        told, seed = seed is not None, secrets.randbelow(2**32) if seed is None else seed
        sentences = writing.generate(
            self.network,
            n,
            Steering(as_symbols(symbols), strength, as_texts(like), like_strength, told_contexts, direction),
            self._decoding(decoding, temperature, top_k, top_p, num_beams, max_tokens, without),
            seed=seed,
            steps_factor=steps_factor,
            resample_from_layer=resample_from_layer,
            latents=None if latents is None else as_latents(latents),
            confidence=confidence,
            wanted=Wanted(
                prompt, tuple(as_texts(containing, "containing")), tuple(as_texts(without, "without")), length
            ),
            curves=self._curves,
        )
        if not told:
            print(f"seed {seed}", file=sys.stderr)
        return sentences

    def respond(
        self,
        contexts: Contexts,
        *,
        symbols: SymbolRequest | None = None,
        n: int = 1,
        strength: float | Literal["auto"] | None = None,
        confidence: float | None = None,
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
        class, or a sequence with a class for each history. The rest, with strength="auto" and confidence, as in
        `generate`.
        Example: ``model.respond([["where is it ?"]], symbols={"act": "inform"}, n=3)``.
        """
        steering = Steering(as_symbols(symbols), strength, as_texts(like), like_strength)
        options = self._decoding(decoding, temperature, top_k, top_p, num_beams, max_tokens)
        return writing.respond(self.network, contexts, n, steering, options, confidence=confidence, seed=seed)

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
        default 1,024, on a GPU 8,192.
        Example: ``model.sample_latents(100, symbols={"sentiment": "positive"}).std()``.
        """
        return writing.sample_latents(
            self.network,
            n,
            Steering(as_symbols(symbols), strength, as_texts(like), like_strength, self._contexts(contexts, n)),
            seed=seed,
            steps_factor=steps_factor,
            resample_from_layer=resample_from_layer,
            latents=None if latents is None else as_latents(latents),
            batch_size=batch_size,
        )

    def sample_path(
        self,
        n: int,
        *,
        symbols: SymbolRequest | None = None,
        strength: float | None = None,
        seed: int = 0,
        contexts: Contexts | None = None,
    ) -> LatentSample:
        """n draws with their way from noise: ``.path`` (levels, n, d), the noisiest first and ``.z`` last.
        Example: ``model.decode(model.sample_path(1).path[:, 0])``.
        """
        steering = Steering(as_symbols(symbols), strength, contexts=self._contexts(contexts, n))
        return writing.sample_path(self.network, n, steering, seed=seed)

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
        batch_size rows at a time, by default 512, on a GPU 4,096.
        Example: ``model.decode(model.encode(texts).mean, decoding="beam")``.
        """
        options = self._decoding(decoding, temperature, top_k, top_p, num_beams, max_tokens)
        latents = as_latents(latents)
        contexts = self._contexts(contexts, len(latents))
        return writing.decode(self.network, latents, options, seed=seed, batch_size=batch_size, contexts=contexts)

    def reconstruct(
        self,
        texts: Sequence[str],
        *,
        decoding: Decoding = "greedy",
        seed: int = 0,
        num_beams: int = 4,
        refine: int = 0,
        contexts: Contexts | None = None,
        batch_size: int | None = None,
    ) -> list[str]:
        """Decode the posterior mean of each text; refine: as in `encode`.
        Example: ``model.reconstruct(["the soup was cold ."])``.
        """
        options = self._decoding(decoding, num_beams=num_beams)
        return writing.reconstruct(
            self.network, self._read(texts), options, seed=seed, refine=refine, contexts=contexts, batch_size=batch_size
        )

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

        nearest: keep (nats, default 6) is what a word replaced, inserted or deleted must gain, and
        confidence (default .99) the probability that the encoder must give each symbol, read off the new sentence.
        denoise (also meant by a level or a strength): encode, diffuse to *level*, denoise under the symbols, decode:
        a new sentence of the same kind. level (1 … num_levels − 1, default half-way) trades content for control
        (figures: recipes/README.md). A prior with fewer than two levels has no ladder to climb: there the level-0 chain
        moves the posterior mean instead, and *level* must be left out.
        Raises TextEBMError for options of both ways, or out of range.
        Example: ``model.edit(["i hated the sauce ."], {"sentiment": "positive"})``.
        """
        return editing.edit(
            self.network,
            self._read(texts),
            as_symbols(symbols) or {},
            method=method,
            keep=keep,
            confidence=confidence,
            level=level,
            strength=strength,
            seed=seed,
            decoding=decoding,
            contexts=contexts,
        )

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
        Example: ``model.interpolate("the soup was cold .", "we will return .", steps=5)``.
        """
        a, b = as_texts([a, b])
        options = self._decoding(decoding)
        return writing.interpolate(self.network, a, b, steps, options, level=level, seed=seed, contexts=contexts)

    def infill(
        self,
        text: str,
        n: int = 1,
        *,
        symbols: SymbolRequest | None = None,
        strength: float | None = None,
        seed: int = 0,
        decoding: Decoding = "greedy",
        temperature: float = 1.0,
        contexts: Contexts | None = None,
    ) -> list[str]:
        """n ways to fill the blanks of *text*, written ``___``, with one to four tokens each; the rest stays.

        The latent of each is one of 8 draws of the (tilted) prior, by the likelihood of the text's own words. Raises
        TextEBMError for a text without a blank, or with words that the model does not know.
        Example: ``model.infill("the ___ was great .", 3, symbols={"sentiment": "positive"})``.
        """
        steering = Steering(as_symbols(symbols), strength, contexts=self._contexts(contexts, n))
        (own,) = as_texts([text])
        return writing.infill(self.network, own, n, steering, self._decoding(decoding, temperature), seed=seed)

    def compare(
        self,
        symbols_a: SymbolRequest | None,
        symbols_b: SymbolRequest | None,
        n: int = 5,
        *,
        strength: float | None = None,
        seed: int = 0,
        contexts: Contexts | None = None,
    ) -> list[Twin]:
        """n pairs of sentences from the same noise under two requests: what a symbol changes, and what it leaves.

        None asks nothing. Each pair has ``a``, ``b`` and ``changed``, the share of words that differ.
        Example: ``model.compare({"tense": "past"}, {"tense": "future"}, n=3)``.
        """
        told = self._contexts(contexts, n)
        a, b = (Steering(as_symbols(each), strength, contexts=told) for each in (symbols_a, symbols_b))
        return writing.compare(self.network, a, b, n, self._decoding(), seed=seed)

    # -- attributes ----------------------------------------------------------------------------------------------

    def add_attribute(
        self,
        name: str,
        texts: Sequence[str],
        labels: Sequence[object],
        *,
        seed: int = 0,
        contexts: Contexts | None = None,
    ) -> AttributeReport:
        """Teach the finished model an attribute from 10 or more labelled examples; it then works as a symbol does, in
        `generate`, `edit`, `classify` and `encode`, and is saved with the model. Nothing else of the model changes.

        Returns how well it reads held-out examples. Raises TextEBMError for fewer than 5 examples of a class.
        Example: ``print(model.add_attribute("formal", texts, labels))``.
        """
        texts = as_texts(texts)
        attribute, report = attributes.fit_attribute(self.network, name, texts, labels, seed=seed, contexts=contexts)
        self.network.attributes[name] = attribute
        return report

    def direction(self, positive: Sequence[str], negative: Sequence[str], *, seed: int = 0) -> Direction:
        """From what the second texts say towards what the first do, as a value for ``generate(direction=…)``.
        Example: ``model.generate(5, direction=2 * model.direction(these, those))``.
        """
        texts, labels = as_texts([*positive, *negative]), ["positive"] * len(positive) + ["negative"] * len(negative)
        attribute, _ = attributes.fit_attribute(self.network, "direction", texts, labels, seed=seed)
        return Direction(((1.0, attribute, "positive"),))

    def symbol(self, name: str, value: Any) -> Direction:
        """A symbol or attribute as a direction. Raises TextEBMError for one that does not exist.
        Example: ``model.generate(5, direction=model.symbol("tense", "past") - model.symbol("code", 3))``.
        """
        classes_meant(self.network.head(name), value)
        return Direction(((1.0, name, value),))

    # -- texts in ------------------------------------------------------------------------------------------------

    def encode(
        self,
        texts: Sequence[str],
        batch_size: int | None = None,
        *,
        refine: int = 0,
        seed: int = 0,
        contexts: Contexts | None = None,
    ) -> Encoding:
        """Posterior means (n, d) and symbol posteriors p(y|z) at the means.

        refine: move each mean by so many gradient steps on log p(x|z) + log p(z); a step costs a pass of the decoder
        and its gradient. seed: of the chains of a model without an encoder; a text's do not depend on its batch.
        Example: ``model.encode(texts).frame()``.
        """
        texts = self._read(texts)
        return reading.encode(self.network, texts, batch_size=batch_size, refine=refine, seed=seed, contexts=contexts)

    def classify(
        self, texts: Sequence[str], head: str, *, contexts: Contexts | None = None, batch_size: int | None = None
    ) -> Classification:
        """The most probable class of each text; of codes that people curated (`textebm codes`) by their names, merged
        ones as one, and "none of these" below the threshold. Raises TextEBMError for an unknown head.
        Example: ``model.classify(["i loved it ."], "sentiment").labels``.
        """
        found = reading.classify(self.network, self._read(texts), head, contexts=contexts, batch_size=batch_size)
        return Classification(self.codes.labels(head, found.probabilities) or found.labels, found.probabilities)

    def attribute(
        self,
        texts: Sequence[str],
        head: str,
        *,
        method: attribution.Method = "integrated_gradients",
        contexts: Contexts | None = None,
    ) -> list[Attribution]:
        """Why each text has its code: each word's part in log p(y|z) of its most probable class, nats.

        integrated_gradients: parts that add up to what the words change against a text of unknown words. leave_one_out:
        what log p loses without the word. Raises TextEBMError for an unknown head.
        Example: ``model.attribute(["i loved it ."], "sentiment")[0].parts``.
        """
        return attribution.attribute(self.network, texts, head, method=method, contexts=contexts)

    def posterior_draws(
        self, texts: Sequence[str], *, contexts: Contexts | None = None, seed: int = 0, batch_size: int | None = None
    ) -> Tensor:
        """One draw of q(u|x) for each text, (n, d) on the CPU.
        Example: ``model.decode(model.posterior_draws(texts, seed=1))``.
        """
        return reading.posterior_draws(
            self.network, as_texts(texts), contexts=contexts, seed=seed, batch_size=batch_size
        )

    def symbol_probabilities(self, z: Tensor, *, contexts: Contexts | None = None) -> dict[str, Tensor]:
        """p(y^h | z) of each head, (n, K_h) on the CPU. z (n, d)
        Example: ``model.symbol_probabilities(model.sample_latents(10))["code"]``.
        """
        z = as_latents(z)
        return reading.symbol_probabilities(self.network, z, contexts=self._contexts(contexts, len(z)))

    def views(self, texts: Sequence[str], batch_size: int | None = None) -> Tensor:
        """The contrastive views of the texts, (n, C), on the CPU. Raises TextEBMError without guidance.
        Example: ``model.views(texts).shape``.
        """
        return reading.views(self.network, as_texts(texts), batch_size=batch_size)

    def certainty(
        self, texts: Sequence[str], symbols: Mapping[str, Tensor], *, contexts: Contexts | None = None
    ) -> Tensor:
        """(n,) the least probability that the encoder gives, over the heads of *symbols*, to the class (n,) asked of
        each text; −1 asks nothing.
        Example: ``model.certainty(texts, {"sentiment": torch.ones(len(texts), dtype=torch.long)})``.
        """
        return reading.certainty(self.network, as_texts(texts), symbols, contexts=contexts)

    def elbo_terms(
        self,
        texts: Sequence[str],
        *,
        seed: int = 0,
        batch_size: int | None = None,
        refine: int = 0,
        contexts: Contexts | None = None,
    ) -> ElboTerms:
        """−log p(x|z) at one posterior draw and KL(q ‖ p) of each text, nats.

        The KL is closed for N(0, I), one Monte Carlo draw for a mixture; for an energy-based prior one draw with the
        partition functions bounded on the safe side by reverse annealed importance sampling (`prior.likelihood`): it
        is too high rather than too low, by what ten temperatures leave (about .1 nats where F is a good log-density).
        The top level's normaliser is one number a model, so that a text's KL does not depend on the other texts.
        refine: of q moved as in `encode`, its standard deviation kept; the bound of another, still valid q.
        Example: ``terms = model.elbo_terms(texts); (terms.reconstruction_nll + terms.kl).mean()``.
        """
        return reading.elbo_terms(
            self.network, as_texts(texts), seed=seed, batch_size=batch_size, refine=refine, contexts=contexts
        )

    def nll_interval(
        self,
        texts: Sequence[str],
        *,
        draws: int = 16,
        temperatures: int = 4,
        burn_in: int = 4,
        chains: int = 1,
        seed: int = 0,
        batch_size: int | None = None,
        progress: Progress | None = None,
        scaling_texts: Sequence[str] = (),
        q_steps: int = 0,
    ) -> NllInterval:
        """Lower and upper −log p(x) of each text, nats: what they promise is said in `textebm.use.likelihood`.

        More draws, temperatures (of each log Z_t) and chains (averaged) narrow it. batch_size (1,024) counts draws.
        scaling_texts: other sentences (validation), on which the scale and the width of q are fitted first: worth much
        where the model was trained with a KL weight below 1. q_steps: gradient steps on each text's own q, about as
        dear as a training step each; worth more again.
        Example: ``model.nll_interval(texts, draws=64).upper.mean()``.
        """
        return likelihood.nll_interval(
            self.network,
            as_texts(texts),
            draws=draws,
            temperatures=temperatures,
            burn_in=burn_in,
            chains=chains,
            seed=seed,
            batch_size=batch_size,
            progress=progress,
            scaling_texts=as_texts(scaling_texts),
            q_steps=q_steps,
        )

    def reconstruction_losses(
        self,
        texts: Sequence[str],
        batch_size: int | None = None,
        *,
        latents: Tensor | None = None,
        contexts: Contexts | None = None,
    ) -> Tensor:
        """−log p(x|z) of each text at its posterior mean or at *latents* (n, d), nats a sentence, (n,) on the CPU.
        Example: ``model.reconstruction_losses(texts).argmax()``.
        """
        latents = None if latents is None else as_latents(latents)
        return reading.reconstruction_losses(
            self.network, as_texts(texts), latents=latents, batch_size=batch_size, contexts=contexts
        )

    def energies(self, z: Tensor, level: int = 0, *, contexts: Contexts | None = None) -> Tensor:
        """−F(z, t) at level t, (n,) on the CPU: low where the prior finds z likely (beyond its reference). z (n, d)
        Example: ``model.energies(model.encode(texts).mean)``.
        """
        z = as_latents(z)
        return reading.energies(self.network, z, level, contexts=self._contexts(contexts, len(z)))

    # -- dialogues -----------------------------------------------------------------------------------------------

    def answering(self, contexts: Contexts) -> TextEBM:
        """The same model, of which what is written without contexts answers these: the i-th row the i-th one, and so
        on round, as an evaluation wants it. A model that reads no context is given back as it is.
        Example: ``model.answering(contexts).generate(len(contexts))``.
        """
        return (
            TextEBM(self.network, answering=parse_contexts(contexts), codes=self.codes) if self.reads_context else self
        )

    def answered(self, rows: Sequence[int]) -> list[History] | None:
        """The histories that these rows answer; None for a model that was told of none (`answering`)."""
        return [self._answering[i % len(self._answering)] for i in rows] if self._answering else None

    def _read(self, texts: Iterable[str]) -> list[str]:
        """`as_texts`; what of them this model cannot read is said once."""
        rows = as_texts(texts)
        if not self._told and (lost := lost_in_reading(rows, self.tokenizer, self.max_tokens)):
            self._told = True
            logger.warning("%s", lost)
        return rows

    def _contexts(self, contexts: Contexts | None, n: int) -> Contexts | None:
        """The contexts of n rows: those named, or those that the model was told to answer."""
        return self.answered(range(n)) if contexts is None else contexts

    def _decoding(
        self,
        decoding: Decoding = "greedy",
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        num_beams: int = 4,
        max_tokens: int | None = None,
        without: Sequence[str] = (),
    ) -> DecodingOptions:
        """These as one value, checked."""
        length = self.max_tokens if max_tokens is None else max_tokens
        banned = writing.banned_tokens(self.network, without)
        options = DecodingOptions(decoding, temperature, top_k, top_p, num_beams, length, banned=banned)
        options.check()
        return options
