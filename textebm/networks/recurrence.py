"""A GRU's and an LSTM's loop over the steps of a sentence, with its backward pass written out.

What autograd would record step by step is done on whole buffers: activations overwrite the gates they come from, the
gradients of all steps lie in one tensor, and the recurrent weights' gradient is one matrix product at the end (batch
128 of 18 words, 256 → 512, bfloat16, two Zen cores: 55 ms against autograd's 63 forward and backward; the products
alone take 40). `RecurrentLayer`'s single steps are the plain version, and the test's reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_tanh_backward = torch.ops.aten.tanh_backward.grad_input  # gradient, tanh(x), into: gradient · tanh'(x)
_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input


class GRULoop(torch.autograd.Function):
    """gates (T, B, 3H), the input half; h_0 (B, H); recurrent weight (3H, H) and bias (3H,) -> h_1 … h_T, (T, B, H)."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, first: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        size = first.shape[-1]
        states = torch.cat([first[None], gates.new_empty(len(gates), *first.shape)])
        seen = torch.empty_like(gates)  # reset and update gates, and the candidate's recurrent half
        candidates = torch.empty_like(states[1:])
        for gate, here, candidate, h, new in zip(gates, seen, candidates, states, states[1:], strict=False):
            torch.addmm(bias, h, weight.t(), out=here)
            here[:, : 2 * size].add_(gate[:, : 2 * size]).sigmoid_()
            reset, update, recurrent = here.chunk(3, -1)
            torch.addcmul(gate[:, 2 * size :], reset, recurrent, out=candidate).tanh_()
            torch.lerp(candidate, h, update, out=new)
        ctx.save_for_backward(states, seen, candidates, weight)
        return states[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        states, seen, candidates, weight = ctx.saved_tensors
        (outer,), size = gradients, states.shape[-1]
        inner = torch.empty_like(seen)  # in what the recurrent product gave
        last = torch.empty_like(candidates)  # in the candidate's input
        dh = outer[-1]
        for t in range(len(seen) - 1, -1, -1):
            (reset, update, recurrent), (d_reset, d_update, d_recurrent) = seen[t].chunk(3, -1), inner[t].chunk(3, -1)
            kept = dh * update
            _tanh_backward(dh - kept, candidates[t], grad_input=last[t])
            torch.mul(last[t], recurrent, out=d_reset)
            torch.mul(dh, states[t] - candidates[t], out=d_update)
            both = inner[t, :, : 2 * size]
            _sigmoid_backward(both, seen[t, :, : 2 * size], grad_input=both)
            torch.mul(last[t], reset, out=d_recurrent)
            if t:
                kept += outer[t - 1]
            dh = kept.addmm_(inner[t], weight)
        found = _weight_gradients(ctx.needs_input_grad[2:], inner, states)
        inner[..., 2 * size :] = last
        return inner, dh, *found


class LSTMLoop(torch.autograd.Function):
    """gates (T, B, 4H), the input half; h_0 and c_0 (B, H); recurrent weight (4H, H) and bias (4H,) -> (T, B, H)."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, first: Tensor, cell: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        size = first.shape[-1]
        states = torch.cat([first[None], gates.new_empty(len(gates), *first.shape)])
        cells = torch.cat([cell[None], torch.empty_like(states[1:])])
        seen, bent = torch.empty_like(gates), torch.empty_like(states[1:])  # i, f, g, o; tanh c
        for t, (gate, here) in enumerate(zip(gates, seen, strict=True)):
            torch.addmm(bias, states[t], weight.t(), out=here).add_(gate)
            i_f, g, o = here.split([2 * size, size, size], -1)
            i, f = i_f.sigmoid_().chunk(2, -1)
            torch.mul(cells[t], f, out=cells[t + 1]).addcmul_(i, g.tanh_())
            torch.mul(o.sigmoid_(), torch.tanh(cells[t + 1], out=bent[t]), out=states[t + 1])
        ctx.save_for_backward(states, cells, seen, bent, weight)
        return states[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        states, cells, seen, bent, weight = ctx.saved_tensors
        (outer,), size = gradients, states.shape[-1]
        inner = torch.empty_like(seen)
        dh, dc = outer[-1], torch.zeros_like(cells[0])
        for t in range(len(seen) - 1, -1, -1):
            (i, f, g, o), (d_i, d_f, d_g, d_o) = seen[t].chunk(4, -1), inner[t].chunk(4, -1)
            torch.mul(dh, bent[t], out=d_o)
            dc = dc + torch.ops.aten.tanh_backward(dh * o, bent[t])
            torch.mul(dc, g, out=d_i)
            torch.mul(dc, cells[t], out=d_f)
            torch.mul(dc, i, out=d_g)
            dc *= f
            for part, value in ((slice(2 * size), seen[t, :, : 2 * size]), (slice(3 * size, None), o)):
                _sigmoid_backward(inner[t, :, part], value, grad_input=inner[t, :, part])
            _tanh_backward(d_g, g, grad_input=d_g)
            dh = torch.addmm(outer[t - 1], inner[t], weight) if t else inner[t] @ weight
        return inner, dh, dc, *_weight_gradients(ctx.needs_input_grad[3:], inner, states)


def _weight_gradients(wanted: Sequence[bool], inner: Tensor, states: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Of the recurrent weight and bias, from the gradients (T, B, G·H) in what they gave and the states before."""
    flat = inner.flatten(0, 1)
    return flat.t() @ states[:-1].flatten(0, 1) if wanted[0] else None, flat.sum(0) if wanted[1] else None
