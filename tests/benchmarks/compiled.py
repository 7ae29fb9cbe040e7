"""Whether torch.compile pays: PYTHONPATH=. python tests/benchmarks/compiled.py

The chain (gradient of F, semi-implicit step, Metropolis) and the recurrent loop of a training step, eager and compiled,
in turns; medians of this thread's CPU time, and the seconds of the first compiled call. CPU only, one thread.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from statistics import median

import torch
from torch import Tensor

from textebm.networks.energy import EnergyNet
from textebm.networks.energy_gradient import fix
from textebm.networks.recurrent import RecurrentLayer
from textebm.prior.sampler import semi_implicit

REPEATS = 15


def turns(works: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Median milliseconds of each."""
    took: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(REPEATS):
        for name, work in works.items():
            began = time.thread_time()
            work()
            took[name].append(1000 * (time.thread_time() - began))
    return {name: median(times) for name, times in took.items()}


def compare(name: str, work: Callable[..., object], *arguments: object) -> None:
    compiled = torch.compile(work, dynamic=False)
    began, work_began = time.perf_counter(), time.process_time()
    compiled(*arguments)
    first, cpu = time.perf_counter() - began, time.process_time() - work_began
    work(*arguments)
    found = turns({"eager": lambda: work(*arguments), "compiled": lambda: compiled(*arguments)})
    print(
        f"{name}: eager {found['eager']:.2f} ms, compiled {found['compiled']:.2f} ms, ratio "
        f"{found['eager'] / found['compiled']:.2f}; first call {first:.0f} s (of this process's CPU {cpu:.0f} s)",
        flush=True,
    )


@torch.no_grad()
def chains() -> None:
    net = EnergyNet(40, 16, {"code": 20}, hidden_size=256, num_blocks=3)
    torch.nn.init.normal_(net.outputs.weight, std=0.05)
    for rows in (100, 1024):
        for dtype in (torch.float32, torch.bfloat16):
            fixed = fix(net, torch.tensor(3), dtype)

            class Potential:
                def with_gradient(self, w: Tensor, fixed: object = fixed) -> tuple[Tensor, Tensor]:
                    logits, seen = fixed.logits(w)  # type: ignore[attr-defined]
                    gradient = fixed.pull_back([found.softmax(-1) for found in logits], seen)  # type: ignore[attr-defined]
                    return net.sum_heads(logits), gradient

            potential, w = Potential(), torch.randn(rows, 40)
            scale = torch.full((rows, 1), 0.5)
            name = f"{rows} rows, {str(dtype).removeprefix('torch.')}"
            compare(f"F and its gradient, {name}", potential.with_gradient, w)
            compare(
                f"two steps with rejection, {name}",
                lambda w, potential=potential, scale=scale: (
                    semi_implicit(potential, w, w, scale, 0.9, 2, metropolis=True).w
                ),
                w,
            )


def recurrent() -> None:
    layer, inputs = RecurrentLayer("gru", 296, 512), torch.randn(128, 22, 296)

    def loop(inputs: Tensor) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            outputs = layer(inputs)
        outputs.float().sum().backward()

    compiled = torch.compile(layer, dynamic=False)

    def compiled_loop(inputs: Tensor) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            outputs = compiled(inputs)
        outputs.float().sum().backward()

    began = time.perf_counter()
    compiled_loop(inputs)
    first = time.perf_counter() - began
    loop(inputs)
    found = turns({"eager": lambda: loop(inputs), "compiled": lambda: compiled_loop(inputs)})
    print(
        f"recurrent loop, 128 x 22, forward and backward, bfloat16: eager {found['eager']:.1f} ms, compiled "
        f"{found['compiled']:.1f} ms, ratio {found['eager'] / found['compiled']:.2f}; first call {first:.0f} s",
        flush=True,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for part in sys.argv[1:] or ["chains", "recurrent"]:
        {"chains": chains, "recurrent": recurrent}[part]()
