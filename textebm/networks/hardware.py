"""What the machine multiplies in hardware."""

from __future__ import annotations

import torch


def has_bfloat16_products(device: torch.device) -> bool:
    """bfloat16 matrix products are faster than float32's: AVX-512 BF16 or AMX on a CPU, capability 8 on a GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
