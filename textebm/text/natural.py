"""English as it is written to the lower-case tokens of the field's corpora, and back.

`tokenize` of `detokenize` gives the tokens again, but for signs that were written in two ways.
"""

from __future__ import annotations

import re

QUOTES = str.maketrans(
    {"’": "'", "‘": "'", "′": "'", "“": '"', "”": '"', "—": "-", "–": "-", "。": ".", "、": ",", "\x7f": None}
)
APART = re.compile(r"(?<=\w) ?' ?(?=(?:s|t|m|re|ve|d|ll|am|clock)\b)")  # it ' s, don ' t, o ' clock
NEGATION = re.compile(r"(?<=\w)n't\b")
CLITIC = re.compile(r"(?<=\w)'(?=(?:s|m|re|ve|d|ll)\b)")
TOKEN = re.compile(
    r"""
    (?:https?://|www\.)[\w./-]*\w | \S+@\w+(?:\.\w+)+   # addresses
    | (?<!\w)(?:[a-z]\.){2,}                            # p.m.  u.s.
    | \d+(?:[.,:]\d+)+(?!\w)                            # 6:30  1,000  3.5
    | n't | '(?:s|m|re|ve|d|ll)\b                       # do n't, it 's: as in Penn Treebank and Yelp
    | \w+(?:['-]\w+)*                                   # words, with hyphens and apostrophes inside
    | \.{2,} | [^\w\s]                                  # an ellipsis; any other sign by itself
    """,
    re.VERBOSE,
)


def tokenize(text: str) -> str:
    """Lower-case *text* and set every token apart by one space.

    Punctuation stands alone, also where two sentences were run together ("right.But" -> "right . but"); typographic
    quotes become plain; contractions are joined and then split as in Penn Treebank ("don ’ t" -> "do n't", "it ' s"
    -> "it 's"). Numbers, times, abbreviations with points, hyphenated words and addresses stay whole.
    """
    text = APART.sub("'", text.lower().translate(QUOTES))
    return " ".join(TOKEN.findall(CLITIC.sub(" '", NEGATION.sub(" n't", text))))


CONTRACTION = re.compile(r" (n't|'(?:s|m|re|ve|d|ll))(?!\S)")
BEFORE = re.compile(r" (\.{2,}|[.,!?;:)\]}%])(?!\S)")  # signs that follow a word without a space
AFTER = re.compile(r"(?<!\S)([(\[{$#]) ")
SENTENCE = re.compile(r"((?:^|[.!?] )[\"'(]*)([a-z])")
FIRST_PERSON = re.compile(r"(?<!\S)i(?=$|[ .,!?;:)']|\.\.)")
QUOTED = re.compile(r"(?<!\S)(\"|``) (.+?) (\"|'')(?!\S)")


def detokenize(text: str) -> str:
    """Lower-case tokens as English is written: contractions, signs and quotes at their words, a capital at the start of
    a sentence and in "I". Names stay lower-case: nothing says which words they are."""
    text = " ".join(text.split())
    text = QUOTED.sub(r'"\2"', text)
    text = CONTRACTION.sub(r"\1", text)
    text = AFTER.sub(r"\1", BEFORE.sub(r"\1", text))
    text = FIRST_PERSON.sub("I", text)
    return SENTENCE.sub(lambda found: found[1] + found[2].upper(), text)
