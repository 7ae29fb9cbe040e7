"""What only a GPU can settle, in a few minutes: PYTHONPATH=. python tests/benchmarks/gpu.py [OUT] [PART…]

draws: a draw of the prior by plain chains, by fused ones (`prior.fused_chains`) and by plain ones recorded as one CUDA
graph: whether they draw the same, and what they take; the recording is below, and is to move into `textebm/prior` only
if it is ahead of the kernel. sentences: 46,000 of the ptb recipe's size. bench, bench_fused: `textebm bench --device
cuda`, without and with `--fused`. tests: the files that have a device in them. All parts by default; JSON goes to OUT
(default: gpu.json) after each.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from textebm.bench.setting import Sizes, build_setting
from textebm.prior.prior import LatentPrior
from textebm.prior.sampling import compile_chain, sample

CUDA = torch.device("cuda")
PYTHON = [sys.executable, "-m"]
FILES = [
    "test_fixed", "test_chain_kernel", "test_sampler", "test_decoding", "test_best_word", "test_drawn_word",
    "benchmarks/test_bench",
]  # fmt: skip


class CapturedDraw:
    """`sample(prior, n)` with its randomness, recorded once and replayed. Weights are read anew at each replay (what
    `energy_gradient.fix` makes of them is part of the graph), so they may change in place."""

    def __init__(self, prior: LatentPrior, n: int):
        self.generator = torch.Generator(CUDA).manual_seed(0)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.no_grad(), torch.cuda.stream(side):  # libraries make their workspaces before the capture
            for _ in range(3):
                sample(prior, n, generator=self.generator)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        self.graph.register_generator_state(self.generator)
        with torch.no_grad(), torch.cuda.graph(self.graph):
            self.z = sample(prior, n, generator=self.generator).z

    def __call__(self, seed: int) -> Tensor:
        self.generator.manual_seed(seed)
        self.graph.replay()
        return self.z.clone()


def timed(work: Any, rounds: int = 10) -> float:
    work()
    took = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        torch.cuda.synchronize()
        took.append(time.perf_counter() - began)
    return median(took)


@torch.no_grad()
def draws() -> dict[str, Any]:
    found: dict[str, Any] = {}
    prior = build_setting(Sizes(), CUDA).model.prior.eval()
    for n in (100, 1024, 8192):

        def eager(n: int = n, seed: int = 1) -> Tensor:
            return sample(prior, n, generator=torch.Generator(CUDA).manual_seed(seed)).z

        prior.chain = replace(prior.chain, fused=True)
        compiled = compile_chain(prior)
        c, seconds_fused = eager(), timed(eager)
        prior.chain = replace(prior.chain, fused=False)
        began = time.perf_counter()
        captured = CapturedDraw(prior, n)
        torch.cuda.synchronize()
        capture = time.perf_counter() - began
        a, b = eager(), captured(1)
        found[str(n)] = {
            "bitwise_equal": bool(torch.equal(a, b)), "largest_difference": float((a - b).abs().max()),
            "replays_differ_by_seed": not torch.equal(captured(1), captured(2)),
            "replay_repeats": bool(torch.equal(captured(1), captured(1))),
            "rows_that_fused_chains_draw_the_same": float(((a - c).abs().amax(-1) < 0.05).float().mean()),
            "stddev_eager": float(a.std()), "stddev_graph": float(b.std()), "stddev_fused": float(c.std()),
            "seconds_fused": seconds_fused, "seconds_compile": compiled,
            "seconds_eager": timed(eager), "seconds_graph": timed(lambda c=captured: c(1)), "seconds_capture": capture,
        }  # fmt: skip
    return found


def tests() -> int:
    """pytest's exit code."""
    files = [f"tests/{name}.py" for name in FILES]
    return subprocess.run([*PYTHON, "pytest", "-q", *files], check=False).returncode


def bench(*options: str) -> Any:
    command = [*PYTHON, "textebm", "bench", "--device", "cuda", *options, "--json"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return json.loads(done.stdout) if done.returncode == 0 else done.stderr


def sentences() -> dict[str, float]:
    """Seconds of 46,000, prior and words."""
    model = build_setting(Sizes(), CUDA).model.eval()
    works = {"greedy": partial(model.generate, 46_000), "sampled": partial(model.generate, 46_000, decoding="sample")}
    return {name: timed(work, rounds=1) for name, work in works.items()}


PARTS: dict[str, Callable[[], Any]] = {
    "draws": draws, "sentences": sentences, "bench": bench, "bench_fused": partial(bench, "--fused"), "tests": tests,
}  # fmt: skip


def main(out: str, *parts: str) -> None:
    found: dict[str, Any] = {"gpu": torch.cuda.get_device_name(CUDA), "torch": torch.__version__}
    for part in parts or PARTS:
        try:
            found[part] = PARTS[part]()
        except Exception as error:  # the other parts are still worth their time
            traceback.print_exc()
            found[part] = repr(error)
        Path(out).write_text(json.dumps(found, indent=2), encoding="utf-8")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("PyTorch sees no GPU here")
    main(*(sys.argv[1:] or ["gpu.json"]))
