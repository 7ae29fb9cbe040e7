"""What the page of `textebm explore` asks of a run: each method answers one question, in values that JSON has.

Symbols are asked for as ``{"head": …, "class": its number, "not": whether any other is meant, "weight": …}``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from textebm.api import TextEBM
from textebm.model.latent_text_model import SymbolHead
from textebm.text.history import Turn
from textebm.text.words import word_changes
from textebm.use.attribution import usual_method
from textebm.use.codebook import HeadBook, load_codebook, name_codes, shown_name
from textebm.use.inputs import lost_in_reading
from textebm.use.reading import Encoding
from textebm.use.steering import Direction, Others

SHOWN = 5  # most probable classes of a head
Asked = Sequence[Mapping[str, Any]]


class Explorer:
    """A model and the run that it comes from, whose codes may get names. data_dir: where the corpora lie, which a run
    without a codes.yaml needs once."""

    def __init__(self, model: TextEBM, directory: str | Path, *, data_dir: str | Path | None = None) -> None:
        self.model, self.directory, self.data_dir = model, Path(directory), data_dir

    def facts(self) -> dict[str, Any]:
        """What the page says before anything is asked; four sentences of the prior to begin with."""
        recipe, prior = self.model.recipe or {}, self.model.prior
        return {
            "name": str(recipe.get("name", self.directory.name)),
            "description": str(recipe.get("description") or ""),
            "run": str(self.directory),
            "heads": self.heads(),
            "strength": prior.strength,
            "dialogue": self.model.reads_context,
            "examples": [row["text"] for row in self.write([], n=4)],
        }

    def heads(self) -> list[dict[str, Any]]:
        """Symbols and attributes with the classes that are shown; curable: whose codes may get names."""
        own = sorted(self.model.heads.values(), key=lambda head: head.column is None)  # those that labels taught first
        heads = [*own, *(each.head for each in self.model.attributes.values())]
        return [
            {
                "name": head.name,
                "curable": head.name in self.model.heads and head.column is None,
                "classes": [
                    {"number": k, "name": self._name(head, k), "words": self._words(head, k)} for k in self._shown(head)
                ],
            }
            for head in heads
        ]

    def read(self, text: str, context: Sequence[str] = ()) -> dict[str, Any]:
        """Of each head its most probable classes and what each word adds to the first one's log p, nats; what the
        latent keeps of the sentence (``back``) and what was lost before it (``lost``, "" for nothing)."""
        texts, model = self._read_in([text], context), self.model
        encoding = model.encode(texts)
        heads = []
        for told in self.heads():
            name, head = told["name"], model.network.head(told["name"])
            book, p = self._book(head), encoding.probabilities[name].numpy()
            (best,) = (p.argmax(1) if book is None else book.read(p)).tolist()
            own = (p if book is None else book.gather(p)[0])[0]
            classes = [(each["number"], each["name"], float(own[each["number"]])) for each in told["classes"]]
            (why,) = model.attribute(texts, name, method=usual_method(model.network))
            heads.append(
                {
                    "name": name,
                    "label": self._name(head, best),
                    "number": best,
                    "classes": sorted(classes, key=lambda each: -each[2])[:SHOWN],
                    "words": [model.tokenizer.convert_tokens_to_string([word]).strip() for word in why.words],
                    "parts": list(why.parts),
                }
            )
        lost = lost_in_reading([text], model.tokenizer, model.max_tokens)
        return {"heads": heads, "back": str(model.reconstruct(texts)[0]), "lost": lost}

    def write(
        self,
        asked: Asked,
        n: int = 6,
        seed: int = 0,
        containing: Sequence[str] = (),
        without: Sequence[str] = (),
        context: Sequence[str] = (),
    ) -> list[dict[str, Any]]:
        """n sentences under the symbols *asked*, each at its own weight, beside those of the same noise when nothing is
        asked; ``changes`` lead from the second (``free``) to the first."""
        contexts = [list(context)] * n if self.model.reads_context else None
        terms = [self._direction(each) for each in asked]
        direction = Direction(tuple(term for each in terms for term in each.terms)) if terms else None
        free = self.model.generate(n, seed=seed, contexts=contexts)
        texts = free
        if direction or containing or without:
            texts = self.model.generate(
                n, seed=seed, contexts=contexts, direction=direction, containing=containing, without=without
            )
        readings = self._agreement(texts, asked)
        return [
            {"text": str(text), "free": str(other), "changes": word_changes(other, text), "read": read}
            for text, other, read in zip(texts, free, readings, strict=True)
        ]

    def edit(self, text: str, asked: Asked, keep: float = 6.0, context: Sequence[str] = ()) -> dict[str, Any]:
        """The text with the least change that is read as *asked*, and the ``changes`` that lead to it."""
        symbols = {each["head"]: self._value(each) for each in asked}
        texts = self._read_in([text], context)
        (new,) = self.model.edit(texts, symbols, keep=keep) if symbols else texts
        before, after = self._agreement(texts, asked), self._agreement([new], asked)
        return {"text": str(new), "changes": word_changes(text, new), "before": before[0], "after": after[0]}

    def walk(self, a: str, b: str, steps: int = 7, context: Sequence[str] = ()) -> list[dict[str, Any]]:
        """The sentences between two, each with its class of every head and its ``changes`` from the one before."""
        first, last = self._read_in([a, b], context)
        contexts = [list(context)] * 2 if self.model.reads_context else None
        texts = self.model.interpolate(first, last, steps, contexts=contexts)
        encoding = self.model.encode(self._read_in(texts, context))
        labels = [self._labels(encoding, row) for row in range(len(texts))]
        return [
            {"text": str(text), "changes": word_changes(before, text), "labels": own}
            for text, before, own in zip(texts, [texts[0], *texts[:-1]], labels, strict=True)
        ]

    def rename(self, head: str, code: int, name: str) -> list[dict[str, Any]]:
        """Call a code by *name* ("": by its words again) in the run's codes.yaml; the heads as they are called now."""
        from textebm.runs.codes import change_codes  # with datasets and pandas, which the rest does not need

        change_codes(self.directory, head, lambda book: book.rename(code, name), data_dir=self.data_dir)
        book = load_codebook(self.directory)
        assert book is not None
        self.model.codes = book
        name_codes(self.model.network, book)
        return self.heads()

    # -- what the answers share ------------------------------------------------------------------------------------

    def _read_in(self, texts: Sequence[str], context: Sequence[str]) -> list[str]:
        return [Turn(text, context) for text in texts] if self.model.reads_context else list(texts)

    def _book(self, head: SymbolHead) -> HeadBook | None:
        book = self.model.codes.heads.get(head.name)
        return book if book is not None and len(book.words) == len(head.classes) else None

    def _shown(self, head: SymbolHead) -> Sequence[int]:
        book = self._book(head)
        return range(len(head.classes)) if book is None else book.shown

    def _words(self, head: SymbolHead, number: int) -> str:
        book = self._book(head)
        return "" if book is None else " ".join(book.words[number])

    def _name(self, head: SymbolHead, number: int) -> str:
        """As people see it: ``2 · novel memoir book`` for a code without a name."""
        book = self._book(head)
        if book is None:
            return head.classes[number]
        code = book.merged.get(number, number)
        return book.names.get(code) or shown_name(code, book.name(code))

    def _value(self, asked: Mapping[str, Any]) -> Any:
        """By name, which is exact where a class is called as another's number."""
        name = self.model.network.head(asked["head"]).classes[asked["class"]]
        return Others(name) if asked.get("not") else name

    def _direction(self, asked: Mapping[str, Any]) -> Direction:
        return float(asked["weight"]) * self.model.symbol(asked["head"], self._value(asked))

    def _agreement(self, texts: Sequence[str], asked: Asked) -> list[list[dict[str, Any]]]:
        """Of each text, what is read in it for each symbol asked, and whether that is as asked."""
        if not asked or not texts:
            return [[] for _ in texts]
        encoding, found = self.model.encode(texts), []
        for row in range(len(texts)):
            labels = self._labels(encoding, row)
            found.append(
                [
                    {
                        "head": each["head"],
                        **labels[each["head"]],
                        "as_asked": (labels[each["head"]]["number"] == each["class"]) != bool(each.get("not")),
                    }
                    for each in asked
                ]
            )
        return found

    def _labels(self, encoding: Encoding, row: int) -> dict[str, dict[str, Any]]:
        codes = {name: int(of[row]) for name, of in encoding.codes.items()}
        heads = {name: self.model.network.head(name) for name in codes}
        return {name: {"number": code, "name": self._name(heads[name], code)} for name, code in codes.items()}
