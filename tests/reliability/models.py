"""Promises about models at hand: no leaks, inert reports, an alarm for collapse, threads."""

from __future__ import annotations

import gc
import os
import random
import threading
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from .promise import promise


def resident() -> float:
    """This process's memory, MiB."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def flat(what: str, count: int, once: Callable[[int], object], warm: int = 50, slack: float = 24.0) -> str | None:
    """None where memory, handles and threads after *count* calls are those after the first few."""
    for number in range(min(warm, count)):
        once(number)
    gc.collect()
    before = resident(), len(os.listdir("/proc/self/fd")), threading.active_count()
    for number in range(min(warm, count), count):
        once(number)
    gc.collect()
    after = resident(), len(os.listdir("/proc/self/fd")), threading.active_count()
    if after[0] - before[0] > slack or after[1:] != before[1:]:
        return f"{what}: {before[0]:.0f} MiB, {before[1]} handles, {before[2]} threads became {after}"
    return None


@promise("no leak", "training steps: memory, handles and threads stay", stated=10_000, short=0)
def steps_leak(count: int, folder: Path, chance: random.Random) -> Iterator[str | None]:
    from tiny import trainer

    half = count // 2
    worker = trainer(f"training.stages=[{{name: autoencoder, steps: {half}}}, {{name: prior, steps: {count - half}}}]")
    steps = worker.steps()
    problem = flat("steps", half, lambda _: next(steps)) or flat("prior steps", count - half, lambda _: next(steps))
    yield from [problem] + [None] * (count - 1)


@promise("no leak", "calls of generate: memory, handles and threads stay", stated=5_000, short=0)
def generate_leaks(count: int, folder: Path, chance: random.Random) -> Iterator[str | None]:
    from tiny import trained

    from textebm.api import TextEBM

    model = trained()
    model = model if isinstance(model, TextEBM) else TextEBM(model)
    yield flat("generate", count, lambda number: model.generate(1, seed=number, decoding="sample"))
    yield from [None] * (count - 1)


@promise("no leak", "reports made: memory, handles and threads stay", stated=1_000, short=0)
def reports_leak(count: int, folder: Path, chance: random.Random) -> Iterator[str | None]:
    from textebm.inspection.page import render

    make = report_maker()
    yield flat("reports", count, lambda number: render(make(["a", f"text {number % 7}"]), "run"), warm=10)
    yield from [None] * (count - 1)


def report_maker() -> Callable[[list[str]], dict[str, Any]]:
    """A function of sentences that gives what the page of their report shows."""
    from tiny import recipe, trained

    from textebm.api import TextEBM
    from textebm.inspection.page_data import RunFacts, page_data
    from textebm.inspection.report import inspect

    model = trained()
    model = model if isinstance(model, TextEBM) else TextEBM(model)

    def make(texts: list[str]) -> dict[str, Any]:
        facts = RunFacts("run", "0", "test", {"test": len(texts)})
        return dict(page_data(inspect(model, texts, seed=0), facts, recipe().model_dump(mode="json")))

    return make


class Page(HTMLParser):
    """What a browser could act on: scripts, elements and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, tuple[str, ...]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, tuple(sorted(name for name, _ in attrs))))


HOSTILE = r"""<script>alert(1)</script> </script><script>alert(2)</script>
<img/src=x/onerror=alert(1)> <svg/onload=alert(1)>
"onmouseover="alert(1) javascript:alert(1) <!--<script> --><script> ]]><script> %%script%% %%data%% {{constructor}}
${alert(1)} <iframe/src=//x> <base/href=//x> <style>*{background:url(//x)}</style> </title><script> &lt;script&gt;
</textarea><script> <math><mtext><script> `;alert(1)// ';alert(1)// \x3cscript \u003cscript>"""


@promise("reports are inert", "script payloads in every field: the page has no element more", stated=500, short=40)
def reports(count: int, folder: Path, chance: random.Random) -> Iterator[str | None]:
    from textebm.inspection.page import render

    data = report_maker()(["the food was great ."] * 4)
    expected = Page(render(data, "run")).seen
    payloads = [*HOSTILE.split(), "\u2028alert(1)", "<meta http-equiv=refresh content=0;url=//x>"]
    for number in range(count):
        text = payloads[number % len(payloads)] + chance.choice(["", " ", chance.choice(payloads)])
        seen = Page(render(filled(data, text), text)).seen
        yield None if seen == expected else f"{text!r}: {sorted(set(seen) - set(expected))[:3]}"


def filled(data: Any, text: str) -> Any:
    """*data* with *text* as every string in it, keys apart."""
    if isinstance(data, dict):
        return {key: filled(value, text) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [filled(value, text) for value in data]
    return text if isinstance(data, str) else data


@promise("numbers never go silently wrong", "the alarm of collapse: a decoder without its latents", stated=4, short=1)
def alarm(count: int, folder: Path, chance: random.Random) -> Iterator[str | None]:
    import torch
    from tiny import recipe, splits, untrained

    from textebm.training.health import measure_health

    _, read, _ = splits(recipe())
    for options in [(), ("decoder.kind=transformer",), ("latent.standardize=false",), ("prior.kind=gaussian",)][:count]:
        model = untrained(*options)
        network: Any = getattr(model, "network", model)
        real = network.decoder_input
        network.decoder_input = lambda u, context=None, real=real: torch.zeros_like(real(u, context))
        warned = measure_health(network, read["validation"], stage="autoencoder").warnings
        yield None if any("collapse" in warning for warning in warned) else f"{options}: no alarm, only {warned}"
