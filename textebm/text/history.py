"""The turns of a dialogue before a sentence: as text, as a column of a corpus, as token ids.

A history is a sequence of turns, oldest first. Where it must stand on one line (csv, tsv, standard input) its turns
are separated by a tab or by ``__eou__``, as DailyDialog writes them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from textebm.text.tokenizer import Encoded, TokenStore, chunks_of

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast

History = tuple[str, ...]
COLUMN = "context"  # of a corpus: the turns before the sentence, a list of texts
SEPARATOR = re.compile(r"\t|__eou__")


class Turn(str):
    """A sentence that knows the turns before it. What a model writes in a dialogue is one, and can be read again."""

    history: History

    def __new__(cls, text: str, history: Sequence[str] = ()) -> Turn:
        turn = super().__new__(cls, text)
        turn.history = tuple(history)
        return turn


def parse_history(value: object) -> History:
    """The turns of a list of texts, or of one text; blank turns are left out. None is no turn.

    Raises ValueError for anything else.
    """
    if value is None:
        return ()
    turns = SEPARATOR.split(value) if isinstance(value, str) else value
    if not isinstance(turns, Sequence) or not all(isinstance(turn, str) for turn in turns):
        raise ValueError(f"a history is a text or a list of texts, not {type(value).__name__}{_of(turns)}")
    return tuple(turn for turn in (" ".join(each.split()) for each in turns) if turn)


def _of(turns: object) -> str:
    """What a list holds beside texts, for an error message."""
    if not isinstance(turns, Sequence):
        return ""
    return f" with {type(next(turn for turn in turns if not isinstance(turn, str))).__name__}"


def parse_turn(line: str) -> Turn:
    """A line of turns: the last one, which knows the others."""
    *history, text = parse_history(line) or ("",)
    return Turn(text, history)


def has_histories(rows: Dataset) -> bool:
    """Whether a split has the turns before its sentences (a label column may have the same name)."""
    from datasets import List

    return isinstance(rows.features.get(COLUMN), List)


def texts_of(rows: Dataset) -> list[str]:
    """The sentences of a split, each with its history where the corpus has them."""
    texts = list(rows["text"])
    if not has_histories(rows):
        return texts
    return [Turn(text, history) for text, history in zip(texts, rows[COLUMN], strict=True)]


def histories_of(texts: Iterable[str]) -> list[History]:
    """What each text knows of the turns before it; nothing where it is no `Turn`."""
    return [text.history if isinstance(text, Turn) else () for text in texts]


def history_store(
    histories: Iterable[Sequence[str]], tokenizer: PreTrainedTokenizerFast, *, turns: int, max_tokens: int
) -> TokenStore:
    """Each history's last *turns* turns as one row, an end of sentence between two. A row longer than *max_tokens*
    loses its beginning: the latest words say most."""
    return TokenStore.joined(encode_histories(histories, tokenizer, turns=turns, max_tokens=max_tokens))


def encode_histories(
    histories: Iterable[Sequence[str]], tokenizer: PreTrainedTokenizerFast, *, turns: int, max_tokens: int
) -> Iterator[Encoded]:
    """What `history_store` joins, a chunk at a time."""
    between, nothing = np.array([tokenizer.eos_token_id], dtype=np.int32), np.empty(0, dtype=np.int32)
    for chunk in chunks_of(histories):
        kept = [tuple(history)[-turns:] if turns else () for history in chunk]
        flat = TokenStore.build([turn for history in kept for turn in history], tokenizer, sys.maxsize)
        rows, first = [], 0
        for history in kept:
            parts = [part for number in range(first, first + len(history)) for part in (flat[number], between)]
            rows.append(np.concatenate([nothing, *parts[:-1]])[-max_tokens:])
            first += len(history)
        yield Encoded(np.concatenate(rows), np.fromiter(map(len, rows), dtype=np.int64, count=len(rows)))
