"""Tiny random networks, made on the spot and the same everywhere: smoke recipes stand on them, not on published ones.

`made:llama` writes and `made:bert` reads, both in bytes. They are made once, under the cache.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from textebm.errors import RecipeError, did_you_mean
from textebm.text.cache import cache_root

PREFIX = "made:"
KINDS = ("llama", "bert")
VERSION = 1  # of what is made; another one lies elsewhere
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 1024,
}


def made_directory(name: str) -> Path:
    """The directory of the network `made:KIND`. Raises RecipeError for another kind."""
    kind = name.removeprefix(PREFIX)
    if kind not in KINDS:
        raise RecipeError(f"{name}: no such network is made here{did_you_mean(kind, KINDS)}")
    place = cache_root() / f"made-{kind}-{VERSION}"
    if place.is_dir():
        return place
    cache_root().mkdir(parents=True, exist_ok=True)
    building = tempfile.mkdtemp(prefix=f".{kind}-", dir=cache_root())
    try:
        _make(kind, building)
        try:
            os.rename(building, place)
        except OSError:
            if not place.is_dir():  # otherwise another process was first, with the same
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return place


def _make(kind: str, folder: str) -> None:
    from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    letters = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({each: number for number, each in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    roles = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "[CLS]", "eos_token": "[SEP]"}
    if kind == "bert":
        roles |= {"cls_token": "[CLS]", "sep_token": "[SEP]"}
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    sizes: dict[str, Any] = {**SIZES, "vocab_size": len(letters), "pad_token_id": 0}
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        if kind == "bert":
            BertModel(BertConfig(**sizes)).save_pretrained(folder)
        else:
            tied: dict[str, Any] = {"tie_word_embeddings": True, "bos_token_id": 2, "eos_token_id": 3}
            LlamaForCausalLM(LlamaConfig(**sizes, **tied)).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles).save_pretrained(folder)
