"""What the machine multiplies in hardware."""

from __future__ import annotations

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


def rows_at_once(device: torch.device, rows: int) -> int:
    """How many rows to sample or decode together where a CPU takes *rows*. A GPU takes eight times as many: its time
    is that of starting kernels, whatever their size (one H100: 100 or 8,192 latents are drawn in 41 ms alike)."""
    return 8 * rows if device.type == "cuda" else rows
