"""Cross-entropy of a large softmax without ever holding all its logits.

A batch of (N, V) logits is the largest tensor of a text model (128 sentences of 22 words at V = 10,000: 113 MB, three
times over with its softmax and gradient). Here each chunk of rows is turned into loss *and* gradient while it is in the
cache, so that the backward pass only scales what is there (the idea of "cut" and fused linear cross-entropies; Wijmans
et al. 2024, arXiv 2411.09009).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

# Float32 logits of one chunk. On a CPU: small enough to stay in the cache, and below the size at which malloc gives its
# pages back to the system each time. On a GPU: large enough that kernels are few.
CHUNK_BYTES = {"cpu": 12 << 20}
CHUNK_BYTES_GPU = 512 << 20
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
        return _chunked(hidden, weight, bias, targets, dtype, None, False)[0]
    loss: Tensor = _LinearCrossEntropy.apply(hidden, weight, bias, targets, dtype)
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    """The gradient is made in the forward pass, for rows that all count alike (a mean); others are done again."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
        wanted = any(ctx.needs_input_grad[:3])
        losses, gradients = _chunked(hidden, weight, bias, targets, dtype, None, wanted)
        if wanted:
            ctx.save_for_backward(hidden, weight, bias, targets, *gradients)
            ctx.dtype = dtype
        return losses

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, *gradients = ctx.saved_tensors
        (scale,) = outputs
        if len(scale) and bool((scale != scale[0]).any()):
            _, gradients = _chunked(hidden, weight, bias, targets, ctx.dtype, scale, True)
        elif len(scale):
            gradients = [gradient * scale[0].to(gradient.dtype) for gradient in gradients]
        return gradients[0].to(hidden.dtype), gradients[1], gradients[2], None, None


def _chunked(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
    dtype: torch.dtype,
    row_weight: Tensor | None,
    wanted: bool,
) -> tuple[Tensor, list[Tensor]]:
    """Losses (N,), and if wanted the gradients of their (weighted) sum in hidden, weight and bias."""
    n = len(hidden)
    most = max(ROWS, CHUNK_BYTES.get(hidden.device.type, CHUNK_BYTES_GPU) // (4 * len(weight)))
    chunks = max(1, math.ceil(n / most))
    rows = max(1, math.ceil(n / (chunks * ROWS))) * ROWS
    small_hidden = torch.zeros(chunks * rows, hidden.shape[1], dtype=dtype, device=hidden.device)
    small_hidden[:n] = hidden
    small_weight = weight.to(dtype)
    losses = torch.empty(n, device=hidden.device)
    gradients = []
    if wanted:
        gradients = [torch.empty_like(hidden), torch.zeros_like(weight), torch.zeros_like(bias)]
    for start in range(0, n, rows):
        part = slice(start, min(start + rows, n))
        real, target = part.stop - part.start, targets[part, None]
        x = small_hidden[start : start + rows]
        logits = (x @ small_weight.t()).float().add_(bias)  # (rows, V)
        residual = logits.softmax(-1)  # one fused pass; its largest entry, at least 1/V, gives the normaliser
        normaliser = logits.amax(-1, keepdim=True) - residual.amax(-1, keepdim=True).log()
        losses[part] = (normaliser[:real] - logits[:real].gather(1, target))[:, 0]
        if wanted:  # softmax − one-hot is the logits' gradient
            residual[:real].scatter_add_(1, target, -torch.ones_like(normaliser[:real]))
            residual[real:] = 0
            if row_weight is not None:
                residual[:real] *= row_weight[part, None]
            gradients[2] += residual.sum(0)
            small = residual.to(dtype)
            gradients[0][part] = (small @ small_weight)[:real].to(hidden.dtype)
            gradients[1] += small.t() @ x
    return losses, gradients
