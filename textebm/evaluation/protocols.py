"""What is asked of a model; `textebm.TextEBM` has it, and so does anything else that is to be measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol

from torch import Tensor


class Head(Protocol):
    """A symbol head; `column` None means unsupervised codes."""

    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def column(self) -> str | None: ...


class Encoding(Protocol):
    """mean, stddev (n, d); probabilities[head] (n, K); codes[head] (n,)."""

    @property
    def mean(self) -> Tensor: ...
    @property
    def stddev(self) -> Tensor: ...
    @property
    def probabilities(self) -> Mapping[str, Tensor]: ...
    @property
    def codes(self) -> Mapping[str, Tensor]: ...


class ElboTerms(Protocol):
    """Each (n,): nats per sentence, and tokens per sentence."""

    @property
    def reconstruction_nll(self) -> Tensor: ...
    @property
    def kl(self) -> Tensor: ...
    @property
    def num_tokens(self) -> Tensor: ...


class Interval(Protocol):
    """Each (n,): −log p(x) from below and above, nats per sentence; tokens; draws that share the weight."""

    @property
    def lower(self) -> Tensor: ...
    @property
    def upper(self) -> Tensor: ...
    @property
    def num_tokens(self) -> Tensor: ...
    @property
    def effective_draws(self) -> Tensor: ...


class Model(Protocol):
    """What every evaluation asks. A model makes its own batches of whatever number it is given."""

    @property
    def heads(self) -> Mapping[str, Head]: ...
    @property
    def layers(self) -> Sequence[int]: ...
    @property
    def guided(self) -> bool: ...
    @property
    def reads_context(self) -> bool: ...
    def encode(self, texts: list[str], /) -> Encoding: ...
    def elbo_terms(self, texts: list[str], /, *, seed: int = 0) -> ElboTerms: ...
    def reconstruct(
        self, texts: list[str], /, *, decoding: Literal["greedy"] = "greedy", refine: int = 0
    ) -> list[str]: ...
    def generate(
        self,
        n: int,
        /,
        *,
        symbols: dict[str, str | int] | None = None,
        strength: float | None = None,
        like: Sequence[str] = (),
        seed: int = 0,
        decoding: Literal["greedy", "sample"] = "greedy",
        temperature: float = 1.0,
        confidence: float | None = None,
    ) -> list[str]: ...
    def sample_latents(
        self,
        n: int,
        /,
        *,
        symbols: dict[str, str | int] | None = None,
        strength: float | None = None,
        seed: int = 0,
        steps_factor: int = 1,
    ) -> Tensor: ...
    def decode(
        self,
        latents: Tensor,
        /,
        *,
        seed: int = 0,
        decoding: Literal["greedy", "sample"] = "greedy",
        temperature: float = 1.0,
    ) -> list[str]: ...
    def nll_interval(
        self,
        texts: list[str],
        /,
        *,
        draws: int = 16,
        temperatures: int = 4,
        chains: int = 1,
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
        scaling_texts: Sequence[str] = (),
        q_steps: int = 0,
    ) -> Interval: ...
    def edit(
        self,
        texts: list[str],
        symbols: dict[str, list[str]],
        /,
        *,
        keep: float | None = None,
        level: int | None = None,
        strength: float | None = None,
        seed: int = 0,
        decoding: Literal["greedy", "sample"] = "greedy",
    ) -> list[str]: ...
