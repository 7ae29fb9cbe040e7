"""One writer for a run directory."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
from datetime import datetime
from functools import cache
from pathlib import Path
from types import TracebackType

from textebm.errors import RunInUseError, TextEBMError

logger = logging.getLogger(__name__)

LOCK = ".lock"
_held: set[RunLock] = set()


class RunLock:
    """`with RunLock(directory):` makes this process the directory's only writer.

    The lock is the kernel's (`flock` on `.lock`), not the file's existence: the kernel drops it with the process that
    holds it, however that dies, so that there are no stale locks to recognise and no race in clearing them. What the
    file says (process, host, time) is only for the other's message; it stays, emptied, when the lock is released, since
    removing it would let two processes hold locks on two files of one name. A forked child (a data worker) neither
    keeps the lock alive nor can release it.

    Raises RunInUseError if another process, or another RunLock of this one, holds it; TextEBMError if the directory
    cannot be written. On a file system that cannot lock, a warning says so and the run goes on.
    """

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory)
        self._handle: int | None = None

    def __enter__(self) -> RunLock:
        if self._handle is not None:
            raise RunInUseError(f"{self.directory}: this RunLock is held already")
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.directory / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise TextEBMError(
                f"{self.directory}: cannot be used as a run directory ({error.strerror}); choose another with --out"
            ) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                holder = _describe(handle)
                os.close(handle)
                raise RunInUseError(
                    f"{self.directory}: in use by {holder}; wait until it ends, stop it, or choose another directory"
                ) from None
            logger.warning("%s: this file system has no locks; let no other run write here", self.directory)
        _install_fork_hook()
        _held.add(self)
        self._handle = handle
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        _write(handle, {"pid": os.getpid(), "host": socket.gethostname(), "since": now})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._handle is None:
            return  # a forked child leaves the block: the lock is its parent's
        _write(self._handle, None)
        self._forget()

    def _forget(self) -> None:
        handle, self._handle = self._handle, None
        _held.discard(self)
        if handle is not None:
            os.close(handle)  # the last descriptor of the open file: the kernel drops the lock


@cache
def _install_fork_hook() -> None:
    # A child shares the open file and would keep the lock alive after its parent; it closes its copy instead.
    os.register_at_fork(after_in_child=_forget_all)


def _forget_all() -> None:
    for lock in list(_held):
        lock._forget()


def _write(handle: int, content: dict[str, str | int] | None) -> None:
    try:
        os.ftruncate(handle, 0)
        if content is not None:
            os.pwrite(handle, json.dumps(content).encode(), 0)
    except OSError:  # a full disk: the lock holds all the same, only the message is poorer
        logger.debug("the lock file could not be written", exc_info=True)


def _describe(handle: int) -> str:
    try:
        content = json.loads(os.pread(handle, 4096, 0))
        return f"process {content['pid']} on {content['host']} since {content['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # the holder has not written it yet
        return "another process"
