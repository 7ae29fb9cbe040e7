"""What is asked of a draw, as one value: symbols, examples to be like, and the turns to answer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from textebm.errors import TextEBMError
from textebm.model.latent_text_model import LatentTextModel
from textebm.prior.condition import Condition
from textebm.use.contexts import Contexts, DialogueContext, read_contexts
from textebm.use.reading import views

SymbolRequest = Mapping[str, "str | int | Sequence[str | int]"]


@dataclass(frozen=True)
class Steering:
    """What is asked of n draws.

    symbols: head -> class (name or number), or a sequence of n of them; several heads compose as a product of experts.
    strength: how strongly log p(y|z) tilts the prior (1 = Bayes), None for the model's own. like: example sentences;
    like_strength as strength. contexts: for models of dialogues, what each draw answers.
    """

    symbols: SymbolRequest | None = None
    strength: float | None = None
    like: Sequence[str] = ()
    like_strength: float | None = None
    contexts: Contexts | None = None

    def rows(self, rows: Sequence[int]) -> Steering:
        """What is asked of these of the draws."""
        symbols = {
            name: value if isinstance(value, str | int) else [value[i] for i in rows]
            for name, value in (self.symbols or {}).items()
        }
        contexts = None if self.contexts is None else [self.contexts[i] for i in rows]
        return replace(self, symbols=symbols, contexts=contexts)


def condition_of(
    model: LatentTextModel, steering: Steering, n: int, context: DialogueContext | None = None
) -> tuple[Condition, DialogueContext | None]:
    """The classes asked for as numbers, (n,) for each head, the views of the examples, and the contexts, which are read
    here unless *context* has them. Raises TextEBMError for what the model does not know."""
    for option, number in (("strength", steering.strength), ("like_strength", steering.like_strength)):
        if number is not None and not 0 <= number < math.inf:
            raise TextEBMError(f"{option} must be a number from 0 up, got {number}")
    if context is None:
        context = read_contexts(model, steering.contexts, n)
    classes = {}
    for name, value in (steering.symbols or {}).items():
        head = model.head(name)
        values = [value] * n if isinstance(value, (str, int)) else list(value)
        if isinstance(value, (str, int)):
            head.index(value)  # answered even when n is 0
        if len(values) != n:
            raise TextEBMError(f"symbol {name!r}: expected one class or {n} of them, got {len(values)}")
        classes[name] = torch.tensor([head.index(v) for v in values], dtype=torch.long, device=model.device)
    examples = None
    if len(steering.like):
        examples = views(model, steering.like).sum(0).to(model.device).expand(n, -1)
    condition = Condition(
        classes,
        model.prior.strength if steering.strength is None else steering.strength,
        examples,
        model.prior.like_strength if steering.like_strength is None else steering.like_strength,
        None if context is None else context.vectors,
    )
    return condition, context
