"""Every command that the pages and `--help` show is run, in its order, on a small run of their symbols."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import click
import pandas as pd
import pytest
import typer.main
from test_documentation import ALL, PAGES
from tiny import recipe
from typer.testing import CliRunner

import textebm
from textebm.cli import app
from textebm.text import grammar

HEADS = "heads=[{name: sentiment, labels: sentiment}, {name: tense, labels: tense}, {name: code, classes: 20}]"
RUNS = ("yelp", "yelp-longer", "mine", "a", "b", "seed0", "seed1", "seed2", "gaussian", "diffusion")
PLACES = {
    "RUN": "runs/quickstart",
    "OLD": "runs/yelp",
    "NEW": "runs/yelp-longer",
    "A": "runs/a",
    "B": "runs/b",
    "FILE": "reviews.csv",
    "COLUMN": "review",
}
NOT_RUN = {  # the beginning of the command: why
    "train yelp": "needs a corpus that may not be copied",
    "train yelp-lm": "needs published networks (the smoke variants run in test_recipes.py)",
    "train yelp-sentence-lm": "needs published networks",
    "train RECIPE": "the tracker it names need not be installed (test_trackers.py)",
    "sweep": "trains a whole recipe several times (test_sweep.py)",
    "reproduce quickstart": "trains a whole recipe three times (test_reproduce.py)",
    "explore": "serves until it is ended (test_explore.py)",
    "bench": "times a minute of work (test_scale.py)",
    "densities": "minutes of chains (test_densities.py)",
    "audit": "minutes of estimators (test_audit.py)",
    "data fetch": "downloads (test_text_fetch.py has a server)",
    "evaluate runs/ptb": "needs a corpus that may not be copied",
    "evaluate runs/yelp": "needs a corpus that may not be copied",
    "evaluate RUN": "measures everything (test_evaluation_suite.py)",
    "generate runs/yelp-lm": "needs a published network (test_pretrained.py has tiny ones)",
    "respond": "needs a model of dialogue (test_context.py)",
    "codes runs/agnews": "needs a corpus that may not be copied",
}


def examples(command: click.Command, name: str = "") -> Iterator[list[str]]:
    """The arguments of the example under each command's help."""
    for inner in getattr(command, "commands", {}).values():
        yield from examples(inner, f"{name} {inner.name}")
    for line in (command.epilog or "").partition("Example: ")[2].split(";"):
        if line:
            yield shlex.split(line.split(" > ")[0].strip().removeprefix("textebm "))


SHOWN = {
    "help": list(examples(typer.main.get_command(app))),
    **{page.stem: [each for other, each in ALL if other == page] for page in PAGES},
}


def reason(arguments: list[str]) -> str | None:
    """The key of NOT_RUN that says why these are not run."""
    shown = " ".join(arguments)
    return next((each for each in NOT_RUN if shown == each or shown.startswith(each + " ")), None)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the runs and files that the examples name."""
    path = tmp_path_factory.mktemp("shown")
    options = [HEADS, "objective.cluster_features=content", "evaluation.report_sentences=60"]
    textebm.train(recipe(*options), out=path / "runs" / "quickstart", quiet=True)
    for name in RUNS:
        shutil.copytree(path / "runs" / "quickstart", path / "runs" / name)
    split = grammar.corpus(400)["train"]
    text, stars, tense, topic = (split[name] for name in ("text", "sentiment", "tense", "topic"))
    table = pd.DataFrame({"review": text, "stars": stars, "label": tense, "formal": stars})
    parts = {"reviews": table[:300], "test": table[300:], "examples": table[:60], "more": table[60:120]}
    for name, rows in parts.items():
        rows.to_csv(path / f"{name}.csv", index=False)
    turns = pd.DataFrame({"turn": text, "cluster": [n % 5 for n in range(len(text))], "act": stars, "emotion": tense})
    turns.to_csv(path / "turns.csv", index=False)
    pd.DataFrame({"headline": text, "topic": topic}).to_json(path / "headlines.jsonl", orient="records", lines=True)
    (path / "reviews.txt").write_text("\n".join(text[:5]), encoding="utf-8")
    return path


QUICK = [
    "encoder.hidden_size=8",
    "decoder.hidden_size=8",
    "prior.hidden_size=8",
    "prior.num_levels=2",
    "training.stages=[{name: autoencoder, steps: 3}, {name: prior, steps: 3}]",
    "evaluation.samples=4",
    "evaluation.samples_per_class=2",
    "evaluation.limit=8",
]


@pytest.mark.parametrize("page", [page for page, shown in SHOWN.items() if not all(map(reason, shown))])
def test_what_a_page_shows_runs(page: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command in turn ends well, and says something."""
    shutil.copytree(place, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    failed = []
    for shown in filter(lambda shown: not reason(shown), SHOWN[page]):
        arguments = [PLACES.get(each, each) for each in shown]
        if arguments[0] == "train" and "--resume" not in arguments:
            shutil.rmtree(Path("runs", Path(arguments[1]).stem), ignore_errors=True)
            arguments += [*QUICK, *(["data.size=256"] if arguments[1] == "quickstart" else ["data.limit=100"])]
        result = CliRunner().invoke(app, arguments)
        if arguments[0] == "figure" and not find_spec("matplotlib"):  # the README's environment is without this extra
            assert result.exit_code == 2 and "textebm[figures]" in result.output
            continue
        if result.exit_code or result.exception or not result.output.strip():
            failed.append(
                f"textebm {shlex.join(arguments)}: {result.exit_code} {result.exception!r} {result.output[-500:]}"
            )
    assert not failed, "\n".join(failed)


def test_no_reason_outlives_its_command() -> None:
    assert set(NOT_RUN) == {reason(each) for shown in SHOWN.values() for each in shown} - {None}
