"""One writer for a run directory."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
from datetime import datetime
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from textebm.errors import FileError, RunInUseError, TextEBMError
from textebm.files import NO_FOLLOW, parse_json

logger = logging.getLogger(__name__)

LOCK = ".lock"


class RunLock:
    """`with RunLock(directory):` makes this process the directory's only writer.

    The lock is the kernel's, not the file's existence: it goes with the process that holds it, however that dies, so
    that there are no stale locks. What `.lock` says (process, host, time) is only for the other's message; the file
    stays, emptied, when the lock is released. A link of that name is not followed. A forked child (a data worker)
    neither keeps the lock alive nor can release it.

    Raises RunInUseError if another process, or another RunLock of this one, holds it; TextEBMError if the directory
    cannot be written. On a file system that cannot lock, a warning says so and the run goes on.
    """

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory)
        self._lock: FileLock | None = None
        self._process = 0

    def __enter__(self) -> RunLock:
        if self._lock is not None:
            raise RunInUseError(f"{self.directory}: this RunLock is held already")
        path = self.directory / LOCK
        lock = FileLock(path, timeout=0, thread_local=False)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            raise RunInUseError(
                f"{self.directory}: in use by {_holder(path)}; wait until it ends, stop it, or choose another directory"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                problem = ".lock is a link" if error.errno == errno.ELOOP else error.strerror or error
                raise TextEBMError(
                    f"{self.directory}: cannot be used as a run directory ({problem}); choose another with --out"
                ) from error
            logger.warning("%s: this file system has no locks; let no other run write here", self.directory)
        self._lock, self._process = lock, os.getpid()
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        _write(path, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": now}))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._lock is None or self._process != os.getpid():
            return  # a forked child leaves the block: the lock is its parent's
        _write(self.directory / LOCK, "")
        self._lock.release()
        self._lock = None


def _write(path: Path, content: str) -> None:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_TRUNC | NO_FOLLOW)
        with open(handle, "w") as file:
            file.write(content)
    except OSError:  # a full disk: the lock holds all the same, only the message is poorer
        logger.debug("the lock file could not be written", exc_info=True)


def _holder(path: Path) -> str:
    try:
        with open(os.open(path, os.O_RDONLY | NO_FOLLOW), "rb") as file:
            content = parse_json(file.read(4096), LOCK)
        return f"process {content['pid']} on {content['host']} since {content['since']}"
    except (OSError, KeyError, FileError):  # the holder has not written it yet
        return "another process"
