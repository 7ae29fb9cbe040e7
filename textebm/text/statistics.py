"""Counts over the texts of a corpus, one text at a time: words, forms, scripts, what is written by machines."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from functools import lru_cache

HELD_OUT = 20  # every so many-th text stands for text that a vocabulary was not made from
GLUED = re.compile(r"\w[.,!?;:)\"”]+$|^[(\"“]\w")
ENTITY = re.compile(r"&(?:[a-zA-Z]{2,8}|#\d{1,6}|#x[0-9a-fA-F]{1,5});|(?<!\S)#\d{2,5};|<(?:br|p|b|i)\s*/?>")
ADDRESS = re.compile(r"https?://\S+|www\.\S+")
MISREAD = re.compile("\ufffd|Ã[\x80-\xbf©¨¤¶¼]|â€[\x80-\xbf™œ\x9d]")  # UTF-8 that was read as Latin-1
# The commonest words of a few languages: enough to say which of them a text is in.
FUNCTION_WORDS = {
    "English": "the of and to in is that it was for on are with as at be this have from".split(),
    "German": "der die und das ist nicht ein zu den mit von auf für im dem sich eine auch".split(),
    "French": "le la les et des est un une que dans du pour pas qui sur ne au avec".split(),
    "Spanish": "el la los de que y en un una por con no para se las del es lo".split(),
    "Italian": "il di che la un per non una sono con le si della del è da gli".split(),
    "Dutch": "de het een van en is dat niet op te zijn met voor die aan er maar".split(),
    "Portuguese": "o a de que e do da em um para com não uma os no se na por".split(),
}
UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")


class TextStatistics:
    """Sums over the texts that were added. Words are what white space separates."""

    def __init__(self) -> None:
        self.texts = self.duplicates = 0
        self.words: Counter[str] = Counter()
        self.held_out: Counter[str] = Counter()
        self.lengths: list[int] = []
        self.characters: Counter[str] = Counter()
        self.glued = self.entities = self.addresses = self.misread = self.denormal = self.symbols = 0
        self._digests: Counter[bytes] = Counter()  # the texts themselves may not fit in memory
        self._commonest = ("", 0)

    def add(self, text: str) -> None:
        """Count a text that is not empty."""
        tokens = text.split()
        (self.held_out if self.texts % HELD_OUT == HELD_OUT - 1 else self.words).update(tokens)
        self.texts += 1
        self.lengths.append(len(tokens))
        digest = text_digest(text)
        self._digests[digest] += 1
        self.duplicates += self._digests[digest] > 1
        if self._digests[digest] > self._commonest[1]:
            self._commonest = text, self._digests[digest]
        self.characters.update(text)
        self.glued += sum(GLUED.search(token) is not None for token in tokens)
        self.entities += ENTITY.search(text) is not None
        self.addresses += ADDRESS.search(text) is not None
        self.misread += MISREAD.search(text) is not None
        self.denormal += not unicodedata.is_normalized("NFC", text)

    @property
    def all_words(self) -> Counter[str]:
        return self.words + self.held_out

    @property
    def commonest(self) -> tuple[str, int]:
        """The text that occurs most often, and how often."""
        return self._commonest

    def common_texts(self, other: TextStatistics) -> int:
        """Texts (with their repetitions) that stand in *other*, too."""
        return sum(count for digest, count in self._digests.items() if digest in other._digests)

    def unknown_share(self, vocabulary_size: int) -> float:
        """Share of held-out words outside the most frequent *vocabulary_size* of the other texts; 0 without any."""
        total = self.held_out.total()
        kept = {word for word, _ in self.words.most_common(vocabulary_size)}
        return sum(count for word, count in self.held_out.items() if word not in kept) / total if total else 0.0

    def coverage(self, vocabulary_size: int) -> float:
        """Share of all words that the most frequent *vocabulary_size* make up."""
        words = self.all_words
        covered = sum(count for _, count in words.most_common(vocabulary_size))
        return covered / words.total() if words else 0.0

    def cut_share(self, max_tokens: int, per_word: float = 1.0) -> float:
        """Share of the texts with more tokens than that, at *per_word* tokens a word."""
        return sum(length * per_word > max_tokens for length in self.lengths) / max(1, len(self.lengths))

    def case_gain(self) -> tuple[int, int]:
        """(distinct words, distinct words in lower case)."""
        words = self.all_words
        return len(words), len({word.lower() for word in words})

    def scripts(self) -> dict[str, float]:
        """Share of the letters in each script, such as LATIN, ARABIC or CJK, largest first."""
        counts: Counter[str] = Counter()
        for character, count in self.characters.items():
            if character.isalpha():
                counts[_script(character)] += count
        total = counts.total()
        return {script: count / total for script, count in counts.most_common()}

    def unspaced(self) -> bool:
        """Whether most letters are of a script that writes no spaces between words."""
        return sum(share for script, share in self.scripts().items() if script in UNSPACED) > 0.5

    def language(self) -> str | None:
        """The language whose function words make up the largest share of the words; None where that is little."""
        words, total = Counter[str](), 0
        for word, count in self.all_words.items():
            words[word.lower().strip(".,!?;:\"'()")] += count
            total += count
        shares = {name: sum(words[word] for word in common) / max(1, total) for name, common in FUNCTION_WORDS.items()}
        best = max(shares, key=lambda name: shares[name])
        return best if shares[best] > 0.08 else None

    def emoji(self) -> int:
        """Pictographs among the characters."""
        return sum(count for character, count in self.characters.items() if unicodedata.category(character) == "So")


def text_digest(text: str) -> bytes:
    """A short hash of a text."""
    return hashlib.blake2b(text.encode(), digest_size=12).digest()


@lru_cache(maxsize=10_000)
def _script(character: str) -> str:
    return unicodedata.name(character, "UNKNOWN").split()[0]
