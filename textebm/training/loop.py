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
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from accelerate.utils import broadcast, gather_object
from numpy.typing import NDArray
from torch import Tensor

from textebm.errors import CheckpointError, DivergenceError
from textebm.model.bases import load_stored, stored_state
from textebm.model.build import build_weights
from textebm.model.latent_text_model import LatentTextModel
from textebm.model.objective import LatentBatch, Objective, StageName, TrainingObjective
from textebm.networks.hardware import Precision, autocast
from textebm.networks.pretrained import adapter_parameters, pretrained_parameters
from textebm.objective.schedules import Weights, learning_rate_factor
from textebm.prior.sampling import calibrate
from textebm.recipe.schema import Recipe, Stage
from textebm.text.batches import BatchOrder, Shard, TokenBatch, load_batches, shards
from textebm.text.shuffle import LARGE, Shuffle
from textebm.training.classes import Classes
from textebm.training.data import Split, known_labels
from textebm.training.encoding import encode
from textebm.training.health import Health, measure_health
from textebm.training.launch import make_accelerator

STATISTICS_ROWS = 10_000  # sentences from which the standardisation is made exact at the end of a text stage
CALIBRATION_ROUNDS = 40  # of 256 draws each, for the chain's step at the end of a stage
STATE_FORMAT = 2
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
    """sample: of how many sentences at most latents are in memory at a time. Clusters are found in so many of them, and
    the prior stage encodes so many at once."""

    def __init__(self, model: LatentTextModel, train: Split, validation: Split, recipe: Recipe, *, sample: int = LARGE):
        options = recipe.training
        self.recipe, self.train, self.validation = recipe, train, validation
        self.accelerator = make_accelerator()
        self.device = self.accelerator.device
        self.model = model.to(self.device)
        self.wrapped = self.accelerator.prepare_model(TrainingObjective(self.model))
        readers = [model.encoder, model.decoder, *([model.context_encoder] if model.context_encoder else [])]
        text = dict.fromkeys(parameter for module in readers for parameter in module.parameters())  # a tied one once
        tuned, adapters = pretrained_parameters(model), adapter_parameters(model)
        for parameter in (*tuned, *adapters):
            del text[parameter]
        groups = [
            {"params": [each for each in text if each.requires_grad], "lr": options.learning_rate},
            {"params": list(model.prior.parameters()), "lr": options.prior_learning_rate},
            *([{"params": tuned, "lr": options.pretrained_learning_rate}] if tuned else []),
            *([{"params": adapters, "lr": options.adapter_learning_rate}] if adapters else []),
        ]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=options.weight_decay, betas=(0.9, 0.99), fused=True)
        self._rates = [group["lr"] for group in self.optimizer.param_groups]
        # A step's batch is dealt out to `accumulate` turns of all processes, each with noise of its own.
        self.places = options.accumulate * self.accelerator.num_processes
        rank = self.accelerator.process_index
        self.generator = torch.Generator(self.device).manual_seed(recipe.seed + rank)
        if rank:
            torch.manual_seed(recipe.seed + rank)
        self.sample = sample
        self.order = BatchOrder(train.store.lengths, options.batch_size * self.places, recipe.seed)
        self.plan = [self._plan(stage) for stage in options.stages]
        self.stage_index = self.stage_step = self.number = 0
        objective = recipe.objective
        self.classes = Classes(
            self._some_rows(sample),
            recipe.latent.dim,
            known_labels(train, {head.name: head for head in recipe.heads}, recipe.seed),
            {name: len(head.classes) for name, head in model.heads.items() if head.column is None},
            components=objective.cluster_pca,
            residual=objective.cluster_residual,
            seed=recipe.seed,
            features=train.features,
        )
        self._latents: tuple[NDArray[np.int64], LatentBatch] | None = None  # what was encoded last, and of which rows

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

    def end_stage(self) -> None:
        """Leave out the other steps of this stage; they count as done. To be called between two steps."""
        steps = self.plan[self.stage_index].steps
        self.number, self.stage_step = self.number + steps - self.stage_step, steps

    def _epoch(self, stage: StagePlan) -> Iterator[Step]:
        """The rest of the epoch that the position lies in."""
        epoch, first = divmod(self.stage_step, stage.batches_per_epoch)
        last = min(stage.batches_per_epoch, stage.steps - epoch * stage.batches_per_epoch)
        if stage.name == "prior":
            if first == 0 and epoch == 0 and self.classes.codes:
                self.classes.find(self._encoded(self.classes.sample).posterior.mean.cpu().numpy())
            yield from self._prior_epoch(stage, epoch, first, last)
            return
        if first == 0:
            means = self._sum_over_processes(torch.from_numpy(self.classes.take_means())).numpy()
            if self.classes.codes:  # from the means that training itself computed: no second pass over the corpus
                due = self.stage_step / stage.steps >= self.recipe.objective.cluster_start
                self.classes.find(means, latents=due and epoch > 0)
        number = 1000 * self.stage_index + epoch
        loaded = load_batches(
            self.train.store,
            map(self._shards, self.order.batches(number, first, last)),
            {},
            self.model.tokenizer,
            contexts=self.train.contexts,
        )
        for step in loaded:
            yield self._step(stage, [(batch.to(self.device), share) for batch, share in step])
            if self.stage_step >= stage.steps:  # also where `end_stage` was called meanwhile
                return

    def _prior_epoch(self, stage: StagePlan, epoch: int, first: int, last: int) -> Iterator[Step]:
        """Steps *first* to *last* − 1 of an epoch on latents, encoded a stretch of sentences at a time: all, unless
        there are many."""
        n, size = len(self.train), self.recipe.training.prior_batch_size * self.places
        order = Shuffle(n, [self.recipe.seed, self.stage_index, epoch])
        stretch = max(1, self.sample // size) * size if n > self.sample else n
        for start in range(first * size // stretch * stretch, min(last * size, n), stretch):
            rows = order[np.arange(start, min(start + stretch, n))]
            ascending = np.sort(rows)
            latents = self._encoded(ascending)
            packed, places = latents.posterior.packed, np.searchsorted(ascending, rows)
            for step in range(max(first, start // size), min(last, math.ceil((start + len(rows)) / size))):
                here = np.arange(len(rows))[step * size - start : (step + 1) * size - start]
                yield self._step(
                    stage,
                    [
                        (self._latent_batch(latents, packed, places[chosen], rows[chosen]), share)
                        for chosen, share in self._shards(here)
                    ],
                )

    def _shards(self, rows: NDArray[np.int64]) -> list[Shard]:
        """What this process computes of a step's batch."""
        accelerator = self.accelerator
        return shards(rows, self.recipe.training.accumulate, accelerator.num_processes, accelerator.process_index)

    def _latent_batch(
        self, latents: LatentBatch, packed: Tensor, places: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> LatentBatch:
        """The latents that stand at *places*, of the sentences *rows*."""
        chosen = torch.from_numpy(places).to(self.device)
        context = None if latents.context is None else latents.context[chosen]
        views = None if latents.views is None else latents.views[chosen]
        posterior, targets = latents.posterior.unpacked(packed[chosen]), self.classes.targets(rows, self.device)
        return LatentBatch(posterior, targets(posterior.mean) if callable(targets) else targets, views, context)

    def _step(self, stage: StagePlan, batches: Sequence[tuple[TokenBatch | LatentBatch, float]]) -> Step:
        """One update from this process's shards of a batch and their shares: each counts as many times as it has
        rows."""
        self.wrapped.train()
        factor = learning_rate_factor(self.stage_step, stage.steps)
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        weights = build_weights(self.recipe.objective, self.stage_step / max(stage.steps, 1))
        self.optimizer.zero_grad(set_to_none=True)
        values, tokens = dict[str, float](), 0
        for number, (batch, share) in enumerate(batches, 1):
            with nullcontext() if number == len(batches) else self.accelerator.no_sync(self.wrapped):
                terms = self._add_gradient(stage, batch, weights, share)
            for name, value in terms.items():
                values[name] = values.get(name, 0.0) + share * value
            if isinstance(batch, TokenBatch):
                tokens += int(batch.lengths.sum()) - len(batch)
        # the processes' terms together, so that they agree on when a run diverges
        total = self._sum_over_processes(torch.tensor(list(values.values()), dtype=torch.float64))
        values = dict(zip(values, total.tolist(), strict=True))
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
        self, stage: StagePlan, batch: TokenBatch | LatentBatch, weights: Weights, share: float
    ) -> dict[str, float]:
        """Backward through one shard of the batch; its terms."""
        rows, targets = None, None
        precision: Precision = "no"
        if isinstance(batch, TokenBatch):
            rows, precision = batch.index.cpu().numpy(), self.recipe.training.mixed_precision
            targets = self.classes.targets(rows, self.device)
        with autocast(self.device, precision):
            objective: Objective = self.wrapped(batch, stage.name, weights, targets, self.generator)
        # processes' gradients are averaged: each counts as many times as there are
        self.accelerator.backward(objective.loss * (share * self.accelerator.num_processes))
        if rows is not None and objective.posterior is not None and share > 0:
            self.classes.remember(rows, objective.posterior.mean.detach().float().cpu().numpy())
        return {name: float(term.detach()) for name, term in objective.terms.items()}

    def _sum_over_processes(self, values: Tensor) -> Tensor:
        if self.accelerator.num_processes == 1:
            return values
        return cast(Tensor, self.accelerator.reduce(values.to(self.device), "sum")).cpu()

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

    def _encoded(self, rows: NDArray[np.int64]) -> LatentBatch:
        """Posteriors and contexts of these rows: what resting encoders give, so that the last are kept."""
        if self._latents is None or not np.array_equal(self._latents[0], rows):
            self._latents = None
            self._latents = rows, self._encode(rows)
        return self._latents[1]

    def _encode(self, rows: NDArray[np.int64]) -> LatentBatch:
        learned = any(stage.name != "autoencoder" for stage in self.plan[: self.stage_index])
        latents = encode(self.model, self.train, rows, learned_prior=learned)
        if not latents.posterior.packed.isfinite().all():
            raise DivergenceError(self._advice("a latent of the training text", math.nan))
        return latents

    def _finish(self, stage: StagePlan) -> None:
        """The end of a stage: exact standardisation after text, and a chain step that fits the potential."""
        for buffer in self.model.buffers():  # running statistics: each process has seen its own batches since the last
            buffer.copy_(broadcast(buffer))  # forward pass, and a checkpoint holds those of the first
        if stage.name != "prior":
            if (head := self.model.encoder.head) is not None:
                head.absorb_statistics(self._encode(self._some_rows(STATISTICS_ROWS)).posterior)
        self._latents = None
        if stage.name != "autoencoder" and self.model.learning == "score_matching":
            self._calibrate(256, CALIBRATION_ROUNDS, self.recipe.seed)

    def _some_rows(self, n: int) -> NDArray[np.int64]:
        """n rows in ascending order, or all."""
        return np.sort(Shuffle(len(self.train), self.recipe.seed)[np.arange(min(n, len(self.train)))])

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
        """How the model does on a fixed sample of the validation split. Nothing that is measured changes the model."""
        stage = self.plan[min(self.stage_index, len(self.plan) - 1)].name
        rho = self.model.prior.rho.clone()
        if stage != "autoencoder" and self.model.learning == "score_matching":
            self._calibrate(64, 8, 1)
        sentences = self.recipe.training.health_sentences
        health = measure_health(self.model, self.validation, stage=stage, sentences=sentences)
        self.model.prior.rho.copy_(rho)
        return health

    def end(self) -> None:
        """After the last step: count the classes of each head, and drop what only training needs."""
        for name, classes in {**self.classes.labels, **self.classes.clusters}.items():
            head = self.model.heads[name]
            if known := int((classes >= 0).sum()):
                counts = np.bincount(classes[classes >= 0], minlength=len(head.classes))
                self.model.heads[name] = replace(head, shares=tuple((counts / known).tolist()))
        self.optimizer.zero_grad(set_to_none=True)
        self.optimizer.state.clear()
        self._latents = None

    # -- resuming ------------------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """Everything that decides the rest of the run, as tensors and JSON. For all processes to call together, since
        each has random numbers of its own."""
        classes = self.classes.state()
        classes["epoch"]["means"] = self._sum_over_processes(classes["epoch"]["means"])  # each process has its own rows
        random = {"noise": self.generator.get_state(), "torch": torch.get_rng_state()}
        if self.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self.device)
        moments = self.optimizer.state_dict()["state"]
        tensors = {
            "model": stored_state(self.model, full=self.recipe.training.save_full),
            "optimizer": {f"{place}.{name}": value for place, of in moments.items() for name, value in of.items()},
            **classes,
            **{f"process_{rank}": values for rank, values in enumerate(gather_object([random]))},
        }
        position = {"stage": self.stage_index, "stage_step": self.stage_step, "number": self.number}
        processes = self.accelerator.num_processes
        return tensors, {"format": STATE_FORMAT, "position": position, "processes": processes, "rows": len(self.train)}

    def restore(self, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
        """Take back what `state` gave. Raises CheckpointError if it is of another version of this program, or if the
        corpus, the number of processes or the kind of device changed."""
        if state.get("format") != STATE_FORMAT:
            raise CheckpointError(
                "the checkpoint was saved by another version of textebm, whose runs this one cannot continue: finish "
                "the run with that version, or train it anew in another directory"
            )
        for name, now in {"rows": len(self.train), "processes": self.accelerator.num_processes}.items():
            if state[name] != now:
                raise CheckpointError(
                    f"the run was saved with {state[name]} {name} and would resume with {now}: "
                    "use the same corpus, options and number of processes"
                )
        moments = dict[int, dict[str, Tensor]]()
        for key, value in tensors["optimizer"].items():
            place, _, name = key.partition(".")
            moments.setdefault(int(place), {})[name] = value
        rank = self.accelerator.process_index
        random = tensors[f"process_{rank}"]
        try:
            load_stored(self.model, tensors["model"])
            self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(f"the checkpoint is of another model: {error}") from error
        if (self.device.type == "cuda") != ("cuda" in random):
            raise CheckpointError(f"the run was saved on another kind of device and would resume on {self.device}")
        self.generator.set_state(random["noise"])
        torch.set_rng_state(random["torch"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(random["cuda"], self.device)
        self.classes.restore(tensors)
        if rank > 0:
            self.classes.take_means()  # the first process has them all
        position = state["position"]
        self.stage_index, self.stage_step, self.number = (position["stage"], position["stage_step"], position["number"])
        self._latents = None
