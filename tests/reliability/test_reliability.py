"""The promises of docs/reliability.md in a short form; at the stated counts with `python -m tests.reliability`."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.reliability import PROMISES, Promise, tried

pytestmark = pytest.mark.reliability
SHORT = [each for each in PROMISES if each.short]


@pytest.mark.parametrize("chosen", SHORT, ids=[each.trial.__name__ for each in SHORT])
def test_the_promise_holds(
    chosen: Promise, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEXTEBM_CACHE", str(tmp_path / "cache"))
    caplog.set_level(logging.ERROR)  # damaged files by the hundred, as it should be
    outcome = tried(chosen, chosen.short, tmp_path / "tried")
    assert outcome.tried >= min(chosen.short, 4) or chosen.short == 1
    assert outcome.problems == []
