"""Batches of token ids: their order, their padding, and a thread that prepares them ahead."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypedDict, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from textebm.text.shuffle import Shuffle
from textebm.text.tokenizer import TokenStore

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

T = TypeVar("T")
Rows = NDArray[np.int64]

POOL = 50  # batches that are sorted by length together: little padding, and batches still differ from epoch to epoch


@dataclass(frozen=True)
class TokenBatch:
    """Sentences of one batch.

    tokens (B,T) int64, from bos to eos, padded on the right; lengths (B,) counts bos and eos; labels: (B,) int64
    each, -1 where missing; index (B,) row numbers in the corpus; context: the turns before, row by row.
    """

    tokens: Tensor
    lengths: Tensor
    labels: dict[str, Tensor]
    index: Tensor
    context: TokenBatch | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def mask(self) -> Tensor:
        """(B,T) bool, true = a real token (bos and eos too)."""
        return torch.arange(self.tokens.shape[1], device=self.tokens.device) < self.lengths[:, None]

    @property
    def places(self) -> Tensor:
        """(N,) int64, where the words to be predicted, eos among them, stand in ``tokens[:, 1:].flatten()``."""
        return self.mask[:, 1:].flatten().nonzero()[:, 0]

    def word_counts(self, vocabulary_size: int) -> Tensor:
        """(B,V) float, how often each word is to be predicted, <eos> among them."""
        counts = torch.zeros(len(self), vocabulary_size, device=self.tokens.device)
        return counts.scatter_add_(1, self.tokens[:, 1:], self.mask[:, 1:].float())

    def rows(self, chosen: slice) -> TokenBatch:
        """Some of the sentences."""
        labels = {name: values[chosen] for name, values in self.labels.items()}
        context = None if self.context is None else self.context.rows(chosen)
        return TokenBatch(self.tokens[chosen], self.lengths[chosen], labels, self.index[chosen], context)

    def to(self, device: torch.device | str) -> TokenBatch:
        """The same batch on *device*."""
        labels = {name: values.to(device) for name, values in self.labels.items()}
        context = None if self.context is None else self.context.to(device)
        return TokenBatch(self.tokens.to(device), self.lengths.to(device), labels, self.index.to(device), context)


def collate(
    store: TokenStore,
    indices: ArrayLike,
    labels: Mapping[str, ArrayLike],
    *,
    pad: int,
    bos: int,
    eos: int,
    contexts: TokenStore | None = None,
) -> TokenBatch:
    """The rows *indices* of *store*, with bos and eos. labels: one array over all rows of the corpus per name.
    contexts: the turns before each row."""
    rows = np.asarray(indices, dtype=np.int64)
    starts = store.offsets[rows]
    lengths = store.offsets[rows + 1] - starts
    width = int(lengths.max(initial=0)) + 2
    tokens = np.full((len(rows), width), pad, dtype=np.int64)
    tokens[:, 0] = bos
    # Position p of row b is token p - 1 of its sentence; gather them all at once.
    column = np.arange(width) - 1
    inside = (column >= 0) & (column < lengths[:, None])
    tokens[inside] = store.tokens[(starts[:, None] + column)[inside]]
    tokens[np.arange(len(rows)), lengths + 1] = eos
    return TokenBatch(
        tokens=torch.from_numpy(tokens),
        lengths=torch.from_numpy(lengths + 2),
        labels={name: torch.from_numpy(np.asarray(values)[rows].astype(np.int64)) for name, values in labels.items()},
        index=torch.from_numpy(rows.copy()),
        context=None if contexts is None else collate(contexts, rows, {}, pad=pad, bos=bos, eos=eos),
    )


def collate_texts(texts: Sequence[str], tokenizer: PreTrainedTokenizerFast, max_tokens: int) -> TokenBatch:
    """One batch of new sentences, in their order, without labels."""
    store = TokenStore.build(list(texts), tokenizer, max_tokens)
    return collate(store, np.arange(len(store)), {}, **special_ids(tokenizer))


class SpecialIds(TypedDict):
    pad: int
    bos: int
    eos: int


def special_ids(tokenizer: PreTrainedTokenizerFast) -> SpecialIds:
    """The pad, bos and eos that `collate` needs."""
    return {"pad": tokenizer.pad_token_id, "bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id}


@dataclass(frozen=True)
class BatchOrder:
    """Which rows make each batch: of similar length, in an order drawn from (seed, epoch).

    lengths (n,): tokens of each row. The order is a pure function that can be entered anywhere, so that resuming in
    mid-epoch is skipping batches; no more than a pool of it is in memory.
    """

    lengths: NDArray[np.integer]
    batch_size: int
    seed: int = 0

    def batches(self, epoch: int, first: int = 0, last: int | None = None) -> Iterator[Rows]:
        """The batches number *first* to *last* − 1 of an epoch, in which each row comes once. Of a random order of the
        rows, each pool of `POOL` batches is sorted by length, and its batches are shuffled."""
        n, pool = len(self.lengths), POOL * self.batch_size
        last = math.ceil(n / self.batch_size) if last is None else last
        shuffle = Shuffle(n, [self.seed, epoch])
        for number in range(first // POOL, math.ceil(last / POOL)):
            rows = shuffle[np.arange(number * pool, min((number + 1) * pool, n))]
            rows = rows[np.argsort(self.lengths[rows], kind="stable")]
            batches = np.split(rows, range(self.batch_size, len(rows), self.batch_size))
            order = np.random.default_rng([self.seed, epoch, number]).permutation(len(batches))
            begin = number * POOL
            yield from (batches[place] for place in order[max(first - begin, 0) : last - begin])


def padding_share(lengths: NDArray[np.integer], batches: Iterable[NDArray[np.integer]]) -> float:
    """Share of the batches' (B,T) positions that are padding, given each row's length."""
    real = total = 0
    for rows in batches:
        real += int(lengths[rows].sum())
        total += int(lengths[rows].max(initial=0)) * len(rows)
    return 1 - real / total if total else 0.0


def prefetch(items: Iterable[T], ahead: int = 2) -> Iterator[T]:
    """*items*, computed in a background thread at most *ahead* in advance, in their order.

    An error in *items* is raised here; closing or dropping the iterator ends the thread.
    """
    ready: queue.Queue[tuple[bool, T | BaseException | None]] = queue.Queue(maxsize=max(1, ahead))
    stop = threading.Event()

    def put(more: bool, item: T | BaseException | None) -> bool:
        while not stop.is_set():
            try:
                ready.put((more, item), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(True, item):
                    return
            put(False, None)
        except BaseException as error:  # handed to the consumer, whatever it is
            put(False, error)

    thread = threading.Thread(target=work, name="textebm-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            more, item = ready.get()
            if more:
                yield item  # type: ignore[misc]
            elif item is not None:
                raise item  # type: ignore[misc]
            else:
                return
    finally:
        stop.set()
        thread.join()


class Shard(NamedTuple):
    """Rows of a batch that are computed together. share: how many of the batch's rows they are; where that is 0, the
    row stands in for none, so that every process computes something."""

    rows: Rows
    share: float = 1.0


def shards(rows: Rows, turns: int = 1, processes: int = 1, rank: int = 0) -> list[Shard]:
    """What process *rank* computes of a batch, one shard a turn; turns without any row are left out. Rows are dealt out
    like cards, so that shards are of equal size and padding."""
    own = [rows[turn * processes + rank :: turns * processes] for turn in range(turns) if turn * processes < len(rows)]
    return [Shard(each if len(each) else rows[:1], len(each) / len(rows)) for each in own]


def load_batches(
    store: TokenStore,
    order: Iterable[Sequence[Shard]],
    labels: Mapping[str, ArrayLike],
    tokenizer: PreTrainedTokenizerFast,
    ahead: int = 2,
    contexts: TokenStore | None = None,
) -> Iterator[list[tuple[TokenBatch, float]]]:
    """The shards of each step of *order* with their shares, collated in a background thread."""
    ids = special_ids(tokenizer)

    def collated(step: Sequence[Shard]) -> list[tuple[TokenBatch, float]]:
        for each in (store, contexts):
            if each is not None:
                each.release()  # a file's pages that were read stay mapped else, in the end all of them
        return [(collate(store, rows, labels, **ids, contexts=contexts), share) for rows, share in step]

    return prefetch(map(collated, order), ahead)
