"""The training loop: a generator of steps. It knows no files: the caller logs, saves and stops.

A run is a list of stages (`training.stages`), each a number of optimiser steps. Everything a step does is a function of
the weights, the optimiser, the random states, the position (stage, step), the clusters and the epoch's posterior means:
these are what `Trainer.state` gives and `Trainer.restore` takes back, so that a resumed run repeats an unbroken one bit
for bit, also in mid-epoch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, broadcast, gather_object
from numpy.typing import NDArray
from torch import Tensor

from textebm.build import build_weights
from textebm.companions import LatentBatch, StageName
from textebm.errors import CheckpointError, DivergenceError
from textebm.inference import ShortRun
from textebm.model import Objective, TextEBM
from textebm.networks.posterior import Posterior
from textebm.objective.clustering import cluster_latents, without_labels
from textebm.objective.schedules import Weights, learning_rate_factor
from textebm.prior.sampling import calibrate
from textebm.recipe import Recipe, Stage
from textebm.text.batches import BatchOrder, TokenBatch, collate, load_batches, parts, special_ids
from textebm.training.data import Split, known_labels
from textebm.training.health import Health, measure_health
from textebm.training.state import pack, pack_random, unpack, unpack_random

STATISTICS_ROWS = 10_000  # sentences from which the standardisation is made exact at the end of a text stage
RUNAWAY = 1e4  # |F| beyond which training stops: no text needs it, and float32 chains fail soon after


@dataclass(frozen=True)
class StagePlan:
    name: StageName
    steps: int
    batches_per_epoch: int


@dataclass(frozen=True)
class Step:
    """number counts over the whole run from 1, stage_step within the stage. values: the loss and its terms, nats."""

    number: int
    stage: StagePlan
    stage_step: int
    values: dict[str, float]
    tokens: int


class Trainer:
    def __init__(self, model: TextEBM, train: Split, validation: Split, recipe: Recipe):
        options = recipe.training
        self.recipe, self.train, self.validation = recipe, train, validation
        # precision is the recipe's to say, not the launcher's; and no stage uses every parameter
        self.accelerator = Accelerator(
            mixed_precision="no", kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)]
        )
        self.device = self.accelerator.device
        self.model = model.to(self.device)
        self.wrapped = self.accelerator.prepare_model(self.model)
        readers = [model.encoder, model.decoder, *([model.context_encoder] if model.context_encoder else [])]
        text = [parameter for module in readers for parameter in module.parameters()]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": text, "lr": options.learning_rate},
                {"params": list(model.prior.parameters()), "lr": options.prior_learning_rate},
            ],
            weight_decay=options.weight_decay, betas=(0.9, 0.99), fused=True,
        )  # fmt: skip
        self._rates = [group["lr"] for group in self.optimizer.param_groups]
        # A step's batch is dealt out to places, `accumulate` in each process. Each place draws its own noise, so
        # that two processes do what one does that accumulates two; place 0 of any number draws what a single would.
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        self.places = options.accumulate * world
        self.mine = [rank + world * turn for turn in range(options.accumulate)]
        self.generators = [torch.Generator(self.device).manual_seed(recipe.seed + 7919 * place) for place in self.mine]
        self.labels = known_labels(train, {head.name: head for head in recipe.heads}, recipe.seed)
        self.unsupervised = [name for name, head in model.heads.items() if head.column is None]
        self.order = BatchOrder(train.store.lengths, options.batch_size * self.places, recipe.seed)
        self.plan = [self._plan(stage) for stage in options.stages]
        self.stage_index = self.stage_step = self.number = 0
        self.clusters: dict[str, NDArray[np.int64]] = {}
        self.means = np.zeros((len(train), recipe.latent.dim), dtype=np.float32)  # this epoch's posterior means
        self._latents: LatentBatch | None = None

    def _plan(self, stage: Stage) -> StagePlan:
        size = self.recipe.training.prior_batch_size if stage.name == "prior" else self.recipe.training.batch_size
        batches = math.ceil(len(self.train) / (size * self.places))
        return StagePlan(stage.name, stage.steps or max(1, round((stage.epochs or 1) * batches)), batches)

    @property
    def total_steps(self) -> int:
        return sum(stage.steps for stage in self.plan)

    # -- the loop ------------------------------------------------------------------------------------------------

    def steps(self) -> Iterator[Step]:
        """Train from the present position to the end of the last stage. Raises DivergenceError."""
        while self.stage_index < len(self.plan):
            stage = self.plan[self.stage_index]
            while self.stage_step < stage.steps:
                yield from self._epoch(stage)
            self._finish(stage)
            self.stage_index, self.stage_step = self.stage_index + 1, 0

    def _epoch(self, stage: StagePlan) -> Iterator[Step]:
        """The rest of the epoch that the position lies in."""
        epoch, first = divmod(self.stage_step, stage.batches_per_epoch)
        last = min(stage.batches_per_epoch, stage.steps - epoch * stage.batches_per_epoch)
        if stage.name == "prior":
            latents = self._encoded()
            posterior, packed = latents.posterior, latents.posterior.packed
            if first == 0 and epoch == 0:
                self._cluster(posterior.mean.cpu().numpy())
            size = self.recipe.training.prior_batch_size * self.places
            rows = np.random.default_rng([self.recipe.seed, self.stage_index, epoch]).permutation(len(self.train))
            batches = [rows[i : i + size] for i in range(0, len(rows), size)]
        else:
            if first == 0 and (epoch > 0 or self.train.answers is not None):
                self._new_clusters(self.stage_step / stage.steps)
            clusters = next(iter(self.clusters.values()), None) if self.recipe.objective.cluster_sampling else None
            batches = self.order.epoch(1000 * self.stage_index + epoch, clusters)
        batches = batches[first:last]
        shares = [[self._share(rows, place) for place in self.mine] for rows in batches]
        mine = [parts(rows, self.places)[place] for rows in batches for place in self.mine]
        if stage.name == "prior":
            held = iter(mine)
            for share in shares:
                yield self._step(stage, [self._latent_batch(next(held), packed) for _ in share], share)
        else:
            loaded = load_batches(self.train.store, mine, {}, self.model.tokenizer, contexts=self.train.contexts)
            for share in shares:
                yield self._step(stage, [next(loaded).to(self.device) for _ in share], share)

    def _share(self, rows: NDArray[np.int64], place: int) -> float:
        """What the mean over a place's part counts in the mean over the whole batch."""
        held = len(range(place, len(rows), self.places))
        return held / len(rows)

    def _latent_batch(self, rows: NDArray[np.int64], packed: Tensor) -> LatentBatch:
        latents, chosen = self._encoded(), torch.from_numpy(rows).to(self.device)
        context = None if latents.context is None else latents.context[chosen]
        views = None if latents.views is None else latents.views[chosen]
        return LatentBatch(latents.posterior.unpacked(packed[chosen]), self._targets(rows), views, context)

    def _step(self, stage: StagePlan, batches: Sequence[TokenBatch | LatentBatch], shares: Sequence[float]) -> Step:
        """One update from the parts of a batch that are this process's; the gradient is that of the whole batch's
        mean."""
        self.wrapped.train()
        factor = learning_rate_factor(self.stage_step, stage.steps)
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        weights = build_weights(self.recipe.objective, self.stage_step / max(stage.steps, 1))
        self.optimizer.zero_grad(set_to_none=True)
        values, tokens = dict[str, float](), 0
        for turn, (batch, share, generator) in enumerate(zip(batches, shares, self.generators, strict=True)):
            last = turn == len(batches) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                terms = self._add_gradient(stage, batch, weights, share, generator)
            for name, value in terms.items():
                values[name] = values.get(name, 0.0) + share * value
            if isinstance(batch, TokenBatch):
                tokens += int(batch.lengths.sum()) - len(batch)
        values = self._over_processes(values)
        self._check(values)
        for group in self.optimizer.param_groups:
            norm = torch.nn.utils.clip_grad_norm_(group["params"], self.recipe.training.gradient_clip)
            if not torch.isfinite(norm):
                raise DivergenceError(self._advice("the gradient", float(norm)))
        self.optimizer.step()
        self.stage_step += 1
        self.number += 1
        return Step(self.number, stage, self.stage_step, values, tokens)

    def _add_gradient(
        self, stage: StagePlan, batch: TokenBatch | LatentBatch, weights: Weights, share: float,
        generator: torch.Generator,
    ) -> dict[str, float]:  # fmt: skip
        """Backward through one part of a batch, which counts *share*; its terms."""
        rows = batch.index.cpu().numpy() if isinstance(batch, TokenBatch) else None
        targets = None if rows is None else self._targets(rows)
        bf16 = self.recipe.training.mixed_precision == "bf16" and rows is not None
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            objective: Objective = self.wrapped(batch, stage.name, weights, targets, generator)
        # processes' gradients are averaged: each counts as many times as there are
        self.accelerator.backward(objective.loss * (share * self.accelerator.num_processes))
        if rows is not None and objective.posterior is not None:
            self.means[rows] = objective.posterior.mean.detach().float().cpu().numpy()
        return {name: float(term.detach()) for name, term in objective.terms.items()}

    def _over_processes(self, values: dict[str, float]) -> dict[str, float]:
        """Terms summed over the processes, which so agree on when a run diverges."""
        if self.accelerator.num_processes == 1:
            return values
        total = torch.tensor(list(values.values()), device=self.device)
        return dict(zip(values, self.accelerator.reduce(total, "sum").tolist(), strict=True))

    def _targets(self, rows: NDArray[np.int64]) -> dict[str, Tensor]:
        known = {**self.labels, **self.clusters}
        return {name: torch.from_numpy(classes[rows]).to(self.device) for name, classes in known.items()}

    def _check(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            if not math.isfinite(value):
                raise DivergenceError(self._advice(f"the term {name!r}", value))
        for name, what in {"potential": "|F|", "contrast": "the contrast of positive and negative samples"}.items():
            if abs(values.get(name, 0.0)) > RUNAWAY:
                raise DivergenceError(self._advice(what, values[name]))

    def _advice(self, what: str, value: float) -> str:
        return (
            f"step {self.number + 1}: {what} is {value:g}; the last good checkpoint is kept. Lower "
            "training.learning_rate or training.prior_learning_rate, raise prior.potential_penalty, "
            "or learn the prior by score matching (prior.learning=score_matching)"
        )

    # -- between epochs and stages -------------------------------------------------------------------------------

    def _new_clusters(self, progress: float) -> None:
        """New clusters from the posterior means that training itself computed: no second pass over the corpus.

        Not before `cluster_start`: clusters of half-trained latents teach the encoder to keep what is wrong with them.
        """
        means, self.means = self.means, np.zeros_like(self.means)
        if progress < self.recipe.objective.cluster_start or not self.unsupervised:
            return
        if self.accelerator.num_processes > 1:  # a row may have been in the batches of several
            held = torch.from_numpy(np.abs(means).sum(1, keepdims=True) > 0).to(self.device)
            total = self.accelerator.reduce(torch.from_numpy(means).to(self.device), "sum")
            means = (total / self.accelerator.reduce(held.float(), "sum").clamp_min(1)).cpu().numpy()
        self._cluster(means)

    def _cluster(self, means: NDArray[np.float32]) -> None:
        """Clusters of each row's posterior mean; or of what tells its answer, which does not change: only once."""
        objective = self.recipe.objective
        if self.train.answers is None:
            seen = np.abs(means).sum(1) > 0  # a row that no batch held this epoch keeps its old cluster, or has none
            shown = means[seen]
        elif self.clusters:
            return
        else:
            seen, shown = np.ones(len(means), dtype=bool), self.train.answers
        if objective.cluster_residual:
            shown = without_labels(shown, [labels[seen] for labels in self.labels.values()])
        for name in self.unsupervised:
            previous = self.clusters.get(name)
            classes = len(self.model.heads[name].classes)
            assignment = np.full(len(means), -1, dtype=np.int64) if previous is None else previous.copy()
            assignment[seen] = cluster_latents(
                shown, classes, components=objective.cluster_pca, seed=self.recipe.seed,
                whiten=objective.cluster_whiten, previous=None if previous is None else previous[seen],
            )  # fmt: skip
            self.clusters[name] = assignment

    def _encoded(self) -> LatentBatch:
        """Posteriors and contexts of the training set: what resting encoders give."""
        if self._latents is None:
            self._latents = self._encode(np.arange(len(self.train)))
        return self._latents

    @torch.no_grad()
    def _encode(self, rows: NDArray[np.int64]) -> LatentBatch:
        self.model.eval()
        encoder = self.model.encoder
        lengths = self.train.store.lengths[rows]
        order = np.argsort(lengths, kind="stable")
        packed = torch.empty(len(rows), 2 * self.recipe.latent.dim, device=self.device)
        view_size = self.model.prior.energy.view_size
        views = torch.empty(len(rows), view_size, device=self.device) if view_size else None
        posterior: Posterior | None = None
        contexts: Tensor | None = None
        ids = special_ids(self.model.tokenizer)
        learned = any(stage.name != "autoencoder" for stage in self.plan[: self.stage_index])
        for start in range(0, len(rows), 512):
            chosen = order[start : start + 512]
            batch = collate(self.train.store, rows[chosen], {}, **ids, contexts=self.train.contexts).to(self.device)
            features, context = None, self.model.read_context(batch)
            if views is not None and not isinstance(encoder, ShortRun):
                features = encoder.features(batch.tokens, batch.lengths)
                views[chosen] = encoder.views(features)
            posterior = self.model.posterior(batch, learned_prior=learned, features=features, context=context)
            packed[chosen] = posterior.packed
            if context is not None:
                contexts = context.new_empty(len(rows), context.shape[1]) if contexts is None else contexts
                contexts[chosen] = context
        assert posterior is not None  # a split has sentences
        return LatentBatch(posterior.unpacked(packed), {}, views, contexts)

    def _finish(self, stage: StagePlan) -> None:
        """The end of a stage: exact standardisation after text, and a chain step that fits the potential."""
        for buffer in self.model.buffers():  # running statistics: each process has seen its own batches since the last
            buffer.copy_(broadcast(buffer))  # forward pass, and a checkpoint holds those of the first
        if stage.name != "prior":
            if (head := self.model.encoder.head) is not None:
                head.absorb_statistics(self._encode(self._some_rows(STATISTICS_ROWS)).posterior)
            self._latents = None
        if stage.name != "autoencoder" and self.model.learning == "score_matching":
            self._calibrate(256, 40, self.recipe.seed)

    def _some_rows(self, n: int) -> NDArray[np.int64]:
        return np.sort(np.random.default_rng(self.recipe.seed).permutation(len(self.train))[:n])

    def _calibrate(self, n: int, rounds: int, seed: int) -> None:
        """The chain's step, on n draws, or on as many as there are contexts to draw in."""
        context = None
        if self.model.context_encoder is not None:
            context = self._encode(self._some_rows(n)).context
            n = min(n, len(self.train))
        generator = torch.Generator(self.device).manual_seed(seed)
        calibrate(self.model.prior, n=n, rounds=rounds, generator=generator, context=context)

    # -- health --------------------------------------------------------------------------------------------------

    def health(self) -> Health:
        """How the model does on a fixed sample of the validation split."""
        stage = self.plan[min(self.stage_index, len(self.plan) - 1)].name
        if stage != "autoencoder" and self.model.learning == "score_matching":
            self._calibrate(64, 8, 1)
        return measure_health(self.model, self.validation, stage=stage)

    @property
    def _noise(self) -> dict[str, torch.Generator]:
        """The generators of this process's places, by name."""
        return {"noise" if not turn else f"noise_{turn}": each for turn, each in enumerate(self.generators)}

    # -- resuming ------------------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """Everything that decides the rest of the run, as tensors and JSON. For all processes to call together: random
        numbers, and the posterior means of its own batches, each process has for itself."""
        optimizer, optimizer_json = pack(self.optimizer.state_dict())
        own, own_json = pack_random(self._noise)
        own["means"] = torch.from_numpy(self.means)
        processes = gather_object([(own, own_json)])
        clusters = {name: torch.from_numpy(values) for name, values in self.clusters.items()}
        tensors = {
            "model": dict(self.model.state_dict()), "optimizer": optimizer, "clusters": clusters,
            **{f"process_{rank}": values for rank, (values, _) in enumerate(processes)},
        }  # fmt: skip
        position = {"stage": self.stage_index, "stage_step": self.stage_step, "number": self.number}
        return tensors, {
            "position": position, "optimizer": optimizer_json, "random": [packed for _, packed in processes],
            "processes": self.accelerator.num_processes, "rows": len(self.train),
        }  # fmt: skip

    def restore(self, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
        """Take back what `state` gave. Raises CheckpointError if the corpus or the number of processes changed."""
        for name, now in {"rows": len(self.train), "processes": self.accelerator.num_processes}.items():
            if state[name] != now:
                raise CheckpointError(
                    f"the run was saved with {state[name]} {name} and would resume with {now}: "
                    "use the same corpus, options and number of processes"
                )
        rank = self.accelerator.process_index
        own = tensors[f"process_{rank}"]
        try:
            self.model.load_state_dict(dict(tensors["model"]))
            self.optimizer.load_state_dict(unpack(tensors["optimizer"], state["optimizer"]))
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(f"the checkpoint is of another model: {error}") from error
        unpack_random(own, state["random"][rank], self._noise)
        self.means = own["means"].numpy().copy()
        self.clusters = {name: values.numpy().copy() for name, values in tensors["clusters"].items()}
        position = state["position"]
        self.stage_index, self.stage_step, self.number = (
            position["stage"], position["stage_step"], position["number"],
        )  # fmt: skip
        self._latents = None
