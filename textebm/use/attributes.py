"""Attributes added to a finished model: a small reading of its latents at every noise level, from a few examples.

    p(y | u_t, t) = softmax(W_t u_t + b_t)

The examples are encoded once and diffused many times; W_t, b_t are a logistic regression on the draws of each level.
The potential F is not touched: conditioning adds log p(y | u_t, t) to it through the sampler that is there
(`textebm.prior.condition.Tilt`). This is how a classifier guides a diffusion (Dhariwal & Nichol 2021,
arXiv 2105.05233), here of latents, and with a classifier that needs no training run.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textebm.errors import CheckpointError, FileError, TextEBMError
from textebm.files import checksum, json_bytes, parse_tensors, read_json, read_verified, tensor_bytes, write_atomically
from textebm.model.latent_text_model import Attribute, LatentTextModel
from textebm.use.contexts import Contexts, check_list
from textebm.use.reading import encode

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

FOLDER = "attributes"
FEWEST = 5  # examples of a class
PENALTIES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # inverse strengths of the L2 penalty that are tried
DRAWS = 16  # noisy latents of each example at each level
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class AttributeReport:
    """How an attribute reads examples that it was not fitted on, beside the share of the most frequent class.

    n examples; accuracy and calibration_error (expected, of 10 equal bins of the probability given to the class read)
    are cross-validated on *folds* folds.
    """

    name: str
    classes: tuple[str, ...]
    n: int
    folds: int
    accuracy: float
    majority: float
    calibration_error: float

    def __str__(self) -> str:
        return (
            f"{self.name} ({', '.join(self.classes)}): {self.n} examples, held-out accuracy {self.accuracy:.3f} "
            f"({self.folds} folds; most frequent class {self.majority:.3f}), calibration error "
            f"{self.calibration_error:.3f}"
        )


def fit_attribute(
    model: LatentTextModel,
    name: str,
    texts: Sequence[str],
    labels: Sequence[object],
    *,
    seed: int = 0,
    contexts: Contexts | None = None,
) -> tuple[Attribute, AttributeReport]:
    """The attribute *name* from examples, and how well it reads. The penalty is chosen by cross-validation.

    Raises TextEBMError for fewer than two classes, or fewer than 5 examples of one.
    """
    check_list(texts)
    names = [str(label) for label in labels]
    if len(texts) != len(names):
        raise TextEBMError(f"attribute {name!r}: {len(texts)} texts and {len(names)} labels; expected one label a text")
    if not NAME.fullmatch(name):
        raise TextEBMError(f"an attribute is named by letters, digits, '-' and '_', the first a letter; got {name!r}")
    if name in model.heads:
        raise TextEBMError(f"the model was trained with a symbol {name!r}; give the attribute another name")
    classes, y = np.unique(names, return_inverse=True)
    counts = np.bincount(y, minlength=len(classes))
    if len(classes) < 2 or counts.min() < FEWEST:
        told = ", ".join(f"{label}: {count}" for label, count in zip(classes, counts, strict=True)) or "none"
        raise TextEBMError(f"attribute {name!r}: expected at least two classes with {FEWEST} examples each, got {told}")
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    encoding = encode(model, texts, contexts=contexts)
    means = encoding.mean.double().numpy()
    folds = StratifiedKFold(int(min(5, counts.min())), shuffle=True, random_state=seed)
    held_out = {
        penalty: cross_val_predict(_regression(penalty), means, y, cv=folds, method="predict_proba")
        for penalty in PENALTIES
    }
    rows = np.arange(len(y))
    penalty = max(PENALTIES, key=lambda each: float(np.log(np.maximum(held_out[each][rows, y], 1e-9)).mean()))
    probabilities = held_out[penalty]
    report = AttributeReport(
        name,
        tuple(map(str, classes)),
        len(y),
        folds.get_n_splits(),
        float((probabilities.argmax(-1) == y).mean()),
        float(counts.max() / len(y)),
        calibration_error(probabilities.max(-1), probabilities.argmax(-1) == y),
    )
    slopes, offsets = _fit_levels(model, encoding.mean, encoding.stddev, y, penalty, seed)
    facts = {key: value for key, value in asdict(report).items() if key not in ("name", "classes")}
    return Attribute(name, report.classes, slopes, offsets, facts), report


def _regression(penalty: float) -> Pipeline:
    """Logistic regression on standardised coordinates, classes weighted equally."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=1000, class_weight="balanced"))


def _fit_levels(
    model: LatentTextModel, mean: Tensor, stddev: Tensor, y: NDArray[np.int64], penalty: float, seed: int
) -> tuple[Tensor, Tensor]:
    """slopes (T, K, d) and offsets (T, K): a logistic regression at each level, on diffused draws of the posteriors."""
    generator = torch.Generator().manual_seed(seed)
    schedule, classes = model.prior.schedule, int(y.max()) + 1
    slopes, offsets = [], []
    for t in range(schedule.num_levels):
        drawn = mean + stddev * torch.randn(DRAWS, *mean.shape, generator=generator)  # (R, n, d)
        level = torch.full((DRAWS * len(mean),), t, dtype=torch.long)
        noise = torch.randn(DRAWS * len(mean), mean.shape[1], generator=generator)
        u = schedule.diffuse(drawn.flatten(0, 1).to(model.device), level.to(model.device), noise.to(model.device))
        weights = np.full(len(u), 1 / DRAWS)  # as many examples as there are, for the penalty
        steps = _regression(penalty)
        steps.fit(u.double().cpu().numpy(), np.tile(y, DRAWS), logisticregression__sample_weight=weights)
        scaler, fitted = steps[0], steps[1]
        slope = fitted.coef_ / scaler.scale_
        offset = fitted.intercept_ - slope @ scaler.mean_
        if classes == 2:  # one row, for the second class
            slope, offset = np.concatenate([-slope / 2, slope / 2]), np.concatenate([-offset / 2, offset / 2])
        slopes.append(torch.from_numpy(slope).float())
        offsets.append(torch.from_numpy(offset).float())
    return torch.stack(slopes), torch.stack(offsets)


def calibration_error(confidence: NDArray[np.floating], correct: NDArray[np.bool_], bins: int = 10) -> float:
    """Expected calibration error: the mean distance of share correct and mean confidence in equal bins of confidence,
    each bin weighted by its rows (Naeini, Cooper & Hauskrecht 2015). confidence and correct (n,); 0 … 1."""
    if not len(confidence):
        return 0.0
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    total = np.bincount(place, minlength=bins)
    gap = np.abs(np.bincount(place, correct, bins) - np.bincount(place, confidence, bins))
    return float(gap.sum() / total.sum())


# -- files -------------------------------------------------------------------------------------------------------------


def save_attribute(attribute: Attribute, directory: Path) -> None:
    """attributes/NAME.safetensors and NAME.json beside a model's weights. Raises FileError."""
    folder = directory / FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"{folder}: {error.strerror}") from None
    data = tensor_bytes({"slopes": attribute.slopes, "offsets": attribute.offsets})
    stated = {"name": attribute.name, "classes": list(attribute.classes), "facts": attribute.facts}
    write_atomically(folder / f"{attribute.name}.safetensors", data)
    write_atomically(folder / f"{attribute.name}.json", json_bytes({**stated, "weights": checksum(data)}))


def load_attributes(model: LatentTextModel, directory: Path) -> dict[str, Attribute]:
    """The attributes beside a model's weights. Raises CheckpointError for one that is damaged or of another model."""
    attributes = {}
    for path in sorted((directory / FOLDER).glob("*.json")):
        try:
            stated: dict[str, Any] = read_json(path)
            tensors = parse_tensors(read_verified(path.with_suffix(".safetensors"), stated["weights"]))
            attribute = Attribute(
                stated["name"], tuple(stated["classes"]), tensors["slopes"], tensors["offsets"], stated["facts"]
            )
        except (FileError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path}: {error}; remove it, and add the attribute again") from None
        expected = (model.prior.schedule.num_levels, len(attribute.classes), model.prior.dim)
        if tuple(attribute.slopes.shape) != expected:
            raise CheckpointError(f"{path} is an attribute of another model: add it to this one again")
        attributes[attribute.name] = attribute
    return attributes


def remove_attribute(directory: Path, name: str) -> None:
    """Raises TextEBMError where there is none of this name."""
    known = sorted(path.stem for path in (directory / FOLDER).glob("*.json"))
    if name not in known:
        raise TextEBMError(f"{directory}: no attribute {name!r}; it has {', '.join(known) or 'none'}")
    for ending in (".json", ".safetensors"):
        (directory / FOLDER / f"{name}{ending}").unlink(missing_ok=True)
