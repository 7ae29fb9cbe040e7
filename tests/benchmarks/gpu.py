"""What only a GPU can settle, in a few minutes: PYTHONPATH=. python tests/benchmarks/gpu.py [OUT] [PART…]

epochs: the ptb recipe's training on the real corpus ($TEXTEBM_DATA): what an epoch and a step of the prior take, and
the share of that in which the GPU computes. bench: `textebm bench --device cuda` in few rounds. sentences: 46,000 of
the ptb recipe's size. draws: a draw of the prior, as it is and recorded as one CUDA graph: whether they draw the same,
and what they take. repeat: whether two trainings of one seed agree bit for bit. tests: the files that have a device in
them. All parts by default; JSON goes to OUT (default: gpu.json) after each.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from accelerate.utils import set_seed
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from textebm.bench.setting import Sizes, build_setting
from textebm.model.build import build_corpus
from textebm.prior.prior import LatentPrior
from textebm.prior.sampling import sample
from textebm.recipe.read import load_recipe
from textebm.runs.train import build_trainer
from textebm.training.loop import Step

CUDA = torch.device("cuda")
PYTHON = [sys.executable, "-m"]
FILES = [
    "test_fixed",
    "test_sampler",
    "test_decoding",
    "test_best_word",
    "test_drawn_word",
    "test_checkpoint",
    "test_resume",
    "benchmarks/test_bench",
]


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

        began = time.perf_counter()
        captured = CapturedDraw(prior, n)
        torch.cuda.synchronize()
        capture = time.perf_counter() - began
        a, b = eager(), captured(1)
        found[str(n)] = {
            "bitwise_equal": bool(torch.equal(a, b)),
            "largest_difference": float((a - b).abs().max()),
            "replays_differ_by_seed": not torch.equal(captured(1), captured(2)),
            "replay_repeats": bool(torch.equal(captured(1), captured(1))),
            "stddev_eager": float(a.std()),
            "stddev_graph": float(b.std()),
            "seconds_eager": timed(eager),
            "seconds_graph": timed(lambda c=captured: c(1)),
            "seconds_capture": capture,
        }
    return found


def epochs() -> dict[str, float]:
    """Two epochs of text, the second of them timed, and 200 steps of the prior."""
    recipe = load_recipe("ptb", ("training.stages=[{name: autoencoder, epochs: 2}, {name: prior, steps: 240}]",))
    set_seed(recipe.seed)
    trainer = build_trainer(recipe, build_corpus(recipe.data, data_dir=None, seed=recipe.seed))
    steps, epoch = trainer.steps(), trainer.plan[0].batches_per_epoch
    first = _take(steps, epoch)  # with what each length of a batch costs where it is met first
    second, share_text = _take(steps, epoch - 20), _busy(steps, 20)
    _take(steps, 20)
    prior, share_prior = _take(steps, 200), _busy(steps, 20)
    return {
        "seconds_first_epoch": first,
        "seconds_epoch": second * epoch / (epoch - 20),
        "steps_an_epoch": epoch,
        "seconds_prior_step": prior / 200,
        "gpu_share_text": share_text,
        "gpu_share_prior": share_prior,
        "peak_memory_mib": torch.cuda.max_memory_allocated() / 2**20,
    }


def _take(steps: Iterator[Step], n: int) -> float:
    """Seconds of n steps."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(n):
        next(steps)
    torch.cuda.synchronize()
    return time.perf_counter() - began


def _busy(steps: Iterator[Step], n: int) -> float:
    """The share of n steps in which the GPU computes; the profiler makes them slower, so it is a lower bound."""
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        took = _take(steps, n)
    return sum(event.self_device_time_total for event in seen.key_averages()) / 1e6 / took


def repeat() -> dict[str, bool]:
    with tempfile.TemporaryDirectory() as place:
        runs = [Path(place) / name for name in ("a", "b")]
        for run in runs:
            command = [*PYTHON, "textebm", "train", "quickstart-smoke", "--out", str(run)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        files = ("model.safetensors", "samples.txt")
        return {name: (runs[0] / name).read_bytes() == (runs[1] / name).read_bytes() for name in files}


def tests() -> int:
    """pytest's exit code."""
    files = [f"tests/{name}.py" for name in FILES]
    return subprocess.run([*PYTHON, "pytest", "-q", *files], check=False).returncode


def bench() -> Any:
    few = ["--repeats", "2", "--reference-sentences", "256"]  # the reference's chains take seconds
    command = [*PYTHON, "textebm", "bench", "--device", "cuda", *few, "--json"]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout) if done.returncode == 0 else f"exit code {done.returncode}"


def sentences() -> dict[str, float]:
    """Seconds of 46,000, prior and words."""
    model = build_setting(Sizes(), CUDA).model.eval()
    works = {"greedy": partial(model.generate, 46_000), "sampled": partial(model.generate, 46_000, decoding="sample")}
    return {name: timed(work, rounds=1) for name, work in works.items()}


PARTS: dict[str, Callable[[], Any]] = {part.__name__: part for part in (epochs, bench, sentences, draws, repeat, tests)}


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
