"""Modes of a module that several threads may ask for at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from torch import nn


@dataclass
class _Held:
    count: int
    give_back: Callable[[], None]


_lock = threading.Lock()
_held: WeakKeyDictionary[nn.Module, dict[str, _Held]] = WeakKeyDictionary()


@contextmanager
def held(module: nn.Module, mode: str, take: Callable[[], Callable[[], None]]) -> Iterator[None]:
    """Inside, *module* is in the mode that *take* puts it in; what *take* returns gives it back.

    The first thread takes the mode and the last one gives it back, so that none of them loses it in the middle.
    """
    with _lock:
        modes = _held.setdefault(module, {})
        if mode not in modes:
            modes[mode] = _Held(0, take())
        modes[mode].count += 1
    try:
        yield
    finally:
        with _lock:
            modes[mode].count -= 1
            if modes[mode].count == 0:
                modes.pop(mode).give_back()
