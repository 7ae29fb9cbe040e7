"""A small language model as `decoder.pretrained` takes it, made of a corpus here: no published one can be had offline.

    PYTHONPATH=. python tests/benchmarks/pretrain.py yelp language-model --data ../shared/data --epochs 2

A GPT-2 of two layers over the corpus's words, in a directory as transformers saves it. With --epochs 0 it is untrained:
what to compare with. What it was worth: recipes/history.md, "Pretrained networks".
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from textebm.model.build import build_corpus, build_tokenizer
from textebm.recipe.read import load_recipe
from textebm.text.batches import BatchOrder, collate, special_ids
from textebm.text.tokenizer import encode_corpus


def loss_of(model: GPT2LMHeadModel, batch: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Nats a word, eos among them. batch and mask (B, T)"""
    logits = model(input_ids=batch[:, :-1]).logits
    nll = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="none")
    return (nll * mask[:, 1:].flatten()).sum() / mask[:, 1:].sum()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", choices=["ptb", "dailydialog", "yelp"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    recipe = load_recipe(options.corpus)
    corpus = build_corpus(recipe.data, data_dir=options.data)
    tokenizer = build_tokenizer(recipe, corpus["train"]["text"])
    ids, longest = special_ids(tokenizer), recipe.data.max_tokens
    stores = encode_corpus(corpus, tokenizer, longest)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer),
            n_positions=2 * longest,
            n_embd=options.size,
            n_layer=2,
            n_head=4,
            bos_token_id=ids["bos"],
            eos_token_id=ids["eos"],
        )
    )
    order = BatchOrder(stores["train"].lengths, 128)
    steps = options.epochs * math.ceil(len(stores["train"]) / 128)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, max(2, steps))
    began, step = time.monotonic(), 0
    for epoch in range(options.epochs):
        for rows in order.batches(epoch):
            batch = collate(stores["train"], rows, {}, **ids)
            loss = loss_of(model, batch.tokens, batch.mask)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            rate.step()
            step += 1
            if step % 100 == 0:
                print(
                    f"step {step} of {steps}, {loss.item():.3f} nats a word, {time.monotonic() - began:.0f} s",
                    flush=True,
                )
    held = collate(stores["validation"], range(min(1000, len(stores["validation"]))), {}, **ids)
    with torch.no_grad():
        print(f"validation: {loss_of(model.eval(), held.tokens, held.mask).item():.3f} nats a word")
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)


if __name__ == "__main__":
    main()
