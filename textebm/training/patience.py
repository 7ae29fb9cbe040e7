"""When to stop a text stage: when the validation bound no longer falls, with the weights that had the lowest one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


class Patience:
    """Remembers the weights with the lowest validation bound (nats a sentence) of a text stage.

    patience: health lines in a row that may be worse than the best; None: never stop, remember nothing.
    """

    def __init__(self, patience: int | None):
        self.patience = patience
        self.stage, self.best, self.worse = -1, math.inf, 0
        self.weights: dict[str, Tensor] = {}

    def see(self, stage: int, bound: float, model: nn.Module) -> bool:
        """Take in one health line of stage number *stage*. True when it is time to stop."""
        if self.patience is None:
            return False
        if stage != self.stage:
            self.stage, self.best, self.worse, self.weights = stage, math.inf, 0, {}
        if bound < self.best:
            self.best, self.worse = bound, 0
            self.weights = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
        else:
            self.worse += 1
        return self.worse >= self.patience

    def give_back(self, model: nn.Module) -> bool:
        """At the end of a stage: put the best weights back into *model*. False where they are there already."""
        kept, self.weights = self.weights, {}
        if not kept or self.worse == 0:
            return False
        model.load_state_dict(kept)
        return True

    def state(self) -> dict[str, Any]:
        """For JSON, beside `weights`."""
        best = self.best if math.isfinite(self.best) else None
        return {"stage": self.stage, "best": best, "worse": self.worse}

    def restore(self, state: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
        """Take back what `state` and `weights` gave."""
        self.stage, self.worse = int(state["stage"]), int(state["worse"])
        self.best = math.inf if state["best"] is None else float(state["best"])
        self.weights = dict(weights)
