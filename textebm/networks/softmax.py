"""Cross-entropy of a large softmax without ever holding all its logits.

A batch of (N, V) logits is the largest tensor of a text model (128 sentences of 22 words at V = 10,000: 113 MB, three
times over with its softmax and gradient). Here each chunk of rows is turned into loss *and* gradient while it is in the
cache, so that the backward pass only scales what is there (the idea of "cut" and fused linear cross-entropies; Wijmans
et al. 2024, arXiv 2411.09009).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

# Float32 logits of one chunk. On a CPU: small enough to stay in the cache, and below the size at which malloc gives its
# pages back to the system each time. On a GPU: large enough that kernels are few.
CHUNK_BYTES = {"cpu": 12 << 20}
CHUNK_BYTES_GPU = 512 << 20
# A chunk reads the whole weight: with fewer rows than this, a large vocabulary's memory traffic outweighs its products.
LEAST_ROWS = 256
# Chunks are padded to a multiple of so many rows: oneDNN compiles and keeps a kernel for each shape it meets; batches
# never have the same number of words twice (400 batches of other sizes: 1.1 GB of kernels; padded: none to speak of).
ROWS = 64


def linear_cross_entropy(hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """−log softmax(hidden Wᵀ + b)[target] of each row, nats.

    hidden (N, E), weight (V, E), bias (V,), targets (N,) int64 -> (N,) float32. Under autocast the matrix products run
    in its dtype, everything else in float32.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    if not torch.is_grad_enabled():  # evaluation; a Function would not know
        return _chunked(hidden, weight, bias, targets, dtype, None, (False, False, False))[0]
    loss: Tensor = _LinearCrossEntropy.apply(hidden, weight, bias, targets, dtype)
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    """The gradient is made in the forward pass, for rows that all count alike (a mean); others are done again."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
        wanted = ctx.needs_input_grad[:3]
        losses, gradients = _chunked(hidden, weight, bias, targets, dtype, None, wanted)
        if any(wanted):
            ctx.save_for_backward(hidden, weight, bias, targets, *gradients)
            ctx.dtype = dtype
        return losses

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, *gradients = ctx.saved_tensors
        (scale,) = outputs
        if len(scale) and bool((scale != scale[0]).any()):
            _, gradients = _chunked(hidden, weight, bias, targets, ctx.dtype, scale, ctx.needs_input_grad[:3])
        elif len(scale):
            gradients = [None if each is None else each * scale[0].to(each.dtype) for each in gradients]
        return (*gradients, None, None)


def _chunked(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
    dtype: torch.dtype,
    row_weight: Tensor | None,
    wanted: Sequence[bool],
) -> tuple[Tensor, list[Tensor | None]]:
    """Losses (N,), and the gradients of their (weighted) sum in those of hidden, weight and bias that are *wanted*."""
    n = len(hidden)
    most = max(LEAST_ROWS, CHUNK_BYTES.get(hidden.device.type, CHUNK_BYTES_GPU) // (4 * len(weight)))
    chunks = max(1, math.ceil(n / most))
    rows = max(1, math.ceil(n / (chunks * ROWS))) * ROWS
    small_hidden = torch.zeros(chunks * rows, hidden.shape[1], dtype=dtype, device=hidden.device)
    small_hidden[:n] = hidden
    small_weight = weight.to(dtype)
    losses = torch.empty(n, device=hidden.device)
    in_hidden = torch.empty_like(hidden) if wanted[0] else None
    in_weight = torch.zeros_like(weight) if wanted[1] else None
    in_bias = torch.zeros_like(bias) if wanted[2] else None
    for start in range(0, n, rows):
        part = slice(start, min(start + rows, n))
        real, target = part.stop - part.start, targets[part, None]
        x = small_hidden[start : start + rows]
        logits = (x @ small_weight.t()).float().add_(bias)  # (rows, V)
        residual = logits.softmax(-1)  # one fused pass; its largest entry, at least 1/V, gives the normaliser
        normaliser = logits.amax(-1, keepdim=True) - residual.amax(-1, keepdim=True).log()
        losses[part] = (normaliser[:real] - logits[:real].gather(1, target))[:, 0]
        if not any(wanted):
            continue
        residual[:real].scatter_add_(1, target, -torch.ones_like(normaliser[:real]))  # the logits' gradient
        residual[real:] = 0
        if row_weight is not None:
            residual[:real] *= row_weight[part, None]
        small = residual.to(dtype)
        if in_hidden is not None:
            in_hidden[part] = (small @ small_weight)[:real].to(hidden.dtype)
        if in_weight is not None and in_weight.dtype == dtype:
            in_weight.addmm_(small.t(), x)
        elif in_weight is not None:
            in_weight += small.t() @ x
        if in_bias is not None:
            in_bias += residual.sum(0)
    return losses, [in_hidden, in_weight, in_bias]
