"""The command line, with the library behind it replaced by fakes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner, Result

from textebm.cli import app
from textebm.errors import CheckpointError, DivergenceError, RecipeError, TextEBMError, did_you_mean
from textebm.recipe import read as recipe_io
from textebm.recipe.schema import Recipe

ROOT = Path(recipe_io.__file__).resolve().parents[2]


class Rows(list[Any]):
    """Stands for a tensor."""

    def tolist(self) -> list[Any]:
        return list(self)


class FakeModel:
    """Answers in upper case, and remembers what it was asked."""

    reads_context = False

    def __init__(self) -> None:
        classes = {"code": ("0", "1", "2"), "sentiment": ("negative", "positive")}
        self.heads = {
            name: types.SimpleNamespace(name=name, classes=found, column=None if name == "code" else name)
            for name, found in classes.items()
        }
        self.asked: list[tuple[str, Any]] = []

    def check(self, symbols: dict[str, Any]) -> None:
        for head, name in symbols.items():
            if head not in self.heads:
                raise TextEBMError(f"no head {head!r}{did_you_mean(head, self.heads)}")
            if name not in self.heads[head].classes:
                raise TextEBMError(f"head {head!r} has no class {name!r}{did_you_mean(name, self.heads[head].classes)}")

    codes = types.SimpleNamespace(labels=lambda head, probabilities: None)  # nobody has curated them

    def to(self, device: str) -> FakeModel:
        self.device = device
        return self

    def generate(self, n: int, **options: Any) -> list[str]:
        self.asked.append(("generate", options))
        self.check(options["symbols"] or {})
        print("the library says something")  # must not reach stdout
        return [f"sentence {number} [é]" for number in range(n)]

    def reconstruct(self, texts: list[str], **options: Any) -> list[str]:
        self.asked.append(("reconstruct", options))
        assert all(text.strip() for text in texts)
        return [text.upper() for text in texts]

    def edit(self, texts: list[str], symbols: dict[str, Any], **options: Any) -> list[str]:
        self.asked.append(("edit", {"symbols": symbols, **options}))
        self.check(symbols)
        return [text.upper() for text in texts]

    def interpolate(self, a: str, b: str, steps: int = 8) -> list[str]:
        return [a, *["between"] * (steps - 2), b]

    def encode(self, texts: list[str], **options: Any) -> Any:
        self.asked.append(("encode", options))
        n = len(texts)
        return types.SimpleNamespace(
            mean=Rows([[0.5, float("nan")]] * n),
            stddev=Rows([[0.1, 0.2]] * n),
            codes={"code": Rows([2] * n)},
            probabilities={"code": Rows([[0.1, 0.2, 0.7]] * n)},
            labels={"code": ["2"] * n},
        )

    @property
    def network(self) -> Any:
        return types.SimpleNamespace(head=self.heads.get)

    def classify(self, texts: list[str], head: str) -> Any:
        self.check({head: self.heads[head].classes[0]} if head in self.heads else {head: ""})
        return types.SimpleNamespace(labels=["positive"] * len(texts), probabilities=Rows([[0.25, 0.75]] * len(texts)))


class FakeEvaluation:
    samples = {"real": ["a real one"], "free": [f"sample {number}" for number in range(20)]}

    def to_json(self) -> dict[str, Any]:
        return {"metrics": {"kl": {"value": 1.5, "unit": "nats", "higher_is_better": None, "n": 3}}, "seed": 0}

    def table(self, console: Any) -> None:
        console.print("kl 1.5 nats")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANK", raising=False)
    return tmp_path


def replace(monkeypatch: pytest.MonkeyPatch, module: str, **contents: Any) -> None:
    fake = types.ModuleType(module)
    vars(fake).update(contents)
    monkeypatch.setitem(sys.modules, module, fake)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> FakeModel:
    fake = FakeModel()
    replace(monkeypatch, "textebm.api", TextEBM=types.SimpleNamespace(from_pretrained=lambda directory: fake))
    return fake


@pytest.fixture
def run_directory(here: Path) -> str:
    (here / "runs" / "small").mkdir(parents=True)
    (here / "runs" / "small" / "config.json").write_text("{}")
    return "runs/small"


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch, model: FakeModel) -> dict[str, Any]:
    """What train and evaluate_run were asked."""
    asked: dict[str, Any] = {}

    def train(recipe: Recipe, **options: Any) -> Any:
        asked.update(recipe=recipe, **options)
        print("progress on the wrong stream")
        return types.SimpleNamespace(directory=options["out"], model=model, evaluation=FakeEvaluation())

    def evaluate_run(directory: Path, **options: Any) -> FakeEvaluation:
        asked.update(directory=directory, **options)
        return FakeEvaluation()

    replace(monkeypatch, "textebm.runs.train", train=train, evaluate_run=evaluate_run, Run=object)
    return asked


@pytest.fixture
def recipe_file(here: Path) -> str:
    (here / "mine.yaml").write_text("name: mine\nheads: [{name: code, classes: 3}]\n")
    return "mine.yaml"


def call(*arguments: str, stdin: str | bytes = "") -> Result:
    return CliRunner().invoke(app, list(arguments), input=stdin, catch_exceptions=False)


def succeed(*arguments: str, stdin: str | bytes = "") -> str:
    result = call(*arguments, stdin=stdin)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def fail(*arguments: str, stdin: str | bytes = "") -> str:
    """The one message of a command that must fail: exit code 2, nothing on stdout."""
    result = call(*arguments, stdin=stdin)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("error: ") == 1
    return result.stderr.removeprefix("error: ").rstrip("\n")


@pytest.mark.parametrize(
    "given, set_to", [({}, "3000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")]
)
def test_threads_wait_briefly_unless_the_user_says_otherwise(given: dict[str, str], set_to: str) -> None:
    """In a fresh process: it counts only before torch is there."""
    code = (
        "import os, sys; from textebm.cli import app; app(['recipes', 'list'], standalone_mode=False)\n"
        "print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    )
    kept = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**kept, **given}, check=True
    )
    assert done.stdout.splitlines()[-1] == f"{set_to} False"


# --- train and evaluate -----------------------------------------------------------------------------------------------


def test_train_resolves_trains_and_says_what_next(training: dict[str, Any], recipe_file: str) -> None:
    out = succeed("train", recipe_file, "training.batch_size=64", "--data", "corpora", "heads.0.classes=5")
    assert training["recipe"].training.batch_size == 64 and training["recipe"].heads[0].classes == 5
    assert (training["out"], training["data_dir"], training["resume"]) == (Path("runs/mine"), Path("corpora"), False)
    assert "kl 1.5 nats" in out and "sample 9" in out and "sample 10" not in out and "a real one" not in out
    assert "progress on the wrong stream" not in out
    assert out.endswith(
        "The run lies in runs/mine. Next:\n  textebm generate runs/mine -n 10 --symbol sentiment=positive\n"
    )


def test_train_json_is_one_document(training: dict[str, Any], recipe_file: str) -> None:
    found = json.loads(succeed("train", recipe_file, "--out", "elsewhere", "--json"))
    assert found["directory"] == "elsewhere" and found["evaluation"] == FakeEvaluation().to_json()
    assert len(found["samples"]) == 10


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_stopped_training_is_130_and_says_how_to_go_on(
    training: dict[str, Any], recipe_file: str, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    def train(recipe: Recipe, **given: Any) -> Any:
        return types.SimpleNamespace(directory=given["out"], model=None, evaluation=None)

    replace(monkeypatch, "textebm.runs.train", train=train)
    result = call("train", recipe_file, "--data", "d", *options)
    assert result.exit_code == 130
    assert result.stderr == (
        "stopped and saved; go on with: textebm train runs/mine/recipe.yaml --out runs/mine --data d --resume\n"
    )
    if options:
        assert json.loads(result.stdout) == {"directory": "runs/mine", "evaluation": None, "samples": []}
    else:
        assert result.stdout == ""


def test_train_refuses_a_used_directory_unless_it_resumes(
    training: dict[str, Any], recipe_file: str, here: Path
) -> None:
    (here / "runs" / "mine").mkdir(parents=True)
    (here / "runs" / "mine" / ".lock").touch()
    succeed("train", recipe_file)  # a lock alone is no run
    (here / "runs" / "mine" / "recipe.yaml").touch()
    training.clear()
    assert fail("train", recipe_file) == (
        "the run directory 'runs/mine' is not empty; "
        "continue its run with --resume, or choose another directory with --out"
    )
    assert not training
    succeed("train", recipe_file, "--resume")
    assert training["resume"] is True
    assert "is a file" in fail("train", recipe_file, "--out", recipe_file)


def test_other_processes_of_a_run_neither_check_nor_print(
    training: dict[str, Any], recipe_file: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "runs" / "mine").mkdir(parents=True)
    (here / "runs" / "mine" / "recipe.yaml").touch()  # the first process was quicker
    monkeypatch.setenv("RANK", "1")
    assert succeed("train", recipe_file) == ""


def test_train_names_every_mistake_of_the_recipe(training: dict[str, Any], recipe_file: str) -> None:
    assert fail("train", recipe_file, "seed=-1", "latent.dmi=3") == (
        "2 problems in mine.yaml:\n"
        "  seed: must be at least 0, got -1\n"
        "  latent.dmi: unknown option; did you mean 'dim'? Known: "
        + ", ".join(sorted(type(Recipe(name="a").latent).model_fields))
    )
    assert not training


@pytest.mark.parametrize("error", [CheckpointError, DivergenceError, RecipeError])
def test_errors_of_the_library_are_one_message(
    error: type[TextEBMError], training: dict[str, Any], recipe_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*_: Any, **__: Any) -> None:
        raise error("the loss is NaN [in step 3]")

    replace(monkeypatch, "textebm.runs.train", train=train)
    assert fail("train", recipe_file, "--json") == "the loss is NaN [in step 3]"


def test_ctrl_c_is_130_and_bugs_show_themselves(recipe_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    replace(monkeypatch, "textebm.runs.train", train=stop)
    result = call("train", recipe_file)
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "interrupted\n")

    def bug(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    replace(monkeypatch, "textebm.runs.train", train=bug)
    with pytest.raises(ZeroDivisionError):
        call("train", recipe_file)


def test_evaluate(training: dict[str, Any], run_directory: str) -> None:
    assert "kl 1.5 nats" in succeed("evaluate", run_directory, "--limit", "5", "--seed", "3", "--data", "d")
    asked = {name: training[name] for name in ("directory", "limit", "seed", "data_dir")}
    assert asked == {"directory": Path(run_directory), "limit": 5, "seed": 3, "data_dir": Path("d")}
    assert json.loads(succeed("evaluate", run_directory, "--json")) == FakeEvaluation().to_json()
    succeed("evaluate", run_directory, "evaluation.draws=3", "--set", "evaluation.refine=2")  # --set: as it once was
    assert training["overrides"] == ["evaluation.draws=3", "evaluation.refine=2"]
    assert "name a run directory" in fail("evaluate", "evaluation.draws=3")
    assert "--set" not in succeed("evaluate", "--help")


# --- run directories --------------------------------------------------------------------------------------------------

WITH_RUN = [
    ["evaluate", "{}"],
    ["generate", "{}"],
    ["reconstruct", "{}", "a"],
    ["interpolate", "{}", "a", "b"],
    ["edit", "{}", "--symbol", "a=b"],
    ["encode", "{}", "text.txt"],
    ["classify", "{}", "--head", "a"],
]


@pytest.mark.parametrize("arguments", WITH_RUN, ids=[each[0] for each in WITH_RUN])
def test_every_command_checks_its_run_before_anything_slow(
    arguments: list[str], run_directory: str, here: Path
) -> None:
    (here / "text.txt").write_text("a\n")
    (here / "runs" / "begun").mkdir()
    (here / "runs" / "begun" / "recipe.yaml").touch()

    def message(run: str) -> str:
        return fail(*(each.format(run) for each in arguments))

    assert message("runs/smal") == (
        "no run at 'runs/smal': the directory does not exist; did you mean 'runs/small'? Known: runs/small"
    )
    assert message("nowhere/x") == (
        "no run at 'nowhere/x': the directory does not exist; train one first, as with: textebm train quickstart"
    )
    assert message("text.txt") == "'text.txt' is a file, expected a run directory"
    assert message("runs") == "'runs' is not a run: it holds no config.json"
    assert message("runs/begun") == (
        "the training in 'runs/begun' is not finished; "
        "continue it with: textebm train runs/begun/recipe.yaml --out runs/begun --resume"
    )


# --- sentences --------------------------------------------------------------------------------------------------------


def test_generate(model: FakeModel, run_directory: str) -> None:
    out = succeed("generate", run_directory, "-n", "3", "--seed", "0")
    assert out == "sentence 0 [é]\nsentence 1 [é]\nsentence 2 [é]\n"
    assert model.asked == [("generate", {"symbols": None, "strength": None, "seed": 0})]


def test_generate_like_examples(model: FakeModel, run_directory: str) -> None:
    succeed(
        "generate",
        run_directory,
        "--like",
        "good food",
        "--like",
        "bad food",
        "--like-strength",
        "3",
        "-n",
        "1",
        "--seed",
        "0",
    )
    like = {"like": ["good food", "bad food"], "like_strength": 3.0}
    assert model.asked == [("generate", {"symbols": None, "strength": None, "seed": 0, **like})]
    assert "--like" in fail("generate", run_directory, "--like-strength", "3")


def test_generate_passes_what_was_given(model: FakeModel, run_directory: str) -> None:
    symbols = ["--symbol", "sentiment=positive", "--symbol", "code=2"]
    decoding = ["--decoding", "sample", "--temperature", "0.7", "--top-k", "5", "--top-p", "0.9"]
    found = json.loads(
        succeed("generate", run_directory, *symbols, "--strength", "3", "--seed", "4", *decoding, "--json")
    )
    asked = {"symbols": {"sentiment": "positive", "code": "2"}, "strength": 3.0, "seed": 4}
    assert model.asked[0][1] == asked | {"decoding": "sample", "temperature": 0.7, "top_k": 5, "top_p": 0.9}
    assert len(found["sentences"]) == 10 and found["symbols"] == asked["symbols"] and found["seed"] == 4
    succeed("generate", run_directory, "--decoding", "beam", "--beams", "3", "--seed", "0")
    assert model.asked[1][1]["num_beams"] == 3
    found = json.loads(succeed("generate", run_directory, "--resample-from-layer", "1", "--json", "--seed", "0"))
    assert model.asked[2][1]["resample_from_layer"] == found["resample_from_layer"] == 1
    succeed("generate", run_directory, "--symbol", "code=2", "--confidence", "0.9", "--seed", "0")
    assert model.asked[3][1]["confidence"] == 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--symbol", "positive"], "--symbol 'positive': expected HEAD=CLASS, such as sentiment=positive"),
        (["--symbol", "code="], "--symbol 'code=': expected HEAD=CLASS, such as sentiment=positive"),
        (["--symbol", "code=1", "--symbol", "code=2"], "--symbol: head 'code' is given twice ('1' and '2'); keep one"),
        (["--symbol", "sentimant=positive"], "no head 'sentimant'; did you mean 'sentiment'? Known: code, sentiment"),
        (
            ["--symbol", "sentiment=postive"],
            "head 'sentiment' has no class 'postive'; did you mean 'positive'? Known: negative, positive",
        ),
        (["--strength", "2"], "--strength has no effect here; it needs --symbol HEAD=CLASS"),
        (["--temperature", "2"], "--temperature has no effect here; it needs --decoding sample"),
        (["--top-k", "2", "--decoding", "beam"], "--top-k has no effect here; it needs --decoding sample"),
        (["--beams", "2"], "--beams has no effect here; it needs --decoding beam"),
    ],
)
def test_generate_refuses(model: FakeModel, run_directory: str, options: list[str], message: str) -> None:
    assert fail("generate", run_directory, *options) == message


@pytest.mark.parametrize("options", [["-n", "0"], ["-n", "x"], ["--decoding", "best"], ["--seed", "-1"], ["--nosuch"]])
def test_wrong_usage_is_exit_code_2(model: FakeModel, run_directory: str, options: list[str]) -> None:
    result = call("generate", run_directory, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Usage: " in result.stderr


ON_A_DEVICE = [
    ["generate", "-n", "1"],
    ["reconstruct", "a"],
    ["edit", "--symbol", "code=1"],
    ["encode", "-"],
    ["classify", "--head", "code"],
]


@pytest.mark.parametrize("command", ON_A_DEVICE, ids=lambda command: command[0])
def test_the_device_is_the_users_to_choose(
    model: FakeModel, run_directory: str, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, *options = command
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    said = fail(name, run_directory, *options, "--device", "cuda")
    assert said == "--device cuda: PyTorch sees no GPU here; leave the option out to use the CPU"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    succeed(name, run_directory, *options, "--device", "cuda", stdin="a")
    assert model.device == "cuda"
    succeed(name, run_directory, *options, stdin="a")
    assert model.device == "cpu"


def test_refine_reaches_the_model(model: FakeModel, run_directory: str, tmp_path: Path) -> None:
    succeed("reconstruct", run_directory, "good food", "--refine", "4")
    assert model.asked[-1] == ("reconstruct", {"seed": 0, "refine": 4})
    (tmp_path / "some.txt").write_text("good food\n")
    succeed("encode", run_directory, str(tmp_path / "some.txt"), "--refine", "3", "--seed", "2")
    assert model.asked[-1] == ("encode", {"refine": 3, "seed": 2})
    assert call("reconstruct", run_directory, "a", "--refine", "-1").exit_code == 2


def test_reconstruct_from_arguments_and_from_stdin(model: FakeModel, run_directory: str) -> None:
    assert succeed("reconstruct", run_directory, "good food", "é") == "GOOD FOOD\nÉ\n"
    assert succeed("reconstruct", run_directory, stdin="\ufeffone\r\n\n  \ntwo") == "ONE\n\n\nTWO\n"
    lines = succeed("reconstruct", run_directory, "--json", stdin="one\n\n").splitlines()
    assert [json.loads(line) for line in lines] == [
        {"text": "one", "reconstruction": "ONE"},
        {"text": "", "reconstruction": ""},
    ]
    assert succeed("reconstruct", run_directory, stdin="") == ""


def test_edit_gives_a_line_for_a_line_over_several_batches(model: FakeModel, run_directory: str) -> None:
    given = [f"text {number}" if number % 7 else "" for number in range(600)]
    options = ["--symbol", "sentiment=positive", "--level", "2", "--seed", "1", "--strength", "3"]
    out = succeed("edit", run_directory, *options, stdin="\n".join(given) + "\n")
    assert out.split("\n")[:-1] == [text.upper() for text in given]
    assert len(model.asked) == 3
    assert model.asked[0][1] == {
        "symbols": {"sentiment": "positive"},
        "keep": None,
        "confidence": None,
        "level": 2,
        "strength": 3.0,
        "seed": 1,
    }
    assert json.loads(succeed("edit", run_directory, *options, "--json", stdin="a")) == {"text": "a", "edited": "A"}
    assert fail("edit", run_directory).startswith("nothing to edit towards: give --symbol HEAD=CLASS")


def test_input_that_is_no_text_names_its_line(model: FakeModel, run_directory: str) -> None:
    assert (
        fail("reconstruct", run_directory, stdin=b"ok\n\xff\xfe\n")
        == "standard input, line 2: not UTF-8 (byte 0xff at position 0)"
    )
    assert fail("reconstruct", run_directory, stdin=b"a\0b\n") == ("standard input, line 1: a NUL byte")


def test_interpolate(model: FakeModel, run_directory: str) -> None:
    assert succeed("interpolate", run_directory, "a b", "c d", "--steps", "3") == "a b\nbetween\nc d\n"
    found = json.loads(succeed("interpolate", run_directory, "a", "b", "--json"))
    assert (found["a"], found["b"], len(found["sentences"])) == ("a", "b", 8)
    assert fail("interpolate", run_directory, "a", " ") == "sentence B is empty"


# --- latents ----------------------------------------------------------------------------------------------------------


def test_encode_writes_json_lines(model: FakeModel, run_directory: str, here: Path) -> None:
    (here / "text.txt").write_text("one\n\ntwo é\n", encoding="utf-8")
    assert succeed("encode", run_directory, "text.txt", "--out", "codes.jsonl") == ""
    records = [json.loads(line) for line in (here / "codes.jsonl").read_text(encoding="utf-8").splitlines()]
    assert records[1] == {
        "line": 3,
        "text": "two é",
        "codes": {"code": "2"},
        "probabilities": {"code": [0.1, 0.2, 0.7]},
        "mean": [0.5, None],
        "stddev": [0.1, 0.2],
    }
    assert [record["line"] for record in records] == [1, 3]
    assert succeed("encode", run_directory, "-", stdin="one\n\ntwo é\n") == (here / "codes.jsonl").read_text(
        encoding="utf-8"
    )
    assert sorted(os.listdir(here)) == ["codes.jsonl", "runs", "text.txt"]


def test_encode_loses_nothing(model: FakeModel, run_directory: str, here: Path) -> None:
    (here / "text.txt").write_bytes(b"one\n\xff\n")
    (here / "codes.jsonl").write_text("old")
    assert (
        fail("encode", run_directory, "text.txt", "--out", "codes.jsonl")
        == "text.txt, line 2: not UTF-8 (byte 0xff at position 0)"
    )
    assert (here / "codes.jsonl").read_text() == "old"
    assert sorted(os.listdir(here)) == ["codes.jsonl", "runs", "text.txt"]
    assert fail("encode", run_directory, "text.txt", "--out", "./text.txt").endswith(
        "is the input itself; choose another file"
    )
    assert fail("encode", run_directory, "none.txt") == "no such file: 'none.txt'"
    assert (
        fail("encode", run_directory, "text.txt", "--out", "no/x") == "cannot write 'no/x': its folder does not exist"
    )
    assert fail("encode", run_directory, "text.txt", "--out", "runs") == "cannot write 'runs': it is a directory"


def test_encode_writes_a_table_and_arrays_of_any_file(model: FakeModel, run_directory: str, here: Path) -> None:
    (here / "text.csv").write_text("review,stars\none,1\n,2\ntwo é,3\n", encoding="utf-8")
    assert succeed("encode", run_directory, "text.csv", "--text", "review", "--out", "codes.parquet") == ""
    table = pq.read_table(here / "codes.parquet").to_pylist()
    assert [row["text"] for row in table] == ["one", "two é"] and [row["line"] for row in table] == [1, 3]
    assert table[1]["code"] == "2" and table[1]["code probabilities"] == [0.1, 0.2, 0.7]
    assert succeed("encode", run_directory, "one", "two é", "--out", "codes.npz") == ""
    arrays = np.load(here / "codes.npz", allow_pickle=False)
    assert arrays["text"].tolist() == ["one", "two é"] and arrays["stddev"].shape == (2, 2)
    assert arrays["code"].tolist() == ["2", "2"]
    assert "column 'text'" in fail("encode", run_directory, "text.csv")


@pytest.mark.parametrize("command", [["reconstruct"], ["edit", "--symbol", "code=1"], ["classify", "--head", "code"]])
def test_sentences_come_in_one_way(model: FakeModel, run_directory: str, here: Path, command: list[str]) -> None:
    """As arguments, as a file of any kind, or from stdin, in every command."""
    name, *options = command
    (here / "some.txt").write_text("one\ntwo\n")
    (here / "some.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    expected = succeed(name, run_directory, "one", "two", *options)
    assert len(expected.splitlines()) == 2
    for given in (["some.txt"], ["some.jsonl"]):
        assert succeed(name, run_directory, *given, *options) == expected
    for given in ([], ["-"]):
        assert succeed(name, run_directory, *given, *options, stdin="one\ntwo\n") == expected
    assert fail(name, run_directory, "none.csv", *options) == "no such file: 'none.csv'"


def test_classify(model: FakeModel, run_directory: str) -> None:
    assert succeed("classify", run_directory, "--head", "sentiment", stdin="a b\n\nc") == (
        "positive\t0.750\ta b\n\npositive\t0.750\tc\n"
    )
    lines = succeed("classify", run_directory, "--head", "sentiment", "--json", stdin="a\n\n").splitlines()
    assert json.loads(lines[0]) == {
        "text": "a",
        "label": "positive",
        "probabilities": {"negative": 0.25, "positive": 0.75},
    }
    assert json.loads(lines[1]) == {"text": "", "label": None, "probabilities": {}}
    assert "did you mean 'sentiment'" in fail("classify", run_directory, "--head", "sentimant", stdin="a")


# --- recipes ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def shipped(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = here / "shipped"
    folder.mkdir()
    (folder / "ptb.yaml").write_text("# the command\nname: ptb\ndescription: news [10k words]\ndata: {corpus: ptb}\n")
    monkeypatch.setattr(recipe_io, "recipes_directory", lambda: folder)
    return folder


def test_recipes_list_show_copy(shipped: Path, here: Path) -> None:
    assert succeed("recipes", "list") == "ptb\tnews [10k words]\n"
    assert json.loads(succeed("recipes", "list", "--json"))[0]["name"] == "ptb"
    assert succeed("recipes", "show", "ptb") == (shipped / "ptb.yaml").read_text()
    assert yaml.safe_load(succeed("recipes", "show", "ptb", "--resolved"))["data"]["max_tokens"] == 40
    assert json.loads(succeed("recipes", "show", "ptb", "--json"))["data"]["corpus"] == "ptb"
    assert "textebm train ptb.yaml" in succeed("recipes", "copy", "ptb")
    assert (here / "ptb.yaml").read_text() == (shipped / "ptb.yaml").read_text()
    assert fail("recipes", "copy", "ptb") == "'ptb.yaml' exists already; remove it, or name another file"
    assert fail("recipes", "copy", "ptb", "no/x.yaml") == "cannot write 'no/x.yaml': No such file or directory"
    assert fail("recipes", "show", "ptbb") == "no recipe is called 'ptbb'; did you mean 'ptb'? Known: ptb"


def test_recipes_validate(recipe_file: str) -> None:
    assert succeed("recipes", "validate", recipe_file) == (
        "mine.yaml is valid: mine; corpus grammar, prior diffusion_energy, heads code\n"
    )
    found = json.loads(succeed("recipes", "validate", recipe_file, "prior.kind=energy", "--json"))
    assert found["valid"] is True and Recipe.model_validate(found["recipe"]).prior.kind == "energy"
    assert fail("recipes", "validate", recipe_file, "prior.kind=energi").startswith(
        "prior.kind: unknown value 'energi'"
    )


def test_recipes_options() -> None:
    lines = succeed("recipes", "options", "prior").splitlines()
    kinds = "gaussian | gaussian_mixture | energy | diffusion_energy | joint_energy | hierarchical_diffusion_energy"
    assert lines[0].startswith(f"prior.kind\t{kinds}\tdiffusion_energy")
    assert all(line.startswith("prior.") for line in lines)
    assert {"name", "kind", "default", "description", "when"} == set(
        json.loads(succeed("recipes", "options", "--json"))[0]
    )
    assert "did you mean 'prior'" in fail("recipes", "options", "priro")


# --- data -------------------------------------------------------------------------------------------------------------


def test_data_list_and_check(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [
        {"name": "grammar", "found": "embedded", "sentences": 1234, "labels": ["tense"], "source": "generated"},
        {"name": "ptb", "found": None, "sentences": None, "labels": [], "source": "somewhere"},
    ]
    asked: list[Any] = []

    def check_file(*arguments: Any, **options: Any) -> Any:
        asked.append((*arguments, options["max_tokens"]))
        return types.SimpleNamespace(ok=arguments[0] == Path("good.txt"), to_dict=lambda: {"rows": 3})

    replace(monkeypatch, "textebm.text.check", check_file=check_file, table=lambda report: "rows 3")
    replace(monkeypatch, "textebm.text.listing", list_corpora=lambda data: listed)
    assert succeed("data", "list") == "grammar\t1,234\ttense\tembedded\nptb\t\tnone\tnot here; get it from somewhere\n"
    assert json.loads(succeed("data", "list", "--json")) == listed
    assert succeed("data", "check", "good.txt", "--text", "review", "--label", "stars", "--label", "y") == "rows 3\n"
    assert asked == [(Path("good.txt"), "review", ["stars", "y"], 10000, 40)]
    result = call("data", "check", "bad.txt", "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (1, {"rows": 3})


# --- the whole program ------------------------------------------------------------------------------------------------


def commands(group: Any, prefix: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    found = []
    for name, command in group.commands.items():
        inner = getattr(command, "commands", None)
        found += commands(command, (*prefix, name)) if inner else [((*prefix, name), command)]
    return found


def test_every_command_has_a_purpose_and_an_example_that_parses() -> None:
    import typer.main

    group = typer.main.get_command(app)
    known = commands(group)
    assert len(known) >= 22
    for path, command in known:
        assert command.help and "\n" not in command.help.strip(), path
        assert f"{command.epilog} ".startswith(f"Example: textebm {' '.join(path)} "), path
        out = succeed(*path, "--help")
        assert "Usage: " in out and "Example: textebm" in out


def program(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-m", "textebm", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        **options,
    )


def test_help_and_version_answer_at_once() -> None:
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        result = program("--help")
        seconds.append(time.perf_counter() - start)
        assert result.returncode == 0 and "Commands" in result.stdout
    assert min(seconds) < 1
    version = program("--version")
    assert (version.returncode, version.stdout.split()[0]) == (0, "textebm")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from textebm.cli import app; "
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0; "
        "heavy = ('torch', 'transformers', 'datasets', 'sklearn', 'sacrebleu', 'pydantic'); "
        "print([module for module in heavy if module in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert result.stdout == "[]\n"


def test_errors_of_the_program_are_one_line_on_stderr(here: Path) -> None:
    result = program("generate", "runs/none", cwd=here)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        "error: no run at 'runs/none': the directory does not exist; "
        "train one first, as with: textebm train quickstart\n"
    )


STAND_IN = """
import signal, sys, time, types
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell inherits SIGINT ignored
module = types.ModuleType("textebm.api")
class TextEBM:
    heads = {}
    reads_context = False
    @classmethod
    def from_pretrained(cls, directory): return cls()
    def to(self, device): return self
    def generate(self, n, **options): return ["word " * 50] * n
    def reconstruct(self, texts, **options): print("ready", file=sys.stderr, flush=True); time.sleep(30); return texts
module.TextEBM = TextEBM
sys.modules["textebm.api"] = module
from textebm.cli import app
app(prog_name="textebm")
"""


def stand_in(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    """The whole program with a model that needs no torch."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", STAND_IN, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        **options,
    )


@pytest.mark.parametrize("n", ["1", "20000"])
def test_a_closed_pipe_ends_quietly(run_directory: str, n: str) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", STAND_IN, "generate", run_directory, "-n", n, "--seed", "0"],
        stdout=write_end,
        stderr=subprocess.PIPE,
        env=environment,
        timeout=60,
    )
    os.close(write_end)
    assert result.stderr == b""
    assert result.returncode == 141


def test_a_signal_ends_with_130(run_directory: str) -> None:
    process = stand_in("reconstruct", run_directory, "a")
    assert process.stderr is not None
    assert process.stderr.readline() == b"ready\n"
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=30)
    assert (process.returncode, out, errors) == (130, b"", b"interrupted\n")


def test_the_locale_does_not_matter(run_directory: str, here: Path) -> None:
    code = STAND_IN.replace('["word " * 50]', '["caf\\u00e9"]')
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    command = [sys.executable, "-c", code, "generate", run_directory, "-n", "1"]
    result = subprocess.run(command, capture_output=True, env=environment, check=True)
    assert result.stdout == "café\n".encode()


def test_allow_code_may_stand_anywhere_before_the_arguments_end(
    recipe_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from textebm.recipe import implementation

    seen: list[bool] = []

    def train(*_: Any, **__: Any) -> Any:
        seen.append(implementation._allowed.get())
        raise TextEBMError("enough")

    replace(monkeypatch, "textebm.runs.train", train=train)
    for arguments in (
        ("train", recipe_file),
        ("train", recipe_file, "--allow-code"),
        ("--allow-code", "train", recipe_file),
    ):
        assert fail(*arguments) == "enough"
    assert seen == [False, True, True] and not implementation._allowed.get()
