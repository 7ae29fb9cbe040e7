"""A recurrent layer: `torch.nn.GRU` or `torch.nn.LSTM` for whole sentences, and its single steps for decoding."""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Cell = Literal["gru", "lstm"]
State = tuple[Tensor, ...]


class RecurrentLayer(nn.Module):
    """One unidirectional GRU or LSTM layer.

    The state is a tuple of (B, H) tensors: ``(h,)`` for a GRU, ``(h, c)`` for an LSTM.
    """

    def __init__(self, cell: Cell, input_size: int, hidden_size: int):
        super().__init__()
        self.cell = cell
        self.hidden_size = hidden_size
        self.core: nn.GRU | nn.LSTM = {"gru": nn.GRU, "lstm": nn.LSTM}[cell](input_size, hidden_size, batch_first=True)
        self._step = {"gru": _gru_step, "lstm": _lstm_step}[cell]
        self.num_states = {"gru": 1, "lstm": 2}[cell]
        with torch.no_grad():
            for gate in self.core.weight_hh_l0.chunk({"gru": 3, "lstm": 4}[cell]):
                nn.init.orthogonal_(gate)

    def initial_state(self, batch: int, like: Tensor) -> State:
        return tuple(like.new_zeros(batch, self.hidden_size) for _ in range(self.num_states))

    def forward(self, inputs: Tensor, state: State | None = None) -> Tensor:
        """inputs (B, T, I) -> outputs (B, T, H). On a GPU in the weights' own precision (float32: TF32 products): under
        autocast PyTorch runs cuDNN's recurrences in float16, whatever dtype it was told, where small gradients vanish
        unless the loss is scaled."""
        dtype = self.core.all_weights[0][0].dtype
        with torch.autocast("cuda", enabled=False):
            first = None if state is None else tuple(part[None].contiguous().to(dtype) for part in state)
            return cast(Tensor, self.core(inputs.to(dtype), first[0] if first and len(first) == 1 else first)[0])

    def project(self, inputs: Tensor) -> Tensor:
        """The input half of the gates, (…, I) -> (…, G·H): one product for all steps."""
        weight, _, bias, _ = self.core.all_weights[0]
        return F.linear(inputs, weight, bias)

    def step(self, inputs: Tensor, state: State) -> State:
        """One step for decoding: inputs (B, I) -> the next state; its first tensor is the output."""
        return self.advance(self.project(inputs), state)

    def advance(self, gate: Tensor, state: State) -> State:
        """`step` where the input half of the gates (B, G·H) is there."""
        _, weight, _, bias = self.core.all_weights[0]
        return self._step(gate, state, weight.to(gate.dtype), bias.to(gate.dtype))

    def project_first(self, inputs: Tensor) -> Tensor:
        """What the first inputs (…, J), J ≤ I, and the bias give to the input half of the gates, (…, G·H)."""
        weight, _, bias, _ = self.core.all_weights[0]
        return F.linear(inputs, weight[:, : inputs.shape[-1]], bias)

    def add_last(self, gate: Tensor, inputs: Tensor) -> Tensor:
        """Adds in place what the last inputs (B, J) give. gate (B, G·H)"""
        weight = self.core.all_weights[0][0]
        return gate.addmm_(inputs, weight[:, weight.shape[1] - inputs.shape[-1] :].t())


def _gru_step(gate: Tensor, state: State, weight: Tensor, bias: Tensor) -> State:
    """Cho et al. 2014 in cuDNN's form: the reset gate acts after the recurrent product."""
    (h,) = state
    input_r, input_z, input_n = gate.chunk(3, -1)
    hidden_r, hidden_z, hidden_n = F.linear(h.to(weight.dtype), weight, bias).chunk(3, -1)
    reset = torch.sigmoid(input_r + hidden_r)
    update = torch.sigmoid(input_z + hidden_z)
    candidate = torch.tanh(input_n + reset * hidden_n)
    return (candidate + update * (h - candidate),)


def _lstm_step(gate: Tensor, state: State, weight: Tensor, bias: Tensor) -> State:
    """Hochreiter & Schmidhuber 1997 with forget gates, in PyTorch's order i, f, g, o."""
    h, c = state
    i, f, g, o = (gate + F.linear(h.to(weight.dtype), weight, bias)).chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def reverse_within(inputs: Tensor, lengths: Tensor) -> Tensor:
    """Reverse each row's first ``lengths`` steps; the padding stays where it is. inputs (B, T, …)."""
    steps = torch.arange(inputs.shape[1], device=inputs.device)
    source = torch.where(steps < lengths[:, None], lengths[:, None] - 1 - steps, steps)  # (B, T)
    return inputs.gather(1, source[(...,) + (None,) * (inputs.dim() - 2)].expand_as(inputs))
