"""The energy network: (u, level) -> the logits of every symbol head, and with them the potential F."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm as add_spectral_norm


class EnergyNet(nn.Module):
    """Residual MLP with a level embedding and one linear layer of logits a symbol head.

        F(u, t) = Σ_h ( logsumexp_k f^h_k(u, t) − log K_h )        p(y^h | z) = softmax_k f^h_k(ũ_0, 0)

    (Pang & Wu 2021, eq. 4, for one head; level-conditioned as in Yu et al. 2022.) The output layer starts at zero, so
    that a fresh network is the Gaussian reference, F = 0. With no heads given there is one anonymous head of one
    class: a plain energy network. With a view_size C the features also give a direction in R^C, for contrastive
    guidance (`objective.contrastive`).

    context_size: width of a context that F is also a function of, F(u, t | c): it is added to the input layer.
    input_scale: factor of the first layer's initial weights. A density of narrow modes is learned much faster with 4
    (`prior/README.md`).
    """

    def __init__(
        self,
        dim: int,
        num_levels: int,
        head_sizes: Mapping[str, int],
        *,
        hidden_size: int = 256,
        num_blocks: int = 3,
        spectral_norm: bool = False,
        view_size: int = 0,
        context_size: int = 0,
        input_scale: float = 1.0,
    ):
        super().__init__()
        self.head_sizes = dict(head_sizes)
        self.view_size = view_size
        sizes = list(self.head_sizes.values()) or [1]
        self._sizes = sizes
        self.log_classes = sum(math.log(size) for size in sizes)
        self.inputs = nn.Linear(dim, hidden_size)
        self.level = nn.Embedding(max(num_levels, 1), num_blocks * hidden_size)
        blocks = [
            nn.ModuleList([nn.Linear(hidden_size, hidden_size), nn.Linear(hidden_size, hidden_size)])
            for _ in range(num_blocks)
        ]
        self.blocks = cast("Sequence[tuple[nn.Linear, nn.Linear]]", nn.ModuleList(blocks))
        self.outputs = nn.Linear(hidden_size, sum(sizes))
        with torch.no_grad():
            self.inputs.weight.mul_(input_scale)
        nn.init.normal_(self.level.weight, std=0.1)
        nn.init.zeros_(self.outputs.weight)
        nn.init.zeros_(self.outputs.bias)
        self.view = nn.Linear(hidden_size, view_size) if view_size else None
        if spectral_norm:
            for module in [self.inputs, *(layer for block in self.blocks for layer in block)]:
                add_spectral_norm(module)
        self.context = nn.Linear(context_size, hidden_size, bias=False) if context_size else None

    def features(self, u: Tensor, level: Tensor, context: Tensor | None = None) -> Tensor:
        """u (…, d), level (…) int64, context (…, C) -> (…, H)."""
        shifts = self.level(level).chunk(max(1, len(self.blocks)), dim=-1)[: len(self.blocks)]
        x = self.inputs(u)
        if self.context is not None:
            assert context is not None, "this energy net is conditional: pass the context"
            x = x + self.context(context)
        for (first, second), shift in zip(self.blocks, shifts, strict=True):
            x = x + second(F.silu(first(F.silu(x)) + shift))
        return F.silu(x)

    def all_logits(self, u: Tensor, level: Tensor, context: Tensor | None = None) -> list[Tensor]:
        return list(self.outputs(self.features(u, level, context)).split(self._sizes, dim=-1))

    def logits_and_view(
        self, u: Tensor, level: Tensor, context: Tensor | None = None
    ) -> tuple[list[Tensor], Tensor | None]:
        """The logits of all heads, [(…, K_h)], and g(u, t) (…, C), not of unit length; None without a view."""
        if self.view is None:
            return self.all_logits(u, level, context), None
        features = self.features(u, level, context)
        return list(self.outputs(features).split(self._sizes, dim=-1)), self.view(features)

    def forward(self, u: Tensor, level: Tensor, context: Tensor | None = None) -> dict[str, Tensor]:
        """Logits of each head, (…, K_h)."""
        return dict(zip(self.head_sizes, self.all_logits(u, level, context), strict=False))

    def potential(self, u: Tensor, level: Tensor, context: Tensor | None = None) -> Tensor:
        """F(u, t), (…,)."""
        return self.sum_heads(self.all_logits(u, level, context))

    def sum_heads(self, logits: list[Tensor]) -> Tensor:
        """F from the logits of all heads, [(…, K_h)] -> (…,)."""
        return torch.stack([torch.logsumexp(f, dim=-1) for f in logits]).sum(0) - self.log_classes


class LayeredEnergyNet(nn.Module):
    """F(z, t) = Σ_l F_l(z^l, t), an `EnergyNet` a layer of the latent, with the interface of one (arXiv 2306.06323).

    sizes: the layers' dimensions, top first. A symbol head may read one layer, whose place in *sizes* head_layers
    gives; the others read all of z, through one more potential beside the layers': what a symbol says is seldom in one
    layer.
    A layer without a head has a plain potential.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        num_levels: int,
        head_sizes: Mapping[str, int],
        *,
        head_layers: Mapping[str, int] | None = None,
        hidden_size: int = 256,
        num_blocks: int = 3,
        spectral_norm: bool = False,
        view_size: int = 0,
        context_size: int = 0,
    ):
        super().__init__()
        self.sizes = tuple(sizes)
        self.head_sizes = dict(head_sizes)
        self.view_size = view_size
        everything = len(self.sizes)  # the place of the net that reads all layers
        self._place = {name: (head_layers or {}).get(name, everything) for name in self.head_sizes}
        seen = [*self.sizes, sum(self.sizes)] if everything in self._place.values() else list(self.sizes)
        nets = [
            EnergyNet(
                size,
                num_levels,
                {name: k for name, k in self.head_sizes.items() if self._place[name] == place},
                hidden_size=hidden_size,
                num_blocks=num_blocks,
                spectral_norm=spectral_norm,
                view_size=view_size,
                context_size=context_size,
            )
            for place, size in enumerate(seen)
        ]
        self.layers = cast("Sequence[EnergyNet]", nn.ModuleList(nets))

    def all_logits(self, z: Tensor, level: Tensor, context: Tensor | None = None) -> list[Tensor]:
        """Logits of the heads in the order of `head_sizes`, then the potentials (…, 1) of the layers without one."""
        return self.logits_and_view(z, level, context)[0]

    def logits_and_view(
        self, z: Tensor, level: Tensor, context: Tensor | None = None
    ) -> tuple[list[Tensor], Tensor | None]:
        """`all_logits`, and the sum of the layers' views."""
        parts = [*z.split(self.sizes, dim=-1), z][: len(self.layers)]
        both = [net.logits_and_view(part, level, context) for net, part in zip(self.layers, parts, strict=True)]
        found = [logits for logits, _ in both]
        views = [view for _, view in both if view is not None]
        named = [dict(zip(net.head_sizes, f, strict=False)) for net, f in zip(self.layers, found, strict=True)]
        plain = [f for net, f in zip(self.layers, found, strict=True) if not net.head_sizes]
        logits = [named[place][name] for name, place in self._place.items()] + [f for each in plain for f in each]
        return logits, torch.stack(views).sum(0) if views else None

    def forward(self, z: Tensor, level: Tensor, context: Tensor | None = None) -> dict[str, Tensor]:
        """Logits of each head, (…, K_h)."""
        return dict(zip(self.head_sizes, self.all_logits(z, level, context), strict=False))

    def potential(self, z: Tensor, level: Tensor, context: Tensor | None = None) -> Tensor:
        """F(z, t), (…,)."""
        return self.sum_heads(self.all_logits(z, level, context))

    def sum_heads(self, logits: list[Tensor]) -> Tensor:
        """F from what `all_logits` gives, [(…, K)] -> (…,)."""
        constant = sum(net.log_classes for net in self.layers)
        return torch.stack([torch.logsumexp(f, dim=-1) for f in logits]).sum(0) - constant
