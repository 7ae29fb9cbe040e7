"""What the machine multiplies in hardware."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

import torch

Precision = Literal["no", "bf16"]


def has_bfloat16_products(device: torch.device) -> bool:
    """bfloat16 matrix products are faster than float32's: AVX-512 BF16 or AMX on a CPU, capability 8 on a GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The context of a forward pass under `training.mixed_precision`.

    A device without bfloat16 products computes in float32, which is what it is fast in: with AVX2 alone (one AMD Zen 3
    core, PyTorch 2.13) a bfloat16 product of 1024³ took sixty times as long as float32's.
    """
    wanted = precision == "bf16" and has_bfloat16_products(device)
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted)


_told: ContextVar[int | None] = ContextVar("rows", default=None)


def rows_at_once(device: torch.device, rows: int, *, gpu: int = 8) -> int:
    """How many rows to compute together where a CPU takes *rows*, unless `rows_together` says. A GPU takes *gpu* times
    as many; to sample and decode, its time is that of starting kernels, whatever their size (one H100: 100 or 8,192
    latents are drawn in 41 ms alike)."""
    return _told.get() or (gpu * rows if device.type == "cuda" else rows)


@contextmanager
def rows_together(rows: int | None) -> Iterator[None]:
    """Within, `rows_at_once` answers *rows*; None: what it does without."""
    before = _told.set(rows)
    try:
        yield
    finally:
        _told.reset(before)
