"""Networks of `transformers` inside ours: words read in their context, and a language model that writes with a latent.

They come as safetensors from a directory or the Hub, without code of their own, and compute in float32. Their own
dropout stays off.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from transformers.utils import logging

from textebm.errors import RecipeError
from textebm.networks.decoder import DecoderState, LatentPrefix, WritesWords

if TYPE_CHECKING:  # seconds to import, so only where a pretrained network is used
    from transformers import PreTrainedModel

Source = str | Mapping[str, Any]  # a directory or a Hub id, or the configuration of a network whose weights follow

# Of a configuration: where it came from, and what would have transformers fetch code for it.
NOT_KEPT = frozenset({"_name_or_path", "auto_map", "attn_implementation", "_attn_implementation", "use_kernels"})


class _Rests(nn.Module):
    """A pretrained network that never drops out, and learns only if it is to be tuned."""

    def __init__(self, network: PreTrainedModel, *, tune: bool):
        super().__init__()
        self.network = network.requires_grad_(tune).eval()

    def train(self, mode: bool = True) -> _Rests:
        super().train(mode)
        self.network.eval()
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """The network's configuration, from which it can be built again, as JSON holds it."""
        kept = json.loads(self.network.config.to_json_string(use_diff=False))
        return {name: value for name, value in kept.items() if name not in NOT_KEPT}


class ContextualEmbedding(_Rests):
    """A pretrained model's last hidden states, mapped to *size*, in place of an embedding's vectors.

    pad: the id that stands behind a sentence's end, and nowhere else. tune: train the model's weights, too.
    """

    def __init__(self, network: PreTrainedModel, size: int, *, pad: int, tune: bool):
        super().__init__(network, tune=tune)
        self.project = nn.Linear(network.config.hidden_size, size)
        self.pad = pad

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens (B, T) -> (B, T, E)."""
        states = self.network(input_ids=tokens, attention_mask=(tokens != self.pad).long()).last_hidden_state
        out: Tensor = self.project(states)
        return out


class PretrainedDecoder(WritesWords, _Rests):
    """A causal language model that writes with a latent: positions before the first word, one for each segment, and a
    vector added to each word, as in `TransformerDecoder` (Li et al. 2020, Optimus, arXiv 2004.04092: "memory" and
    "embedding"). Both are measured in the words' own standard deviation, with which they learn faster
    (recipes/README.md, "Pretrained networks"). Nothing is added to the words at first.

    network: without its output layer; head: that layer, whose weights may be the words' vectors.
    """

    scale: Tensor

    def __init__(
        self,
        network: PreTrainedModel,
        head: nn.Linear,
        latent_dim: int,
        *,
        tune: bool,
        segments: int = 1,
        segmented: Sequence[int] = (),
    ):
        super().__init__(network, tune=tune)
        self.segments = segments
        size = self.embedding.embedding_dim
        self.prefix = LatentPrefix(latent_dim, size, segments=segments, segmented=segmented)
        self.every_step = nn.Linear(latent_dim, size, bias=False)
        nn.init.zeros_(self.every_step.weight)
        self.register_buffer("scale", self.embedding.weight.detach().std())
        bias = torch.zeros(self.embedding.num_embeddings) if head.bias is None else head.bias.detach()
        self.output_bias = nn.Parameter(bias)
        head.register_parameter("bias", None)
        self.head = None if head.weight is self.embedding.weight else head.requires_grad_(tune)

    @property
    def embedding(self) -> nn.Embedding:  # type: ignore[override]  # which the network owns, under its own name
        return cast("nn.Embedding", self.network.get_input_embeddings())

    def output_layer(self) -> tuple[Tensor, Tensor]:
        return (self.embedding if self.head is None else self.head).weight, self.output_bias

    def hidden(self, inputs: Tensor, z: Tensor) -> Tensor:
        """inputs (B, T) token ids, z (B, d) -> (B, T, E)."""
        words = self.embedding(inputs) + self.scale * self.every_step(z)[:, None]
        x = torch.cat([(self.scale * self.prefix(z)).to(words.dtype), words], dim=1)
        out: Tensor = self.network(inputs_embeds=x, use_cache=False).last_hidden_state[:, self.segments :]
        return out

    def start(self, z: Tensor) -> DecoderState:
        """The keys and values of the latent's positions, two tensors (B, heads, M, D/heads) a layer."""
        return _read(self.network, self.scale * self.prefix(z), ())[1]

    def word_inputs(self) -> Tensor:
        """Each word's vector, (V, E)."""
        return self.embedding.weight

    def advance(
        self, tokens: Tensor, z: Tensor, state: DecoderState, words: Tensor | None = None
    ) -> tuple[Tensor, DecoderState]:
        """tokens (B,), z (B, d) -> hidden (B, E), ready for the output layer, and the grown cache."""
        x = (self.embedding(tokens) if words is None else words[tokens]) + self.scale * self.every_step(z)
        found, state = _read(self.network, x[:, None], state)
        return found[:, 0], state


def _read(network: PreTrainedModel, x: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
    """The last states of vectors x (B, T, E) behind those whose keys and values are *state*; and with theirs, too."""
    from transformers import DynamicCache

    past = DynamicCache()
    for layer in range(len(state) // 2):
        past.update(state[2 * layer], state[2 * layer + 1], layer)
    found = network(inputs_embeds=x, past_key_values=past, use_cache=True)
    layers = found.past_key_values.layers
    return found.last_hidden_state, tuple(part for layer in layers for part in (layer.keys, layer.values))


def pretrained_parts(model: nn.Module) -> Iterator[tuple[str, ContextualEmbedding | PretrainedDecoder]]:
    """The pretrained networks of *model* and where they are, by name."""
    for name, module in model.named_modules():
        if isinstance(module, ContextualEmbedding | PretrainedDecoder):
            yield name, module


def pretrained_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Those of *model* that came trained and are to be tuned, the encoder's and the decoder's."""
    found: dict[nn.Parameter, None] = {}
    for _, part in pretrained_parts(model):
        heads = [part.head] if isinstance(part, PretrainedDecoder) and part.head is not None else []
        for module in (part.network, *heads):
            found.update(dict.fromkeys(each for each in module.parameters() if each.requires_grad))
    return list(found)


def load_encoder(source: Source, *, vocabulary_size: int, positions: int, option: str) -> PreTrainedModel:
    """The network behind `ContextualEmbedding`, with an entry for each of our tokens (those it lacks: the mean).

    positions: how many it must be able to read at once. option: what the recipe calls it. Raises RecipeError.
    """
    from transformers import AutoModel

    return _fit(_load(AutoModel, source, option), vocabulary_size, positions, option)


def load_language_model(
    source: Source, *, vocabulary_size: int, positions: int, option: str
) -> tuple[PreTrainedModel, nn.Linear]:
    """The network behind `PretrainedDecoder`, and its output layer; as above.

    Raises RecipeError, also where its logits are more than a product of the last states with that layer.
    """
    from transformers import AutoModelForCausalLM

    model = _fit(_load(AutoModelForCausalLM, source, option), vocabulary_size, positions, option)
    network, head = cast("PreTrainedModel", model.base_model), model.get_output_embeddings()
    if not isinstance(head, nn.Linear) or network is model:
        raise RecipeError(f"{option}: {_name(source)} has no output layer to write words with; take a causal model")
    if isinstance(source, str):
        _check_causal(model, network, head, vocabulary_size, f"{option}: {_name(source)}")
    return network, head


@torch.no_grad()
def _check_causal(model: PreTrainedModel, network: PreTrainedModel, head: nn.Linear, size: int, name: str) -> None:
    """Its logits are `head` of its states, no state depends on what comes later, and keys and values are all that it
    remembers of what came before."""
    probe = torch.arange(8)[None] % size
    words = network.get_input_embeddings()(probe)
    states = network(input_ids=probe).last_hidden_state
    if not torch.allclose(head(states), model(input_ids=probe).logits, rtol=1e-3, atol=1e-3):
        raise RecipeError(f"{name} makes more than one product of its last states; take another model")
    if not torch.allclose(states[:, :4], network(input_ids=probe[:, :4]).last_hidden_state, rtol=1e-3, atol=1e-3):
        raise RecipeError(f"{name} reads ahead; take a causal model")
    try:
        before, kept = _read(network, words[:, :4], ())
        after, _ = _read(network, words[:, 4:], kept)
    except Exception as error:  # whatever a model of another making raises
        raise RecipeError(f"{name} cannot write word by word; take a Transformer ({type(error).__name__})") from error
    if not torch.allclose(torch.cat([before, after], dim=1), states, rtol=1e-3, atol=1e-3):
        raise RecipeError(f"{name} cannot write word by word; take a Transformer")


def _name(source: Source) -> str:
    return repr(source) if isinstance(source, str) else f"a {source.get('model_type', 'nameless')} network"


@contextmanager
def _quietly() -> Iterator[None]:
    """Bars that transformers draws while it loads belong on a terminal; what its report says `_load` looks at."""
    hide, level = logging.is_progress_bar_enabled() and not sys.stderr.isatty(), logging.get_verbosity()
    logging.set_verbosity_error()
    if hide:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if hide:
            logging.enable_progress_bar()


def _load(kind: Any, source: Source, option: str) -> PreTrainedModel:
    from transformers import AutoConfig

    missing: list[str] = []
    try:
        if isinstance(source, str):
            with _quietly():
                model, report = kind.from_pretrained(
                    source, use_safetensors=True, trust_remote_code=False, dtype=torch.float32, output_loading_info=True
                )
            missing = sorted(name for name in report["missing_keys"] if "pooler" not in name)  # that nothing here reads
        else:
            settings = {name: value for name, value in source.items() if name not in {"model_type", *NOT_KEPT}}
            model = kind.from_config(AutoConfig.for_model(source["model_type"], **settings), dtype=torch.float32)
    except Exception as error:  # not found, offline, gated, malformed, unknown: transformers raises many kinds
        told = f"{type(error).__name__}: {error}".splitlines()[0]  # some list all that would have been possible
        raise RecipeError(f"{option}: {_name(source)} cannot be loaded: {told[:300]}") from error
    if missing:
        raise RecipeError(f"{option}: {_name(source)} comes without {missing[0]} and {len(missing) - 1} more weights")
    return cast("PreTrainedModel", model.eval())


def _fit(model: PreTrainedModel, vocabulary_size: int, positions: int, option: str) -> PreTrainedModel:
    config = model.config
    if config.is_encoder_decoder:
        raise RecipeError(
            f"{option}: {config.model_type} is an encoder with a decoder; take a model that is one of them"
        )
    most = getattr(config, "max_position_embeddings", None)
    if most is not None and most < positions:
        raise RecipeError(
            f"{option}: reads at most {most} tokens, here up to {positions}: see data.max_tokens and .context_tokens"
        )
    before = cast("nn.Embedding", model.get_input_embeddings()).num_embeddings
    if before != vocabulary_size:
        model.resize_token_embeddings(vocabulary_size, mean_resizing=False)
        with torch.no_grad():
            for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
                if isinstance(layer, nn.Embedding | nn.Linear):
                    layer.weight[before:] = layer.weight[:before].mean(0)
    return model
