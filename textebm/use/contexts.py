"""The turns before a text, as a model of dialogues reads them.

*contexts*, a history for each row, is a list of turns (oldest first) or one text (`textebm.text.history`). A model
without a context encoder refuses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from textebm.errors import TextEBMError
from textebm.model.inference import ShortRun
from textebm.model.latent_text_model import LatentTextModel
from textebm.text.batches import collate, special_ids
from textebm.text.history import History, Turn, history_store, parse_history

Contexts = Sequence["str | Sequence[str]"]  # a history for each row


@dataclass(frozen=True)
class DialogueContext:
    """The turns before each row, and what the context encoder makes of them: vectors (n, C), on the model's device."""

    histories: list[History]
    vectors: Tensor

    def turns(self, texts: Sequence[str]) -> list[str]:
        """The texts, each knowing what it answers."""
        return [Turn(text, history) for text, history in zip(texts, self.histories, strict=True)]


def read_contexts(model: LatentTextModel, contexts: Contexts | None, n: int) -> DialogueContext | None:
    """The contexts of n rows; None for a model that reads none. Raises TextEBMError for ones missing or unwanted."""
    if not model.reads_context:
        if contexts is not None:
            raise TextEBMError(
                "this model reads no context: leave contexts out, or train one with data.context_turns, "
                "such as the recipe dailydialog-respond"
            )
        return None
    if contexts is None and n > 0:
        raise TextEBMError(
            "this model answers a dialogue: use respond(contexts), or textebm respond on the command line; "
            "other calls take contexts=, one list of turns for each row"
        )
    histories = parse_contexts(contexts or [])
    if len(histories) != n:
        raise TextEBMError(f"contexts: expected {n} histories, one for each row, got {len(histories)}")
    return DialogueContext(histories, _context_vectors(model, histories))


def contexts_of_texts(
    model: LatentTextModel, texts: Sequence[str], contexts: Contexts | None
) -> DialogueContext | None:
    """The contexts of texts, read: those named, or those that the texts know; None for a model that reads none."""
    return read_contexts(model, named_contexts(model, texts, contexts), len(texts))


def named_contexts(model: LatentTextModel, texts: Sequence[str], contexts: Contexts | None) -> Contexts | None:
    """The contexts of texts, not yet read."""
    check_list(texts)
    if model.reads_context and contexts is None:
        if not all(isinstance(text, Turn) for text in texts):
            raise TextEBMError(
                "this model reads each text in its dialogue: give contexts, one list of turns for each text "
                "([] where nothing was said before)"
            )
        return [text.history for text in texts if isinstance(text, Turn)]
    return contexts


def parse_contexts(contexts: Contexts) -> list[History]:
    """Each history as a tuple of turns. Raises TextEBMError for what is none."""
    if isinstance(contexts, str):
        raise TextEBMError(f"contexts: expected a list of histories, got one string: write [{contexts[:40]!r}]")
    histories = []
    for i, value in enumerate(contexts):
        try:
            histories.append(parse_history(value))
        except ValueError as error:
            raise TextEBMError(f"contexts[{i}]: {error}") from None
    return histories


def check_list(texts: Sequence[str]) -> None:
    """Raises TextEBMError for a string, which is a sequence of texts of one letter each."""
    if isinstance(texts, str):
        raise TextEBMError(f"expected a list of texts, got one string: write [{texts[:40]!r}]")


@torch.no_grad()
def _context_vectors(model: LatentTextModel, histories: Sequence[History]) -> Tensor:
    """c of each history, (n, C). Equal ones are encoded once."""
    reader, encoder = model.context_encoder, model.encoder
    assert reader is not None and not isinstance(encoder, ShortRun)
    places = {history: place for place, history in enumerate(dict.fromkeys(histories))}
    store = history_store(places, model.tokenizer, turns=reader.turns, max_tokens=reader.max_tokens)
    vectors = torch.zeros(len(places), reader.size, device=model.device)
    order = store.lengths.argsort(kind="stable")
    with model.evaluating():
        for start in range(0, len(order), 512):
            batch = collate(store, order[start : start + 512], {}, **special_ids(model.tokenizer)).to(model.device)
            vectors[batch.index] = reader(*encoder.embed(batch.tokens, batch.lengths))
    return vectors[torch.tensor([places[history] for history in histories], dtype=torch.long, device=model.device)]
