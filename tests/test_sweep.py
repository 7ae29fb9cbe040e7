"""A sweep: the order of its grid, what is read and not trained again, failures, stops, and the table's figures."""

from __future__ import annotations

import json
import math
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from tiny import recipe, write_recipe
from typer.testing import CliRunner, Result

from textebm.cli import app
from textebm.errors import CheckpointError, DivergenceError, RecipeError, TextEBMError
from textebm.evaluation.metric import Evaluation
from textebm.recipe.read import dump_recipe
from textebm.recipe.schema import Recipe
from textebm.runs import checkpoint
from textebm.runs import sweep as sweeps
from textebm.runs import train as runs
from textebm.runs.interrupt import GracefulStop
from textebm.runs.sweep import plan, split_values, sweep
from textebm.runs.train import Run

KINDS = "prior.kind=gaussian,energy"
ELBO = {"gaussian": (-40.0, -43.0, -44.0), "energy": (-30.0, -30.5, -31.0)}  # by seed


class Stand:
    """In place of train: leaves what a run leaves, and counts."""

    def __init__(self) -> None:
        self.trained: list[tuple[str, int, int]] = []
        self.failing: set[tuple[str, int]] = set()
        self.stop_at: int | None = None  # a signal comes in this run: 1 is the first
        self.lacking: set[tuple[str, int]] = set()  # runs without wkl

    def __call__(self, chosen: Recipe, *, out: Path, resume: bool, **options: Any) -> Run:
        kind, seed = chosen.prior.kind, chosen.seed
        assert resume
        out.mkdir(parents=True, exist_ok=True)
        (out / "recipe.yaml").write_text(dump_recipe(chosen))
        self.trained.append((kind, chosen.latent.dim, seed))
        if (kind, seed) in self.failing:
            raise DivergenceError("step 3: the gradient is nan | lower it")
        if len(self.trained) == self.stop_at:
            return Run(out, None, None)  # type: ignore[arg-type]
        evaluation = Evaluation(seed)
        evaluation.add("elbo", ELBO[kind][seed], 20)
        if (kind, seed) not in self.lacking:
            evaluation.add("wkl", 0.5, 20)
        for name in ("control_accuracy_sentiment", "control_accuracy_sentiment_positive", "ami_tense"):
            evaluation.add(name, 0.25, 20)
        evaluation.save(out / "evaluation.json")
        return Run(out, None, evaluation)  # type: ignore[arg-type]


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stand:
    monkeypatch.chdir(tmp_path)
    found = Stand()
    monkeypatch.setattr(sweeps, "train", found)
    return found


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["sweep", *map(str, arguments)], catch_exceptions=False)


# --- the grid ---------------------------------------------------------------------------------------------------------


def test_the_last_option_and_then_the_seed_vary_fastest(stand: Stand) -> None:
    result = sweep(recipe(), [KINDS, "latent.dim=4,8"], seeds=2)
    expected = [(kind, dim, seed) for kind in ("gaussian", "energy") for dim in (4, 8) for seed in (0, 1)]
    assert stand.trained == expected
    assert result.directory == Path("runs/tiny-sweep")
    assert [each.name for each in result.cells][:2] == [
        "prior.kind-gaussian_latent.dim-4",
        "prior.kind-gaussian_latent.dim-8",
    ]
    assert Path("runs/tiny-sweep/prior.kind-energy_latent.dim-8/seed1/evaluation.json").is_file()


def test_overrides_and_seed_reach_every_recipe() -> None:
    planned = plan(recipe(), [KINDS], seeds=2, overrides=["training.batch_size=16"])
    for each in planned.cells:
        for seed, run in enumerate(each.runs):
            assert run.recipe == recipe(
                "training.batch_size=16", f"prior.kind={each.values['prior.kind']}", f"seed={seed}"
            )


def test_values_may_hold_commas_and_folders_are_safe_and_distinct() -> None:
    assert split_values("a, [1,2],{x: 1, y: [2,3]},'b,c',") == ["a", "[1,2]", "{x: 1, y: [2,3]}", "'b,c'", ""]
    planned = plan(recipe(), ["description='a/b','a b','../c'," + "x" * 300])
    names = [each.name for each in planned.cells]
    assert len(set(names)) == 4 and [each.runs[0].recipe.description for each in planned.cells][:2] == ["a/b", "a b"]
    for name in names:
        assert "/" not in name and " " not in name and len(name) < 120 and not name.startswith(".")


# --- what is asked wrongly --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vary", "overrides", "message"),
    [
        ([], [], "nothing to vary"),
        (["prior.kind"], [], "--vary 'prior.kind': expected option=value,value"),
        (["prior.kind=gaussian,,energy"], [], "a value is empty"),
        (["prior.kind="], [], "a value is empty"),
        (["seed=1,2"], [], "--seeds"),
        ([KINDS], ["seed=3"], "--seeds"),
        ([KINDS], ["prior.kind=energy"], "also given as prior.kind=…"),
        ([KINDS, "prior.kind=diffusion_energy"], [], "given twice"),
        (["prior.kind=energy,energy"], [], "'energy' is given twice"),
        (["objective.kl_weight=0.1,0.10"], [], "0.10 is the same recipe as objective.kl_weight=0.1"),
        (["latent.dmi=4,8"], [], "did you mean 'dim'"),
        (["prior.kind=gaussian,enrgy"], [], "did you mean 'energy'"),
    ],
)
def test_mistakes_are_one_sentence_and_train_nothing(
    stand: Stand, vary: list[str], overrides: list[str], message: str
) -> None:
    with pytest.raises(RecipeError) as error:
        sweep(recipe(), vary, overrides=overrides)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not stand.trained and not Path("runs").exists()


def test_all_mistakes_of_all_cells_come_at_once(stand: Stand) -> None:
    with pytest.raises(RecipeError) as error:
        sweep(recipe(), ["prior.kind=gaussian,enrgy", "latent.dim=0,8"], overrides=["training.bach_size=3"])
    lines = str(error.value).split("\n  ")
    assert lines[0] == "3 problems:" and len(lines) == 4
    text = str(error.value)
    assert "in prior.kind=gaussian latent.dim=0 and 1 more" in text and "in prior.kind=enrgy latent.dim=0" in text
    assert next(line for line in lines if "bach_size" in line).endswith(", weight_decay")  # every cell's: none is named
    with pytest.raises(RecipeError, match="2 problems"):
        sweep(recipe(), ["prior.kind", "latent.dim=4,"])
    assert not stand.trained


def test_seeds_metrics_and_processes(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TextEBMError, match="seeds: expected at least 1, got 0"):
        sweep(recipe(), [KINDS], seeds=0)
    with pytest.raises(TextEBMError, match="did you mean 'elbo'"):
        sweep(recipe(), [KINDS], metrics=["elbow"])
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TextEBMError, match="one process"):
        sweep(recipe(), [KINDS])
    assert not stand.trained


def test_directories_of_something_else_are_left_alone(stand: Stand, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").touch()
    for name, message in {"file": "is a file", "run": "a single run", "full": "holds no sweep"}.items():
        with pytest.raises(CheckpointError, match=message):
            sweep(recipe(), [KINDS], out=name)
    sweep(recipe(), [KINDS], out="sweep")
    with pytest.raises(RecipeError, match=r"gaussian/seed0 and 1 more was trained with another recipe"):
        sweep(recipe(), [KINDS], out="sweep", overrides=["training.batch_size=16"])
    assert len(stand.trained) == 2


# --- going on ---------------------------------------------------------------------------------------------------------


def test_finished_runs_are_read_and_a_grid_grows(stand: Stand) -> None:
    first = sweep(recipe(), ["prior.kind=gaussian"], seeds=2)
    table = (first.directory / "table.md").read_bytes()
    assert len(stand.trained) == 2
    said: list[str] = []
    again = sweep(recipe(), ["prior.kind=gaussian"], seeds=2, progress=said.append)
    assert len(stand.trained) == 2 and (again.directory / "table.md").read_bytes() == table
    assert again == first and said[0] == "[1/2] prior.kind=gaussian, seed 0: done before"
    sweep(recipe(), [KINDS], seeds=3)
    assert stand.trained[2:] == [("gaussian", 8, 2), *(("energy", 8, seed) for seed in range(3))]


def test_a_run_whose_evaluation_cannot_be_read_is_taken_up_again(stand: Stand) -> None:
    first = sweep(recipe(), [KINDS])
    (first.cells[1].runs[0].directory / "evaluation.json").write_text("{")
    assert sweep(recipe(), [KINDS]) == first and stand.trained[2:] == [("energy", 8, 0)]


def test_a_failing_cell_is_noted_and_tried_again(stand: Stand, tmp_path: Path) -> None:
    stand.failing = {("gaussian", 1)}
    arguments = [write_recipe(tmp_path / "tiny.yaml"), "--vary", KINDS, "--seeds", "2", "--out", "s"]
    result = call(*arguments)
    assert result.exit_code == 1 and len(stand.trained) == 4
    assert "| gaussian | 1/2 | -40 |" in result.stdout and "| energy | 2/2 | -30.25 ± 0.3536 |" in result.stdout
    note = "- prior.kind=gaussian, seed 1: failed: step 3: the gradient is nan \\| lower it\n"
    assert result.stdout.endswith(note) and "1 run failed; the same command tries again" in result.stderr
    found = json.loads(Path("s/sweep.json").read_text())["cells"][0]
    assert [run["status"] for run in found["runs"]] == ["done", "failed"] and found["metrics"]["elbo"]["n"] == 1
    stand.failing = set()
    result = call(*arguments)
    assert result.exit_code == 0 and stand.trained[4:] == [("gaussian", 8, 1)] and "failed" not in result.stdout


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_stop_is_130_and_says_how_to_go_on(stand: Stand, tmp_path: Path, options: list[str]) -> None:
    stand.stop_at = 2
    file = write_recipe(tmp_path / "tiny.yaml")
    result = call(file, "latent.dim=4", "--vary", KINDS, "--out", "a sweep", *options)
    assert result.exit_code == 130 and stand.trained == [("gaussian", 4, 0), ("energy", 4, 0)]
    command = f"textebm sweep {file} latent.dim=4 --vary {KINDS} --seeds 1 --out 'a sweep'"
    assert result.stderr.endswith(f"stopped and saved; go on with: {command}\n")
    if options:
        found = json.loads(result.stdout)
        assert found["stopped"] and found["cells"][1]["runs"][0]["status"] == "to do"
    else:
        assert result.stdout == ""
    assert "prior.kind=energy, seed 0: to do" in Path("a sweep/table.md").read_text()
    assert call(file, "latent.dim=4", "--vary", KINDS, "--out", "a sweep").exit_code == 0


def test_a_signal_in_a_run_that_still_ends_stops_the_sweep(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the report is made, say: the run is whole, but the next must not begin."""

    def interrupted(*arguments: Any, **options: Any) -> Run:
        with GracefulStop() as own:
            os.kill(os.getpid(), signal.SIGTERM)
            assert own.requested
            return stand(*arguments, **options)

    monkeypatch.setattr(sweeps, "train", interrupted)
    result = sweep(recipe(), [KINDS])
    assert result.stopped and [run.status for each in result.cells for run in each.runs] == ["done", "to do"]
    monkeypatch.setattr(sweeps, "train", stand)
    assert not sweep(recipe(), [KINDS]).stopped


# --- the table --------------------------------------------------------------------------------------------------------


def rows(text: str) -> list[list[str]]:
    return [[part.strip() for part in line.strip("|").split(" | ")] for line in text.splitlines() if line[:2] == "| "]


def test_the_table_has_the_means_and_deviations_of_the_seeds(stand: Stand) -> None:
    stand.lacking = {("energy", 2)}
    result = sweep(recipe(), [KINDS], seeds=3)
    head, gaussian, energy = rows((result.directory / "table.md").read_text())
    assert head == ["prior.kind", "n", "elbo ↑", "wkl ↓", "control_accuracy_sentiment ↑", "ami_tense ↑"]
    # (-40 - 43 - 44) / 3 = -42.333; squares of the differences 5.444 + 0.444 + 2.778 = 8.667; /2 -> 4.333 -> 2.0817
    assert gaussian == ["gaussian", "3/3", "-42.33 ± 2.082", "0.5 ± 0", "0.25 ± 0", "0.25 ± 0"]
    assert energy == ["energy", "3/3", "-30.5 ± 0.5", "–", "0.25 ± 0", "0.25 ± 0"]
    assert "- prior.kind=energy: some seeds lack wkl" in result.markdown()
    found = json.loads((result.directory / "sweep.json").read_text())
    elbo = found["cells"][0]["metrics"]["elbo"]
    assert elbo["mean"] == pytest.approx(-127 / 3) and elbo["stddev"] == pytest.approx(math.sqrt(13 / 3))
    assert (elbo["n"], elbo["values"], elbo["higher_is_better"]) == (3, [-40.0, -43.0, -44.0], True)
    assert found["vary"] == {"prior.kind": ["gaussian", "energy"]} and found["seeds"] == 3
    assert found["cells"][1]["runs"][2]["directory"] == "prior.kind-energy/seed2"


def test_chosen_metrics_and_json(stand: Stand, tmp_path: Path) -> None:
    arguments = [write_recipe(tmp_path / "tiny.yaml"), "--vary", KINDS]
    result = call(*arguments, "--metrics", "kl,elbo")
    assert rows(result.stdout)[:2] == [["prior.kind", "n", "kl", "elbo ↑"], ["gaussian", "1/1", "–", "-40"]]
    found = json.loads(call(*arguments, "--json").stdout)
    assert found == json.loads(Path("runs/tiny-sweep/sweep.json").read_text())
    assert len(stand.trained) == 2
    for wrong in ("elbo,", "elbow"):
        result = call(*arguments, "--metrics", wrong)
        assert result.exit_code == 2 and result.stdout == "" and result.stderr.startswith("error: ")


# --- with real runs ---------------------------------------------------------------------------------------------------

SHORT = (
    "training.stages=[{name: autoencoder, steps: 6}, {name: prior, steps: 4}]",
    "training.checkpoint_every=3",
    "heads=[{name: sentiment, labels: sentiment}]",
    "evaluation.samples=8",
    "evaluation.limit=10",
)


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "_report", lambda *_: None)


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("seed*/*") if path.name[0] != "."}


def test_a_cell_is_the_run_that_train_makes_and_is_trained_once(tmp_path: Path, no_report: None) -> None:
    """The second cell, after another trained in the same process, is bit for bit what it is alone."""
    result = sweep(recipe(), [KINDS], overrides=SHORT, out=tmp_path / "s", quiet=True)
    assert [run.error for each in result.cells for run in each.runs] == [None, None]
    alone = runs.train(recipe(*SHORT, "prior.kind=energy", "seed=0"), out=tmp_path / "alone", quiet=True)
    own = result.cells[1].runs[0]
    weights = [where / "model.safetensors" for where in (own.directory, tmp_path / "alone")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert own.evaluation is not None and alone.evaluation is not None
    assert own.evaluation.metrics["elbo"] == alone.evaluation.metrics["elbo"]
    before = times(tmp_path / "s")
    again = sweep(recipe(), [KINDS], overrides=SHORT, out=tmp_path / "s", quiet=True)
    assert {path.name for path in before} >= {"evaluation.json", "model.safetensors", "metrics.jsonl"}
    assert times(tmp_path / "s") == before and again.markdown() == result.markdown()


def test_a_signal_saves_and_the_same_call_goes_on_from_there(
    tmp_path: Path, no_report: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    save = checkpoint.save

    def save_and_signal(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return save(*arguments, **options)

    monkeypatch.setattr(checkpoint, "save", save_and_signal)
    stopped = sweep(recipe(), ["latent.dim=4,8"], overrides=SHORT, out=tmp_path / "s", quiet=True)
    assert stopped.stopped and [each.runs[0].status for each in stopped.cells] == ["to do", "to do"]
    assert not (tmp_path / "s" / "latent.dim-8").exists()
    monkeypatch.setattr(checkpoint, "save", save)
    capfd.readouterr()
    done = sweep(recipe(), ["latent.dim=4,8"], overrides=SHORT, out=tmp_path / "s", quiet=True)
    assert not done.stopped and [each.runs[0].status for each in done.cells] == ["done", "done"]
    assert re.findall(r"resumed at step (\d+)", capfd.readouterr().err) in (["3"], ["4"])
