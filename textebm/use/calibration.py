"""Ask for p, get p: the strength at which that share of the sentences is read as asked.

The share grows with the strength, in every model differently. It is measured here on pilot draws of the very request,
at strengths between 0 and the model's own, and made monotone (isotonic regression, Barlow et al. 1972); the strength of
a share is read off that curve. What the model's own strength does not reach is drawn again. Pilot draws are read by the
model's own encoder; `textebm.evaluation.calibration` tells what a judge without part in this says.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from textebm.errors import FileError, TextEBMError
from textebm.files import digest, json_bytes, read_json, write_atomically
from textebm.model.latent_text_model import LatentTextModel
from textebm.use.reading import certainty, encode
from textebm.use.steering import Steering, asked_of, one_class_each

logger = logging.getLogger(__name__)

SHARES = (0.0, 0.02, 0.04, 0.08, 0.12, 0.18, 0.25, 0.35, 0.5, 0.7, 1.0)  # of the model's own strength: what is tried
PILOT = 400  # sentences at each
FILE, MOST = "curves.json", 200  # where curves are kept, and how many
CONFIDENCE = 0.95  # where nobody says one
DRAWS = 8  # of a sentence, until it is read as asked
READ = 0.95  # how surely, where no strength gives the share asked

Write = Callable[[Steering, int, int], list[str]]  # what is asked, how many sentences, seed


@dataclass(frozen=True)
class Curve:
    """strengths (k,), rising, and the share of sentences (k,) that are read as asked under each, never falling."""

    strengths: tuple[float, ...]
    shares: tuple[float, ...]

    def strength_of(self, share: float) -> tuple[float, float]:
        """The least strength at which *share* is read as asked, and which share of the sentences must be drawn again
        until they are, because no strength reaches it: (strength, share drawn again)."""
        if share <= self.shares[0]:
            return self.strengths[0], 0.0
        if share > self.shares[-1]:
            return self.strengths[-1], (share - self.shares[-1]) / (1 - self.shares[-1])
        above = int(np.argmax(np.array(self.shares) >= share))
        low, high = self.shares[above - 1], self.shares[above]
        between = (share - low) / (high - low)
        return float(np.interp(between, (0, 1), self.strengths[above - 1 : above + 1])), 0.0


@dataclass
class Curves:
    """The curves that were measured, by request and model; kept in *directory*, where that can be written."""

    directory: Path | None = None
    by_key: dict[str, Curve] = field(default_factory=dict)

    @classmethod
    def beside(cls, directory: Path) -> Curves:
        """Those kept beside a model's weights; none where the file cannot be read or is not as it was written."""
        kept = cls(directory)
        with contextlib.suppress(FileError, TypeError, ValueError, AttributeError, KeyError):
            stated = read_json(directory / FILE)
            if stated["sha256"] == digest(json_bytes(stated["curves"])):
                kept.by_key = {key: Curve(tuple(s), tuple(shares)) for key, (s, shares) in stated["curves"].items()}
        return kept

    def keep(self, key: str, curve: Curve) -> None:
        """Take a curve; a directory that cannot be written is left as it is."""
        self.by_key = dict([*self.by_key.items(), (key, curve)][-MOST:])
        if self.directory is not None:
            stated = {each: [own.strengths, own.shares] for each, own in self.by_key.items()}
            with contextlib.suppress(FileError):
                write_atomically(
                    self.directory / FILE, json_bytes({"sha256": digest(json_bytes(stated)), "curves": stated})
                )


def digest_of(model: LatentTextModel) -> str:
    """A digest of all weights and attributes, and of the classes' shares."""
    tensors = {name: each for name, each in model.state_dict().items() if isinstance(each, Tensor)}
    for name, attribute in model.attributes.items():
        tensors |= {f"{name}.slopes": attribute.slopes, f"{name}.offsets": attribute.offsets}
    shares = {name: head.shares for name, head in model.heads.items()}
    told = hashlib.sha256(repr((shares, model.prior.strength)).encode())
    for name, each in sorted(tensors.items()):
        told.update(name.encode())
        told.update(each.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return told.hexdigest()


def key_of(weights: str, request: tuple[tuple[str, str], ...], options: tuple[object, ...]) -> str:
    """What a curve depends on: the model (`digest_of`), the request, how words are chosen, and what is tried."""
    return digest(repr((weights, request, options, SHARES, PILOT)).encode())


def monotone(strengths: Sequence[float], shares: Sequence[float]) -> Curve:
    """The non-decreasing curve nearest to *shares*, measured on equally many sentences each."""
    from sklearn.isotonic import IsotonicRegression  # scikit-learn takes a second to load

    fitted = IsotonicRegression(y_min=0, y_max=1).fit_transform(strengths, shares)
    return Curve(tuple(map(float, strengths)), tuple(map(float, fitted)))


def measure(model: LatentTextModel, steering: Steering, n: int, write: Write, *, seed: int) -> Curve:
    """The curve of what *steering* asks of n draws."""
    rows = [i % n for i in range(PILOT)]
    asked = asked_of(model, steering.rows(rows).symbols, PILOT)
    strengths = [share * model.prior.strength for share in SHARES]
    shares = []
    for number, strength in enumerate(strengths):
        texts = write(replace(steering.rows(rows), strength=strength), PILOT, seed + 7_919 * (number + 1))
        shares.append(float(read_as_asked(model, texts, asked).float().mean()))
    return monotone(strengths, shares)


def read_as_asked(model: LatentTextModel, texts: Sequence[str], asked: dict[str, Tensor]) -> Tensor:
    """(n,) whether the most probable class of every head asked is one of those that may be (`steering.asked_of`)."""
    codes, right = encode(model, texts).codes, torch.ones(len(texts), dtype=torch.bool)
    for name, classes in asked.items():
        read, may = codes[name], classes.cpu()
        if may.dtype == torch.bool:
            right &= may.gather(-1, read[:, None])[:, 0]
        else:
            right &= (read == may) | (may < 0)
    return right


def requests(model: LatentTextModel, steering: Steering, n: int) -> dict[tuple[tuple[str, str], ...], list[int]]:
    """The rows (n) that are asked the same, by what that is."""
    asked = asked_of(model, steering.symbols, n)
    if not asked:
        raise TextEBMError("strength='auto' has no effect without symbols; ask for one, such as {'sentiment': 1}")
    groups = dict[tuple[tuple[str, str], ...], list[int]]()
    for row in range(n):
        groups.setdefault(tuple((name, str(each[row].tolist())) for name, each in asked.items()), []).append(row)
    return groups


def calibrated(
    model: LatentTextModel,
    n: int,
    steering: Steering,
    write: Write,
    share: float,
    curves: Curves,
    options: tuple[object, ...],
    seed: int,
    fits: Callable[[str], bool] | None = None,
) -> list[str]:
    """n sentences of which *share* are read as asked, in each group of rows that are asked the same."""
    texts = [""] * n
    single = steering.contexts is None and not steering.like and steering.direction is None
    weights = digest_of(model) if single else ""
    for number, (request, rows) in enumerate(requests(model, steering, n).items()):
        own, own_seed = steering.rows(rows), seed + 15_485_863 * number
        key = key_of(weights, request, options) if single else ""
        curve = curves.by_key.get(key)
        if curve is None:
            curve = measure(model, own, len(rows), write, seed=0 if single else own_seed)  # whoever asks first
            if single:
                curves.keep(key, curve)
        strength, again = curve.strength_of(share)
        logger.info("strength %.3g for %s; %.0f %% drawn again until read so", strength, request, 100 * again)
        drawn = torch.rand(len(rows), generator=torch.Generator().manual_seed(own_seed)) < again
        confidences = torch.where(drawn, READ, 0.0).tolist()
        written = read_back(model, len(rows), replace(own, strength=strength), write, confidences, own_seed, fits)
        for row, text in zip(rows, written, strict=True):
            texts[row] = text
    return texts


def read_back(
    model: LatentTextModel,
    n: int,
    steering: Steering,
    write: Write,
    confidences: Sequence[float],
    seed: int,
    fits: Callable[[str], bool] | None = None,
) -> list[str]:
    """n sentences, each drawn again until it *fits* and the encoder reads it as asked with its probability in
    *confidences* (n); where that is 0 it is not read."""
    asked, steering = asked_of(model, steering.symbols, n), one_class_each(model, steering, n, seed)
    reads = [i for i, confidence in enumerate(confidences) if confidence > 0]

    def again(rows: list[int] | None, seed: int) -> list[str]:
        return write(steering, n, seed) if rows is None else write(steering.rows(rows), len(rows), seed)

    def value(rows: list[int], texts: list[str]) -> list[float]:
        sure = dict.fromkeys(rows, 0.0)
        if read := [(i, text) for i, text in zip(rows, texts, strict=True) if confidences[i] > 0]:
            own = [i for i, _ in read]
            certain = certainty(model, [text for _, text in read], {name: each[own] for name, each in asked.items()})
            sure |= dict(zip(own, certain.tolist(), strict=True))
        return [sure[i] if fits is None or fits(text) else sure[i] - 1 for i, text in zip(rows, texts, strict=True)]

    return surest_draws(again, n, value, confidences, seed, reads if fits is None else list(range(n)))


def surest_draws(
    write: Callable[[list[int] | None, int], list[str]],
    n: int,
    read: Callable[[list[int], list[str]], list[float]],
    confidences: Sequence[float],
    seed: int,
    rows: list[int],
) -> list[str]:
    """n sentences, each of *rows* drawn again, at most `DRAWS` times, until it is read as asked; else the surest.

    write(rows, seed): new sentences for these rows (None: all); read(rows, texts) (len(rows),): how surely they read as
    asked, to be at least the row's of *confidences* (n).
    """
    best = write(None, seed)
    waiting = rows
    surest, texts = [-2.0] * n, [best[i] for i in waiting]
    for attempt in range(DRAWS):
        values = read(waiting, texts) if waiting else []
        for i, text, value in zip(waiting, texts, values, strict=True):
            if value > surest[i]:
                best[i], surest[i] = text, value
        waiting = [i for i in waiting if surest[i] < confidences[i]]
        if not waiting or attempt == DRAWS - 1:
            break
        texts = write(waiting, seed + 104_729 * (attempt + 1))
    return best
