"""The benchmark runs in miniature and says what it must. No time is asserted: times are for `textebm bench`."""

from __future__ import annotations

import json
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from textebm.api import TextEBM
from textebm.bench import suite, timing
from textebm.bench.reference import PlainModel, Published
from textebm.bench.setting import Sizes, build_setting, lengths
from textebm.bench.timing import MachineRates, MatrixProducts, alternate, machine_rates, peak_memory
from textebm.cli import app
from textebm.prior.noise import NoiseSchedule, published_ladder

CPU = torch.device("cpu")
TINY = Sizes(
    Published(
        dim=6, levels=3, chain_steps=2, blocks=2, width=8, classes=3, vocabulary=60, embedding=12, hidden=16, batch=8
    ),
    latents=5,
    sentences=20,
    reference_sentences=10,
    corpus=400,
    epoch_steps=4,
    repeats=1,
    prior_batch=16,
    energy_width=8,
    report_sentences=12,
)
RATIOS = {"contrastive_step", "energy_learning_step", "prior_sampling", "training_step", "generation"}


@cache
def benchmark() -> suite.Benchmark:
    return suite.run(TINY, CPU)


def test_json_has_every_ratio_also_at_equal_steps() -> None:
    found = json.loads(json.dumps(benchmark().to_json()))
    assert found["ratios"].keys() >= RATIOS | {f"{name}_equal_steps" for name in RATIOS} | {"decoding", "clustering"}
    assert all(ratio > 0 for ratio in found["ratios"].values())
    parts = {"encoder", "decoder", "softmax", "chains", "clustering"}
    assert found["training_step_parts"].keys() >= parts
    assert {"matrix_rate_achieved", "padding_share", "clustering_share_of_epoch"} <= found["facts"].keys()
    assert {"decoding", "decoding_drawn_words"} <= found["ratios"].keys()
    assert all(row["warm_up"] >= 0 for row in found["rows"] if row["name"] != "clustering")
    (report,) = (row for row in found["rows"] if row["name"] == "report")
    assert report["default"] > 0 and report["reference"] is None and found["facts"]["report_sentences"] == 12
    assert found["device_name"]
    assert found["machine"].keys() == {"matrix_float32", "matrix_bfloat16", "bandwidth"}
    assert found["threads"] == torch.get_num_threads()


def test_a_ratio_is_the_reference_over_ours() -> None:
    row = suite.Row("work", 6.0, 2.0, 3.0)
    assert row.ratios() == {"work": 3.0, "work_equal_steps": 2.0}
    assert suite.Row("ours alone", None, 2.0).ratios() == {}


def test_the_command_prints_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = benchmark()  # before `suite.run`, which it calls, is replaced
    monkeypatch.setattr(suite, "run", lambda *arguments, **options: measured)
    shown = CliRunner().invoke(app, ["bench"])
    assert shown.exit_code == 0 and "prior_sampling" in shown.stdout and "equal steps" in shown.stdout
    as_json = CliRunner().invoke(app, ["bench", "--json"])
    assert json.loads(as_json.stdout)["ratios"].keys() >= RATIOS


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_command_says_so() -> None:
    refused = CliRunner().invoke(app, ["bench", "--device", "cuda"])
    assert refused.exit_code == 2 and "no GPU" in refused.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU here")
def test_it_runs_on_a_gpu() -> None:
    assert suite.run(TINY, torch.device("cuda")).ratios.keys() >= RATIOS


def test_works_are_done_in_turn_after_a_warm_up() -> None:
    done: list[str] = []
    alternate({"a": lambda: done.append("a"), "b": lambda: done.append("b")}, 3, CPU)
    assert "".join(done) == "ab" + "ababab"


def test_the_first_call_is_told_apart() -> None:
    waits = iter([0.05, 0.0, 0.0, 0.0])
    took = alternate({"a": lambda: time.sleep(next(waits))}, 3, CPU)
    assert took.median["a"] < 0.03 and took.warm_up["a"] > 0.02


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux says")
def test_peak_memory_is_that_of_the_work_alone() -> None:
    def held(mib: int) -> float:
        found = peak_memory(lambda: np.ones(mib << 17).sum(), CPU)
        assert found is not None
        return found

    before = held(1)
    assert held(300) - before == pytest.approx(300, abs=30)
    assert held(1) - before == pytest.approx(0, abs=30), "the peak before does not count"


def test_operations_of_matrix_products_are_counted_backwards_too() -> None:
    layer, x = torch.nn.Linear(6, 10), torch.randn(4, 6, requires_grad=True)
    with MatrixProducts(CPU) as products:
        layer(x).sum().backward()
    assert products.flops == {"float32": 3 * 2 * 4 * 6 * 10} and products.took > 0
    rates = MachineRates(2 * 1440 / products.took / 1e9, 1.0, 1.0)
    assert products.share_of(rates) == pytest.approx(0.5)


@pytest.mark.parametrize("there", [True, False])
def test_machine_rates_are_positive(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "has_bfloat16_products", lambda device: there)
    rates = machine_rates(CPU, size=64, repeats=1)
    assert min(rates.matrix_float32, rates.bandwidth) > 0
    assert rates.matrix_bfloat16 is None if not there else rates.matrix_bfloat16


def test_lengths_are_those_of_the_corpus() -> None:
    drawn = lengths(20_000, 40)
    assert drawn.mean() == pytest.approx(20.7, abs=0.5) and drawn.min() >= 1 and drawn.max() == 40


def test_both_sides_end_their_sentences_alike() -> None:
    size = Published(dim=6, levels=3, vocabulary=60, embedding=12, hidden=16)
    here = build_setting(Sizes(size, corpus=50, energy_width=8), CPU)
    z, tokenizer = torch.randn(300, 6), here.model.tokenizer
    ours = [len(text.split()) for text in TextEBM(here.model).decode(z)]
    plain = [len(row) for row in here.plain.eval().decode(z, tokenizer.bos_token_id, tokenizer.eos_token_id)]
    assert np.mean(ours) == pytest.approx(np.mean(plain), abs=1.5) and 10 < np.mean(plain) < 25
    assert np.std(plain) > 4


# -- the yardstick itself ------------------------------------------------------------------------------------------


def test_the_reference_chain_samples_its_gaussian_where_the_energy_is_flat(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    size = Published(dim=2, levels=3, chain_steps=400, blocks=1, width=4, vocabulary=10, embedding=4, hidden=4)
    plain = PlainModel(size).eval()
    monkeypatch.setattr(plain.energy, "forward", lambda u, level: 0.0 * u.sum(-1))
    centre = torch.full((20_000, 2), 3.0)
    drawn = plain.chain(centre.clone(), centre, torch.zeros(20_000, dtype=torch.long))
    # each step keeps 1 − 1e−3 of the distance and adds variance 2e−3 σ²
    expected = float(plain.sigma[0]) * (1 - (1 - 1e-3) ** 800) ** 0.5
    assert (drawn - 3).mean().abs() < 0.03 * expected
    assert drawn.std().item() == pytest.approx(expected, rel=0.02)


def test_the_reference_ladder_is_the_published_one() -> None:
    plain, schedule = PlainModel(TINY.published), NoiseSchedule(published_ladder(3), "flat")
    torch.testing.assert_close(plain.a[:-1], schedule.step_a[:-1])
    torch.testing.assert_close(plain.sigma[:-1], schedule.step_sigma[:-1])


def test_the_reference_learns() -> None:
    torch.manual_seed(0)
    here = build_setting(TINY, CPU)
    batch, optimizer = here.batch(), torch.optim.Adam(here.plain.parameters(), lr=1e-2)
    before = float(here.plain.train().loss(batch.tokens, batch.lengths).detach())
    for _ in range(30):
        here.plain.training_step(optimizer, batch.tokens, batch.lengths)
    assert float(here.plain.loss(batch.tokens, batch.lengths).detach()) < 0.9 * before
