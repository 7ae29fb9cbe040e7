"""The yardstick: the latent diffusion energy-based model at its published settings, in plain eager PyTorch.

Pang & Wu 2021 (arXiv 2108.11556) and Yu et al. 2022 (arXiv 2206.05895) train like this: GRUs of 512, a 40-dimensional
latent, an energy net of 12 residual blocks of 200 with spectral norm, six levels, 50 Langevin steps a level, batch 128,
float32. Nothing here is slowed down on purpose and nothing is tuned: one module call a chain step and a decoded token,
autograd for each gradient, all logits of a batch at once. It exists to be timed (`textebm.bench.suite`); no model of
textebm uses it. Symbols, clustering and the bottleneck are left out: they cost little, and both sides have them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from textebm.prior.noise import published_ladder


@dataclass(frozen=True)
class Published:
    """The published settings; tests take smaller ones."""

    dim: int = 40
    levels: int = 6
    chain_steps: int = 50
    blocks: int = 12
    width: int = 200
    classes: int = 20
    vocabulary: int = 10_000
    embedding: int = 256
    hidden: int = 512
    batch: int = 128
    max_tokens: int = 40


class PlainEnergy(nn.Module):
    """12 residual blocks of one layer on the latent's features joined to the level's; spectral norm on every linear
    layer, one power iteration a forward pass while training."""

    def __init__(self, size: Published):
        super().__init__()

        def layer(inputs: int, outputs: int) -> nn.Module:
            return spectral_norm(nn.Linear(inputs, outputs))

        width = size.width
        self.latent = nn.Sequential(layer(size.dim, width), nn.LeakyReLU(0.2), layer(width, width))
        self.level = nn.Sequential(
            nn.Embedding(size.levels, width), layer(width, width), nn.LeakyReLU(0.2), layer(width, width)
        )
        self.join = layer(2 * width, width)
        self.blocks = nn.ModuleList(layer(width, width) for _ in range(size.blocks))
        self.outputs = layer(width, size.classes)

    def forward(self, u: Tensor, level: Tensor) -> Tensor:
        """u (B, d), level (B,) -> F (B,)."""
        x = self.join(F.leaky_relu(torch.cat([self.latent(u), self.level(level)], dim=-1), 0.2))
        for block in self.blocks:
            x = x + block(F.leaky_relu(x, 0.2))
        return torch.logsumexp(self.outputs(F.leaky_relu(x, 0.2)), dim=-1)


class PlainModel(nn.Module):
    """Encoder, decoder and energy-based prior."""

    a: Tensor
    sigma: Tensor

    def __init__(self, size: Published):
        super().__init__()
        self.size = size
        self.embed_in = nn.Embedding(size.vocabulary, size.embedding)
        self.encoder = nn.GRU(size.embedding, size.hidden, batch_first=True, bidirectional=True)
        self.posterior = nn.Linear(2 * size.hidden, 2 * size.dim)
        self.embed_out = nn.Embedding(size.vocabulary, size.embedding)
        self.initial = nn.Linear(size.dim, size.hidden)
        self.decoder = nn.GRU(size.embedding + size.dim, size.hidden, batch_first=True)
        self.project = nn.Linear(size.hidden, size.embedding)
        self.outputs = nn.Linear(size.embedding, size.vocabulary)
        self.energy = PlainEnergy(size)
        alpha_bar = published_ladder(size.levels)
        a = alpha_bar[1:] / alpha_bar[:-1]
        self.register_buffer("a", torch.cat([a, torch.ones(1)]).float())
        self.register_buffer("sigma", torch.cat([(1 - a.square()).sqrt(), torch.ones(1)]).float())
        self.register_buffer("alpha_bar", alpha_bar.float())

    # -- the prior -------------------------------------------------------------------------------------------------

    def chain(self, w: Tensor, centre: Tensor, level: Tensor) -> Tensor:
        """50 Langevin steps on exp F(w, t) · N(w ; centre, σ²), step² = 2e−3 · σ². (B, d)"""
        sigma = self.sigma[level][:, None]
        step = math.sqrt(2e-3) * sigma
        for _ in range(self.size.chain_steps):
            w = w.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(self.energy(w, level).sum(), w)
            drift = gradient - (w - centre) / sigma.square()
            w = w + 0.5 * step.square() * drift + step * torch.randn_like(w)
        return w.detach()

    def contrastive(self, z: Tensor) -> Tensor:
        """The energy net's loss: one level of each sentence and the top level, a chain each. z (B, d) -> ()"""
        top, b = self.size.levels - 1, len(z)
        level = torch.randint(top, (b,), device=z.device)
        alpha = self.alpha_bar[level][:, None]  # type: ignore[index]
        u = alpha * z + (1 - alpha.square()).clamp_min(0).sqrt() * torch.randn_like(z)
        u_next = self.a[level][:, None] * u + self.sigma[level][:, None] * torch.randn_like(z)
        positive = self.a[level][:, None] * u
        negative = self.chain(u_next.detach(), u_next.detach(), level)
        top_level = torch.full_like(level, top)
        alpha = self.alpha_bar[top_level][:, None]  # type: ignore[index]
        positive_top = alpha * z + (1 - alpha.square()).sqrt() * torch.randn_like(z)
        negative_top = self.chain(torch.randn_like(z), torch.zeros_like(z), top_level)
        loss = self.energy(negative, level) - self.energy(positive, level)
        loss = loss + self.energy(negative_top, top_level) - self.energy(positive_top, top_level)
        return loss.mean()

    def sample(self, n: int) -> Tensor:
        """n draws of u_0, the top level first. (n, d)"""
        device = self.a.device
        u, centre = torch.randn(n, self.size.dim, device=device), torch.zeros(n, self.size.dim, device=device)
        for t in range(self.size.levels - 1, -1, -1):
            level = torch.full((n,), t, dtype=torch.long, device=device)
            u = self.chain(u, centre, level) / self.a[t]
            centre = u
        return u

    # -- text ------------------------------------------------------------------------------------------------------

    def encode(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, (B, d) each, from the last state of either direction."""
        packed = nn.utils.rnn.pack_padded_sequence(
            self.embed_in(tokens), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        _, last = self.encoder(packed)
        mean, log_variance = self.posterior(torch.cat([last[0], last[1]], dim=-1)).chunk(2, dim=-1)
        return mean, (0.5 * log_variance).exp()

    def logits(self, tokens: Tensor, z: Tensor) -> Tensor:
        """Teacher-forced logits, (B, T, V)."""
        inputs = torch.cat([self.embed_out(tokens), z[:, None].expand(-1, tokens.shape[1], -1)], dim=-1)
        states, _ = self.decoder(inputs, torch.tanh(self.initial(z))[None].contiguous())
        return self.outputs(self.project(states))

    def loss(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Reconstruction, KL to N(0, I) and the energy terms, a mean over the batch."""
        mean, stddev = self.encode(tokens, lengths)
        z = mean + stddev * torch.randn_like(mean)
        logits = self.logits(tokens[:, :-1], z)
        targets = tokens[:, 1:].masked_fill(
            torch.arange(1, tokens.shape[1], device=tokens.device) >= lengths[:, None], -100
        )
        nll = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum") / len(z)
        kl = (0.5 * (mean.square() + stddev.square() - 1) - stddev.log()).sum(-1).mean()
        return nll + kl + self.contrastive(z)

    def training_step(self, optimizer: torch.optim.Optimizer, tokens: Tensor, lengths: Tensor) -> None:
        loss = self.loss(tokens, lengths)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters(), 5.0)
        optimizer.step()

    @torch.no_grad()
    def decode(self, z: Tensor, bos: int, eos: int, sampled: bool = False) -> list[list[int]]:
        """Greedy or sampled words, one module call a token, until every sentence of the batch has ended. z (B, d)"""
        tokens = torch.full((len(z), 1), bos, dtype=torch.long, device=z.device)
        state = torch.tanh(self.initial(z))[None].contiguous()
        ended, words = torch.zeros(len(z), dtype=torch.bool, device=z.device), []
        for _ in range(self.size.max_tokens):
            states, state = self.decoder(torch.cat([self.embed_out(tokens), z[:, None]], dim=-1), state)
            logits = self.outputs(self.project(states))
            tokens = torch.multinomial(logits[:, 0].softmax(-1), 1) if sampled else logits.argmax(-1)
            words.append(tokens)
            ended |= tokens[:, 0] == eos
            if bool(ended.all()):
                break
        rows = torch.cat(words, dim=1).tolist()
        return [row[: row.index(eos)] if eos in row else row for row in rows]

    def generate(self, n: int, bos: int, eos: int) -> list[list[int]]:
        """n sentences, a batch at a time: latents, then words."""
        found: list[list[int]] = []
        while len(found) < n:
            found += self.decode(self.sample(min(self.size.batch, n - len(found))), bos, eos)
        return found
