"""Pretrained networks: small ones of several kinds, made here, behave in our places as they do in transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import recipe, sentences, trainer, untrained
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import (
    BertConfig,
    BertLMHeadModel,
    BertModel,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5Model,
)

import textebm
from textebm.errors import RecipeError
from textebm.model.build import build_model, build_tokenizer
from textebm.model.files import save
from textebm.networks.pretrained import (
    ContextualEmbedding,
    PretrainedDecoder,
    load_encoder,
    load_language_model,
    pretrained_parameters,
)
from textebm.recipe.read import load_recipe
from textebm.runs import train as runs
from textebm.text.batches import collate_texts

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directories with a network and its tokenizer: gpt (tied), llama (rotary, an output layer of its own), bert."""
    folder = tmp_path_factory.mktemp("zoo")
    texts = list(sentences(200))
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    pieces.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=300, special_tokens=["<|end|>"], initial_alphabet=alphabet)
    )
    end = {"bos_token": "<|end|>", "eos_token": "<|end|>", "unk_token": "<|end|>"}  # as GPT-2 has it
    writer = PreTrainedTokenizerFast(tokenizer_object=pieces, **end)
    words = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=200, special_tokens=special))
    reader = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        gpt = GPT2Config(
            vocab_size=len(writer), n_embd=16, n_layer=2, n_head=2, n_positions=64, bos_token_id=0, eos_token_id=0
        )
        small = {**SIZES, "vocab_size": len(writer), "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
        llama = LlamaConfig(**small, max_position_embeddings=64, tie_word_embeddings=False)
        gemma = Gemma2Config(**small, head_dim=8, num_key_value_heads=1, final_logit_softcapping=0.05)
        bert = BertConfig(**SIZES, vocab_size=len(reader), max_position_embeddings=64)
        t5 = T5Config(vocab_size=len(writer), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
        mamba = MambaConfig(vocab_size=len(writer), hidden_size=16, num_hidden_layers=1, state_size=4)
        made = {
            "gpt": GPT2LMHeadModel(gpt),
            "llama": LlamaForCausalLM(llama),
            "bert": BertModel(bert),
            "gemma": Gemma2ForCausalLM(gemma),
            "bert-lm": BertLMHeadModel(bert),
            "t5": T5Model(t5),
            "mamba": MambaForCausalLM(mamba),
        }
        for name, network in made.items():
            network.save_pretrained(folder / name)
            (reader if name.startswith("bert") else writer).save_pretrained(folder / name)
    return folder


def options(zoo: Path, name: str, *sides: str) -> list[str]:
    place = str(zoo / name)
    return ["tokenizer.kind=pretrained", f"tokenizer.name={place}", *(f"{side}.pretrained={place}" for side in sides)]


def parts_of(model: textebm.TextEBM) -> tuple[ContextualEmbedding, PretrainedDecoder]:
    encoder, decoder = model.encoder.embedding, model.decoder
    assert isinstance(encoder, ContextualEmbedding) and isinstance(decoder, PretrainedDecoder)
    return encoder, decoder


CAUSAL = [("gpt", ()), ("llama", ()), ("gpt", ("latent.segments=2",)), ("llama", ("latent.segments=4",))]


@pytest.mark.parametrize("name, more", CAUSAL)
def test_a_decoder_writes_step_by_step_what_it_reads_at_once(zoo: Path, name: str, more: tuple[str, ...]) -> None:
    model = untrained(*options(zoo, name, "encoder", "decoder"), *more)
    decoder = parts_of(model)[1]
    nn.init.normal_(decoder.every_step.weight)
    tokens = collate_texts(sentences(5), model.tokenizer, 12).tokens[:, :-1]
    z = torch.randn(5, model.prior.dim)
    with torch.no_grad():
        at_once = decoder.logits(decoder.hidden(tokens, z))
        state = decoder.start(z)
        order = torch.tensor([3, 0, 4, 1, 2])  # sentences leave and change places while they are written
        for position in range(tokens.shape[1]):
            if position == 4:
                tokens, z, at_once, state = tokens[order], z[order], at_once[order], tuple(s[order] for s in state)
            logits, state = decoder.step(tokens[:, position], z, state)
            assert torch.allclose(logits, at_once[:, position], atol=1e-5)
        flat = decoder.nll(decoder.hidden(tokens, z).flatten(0, 1), tokens.flatten())
        chosen = at_once.log_softmax(-1).gather(-1, tokens[..., None]).flatten()
    assert torch.allclose(flat, -chosen, atol=1e-5)


@pytest.mark.parametrize("name", ["gpt", "llama"])
def test_a_decoder_begins_as_its_language_model(zoo: Path, name: str) -> None:
    """Its logits are those that transformers gives for the same vectors, whatever the latent adds to them: nothing."""
    decoder = parts_of(untrained(*options(zoo, name, "encoder", "decoder")))[1]
    kind = {"gpt": GPT2LMHeadModel, "llama": LlamaForCausalLM}[name]
    whole = kind.from_pretrained(zoo / name).eval()
    before = whole.get_input_embeddings().num_embeddings
    tokens, z = torch.randint(before, (3, 9)), torch.randn(3, 8)
    with torch.no_grad():
        words = torch.cat([decoder.scale * decoder.prefix(z), whole.get_input_embeddings()(tokens)], dim=1)
        expected = whole(inputs_embeds=words).logits[:, 1:]
        found = decoder.logits(decoder.hidden(tokens, z))
    assert torch.allclose(found[..., :before], expected, atol=1e-5)
    assert decoder.scale.item() == pytest.approx(decoder.embedding.weight.std().item())
    added = decoder.embedding.weight[before:]
    assert len(added) == 3, "bos, pad and unk, which GPT-2's one special token is not"
    assert torch.allclose(added, decoder.embedding.weight[:before].mean(0).expand_as(added), atol=1e-6)


def test_an_encoder_reads_the_last_hidden_states(zoo: Path) -> None:
    model = untrained(*options(zoo, "bert", "encoder"))
    embedding = model.encoder.embedding
    assert isinstance(embedding, ContextualEmbedding)
    assert len(model.tokenizer) == 200 and model.tokenizer.bos_token == "[CLS]" and model.tokenizer.eos_token == "[SEP]"
    batch = collate_texts(sentences(6), model.tokenizer, 20)
    assert len(set(batch.lengths.tolist())) > 1
    bert = BertModel.from_pretrained(zoo / "bert").eval()
    with torch.no_grad():
        for row, length in zip(batch.tokens, batch.lengths.tolist(), strict=True):  # each alone, without padding
            expected = embedding.project(bert(row[None, :length]).last_hidden_state[0])
            found = embedding(batch.tokens)[batch.index[(batch.tokens == row).all(1)]][0, :length]
            assert torch.allclose(found, expected, atol=1e-5)
        together = model.encoder(batch.tokens, batch.lengths)
        shortest = int(batch.lengths.argmin())
        alone = collate_texts([sentences(6)[shortest]], model.tokenizer, 20)
        mean = model.encoder(alone.tokens, alone.lengths).mean[0]
    assert torch.allclose(together.mean[shortest], mean, atol=1e-5), "padding is inert"


@pytest.mark.parametrize("tune", [True, False])
def test_what_is_tuned_has_a_rate_of_its_own_and_the_rest_rests(zoo: Path, tune: bool) -> None:
    told = [f"encoder.tune={tune}".lower(), f"decoder.tune={tune}".lower(), "training.pretrained_learning_rate=1e-4"]
    worker = trainer(
        "training.stages=[{name: autoencoder, steps: 3}, {name: joint, steps: 1}]",
        *options(zoo, "llama", "encoder", "decoder"),
        *told,
    )
    encoder, decoder = parts_of(worker.model)
    rates = [group["lr"] for group in worker.optimizer.param_groups]
    assert rates[2:] == ([1e-4] if tune else [])
    counted = [id(each) for group in worker.optimizer.param_groups for each in group["params"]]
    wanted = [id(each) for each in worker.model.parameters() if each.requires_grad]
    assert sorted(counted) == sorted(wanted) and len(set(counted)) == len(counted)
    assert bool(pretrained_parameters(worker.model)) is tune and (decoder.head is not None)
    before = {name: value.clone() for name, value in worker.model.state_dict().items()}
    for _ in worker.steps():
        assert not encoder.network.training and not decoder.network.training
    after = worker.model.state_dict()
    theirs = [name for name in before if ".network." in name or name == "decoder.head.weight"]
    assert len(theirs) > 20
    moved = [name for name in theirs if not torch.equal(before[name], after[name])]
    assert (len(moved) > 20) if tune else not moved
    for name in ("encoder.embedding.project.weight", "decoder.prefix.weight", "decoder.every_step.weight"):
        assert not torch.equal(before[name], after[name]), name


def test_nothing_of_them_drops_out_in_training(zoo: Path) -> None:
    model = untrained(*options(zoo, "gpt", "encoder", "decoder")).network.train()
    encoder, decoder = parts_of(model)
    assert any(isinstance(each, nn.Dropout) and each.p > 0 for each in decoder.network.modules())
    tokens, z = torch.randint(300, (3, 9)), torch.randn(3, 8)
    assert torch.equal(decoder.hidden(tokens, z), decoder.hidden(tokens, z))
    assert torch.equal(encoder(tokens), encoder(tokens))


def test_a_model_needs_its_sources_only_to_begin(zoo: Path, tmp_path: Path) -> None:
    """Trained and saved where the pretrained directory is, resumed there, and read where it is gone."""
    source = tmp_path / "source"
    shutil.copytree(zoo / "llama", source)
    stages = "training.stages=[{name: autoencoder, steps: 2}, {name: prior, steps: 2}]"
    told = [*options(tmp_path, "source", "encoder", "decoder"), "encoder.tune=false", stages]
    worker, other = trainer(*told), trainer(*told)
    for _ in worker.steps():
        pass
    other.restore(*worker.state())
    save(worker.model, tmp_path / "saved")
    shutil.rmtree(source)
    read = textebm.TextEBM.from_pretrained(tmp_path / "saved")
    trained = textebm.TextEBM(worker.model.eval())
    for network in (other.model, read.network):
        found = network.state_dict()
        assert found.keys() == worker.model.state_dict().keys()
        assert all(torch.equal(value, found[name]) for name, value in worker.model.state_dict().items())
    for decoding in ("greedy", "beam", "sample"):
        asked: dict[str, Any] = {"symbols": {"code": 1}, "seed": 3, "decoding": decoding}
        assert read.generate(4, **asked) == trained.generate(4, **asked)
    assert read.encode(["the food was cold ."]).mean.equal(trained.encode(["the food was cold ."]).mean)
    kept = json.loads((tmp_path / "saved" / "config.json").read_text())["pretrained"]
    assert kept.keys() == {"encoder", "decoder"} and str(tmp_path) not in json.dumps(kept)
    assert "Its decoder was built on `source`." in (tmp_path / "saved" / "README.md").read_text()
    with pytest.raises(RecipeError, match="tokenizer.name: .* cannot be loaded"):
        runs.train(recipe(*told), out=tmp_path / "other", quiet=True)


def test_a_dialogue_is_read_and_answered_by_them(zoo: Path) -> None:
    told = [*options(zoo, "gpt", "encoder", "decoder"), "data.context_turns=2", "data.context_tokens=20", "heads=[]"]
    chosen = recipe("data.corpus=dailydialog", *told)
    torch.manual_seed(0)
    model = textebm.TextEBM(build_model(chosen, build_tokenizer(chosen, []), {}).eval())
    texts, histories = sentences(2), [["hello .", "how are you ?"], ["the food was cold ."]]
    read = [model.encode(list(texts), contexts=each).mean for each in (histories, histories[::-1])]
    assert not torch.allclose(*read, atol=1e-4)
    terms = [model.elbo_terms(list(texts), contexts=each).reconstruction_nll for each in (histories, histories[::-1])]
    assert not torch.equal(*terms)
    assert [len(each) for each in model.respond(histories, n=2, seed=0)] == [2, 2]


def test_an_encoder_may_read_in_the_words_of_a_pretrained_decoder(zoo: Path) -> None:
    told = [*options(zoo, "llama", "decoder"), "encoder.tie_embedding=true"]
    with pytest.raises(RecipeError, match="encoder.embedding_size: must be 16, the width of the words"):
        untrained(*told, "encoder.embedding_size=10")
    worker = trainer(*told, "encoder.embedding_size=16", "training.stages=[{name: autoencoder, steps: 2}]")
    decoder = worker.model.decoder
    assert isinstance(decoder, PretrainedDecoder) and worker.model.encoder.embedding is decoder.embedding
    assert [group["lr"] for group in worker.optimizer.param_groups][2:] == [5e-5]
    before = decoder.embedding.weight.clone()
    assert len(list(worker.steps())) == 2 and not torch.equal(before, decoder.embedding.weight)


def test_special_tokens_are_never_written(zoo: Path) -> None:
    model = untrained(*options(zoo, "bert", "encoder"))
    with torch.no_grad():
        model.decoder.output_bias[model.tokenizer.mask_token_id] = 50.0
    assert not any("[MASK]" in text for text in model.generate(5, seed=0))


@pytest.mark.parametrize(
    "name, problem",
    [
        ("nowhere", "cannot be loaded"),
        ("t5", "cannot be loaded: ValueError: Unrecognized configuration class"),
        ("bert", "comes without cls.predictions.bias and 5 more weights"),
        ("bert-lm", "makes more than one product of its last states"),
        ("mamba", "cannot write word by word; take a Transformer"),
        ("gemma", "makes more than one product of its last states"),
    ],
)
def test_what_cannot_write_is_refused(zoo: Path, name: str, problem: str) -> None:
    with pytest.raises(RecipeError, match=f"decoder.pretrained: .*{problem}") as found:
        load_language_model(str(zoo / name), vocabulary_size=300, positions=20, option="decoder.pretrained")
    assert len(str(found.value)) < 500 + len(str(zoo))


def test_what_cannot_read_is_refused(zoo: Path) -> None:
    with pytest.raises(RecipeError, match="encoder.pretrained: t5 is an encoder with a decoder"):
        load_encoder(str(zoo / "t5"), vocabulary_size=300, positions=20, option="encoder.pretrained")


def test_no_file_that_can_run_code_is_read(zoo: Path, tmp_path: Path) -> None:
    shutil.copytree(zoo / "bert", tmp_path / "bert")
    weights = BertModel.from_pretrained(zoo / "bert").state_dict()
    (tmp_path / "bert" / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "bert" / "pytorch_model.bin")
    with pytest.raises(RecipeError, match="encoder.pretrained: .* cannot be loaded"):
        load_encoder(str(tmp_path / "bert"), vocabulary_size=200, positions=20, option="encoder.pretrained")


def test_a_sentence_must_fit(zoo: Path) -> None:
    with pytest.raises(RecipeError, match="encoder.pretrained: reads at most 64 tokens, here up to 72"):
        untrained(*options(zoo, "bert", "encoder"), "data.max_tokens=70")


@pytest.mark.parametrize(
    "told, problem",
    [
        (["encoder.pretrained=HERE"], "encoder.pretrained: reads its own tokens; set tokenizer.kind=pretrained"),
        (["tokenizer.kind=pretrained", "tokenizer.name=other", "decoder.pretrained=HERE"], "decoder.pretrained: reads"),
        (["encoder.tune=false"], "encoder.tune: has no effect without encoder.pretrained"),
        (
            ["TOKENS", "encoder.pretrained=HERE", "encoder.tie_embedding=true"],
            "encoder.tie_embedding: the encoder reads",
        ),
        (["TOKENS", "encoder.pretrained=HERE", "inference.kind=short_run"], "encoder.pretrained: inference.kind"),
        (["TOKENS", "decoder.pretrained=HERE", "decoder.skip=true"], "decoder.skip: needs a recurrent decoder"),
    ],
)
def test_options_that_do_not_go_together(told: list[str], problem: str, zoo: Path) -> None:
    place = str(zoo / "gpt")
    tokens = ["tokenizer.kind=pretrained", f"tokenizer.name={place}"]
    given = [each.replace("HERE", place) for one in told for each in (tokens if one == "TOKENS" else [one])]
    with pytest.raises(RecipeError, match=problem):
        load_recipe("quickstart-smoke", given)


def test_a_pretrained_tokenizer_keeps_its_ids(zoo: Path) -> None:
    chosen = load_recipe("quickstart-smoke", options(zoo, "gpt"))
    tokenizer = build_tokenizer(chosen, [])
    own = PreTrainedTokenizerFast.from_pretrained(zoo / "gpt")
    assert {**tokenizer.get_vocab(), **own.get_vocab()} == tokenizer.get_vocab()
    assert tokenizer.eos_token == "<|end|>" and tokenizer.bos_token == "<bos>"
