"""What only a GPU can settle, in a few minutes: PYTHONPATH=. python tests/benchmarks/gpu.py [OUT]

1. The tests of the files that have a device in them. 2. `textebm bench --device cuda`, without and with `--fused`.
3. A draw of the prior by plain chains, by fused ones (`prior.fused_chains`) and by plain ones recorded as one CUDA
graph: whether they draw the same, and what they take. The recording is below; it is to move into `textebm/prior` only
if it is ahead of the kernel. 4. 46,000 sentences of the ptb recipe's size. JSON goes to OUT (default: gpu.json).
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from torch import Tensor

from textebm.bench.setting import Setting, Sizes, build_setting
from textebm.prior.prior import LatentPrior
from textebm.prior.sampling import compile_chain, sample

CUDA = torch.device("cuda")


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
def graph(setting: Setting) -> dict[str, Any]:
    found: dict[str, Any] = {}
    prior = setting.model.prior.eval()
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


def main(out: str) -> None:
    found: dict[str, Any] = {"gpu": torch.cuda.get_device_name(CUDA), "torch": torch.__version__}
    python = [sys.executable, "-m"]
    files = [
        "test_fixed",
        "test_chain_kernel",
        "test_sampler",
        "test_decoding",
        "test_best_word",
        "test_drawn_word",
        "benchmarks/test_bench",
    ]
    tests = subprocess.run([*python, "pytest", "-q", *(f"tests/{name}.py" for name in files)], check=False)
    found["tests"] = tests.returncode
    for name, options in {"bench": [], "bench_fused": ["--fused"]}.items():
        command = [*python, "textebm", "bench", "--device", "cuda", *options, "--json"]
        bench = subprocess.run(command, check=False, capture_output=True, text=True)
        found[name] = json.loads(bench.stdout) if bench.returncode == 0 else bench.stderr
    setting = build_setting(Sizes(), CUDA)
    found["graph"] = graph(setting)
    model = setting.model.eval()
    found["seconds_46000_sentences"] = timed(lambda: model.generate(46_000), rounds=1)
    with open(out, "w", encoding="utf-8") as file:
        json.dump(found, file, indent=2)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("PyTorch sees no GPU here")
    main(sys.argv[1] if len(sys.argv) > 1 else "gpu.json")
