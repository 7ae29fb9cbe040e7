"""Timing two things alternately in one process, and what the machine itself can do."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from textebm.networks.hardware import has_bfloat16_products

Work = Callable[[], Any]


def synchronise(device: torch.device) -> None:
    """Wait for what was queued; a CPU queues nothing."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Work, device: torch.device) -> float:
    """Wall-clock seconds of one call."""
    synchronise(device)
    began = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - began


@dataclass(frozen=True)
class Took:
    """Seconds of each work: the median, and what the first call took beyond it (kernels made and chosen, memory first
    touched; what is compiled would be compiled there)."""

    median: dict[str, float]
    warm_up: dict[str, float]


def alternate(works: Mapping[str, Work], repeats: int, device: torch.device) -> Took:
    """One warm-up call of each work, then *repeats* rounds of all of them in turn: what else the machine does meanwhile
    slows all of them alike, and their ratios hold."""
    found: dict[str, list[float]] = {name: [] for name in works}
    first = {name: seconds(work, device) for name, work in works.items()}
    for _ in range(repeats):
        for name, work in works.items():
            found[name].append(seconds(work, device))
    medians = {name: median(times) for name, times in found.items()}
    return Took(medians, {name: max(0.0, first[name] - medians[name]) for name in works})


def peak_memory(work: Work, device: torch.device) -> float | None:
    """MiB held at most while *work* runs: by the tensors on a GPU, else by this whole process, with all that it holds
    beside. None where the system does not say (only Linux does)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return torch.cuda.max_memory_allocated(device) / 2**20
    process = Path("/proc/self")
    try:
        (process / "clear_refs").write_text("5", encoding="ascii")  # the peak begins anew: man 5 proc
        work()
        status = (process / "status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    (peak,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(peak) / 1024


@dataclass(frozen=True)
class MachineRates:
    """matrix_float32, matrix_bfloat16: GFLOP/s of a square product, None where the hardware has no such products;
    bandwidth: GB/s of a copy, reading and writing."""

    matrix_float32: float
    matrix_bfloat16: float | None
    bandwidth: float


def machine_rates(device: torch.device, *, size: int | None = None, repeats: int = 5) -> MachineRates:
    """What large products and copies reach here and now, with this number of threads."""
    size = size or {"cpu": 2048}.get(device.type, 8192)
    rates: dict[torch.dtype, float] = {}
    for dtype in (torch.float32, *([torch.bfloat16] if has_bfloat16_products(device) else [])):
        a = torch.randn(size, size, device=device).to(dtype)
        rates[dtype] = 2 * size**3 / _fastest(lambda a=a: a @ a, repeats, device) / 1e9  # type: ignore[misc]
    source = torch.zeros(size * size * 16, device=device)
    target = torch.empty_like(source)
    took = _fastest(lambda: target.copy_(source), repeats, device)
    return MachineRates(rates[torch.float32], rates.get(torch.bfloat16), 2 * source.nbytes / took / 1e9)


def _fastest(work: Work, repeats: int, device: torch.device) -> float:
    """The best of several: a machine's rate is what it can do undisturbed."""
    work()
    return min(seconds(work, device) for _ in range(repeats))


@dataclass
class MatrixProducts(TorchDispatchMode):
    """While active, adds up the floating-point operations of matrix products by dtype, and the seconds they took.

    On a GPU each product is waited for, so the whole is slower than without it.
    """

    device: torch.device
    flops: dict[str, float] = field(default_factory=dict)
    took: float = 0.0

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        first = _FIRST_FACTOR.get(func.overloadpacket.__name__)
        if first is None:
            return func(*args, **(kwargs or {}))
        synchronise(self.device)
        began = time.perf_counter()
        result = func(*args, **(kwargs or {}))
        synchronise(self.device)
        self.took += time.perf_counter() - began
        left, right = args[first], args[first + 1]
        name = str(left.dtype).removeprefix("torch.")
        self.flops[name] = self.flops.get(name, 0.0) + 2.0 * left.numel() * right.shape[-1]
        return result

    def share_of(self, rates: MachineRates) -> float:
        """Seconds that the machine's best rate would need, over the seconds the products took."""
        best = {"float32": rates.matrix_float32, "bfloat16": rates.matrix_bfloat16}
        ideal = sum(flops / (rate * 1e9) for name, flops in self.flops.items() if (rate := best.get(name)))
        return ideal / self.took if self.took else 0.0


_FIRST_FACTOR = {"mm": 0, "bmm": 0, "addmm": 1, "addmm_": 1, "baddbmm": 1}  # where the first matrix stands in the call
