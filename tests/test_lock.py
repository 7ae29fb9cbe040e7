"""Two runs cannot share a directory, a dead one holds none, and a signal is a wish."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from textebm.errors import RunInUseError, TextEBMError
from textebm.runs.interrupt import GracefulStop
from textebm.runs.lock import RunLock

HOLD = """
import os, sys, time
from textebm.runs.lock import RunLock
with RunLock(sys.argv[1]):
    child = 0
    if sys.argv[2] == "fork":
        ready, done = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(done, b"!")
            time.sleep(600)
        os.read(ready, 1)
    os.write(1, f"held {child}\\n".encode())
    time.sleep(600)
"""


def hold(directory: Path, how: str = "plain") -> tuple[subprocess.Popen[str], int]:
    """A process that holds the lock, and the pid of its fork (0: none)."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(directory), how], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        word, child = process.stdout.readline().split()
    assert word == "held"
    return process, int(child)


def test_the_lock_is_refused_and_free_again(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    with RunLock(directory):
        content = json.loads((directory / ".lock").read_text())
        assert content["pid"] == os.getpid()
        with pytest.raises(RunInUseError, match=f"run: in use by process {os.getpid()} on "):
            RunLock(directory).__enter__()
        assert json.loads((directory / ".lock").read_text()) == content
    assert (directory / ".lock").read_text() == ""
    with pytest.raises(RuntimeError), RunLock(directory):
        raise RuntimeError
    with RunLock(directory) as lock:
        with pytest.raises(RunInUseError, match="held already"):
            lock.__enter__()


def test_another_process_is_named_and_its_death_frees_the_lock(tmp_path: Path) -> None:
    child, _ = hold(tmp_path)
    try:
        with pytest.raises(RunInUseError, match=f"in use by process {child.pid} on .* since 20"):
            RunLock(tmp_path).__enter__()
    finally:
        child.kill()
        child.wait()
    with RunLock(tmp_path):  # at once, although the file still names the dead process
        pass


def test_a_forked_child_does_not_keep_the_lock_of_a_dead_parent(tmp_path: Path) -> None:
    parent, orphan = hold(tmp_path, "fork")
    try:
        parent.kill()
        parent.wait()
        os.kill(orphan, 0)  # it lives
        with RunLock(tmp_path):
            pass
    finally:
        os.kill(orphan, signal.SIGKILL)


def test_a_forked_child_cannot_release_its_parents_lock(tmp_path: Path) -> None:
    with RunLock(tmp_path) as lock:
        process = os.fork()
        if process == 0:
            lock.__exit__(None, None, None)
            os._exit(0)
        assert os.waitpid(process, 0)[1] == 0
        with pytest.raises(RunInUseError):
            RunLock(tmp_path).__enter__()


def _race(directory: str, barrier: multiprocessing.synchronize.Barrier, counter: Path, rounds: int) -> None:
    for _ in range(rounds):
        barrier.wait(30)
        try:
            with RunLock(directory):
                with open(counter, "ab", buffering=0) as file:
                    file.write(b"x")
                barrier.wait(30)  # hold it until everyone has tried
        except RunInUseError:
            barrier.wait(30)
        barrier.wait(30)


def test_of_many_only_one_wins(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    barrier = context.Barrier(4)
    counter = tmp_path / "wins"
    children = [
        context.Process(target=_race, args=(str(tmp_path / "run"), barrier, counter, 25), daemon=True) for _ in range(4)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 4
    assert counter.stat().st_size == 25


def test_a_directory_that_cannot_be_one_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TextEBMError, match="cannot be used as a run directory"):
        RunLock(tmp_path / "file").__enter__()


def test_no_file_handle_is_left(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        with RunLock(tmp_path):
            with pytest.raises(RunInUseError):
                RunLock(tmp_path).__enter__()
    assert len(os.listdir("/proc/self/fd")) == before


# -------------------------------------------------------------------------------------------------------------- signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_a_wish_and_a_second_ctrl_c_an_order(number: signal.Signals) -> None:
    before = [signal.getsignal(each) for each in GracefulStop.SIGNALS]
    with pytest.raises(KeyboardInterrupt), GracefulStop() as stop:
        assert not stop.requested and stop.signal is None
        os.kill(os.getpid(), number)
        assert stop.requested and stop.signal == number
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
    assert [signal.getsignal(each) for each in GracefulStop.SIGNALS] == before


def test_nothing_is_installed_outside_the_main_thread() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[object] = []

    def body() -> None:
        with GracefulStop() as stop:
            seen.extend([signal.getsignal(signal.SIGINT), stop.requested])

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [before, False] and signal.getsignal(signal.SIGINT) is before


def test_a_forked_child_still_ends_by_sigterm() -> None:
    with GracefulStop() as stop:
        process = os.fork()
        if process == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
            os._exit(0)
        status = os.waitpid(process, 0)[1]
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGTERM and not stop.requested
