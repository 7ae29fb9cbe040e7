"""Promises about bad input: recipes, corpora, command lines and Python calls that are changed at random."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import random
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from textebm.errors import TextEBMError
from textebm.recipe.read import load_recipe

from .promise import promise

PIECES = [
    *(
        "\0",
        "\ufeff",
        "\u202e",
        "\x1b[31m",
        "\r",
        "\r\n",
        '"',
        "'",
        ",",
        "\t",
        ":",
        "- ",
        "#",
        "{",
        "}",
        "[",
        "]",
        "&a ",
    ),
    *(
        "*a",
        "!!python/object:os.system",
        "!",
        "|",
        ">",
        "%",
        "@",
        "`",
        "\\",
        "~",
        "null",
        "true",
        "1e999",
        ".nan",
        "-1",
    ),
    *(
        "9" * 400,
        "0x",
        "1_000",
        "2024-01-01",
        "<<: *a",
        "---\n",
        "...\n",
        "extends: quickstart\n",
        "é",
        "東京",
        "🙂",
        "",
    ),
]


def changed(data: bytes, chance: random.Random) -> bytes:
    """*data* with one to four pieces put in, cut out, doubled or flipped."""
    for _ in range(chance.randrange(1, 5)):
        at = chance.randrange(len(data) + 1)
        end = min(len(data), at + chance.randrange(12))
        match chance.randrange(6):
            case 0:
                data = data[:at] + chance.choice(PIECES).encode() + data[at:]
            case 1:
                data = data[:at] + data[end:]
            case 2:
                data = data[:at] + data[at:end] * chance.choice([2, 50]) + data[end:]
            case 3 if at < len(data):
                data = data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
            case 4:
                data = data[:at] + bytes(chance.randrange(256) for _ in range(3)) + data[at:]
            case _:
                lines = data.split(b"\n")
                chance.shuffle(lines)
                data = b"\n".join(lines)
    return data


def one_error(call: Callable[[], object], what: str) -> str | None:
    """None where *call* returns, or raises an error of ours, in ten seconds."""
    began = time.process_time()
    try:
        call()
    except TextEBMError:
        pass
    except Exception as error:
        return f"{what}: {type(error).__name__}: {str(error)[:200]}"
    seconds = time.process_time() - began
    return f"{what}: took {seconds:.0f} s" if seconds > 10 else None


@promise("bad input gets one clear error", "recipes with random changes", stated=100_000, short=150)
def recipes(count: int, folder: Path, chance: random.Random) -> Iterator[str | None]:
    import yaml
    from tiny import RECIPE

    path, text = folder / "recipe.yaml", yaml.safe_dump(RECIPE).encode()
    for _ in range(count):
        data = changed(text, chance)
        path.write_bytes(data)
        yield one_error(lambda: load_recipe(path), repr(data[:2000]))


def corpora_of(folder: Path) -> list[Path]:
    """The same rows as csv, tsv, jsonl, txt and parquet."""
    import pyarrow as pa
    import pyarrow.parquet

    rows = [{"text": f"the food was {word} {i}", "label": word} for i in range(8) for word in ("good", "bad")]
    text = io.StringIO()
    writer = csv.DictWriter(text, ["text", "label"])
    writer.writeheader()
    writer.writerows(rows)
    contents = {
        "a.csv": text.getvalue(),
        "a.tsv": "text\tlabel\n" + "".join(f"{row['text']}\t{row['label']}\n" for row in rows),
        "a.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        "a.txt": "".join(f"{row['text']}\n" for row in rows),
    }
    for name, content in contents.items():
        (folder / name).write_text(content)
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), folder / "a.parquet")
    return [*(folder / name for name in contents), folder / "a.parquet"]


@promise("bad input gets one clear error", "corpora of five kinds with random changes", stated=100_000, short=150)
def corpora(count: int, folder: Path, chance: random.Random) -> Iterator[str | None]:
    from textebm.text.check import check_file

    contents = {path: path.read_bytes() for path in corpora_of(folder)}
    for _ in range(count):
        path = chance.choice(list(contents))
        data = changed(contents[path], chance)
        path.write_bytes(data)
        labels = () if path.suffix == ".txt" else ("label",)
        yield one_error(
            lambda path=path, labels=labels: check_file(path, label_columns=labels), f"{path.name}: {data!r}"
        )  # type: ignore[misc]


# --- command lines ----------------------------------------------------------------------------------------------------


@cache
def run_directory() -> Path:
    """A trained model to ask; one for all."""
    import tempfile

    from tiny import save_trained

    return save_trained(Path(tempfile.mkdtemp(prefix="textebm-fuzz-")) / "run")


WORDS = [
    *(
        "-n",
        "--seed",
        "--symbol",
        "--strength",
        "--decoding",
        "--temperature",
        "--top-k",
        "--top-p",
        "--beams",
        "--json",
    ),
    *("--refine", "--out", "--like", "--level", "--head", "--limit", "--help", "--bogus", "--set", "--split", "-"),
    *(
        "0",
        "1",
        "3",
        "-1",
        "1e9",
        "nan",
        "inf",
        "9" * 30,
        "",
        " ",
        "\0",
        "sentiment=positive",
        "sentiment=",
        "=",
        "code=0",
    ),
    *(
        "code=99",
        "greedy",
        "sample",
        "beam",
        "é",
        "\udce9",
        "/dev/null",
        "/nonexistent/x",
        ".",
        "topic",
        "--",
        "\x1b[31m",
    ),
]
COMMANDS = [["generate"], ["reconstruct"], ["edit"], ["classify"], ["interpolate"], ["encode"], ["recipes", "show"]]
COMMANDS += [
    ["recipes", "validate"],
    ["recipes", "options"],
    ["data", "check"],
    ["evaluate"],
    ["codes"],
    ["report"],
    [],
]


@promise("bad input gets one clear error", "command lines of random words", stated=3_000, short=15)
def command_lines(count: int, folder: Path, chance: random.Random) -> Iterator[str | None]:
    from typer.testing import CliRunner

    from textebm.cli import app

    for _ in range(count):
        command = chance.choice(COMMANDS)
        words = [chance.choice(WORDS) for _ in range(chance.randrange(6))]
        slow = command in (["evaluate"], ["codes"], ["report"])  # with a run these do work: words without one
        given = [] if slow or chance.random() < 0.2 else [str(run_directory())]
        words = [word for word in words if word not in ("9" * 30, "1e9") or "-n" not in words]
        stdin = chance.choice([b"", b"the food was great .\n", b"\xff\xfe\n", b"a\0b\n", b"\x1b[2J\n"])
        began = time.process_time()
        with contextlib.chdir(folder):
            result = CliRunner().invoke(app, [*command, *given, *words], input=stdin)
        what = f"textebm {' '.join(map(repr, [*command, *given, *words]))} < {stdin!r}"
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            yield f"{what}: {result.exception!r}"
        elif result.exit_code not in (0, 2):
            yield f"{what}: exit {result.exit_code}"
        elif b"\x1b[2J" in result.stdout_bytes or b"\x1b[31m" in result.stdout_bytes:
            yield f"{what}: an escape sequence came through"
        else:
            yield f"{what}: slow" if time.process_time() - began > 30 else None


# --- Python -----------------------------------------------------------------------------------------------------------


def values(chance: random.Random) -> Any:
    """Something that may be given as any argument."""
    import numpy as np
    import pandas as pd
    import torch

    nan = float("nan")
    return chance.choice(
        [
            *(
                None,
                True,
                0,
                1,
                3,
                -1,
                2**70,
                0.5,
                nan,
                float("inf"),
                "",
                "a",
                "the food was great .",
                b"a",
                "\udce9",
                "\0",
            ),
            *(
                [],
                ["a"],
                ["a", None],
                [1],
                [["a"]],
                [b"a"],
                [nan],
                ["\x1b[31m", "é"],
                ("a", "b"),
                {"a"},
                {},
                iter(["a"]),
            ),
            *(
                {"sentiment": "positive"},
                {"sentiment": 7},
                {"bogus": 1},
                {"code": None},
                {1: 2},
                {"sentiment": ["positive"]},
            ),
            *(
                np.zeros(3),
                np.array(["a", "b"]),
                pd.Series(["a", "b"], index=[5, 2]),
                torch.zeros(2, 8),
                torch.zeros(0, 8),
            ),
            *(
                torch.full((2, 8), nan),
                torch.zeros(2, 8, dtype=torch.long),
                torch.zeros(8),
                torch.zeros(2, 3),
                object(),
                str,
            ),
        ]
    )


CALLS: dict[str, tuple[str, ...]] = {
    "generate": (
        "n",
        "symbols",
        "strength",
        "seed",
        "decoding",
        "temperature",
        "top_k",
        "top_p",
        "max_tokens",
        "confidence",
    ),
    "encode": ("texts", "batch_size", "refine", "seed"),
    "classify": ("texts", "head"),
    "edit": ("texts", "symbols", "method", "keep", "confidence", "level", "seed"),
    "reconstruct": ("texts", "decoding", "seed", "num_beams"),
    "interpolate": ("a", "b", "steps", "level"),
    "decode": ("latents", "decoding", "seed", "temperature", "batch_size"),
    "sample_latents": ("n", "symbols", "steps_factor", "batch_size", "latents", "resample_from_layer"),
    "elbo_terms": ("texts", "seed", "batch_size"),
    "symbol_probabilities": ("z",),
    "energies": ("z", "level"),
}
REQUIRED = {"generate": 1, "classify": 2, "edit": 2, "interpolate": 2}
SENSIBLE: dict[str, Any] = {"n": 2, "texts": ["the food was great ."], "head": "topic", "a": "a", "b": "b"}
SENSIBLE["symbols"] = {"sentiment": "positive"}


@promise("bad input gets one clear error", "Python calls with arguments of every kind", stated=3_000, short=60)
def python_calls(count: int, folder: Path, chance: random.Random) -> Iterator[str | None]:
    import torch

    from textebm.api import TextEBM

    model = TextEBM.from_pretrained(run_directory())
    sensible = {**SENSIBLE, "latents": torch.zeros(2, 8), "z": torch.zeros(2, 8)}
    for _ in range(count):
        name = chance.choice(list(CALLS))
        known = CALLS[name]
        chosen = {each: sensible[each] for each in known[: REQUIRED.get(name, 1)]}
        odd = chance.choice(known)
        chosen[odd] = values(chance)
        if odd in ("n", "steps", "refine", "steps_factor", "num_beams") and isinstance(chosen[odd], int):
            chosen[odd] = min(chosen[odd], 50)  # many is no mistake
        yield one_error(
            lambda name=name, chosen=chosen: getattr(model, name)(**chosen),  # type: ignore[misc]
            f"{name}({odd}={str(chosen[odd])[:80]!r})",
        )
