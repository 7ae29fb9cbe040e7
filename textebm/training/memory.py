"""Memory that is free, given back to the system."""

from __future__ import annotations

import ctypes
import gc
import sys


def give_back() -> None:
    """Return what the C library keeps of freed memory: a phase's blocks seldom fit the next one's, and both would count
    at the peak. Does something under glibc only."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
