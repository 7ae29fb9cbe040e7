"""Pretrained networks: small ones of several kinds, made here, behave in our places as they do in transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import recipe, sentences, trainer, untrained
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoTokenizer,
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
from textebm.errors import CheckpointError, RecipeError
from textebm.model.build import build_model, build_tokenizer
from textebm.model.files import save
from textebm.networks.language_model import PretrainedDecoder
from textebm.networks.pretrained import load_encoder, load_language_model, pretrained_parameters
from textebm.networks.reader import ContextualEmbedding, Reader, WidthMatched
from textebm.recipe.read import load_recipe
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


def parts_of(model: textebm.TextEBM) -> tuple[Reader, PretrainedDecoder]:
    encoder, decoder = model.encoder.embedding, model.decoder
    assert isinstance(encoder, ContextualEmbedding) and isinstance(decoder, PretrainedDecoder)
    return encoder.reader, decoder


def test_recipes_of_earlier_versions_said_it_with_true_and_false() -> None:
    assert recipe("encoder.tune=true").encoder.tune == recipe("encoder.tune=false").encoder.tune == "lora"
    told = ["tokenizer.kind=pretrained", "decoder.pretrained=x"]
    assert [recipe(*told, f"decoder.tune={old}").decoder.tune for old in ("true", "false")] == ["full", "rest"]


def test_a_tokenizer_that_spoils_text_says_so(zoo: Path, caplog: pytest.LogCaptureFixture) -> None:
    chosen = load_recipe("quickstart-smoke", options(zoo, "bert"))
    build_tokenizer(chosen, ["they do n't mind .", "it 's in the park ."] * 5)
    assert (
        "gives 10 of 10 training sentences back otherwise" in caplog.text and "choose another tokenizer" in caplog.text
    )


def test_an_encoder_reads_the_last_hidden_states(zoo: Path) -> None:
    model = untrained(*options(zoo, "bert", "encoder"), "encoder.tune=rest")
    embedding = model.encoder.embedding
    assert isinstance(embedding, ContextualEmbedding) and embedding.reader.retokenize is None
    assert len(model.tokenizer) == 200 and model.tokenizer.bos_token == "[CLS]" and model.tokenizer.eos_token == "[SEP]"
    batch = collate_texts(sentences(6), model.tokenizer, 20)
    bert = BertModel.from_pretrained(zoo / "bert").eval()
    with torch.no_grad():
        words, lengths = embedding(batch.tokens, batch.lengths)
        assert lengths.equal(batch.lengths) and len(set(lengths.tolist())) > 1
        for row, length, read in zip(batch.tokens, lengths.tolist(), words, strict=True):  # each alone, unpadded
            expected = embedding.project(bert(row[None, :length]).last_hidden_state[0])
            assert torch.allclose(read[:length], expected, atol=1e-5)


@pytest.mark.parametrize("tune", ["rest", "lora", "full"])
def test_what_is_tuned_in_full_has_a_rate_of_its_own_and_the_rest_rests(zoo: Path, tune: str) -> None:
    told = [f"encoder.tune={tune}", f"decoder.tune={tune}", "training.pretrained_learning_rate=1e-4"]
    worker = trainer(
        "training.stages=[{name: autoencoder, steps: 3}, {name: joint, steps: 1}]",
        *options(zoo, "llama", "encoder", "decoder"),
        *told,
    )
    reader, decoder = parts_of(worker.model)
    rates = [group["lr"] for group in worker.optimizer.param_groups]
    assert rates[2:] == {"rest": [], "lora": [1e-3], "full": [1e-4]}[tune]
    counted = [id(each) for group in worker.optimizer.param_groups for each in group["params"]]
    wanted = [id(each) for each in worker.model.parameters() if each.requires_grad]
    assert sorted(counted) == sorted(wanted) and len(set(counted)) == len(counted)
    assert bool(pretrained_parameters(worker.model)) is (tune == "full") and (decoder.head is not None)
    before = {name: value.clone() for name, value in worker.model.state_dict().items()}
    for _ in worker.steps():
        assert not reader.network.training and not decoder.network.training
    after = worker.model.state_dict()
    theirs = [name for name in before if ".network." in name or name == "decoder.head.weight"]
    moved = {name for name in theirs if not torch.equal(before[name], after[name])}
    adapters = {name for name in theirs if ".lora_" in name}
    assert bool(adapters) is (tune == "lora")
    assert moved == adapters if tune != "full" else len(moved) > 20
    for name in ("encoder.embedding.project.weight", "decoder.prefix.map.weight", "decoder.prefix.initial"):
        assert not torch.equal(before[name], after[name]), name


STAGES = "training.stages=[{name: autoencoder, steps: 2}, {name: prior, steps: 2}]"


@pytest.mark.parametrize("told, bases", [(["save_full"], set()), (["lora"], {"decoder", "encoder"}), (["full"], set())])
def test_a_model_holds_its_bases_or_names_them(zoo: Path, tmp_path: Path, told: list[str], bases: set[str]) -> None:
    """Trained and saved where the pretrained directories are, resumed there, and read where they are gone, or not."""
    for name in ("llama", "bert"):
        shutil.copytree(zoo / name, tmp_path / name)
    tune = {"save_full": ["encoder.tune=rest", "training.save_full=true"], "lora": [], "full": ["encoder.tune=full"]}
    chosen = [*options(tmp_path, "llama", "decoder"), STAGES, *tune[told[0]]]
    chosen += [f"encoder.pretrained={tmp_path / 'bert'}", "encoder.pooling=mean", "encoder.layer=[1,-1]"]
    chosen += ["decoder.tune=full"] * (told[0] == "full")
    worker, other = trainer(*chosen), trainer(*chosen)
    for _ in worker.steps():
        pass
    other.restore(*worker.state())
    saved = tmp_path / "saved"
    save(worker.model, saved)
    kept = json.loads((saved / "config.json").read_text())["pretrained"]
    assert {side for side, each in kept.items() if "files" in each} == bases and str(tmp_path) not in json.dumps(kept)
    held = load_file(saved / "model.safetensors")
    assert any("base_layer" in name or "embed_tokens" in name for name in held) is not bool(bases)
    assert any("lora" in name for name in held) is (told[0] != "full")
    trained = textebm.TextEBM(worker.model.eval())
    if bases:
        read = textebm.TextEBM.from_pretrained(saved)
        moved = shutil.move(tmp_path / "llama", saved / "llama")
        assert textebm.TextEBM.from_pretrained(saved).generate(2, seed=0) == read.generate(2, seed=0), (
            "beside the model's files"
        )
        shutil.move(moved, tmp_path / "gone")
        with pytest.raises(CheckpointError, match="decoder.pretrained: there is no directory") as caught:
            textebm.TextEBM.from_pretrained(saved)
        assert "\n" not in str(caught.value)
        shutil.copytree(zoo / "llama", tmp_path / "llama")
        weights = load_file(tmp_path / "llama" / "model.safetensors")
        weights["model.norm.weight"] += 1e-3
        save_file(weights, tmp_path / "llama" / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match="has changed: the SHA-256 of model.safetensors") as caught:
            textebm.TextEBM.from_pretrained(saved)
        assert "\n" not in str(caught.value)
    else:
        shutil.rmtree(tmp_path / "llama")
        if told[0] == "save_full":
            shutil.rmtree(tmp_path / "bert")
        read = textebm.TextEBM.from_pretrained(saved)
    for network in (other.model, read.network):
        state = network.state_dict()
        assert state.keys() == worker.model.state_dict().keys()
        assert all(torch.equal(value, state[name]) for name, value in worker.model.state_dict().items())
    asked: dict[str, Any] = {"symbols": {"code": 1}, "seed": 3}
    for decoding in ("greedy", "beam", "sample"):
        assert read.generate(4, **asked, decoding=decoding) == trained.generate(4, **asked, decoding=decoding)
    assert read.encode(["the food was cold ."]).mean.equal(trained.encode(["the food was cold ."]).mean)
    assert "Its decoder was built on `llama`." in (saved / "README.md").read_text()


def test_a_base_is_read_again_by_its_tokens(zoo: Path) -> None:
    """A recipe's own words write, and BERT reads: the text in its pieces, with [CLS] and [SEP] around."""
    model = untrained(f"encoder.pretrained={zoo / 'bert'}", "encoder.tune=rest")
    embedding = model.encoder.embedding
    assert isinstance(embedding, ContextualEmbedding) and not isinstance(model.decoder, PretrainedDecoder)
    text = sentences(1)[0]
    batch = collate_texts([text], model.tokenizer, 20)
    ids = torch.tensor([AutoTokenizer.from_pretrained(zoo / "bert")(text)["input_ids"]])
    bert = BertModel.from_pretrained(zoo / "bert").eval()
    with torch.no_grad():
        expected = embedding.project(bert(ids).last_hidden_state)
        assert torch.allclose(embedding(batch.tokens, batch.lengths)[0], expected, atol=1e-5)


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


def test_pretrained_networks_may_compute_in_bfloat16(zoo: Path, tmp_path: Path) -> None:
    chosen = [*options(zoo, "llama", "encoder", "decoder"), "encoder.tune=rest"]
    untrained(*chosen).save_pretrained(tmp_path)
    full, half = (textebm.TextEBM.from_pretrained(tmp_path, dtype=dtype) for dtype in (None, torch.bfloat16))
    texts = list(sentences(6))
    assert {each.dtype for each in half.decoder.network.parameters()} == {torch.bfloat16}
    assert half.prior.rho.dtype == torch.float32 == half.encode(texts).mean.dtype
    assert torch.allclose(half.encode(texts).mean, full.encode(texts).mean, atol=0.1)
    exact, rough = (model.elbo_terms(texts).reconstruction_nll for model in (full, half))
    assert torch.allclose(rough, exact, rtol=0.02) and not torch.equal(rough, exact)
    for decoding in ("greedy", "beam", "sample"):
        assert len(half.generate(2, decoding=decoding)) == 2


@pytest.mark.parametrize("size", [10, 16])
def test_an_encoder_may_read_in_the_words_of_a_pretrained_decoder(zoo: Path, size: int) -> None:
    told = [*options(zoo, "llama", "decoder"), "encoder.tie_embedding=true", f"encoder.embedding_size={size}"]
    worker = trainer(*told, "training.stages=[{name: autoencoder, steps: 2}]")
    decoder, embedding = worker.model.decoder, worker.model.encoder.embedding
    assert isinstance(decoder, PretrainedDecoder)
    assert decoder.embedding is (embedding.embedding if isinstance(embedding, WidthMatched) else embedding)
    before = decoder.embedding.weight.clone()
    assert len(list(worker.steps())) == 2 and torch.equal(before, decoder.embedding.weight)


def test_special_tokens_are_never_written(zoo: Path) -> None:
    model = untrained(*options(zoo, "bert", "encoder"))
    with torch.no_grad():
        model.decoder.output_bias[model.tokenizer.mask_token_id] = 50.0
    assert not any("[MASK]" in text for text in model.generate(5, seed=0))


@pytest.mark.parametrize(
    "name, problem",
    [
        ("nowhere", "there is no directory"),
        ("t5", "cannot be loaded: ValueError: Unrecognized configuration class"),
        ("bert", "is no causal language model: .*an encoder such as BERT can only read"),
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


@pytest.mark.parametrize(
    "file, problem",
    [
        ("model.gguf", "holds a GGUF file, which is quantised; write it out as safetensors"),
        ("pytorch_model.bin", "holds its weights as a pickle, which can run code"),
        ("notes.txt", "holds no model.safetensors; give the directory of a model"),
    ],
)
def test_a_directory_without_safetensors_is_told_what_to_do(zoo: Path, tmp_path: Path, file: str, problem: str) -> None:
    (tmp_path / "here").mkdir()
    shutil.copy(zoo / "bert" / "config.json", tmp_path / "here")
    (tmp_path / "here" / file).write_bytes(b"what no reader opens")
    with pytest.raises(RecipeError, match=f"encoder.pretrained: '.*here' {problem}"):
        load_encoder(str(tmp_path / "here"), vocabulary_size=200, positions=20, option="encoder.pretrained")


@pytest.mark.parametrize("name", ["./gone", "~/gone", "/gone/model", "some/where/else"])
def test_a_path_that_is_not_there_is_no_hub_id(name: str) -> None:
    with pytest.raises(RecipeError, match="decoder.pretrained: there is no directory"):
        load_language_model(name, vocabulary_size=200, positions=20, option="decoder.pretrained")


def test_a_sentence_must_fit(zoo: Path) -> None:
    with pytest.raises(RecipeError, match="encoder.pretrained: reads at most 64 tokens, here up to 72"):
        untrained(*options(zoo, "bert", "encoder"), "data.max_tokens=70")


def test_a_layer_must_be_there(zoo: Path) -> None:
    with pytest.raises(RecipeError, match=r"encoder.layer: '.*bert' has layers 0 to 2 \(or −1, the last\), got 7"):
        untrained(*options(zoo, "bert", "encoder"), "encoder.layer=[-1,7]")


@pytest.mark.parametrize(
    "told, problem",
    [
        (["decoder.pretrained=HERE"], "decoder.pretrained: writes in its own tokens; set tokenizer.kind=pretrained"),
        (["tokenizer.kind=pretrained", "tokenizer.name=other", "decoder.pretrained=HERE"], "decoder.pretrained: write"),
        (["encoder.tune=rest"], "encoder.tune: has no effect without encoder.pretrained"),
        (["encoder.layer=3"], "encoder.layer: has no effect without encoder.pretrained"),
        (["encoder.pooling=mean"], "encoder.pooling: pools the states of encoder.pretrained"),
        (["encoder.pretrained=HERE", "encoder.pooling=mean", "latent.segments=2"], "encoder.pooling: gives one vector"),
        (["data.detokenize=true"], "data.detokenize: the networks trained here know no other English"),
        (["data.detokenize=true", "data.corpus=ptb", "TOKENS"], "data.detokenize: ptb has no signs"),
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
