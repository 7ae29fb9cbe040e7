"""A model measured as its recipe says, and what the run directory keeps of it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from transformers import PreTrainedTokenizerFast

from textebm.api import TextEBM
from textebm.errors import CheckpointError, CorpusError, FileError, TextEBMError
from textebm.evaluation.language_model import LanguageModelSettings
from textebm.evaluation.metric import Evaluation
from textebm.evaluation.several import Summary, summarize
from textebm.evaluation.state import Effort, choose
from textebm.evaluation.suite import SUITES, OwnMetric, evaluate
from textebm.evaluation.tables import field_tables
from textebm.files import parse_json, write_atomically
from textebm.model.build import build_corpus, build_judge_corpus
from textebm.model.files import model_card
from textebm.recipe.read import load_recipe, parse_recipe
from textebm.recipe.schema import Recipe
from textebm.runs.directory import EVALUATION, RECIPE, check_run_corpus, data_place, read_recorded, write_recorded
from textebm.runs.doctor import judge, keep_verdict
from textebm.runs.lock import RunLock
from textebm.text import grammar
from textebm.text.corpora import FILES, load_corpus
from textebm.text.finding import Verdict
from textebm.text.history import histories_of, texts_of
from textebm.text.tokenizer import train_word
from textebm.training.data import shown_rows

Progress = Callable[[str], None]
OUTLIERS = 2000  # sentences of each other corpus, a seeded choice
UNFINISHED = "evaluation.unfinished.json"


def evaluate_run(
    directory: str | Path,
    *,
    limit: int | None = None,
    seed: int = 0,
    data_dir: str | Path | None = None,
    progress: Progress | None = None,
    suite: str | None = None,
    samples: int | None = None,
    overrides: Sequence[str] = (),
    metrics: Mapping[str, OwnMetric] | None = None,
) -> Evaluation:
    """Measure the model of a run directory on its corpus's test split and write evaluation.json there.

    suite: ptb, dailydialog, yelp or all; then tables.md is written, too. samples: for the perplexities of a suite,
    instead of the recipe's number. What a suite has measured stands in evaluation.unfinished.json until it is done, and
    stays there if it is stopped. overrides: ``evaluation.draws=64`` and other options of `evaluation`, for
    this time. metrics: of one's own, as in `textebm.evaluate`.
    Raises TextEBMError subclasses.
    """
    for change in overrides:
        if not change.startswith("evaluation."):
            raise TextEBMError(f"{change!r}: a trained run can change its evaluation.… only, as evaluation.draws=64")
    directory = Path(directory)
    model = TextEBM.from_pretrained(directory)
    if torch.cuda.is_available():
        model.to("cuda")
    assert model.recipe is not None, "a saved model has one"
    recipe = parse_recipe(model.recipe, overrides)
    check_suite(suite, recipe)
    corpus = build_corpus(recipe.data, data_dir=_text(data_place(directory, recipe, data_dir)), seed=recipe.seed)
    check_run_corpus(directory, corpus)
    unfinished = directory / UNFINISHED
    writable = os.access(directory, os.W_OK)
    evaluation = evaluate_model(
        model,
        recipe,
        corpus,
        data_dir,
        seed=seed,
        progress=progress,
        limit=limit,
        suite=suite,
        samples=samples,
        so_far=(lambda found: found.save(unfinished)) if writable else None,
        metrics=metrics,
    )
    try:
        with RunLock(directory):
            write_evaluation(evaluation, model, directory, corpus, recipe)
            unfinished.unlink(missing_ok=True)
            if suite is not None:
                write_atomically(directory / "tables.md", field_tables(evaluation, recipe.data.corpus, recipe.name))
    except (TextEBMError, OSError) as error:  # what hours have measured is shown all the same
        evaluation.note(f"not kept in the run directory: {error}")
    return evaluation


def evaluate_runs(
    directories: Sequence[str | Path], *, saved: bool = False, progress: Progress | None = None, **options: Any
) -> Summary:
    """Measure several runs of one recipe (or, with *saved*, read what was measured) and give means and standard
    deviations. Raises TextEBMError for runs of different recipes, whose mean says nothing."""
    found = {}
    _check_one_recipe([Path(each) for each in directories])
    for directory in map(Path, directories):
        if str(directory) in found:
            raise TextEBMError(f"{str(directory)!r} is given twice; each run counts once")
        if saved:
            found[str(directory)] = read_evaluation(directory)
            continue
        say = None if progress is None else _prefixed(progress, directory.name)
        found[str(directory)] = evaluate_run(directory, progress=say, **options)
    return summarize(found)


# what runs of one recipe may differ in: sections, and options of training
OF_A_RUN = ("name", "description", "seed", "evaluation")
OF_TRAINING = ("evaluate_every", "checkpoint_every", "keep_checkpoints", "trackers")


def _check_one_recipe(directories: Sequence[Path]) -> None:
    found = [each for each in directories if (each / RECIPE).is_file()]
    recipes = [load_recipe(each / RECIPE).model_dump(mode="json") for each in found]
    for recipe in recipes:
        recipe["training"] = {name: value for name, value in recipe["training"].items() if name not in OF_TRAINING}
    for directory, recipe in zip(found[1:], recipes[1:], strict=True):
        first = recipes[0]
        sections = [name for name in first if name not in OF_A_RUN and recipe.get(name) != first[name]]
        if sections:
            named = " ".join(shlex.quote(str(each)) for each in directories)
            raise TextEBMError(
                f"{found[0]} and {directory} were trained by different recipes ({', '.join(sections)} differ), "
                f"so that their mean says nothing; see them side by side with: textebm report {named}"
            )


def _prefixed(progress: Progress, name: str) -> Progress:
    return lambda part: progress(f"{name}: {part}")


def read_evaluation(directory: Path) -> Evaluation:
    """What evaluation.json of a run holds. Raises CheckpointError."""
    try:
        return Evaluation.from_json(parse_json(read_recorded(directory, EVALUATION), EVALUATION))
    except (CheckpointError, FileError, ValueError) as error:
        raise CheckpointError(f"{directory}: {error}; make it with: textebm evaluate {directory}") from None


def check_suite(suite: str | None, recipe: Recipe) -> None:
    """Raises TextEBMError for the suite of another corpus."""
    own = recipe.data.corpus
    if suite is not None and suite not in ("all", "outliers", own):
        offered = f"--suite {own} or --suite all" if own in SUITES else "--suite all"
        raise TextEBMError(
            f"suite {suite!r} is for runs on the corpus {suite!r}; this run is on {own!r}: use {offered}"
        )


def evaluate_model(
    model: TextEBM,
    recipe: Recipe,
    corpus: DatasetDict,
    data_dir: str | Path | None,
    *,
    seed: int,
    progress: Progress | None,
    limit: int | None = None,
    suite: str | None = None,
    samples: int | None = None,
    so_far: Callable[[Evaluation], object] | None = None,
    metrics: Mapping[str, OwnMetric] | None = None,
) -> Evaluation:
    """The evaluation of a model that is at hand. None means as the recipe says. What a model of dialogues writes, it
    answers to histories drawn from test."""
    histories = histories_of(texts_of(corpus["test"])) if model.reads_context else [()]
    drawn = [histories[i] for i in np.random.default_rng(seed).permutation(len(histories))]
    evaluation = evaluate(
        model.answering(drawn),
        corpus,
        judge_corpus=build_judge_corpus(recipe.data, data_dir=_text(data_dir)),
        seed=seed,
        limit=limit or recipe.evaluation.limit,
        effort=effort_of(recipe, samples),
        parser=grammar.parse if recipe.data.corpus == "grammar" else None,
        progress=progress,
        suite=suite,
        tokenizer=_measured_words(recipe, model, corpus["train"]),
        max_tokens=model.max_tokens,
        shown_labels=_shown_labels(recipe, corpus["train"]),
        other_texts={} if suite is None else other_texts(recipe, data_dir),
        so_far=so_far,
        metrics=metrics,
    )
    if model.reads_context:
        evaluation.note(
            f"sentences are read after the last {recipe.data.context_turns} turns of their own dialogues, and samples "
            "answer histories drawn from test"
        )
    return evaluation


def _measured_words(recipe: Recipe, model: TextEBM, train: Dataset) -> PreTrainedTokenizerFast:
    """What perplexities count: the model's tokens, but words where it writes in a published vocabulary, so that their
    figures stand beside those of other recipes."""
    if "natural" not in model.tokenizer.init_kwargs:  # trained here
        return model.tokenizer
    return train_word(train["text"], recipe.tokenizer.vocabulary_size)


def _shown_labels(recipe: Recipe, train: Dataset) -> dict[str, list[int]]:
    """For heads with a label limit, the rows of train whose label they were shown."""
    heads = [head for head in recipe.heads if head.label_limit is not None and head.labels is not None]
    return {
        head.name: shown_rows(np.asarray(train[head.labels]), head.label_limit or 0, recipe.seed).tolist()
        for head in heads
    }


def effort_of(recipe: Recipe, language_samples: int | None = None) -> Effort:
    """How much an evaluation generates and computes. language_samples: instead of the recipe's number."""
    options, words = recipe.evaluation, recipe.evaluation.language_model
    settings = LanguageModelSettings(
        words.embedding_size,
        words.hidden_size,
        epochs=words.max_epochs,
        mixed_precision=recipe.training.mixed_precision,
    )
    return Effort(
        samples=options.samples,
        samples_per_class=options.samples_per_class,
        decoding=options.decoding,
        temperature=options.temperature,
        language_samples=language_samples or words.samples,
        draws=options.draws,
        q_steps=options.q_steps,
        temperatures=options.temperatures,
        chains=options.chains,
        refine=options.refine,
        language_model=settings,
    )


def other_texts(recipe: Recipe, data_dir: str | Path | None) -> dict[str, list[str]]:
    """Test sentences of the corpora that are here and that are not the recipe's."""
    found = {}
    for name in ("grammar", *FILES):
        if name == recipe.data.corpus:
            continue
        try:
            corpus = load_corpus(name, data_dir=data_dir)
        except CorpusError:
            continue  # not on this machine; the table shows which there were
        texts = corpus["test"]["text"]
        found[name] = [texts[i] for i in choose(len(texts), OUTLIERS, recipe.seed)]
    return found


def write_evaluation(
    evaluation: Evaluation, model: TextEBM, directory: Path, corpus: Mapping[str, Dataset], recipe: Recipe
) -> Verdict:
    """evaluation.json, samples.txt, verdict.json and the card, each replaced whole. Gives the verdict."""
    verdict = judge(model, recipe, corpus, directory, evaluation)
    keep_verdict(verdict, directory)
    write_recorded(directory, EVALUATION, evaluation.to_text())
    write_atomically(directory / "samples.txt", evaluation.samples_text().encode())
    card = model_card(model.network, evaluation.markdown(), verdict.markdown())
    write_atomically(directory / "README.md", card)
    return verdict


def _text(path: str | Path | None) -> Any:
    return None if path is None else str(path)
