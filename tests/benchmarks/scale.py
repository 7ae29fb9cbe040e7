"""A corpus of any size, from its file to a trained prior: PYTHONPATH=. python tests/benchmarks/scale.py 10000 1000000

For each number of sentences, in a process of its own: seconds and memory of each part of a run with a tiny model.

    read      the text file, converted and split          (textebm.text.corpora)
    words     the vocabulary
    tokens    token ids of train and validation
    text      steps of the autoencoder stage, from the beginning of an epoch
    cluster   k-means on posterior means, and the prior stage's first step
    prior     steps of the prior stage
    epoch     with --epoch: ordering and collating every batch of one epoch

"own" is memory that only this process has (its peak while the part ran), "files" is what is mapped from files, which
the system takes back when it needs to; both in MiB, and the peak of their sum last.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

WORDS = 996
STEPS = 40  # of the text stage and of the prior stage


def texts(n: int) -> Iterator[str]:
    """n sentences of 1 to 40 made-up words, never all in memory."""
    rng = np.random.default_rng(0)
    words = np.array([f"w{number}" for number in range(WORDS)])
    for start in range(0, n, 1000):
        for length in rng.integers(1, 41, min(1000, n - start)):
            yield " ".join(words[rng.integers(len(words), size=length)])


def memory() -> tuple[float, float]:
    """This process's own memory and the files that it has mapped, MiB."""
    with open("/proc/self/status") as status:
        fields = {name: rest for name, _, rest in (line.partition(":") for line in status)}
    return int(fields["RssAnon"].split()[0]) / 1024, int(fields["RssFile"].split()[0]) / 1024


class Meter:
    """Seconds and peaks of the parts of a run."""

    def __init__(self) -> None:
        self.line: list[str] = []
        self.own = self.files = 0.0
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def _watch(self) -> None:
        while not self.stop.wait(0.02):
            own, files = memory()
            self.own, self.files = max(self.own, own), max(self.files, files)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self.own, self.files = memory()
        began = time.perf_counter()
        yield
        seconds = time.perf_counter() - began
        self.line.append(f"{name} {seconds:.1f} s {self.own:.0f}+{self.files:.0f}")


def measure(n: int, folder: str, epoch: bool) -> None:
    path = Path(folder) / f"{n}.txt"
    if not path.exists():
        with path.open("w") as file:
            file.writelines(text + "\n" for text in texts(n))
    os.environ["TEXTEBM_CACHE"] = str(Path(folder) / f"cache-{n}")
    import torch

    from textebm.model.build import build_corpus, build_heads, build_model, build_tokenizer
    from textebm.recipe.read import parse_recipe
    from textebm.text.batches import load_batches, shards
    from textebm.training.data import read_split, words_of
    from textebm.training.loop import Trainer

    torch.set_num_threads(1)
    recipe = parse_recipe(
        {
            "name": "scale",
            "data": {"corpus": "files", "train": str(path)},
            "tokenizer": {"vocabulary_size": WORDS + 1},
            "encoder": {"embedding_size": 32, "hidden_size": 32},
            "decoder": {"embedding_size": 32, "hidden_size": 32},
            "latent": {"dim": 40},
            "heads": [{"name": "code", "classes": 20}],
            "prior": {"hidden_size": 32, "num_blocks": 1, "num_levels": 4},
            "training": {"stages": [{"name": "autoencoder", "steps": STEPS}, {"name": "prior", "steps": STEPS}]},
        },
        (),
    )
    meter = Meter()
    with meter.part("read"):
        corpus = build_corpus(recipe.data)
    with meter.part("words"):
        tokenizer = build_tokenizer(recipe, words_of(corpus["train"]))
    with meter.part("tokens"):
        splits = {name: read_split(corpus[name], tokenizer, recipe.data.max_tokens) for name in ("train", "validation")}
    trainer = Trainer(build_model(recipe, tokenizer, build_heads(recipe, {})), *splits.values(), recipe)
    steps = trainer.steps()
    with meter.part("text"):
        for _ in range(STEPS):
            next(steps)
    with meter.part("cluster"):
        next(steps)
    with meter.part("prior"):
        for _ in range(STEPS - 1):
            next(steps)
    if epoch:
        store, order = splits["train"].store, trainer.order
        with meter.part("epoch"):
            batches = order.batches(0, 0, trainer.plan[0].batches_per_epoch)
            for _ in load_batches(store, map(shards, batches), {}, tokenizer):
                pass
    meter.stop.set()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{n:>10,} sentences: {', '.join(meter.line)}; peak {peak:.0f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("sizes", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--folder", help="where the texts and the cache stay; a temporary one unless given")
    parser.add_argument("--epoch", action="store_true")
    options = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as temporary:
        for size in options.sizes:
            process = spawn.Process(target=measure, args=(size, options.folder or temporary, options.epoch))
            process.start()
            process.join()
