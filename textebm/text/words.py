"""The words of a sentence, for counting; and those of them that carry its content."""

from __future__ import annotations

import re
from difflib import SequenceMatcher

# Scripts without spaces are counted by the character; everything else by what stands between spaces.
_UNSPACED = "\u3000-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uff0f"
WORD_PATTERN = f"[{_UNSPACED}]|[^\\s{_UNSPACED}]+"
_WORD = re.compile(WORD_PATTERN)

# The closed classes of English: articles and determiners, pronouns, prepositions, conjunctions, auxiliary verbs, the
# clitics that tokenizers split off, adverbs of degree, time and place. No noun, adjective or full verb is among them.
FUNCTION_WORDS = frozenset(
    """
    a an the this that these those some any no every each either neither another other others such same both all few
    many much more most several enough own
    i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his himself she her hers
    herself it its itself they them their theirs themselves one ones who whom whose which what whatever whoever
    someone somebody something anyone anybody anything everyone everybody everything nobody nothing none
    of in on at by for with about against between into through during before after above below to from up down out off
    over under again along around away back across behind beside beyond near onto toward towards upon within without
    via per as than like unlike until till since despite except
    and or but nor so yet if because although though while whereas unless whether once when where why how whenever
    wherever however therefore thus hence also too
    am is are was were be been being do does did done doing have has had having will would shall should can could may
    might must ought cannot wo ca ai
    's 're 've 'm 'd 'll n't 't s t d m ll re ve don't didn't doesn't isn't aren't wasn't weren't won't can't couldn't
    wouldn't shouldn't haven't hasn't hadn't i'm i've i'll i'd you're you've you'll you'd it's that's there's we're
    we've we'll they're they've they'll he's she's let's what's who's
    not never ever just only even still already almost quite rather very really pretty actually maybe perhaps here
    there now then always often sometimes usually else instead anyway well oh yes ok okay
    """.split()
)

# Verbs that say little by themselves: what was got, made or thought is the subject.
LIGHT_VERBS = frozenset(
    """
    get gets getting got gotten go goes going gone went come comes coming came make makes making made take takes taking
    took taken give gives giving gave given put puts putting keep keeps keeping kept let lets letting try tries trying
    tried say says saying said tell tells telling told know knows knowing knew known think thinks thinking thought want
    wants wanting wanted need needs needing needed use uses using used see sees seeing saw seen look looks looking
    looked feel feels feeling felt
    """.split()
)


def split_words(text: str) -> list[str]:
    """What spaces separate, and each character of a script without spaces; as it is written."""
    return _WORD.findall(text)


def words_of(text: str) -> list[str]:
    """The words of a sentence that have a letter or digit, in lower case."""
    return [word for word in _WORD.findall(text.lower()) if any(map(str.isalnum, word))]


def content_words(text: str) -> list[str]:
    """Those of `words_of` that are no English function words and no numbers."""
    return [word for word in words_of(text) if word not in FUNCTION_WORDS and any(map(str.isalpha, word))]


def subject_words(text: str) -> list[str]:
    """Those of `content_words` that are no light verbs."""
    return [word for word in content_words(text) if word not in LIGHT_VERBS]


def word_changes(before: str, after: str) -> list[tuple[str, str]]:
    """What spaces separate in two sentences, as runs that stay ("same"), go ("out") and come ("in"), in the order of
    reading."""
    a, b = before.split(), after.split()
    changes: list[tuple[str, str]] = []
    for kind, a0, a1, b0, b1 in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if kind == "equal":
            changes.append(("same", " ".join(a[a0:a1])))
            continue
        changes += [(side, " ".join(words)) for side, words in (("out", a[a0:a1]), ("in", b[b0:b1])) if words]
    return changes


def share_changed(a: str, b: str) -> float:
    """The share of the words of two sentences that the other does not have at its place, 0 … 1."""
    return 1 - SequenceMatcher(None, a.split(), b.split(), autojunk=False).ratio()
