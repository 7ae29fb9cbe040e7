"""An `EnergyNet` at fixed weights and levels: its logits, and their gradient in u without an autograd graph.

A chain asks one small network for ∇F tens of times. What does not change between its steps is done once: spectral norms
are divided out, the level's shift is added to the bias of each block's first layer, weights are cast. The backward pass
is written out. Each SiLU and each derivative of one is one pass over the data; keeping the forward pass's sigmoids for
the second took more passes, and 2 to 20 % more time (float32 most).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from textebm.networks.energy import EnergyNet

Inputs = list[Tensor]  # of each SiLU


@dataclass(frozen=True)
class FixedEnergy:
    """weight (in, out) of each layer; bias (out,), or (B, out) where the rows' levels differ."""

    inputs: tuple[Tensor, Tensor]
    blocks: list[tuple[Tensor, Tensor, Tensor, Tensor]]
    outputs: tuple[Tensor, Tensor]
    sizes: list[int]

    def logits(self, u: Tensor) -> tuple[list[Tensor], Inputs]:
        """u (B, d) -> what `EnergyNet.all_logits` gives, and what `pull_back` needs."""
        x = torch.addmm(self.inputs[1], u.to(self.inputs[0].dtype), self.inputs[0])
        seen = [x]
        for weight1, bias1, weight2, bias2 in self.blocks:
            a = torch.addmm(bias1, F.silu(x), weight1)
            x = torch.addmm(bias2, F.silu(a), weight2).add_(x)
            seen += [a, x]
        found = torch.addmm(self.outputs[1], F.silu(x), self.outputs[0])
        return list(found.float().split(self.sizes, dim=-1)), seen

    def pull_back(self, gradients: list[Tensor], seen: Inputs) -> Tensor:
        """Gradients in each head's logits, [(B, K_h)] -> the gradient in u, (B, d) float32. Uses *seen* up."""
        outputs = self.outputs[0]
        g = _silu_backward(torch.cat(gradients, dim=-1).to(outputs.dtype) @ outputs.t(), seen.pop())
        for weight1, _, weight2, _ in reversed(self.blocks):
            inner = _silu_backward(g @ weight2.t(), seen.pop())
            g = g.add_(_silu_backward(inner @ weight1.t(), seen.pop()))
        return (g @ self.inputs[0].t()).float()


_silu_backward = torch.ops.aten.silu_backward  # gradient, x -> gradient · silu'(x)


@torch.no_grad()
def fix(
    net: EnergyNet, level: Tensor, dtype: torch.dtype = torch.float32, context: Tensor | None = None
) -> FixedEnergy:
    """*net* at the levels (B,), or at one level () that all rows share; and at the contexts (B, C) of a conditional
    net, which are a bias of its first layer."""
    bias = net.inputs.bias
    if net.context is not None:
        assert context is not None, "this energy net is conditional: pass the context"
        bias = bias + net.context(context)
    shifts = net.level(level).chunk(max(1, len(net.blocks)), dim=-1)[: len(net.blocks)]
    blocks = [
        (first.weight.t(), (first.bias + shift), second.weight.t(), second.bias)
        for (first, second), shift in zip(net.blocks, shifts, strict=True)
    ]

    def cast(tensor: Tensor) -> Tensor:
        return tensor.to(dtype)

    return FixedEnergy(
        (cast(net.inputs.weight.t()), cast(bias)),
        [(cast(w1), cast(b1), cast(w2), cast(b2)) for w1, b1, w2, b2 in blocks],
        (cast(net.outputs.weight.t()), cast(net.outputs.bias)),
        net._sizes,
    )
