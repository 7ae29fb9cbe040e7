"""What a promise is, and how one is tried."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

# One attempt after the other: None where the promise held, else what was seen.
Trial = Callable[[int, Path, random.Random], Iterator[str | None]]


@dataclass(frozen=True)
class Promise:
    """stated: how often it is tried in the long form; short: in the gate, where 0 leaves it to the long form."""

    name: str
    text: str
    trial: Trial
    stated: int
    short: int


@dataclass
class Outcome:
    promise: Promise
    tried: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    @property
    def held(self) -> int:
        return self.tried - len(self.problems)


PROMISES: list[Promise] = []


def promise(name: str, text: str, *, stated: int, short: int) -> Callable[[Trial], Trial]:
    def enter(trial: Trial) -> Trial:
        PROMISES.append(Promise(name, text, trial, stated, short))
        return trial

    return enter


def tried(chosen: Promise, count: int, folder: Path, seed: int = 0, seconds: float = float("inf")) -> Outcome:
    """Try it about *count* times (some promises have a natural number of attempts above that), or until *seconds* of
    this process and its children are used."""
    outcome, began = Outcome(chosen), time.process_time() + sum(os.times()[2:4])
    folder.mkdir(parents=True, exist_ok=True)
    for problem in chosen.trial(count, folder, random.Random(seed)):
        outcome.tried += 1
        if problem is not None:
            outcome.problems.append(problem)
        outcome.seconds = time.process_time() + sum(os.times()[2:4]) - began
        if outcome.seconds > seconds:
            break
    return outcome


def table(outcomes: list[Outcome]) -> str:
    """What was tried and what held, as Markdown."""
    lines = ["| promise | how it was tried | tried | held | CPU s |", "|---|---|---:|---:|---:|"]
    for each in outcomes:
        cells = each.promise.name, each.promise.text, f"{each.tried:,}", f"{each.held:,}", f"{each.seconds:.0f}"
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def in_child(action: Callable[[], object], log: Path | None = None) -> int:
    """Start *action* in a forked child and return its process id. It ends with 0, or 2 for an error of ours."""
    process = os.fork()
    if process:
        return process
    code = 1
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores Ctrl-C
    try:
        from textebm.errors import TextEBMError

        out = os.open(log or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(out, 1)
        os.dup2(out, 2)
        try:
            action()
            code = 0
        except TextEBMError as error:
            os.write(2, f"error: {error}\n".encode())
            code = 2
        except KeyboardInterrupt:
            code = 130
        except BaseException:
            import traceback

            os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def ended(process: int) -> int:
    """The exit code of a child; a signal counts negative."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
