"""Every test runs offline, on one thread, and away from the user's caches."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Before any library reads them; child processes inherit them.
_cache = tempfile.mkdtemp(prefix="textebm-tests-")
atexit.register(shutil.rmtree, _cache, ignore_errors=True)
os.environ.update(HF_HOME=_cache, HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(ROOT), str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
)


def _gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _corpora() -> Path | None:
    places = [os.environ.get("TEXTEBM_DATA"), ROOT.parent / "shared" / "data", ROOT / "data"]
    return next((Path(place) for place in places if place and (Path(place) / "ptb").is_dir()), None)


@pytest.fixture(scope="session")
def corpora() -> Path:
    """Where the real corpora lie; a test that asks for it is marked `corpora`."""
    found = _corpora()
    assert found is not None, "mark this test with @pytest.mark.corpora"
    return found


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    absent = {"corpora": _corpora() is None, "gpu": not _gpu(), "published": "TEXTEBM_MODELS" not in os.environ}
    for item in items:
        for marker, missing in absent.items():
            if missing and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=f"no {marker} here"))


@pytest.fixture(autouse=True, scope="session")
def libraries_are_not_garbage() -> None:
    """A run collects garbage between its phases, and takes a quarter of a second for what libraries hold; the tests
    run hundreds. What is there now is looked at no more."""
    import torch._dynamo  # these two are else loaded by the first run
    import torch.distributed.tensor

    assert torch.distributed.is_available()
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Iterator[None]:
    """Connections leave this machine for no test; sockets within it are free (several-process training uses them)."""
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"tests use no network; something connects to {address}")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", local_only)
        yield
