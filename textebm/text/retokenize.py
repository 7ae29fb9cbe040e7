"""Rows of one tokenizer's ids as rows of another's: what a network reads that has a vocabulary of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from textebm.text.tokenizer import spell

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Ids = tuple[int, ...]


class Retokenizer:
    """The text of a row of *writer*'s ids, in *reader*'s ids, with the special tokens that *reader* sets around a text.

    An end of sentence inside a row, between two turns of a history, is *reader*'s separator, or a line break. A row is
    cut at *longest* ids.
    """

    def __init__(self, writer: PreTrainedTokenizerFast, reader: PreTrainedTokenizerFast, longest: int):
        self.writer, self.reader, self.longest = writer, reader, longest
        self.between = reader.sep_token or "\n"
        bare, whole = (reader("a", add_special_tokens=each)["input_ids"] for each in (False, True))
        before = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
        self.before, self.behind = whole[:before], whole[before + len(bare) :]

    def __call__(self, rows: Sequence[Ids]) -> list[Ids]:
        texts = [self.between.join(self._turns(row)) for row in rows]
        read = self.reader(texts, add_special_tokens=False)["input_ids"]
        room = self.longest - len(self.before) - len(self.behind)
        whole = [(*self.before, *ids[:room], *self.behind) for ids in read]
        return [row or (self.reader.eos_token_id or 0,) for row in whole]

    def _turns(self, row: Ids) -> list[str]:
        turns, turn = [], list[int]()
        for number in row:
            if number == self.writer.eos_token_id:
                turns.append(spell(self.writer, turn))
                turn = []
            else:
                turn.append(number)
        return [*turns, spell(self.writer, turn)] if turn else turns
