"""What the report's page shows, as plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from textebm.evaluation.metric import Evaluation
from textebm.files import finite
from textebm.inspection import sampler
from textebm.inspection.codes import CodeCard, label_counts
from textebm.inspection.frames import Inspection
from textebm.inspection.measured import headline, judged, measured
from textebm.inspection.names import by_shown_names
from textebm.inspection.projection import nearest
from textebm.inspection.rows import LabelColumn
from textebm.recipe.stated import stated_networks, stated_options, stated_prior

NEAREST = 8  # neighbours of a sentence; some say the same
CURVES = (
    ("reconstruction_nll", "Reconstruction", "nats / sentence"),
    ("kl", "KL to N(0, I)", "nats / sentence"),
    ("mutual_information_xz", "I(x; z)", "nats"),
    ("reliance", "Reliance on the latent", "nats / word"),
    ("mutual_information_zy", "I(z; code)", "nats"),
    ("codes_in_use", "Codes in use", "codes"),
    ("train_score_error", "Score error, training", "squared, a dimension"),
    ("energy_magnitude", "|F|", "nats"),
    ("acceptance", "Acceptance", "share"),
)


@dataclass(frozen=True)
class RunFacts:
    """What a run directory says of itself. history: the lines of metrics.jsonl; verdict: what verdict.json holds."""

    name: str
    version: str
    split: str
    corpus_sizes: Mapping[str, int]
    evaluation: Evaluation | None = None
    history: Sequence[Mapping[str, Any]] = ()
    verdict: Mapping[str, Any] = field(default_factory=dict)


def page_data(inspection: Inspection, facts: RunFacts, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """All of it as lists, dicts, strings and finite numbers (else None), for JSON."""
    classes = {head: [card.name for card in cards] for head, cards in inspection.cards.items()}
    inspection = by_shown_names(inspection, [name for name in inspection.cards if _is_found(name, recipe)])
    encoding, rows = inspection.encoding, inspection.rows
    data = {
        "run": _overview(inspection, facts, recipe),
        "headline": headline(facts.evaluation, list(inspection.cards), list(rows.labels)),
        "evaluation": measured(facts.evaluation),
        "curves": _curves(facts.history),
        "warnings": _warnings(facts.history),
        "verdict": dict(facts.verdict) or None,
        "heads": [
            {"name": name, "classes": [card.name for card in cards], "found": _is_found(name, recipe)}
            for name, cards in inspection.cards.items()
        ],
        "labels": [{"name": name, "classes": list(column.classes)} for name, column in rows.labels.items()],
        "points": {
            "text": rows.texts,
            "code": {name: codes.tolist() for name, codes in encoding.codes.items()},
            "confidence": {
                name: _rounded(p.gather(1, encoding.codes[name][:, None])[:, 0].tolist(), 3)
                for name, p in encoding.probabilities.items()
            },
            "label": {name: column.values.tolist() for name, column in rows.labels.items()},
            "energy": _rounded(inspection.energies, 3) if _varies(inspection.energies) else None,
            "loss": _rounded(inspection.losses, 2),
            "near": nearest(encoding.mean.numpy(), NEAREST).tolist(),
        },
        "samples": {
            "text": inspection.sample_texts,
            "energy": _rounded(inspection.sample_energies, 3) if _varies(inspection.sample_energies) else None,
        },
        "maps": [
            {
                "name": name,
                "note": each.note,
                "points": each.points.ravel().tolist(),
                "samples": each.samples.ravel().tolist(),
            }
            for name, each in inspection.projection.layouts.items()
        ],
        "cards": {name: [_card(card) for card in cards] for name, cards in inspection.cards.items()},
        "tables": {
            name: {label: _table(column, encoding.codes[name], len(cards)) for label, column in rows.labels.items()}
            for name, cards in inspection.cards.items()
        },
        "control": [
            {**asdict(each), "judged": judged(facts.evaluation, each.head, classes[each.head])}
            for each in inspection.control
        ],
        "attributes": [asdict(each) for each in inspection.attributes],
        "composition": asdict(inspection.composition) if inspection.composition else None,
        "twins": [asdict(each) for each in inspection.twins],
        "walks": inspection.walks,
        "edits": [asdict(each) for each in inspection.edits],
        "diffusions": [asdict(each) for each in inspection.diffusions],
        "layers": asdict(inspection.layers) if inspection.layers else None,
        "chains": [asdict(each) for each in inspection.chains],
        "energyLevels": [_histograms(each) for each in inspection.energy_levels],
    }
    return finite(data)


def _stage(stage: Mapping[str, Any]) -> str:
    """``prior, 2,500 steps``; ``autoencoder, 1 epoch``."""
    unit = "step" if stage.get("steps") else "epoch"
    count = stage.get(f"{unit}s") or 0
    return f"{stage['name']}, {count:,.10g} {unit}{'s' if count != 1 else ''}"


def _overview(inspection: Inspection, facts: RunFacts, recipe: Mapping[str, Any]) -> dict[str, Any]:
    latent, prior = recipe.get("latent", {}), recipe.get("prior", {})
    stages = [_stage(stage) for stage in recipe.get("training", {}).get("stages", [])]
    sizes = ", ".join(f"{count:,} {name}" for name, count in facts.corpus_sizes.items())
    heads = [
        f"{name} ({len(cards)} {'codes, found' if _is_found(name, recipe) else 'classes, taught'})"
        for name, cards in inspection.cards.items()
    ]
    parts = f" in {latent['segments']} segments" if latent.get("segments", 1) > 1 else ""
    stated = [
        ("Corpus", f"{recipe.get('data', {}).get('corpus', '?')}: {sizes} sentences"),
        ("Prior", stated_prior(prior)),
        ("Latent", f"{latent.get('dim', inspection.encoding.mean.shape[1])} dimensions{parts}"),
        ("Text", stated_networks(recipe)),
        ("Symbols", "; ".join(heads) or "none"),
        ("Training", "; then ".join(stages) or "?"),
        ("Shown here", f"{len(inspection.rows):,} of {inspection.rows.total:,} sentences of {facts.split}"),
        ("Seed", str(recipe.get("seed", "?"))),
    ]
    return {
        "name": facts.name,
        "recipe": str(recipe.get("name", facts.name)),
        "description": str(recipe.get("description") or ""),
        "version": facts.version,
        "facts": stated,
        "options": recipe_options(recipe),
    }


def recipe_options(recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The recipe's options (`stated_options`) as text."""
    return [(name, str(value)) for name, value in stated_options(recipe).items()]


def _curves(history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    steps = [line for line in history if isinstance(line.get("step"), int)]
    accuracies = sorted({name for line in steps for name in line if name.startswith("accuracy_")})
    panels = []
    for name, title, unit in (*CURVES, *((a, f"Accuracy: {a.removeprefix('accuracy_')}", "share") for a in accuracies)):
        points = [(line["step"], line[name]) for line in steps if isinstance(line.get(name), int | float)]
        points = [(step, float(value)) for step, value in points if math.isfinite(value)]
        if points:
            panels.append({"name": name, "title": title, "unit": unit, "points": points})
    stages: list[dict[str, Any]] = []
    for line in steps:
        name = str(line.get("stage", ""))
        if not stages or stages[-1]["name"] != name:
            stages.append({"name": name, "start": stages[-1]["end"] if stages else 0, "end": line["step"]})
        stages[-1]["end"] = line["step"]
    return {"panels": panels, "stages": stages}


def _warnings(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each named warning once, as last worded: first and last step, how often, and whether the run ended with it."""
    warnings: dict[str, dict[str, Any]] = {}
    lines = [line for line in history if isinstance(line.get("warnings"), list) and isinstance(line.get("step"), int)]
    for line in lines:
        for text in map(str, line["warnings"]):
            name = text.split(":")[0]
            entry = warnings.setdefault(name, {"first": line["step"], "times": 0})
            entry.update(text=text, last=line["step"], times=entry["times"] + 1, at_end=line is lines[-1])
    return list(warnings.values())


def _card(card: CodeCard) -> dict[str, Any]:
    """Of the labels, those that the code has more often than others do, or most often."""
    plain = asdict(card)
    plain.pop("head")
    for typical in plain["typical"]:
        typical["parts"] = _rounded(typical["parts"], 2)
    kept: dict[str, int] = {}
    plain["labels"] = []
    for share in card.labels:
        if kept.setdefault(share.label, 0) < 3:
            kept[share.label] += 1
            plain["labels"].append(asdict(share))
    return plain


def _table(column: LabelColumn, codes: torch.Tensor, count: int) -> list[list[int]]:
    """Counts, code by label class."""
    numbers = codes.numpy()
    return [label_counts(column, (numbers == code).nonzero()[0]).tolist() for code in range(count)]


def _histograms(energies: sampler.Energies) -> dict[str, Any]:
    plain = asdict(energies)
    return {**plain, **{name: _rounded(plain[name], 4) for name in ("means", "draws", "samples")}}


def _is_found(head: str, recipe: Mapping[str, Any]) -> bool:
    return next((each.get("labels") is None for each in recipe.get("heads", []) if each["name"] == head), True)


def _varies(values: Sequence[float]) -> bool:
    finite = [value for value in values if math.isfinite(value)]
    return bool(finite) and max(finite) - min(finite) > 1e-6


def _rounded(values: Sequence[float], digits: int) -> list[float]:
    return [round(value, digits) for value in values]
