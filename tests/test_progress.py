"""The metrics of a resumed run equal those of an unbroken one; progress goes to stderr and never gets in the way."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from textebm.notebook import duration
from textebm.runs.progress import MetricsLog, Progress, health_line


def values(step: int) -> dict[str, float]:
    return {"loss": 1 / step, "kl": 0.1 * step}


def test_a_resumed_log_equals_an_unbroken_one(tmp_path: Path) -> None:
    whole, broken = MetricsLog(tmp_path / "whole.jsonl"), MetricsLog(tmp_path / "broken.jsonl")
    for step in range(1, 11):
        whole.write(step, values(step))
    for step in range(1, 8):
        broken.write(step, values(step))
    with open(broken.path, "ab") as file:
        file.write(b'{"step": 8, "lo')  # killed while writing
    assert [record["step"] for record in broken.read()] == list(range(1, 8))
    assert broken.truncate_after(5) == 3
    for step in range(6, 11):
        broken.write(step, values(step))
    assert broken.path.read_bytes() == whole.path.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.jsonl", "whole.jsonl"]


@pytest.mark.parametrize(
    "rest", [b"", b"{", b"\xff\xfe\n", b'{"step": 3, "loss": 1}', b"[]\n", b'{"loss": 1}\n', b"\n"]
)
def test_lines_that_are_not_whole_are_dropped(tmp_path: Path, rest: bytes) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    assert log.read() == [] and log.truncate_after(5) == 0 and not log.path.exists()
    log.write(1, {"loss": 2.5, "warning": "kl\ncollapse"})
    before = log.path.read_bytes()
    log.path.write_bytes(before + rest)
    assert log.truncate_after(10) == (1 if rest else 0)
    assert log.path.read_bytes() == before
    assert log.read() == [{"step": 1, "loss": 2.5, "warning": "kl\ncollapse"}]


def test_numbers_that_are_not_finite_are_null(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.write(1, {"loss": float("nan"), "kl": float("-inf"), "codes": 3})
    assert log.path.read_text() == '{"step": 1, "loss": null, "kl": null, "codes": 3}\n'


def test_health_line() -> None:
    health = {"new": 0.123456, "kl": 8.314, "reconstruction_nll": 41.2, "acceptance": 0.8, "reliance": 0.41}
    expected = "step 200/1000 · reconstruction 41.20 · KL 8.31 · reliance 0.410 · acceptance 0.80 · new 0.1235"
    assert health_line(200, health, 1000) == expected
    assert health_line(3, {"kl": None, "stage": "prior"}) == "step 3 · KL None · stage prior"


def run(console: Console, quiet: bool, every: float) -> None:
    with Progress(quiet=quiet, console=console, every=every) as progress:
        progress.stage("prior")
        progress.update(1)
        assert progress.tokens_per_second == 0
        progress.stage("warm-up", total=3, steps=3)
        for step in range(1, 4):
            progress.update(step, {"loss": 2.0 / step}, tokens=100)
        progress.message("[red]not markup[/red] [b]")


def test_without_a_terminal_there_are_plain_lines_now_and_then() -> None:
    often, seldom = io.StringIO(), io.StringIO()
    run(Console(file=often, width=200), quiet=False, every=0.0)
    run(Console(file=seldom, width=200), quiet=False, every=3600.0)
    lines = often.getvalue().splitlines()
    assert lines[:2] == ["prior", "prior: step 1"]
    assert lines[2] == "warm-up: 3 steps, their losses running means over about 50"
    assert lines[3] == "warm-up: step 1/3 · loss 2.000", "no step before it to count from"
    assert lines[4].startswith("warm-up: step 2/3 · 1 s left · loss 1.500 · tokens/s ")
    assert seldom.getvalue().splitlines() == ["prior", lines[2], "[red]not markup[/red] [b]"]
    assert "\x1b" not in often.getvalue()


def test_losses_are_means_and_the_time_is_the_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain mean of the first 50 steps, then one that forgets; steps count to the run's end."""
    clock, told = iter(range(10_000)), io.StringIO()
    monkeypatch.setattr("textebm.runs.progress.time.monotonic", lambda: float(next(clock)))
    with Progress(console=Console(file=told, width=200), every=0.0) as progress:
        progress.stage("prior", total=1000, step=100, steps=500)
        for step in range(101, 151):
            progress.update(step, {"loss": float(step - 101)})
        assert told.getvalue().splitlines()[-1].endswith(" · loss 24.500")  # (0 + … + 49) / 50
        progress.update(151, {"loss": 74.5})
        line = told.getvalue().splitlines()[-1]
        assert line.startswith("prior: step 151/1000 · ") and line.endswith(" · loss 25.500")  # 24.5 + 50 / 50
        ticks = progress._ticked - progress._first[0]  # the clock ticks once a reading, the same for every step
        assert progress.left(151) == f"{duration(ticks / 50 * 449)} left of this stage"
        progress.stage("joint", total=1000, step=600, steps=400)
        progress.update(601, {"loss": 9.0})
        assert told.getvalue().splitlines()[-1] == "joint: step 601/1000 · loss 9.000"
        progress.update(602, {"loss": 9.0})
        ticks = progress._ticked - progress._first[0]
        assert progress.left(602) == f"{duration(ticks * 398)} left", "the last stage's end is the run's"
        progress.part("evaluating: codes")
    assert told.getvalue().splitlines()[-1] == "evaluating: codes"


def test_on_a_terminal_there_is_a_bar_unless_quiet() -> None:
    loud, quiet = io.StringIO(), io.StringIO()
    run(Console(file=loud, force_terminal=True, width=120), quiet=False, every=3600.0)
    run(Console(file=quiet, force_terminal=True, width=120), quiet=True, every=3600.0)
    assert "warm-up" in loud.getvalue() and "3/3" in loud.getvalue() and "tokens/s" in loud.getvalue()
    assert "[red]not markup[/red] [b]" in loud.getvalue()
    assert "3/3" not in quiet.getvalue()


def test_by_default_stdout_stays_empty(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(every=0.0) as progress:
        progress.stage("encode", total=1)
        progress.update(1)
    captured = capsys.readouterr()
    assert captured.out == "" and "encode" in captured.err
