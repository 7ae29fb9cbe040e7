"""The tokenizer of a saved model, by the tokenizers library alone: transformers takes a second of CPU to load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from textebm.files import parse_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FILES = ("tokenizer.json", "tokenizer_config.json")


class SavedTokenizer:
    """Does what the package needs of a `PreTrainedTokenizerFast`, and has one made, when first asked, for all else.

    files: the bytes of `FILES`; name: where they are from. Raises FileError for what is not JSON, and what the
    tokenizers library raises for a file that it cannot read.
    """

    def __init__(self, files: Mapping[str, bytes], name: str) -> None:
        self._files, self.name_or_path = files, name
        parse_json(files[FILES[0]], FILES[0])
        self.backend_tokenizer = Tokenizer.from_str(files[FILES[0]].decode())
        self.init_kwargs: dict[str, Any] = parse_json(files[FILES[1]], FILES[1])
        special = list[str]()
        for role, token in self.init_kwargs.items():
            word = token.get("content") if isinstance(token, dict) else token
            if role.endswith("_token") and isinstance(word, str):
                setattr(self, role, word)
                setattr(self, f"{role}_id", self.backend_tokenizer.token_to_id(word))
                special.append(word)
        for role in ("extra_special_tokens", "additional_special_tokens"):
            more = self.init_kwargs.get(role)
            special += more if isinstance(more, list) else []
        self.all_special_ids = [self.backend_tokenizer.token_to_id(word) for word in dict.fromkeys(special)]

    def __len__(self) -> int:
        return int(self.backend_tokenizer.get_vocab_size(with_added_tokens=True))

    def get_vocab(self) -> dict[str, int]:
        return self.backend_tokenizer.get_vocab(with_added_tokens=True)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False, **_: Any) -> str:
        return str(self.backend_tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens))

    def convert_ids_to_tokens(self, ids: int | Sequence[int]) -> Any:
        if isinstance(ids, int):
            return self.backend_tokenizer.id_to_token(ids)
        return [self.backend_tokenizer.id_to_token(int(number)) for number in ids]

    def save_pretrained(self, directory: str | Path) -> None:
        """The files as they were."""
        Path(directory).mkdir(parents=True, exist_ok=True)
        for name in FILES:
            (Path(directory) / name).write_bytes(self._files[name])

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._transformers(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_files" not in vars(self):  # while it is copied
            raise AttributeError(name)
        return getattr(self._transformers, name)

    @cached_property
    def _transformers(self) -> PreTrainedTokenizerFast:
        from transformers import PreTrainedTokenizerFast

        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        tokenizer.name_or_path = self.name_or_path
        return tokenizer
