"""A language model of each family writes with a latent in its layers, as it does in transformers without one."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from textebm.errors import RecipeError
from textebm.networks.language_model import PretrainedDecoder
from textebm.networks.pretrained import Tuning, pretrained_parameters, resting_names

WORDS, BOS = 50, 3
SIZES: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}
FAMILIES = ["gpt2", "llama", "smollm", "qwen2", "qwen3", "gpt_neox"]


def network(family: str) -> PreTrainedModel:
    """A tiny random one; smollm is a llama with fewer keys than queries and one matrix for words in and out."""
    torch.manual_seed(0)
    made = {
        "gpt2": lambda: GPT2LMHeadModel(
            GPT2Config(vocab_size=WORDS, n_embd=16, n_layer=2, n_head=2, n_positions=64, initializer_range=0.2)
        ),
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, initializer_range=0.2)),
        "smollm": lambda: LlamaForCausalLM(
            LlamaConfig(**SIZES, num_key_value_heads=1, tie_word_embeddings=True, initializer_range=0.2)
        ),
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, num_key_value_heads=1, initializer_range=0.2)),
        "qwen3": lambda: Qwen3ForCausalLM(
            Qwen3Config(**SIZES, num_key_value_heads=1, head_dim=8, initializer_range=0.2)
        ),
        "gpt_neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES, initializer_range=0.2)),
    }
    return made[family]().eval()


def decoder_of(model: PreTrainedModel, tune: Tuning = "rest", latent: int = 8, **options: Any) -> PretrainedDecoder:
    return PretrainedDecoder(
        model.base_model, model.get_output_embeddings(), latent, bos=BOS, first=0, tune=tune, **options
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tune, segments", [("rest", 1), ("lora", 1), ("rest", 4)])
def test_teacher_forcing_and_step_by_step_writing_agree(family: str, tune: Tuning, segments: int) -> None:
    decoder = decoder_of(network(family), tune, segments=segments)
    for name, value in decoder.named_parameters():
        if "lora_B" in name or name.startswith("prefix"):
            nn.init.normal_(value, std=0.3)
    tokens, z = torch.randint(WORDS, (5, 9)), torch.randn(5, 8)
    tokens[:, 0] = BOS
    with torch.no_grad():
        at_once = decoder.logits(decoder.hidden(tokens, z))
        state = decoder.start(z)
        order = torch.tensor([3, 0, 4, 1, 2])  # sentences leave and change places while they are written
        for position in range(tokens.shape[1]):
            if position == 4:
                tokens, z, at_once, state = tokens[order], z[order], at_once[order], tuple(s[order] for s in state)
            logits, state = decoder.step(tokens[:, position], z, state)
            torch.testing.assert_close(logits, at_once[:, position], atol=2e-5, rtol=1e-4)
        other = decoder.logits(decoder.hidden(tokens, -z))
    assert (other - at_once).abs().max() > 1e-2, "the latent reaches the words"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tune", ["rest", "lora"])
def test_a_decoder_begins_as_its_language_model(family: str, tune: Tuning) -> None:
    """At z = 0 it is the model behind its own first token, and bos is read as that token."""
    model, tokens = network(family), torch.randint(BOS + 1, WORDS, (3, 9))
    tokens[:, 0] = BOS
    known = tokens.clone()
    known[:, 0] = 0
    with torch.no_grad():
        expected = model(input_ids=torch.cat([torch.zeros(3, 1, dtype=torch.long), known], dim=1)).logits[:, 1:]
        decoder = decoder_of(model, tune)
        logits = decoder.logits(decoder.hidden(tokens, torch.zeros(3, 8)))
        near = decoder.logits(decoder.hidden(tokens, torch.randn(3, 8)))
    torch.testing.assert_close(logits, expected, atol=2e-5, rtol=1e-4)
    assert (near - expected).abs().max() < 0.3 * expected.std(), "N(0, 0.02²) moves it little"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tune", ["rest", "lora", "full"])
def test_what_is_trained_and_what_rests(family: str, tune: Tuning) -> None:
    model = network(family)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    base = sum(each.numel() for each in model.parameters())
    decoder = decoder_of(model, tune)
    tokens, z = torch.randint(WORDS, (4, 7)), torch.randn(4, 8, requires_grad=True)
    hidden = decoder.hidden(tokens[:, :-1], z)
    decoder.nll(hidden.flatten(0, 1), tokens[:, 1:].flatten()).mean().backward()
    assert z.grad is not None and z.grad.abs().min() > 0
    for name, value in decoder.named_parameters():
        assert (value.grad is not None) == value.requires_grad, name
        if value.requires_grad and "lora_A" not in name:  # whose gradient is 0 while lora_B is
            assert value.grad is not None and value.grad.abs().max() > 0, name
    trained = {name for name, value in decoder.named_parameters() if value.requires_grad}
    own = {"output_bias", "prefix.initial", "prefix.map.weight", "prefix.map.bias"}
    adapters = {name for name in trained if ".lora_" in name}
    assert bool(adapters) is (tune == "lora")
    resting = resting_names(decoder)
    kept = sum(value.numel() for name, value in decoder.state_dict().items() if name in resting)
    if tune == "full":
        assert kept == 0 and len(pretrained_parameters(decoder)) == len(trained - own)
    else:
        assert trained == own | adapters and pretrained_parameters(decoder) == []
        assert kept == base + (WORDS * 16 if tied and decoder.head is not None else 0)
        assert decoder.state_dict().keys() - resting == trained


def test_nothing_drops_out_in_training() -> None:
    decoder = decoder_of(network("gpt2"), "lora").train()
    assert any(isinstance(each, nn.Dropout) and each.p > 0 for each in decoder.network.modules())
    tokens, z = torch.randint(WORDS, (3, 9)), torch.randn(3, 8)
    assert torch.equal(decoder.hidden(tokens, z), decoder.hidden(tokens, z))


def test_without_peft_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(RecipeError, match=r"lora needs the library peft; install it with pip install 'textebm\[pretr"):
        decoder_of(network("gpt2"), "lora")
    assert decoder_of(network("gpt2"), "rest")
