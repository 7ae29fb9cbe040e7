"""What a code is called where people look: its number and its words, unless somebody named it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from textebm.inspection.codes import CodeCard
from textebm.inspection.frames import Inspection
from textebm.use import codebook

WORDS = 3


def shown_name(card: CodeCard) -> str:
    """``2 · novel memoir book``; the name alone where it says something already."""
    return codebook.shown_name(card.code, card.name, " ".join(word.text for word in card.words[:WORDS]))


def by_shown_names(inspection: Inspection, heads: Iterable[str]) -> Inspection:
    """The same, with the codes of these heads called so wherever they are named."""
    cards, cells, edits = dict(inspection.cards), inspection.composition, list(inspection.edits)
    twins = list(inspection.twins)
    for head in heads:
        names = {card.name: shown_name(card) for card in cards[head]}
        cards[head] = [
            replace(
                card,
                name=names[card.name],
                nearest=tuple(replace(each, name=names.get(each.name, each.name)) for each in card.nearest),
                duplicates=tuple(names.get(each, each) for each in card.duplicates),
            )
            for card in cards[head]
        ]
        if cells is not None and head in cells.heads:
            side = "first" if cells.heads[0] == head else "second"
            renamed = (replace(c, **{side: names.get(getattr(c, side), getattr(c, side))}) for c in cells.cells)
            cells = replace(cells, cells=tuple(renamed))
        edits = [
            replace(
                each,
                source=names.get(each.source, each.source),
                target=names.get(each.target, each.target),
                found=tuple(names.get(name, name) for name in each.found),
            )
            if each.head == head
            else each
            for each in edits
        ]
        twins = [
            replace(each, first=names.get(each.first, each.first), second=names.get(each.second, each.second))
            if each.head == head
            else each
            for each in twins
        ]
    return replace(inspection, cards=cards, composition=cells, edits=edits, twins=twins)
