"""The embedded corpus: English sentences drawn from a small grammar with three known factors.

A sentence is a template whose slots depend on its factors (sentiment, topic, tense). The language is finite and
regular, so that the grammar itself, compiled to a regular expression, is an exact parser: `parse` knows no list of
generated sentences. No sentence has two readings; a test writes the whole language out to prove it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import permutations, product
from math import prod
from typing import NamedTuple

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from textebm.errors import CorpusError

FACTORS: dict[str, tuple[str, ...]] = {
    "sentiment": ("negative", "positive"),
    "topic": ("food", "hotel", "film", "book", "phone", "car"),
    "tense": ("past", "present", "future"),
}

Slot = tuple[str, ...]  # the phrases that may stand in one place
Template = tuple[Slot, ...]  # any phrase of each slot, in order


class Factors(NamedTuple):
    """One value per factor."""

    sentiment: str
    topic: str
    tense: str


@dataclass(frozen=True)
class Example:
    """A sentence and its factors."""

    text: str
    sentiment: str
    topic: str
    tense: str


class Verb(NamedTuple):
    """The three tenses of a verb as used by its template."""

    past: str
    present: str
    future: str


class Topic(NamedTuple):
    """The words of one topic; adjectives suit every noun and every part."""

    nouns: Slot
    parts: Slot
    people: Slot
    uses: tuple[Verb, ...]  # with "we"
    places: Slot
    makers: Slot
    makes: tuple[Verb, ...]  # with "the chef"
    adjectives: dict[str, Slot]


TOPICS = {
    "food": Topic(
        nouns=("pizza", "burger", "sandwich", "pie"),
        parts=("sauce", "filling", "topping", "seasoning"),
        people=("diners", "customers"),
        uses=(Verb("ate", "eat", "will eat"), Verb("ordered", "order", "will order")),
        places=("at the diner", "for lunch", "for dinner"),
        makers=("the chef", "the cook"),
        makes=(Verb("served", "serves", "will serve"), Verb("prepared", "prepares", "will prepare")),
        adjectives={"negative": ("bland", "tasteless", "salty"), "positive": ("tasty", "delicious", "fresh")},
    ),
    "hotel": Topic(
        nouns=("hotel", "hostel", "motel", "guesthouse"),
        parts=("room", "bed", "lobby", "bathroom"),
        people=("guests", "tourists"),
        uses=(Verb("stayed in", "stay in", "will stay in"), Verb("visited", "visit", "will visit")),
        places=("near the beach", "by the lake", "in the mountains"),
        makers=("the owner", "the landlord"),
        makes=(Verb("opened", "opens", "will open"), Verb("ran", "runs", "will run")),
        adjectives={"negative": ("filthy", "shabby", "dirty"), "positive": ("comfortable", "spotless", "charming")},
    ),
    "film": Topic(
        nouns=("film", "movie", "comedy", "thriller"),
        parts=("plot", "script", "dialogue", "ending"),
        people=("viewers", "critics"),
        uses=(Verb("watched", "watch", "will watch"), Verb("saw", "see", "will see")),
        places=("at the cinema", "at the festival", "on television"),
        makers=("the director", "the studio"),
        makes=(Verb("made", "makes", "will make"), Verb("released", "releases", "will release")),
        adjectives={"negative": ("boring", "predictable", "silly"), "positive": ("gripping", "funny", "touching")},
    ),
    "book": Topic(
        nouns=("book", "novel", "memoir", "biography"),
        parts=("prose", "story", "narration", "opening"),
        people=("readers", "students"),
        uses=(Verb("read", "read", "will read"), Verb("finished", "finish", "will finish")),
        places=("in the library", "before bed", "on the train"),
        makers=("the author", "the journalist"),
        makes=(Verb("wrote", "writes", "will write"), Verb("published", "publishes", "will publish")),
        adjectives={"negative": ("tedious", "clumsy", "confusing"), "positive": ("witty", "absorbing", "clever")},
    ),
    "phone": Topic(
        nouns=("phone", "smartphone", "handset", "tablet"),
        parts=("screen", "camera", "keyboard", "microphone"),
        people=("users", "callers"),
        uses=(Verb("used", "use", "will use"), Verb("carried", "carry", "will carry")),
        places=("at work", "at the office", "for messages"),
        makers=("the company", "the engineer"),
        makes=(Verb("designed", "designs", "will design"), Verb("launched", "launches", "will launch")),
        adjectives={"negative": ("faulty", "fragile", "slow"), "positive": ("responsive", "reliable", "handy")},
    ),
    "car": Topic(
        nouns=("car", "van", "truck", "jeep"),
        parts=("engine", "gearbox", "clutch", "suspension"),
        people=("drivers", "passengers"),
        uses=(Verb("drove", "drive", "will drive"), Verb("rented", "rent", "will rent")),
        places=("on the motorway", "in the city", "in the snow"),
        makers=("the dealer", "the garage"),
        makes=(Verb("sold", "sells", "will sell"), Verb("repaired", "repairs", "will repair")),
        adjectives={"negative": ("noisy", "rusty", "rough"), "positive": ("smooth", "quiet", "sturdy")},
    ),
}

ADJECTIVES = {
    "negative": ("awful", "terrible", "horrible", "disappointing"),
    "positive": ("great", "wonderful", "excellent", "lovely"),
}
OPINIONS = {
    "negative": (
        Verb("hated", "hate", "will hate"),
        Verb("disliked", "dislike", "will dislike"),
        Verb("criticised", "criticise", "will criticise"),
    ),
    "positive": (
        Verb("loved", "love", "will love"),
        Verb("enjoyed", "enjoy", "will enjoy"),
        Verb("praised", "praise", "will praise"),
    ),
}
IS = Verb("was", "is", "will be")
ARE = Verb("were", "are", "will be")
FINDS = Verb("found", "find", "will find")
PEOPLE = ("i", "we", "they", "my friends")
ADVERBS = ("really", "truly", "so", "simply")
NOW = {
    "past": ("yesterday", "last night", "last week"),
    "present": ("now", "today", "these days"),
    "future": ("tomorrow", "next week", "next year"),
}
OFTEN = {
    "past": ("last week", "last month", "last year"),
    "present": ("every month", "every spring", "every year"),
    "future": ("next week", "next month", "next year"),
}
HABITS = OFTEN | {"present": ("every day", "every week", "these days")}


def article(adjective: str) -> str:
    """``a`` or ``an`` and the adjective."""
    return f"{'an' if adjective[0] in 'aeiou' else 'a'} {adjective}"


@cache
def templates(factors: Factors) -> tuple[Template, ...]:
    """The templates of one combination of factors; together they are all sentences that have it."""
    words = TOPICS[factors.topic]
    adjectives = words.adjectives[factors.sentiment] + ADJECTIVES[factors.sentiment]
    described = tuple(article(adjective) for adjective in adjectives)

    def verbs(*choices: Verb) -> Slot:
        return tuple(getattr(verb, factors.tense) for verb in choices)

    the_parts = tuple(f"the {part}" for part in words.parts)
    two_parts = tuple(f"{first} and {second}" for first, second in permutations(the_parts, 2))
    opinions, now, often = OPINIONS[factors.sentiment], NOW[factors.tense], OFTEN[factors.tense]
    end = (".",)
    return (
        (("the", "this", "that"), words.nouns, verbs(IS), ADVERBS, adjectives, now, end),
        (PEOPLE, verbs(*words.uses), described, words.nouns, words.places, HABITS[factors.tense], end),
        (the_parts, ("of the",), words.nouns, verbs(IS), ADVERBS, adjectives, end),
        (PEOPLE, verbs(*opinions), the_parts, ("of the", "of this"), words.nouns, end),
        (words.makers, verbs(*words.makes), described, words.nouns, often, end),
        (("most", "many", "some"), words.people, verbs(FINDS), the_parts, ADVERBS, adjectives, now, end),
        (("it",), verbs(IS), described, words.nouns, ("for",), ("most", "many", "young"), words.people, end),
        (two_parts, verbs(ARE), ADVERBS, adjectives, end),
    )


def combinations() -> Iterator[Factors]:
    """Every combination of factors."""
    return (Factors(*values) for values in product(*FACTORS.values()))


def language_size() -> int:
    """How many distinct sentences there are: the templates of a combination share none, nor do two combinations."""
    return sum(prod(len(slot) for slot in template) for factors in combinations() for template in templates(factors))


def vocabulary() -> list[str]:
    """Every word of the language, sorted."""
    slots = (slot for factors in combinations() for template in templates(factors) for slot in template)
    return sorted({word for slot in slots for phrase in slot for word in phrase.split()})


@cache
def _language() -> tuple[re.Pattern[str], dict[str, Factors]]:
    """The grammar as one regular expression, with a named group for each combination of factors."""
    groups, named = [], {}
    for number, factors in enumerate(combinations()):
        named[f"c{number}"] = factors
        sentences = (
            " ".join(f"(?:{'|'.join(map(re.escape, slot))})" for slot in template) for template in templates(factors)
        )
        groups.append(f"(?P<c{number}>{'|'.join(sentences)})")
    return re.compile("|".join(groups)), named


def parse(sentence: str) -> dict[str, str] | None:
    """The factors of *sentence*, or None if the grammar does not derive it. Exact; spacing is not significant."""
    pattern, named = _language()
    match = pattern.fullmatch(" ".join(sentence.split()))
    if match is None or match.lastgroup is None:
        return None
    return named[match.lastgroup]._asdict()


def generate(n: int, seed: int) -> list[Example]:
    """*n* distinct sentences, a pure function of (n, seed); factors and templates are drawn uniformly.

    Raises CorpusError when *n* is more than half of the language, beyond which drawing without repeats is slow.
    """
    if n > language_size() // 2:
        raise CorpusError(f"the grammar gives at most {language_size() // 2} sentences, but {n} were asked for")
    rng = np.random.default_rng(seed)
    all_factors = list(combinations())
    examples: dict[str, Example] = {}
    while len(examples) < n:
        factors = all_factors[rng.integers(len(all_factors))]
        choices = templates(factors)
        template = choices[rng.integers(len(choices))]
        draws = rng.random(len(template))
        text = " ".join(slot[int(len(slot) * draw)] for slot, draw in zip(template, draws, strict=True))
        examples.setdefault(text, Example(text, *factors))
    return list(examples.values())


def corpus(size: int, seed: int = 0) -> DatasetDict:
    """Train (*size* sentences), validation and test (a tenth each, at least 200); no sentence occurs twice."""
    held_out = max(200, size // 10)
    examples = generate(size + 2 * held_out, seed)
    features = Features({"text": Value("string"), **{name: ClassLabel(names=list(v)) for name, v in FACTORS.items()}})
    parts = {
        "train": examples[:size],
        "validation": examples[size : size + held_out],
        "test": examples[size + held_out :],
    }
    return DatasetDict(
        {
            split: Dataset.from_dict(
                {name: [getattr(row, name) for row in rows] for name in features}, features=features
            )
            for split, rows in parts.items()
        }
    )
