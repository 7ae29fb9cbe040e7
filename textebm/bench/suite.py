"""The benchmark: each row a piece of work, done by the plain reference and by textebm in turn, in one process.

*default*: textebm as its ptb recipe does it, which also takes fewer and other steps. *equal steps*: textebm at the
published settings (six levels, 50 Langevin steps, 12 layers of 200, spectral norm), so that what is left of the ratio
is implementation alone.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from textebm import __version__
from textebm.api import TextEBM
from textebm.bench.setting import Setting, Sizes, build_setting
from textebm.bench.timing import MachineRates, MatrixProducts, Work, alternate, machine_rates, peak_memory, seconds
from textebm.inspection.page import render
from textebm.inspection.page_data import RunFacts, page_data
from textebm.inspection.report import inspect_rows
from textebm.inspection.rows import Rows
from textebm.model.build import build_weights
from textebm.model.decoding import DecodingOptions, decode_tokens
from textebm.model.objective import LatentBatch, TrainingObjective
from textebm.networks.hardware import autocast, rows_at_once
from textebm.networks.posterior import Posterior
from textebm.objective.clustering import cluster_latents
from textebm.prior.learning import recovery, score_matching
from textebm.prior.prior import LatentPrior
from textebm.prior.sampling import sample
from textebm.text.batches import BatchOrder, padding_share
from textebm.text.tokenizer import decode

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """Median seconds of one piece of work on each side; None where a side has no such thing."""

    name: str
    reference: float | None
    default: float | None
    equal_steps: float | None = None
    warm_up: float | None = None  # what the first call of the default took beyond the median

    def ratios(self) -> dict[str, float]:
        sides = {self.name: self.default, f"{self.name}_equal_steps": self.equal_steps}
        return {name: self.reference / took for name, took in sides.items() if self.reference and took}


@dataclass
class Benchmark:
    """rows; parts: seconds of the parts of textebm's training step; facts: shares, rates and MiB that are not times."""

    device: str
    name: str  # of the GPU, or the machine's architecture
    threads: int
    machine: MachineRates
    rows: list[Row] = field(default_factory=list)
    parts: dict[str, float] = field(default_factory=dict)
    facts: dict[str, float] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def ratios(self) -> dict[str, float]:
        """Reference time over ours, for each row that both sides have."""
        return {name: value for row in self.rows for name, value in row.ratios().items()}

    def to_json(self) -> dict[str, Any]:
        return {
            "ratios": self.ratios,
            "rows": [asdict(row) for row in self.rows],
            "training_step_parts": self.parts,
            "facts": self.facts,
            "machine": asdict(self.machine),
            "skipped": self.skipped,
            "device": self.device,
            "device_name": self.name,
            "threads": self.threads,
            "versions": {"textebm": __version__, "torch": torch.__version__, "python": platform.python_version()},
        }


def run(
    sizes: Sizes | None = None, device: torch.device | None = None, *, progress: Progress = lambda name: None
) -> Benchmark:
    """Measure everything on *device* (default: the CPU). Random numbers do not depend on the caller's."""
    device = device or torch.device("cpu")
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        progress("machine rates")
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
        result = Benchmark(str(device), name, torch.get_num_threads(), machine_rates(device))
        progress("models")
        setting = build_setting(sizes or Sizes(), device)
        for name, measure in _MEASURES.items():
            progress(name)
            measure(setting, result)
    return result


def _pair(result: Benchmark, setting: Setting, name: str, **works: Work) -> Row:
    took = alternate(works, setting.sizes.repeats, setting.device)
    median, warm_up = took.median, took.warm_up["default"]
    row = Row(name, median["reference"], median["default"], median.get("equal_steps"), warm_up)
    result.rows.append(row)
    return row


def _memory(result: Benchmark, setting: Setting, **works: Work) -> None:
    """Peaks of works whose first call is over."""
    for name, work in works.items():
        found = peak_memory(work, setting.device)
        if found is None:
            result.skipped[f"peak memory, {name}"] = "this system does not say"
        else:
            result.facts[f"peak_memory_mib_{name}"] = found


# -- the prior -----------------------------------------------------------------------------------------------------


def _energy(setting: Setting, result: Benchmark) -> None:
    """The contrastive step: chains, loss and backward for 128 latents; and learning F without chains instead."""
    model, plain, size = setting.model.train(), setting.plain.train(), setting.sizes.published
    published = setting.published_prior().train()
    z = torch.randn(size.batch, size.dim, device=setting.device)

    def ours(prior: LatentPrior) -> Work:
        return lambda: recovery(prior, z).energy_loss.mean().backward()

    def matching(prior: LatentPrior) -> Work:
        posterior = Posterior(z, torch.full_like(z, 0.5))
        return lambda: score_matching(prior, posterior).loss.mean().backward()

    works: dict[str, Work] = {
        "reference": lambda: plain.contrastive(z).backward(),
        "default": ours(model.prior),
        "equal_steps": ours(published),
        "matching": matching(model.prior),
        "matching_equal": matching(published),
    }
    took = alternate(works, setting.sizes.repeats, setting.device)
    for name, default, equal in (
        ("contrastive_step", "default", "equal_steps"),
        ("energy_learning_step", "matching", "matching_equal"),
    ):
        result.rows.append(
            Row(name, took.median["reference"], took.median[default], took.median[equal], took.warm_up[default])
        )


def _sampling(setting: Setting, result: Benchmark) -> None:
    model, plain, n = setting.model.eval(), setting.plain.eval(), setting.sizes.latents
    published = setting.published_prior().eval()
    _pair(
        result,
        setting,
        "prior_sampling",
        reference=lambda: plain.sample(n),
        default=lambda: sample(model.prior, n),
        equal_steps=lambda: sample(published, n),
    )
    result.facts["evaluations_reference"] = setting.sizes.published.levels * setting.sizes.published.chain_steps
    result.facts["evaluations_default"] = sample(model.prior, 2).evaluations


# -- training ------------------------------------------------------------------------------------------------------


@dataclass
class _Training:
    """textebm's training step as the ptb recipe makes it: one of the text stage and one of the prior stage, though the
    recipe takes fewer of the latter; or, at equal steps, one joint step with recovery."""

    setting: Setting

    def __post_init__(self) -> None:
        options, model, size = self.setting.recipe.training, self.setting.model, self.setting.sizes.published
        device = self.setting.device
        self.batch = self.setting.batch()
        self.weights = build_weights(self.setting.recipe.objective, 1.0)
        self.targets = {"code": torch.randint(size.classes, (len(self.batch),), device=device)}
        latents = torch.randn(options.prior_batch_size, size.dim, device=device)
        codes = torch.randint(size.classes, (len(latents),), device=device)
        self.latents = LatentBatch(Posterior(latents, torch.full_like(latents, 0.5)), {"code": codes})
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        self.precision = options.mixed_precision
        self.objective = TrainingObjective(model)

    def update(self, loss: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.setting.model.parameters(), 1.0)
        self.optimizer.step()

    def text(self, stage: Any = "autoencoder") -> None:
        with autocast(self.setting.device, self.precision):
            loss = self.objective(self.batch, stage, self.weights, self.targets).loss
        self.update(loss)

    def prior(self) -> None:
        self.update(self.objective(self.latents, "prior", self.weights).loss)

    def whole(self) -> None:
        self.text()
        self.prior()

    def joint(self) -> None:
        """Everything in one step with chains at the published settings: the setting's model with its prior replaced."""
        model = self.setting.model
        mine, learning = model.prior, model.learning
        model.prior, model.learning = self.published, "recovery"
        try:
            self.text("joint")
        finally:
            model.prior, model.learning = mine, learning

    @property
    def published(self) -> LatentPrior:
        if not hasattr(self, "_published"):
            self._published = self.setting.published_prior().train()
            self.optimizer.add_param_group({"params": list(self._published.parameters())})
        return self._published


def _training(setting: Setting, result: Benchmark) -> None:
    setting.model.train()
    plain, training = setting.plain.train(), _Training(setting)
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-4)
    tokens, sizes = training.batch.tokens, training.batch.lengths
    row = _pair(
        result,
        setting,
        "training_step",
        reference=lambda: plain.training_step(optimizer, tokens, sizes),
        default=training.whole,
        equal_steps=training.joint,
    )
    _memory(
        result,
        setting,
        training_step_reference=lambda: plain.training_step(optimizer, tokens, sizes),
        training_step=training.whole,
    )
    words = float(sizes.sum() - len(sizes))
    result.facts["tokens_per_second_reference"] = words / (row.reference or 1.0)
    result.facts["tokens_per_second"] = words / (row.default or 1.0)
    _parts(setting, training, result)
    training.whole()
    with MatrixProducts(setting.device) as products:
        whole = seconds(training.whole, setting.device)
    result.facts["matrix_share_of_step"] = products.took / whole
    result.facts["matrix_rate_achieved"] = products.share_of(result.machine)
    order = BatchOrder(setting.store.lengths, setting.sizes.published.batch)
    result.facts["padding_share"] = padding_share(setting.store.lengths + 2, order.batches(0))
    whole_parts = {name: result.parts[name] for name in ("encoder", "decoder", "softmax", "prior_stage", "optimizer")}
    result.facts["seconds_an_epoch"] = sum(whole_parts.values()) * setting.sizes.epoch_steps


def _parts(setting: Setting, training: _Training, result: Benchmark) -> None:
    """Forward and backward of each part by itself, at the inputs it has in a step."""
    model, batch = setting.model, training.batch
    inputs, places = batch.tokens[:, :-1], batch.places
    words = batch.tokens[:, 1:].flatten()[places]
    z = torch.randn(len(batch), model.prior.dim, device=setting.device)
    cast = autocast(setting.device, training.precision)

    def encoder() -> None:
        with cast:
            posterior = model.encoder(batch.tokens, batch.lengths)
        (posterior.mean.sum() + posterior.stddev.sum()).backward()

    def decoder() -> None:
        with cast:
            hidden = model.decoder.hidden(inputs, z).flatten(0, 1).index_select(0, places)
        hidden.float().sum().backward()

    with cast, torch.no_grad():
        shown = model.decoder.hidden(inputs, z).flatten(0, 1).index_select(0, places)

    def softmax() -> None:
        with cast:
            loss = model.decoder.nll(shown.detach().requires_grad_(True), words).sum()
        loss.backward()

    def optimizer() -> None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        training.optimizer.step()

    chains = setting.published_prior().train()
    works: dict[str, Work] = {
        "encoder": encoder,
        "decoder": decoder,
        "softmax": softmax,
        "prior_stage": training.prior,
        "chains": lambda: recovery(model.prior, z).energy_loss.mean().backward(),
        "chains_equal_steps": lambda: recovery(chains, z).energy_loss.mean().backward(),
        "optimizer": optimizer,
    }
    result.parts.update(alternate(works, setting.sizes.repeats, setting.device).median)


def _clustering(setting: Setting, result: Benchmark) -> None:
    """Once an epoch. The reference encodes the corpus again to have its posterior means, as published code does, and
    runs the same k-means on all of them; ours are those that training has computed."""
    size, options = setting.sizes.published, setting.recipe.objective
    means = np.random.default_rng(0).standard_normal((setting.sizes.corpus, size.dim)).astype(np.float32)
    batch = setting.batch()

    @torch.no_grad()
    def encode() -> None:
        setting.plain.encode(batch.tokens, batch.lengths)

    def ours() -> None:
        cluster_latents(means, size.classes, components=options.cluster_pca, seed=0)

    took = median(seconds(ours, setting.device) for _ in range(min(3, setting.sizes.repeats)))
    again = alternate({"encode": encode}, setting.sizes.repeats, setting.device).median["encode"]
    result.rows.append(Row("clustering", again * setting.sizes.corpus / size.batch + took, took))
    result.parts["clustering"] = took / setting.sizes.epoch_steps
    result.facts["clustering_share_of_epoch"] = took / result.facts["seconds_an_epoch"]


# -- text ----------------------------------------------------------------------------------------------------------


def _generation(setting: Setting, result: Benchmark) -> None:
    """Latents and words, greedy; and decoding with drawn words. The reference works a batch at a time, so its cost is
    linear and a part of the sentences is measured; ours are all there. Drawn words seldom end a sentence here (the
    made-up weights end greedy ones): both sides go on to the longest, on a quarter of the sentences."""
    model, plain, sizes = setting.model.eval(), setting.plain.eval(), setting.sizes
    face = TextEBM(model)
    tokenizer, n, few = model.tokenizer, sizes.sentences, min(sizes.reference_sentences, sizes.sentences)
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    z = torch.randn(max(n, few), sizes.published.dim).to(setting.device)
    drawn_n, drawn_few = math.ceil(n / 4), math.ceil(few / 4)
    found: dict[str, list[list[int]]] = {}

    def reference_decode(side: str, n: int, sampled: bool) -> None:
        found[side] = []
        for part in z[:n].split(sizes.published.batch):
            found[side] += plain.decode(part, bos, eos, sampled)

    @torch.no_grad()
    def decode(side: str, n: int, decoding: Literal["greedy", "sample"]) -> None:
        options = DecodingOptions(decoding, max_tokens=sizes.published.max_tokens)
        found[side] = decode_tokens(
            model.decoder, z[:n], tokenizer, options, batch_size=rows_at_once(setting.device, 512)
        )

    published = setting.published_prior().eval()

    def equal() -> None:
        rows = rows_at_once(setting.device, 1024)
        latents = torch.cat([sample(published, min(rows, n - first)).z for first in range(0, n, rows)])
        face.decode(latents.cpu())

    works: dict[str, Work] = {
        "decode_reference": lambda: reference_decode("reference", few, False),
        "decode": lambda: decode("default", n, "greedy"),
        "drawn_reference": lambda: reference_decode("drawn_reference", drawn_few, True),
        "drawn": lambda: decode("drawn", drawn_n, "sample"),
        "reference": lambda: plain.generate(few, bos, eos),
        "default": lambda: face.generate(n),
        "equal": equal,
    }
    took = alternate(works, max(1, sizes.repeats // 3), setting.device)
    median, warm_up, scale = took.median, took.warm_up, n / few
    result.rows += [
        Row("decoding", median["decode_reference"] * scale, median["decode"], None, warm_up["decode"]),
        Row(
            "decoding_drawn_words",
            median["drawn_reference"] * drawn_n / drawn_few,
            median["drawn"],
            None,
            warm_up["drawn"],
        ),
        Row("generation", median["reference"] * scale, median["default"], median["equal"], warm_up["default"]),
    ]
    _memory(result, setting, generation=works["default"])
    result.facts["reference_sentences"] = few
    for side, rows in found.items():
        result.facts[f"words_a_sentence_{side}"] = float(np.mean([len(row) for row in rows]))


def _report(setting: Setting, result: Benchmark) -> None:
    """A whole report of made-up sentences, from their latents to the page; the plain reference has none."""
    n, model = setting.sizes.report_sentences, setting.model.eval()
    texts = [decode(model.tokenizer, setting.store[row].tolist()) for row in range(n)]
    facts = RunFacts("bench", __version__, "test", {"test": n})

    def report() -> None:
        render(
            page_data(inspect_rows(TextEBM(model), Rows(texts, {}, n)), facts, setting.recipe.model_dump(mode="json")),
            "bench",
        )

    took = alternate({"default": report}, max(1, setting.sizes.repeats // 3), setting.device)
    result.rows.append(Row("report", None, took.median["default"], None, took.warm_up["default"]))
    result.facts["report_sentences"] = n


_MEASURES: dict[str, Callable[[Setting, Benchmark], None]] = {
    "energy learning": _energy,
    "prior sampling": _sampling,
    "training step": _training,
    "clustering": _clustering,
    "generation": _generation,
    "report": _report,
}
