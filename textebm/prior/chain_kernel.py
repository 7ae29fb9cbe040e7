"""A whole chain as one Triton kernel: what the two proposals of `prior.sampler` do with a `FixedPotential`.

One program keeps a few rows through all steps of the chain, where the plain chain starts some seventy kernels a step.
The points are in registers; weights (one to two MB) and the inputs of the SiLUs, which the backward pass needs, come
from the caches.

Noise is drawn outside, by the generator and in the order of the plain chain, so that a seed gives the same chain up to
rounding. This file needs triton, which PyTorch's CUDA builds bring: `sampling.run_chain` imports it where
`prior.fused_chains` asks for it, nothing else does.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from textebm.prior.fixed import FixedPotential
from textebm.prior.sampler import ChainResult

ROWS = 16  # of a program: the least that a matrix product takes, so that a small batch is spread widely
CHUNKS = {2: 128, 4: 64}  # hidden units of one product, by the bytes of a weight: 72 KB of shared memory at most
WARPS = 8


@triton.jit
def _silu(x):  # type: ignore[no-untyped-def]
    return x * tl.sigmoid(x)


@triton.jit
def _silu_slope(x):  # type: ignore[no-untyped-def]
    s = tl.sigmoid(x)
    return s * (1 + x * (1 - s))


@triton.jit
def _rows_times(  # type: ignore[no-untyped-def]
    total, rows, weight, row_stride, column_stride, hidden: tl.constexpr, chunk: tl.constexpr, columns: tl.constexpr
):
    """total (M, columns) + what lies at *rows* (M, hidden) @ the weight's columns from *weight* on."""
    k, c = tl.arange(0, chunk), tl.arange(0, columns)
    for i in range(hidden // chunk):
        part = tl.load(rows + (i * chunk + k)[None, :])
        block = tl.load(weight + (i * chunk + k)[:, None] * row_stride + c[None, :] * column_stride)
        total = tl.dot(part, block, total, input_precision="ieee")  # of float32; of bfloat16 there is but one
    return total


@triton.jit
def _energy(  # type: ignore[no-untyped-def]
    w,
    row,
    inside,
    scratch,
    residual,
    weights,
    classes,
    strengths,
    n,
    hidden: tl.constexpr,
    blocks: tl.constexpr,
    chunk: tl.constexpr,
    dim: tl.constexpr,
    width: tl.constexpr,
    heads: tl.constexpr,
):
    """F (M,), up to its constant, and ∇F (M, dim) at w (M, dim). The backward pass is `energy_gradient`'s.

    scratch: (rows, 2 blocks + 3, hidden), the inputs of each SiLU and two layers' outputs; residual (rows, hidden).
    Each program writes and reads its own rows: between the two all its threads wait for each other.
    """
    input_weight, input_bias, weight1, bias1, weight2, bias2, output_weight, output_bias = weights
    kind = input_weight.dtype.element_ty
    unit, column, axis = tl.arange(0, chunk), tl.arange(0, width), tl.arange(0, dim)
    seen = scratch + row[:, None] * ((2 * blocks + 3) * hidden)
    active = seen + (2 * blocks + 1) * hidden
    inner = active + hidden
    x_rows = residual + row[:, None] * hidden
    chunks: tl.constexpr = hidden // chunk
    square: tl.constexpr = hidden * hidden

    for j in range(chunks):
        place = (j * chunk + unit)[None, :]
        bias = tl.load(input_bias + row[:, None] * hidden + place, inside[:, None], 0.0).to(tl.float32)
        x = tl.dot(w.to(kind), tl.load(input_weight + axis[:, None] * hidden + place), bias, input_precision="ieee")
        tl.store(x_rows + place, x)
        tl.store(seen + place, x.to(kind))
        tl.store(active + place, _silu(x).to(kind))
    tl.debug_barrier()
    for block in range(blocks):
        layer = seen + (2 * block + 1) * hidden
        for j in range(chunks):
            place = (j * chunk + unit)[None, :]
            start = tl.load(bias1 + (block * n + row)[:, None] * hidden + place, inside[:, None], 0.0).to(tl.float32)
            a = _rows_times(start, active, weight1 + block * square + j * chunk, hidden, 1, hidden, chunk, chunk)
            tl.store(layer + place, a.to(kind))
            tl.store(inner + place, _silu(a).to(kind))
        tl.debug_barrier()
        for j in range(chunks):
            place = (j * chunk + unit)[None, :]
            start = tl.load(x_rows + place) + tl.load(bias2 + block * hidden + place).to(tl.float32)
            x = _rows_times(start, inner, weight2 + block * square + j * chunk, hidden, 1, hidden, chunk, chunk)
            tl.store(x_rows + place, x)
            tl.store(layer + hidden + place, x.to(kind))
            tl.store(active + place, _silu(x).to(kind))
        tl.debug_barrier()

    start = tl.zeros((w.shape[0], width), tl.float32) + tl.load(output_bias + column)[None, :].to(tl.float32)
    logits = _rows_times(start, active, output_weight, width, 1, hidden, chunk, width)
    value = tl.zeros((w.shape[0],), tl.float32)
    slope = tl.zeros((w.shape[0], width), tl.float32)
    first = 0
    for head in tl.static_range(len(heads)):
        own = ((column >= first) & (column < first + heads[head]))[None, :]
        greatest = tl.max(tl.where(own, logits, -float("inf")), 1)
        power = tl.where(own, tl.exp(logits - greatest[:, None]), 0.0)
        total = tl.sum(power, 1)
        log_sum = greatest + tl.log(total)
        strength = tl.load(strengths + head * n + row, inside, 0.0)
        chosen = column[None, :] == (first + tl.load(classes + head * n + row, inside, 0))[:, None]
        asked = tl.sum(tl.where(chosen, logits, 0.0), 1)
        value += log_sum + strength * (asked - log_sum)
        slope += (1 - strength)[:, None] * (power / total[:, None]) + tl.where(chosen, strength[:, None], 0.0)
        first += heads[head]

    tl.debug_barrier()  # everybody has read *active*, which now holds the gradient in x
    for j in range(chunks):
        place = (j * chunk + unit)[None, :]
        turned = tl.load(output_weight + (j * chunk + unit)[None, :] * width + column[:, None])
        g = tl.dot(slope.to(kind), turned, tl.zeros((w.shape[0], chunk), tl.float32), input_precision="ieee")
        g *= _silu_slope(tl.load(seen + 2 * blocks * hidden + place).to(tl.float32))
        tl.store(x_rows + place, g)
        tl.store(active + place, g.to(kind))
    tl.debug_barrier()
    for up in range(blocks):
        block = blocks - 1 - up
        layer = seen + (2 * block + 1) * hidden
        for j in range(chunks):
            place = (j * chunk + unit)[None, :]
            turned = weight2 + block * square + j * chunk * hidden
            zero = tl.zeros((w.shape[0], chunk), tl.float32)
            g = _rows_times(zero, active, turned, 1, hidden, hidden, chunk, chunk)
            g *= _silu_slope(tl.load(layer + place).to(tl.float32))
            tl.store(inner + place, g.to(kind))
        tl.debug_barrier()
        for j in range(chunks):
            place = (j * chunk + unit)[None, :]
            turned = weight1 + block * square + j * chunk * hidden
            zero = tl.zeros((w.shape[0], chunk), tl.float32)
            g = _rows_times(zero, inner, turned, 1, hidden, hidden, chunk, chunk)
            g = tl.load(x_rows + place) + g * _silu_slope(tl.load(layer - hidden + place).to(tl.float32))
            tl.store(x_rows + place, g)
            tl.store(active + place, g.to(kind))
        tl.debug_barrier()
    zero = tl.zeros((w.shape[0], dim), tl.float32)
    gradient = _rows_times(zero, active, input_weight, 1, hidden, hidden, chunk, dim)
    tl.debug_barrier()
    return value, gradient


@triton.jit(do_not_specialize=["n", "steps"])
def _chain(  # type: ignore[no-untyped-def]
    start,
    mean,
    stddev,
    length,
    spread,
    noise,
    uniforms,
    scratch,
    residual,
    weights,
    classes,
    strengths,
    end,
    end_gradient,
    acceptance,
    n,
    steps,
    size: tl.constexpr,
    hidden: tl.constexpr,
    blocks: tl.constexpr,
    chunk: tl.constexpr,
    dim: tl.constexpr,
    width: tl.constexpr,
    heads: tl.constexpr,
    metropolis: tl.constexpr,
    langevin: tl.constexpr,
    rows: tl.constexpr,
):
    """The chain of `rows` points. *length* (n,): ρ of each row, or ε of a Langevin chain."""
    row = tl.program_id(0) * rows + tl.arange(0, rows)
    inside = row < n
    axis = tl.arange(0, dim)
    place = row[:, None] * size + axis[None, :]
    real = inside[:, None] & (axis < size)[None, :]
    middle = tl.load(mean + place, real, 0.0)
    new = tl.load(start + place, real, 0.0)
    s = tl.load(stddev + row, inside, 1.0)[:, None]
    step_length = tl.load(length + row, inside, 0.5)[:, None]
    variance = s * s * tl.load(spread + axis, axis < size, 1.0)[None, :]
    scale = step_length + tl.zeros((rows, dim), tl.float32)
    if not langevin:
        scale = tl.sqrt(1 - step_length * step_length) * tl.sqrt(variance)
    limit = s * tl.sqrt(size + 0.0)

    w, centre, gradient, step_noise = new, new, tl.zeros((rows, dim), tl.float32), tl.zeros((rows, dim), tl.float32)
    value, accepted = tl.zeros((rows,), tl.float32), tl.zeros((rows,), tl.float32)
    for step in range(steps + 1):  # the first turn only evaluates: its point is always taken
        if step > 0:
            step_noise = tl.load(noise + (step - 1) * n * size + place, real, 0.0)
            new = centre + scale * step_noise
        new_value, new_gradient = _energy(
            new,
            row,
            inside,
            scratch,
            residual,
            weights,
            classes,
            strengths,
            n,
            hidden,
            blocks,
            chunk,
            dim,
            width,
            heads,
        )
        away = new - middle
        if langevin:
            new_centre = new + 0.5 * step_length * step_length * (new_gradient - away / (s * s))
        else:
            drift = (1 - step_length) * variance * (new_gradient - (1 / (s * s) - 1 / variance) * away)
            norm = tl.sqrt(tl.sum(drift * drift, 1))[:, None]
            new_centre = middle + step_length * away + drift * tl.minimum(limit / tl.maximum(norm, 1e-12), 1.0)
        back, before = (w - new_centre) / scale, (w - middle) / s
        away = away / s
        log_ratio = new_value - value
        log_ratio -= 0.5 * tl.sum(away * away - before * before, 1)
        log_ratio -= 0.5 * tl.sum(tl.where(real, back * back - step_noise * step_noise, 0.0), 1)
        probability = tl.exp(tl.minimum(log_ratio, 0.0))
        probability = tl.where(probability == probability, probability, 0.0)
        if step > 0:
            accepted += probability
        if metropolis:
            drawn = tl.load(uniforms + (step - 1) * n + row, inside & (step > 0), 0.0)
            take = (drawn < probability) | (step == 0)
            new, new_centre = tl.where(take[:, None], new, w), tl.where(take[:, None], new_centre, centre)
            new_value = tl.where(take, new_value, value)
            new_gradient = tl.where(take[:, None], new_gradient, gradient)
        w, value, centre, gradient = new, new_value, new_centre, new_gradient
    tl.store(end + place, w, real)
    tl.store(end_gradient + place, gradient, real)
    tl.store(acceptance + row, accepted / tl.maximum(steps, 1), inside)


def semi_implicit(
    potential: FixedPotential,
    w: Tensor,
    mean: Tensor,
    stddev: Tensor | float,
    rho: Tensor | float,
    steps: int,
    *,
    spread: Tensor | float = 1.0,
    generator: torch.Generator | None = None,
    metropolis: bool = False,
) -> ChainResult:
    """What `sampler.semi_implicit` gives; stddev and rho are numbers, (1,) or (B, 1), spread a number or (d,)."""
    return _run(potential, w, mean, stddev, rho, spread, steps, generator, metropolis=metropolis, langevin=False)


def langevin(
    potential: FixedPotential,
    w: Tensor,
    mean: Tensor,
    stddev: Tensor | float,
    step_size: float,
    steps: int,
    *,
    generator: torch.Generator | None = None,
    metropolis: bool = False,
) -> ChainResult:
    """What `sampler.langevin` gives; stddev is a number, (1,) or (B, 1)."""
    epsilon = step_size * stddev
    return _run(potential, w, mean, stddev, epsilon, 1.0, steps, generator, metropolis=metropolis, langevin=True)


@torch.no_grad()
def _run(
    potential: FixedPotential,
    w: Tensor,
    mean: Tensor,
    stddev: Tensor | float,
    length: Tensor | float,
    spread: Tensor | float,
    steps: int,
    generator: torch.Generator | None,
    *,
    metropolis: bool,
    langevin: bool,
) -> ChainResult:
    n, size = w.shape
    noise, uniforms = w.new_empty(steps, n, size), w.new_empty(steps, n)
    for step in range(steps):
        noise[step] = torch.empty_like(w).normal_(generator=generator)
        if metropolis:
            uniforms[step] = torch.rand(n, device=w.device, generator=generator)

    def filled(value: Tensor | float, length: int) -> Tensor:
        return torch.as_tensor(value, dtype=torch.float32, device=w.device).reshape(-1).expand(length).contiguous()

    end, gradient, acceptance = torch.empty_like(w), torch.empty_like(w), w.new_empty(n)
    arguments, constants = packed(potential, n, w.device)
    _chain[(triton.cdiv(n, ROWS),)](
        w.contiguous(),
        mean.contiguous(),
        filled(stddev, n),
        filled(length, n),
        filled(spread, size),
        noise,
        uniforms,
        *arguments,
        end,
        gradient,
        acceptance,
        n,
        steps,
        size=size,
        **constants,
        metropolis=metropolis,
        langevin=langevin,
        rows=ROWS,
        num_warps=WARPS,
    )
    return ChainResult(end, gradient, acceptance, steps + 1)


def packed(potential: FixedPotential, n: int, device: torch.device) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The kernel's arguments and constants of this potential for n rows: layers filled up with zeros to whole chunks,
    which change nothing."""
    energy = potential.energy
    weight, bias = energy.inputs
    chunk = CHUNKS[weight.element_size()]
    dim, hidden = _power(weight.shape[0]), chunk * triton.cdiv(weight.shape[1], chunk)
    width = _power(sum(energy.sizes))
    filled = partial(_filled, dtype=weight.dtype)
    first, shift, second, shift2 = ([block[i] for block in energy.blocks] for i in range(4))
    weights = (
        filled(weight, dim, hidden),
        filled(bias.expand(n, -1), n, hidden),
        torch.stack([filled(x, hidden, hidden) for x in first]),
        torch.stack([filled(x.expand(n, -1), n, hidden) for x in shift]),
        torch.stack([filled(x, hidden, hidden) for x in second]),
        torch.stack([filled(x, None, hidden) for x in shift2]),
        filled(energy.outputs[0], hidden, width),
        filled(energy.outputs[1], None, width),
    )
    classes = torch.zeros(len(energy.sizes), n, dtype=torch.int32, device=device)
    strengths = torch.zeros(len(energy.sizes), n, device=device)
    for place, (chosen, strength) in potential.asked.items():
        classes[place], strengths[place] = chosen[:, 0].to(torch.int32), strength[:, 0]
    constants = {
        "hidden": hidden,
        "blocks": len(energy.blocks),
        "chunk": chunk,
        "dim": dim,
        "width": width,
        "heads": tuple(energy.sizes),
    }
    whole_rows = ROWS * triton.cdiv(n, ROWS)
    scratch = torch.empty(whole_rows, 2 * len(energy.blocks) + 3, hidden, dtype=weight.dtype, device=device)
    residual = torch.empty(whole_rows, hidden, device=device)
    return (scratch, residual, weights, classes, strengths), constants


def _power(size: int) -> int:
    return max(16, triton.next_power_of_2(size))


def _filled(x: Tensor, rows: int | None, columns: int, dtype: torch.dtype) -> Tensor:
    """x in the upper left corner of zeros (rows, columns), or (columns,)."""
    out = torch.zeros(columns if rows is None else (rows, columns), dtype=dtype, device=x.device)
    out[tuple(slice(size) for size in x.shape)] = x
    return out
