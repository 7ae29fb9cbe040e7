"""One model in many threads and processes: each gets what it would get alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tiny import save_trained, sentences, trained, untrained

from textebm.api import TextEBM

TEXTS = list(sentences(6))


def calls(model: TextEBM) -> list[Callable[[], Any]]:
    """What a server may be asked for, in a form that is compared."""
    return [
        lambda: model.generate(5, symbols={"sentiment": "positive"}, seed=1),
        lambda: model.generate(5, decoding="sample", seed=2),
        lambda: model.encode(TEXTS).mean.tolist(),
        lambda: model.encode(TEXTS, refine=2).mean.tolist(),
        lambda: model.edit(TEXTS[:3], {"sentiment": "negative"}),
        lambda: model.elbo_terms(TEXTS, seed=3).kl.tolist(),
        lambda: model.reconstruct(TEXTS),
        lambda: model.classify(TEXTS, "topic").labels,
    ]


@pytest.mark.parametrize("training", [False, True], ids=["as loaded", "in training mode"])
def test_eight_threads_give_what_they_give_one_after_the_other(training: bool) -> None:
    model = trained() if not training else untrained()
    if training:
        model.network.train()
    asked = calls(model)
    expected = [call() for call in asked]
    try:
        for _ in range(2):
            with ThreadPoolExecutor(8) as pool:
                found = list(pool.map(lambda call: call(), asked * 2))
            assert [i for i, value in enumerate(found) if value != expected[i % len(asked)]] == []
        assert model.network.training == training
        assert all(parameter.requires_grad for parameter in model.network.parameters())
    finally:
        model.network.eval()


def test_forked_and_spawned_processes_give_the_same(tmp_path: Path) -> None:
    place = save_trained(tmp_path / "model")
    model = TextEBM.from_pretrained(place)
    expected = json.dumps([model.generate(4, seed=5), model.encode(TEXTS).mean.tolist()])
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        with os.fdopen(writing, "w") as file:
            file.write(json.dumps([model.generate(4, seed=5), model.encode(TEXTS).mean.tolist()]))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        assert file.read() == expected
    assert os.waitpid(process, 0)[1] == 0
    code = (
        "import json, sys, torch, textebm\ntorch.set_num_threads(1)\n"
        "model = textebm.TextEBM.from_pretrained(sys.argv[1])\n"
        "print(json.dumps([model.generate(4, seed=5), model.encode(json.loads(sys.argv[2])).mean.tolist()]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(place), json.dumps(TEXTS)], capture_output=True, text=True, timeout=200
    )
    assert done.stdout.strip() == expected, done.stderr[-500:]
