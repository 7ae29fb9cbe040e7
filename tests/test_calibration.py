"""Ask for p, get p: the curve of shares over strengths, and what is written by it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import trained

from textebm.api import TextEBM
from textebm.errors import TextEBMError
from textebm.use import calibration
from textebm.use.calibration import Curve, monotone, read_as_asked, requests
from textebm.use.steering import Steering, asked_of

torch.set_num_threads(1)


def test_a_strength_is_read_off_the_curve_by_hand() -> None:
    curve = Curve((0.0, 1.0, 3.0), (0.5, 0.7, 0.9))
    assert curve.strength_of(0.3) == (0.0, 0.0) == curve.strength_of(0.5)
    assert curve.strength_of(0.6) == (pytest.approx(0.5), 0.0)
    assert curve.strength_of(0.85) == (pytest.approx(2.5), 0.0)
    assert curve.strength_of(0.9) == (pytest.approx(3.0), 0.0)
    # .9 of all are right; to have .95, half of all must be drawn again until they are: .5 · .9 + .5 · 1
    assert curve.strength_of(0.95) == (3.0, pytest.approx(0.5))
    assert Curve((0.0, 2.0), (1.0, 1.0)).strength_of(0.99) == (0.0, 0.0)


def test_a_curve_never_falls() -> None:
    curve = monotone([0, 1, 2, 3], [0.5, 0.8, 0.6, 0.9])
    assert curve.shares == pytest.approx((0.5, 0.7, 0.7, 0.9)), "two that fall share their mean"
    assert curve.strength_of(0.7)[0] == pytest.approx(1.0), "the least strength that does"


def test_shares_follow_what_is_asked_and_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "PILOT", 50)
    model, n = trained(), 120
    asked = asked_of(model.network, {"sentiment": 1}, n)

    def share(confidence: float) -> float:
        texts = model.generate(n, symbols={"sentiment": 1}, strength="auto", confidence=confidence, seed=5)
        assert texts == model.generate(n, symbols={"sentiment": 1}, strength="auto", confidence=confidence, seed=5)
        return float(read_as_asked(model.network, texts, asked).float().mean())

    low, high = share(0.6), share(0.95)
    assert low < high - 0.1 and abs(low - 0.6) < 0.2 and abs(high - 0.95) < 0.1
    assert len(model._curves.by_key) == 1, "one request has one curve, whatever the share"
    several = model.generate(6, symbols={"sentiment": [0, 1, 0, 1, 0, 1]}, strength="auto", confidence=0.7, seed=1)
    assert len(several) == 6 and len(model._curves.by_key) == 3 - 1, "rows that are asked the same share a curve"
    model._curves.by_key.clear()
    asked = {"strength": "auto", "confidence": 0.7, "seed": 1}
    assert several == model.generate(6, symbols={"sentiment": [0, 1, 0, 1, 0, 1]}, **asked), "nor does its past matter"


def test_curves_are_kept_beside_the_weights_for_this_very_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "PILOT", 10)
    trained().save_pretrained(tmp_path)
    asked = {"symbols": {"sentiment": 1}, "strength": "auto", "confidence": 0.7, "seed": 2}
    texts = TextEBM.from_pretrained(tmp_path).generate(5, **asked)
    again = TextEBM.from_pretrained(tmp_path)
    monkeypatch.setattr(calibration, "measure", lambda *_, **__: pytest.fail("the curve was kept"))
    assert again.generate(5, **asked) == texts
    next(again.network.parameters()).data[0] += 1.0
    with pytest.raises(pytest.fail.Exception):
        again.generate(5, **asked)  # other weights: measured anew
    monkeypatch.undo()
    monkeypatch.setattr(calibration, "PILOT", 10)
    kept = (tmp_path / calibration.FILE).read_text()
    flipped = kept.replace("1.0", "9.0", 1)
    assert flipped != kept
    for damage in ("not JSON", "[1]", '{"a": 1}', '{"curves": {}, "sha256": ""}', flipped):
        (tmp_path / calibration.FILE).write_text(damage)
        assert TextEBM.from_pretrained(tmp_path).generate(5, **asked) == texts, damage
    (tmp_path / calibration.FILE).unlink()
    (tmp_path / calibration.FILE).mkdir()  # nothing can be written there
    assert TextEBM.from_pretrained(tmp_path).generate(5, **asked) == texts


def test_rows_that_are_asked_the_same_belong_together() -> None:
    steering = Steering({"sentiment": [0, 1, 0], "topic": 2})
    assert sorted(requests(trained().network, steering, 3).values()) == [[0, 2], [1]]


def test_what_auto_cannot_do_is_said() -> None:
    model = trained()
    for call, message in (
        (lambda: model.generate(2, strength="auto"), "has no effect without symbols"),
        (lambda: model.sample_latents(2, symbols={"sentiment": 1}, strength="auto"), "for generate and respond"),  # type: ignore[arg-type]
        (lambda: model.generate(2, symbols={"sentiment": 1}, strength="high"), "strength must be a finite number"),  # type: ignore[arg-type]
        (
            lambda: model.generate(2, symbols={"sentiment": 1}, strength="auto", resample_from_layer=1),
            "leave resample_from_layer and latents out",
        ),
        (lambda: model.generate(2, symbols={"sentiment": 1}, strength="auto", confidence=1.0), "between 0 and 1"),
    ):
        with pytest.raises(TextEBMError, match=message):
            call()
