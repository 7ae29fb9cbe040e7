"""What the machine multiplies in hardware."""

from __future__ import annotations

import torch


def has_bfloat16_products(device: torch.device) -> bool:
    """bfloat16 matrix products are faster than float32's: AVX-512 BF16 or AMX on a CPU, capability 8 on a GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def rows_at_once(device: torch.device, rows: int) -> int:
    """How many rows to sample or decode together where a CPU takes *rows*. A GPU takes eight times as many: its time
    is that of starting kernels, whatever their size (one H100: 100 or 8,192 latents are drawn in 41 ms alike)."""
    return 8 * rows if device.type == "cuda" else rows
