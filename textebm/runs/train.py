"""A whole run: recipe to corpus to model to training to evaluation, and the run directory that holds it all."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from datasets import DatasetDict

from textebm.api import TextEBM
from textebm.errors import CheckpointError, CorpusError, FileError, RecipeError, TextEBMError, did_you_mean
from textebm.evaluation.metric import Evaluation
from textebm.files import check_finite
from textebm.model.build import build_corpus, build_model, build_tokenizer
from textebm.model.files import adopt
from textebm.networks.bag_of_words import fit_words
from textebm.networks.hardware import has_bfloat16_products
from textebm.notebook import html_table, progress_to
from textebm.recipe.implementation import code_allowed
from textebm.recipe.read import load_recipe, parse_recipe
from textebm.recipe.schema import Recipe
from textebm.runs import checkpoint
from textebm.runs.codes import describe_codes
from textebm.runs.directory import DATA, METRICS, begin_corpus, begin_recipe, read_recorded, record, resume_recipe
from textebm.runs.evaluate import evaluate_model, evaluate_run, write_evaluation
from textebm.runs.interrupt import GracefulStop
from textebm.runs.lock import RunLock
from textebm.runs.memory import keep_in_run, provisional
from textebm.runs.progress import MetricsLog, Progress, health_line
from textebm.runs.report import write_report
from textebm.runs.trackers import Log, trackers
from textebm.training.data import known_labels, label_names, read_split, split_findings, words_of
from textebm.training.features import found_in, named_heads
from textebm.training.health import Health
from textebm.training.loop import Step, Trainer
from textebm.training.patience import Patience
from textebm.use.codebook import load_codebook, name_codes, save_codebook

__all__ = ["Run", "evaluate_run", "train"]


Callback = Callable[[Step], object]


@dataclass(frozen=True)
class Run:
    """A run directory, its model, and its evaluation (None if it was stopped before)."""

    directory: Path
    model: TextEBM
    evaluation: Evaluation | None

    def _repr_html_(self) -> str:
        said = [("directory", self.directory), ("model", self.model), ("evaluation", self.evaluation or "none")]
        return html_table("Run", said)


def train(
    recipe: str | Path | Recipe | Mapping[str, Any],
    *,
    data: Any = None,
    text: str = "text",
    labels: str | Sequence[str] | None = None,
    context: str | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    out: str | Path | None = None,
    data_dir: str | Path | None = None,
    resume: bool = False,
    quiet: bool = False,
    callbacks: Sequence[Callback] = (),
    allow_code: bool = False,
) -> Run:
    """Train *recipe*, measure it, and leave everything in the run directory (default: runs/<name>).

    data: a corpus in memory, instead of the recipe's: a list of texts, (texts, labels), a pandas DataFrame, a
    `datasets.Dataset`, or a dict of these by split. text, labels, context: its columns; labels are by default those
    that the recipe's heads name. It is kept in the run directory.
    overrides: ``["latent.dim=64"]`` or ``{"latent.dim": 64}``.
    With *resume*, go on from the newest checkpoint that verifies, or say that the run is complete. callbacks: called
    with each `Step` after it was taken, in order; what one raises ends the run as a crash would, resumable.
    allow_code: import the classes that the recipe names as package.module:Class.
    Raises TextEBMError subclasses for what the user can mend.
    """
    changes = (
        [f"{name}={json.dumps(value)}" for name, value in dict(overrides).items()]
        if isinstance(overrides, Mapping)
        else list(overrides)
    )
    if data is not None:
        changes += provisional(data, text, context)
    recipe = parse_recipe(recipe, changes) if isinstance(recipe, Mapping) else load_recipe(recipe, changes)
    directory = Path(out) if out is not None else Path("runs") / recipe.name
    _refuse_used(directory, resume)
    if data is not None:
        with RunLock(directory):
            recipe = keep_in_run(data, directory, recipe, text=text, labels=labels, context=context)
    set_seed(recipe.seed)
    with code_allowed(allow_code), progress_to(None), Progress(quiet=quiet) as progress, ExitStack() as stack:
        corpus = build_corpus(recipe.data, data_dir=_text(data_dir), seed=recipe.seed)
        _check_labels(recipe, corpus)
        start_from = recipe.training.start_from
        if start_from is not None and resume and checkpoint.latest(directory):
            start_from = None  # its weights are in the checkpoint
        trainer = build_trainer(recipe, corpus, start_from=start_from)
        evaluation = None
        main = trainer.accelerator.is_main_process
        stop = stack.enter_context(GracefulStop())  # before that there is nothing to save: Ctrl-C ends at once
        if main:
            with RunLock(directory):
                _refuse_used(directory, resume)  # another run may have begun and ended here meanwhile
                track = stack.enter_context(trackers(recipe.training.trackers, recipe, directory))
                begin_corpus(directory, corpus)
                _describe(progress, recipe, corpus, trainer)
                if _train(trainer, recipe, directory, resume, progress, stop, callbacks, track):
                    trainer.end()
                    evaluation = _conclude(TextEBM(trainer.model), recipe, corpus, directory, data_dir, progress, stop)
        else:
            progress.console.quiet = True
            _train(trainer, recipe, directory, resume, progress, stop, callbacks, lambda *_: None)
    return Run(directory, TextEBM(trainer.model.to("cpu").eval()), evaluation)


def build_trainer(recipe: Recipe, corpus: DatasetDict, *, start_from: str | Path | None = None) -> Trainer:
    """A fresh model of *recipe* and what trains it on *corpus*.

    start_from: the run or saved model whose encoder, decoder and transport it takes. Raises CorpusError and
    CheckpointError.
    """
    data = recipe.data
    tokenizer = build_tokenizer(recipe, words_of(corpus["train"], data.context_turns))
    splits = {
        name: read_split(
            corpus[name],
            tokenizer,
            data.max_tokens,
            context_turns=data.context_turns,
            context_tokens=data.context_tokens,
        )
        for name in ("train", "validation")
    }
    for name, split in splits.items():
        if len(split) < 2:
            raise CorpusError(f"the {name} split of {data.corpus!r} holds {len(split)} sentences; expected at least 2")
    labels = known_labels(splits["train"], {head.name: head for head in recipe.heads}, recipe.seed)
    recipe, found = found_in(corpus["train"], recipe, labels)
    splits["train"] = replace(splits["train"], features=found)
    model = build_model(recipe, tokenizer, named_heads(recipe, label_names(corpus["train"])))
    store = splits["train"].store
    fit_words(model.modules(), store.tokens, store.offsets)
    if start_from is not None:
        adopt(model, start_from)
    return Trainer(model, splits["train"], splits["validation"], recipe)


def _refuse_used(directory: Path, resume: bool) -> None:
    if not resume and directory.is_dir() and any(path.name not in (".lock", DATA) for path in directory.iterdir()):
        raise CheckpointError(f"{directory} is not empty: continue its run with resume, or choose another directory")


def _train(
    trainer: Trainer,
    recipe: Recipe,
    directory: Path,
    resume: bool,
    progress: Progress,
    stop: GracefulStop,
    callbacks: Sequence[Callback],
    track: Log,
) -> bool:
    """All steps that are left. True when the last stage is done, False when a signal stopped it (and it was saved)."""
    main, options = trainer.accelerator.is_main_process, recipe.training
    metrics, timing = MetricsLog(directory / "metrics.jsonl"), MetricsLog(directory / "timing.jsonl")
    found, patience = checkpoint.latest(directory) if resume else None, Patience(options.patience)
    if main and found is None:
        begin_recipe(directory, recipe)
    if found is not None:
        changes = resume_recipe(directory, recipe, found.state.get("recipe"), write=main)
        trainer.restore({group: found.tensors(group) for group in found.groups if group != "best"}, found.state)
        if "patience" in found.state:
            best = found.tensors("best") if "best" in found.groups else {}
            patience.restore(found.state["patience"], best)
        for problem in found.problems:
            progress.message(f"warning: damaged checkpoint passed over: {problem}")
        changed = f", with {'; '.join(changes)}" if changes else ""
        progress.message(f"resumed at step {trainer.number} of {trainer.total_steps}{changed}")
    if main:
        try:
            read_recorded(directory, METRICS)
        except CheckpointError as error:
            progress.message(f"warning: {error}; the curves of this run may be wrong")
        except FileError:
            pass  # none was written yet
        metrics.truncate_after(trainer.number)
        timing.truncate_after(trainer.number)

    def save_checkpoint() -> None:
        tensors, state = trainer.state()
        for group in ("model", "optimizer"):
            check_finite(tensors[group], f"step {trainer.number}: not saved, the checkpoint before it is kept: {group}")
        if main:
            record(directory, METRICS)
            state["since_health"] = {"step": since, "totals": totals}
            state["recipe"] = recipe.model_dump(mode="json")
            state["patience"] = patience.state()
            if patience.weights:
                tensors["best"] = patience.weights
            checkpoint.save(directory, trainer.number, tensors, state, keep=options.keep_checkpoints)
        trainer.accelerator.wait_for_everyone()

    stage, began, tokens = None, time.monotonic(), 0
    since, totals = 0, dict[str, float]()  # of the steps since the last health line: it shows their means
    if found is not None:
        since, totals = found.state["since_health"]["step"], dict(found.state["since_health"]["totals"])
    for step in trainer.steps():
        if step.stage is not stage:
            stage = step.stage
            progress.stage(stage.name, trainer.total_steps, step.number - 1, stage.steps - step.stage_step + 1)
        tokens += step.tokens
        for name, value in step.values.items():
            totals[name] = totals.get(name, 0.0) + value
        progress.update(step.number, step.values, step.tokens)
        for callback in callbacks:
            callback(step)
        if step.number % options.evaluate_every == 0 or step.stage_step == stage.steps:
            health = trainer.health()
            if main:
                means = {f"train_{name}": totals[name] / (step.number - since) for name in sorted(totals)}
                metrics.write(step.number, {"stage": stage.name, **means, **health.values, "warnings": health.warnings})
                track(step.number, {**means, **health.values})
                elapsed = time.monotonic() - began
                timing.write(step.number, {"seconds": elapsed, "tokens_per_second": tokens / max(elapsed, 1e-9)})
                progress.message(f"{stage.name}: {health_line(step.number, health.values, trainer.total_steps)}")
                for warning in health.warnings:
                    progress.message(f"warning: {warning}")
            totals, since, began, tokens = {}, step.number, time.monotonic(), 0
            _be_patient(patience, trainer, step, health, progress)
        last = trainer.number == trainer.total_steps
        requested = _any(trainer, stop.requested)
        if last or requested or step.number % options.checkpoint_every == 0:
            save_checkpoint()
        if requested and not last:
            progress.message(f"stopped at step {step.number} of {trainer.total_steps} and saved; go on with --resume")
            return False
    return True


def _be_patient(patience: Patience, trainer: Trainer, step: Step, health: Health, progress: Progress) -> None:
    """End a text stage whose validation bound no longer falls; at a stage's end, put its best weights back."""
    stage = step.stage
    if stage.name == "prior":
        return
    settled = step.stage_step >= trainer.recipe.objective.kl_warmup * stage.steps  # the KL weight rises before
    bound = health.values["reconstruction_nll"] + trainer.recipe.objective.kl_weight * health.values["kl"]
    if settled and patience.see(trainer.stage_index, bound, trainer.model) and step.stage_step < stage.steps:
        progress.message(f"{stage.name}: ended at step {step.number}, the validation bound no longer falls")
        trainer.end_stage()
    if trainer.stage_step == stage.steps and patience.give_back(trainer.model):
        progress.message(
            f"{stage.name}: the best weights are kept, with a validation bound of {patience.best:.2f} nats"
        )


def _any(trainer: Trainer, requested: bool) -> bool:
    """A signal to one process stops all of them, at the same step."""
    if trainer.accelerator.num_processes == 1:
        return requested
    flag = torch.tensor(float(requested), device=trainer.device)
    return bool(trainer.accelerator.reduce(flag, "sum") > 0)


def _conclude(
    model: TextEBM,
    recipe: Recipe,
    corpus: DatasetDict,
    directory: Path,
    data_dir: str | Path | None,
    progress: Progress,
    stop: GracefulStop,
) -> Evaluation | None:
    """The model's files, the evaluation, samples and card; None if a signal came while measuring."""

    def look(part: str) -> None:
        if stop.requested:
            raise _StoppedError
        progress.part(f"evaluating: {part}")

    model.network.eval()
    model.save_pretrained(directory)
    if any(head.column is None for head in model.heads.values()):
        model.codes = describe_codes(model, corpus, load_codebook(directory), seed=recipe.seed)
        save_codebook(model.codes, directory)
        name_codes(model.network, model.codes)
    progress.message("evaluating")
    try:
        evaluation = evaluate_model(model, recipe, corpus, data_dir, seed=recipe.seed, progress=look)
    except _StoppedError:
        progress.message("stopped while measuring; the model is trained and saved")
        return None
    for line in write_evaluation(evaluation, model, directory, corpus, recipe).lines():
        progress.message(line)
    _report(model, recipe, corpus, directory, data_dir, progress, stop)
    return evaluation


def _report(
    model: TextEBM,
    recipe: Recipe,
    corpus: DatasetDict,
    directory: Path,
    data_dir: str | Path | None,
    progress: Progress,
    stop: GracefulStop,
) -> None:
    """report.html, the last thing: the run is whole without it, so what goes wrong here is said and costs no run."""
    given = f" --data {shlex.quote(str(data_dir))}" if data_dir is not None else ""
    command = f"textebm report {shlex.quote(str(directory))}{given}"
    if stop.requested:
        progress.message(f"stopped before the report; make it with: {command}")
        return
    progress.message("making the report")
    try:
        path = write_report(model, corpus, directory, seed=recipe.seed)
    except (TextEBMError, OSError, MemoryError) as error:
        progress.message(f"warning: no report: {error or type(error).__name__}; make it again with: {command}")
    else:
        progress.message(f"report: {path}")


class _StoppedError(Exception):
    """A signal came between two parts of the evaluation."""


def _check_labels(recipe: Recipe, corpus: DatasetDict) -> None:
    """Label columns of own files are known only now."""
    names = label_names(corpus["train"])
    for i, head in enumerate(recipe.heads):
        if head.labels is not None and head.labels not in names:
            known = did_you_mean(head.labels, names) if names else "; the corpus has no label columns"
            raise RecipeError(f"heads.{i}.labels: {head.labels!r} is no label column of the corpus{known}")


def _describe(progress: Progress, recipe: Recipe, corpus: DatasetDict, trainer: Trainer) -> None:
    model = trainer.model
    prior = sum(parameter.numel() for parameter in model.prior.parameters())
    text = sum(parameter.numel() for parameter in model.parameters()) - prior
    progress.message(
        f"{recipe.name}: {len(corpus['train']):,} sentences of {recipe.data.corpus}, {len(model.tokenizer):,} words; "
        f"{text / 1e6:.1f}M parameters in encoder and decoder, {prior / 1e6:.2f}M in the "
        f"{recipe.prior.kind} prior; {trainer.total_steps:,} steps on {trainer.device}, "
        f"{torch.get_num_threads()} threads"
    )
    splits = {"train": trainer.train, "validation": trainer.validation}
    for finding in split_findings(corpus, splits, model.tokenizer, model.max_tokens):
        progress.message(f"warning: {finding}")
    if recipe.training.mixed_precision == "bf16" and not has_bfloat16_products(trainer.device):
        progress.message(
            f"in float32: {trainer.device} has no bfloat16 products, which training.mixed_precision asks for"
        )


def _text(path: str | Path | None) -> Any:
    return None if path is None else str(path)
