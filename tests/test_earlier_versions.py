"""Models and evaluations saved by earlier commits, those that the READMEs mention: read, or refused in one line.

Each was made by `textebm.train` at that commit with a recipe of 20 steps; expected.json has what it then wrote for
three latents and read in one sentence.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from textebm.api import TextEBM
from textebm.errors import CheckpointError
from textebm.runs.evaluate import read_evaluation

EARLIER = Path(__file__).parent / "data" / "earlier"


@pytest.mark.parametrize("commit", ["c7225b5", "285d800", "57ea612"])
def test_a_model_of_an_earlier_commit_writes_and_reads_the_same(commit: str) -> None:
    model = TextEBM.from_pretrained(EARLIER / commit)
    expected = json.loads((EARLIER / commit / "expected.json").read_text(encoding="utf-8"))
    assert model.decode(torch.linspace(-1, 1, 12).view(3, 4)) == expected["decode"]
    read = model.encode(["the food was great ."]).mean
    assert torch.allclose(read, torch.tensor(expected["encode"]), atol=1e-4)  # other machines add in another order
    assert len(read_evaluation(EARLIER / commit).metrics) > 50


def test_a_model_with_options_that_are_gone_is_refused_in_one_line() -> None:
    with pytest.raises(CheckpointError, match="Train it again with this textebm, or read it with the one") as raised:
        TextEBM.from_pretrained(EARLIER / "e1e0636")
    assert "prior.base_components" in str(raised.value) and "\n" not in str(raised.value)
