"""What a user has at hand, as the library takes it: texts, classes and latents, in their own order, or one error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from textebm.errors import TextEBMError
from textebm.text.tokenizer import TokenStore
from textebm.use.steering import SINGLE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def as_texts(texts: Iterable[str], what: str = "texts") -> list[str]:
    """A list, tuple or generator of texts, a column of pandas, numpy or datasets: as a list, in the order of its rows.

    Raises TextEBMError for one string, for a table, a set or a mapping (which have no texts or no order), and for a row
    that is missing, no text, or half a surrogate pair.
    """
    values = _values(texts, what)
    for row, text in enumerate(values):
        if isinstance(text, str):
            try:
                text.encode()
            except UnicodeEncodeError:
                raise TextEBMError(f"{what}: row {row} has half a surrogate pair, which is not Unicode text") from None
        elif text is None or (isinstance(text, float) and text != text):
            raise TextEBMError(f"{what}: row {row} is missing ({text}); leave it out first, as with dropna()")
        elif isinstance(text, bytes | bytearray):
            raise TextEBMError(f"{what}: row {row} is bytes; decode them first, as with .decode('utf-8')")
        else:
            raise TextEBMError(f"{what}: row {row} is {type(text).__name__}, not text")
    return values


def _values(values: Any, what: str) -> list[Any]:
    """The rows of a column, by place and not by index."""
    if isinstance(values, str):
        raise TextEBMError(f"{what}: expected a list of texts, got one string: write [{values[:40]!r}]")
    if isinstance(values, bytes | bytearray):
        raise TextEBMError(f"{what}: expected a list of texts, got bytes")
    if isinstance(values, Mapping) or hasattr(values, "columns") or hasattr(values, "column_names"):
        raise TextEBMError(f"{what}: expected a list of texts, got a table; choose a column, as in table['text']")
    if isinstance(values, AbstractSet):
        raise TextEBMError(f"{what}: a set has no order; give a list")
    if isinstance(values, np.ndarray | Tensor) and values.ndim != 1:
        raise TextEBMError(f"{what}: expected one dimension, got an array of shape {tuple(values.shape)}")
    if isinstance(values, np.ndarray | Tensor):
        return list(values.tolist())
    if not isinstance(values, Iterable):
        raise TextEBMError(f"{what}: expected a list, got {type(values).__name__}")
    return list(values)


def as_symbols(symbols: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The classes asked of each head: one value (`steering.classes_meant`), or a list of them in its rows' order."""
    if symbols is None:
        return None
    if not isinstance(symbols, Mapping):
        raise TextEBMError(
            f"symbols: expected a dict such as {{'sentiment': 'positive'}}, got {type(symbols).__name__}"
        )
    return {name: _classes(name, value) for name, value in symbols.items()}


def _classes(name: str, value: Any) -> Any:
    if isinstance(value, str):
        return str(value)
    if isinstance(value, SINGLE):
        return value
    if isinstance(value, Tensor | np.ndarray | np.generic) and value.ndim == 0:
        value = value.item()
    if isinstance(value, int):
        return value
    rows = _values(value, f"symbol {name!r}")
    plain: list[Any] = [row.item() if isinstance(row, Tensor | np.generic) and row.ndim == 0 else row for row in rows]
    for place, row in enumerate(plain):
        if not isinstance(row, SINGLE) or isinstance(row, bool):
            raise TextEBMError(f"symbol {name!r}: row {place} is {type(row).__name__}, no class name or number")
    return plain


def as_latents(latents: Tensor | Sequence[Any] | np.ndarray[Any, Any], what: str = "latents") -> Tensor:
    """Latents (n, d) of a tensor, an array or nested lists, as float32. Raises TextEBMError."""
    try:
        tensor = torch.as_tensor(np.asarray(latents) if not isinstance(latents, Tensor) else latents)
        tensor = tensor.to(torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TextEBMError(f"{what}: expected numbers of shape (n, d): {error}") from None
    if tensor.ndim != 2:
        raise TextEBMError(f"{what}: expected shape (n, d), got {tuple(tensor.shape)}")
    if not bool(torch.isfinite(tensor).all()):
        raise TextEBMError(f"{what}: they hold numbers that are not finite (NaN or infinity); nothing can be decoded")
    return tensor


def as_device(device: str | torch.device) -> torch.device:
    """The device. Raises TextEBMError for one that there is not here."""
    try:
        there = torch.device(device)
        torch.empty(0, device=there)
    except (RuntimeError, AssertionError) as error:  # unknown, out of reach, or PyTorch is built without it
        told = str(error).splitlines()[0]
        raise TextEBMError(f"device {str(device)!r} cannot be used here: {told}; cpu always can") from None
    return there


LOOKED_AT = 1000  # texts in which lost words are counted


def lost_in_reading(texts: Sequence[str], tokenizer: PreTrainedTokenizerFast, max_tokens: int) -> str:
    """What of the texts (the first thousand) their tokens do not say: words read as <unk>, ends that are cut; "" where
    nothing is lost."""
    some = texts[:LOOKED_AT]
    store = TokenStore.build(list(some), tokenizer, max_tokens + 1)
    written = sum(text.count(str(tokenizer.unk_token)) for text in some)
    unknown = int((store.tokens == tokenizer.unk_token_id).sum()) - written
    cut = int((store.lengths > max_tokens).sum())
    said = []
    if unknown > 0:
        said.append(f"{unknown:,} of {len(store.tokens):,} words are unknown to this model and are read as <unk>")
    if cut:
        said.append(f"{cut:,} of {len(some):,} texts have more than {max_tokens} tokens and lose their end")
    return "; ".join(said)
