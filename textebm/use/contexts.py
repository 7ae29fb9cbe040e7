"""What a model makes of the turns before a text: `Dialogue`, of which `textebm.use.reading.Reading` is made.

*contexts*, a history for each row, is a list of turns (oldest first) or one text (`textebm.text.history`). A model
without a context encoder refuses it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from textebm.errors import TextEBMError
from textebm.model.inference import ShortRun
from textebm.networks.bag_of_words import BagOfWordsEncoder
from textebm.networks.encoder import ContextEncoder, OwnEncoder, RecurrentEncoder, TransformerEncoder
from textebm.prior.prior import LatentPrior
from textebm.text.batches import collate, special_ids
from textebm.text.history import History, Turn, history_store, parse_history

Contexts = Sequence["str | Sequence[str]"]  # a history for each row
Encoder = RecurrentEncoder | TransformerEncoder | BagOfWordsEncoder | OwnEncoder | ShortRun


@dataclass(frozen=True)
class Given:
    """The turns before each row, and what the context encoder makes of them: vectors (n, C), on the model's device."""

    histories: list[History]
    vectors: Tensor


class Dialogue(nn.Module):
    """The methods of `TextEBM` that read contexts."""

    encoder: Encoder
    prior: LatentPrior
    tokenizer: PreTrainedTokenizerFast
    context_encoder: ContextEncoder | None
    _answered: list[History] | None = None  # by `answering`

    @property
    def device(self) -> torch.device:
        return self.prior.rho.device

    @property
    def reads_context(self) -> bool:
        """Whether it reads the turns before each text."""
        return self.context_encoder is not None

    @contextmanager
    def answering(self, contexts: Contexts) -> Iterator[None]:
        """Inside, what is written without contexts answers these, the i-th row the i-th one (and so on round), as an
        evaluation wants it. Nothing changes for a model that reads no context."""
        before, self._answered = self._answered, None if self.context_encoder is None else self._parsed(contexts)
        try:
            yield
        finally:
            self._answered = before

    def answered(self, rows: Sequence[int]) -> list[History] | None:
        """The histories that these rows answer inside `answering`; None where the model reads none, or outside."""
        return [self._answered[i % len(self._answered)] for i in rows] if self._answered else None

    def answered_context(self, n: int) -> Tensor | None:
        """c of the histories that n rows answer, (n, C); None for a model that reads none."""
        given = self._given(None, n)
        return None if given is None else given.vectors

    def _read_given(self, texts: Sequence[str], contexts: Contexts | None) -> Given | None:
        return self._given(self._histories(texts, contexts), len(texts))

    def _histories(self, texts: Sequence[str], contexts: Contexts | None) -> Contexts | None:
        """The contexts of texts: those named, or those that the texts know; None for a model that reads none."""
        check_list(texts)
        if self.context_encoder is None or contexts is not None:
            return contexts
        if not all(isinstance(text, Turn) for text in texts):
            raise TextEBMError(
                "this model reads each text in its dialogue: give contexts, one list of turns for each text "
                "([] where nothing was said before)"
            )
        return [text.history for text in texts if isinstance(text, Turn)]

    def _given(self, contexts: Contexts | None, n: int) -> Given | None:
        """The contexts of n rows: those named, or those of `answering`. None for a model that reads none."""
        if self.context_encoder is None:
            if contexts is not None:
                raise TextEBMError(
                    "this model reads no context: leave contexts out, or train one with data.context_turns, "
                    "such as the recipe dailydialog-respond"
                )
            return None
        if contexts is not None:
            histories = self._parsed(contexts)
        elif self._answered:
            histories = [self._answered[i % len(self._answered)] for i in range(n)]
        elif n == 0:
            histories = []
        else:
            raise TextEBMError(
                "this model answers a dialogue: use respond(contexts), or textebm respond on the command line; "
                "other calls take contexts=, one list of turns for each row"
            )
        if len(histories) != n:
            raise TextEBMError(f"contexts: expected {n} histories, one for each row, got {len(histories)}")
        return Given(histories, self._context_vectors(histories))

    def _parsed(self, contexts: Contexts) -> list[History]:
        if isinstance(contexts, str):
            raise TextEBMError(f"contexts: expected a list of histories, got one string: write [{contexts[:40]!r}]")
        histories = []
        for i, value in enumerate(contexts):
            try:
                histories.append(parse_history(value))
            except ValueError as error:
                raise TextEBMError(f"contexts[{i}]: {error}") from None
        return histories

    @torch.no_grad()
    def _context_vectors(self, histories: Sequence[History]) -> Tensor:
        """c of each history, (n, C). Equal ones are encoded once."""
        reader, embedding = self.context_encoder, self.encoder.embedding
        assert reader is not None and embedding is not None
        places = {history: place for place, history in enumerate(dict.fromkeys(histories))}
        store = history_store(places, self.tokenizer, turns=reader.turns, max_tokens=reader.max_tokens)
        vectors = torch.zeros(len(places), reader.size, device=self.device)
        order = store.lengths.argsort(kind="stable")
        with self._evaluating():
            for start in range(0, len(order), 512):
                batch = collate(store, order[start : start + 512], {}, **special_ids(self.tokenizer)).to(self.device)
                vectors[batch.index] = reader(embedding(batch.tokens), batch.lengths)
        return vectors[torch.tensor([places[history] for history in histories], dtype=torch.long, device=self.device)]

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        was_training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(was_training)


def check_list(texts: Sequence[str]) -> None:
    if isinstance(texts, str):  # a sequence of texts too, of one letter each
        raise TextEBMError(f"expected a list of texts, got one string: write [{texts[:40]!r}]")
