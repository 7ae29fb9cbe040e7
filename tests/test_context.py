"""A dialogue's context: width 0 changes nothing, padding is inert, it is learned and used, and mistakes are clear."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny import RECIPE, objective_of, recipe, untrained
from torch import Tensor

from textebm.api import TextEBM
from textebm.errors import CorpusError, RecipeError, TextEBMError
from textebm.evaluation.state import Effort
from textebm.evaluation.suite import evaluate
from textebm.inspection.report import inspect_rows
from textebm.inspection.rows import choose_rows
from textebm.model.build import build_corpus, build_heads, build_model, build_tokenizer
from textebm.networks.encoder import ContextEncoder, RecurrentEncoder, TransformerEncoder
from textebm.networks.energy import EnergyNet, LayeredEnergyNet
from textebm.networks.posterior import Posterior
from textebm.objective.schedules import Weights
from textebm.prior.condition import Condition
from textebm.prior.explicit import standard_normal_log_prob
from textebm.prior.fixed import fixed_potential
from textebm.prior.learning import recovery, score_matching
from textebm.prior.likelihood import log_prob_bound
from textebm.prior.noise import NoiseSchedule, log_snr_ladder
from textebm.prior.prior import ChainSettings, LatentPrior
from textebm.prior.sampler import potential_and_gradient
from textebm.prior.sampling import calibrate, sample
from textebm.recipe.read import parse_recipe
from textebm.recipe.schema import Recipe
from textebm.runs.train import train
from textebm.text.batches import collate, special_ids
from textebm.text.corpora import load_corpus
from textebm.text.history import Turn, histories_of, history_store, parse_history, parse_turn, texts_of
from textebm.text.tokenizer import train_word
from textebm.training.data import label_names, read_split
from textebm.training.loop import Trainer
from textebm.use.contexts import read_contexts

DIALOGUES = [
    ["do you like tea ?", "yes , i do .", "shall we have some ?", "of course ."],
    ["where is the station ?", "it is near the park .", "thank you .", "you are welcome ."],
    ["are you tired ?", "no , i am not .", "then let us go ."],
    ["please open the window .", "it is cold outside .", "but i want air .", "all right ."],
]


def rows() -> list[dict[str, Any]]:
    """A question or a statement, after what was said before; 160 of them."""
    found = []
    for number in range(40):
        dialogue = DIALOGUES[number % len(DIALOGUES)]
        for i, text in enumerate(dialogue):
            act = "question" if text.endswith("?") else "statement"
            found.append({"text": f"{text} {number % 7}", "before": dialogue[:i], "act": act})
    return found


@cache
def corpus_file() -> Path:
    import tempfile

    path = Path(tempfile.mkdtemp()) / "dialogues.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    return path


@cache
def talking(*overrides: str) -> Recipe:
    data = {
        "corpus": "files",
        "train": str(corpus_file()),
        "context_column": "before",
        "label_columns": ["act"],
        "context_turns": 2,
        "context_tokens": 12,
        "max_tokens": 16,
    }
    heads = [{"name": "act", "labels": "act"}, {"name": "code", "classes": 3}]
    plain = {**RECIPE, "data": data, "heads": heads, "encoder": {**RECIPE["encoder"], "context_size": 6}}
    plain["tokenizer"] = {"kind": "word"}
    return parse_recipe(plain, overrides)


@cache
def parts(of: Recipe) -> Any:
    corpus = build_corpus(of.data, seed=of.seed)
    tokenizer = build_tokenizer(of, corpus["train"]["text"])
    read = {
        name: read_split(
            corpus[name],
            tokenizer,
            of.data.max_tokens,
            context_turns=of.data.context_turns,
            context_tokens=of.data.context_tokens,
        )
        for name in ("train", "validation")
    }
    return corpus, tokenizer, read


def fresh(*overrides: str) -> TextEBM:
    """A model of dialogues with a potential that is not zero."""
    chosen = talking(*overrides)
    corpus, tokenizer, _ = parts(talking())
    torch.manual_seed(chosen.seed)
    model = build_model(chosen, tokenizer, build_heads(chosen, label_names(corpus["train"]))).eval()
    for net in model.prior.energy.modules():
        if isinstance(net, EnergyNet):
            torch.nn.init.normal_(net.outputs.weight, std=0.5)
    return TextEBM(model)


def trainer(*overrides: str) -> Trainer:
    read = parts(talking())[2]
    return Trainer(fresh(*overrides).network, read["train"], read["validation"], talking(*overrides))


def batch_of(model: TextEBM, n: int = 12) -> Any:
    split = parts(talking())[2]["train"]
    return collate(split.store, np.arange(n), {}, **special_ids(model.tokenizer), contexts=split.contexts)


def vectors_of(model: TextEBM, histories: Any) -> Tensor:
    context = read_contexts(model.network, histories, len(histories))
    assert context is not None
    return context.vectors


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


TEXTS = ["yes , i do .", "thank you .", "no , i am not ."]
HISTORIES = [["do you like tea ?"], ["where is the station ?", "it is near the park ."], []]
ASKED = ["do you like tea ?", "where is the station ?", "are you tired ?", "it is cold outside ."]


# --- text -------------------------------------------------------------------------------------------------------------


def test_a_history_is_a_list_of_turns_or_a_text_with_separators() -> None:
    assert parse_history(["a  b", "", "c"]) == parse_history("a b\tc") == parse_history("a b __eou__ c __eou__")
    assert parse_history("a\tb __eou__ c") == ("a", "b", "c") and parse_history(None) == parse_history("") == ()
    for wrong in (3, ["a", 4], {"a": 1}):
        with pytest.raises(ValueError, match="a history is a text or a list of texts, not"):
            parse_history(wrong)
    turn = parse_turn("a ?\tb .\tc !")
    assert turn == "c !" and turn.history == ("a ?", "b .") and parse_turn("") == "" and parse_turn("x").history == ()


def test_long_histories_are_cut_from_the_left_and_turns_are_kept_apart() -> None:
    tokenizer = train_word(["a b c d e f"], 50)
    a, b, c, d, e, f = (tokenizer.convert_tokens_to_ids(word) for word in "abcdef")
    eos = tokenizer.eos_token_id
    store = history_store([["a", "b c", "d"], [], ["a b c d e f"]], tokenizer, turns=2, max_tokens=4)
    assert [store[i].tolist() for i in range(3)] == [[b, c, eos, d], [], [c, d, e, f]]
    assert history_store([["a b", "c"]], tokenizer, turns=2, max_tokens=3)[0].tolist() == [b, eos, c]
    forged = history_store([["<eos> a", "<pad>"]], tokenizer, turns=2, max_tokens=9)[0].tolist()
    assert forged == [tokenizer.unk_token_id, a, eos, tokenizer.unk_token_id], "a text cannot forge the separator"


def test_batches_carry_the_histories_of_their_rows() -> None:
    corpus, tokenizer, read = parts(talking())
    split = read["train"]
    batch = collate(split.store, [5, 2], {}, **special_ids(tokenizer), contexts=split.contexts)
    assert batch.context is not None and batch.to("cpu").context is not None
    for row, place in zip(batch.context.tokens, (5, 2), strict=True):
        turns = corpus["train"][place]["context"][-2:]
        words = " <eos> ".join(turns).split()[-12:]
        assert row[1 : 1 + len(words)].tolist() == tokenizer.convert_tokens_to_ids(words)
    plain = collate(split.store, [5, 2], {}, **special_ids(tokenizer))
    assert plain.context is None and torch.equal(plain.tokens, batch.tokens)


def test_own_files_name_their_context_column_in_every_format(tmp_path: Path) -> None:
    """jsonl and parquet have lists; csv and tsv have texts with separators; a hub data set is a local folder here."""
    table = Dataset.from_list(rows())
    table.to_parquet(str(tmp_path / "d.parquet"))
    joined = [{**row, "before": " __eou__ ".join(row["before"])} for row in rows()]
    Dataset.from_list(joined).to_csv(str(tmp_path / "d.csv"))
    options = {"text_column": "text", "label_columns": ["act"], "context_column": "before"}
    first = load_corpus("files", train=corpus_file(), **options)
    for name in ("d.parquet", "d.csv"):
        other = load_corpus("files", train=tmp_path / name, **options)
        assert all(list(first[split]) == list(other[split]) for split in first)
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "train.jsonl").write_text(corpus_file().read_text())
    hub = load_corpus("hub", name=str(tmp_path / "hub"), **options)
    assert list(hub["train"]) == list(first["train"])
    texts = texts_of(first["train"])
    assert histories_of(texts) == [tuple(row) for row in first["train"]["context"]]
    plain = load_corpus("files", train=corpus_file(), label_columns=["act"])
    assert "context" not in plain["train"].column_names and not isinstance(texts_of(plain["train"])[0], Turn)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "hello\n" * 9, "txt has no columns, so no context 'before'"),
        ("a.csv", "text,befor\n" + "a,b\n" * 9, "no column 'before'; did you mean 'befor'?"),
        ("a.jsonl", '{"text": "a", "before": 3}\n' * 9, "line 1: a history is a text or a list of texts, not int"),
        ("b.jsonl", '{"text": "a", "before": ["x", null]}\n' * 9, "line 1: .* not list with NoneType"),
    ],
)
def test_a_bad_context_column_is_one_clear_error(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(CorpusError, match=message):
        load_corpus("files", train=tmp_path / name, context_column="before")


def test_a_label_column_called_context_is_no_history(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,context\n" + "a,x\nb,y\n" * 9)
    corpus = load_corpus("files", train=tmp_path / "a.csv", label_columns=["context"])
    assert not isinstance(texts_of(corpus["train"])[0], Turn)
    with pytest.raises(CorpusError, match="rename it"):
        load_corpus("files", train=tmp_path / "a.csv", label_columns=["context"], context_column="text")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.context_turns=2"], "data.context_turns: corpus 'grammar' has no turns before its sentences"),
        (["data.corpus=hub", "data.name=x", "data.context_turns=2"], "data.context_column: is missing"),
        (["data.context_column=x"], "data.context_column: is for corpora files and hub; 'grammar' has its own"),
        (["data.context_turns=-1"], "data.context_turns: must be at least 0"),
    ],
)
def test_a_recipe_that_cannot_have_context_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_recipe({**RECIPE, "heads": []}, overrides)
    parse_recipe({**RECIPE, "heads": []}, ["data.corpus=dailydialog", "data.context_turns=3"])


# --- networks and the prior -------------------------------------------------------------------------------------------


def test_width_zero_is_the_model_without_context_bit_for_bit() -> None:
    """A recipe that says nothing of context, and one whose corpus has it but reads none."""
    old = untrained()
    assert old.network.context_encoder is None
    assert not any("context" in name for name in old.network.state_dict())
    silent = fresh("data.context_turns=0")
    assert silent.network.context_encoder is None and not silent.reads_context
    torch.manual_seed(3)
    plain = EnergyNet(4, 3, {"a": 2})
    torch.manual_seed(3)
    wide = EnergyNet(4, 3, {"a": 2}, context_size=5)
    assert plain.context is None and all(torch.equal(v, wide.state_dict()[k]) for k, v in plain.state_dict().items())
    u, level = torch.randn(6, 4), torch.zeros(6, dtype=torch.long)
    assert torch.equal(plain.features(u, level), wide.features(u, level, torch.zeros(6, 5)))
    of = recipe()
    batch = collate(parts(talking())[2]["train"].store, np.arange(8), {}, **special_ids(silent.tokenizer))
    with_histories = batch_of(silent, 8)
    results = [
        objective_of(silent.network, each, "joint", Weights(), generator=seeded()).loss
        for each in (batch, with_histories)
    ]
    assert torch.equal(*results), "a model that reads no context is not moved by one"
    assert of.data.context_turns == 0


BODIES = {
    "gru": lambda: RecurrentEncoder("gru", 0, 6, 7),
    "lstm": lambda: RecurrentEncoder("lstm", 0, 6, 7, num_layers=2),
    "transformer": lambda: TransformerEncoder(0, 6, 8, num_heads=2),
}


@pytest.mark.parametrize("kind", BODIES)
def test_padding_of_the_context_is_inert(kind: str) -> None:
    torch.manual_seed(0)
    encoder = ContextEncoder(BODIES[kind](), 5, turns=2, max_tokens=9).eval()
    lengths = torch.tensor([6, 4, 2])
    words = torch.randn(3, 6, 6)
    c = encoder(words, lengths)
    inside = torch.arange(10)[None, :, None] < lengths[:, None, None]
    padded = torch.where(inside, torch.cat([words, torch.zeros(3, 4, 6)], 1), 7.0)
    torch.testing.assert_close(encoder(padded, lengths), c, atol=1e-5, rtol=0)
    assert c.shape == (3, 5) and not torch.allclose(encoder(-words, lengths), c, atol=1e-2)


def test_gradient_reaches_the_context_encoder_from_encoder_decoder_and_energy() -> None:
    model = fresh("encoder.dropout=0.0")
    batch = batch_of(model)
    assert model.network.context_encoder is not None and model.encoder.embedding is not None
    parameters = list(model.network.context_encoder.parameters())

    def gradients(value: Tensor) -> float:
        found = torch.autograd.grad(value, parameters, allow_unused=True)
        assert all(each is not None and each.abs().max() > 0 for each in found), "every parameter"
        return float(sum(each.abs().sum() for each in found))

    context = model.network.read_context(batch)
    assert context is not None
    mean = model.encoder(batch.tokens, batch.lengths, context).mean
    u = torch.randn(len(batch), model.prior.dim)
    level = torch.zeros(len(batch), dtype=torch.long)
    gradients(mean.square().sum() * 1e3 + (mean * torch.randn_like(mean)).sum())
    gradients(model.network.reconstruction_nll(batch, u, context=model.network.read_context(batch)).sum())
    gradients(model.prior.potential(u, level, Condition(context=model.network.read_context(batch))).sum())
    gradients(recovery(model.prior, u, seeded(), model.network.read_context(batch)).energy_loss.sum())
    posterior = model.encoder(batch.tokens, batch.lengths, context)
    detached = posterior.unpacked(posterior.packed.detach())
    gradients(score_matching(model.prior, detached, seeded(), model.network.read_context(batch)).loss.sum())


def test_a_layered_energy_net_gives_each_layer_the_context() -> None:
    torch.manual_seed(0)
    net = LayeredEnergyNet((2, 3), 2, {"a": 2}, head_layers={"a": 0}, hidden_size=8, num_blocks=1, context_size=4)
    for each in net.layers:
        torch.nn.init.normal_(each.outputs.weight)
    z, level, c = torch.randn(5, 5), torch.zeros(5, dtype=torch.long), torch.randn(5, 4)
    by_layer = [each.potential(part, level, c) for each, part in zip(net.layers, z.split((2, 3), -1), strict=True)]
    torch.testing.assert_close(net.potential(z, level, c), torch.stack(by_layer).sum(0))
    for each, part in zip(net.layers, z.split((2, 3), -1), strict=True):
        assert (each.potential(part, level, c) - each.potential(part, level, -c)).abs().max() > 1e-3


def test_a_chains_own_gradient_knows_the_context() -> None:
    """The hand-written gradient of the energy net against autograd, with symbols asked for beside the context."""
    model = fresh()
    model.prior.chain = replace(model.prior.chain, dtype=torch.float32)
    u, level, c = torch.randn(9, 8), torch.arange(9) % 4, torch.randn(9, 6)
    condition = Condition({"act": torch.tensor([0, 1, -1] * 3)}, 2.0, context=c)
    fixed = fixed_potential(model.prior, level, condition)
    assert hasattr(fixed, "with_gradient"), "no autograd graph"
    value, gradient = potential_and_gradient(fixed, u)
    expected = potential_and_gradient(lambda w: model.prior.potential(w, level, condition), u)
    torch.testing.assert_close(value, expected[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(gradient, expected[1], atol=1e-5, rtol=1e-4)
    other = fixed_potential(model.prior, level, Condition(context=-c))
    assert not torch.allclose(potential_and_gradient(other, u)[1], gradient, atol=1e-3)


def test_a_condition_keeps_the_context_of_its_rows() -> None:
    c = torch.arange(8.0).view(4, 2)
    condition = Condition({"a": torch.tensor([0, 1, 0, 1])}, 2.0, context=c)
    assert torch.equal(condition.rows(slice(1, 3)).context, c[1:3])
    twice = condition.repeated(2)
    assert torch.equal(twice.context, torch.cat([c, c])) and twice.symbols["a"].tolist() == [0, 1, 0, 1] * 2
    assert not condition.free and Condition(context=c).free and Condition().detached.context is None


MEAN, STDDEV = 1.2, 0.4  # p(u | c) = N(MEAN · c, STDDEV²)


@pytest.mark.parametrize(
    ("learning", "levels", "iterations", "chain"), [("score_matching", 8, 500, 3), ("recovery", 1, 300, 10)]
)
def test_a_conditional_prior_follows_a_known_density(learning: str, levels: int, iterations: int, chain: int) -> None:
    """p(u | c) = N(1.2 c, .4²): the mean of the draws follows c, their spread does not."""
    torch.manual_seed(0)
    net = EnergyNet(1, levels, {}, hidden_size=48, num_blocks=2, context_size=1)
    settings = ChainSettings(steps=chain, acceptance=0.9)
    prior = LatentPrior(1, net, NoiseSchedule(log_snr_ladder(levels, 5.0, -4.0)), chain=settings)
    optimizer = torch.optim.Adam(prior.parameters(), lr=5e-3)
    generator = seeded(1)
    for step in range(iterations):
        for group in optimizer.param_groups:
            group["lr"] = 5e-3 * (1 - step / iterations)
        c = torch.rand(256, 1, generator=generator) * 2 - 1
        u = MEAN * c + STDDEV * torch.randn(256, 1, generator=generator)
        if learning == "recovery":
            loss = recovery(prior, u, generator, c).energy_loss.mean()
        else:  # a narrow Gaussian about each point
            loss = score_matching(prior, Posterior(u, torch.full_like(u, 0.05)), generator, c).loss.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    calibrate(prior, n=256, rounds=20, generator=generator, context=torch.zeros(256, 1))
    for c in (-0.9, -0.3, 0.6):
        drawn = sample(prior, 2000, condition=Condition(context=torch.full((2000, 1), c)), generator=seeded(2)).z
        assert float(drawn.mean()) == pytest.approx(MEAN * c, abs=0.12), c
        assert float(drawn.std()) == pytest.approx(STDDEV, rel=0.2), c


def test_the_likelihood_bounds_of_a_conditional_prior_bracket_the_integral() -> None:
    """One level, so the density is exp F(u|c) N(u)/Z(c), with Z(c) by the trapezium rule for each row's own c. A top
    level that shared one Z over the rows would be off by what Z(c) varies."""
    torch.manual_seed(1)
    net = EnergyNet(1, 1, {}, hidden_size=16, num_blocks=1, context_size=1)
    torch.nn.init.normal_(net.outputs.weight)
    torch.nn.init.normal_(net.context.weight, std=3.0)  # type: ignore[union-attr]
    prior = LatentPrior(1, net, NoiseSchedule(log_snr_ladder(1, 5.0, -4.0)))
    chosen = (-0.8, 0.0, 0.7)
    c, level = torch.tensor(chosen).repeat(300)[:, None], torch.zeros(900, dtype=torch.long)
    condition, grid = Condition(context=c), torch.linspace(-8, 8, 900)[:, None]
    u = sample(prior, 900, condition=condition, steps_factor=10, generator=seeded(3)).z
    z = []
    for value in chosen:
        f = prior.potential(grid, level, Condition(context=torch.full((900, 1), value))).detach()
        z.append(float(torch.trapezoid((f + standard_normal_log_prob(grid)).exp(), grid[:, 0]).log()))
    assert max(z) - min(z) > 0.3, "the normaliser depends on c, or this test shows nothing"
    exact = prior.potential(u, level, condition).detach() + standard_normal_log_prob(u) - torch.tensor(z).repeat(300)
    sides: tuple[tuple[Literal["forward", "reverse"], int], ...] = (("reverse", 1), ("forward", -1))
    for side, sign in sides:
        found = log_prob_bound(prior, u, direction=side, temperatures=80, condition=condition, generator=seeded(4))
        gaps = (exact - found).view(300, 3).mean(0)
        assert torch.all(sign * gaps > -0.03) and torch.all(gaps.abs() < 0.1), (side, gaps)


# --- the model --------------------------------------------------------------------------------------------------------

KINDS = ["gaussian", "gaussian_mixture", "energy", "diffusion_energy", "joint_energy", "hierarchical_diffusion_energy"]


@pytest.mark.parametrize("stage", ["autoencoder", "joint"])
def test_refined_inference_reads_the_context(stage: Any) -> None:
    """The chain's target is p(x, u | c): another history is another posterior, at use and in training."""
    model = fresh("inference.kind=refined", "inference.steps=2")
    refined = [model.encode(TEXTS, contexts=histories, refine=3).mean for histories in (HISTORIES, [[]] * 3)]
    assert not torch.allclose(*refined, atol=1e-3)
    batch = batch_of(model)
    c = model.network.read_context(batch)
    assert c is not None
    u = torch.randn(len(batch), 8, generator=seeded())
    scores = [model.network.posterior_score(batch, context=each)(u) for each in (c, -c)]
    assert not torch.allclose(*scores, atol=1e-3)
    loss = objective_of(model.network.train(), batch, stage, Weights(), generator=seeded()).loss
    loss.backward()
    assert torch.isfinite(loss) and model.network.context_encoder is not None
    assert all(parameter.grad is not None for parameter in model.network.context_encoder.parameters())


def test_what_dialogue_models_do_not_do_is_said() -> None:
    with pytest.raises(RecipeError, match="a short run has no encoder to read the turns before in"):
        talking("inference.kind=short_run")
    with pytest.raises(TextEBMError, match="likelihood intervals are not there for models of dialogues"):
        fresh().nll_interval(TEXTS)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_prior_answers(kind: str) -> None:
    model = fresh(f"prior.kind={kind}", "prior.steps=2")
    answers = model.respond(HISTORIES, n=2, symbols={"act": "question"})
    assert [len(each) for each in answers] == [2, 2, 2] and answers[1][0].history == tuple(HISTORIES[1])
    terms = model.elbo_terms(TEXTS, contexts=HISTORIES)
    assert torch.isfinite(terms.kl).all() and (terms.reconstruction_nll > 0).all()
    assert len(model.edit(TEXTS, {"act": "question"}, contexts=HISTORIES)) == 3
    assert len(model.interpolate(*TEXTS[:2], 4, contexts=HISTORIES[:2])) == 4
    for stage in ("autoencoder", "joint"):
        assert torch.isfinite(
            objective_of(model.network.train(), batch_of(model), stage, Weights(), generator=seeded()).loss
        )


@pytest.mark.parametrize(
    "overrides",
    [
        ("encoder.kind=transformer", "decoder.kind=transformer"),
        ("prior.kind=joint_energy", "decoder.ladder=true", "decoder.num_layers=2"),
        ("prior.kind=hierarchical_diffusion_energy", "decoder.ladder=true", "decoder.num_layers=3"),
        ("encoder.kind=lstm", "decoder.kind=lstm", "training.mixed_precision=bf16"),
        ("latent.segments=2", "encoder.tie_embedding=true"),
        ("latent.segments=4", "encoder.kind=transformer", "decoder.kind=transformer"),
    ],
)
def test_every_network_reads_the_context(overrides: tuple[str, ...]) -> None:
    model = fresh(*overrides)
    u = torch.randn(3, 8)
    c = vectors_of(model, [tuple(history) for history in HISTORIES])
    batch = batch_of(model, 3)
    with torch.no_grad():
        nll = [model.network.reconstruction_nll(batch, u, context=each) for each in (c, -c)]
        mean = [model.encoder(batch.tokens, batch.lengths, each).mean for each in (c, -c)]
    assert (nll[0] - nll[1]).abs().max() > 1e-4 and (mean[0] - mean[1]).abs().max() > 1e-4


def test_a_response_is_a_function_of_its_seed_and_of_the_history() -> None:
    model = fresh()
    first = model.respond(ASKED, n=3, symbols={"act": "statement"}, seed=5)
    torch.manual_seed(99)
    assert model.respond(ASKED, n=3, symbols={"act": "statement"}, seed=5) == first
    assert model.respond(ASKED, n=3, symbols={"act": "statement"}, seed=6) != first
    latents = [model.sample_latents(2, seed=0, contexts=[history] * 2) for history in (ASKED[0], ASKED[1])]
    assert not torch.allclose(*latents, atol=1e-3), "the prior follows the history"
    again = [model.decode(latents[0], contexts=[history] * 2) for history in (ASKED[0], ASKED[0])]
    assert again[0] == again[1]
    one = model.respond([["are you tired ?"]])
    assert one == model.respond(["are you tired ?"]) == [model.generate(1, contexts=["are you tired ?"], seed=0)]
    by_row = model.respond(ASKED[:2], n=2, symbols={"act": ["question", "statement"]}, seed=1)
    assert [len(each) for each in by_row] == [2, 2]
    assert model.respond([]) == [] and model.respond(ASKED[:2], n=0) == [[], []]


def test_only_the_last_turns_count_and_equal_histories_give_equal_vectors() -> None:
    model = fresh()
    histories = [
        ("x", "y", "are you tired ?"),
        ("y", "are you tired ?"),
        ("are you tired ?",),
        ("y", "are you tired ?"),
    ]
    vectors = vectors_of(model, histories)
    assert torch.equal(vectors[1], vectors[3])
    torch.testing.assert_close(vectors[0], vectors[1])
    assert not torch.allclose(vectors[1], vectors[2], atol=1e-4)


def test_what_the_model_wrote_can_be_read_again_without_naming_the_history() -> None:
    model = fresh()
    turns = [text for each in model.respond(ASKED, n=2, seed=1) for text in each]
    named = [history for history in ASKED for _ in range(2)]
    known, said = model.encode(turns), model.encode(list(map(str, turns)), contexts=named)
    assert torch.equal(known.mean, said.mean)
    assert torch.equal(known.probabilities["act"], said.probabilities["act"])
    assert model.classify(turns, "act").labels == model.classify(turns, "act", contexts=named).labels
    edited = model.edit(turns, {"act": "question"}, seed=2)
    assert histories_of(edited) == histories_of(turns)
    assert model.edit(turns, {"act": "question"}, seed=2, contexts=named) == edited
    assert model.reconstruct(turns) == model.reconstruct(turns, contexts=named)
    assert torch.equal(model.reconstruction_losses(turns), model.reconstruction_losses(turns, contexts=named))
    plain = untrained()
    assert torch.equal(plain.encode([Turn("the food", ["x"])]).mean, plain.encode(["the food"]).mean)


CALLS: dict[str, Any] = {
    "encode": lambda model, contexts: model.encode(TEXTS, contexts=contexts),
    "classify": lambda model, contexts: model.classify(TEXTS, next(iter(model.heads)), contexts=contexts),
    "elbo_terms": lambda model, contexts: model.elbo_terms(TEXTS, contexts=contexts),
    "reconstruct": lambda model, contexts: model.reconstruct(TEXTS, contexts=contexts),
    "reconstruction_losses": lambda model, contexts: model.reconstruction_losses(TEXTS, contexts=contexts),
    "edit": lambda model, contexts: model.edit(TEXTS, {next(iter(model.heads)): 1}, contexts=contexts),
    "generate": lambda model, contexts: model.generate(3, contexts=contexts, seed=0),
    "sample_latents": lambda model, contexts: model.sample_latents(3, contexts=contexts),
    "sample_path": lambda model, contexts: model.sample_path(3, contexts=contexts),
    "decode": lambda model, contexts: model.decode(torch.zeros(3, 8), contexts=contexts),
    "energies": lambda model, contexts: model.energies(torch.zeros(3, 8), contexts=contexts),
    "symbol_probabilities": lambda model, contexts: model.symbol_probabilities(torch.zeros(3, 8), contexts=contexts),
}


@pytest.mark.parametrize("call", CALLS)
def test_missing_and_needless_contexts_are_clear_errors(call: str) -> None:
    talker, plain = fresh("prior.steps=1"), untrained("prior.steps=1")
    CALLS[call](talker, HISTORIES)
    CALLS[call](plain, None)
    with pytest.raises(TextEBMError, match=r"give contexts|use respond\(contexts\)"):
        CALLS[call](talker, None)
    with pytest.raises(TextEBMError, match="this model reads no context: leave contexts out"):
        CALLS[call](plain, HISTORIES)
    with pytest.raises(TextEBMError, match="expected 3 histories, one for each row, got 2"):
        CALLS[call](talker, HISTORIES[:2])
    with pytest.raises(TextEBMError, match=r"contexts\[1\]: a history is a text or a list of texts, not int"):
        CALLS[call](talker, [[], 3, []])
    with pytest.raises(TextEBMError, match="expected a list of histories, got one string"):
        CALLS[call](talker, "hello")


def test_respond_refuses_what_it_cannot_do() -> None:
    with pytest.raises(TextEBMError, match="reads no context"):
        untrained().respond(["hello"])
    model = fresh()
    with pytest.raises(TextEBMError, match="n must be a whole number from 0 up"):
        model.respond(["hello"], n=-1)
    with pytest.raises(TextEBMError, match="has no class 'shout'"):
        model.respond(["hello"], symbols={"act": "shout"})
    with pytest.raises(TextEBMError, match="got one string"):
        model.respond("hello")
    with pytest.raises(TextEBMError, match="expected a list of texts, got one string"):
        model.encode("hello", contexts=[[]])
    assert len(model.respond(["", "東京 🙂 zzz", "word " * 5000, "<eos> <pad>"])) == 4


def test_answering_goes_round_and_leaves_the_model_alone() -> None:
    model = fresh()
    answering = model.answering(ASKED[:2])
    texts = answering.generate(5, seed=3)
    assert texts == model.generate(5, seed=3, contexts=[ASKED[i % 2] for i in range(5)])
    assert histories_of(texts) == [(ASKED[i % 2],) for i in range(5)]
    with pytest.raises(TextEBMError, match="use respond"):
        model.generate(1)
    silent = untrained()
    assert silent.answering(ASKED) is silent


# --- training and files -----------------------------------------------------------------------------------------------


def test_the_prior_stage_trains_on_the_contexts_of_its_rows() -> None:
    worker = trainer()
    encoded, batch = worker._encoded(np.arange(7)), batch_of(worker.model, 7)
    with torch.no_grad():
        expected = worker.model.eval().read_context(batch)
    assert encoded.context is not None and expected is not None
    torch.testing.assert_close(encoded.context, expected, atol=1e-5, rtol=0)


def test_the_context_lowers_the_loss_where_it_tells_the_answer() -> None:
    """After "do you like tea ?" comes "yes , i do .": shuffled histories cost the trained model nats."""
    worker = trainer("training.stages.0.steps=200", "objective.kl_weight=4.0", "latent.dim=2")
    for _ in worker.steps():
        pass
    health = worker.health()
    assert {"context_reliance", "acceptance"} <= health.values.keys()
    corpus = parts(talking())[0]
    texts = texts_of(corpus["test"])
    model = TextEBM(worker.model.eval())
    true = model.elbo_terms(texts)
    moved = model.elbo_terms(texts, contexts=[histories_of(texts)[i - 3] for i in range(len(texts))])
    gain = (moved.reconstruction_nll + moved.kl - true.reconstruction_nll - true.kl).mean()
    assert gain > 0.3, float(gain)


def test_save_and_load_answer_alike_and_the_suite_and_report_run(tmp_path: Path) -> None:
    chosen = talking("training.stages.0.steps=12", "training.stages.1.steps=6", "evaluation.limit=8")
    run = train(chosen, out=tmp_path / "run", quiet=True)
    loaded = TextEBM.from_pretrained(run.directory)
    assert loaded.respond(ASKED, n=2, seed=4) == run.model.respond(ASKED, n=2, seed=4)
    assert "model.respond(" in (run.directory / "README.md").read_text()
    assert run.evaluation is not None and (run.directory / "report.html").is_file()
    metrics = run.evaluation.metrics
    parts_sum = metrics["context_gain_reconstruction"].value + metrics["context_gain_kl"].value
    assert metrics["context_gain"].value == pytest.approx(parts_sum)
    assert any("histories drawn from test" in note for note in run.evaluation.notes)
    corpus = parts(talking())[0]
    with pytest.raises(TextEBMError, match="use respond"):
        evaluate(loaded, corpus, effort=Effort(samples=4, samples_per_class=2))
    found = inspect_rows(loaded.answering(ASKED), choose_rows(corpus["test"]))
    assert len(found.losses) == len(found.energies) == len(corpus["test"]) and found.diffusions


def test_a_resumed_run_is_the_unbroken_one() -> None:
    whole, half = trainer(), trainer()
    for _ in whole.steps():
        pass
    stepping = half.steps()
    for _ in range(30):  # in the prior stage
        next(stepping)
    state = half.state()
    rest = trainer()
    rest.restore(*state)
    for _ in rest.steps():
        pass
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, rest.model.state_dict()[name]), name


def test_the_command_line_answers_and_reads_histories(tmp_path: Path) -> None:
    from tiny import run as textebm

    fresh().save_pretrained(tmp_path / "talker")
    untrained().save_pretrained(tmp_path / "plain")
    done = textebm(
        "respond",
        tmp_path / "talker",
        "do you like tea ?\tyes , i do .",
        "",
        "-n",
        "2",
        "--symbol",
        "act=question",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["history"] for line in lines] == ["do you like tea ?\tyes , i do .", ""]
    model = TextEBM.from_pretrained(tmp_path / "talker")
    expected = model.respond([["do you like tea ?", "yes , i do ."], []], n=2, symbols={"act": "question"})
    assert [line["responses"] for line in lines] == expected
    for command in (("respond", tmp_path / "plain", "hello"), ("generate", tmp_path / "talker")):
        done = textebm(*command)
        assert done.returncode == 2 and done.stderr.startswith("error: this model") and not done.stdout
