"""The command that measures speed: bench."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from textebm.cli.shared import JsonOption, check_device, console, emit, spinner, stdout_kept_clean

if TYPE_CHECKING:
    from textebm.bench.suite import Benchmark


def bench(
    device: Annotated[Literal["cpu", "cuda"], typer.Option("--device", help="Where to measure.")] = "cpu",
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Rounds; medians are shown.")] = 5,
    sentences: Annotated[int, typer.Option("--sentences", min=1, help="How many to decode and generate.")] = 10_000,
    reference_sentences: Annotated[
        int,
        typer.Option(
            "--reference-sentences", min=1, help="How many the reference writes; its time is scaled to --sentences."
        ),
    ] = 1024,
    as_json: JsonOption = False,
) -> None:
    """Measure speed beside a plain implementation of the published settings, in turns (minutes)."""
    with stdout_kept_clean(), spinner("bench") as progress:
        check_device(device)
        import torch

        from textebm.bench import suite
        from textebm.bench.setting import Sizes

        sizes = Sizes(repeats=repeats, sentences=sentences, reference_sentences=reference_sentences)
        result = suite.run(sizes, torch.device(device), progress=progress or (lambda name: None))
    if as_json:
        emit(result.to_json(), indent=2)
    else:
        _show(result)


def _show(result: Benchmark) -> None:
    from rich.table import Table

    out = console()
    rows = Table(
        "work", "reference", "textebm", "ratio", "equal steps", "ratio", "first call", box=None, pad_edge=False
    )
    for row in result.rows:
        ratios = row.ratios()
        rows.add_row(
            row.name,
            _time(row.reference),
            _time(row.default),
            _times(ratios.get(row.name)),
            _time(row.equal_steps),
            _times(ratios.get(f"{row.name}_equal_steps")),
            "–" if row.warm_up is None else f"+{_time(row.warm_up)}",
        )
    out.print(rows)
    out.print()
    parts = Table("a training step's parts", "textebm", box=None, pad_edge=False)
    for name, took in result.parts.items():
        parts.add_row(name, _time(took))
    out.print(parts)
    out.print()
    facts = Table("facts", "", box=None, pad_edge=False)
    machine = result.machine
    half = "–" if machine.matrix_bfloat16 is None else f"{machine.matrix_bfloat16:,.0f}"
    products = f"{machine.matrix_float32:,.0f} / {half} GFLOP/s"
    facts.add_row("matrix products, float32 / bfloat16", products)
    facts.add_row("memory bandwidth", f"{machine.bandwidth:,.0f} GB/s")
    for name, value in result.facts.items():
        facts.add_row(name.replace("_", " "), f"{value:,.3g}" if value < 100 else f"{value:,.0f}")
    for name, reason in result.skipped.items():
        facts.add_row(name, f"skipped: {reason}")
    out.print(facts)
    out.print(f"{result.device} ({result.name}), {result.threads} threads")


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds:,.2f} s" if seconds >= 1 else f"{1000 * seconds:,.1f} ms"


def _times(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.1f}×"


def register(app: Any) -> None:
    app.command(epilog="Example: textebm bench --json > bench.json")(bench)
