"""Inference beyond one pass of an encoder: chains on the true posterior p(u|x) ∝ p(x|T(u)) p(u).

A step of size s, a number for each coordinate (Langevin):

    u' = m + s ⊙ ξ,      m = u + s²/2 ⊙ ∇_u log p(x, u),      ξ ~ N(0, I)

- `Refinement` starts at a draw of the encoder's q(u|x) and measures s in its standard deviations. The encoder is then
  moved towards where the chain ended.
- `ShortRun` starts at N(0, I), needs no encoder and learns s for each step and coordinate (Nijkamp et al. 2020, arXiv
  1912.01909; An, Xie & Li 2021, arXiv 2106.02513, use the same chain).

Both give the Gaussian N(m, s²) of their last step, given the path before it. For any path that is a density of u, so
E_path E_u [log p(x, u) − log N(u; m, s²)] ≤ log p(x) by Jensen's inequality: the bound holds without the marginal
density of the chain's end, and its gradient in s is how `ShortRun` learns its steps.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from textebm.networks.modes import held
from textebm.networks.posterior import Draw, Posterior
from textebm.prior.sampler import tame
from textebm.prior.transport import resting

Score = Callable[[Tensor], Tensor]  # u (B, d) -> ∇_u log p(x, u) (B, d), detached

LEARNING_SHARE = 8  # one row in so many teaches the step sizes: its gradient costs two more passes a step
DIFFERENCE = 1e-2  # half the distance over which Hessian-vector products are taken


def langevin_kernel(score: Score, u: Tensor, sizes: Tensor, noise: Tensor) -> Posterior:
    """The last step's Gaussian after K − 1 steps from u (B, d). sizes (K, B or 1, d), noise (K − 1, B, d).

    The drift of a step is clipped at the length of its noise: far from the posterior its gradient may be steep.
    Differentiable in the sizes.
    """

    def mean(u: Tensor, size: Tensor) -> Tensor:
        gradient: Tensor = _Differentiable.apply(u, score)
        drift = 0.5 * size.square() * gradient
        return u + tame(drift, size.norm(dim=-1, keepdim=True))

    for size, xi in zip(sizes[:-1], noise, strict=True):
        u = mean(u, size) + size * xi
    return Posterior(mean(u, sizes[-1]), sizes[-1].expand_as(u))


class _Differentiable(torch.autograd.Function):
    """A score with a derivative: Hessian times vector by central differences along it. Exact second derivatives would
    ask for a second backward pass through the decoder, which its fused softmax and cuDNN do not have."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, score: Score) -> Tensor:
        ctx.save_for_backward(u)
        ctx.score = score
        return score(u.detach())

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, None]:
        (vector,) = outputs
        (u,) = ctx.saved_tensors
        norm = vector.norm(dim=-1, keepdim=True)
        step = DIFFERENCE * vector / norm.clamp_min(1e-30)
        return (ctx.score(u + step) - ctx.score(u - step)) * norm / (2 * DIFFERENCE), None


@dataclass(frozen=True)
class Refinement:
    """steps of size step_size · stddev of q(u|x). elbo_weight: what q's own bound counts for in the encoder's loss,
    beside −log q(u|x) at the refined u."""

    steps: int = 5
    step_size: float = 0.7
    elbo_weight: float = 1.0

    def kernel(self, score: Score, draw: Draw, generator: torch.Generator | None = None) -> Posterior:
        """The last of the steps from a draw of q; a draw of it is the refined u. Detached."""
        u, stddev = draw.u.detach(), draw.given.stddev.detach()
        noise = torch.randn(self.steps - 1, *u.shape, device=u.device, generator=generator)
        with torch.no_grad():
            return langevin_kernel(score, u, (self.step_size * stddev).expand(self.steps, -1, -1), noise)

    def mode(self, score: Score, posterior: Posterior, steps: int) -> Posterior:
        """q moved uphill: *steps* without noise from its mean, its standard deviation kept. For use, not training:
        noise would serve a draw, and harms the one point that stands for the text."""
        sizes = (self.step_size * posterior.stddev).expand(steps, -1, -1)
        with torch.no_grad():
            moved = langevin_kernel(score, posterior.mean, sizes, torch.zeros_like(sizes[1:]))
        return Posterior(moved.mean, posterior.stddev)


class ShortRun(nn.Module):
    """Stands where an encoder does: K Langevin steps from N(0, I), their sizes (K, d) learned by the bound."""

    embedding: nn.Embedding | None = None  # it reads no words
    head: None = None  # nothing to standardise
    view: None = None  # nothing to read one off

    def __init__(self, dim: int, steps: int, step_size: float):
        super().__init__()
        self.log_size = nn.Parameter(torch.full((steps, dim), math.log(step_size)))

    @property
    def steps(self) -> int:
        return len(self.log_size)

    def forward(self, score_of: Callable[[slice], Score], noise: Tensor) -> Posterior:
        """The last step's Gaussian. score_of: the score of some of the rows; noise (K, B, d), the start first.

        In training one row in eight has a gradient in the step sizes.
        """
        taught_rows = -(-noise.shape[1] // LEARNING_SHARE)
        split = taught_rows if self.training and torch.is_grad_enabled() else 0
        kernels = []
        for rows, taught in ((slice(0, split), True), (slice(split, noise.shape[1]), False)):
            start, *rest = noise[:, rows].split([1, self.steps - 1])
            if start.shape[1]:
                with torch.set_grad_enabled(taught):
                    kernels.append(langevin_kernel(score_of(rows), start[0], self.log_size.exp()[:, None], rest[0]))
        return Posterior(torch.cat([each.mean for each in kernels]), torch.cat([each.stddev for each in kernels]))


def text_noise(tokens: Tensor, lengths: Tensor, count: int, dim: int, seed: int) -> Tensor:
    """Standard normal noise (count, B, dim) that the text and the seed alone decide, whatever the batch around it."""
    rows = []
    for text, length in zip(tokens.cpu(), lengths.tolist(), strict=True):
        key = zlib.crc32(text[:length].numpy().tobytes(), seed % 2**32)  # torch's generator takes 32 bits of a seed
        rows.append(torch.randn(count, dim, generator=torch.Generator().manual_seed(key)))
    return torch.stack(rows, dim=1).to(tokens.device)


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """*module* as evaluation has it, its parameters without gradients. cuDNN goes backward through recurrent layers in
    training mode alone; theirs differ in nothing, as they have no dropout of their own."""

    def take() -> Callable[[], None]:
        modes = {each: each.training for each in module.modules()}
        for each in modes:
            each.training = isinstance(each, nn.RNNBase)

        def give_back() -> None:
            for each, mode in modes.items():
                each.training = mode

        return give_back

    with held(module, "frozen", take), resting(module):
        yield
