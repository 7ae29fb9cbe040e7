"""Networks of `transformers` inside ours: how they are loaded, tuned and left out of what is saved.

They come as safetensors from a directory or the Hub, without code of their own, and compute in float32. Their own
dropout stays off.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from textebm.errors import RecipeError

if TYPE_CHECKING:  # seconds to import, so only where a pretrained network is used
    from transformers import PreTrainedModel

Source = str | Mapping[str, Any]  # a directory or a Hub id, or the configuration of a network whose weights follow
Tuning = Literal["rest", "lora", "full"]
DecoderState = tuple[Tensor, ...]

# Of a configuration: where it came from, and what would have transformers fetch code for it.
NOT_KEPT = frozenset({"_name_or_path", "auto_map", "attn_implementation", "_attn_implementation", "use_kernels"})
# What adapters of low rank are added to: attention's queries, values and output, as the model families call them.
ADAPTED = (
    r".*\.(q_proj|v_proj|o_proj|out_proj|c_attn|attn\.c_proj|query_key_value|attention\.dense|query|value|q_lin|v_lin"
    r"|out_lin|Wqkv|Wo)"
)
# What loading a model from a directory or the Hub can raise: not there, offline, gated, malformed, unknown.
LOADING_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError, SafetensorError)


class Pretrained(nn.Module):
    """A pretrained network that never drops out. tune: `rest` (its weights stay as they came), `lora` (they do, and
    adapters of low rank are trained beside them; Hu et al. 2022, arXiv 2106.09685), or `full`. rank: the adapters'.
    base: where weights at rest are to be had, for who saves the model (`textebm.model.bases`)."""

    base: dict[str, Any] | None = None

    def __init__(self, network: PreTrainedModel, *, tune: Tuning, rank: int = 8):
        super().__init__()
        self.settings = _settings(network)
        self.network = network.requires_grad_(tune == "full").eval()
        if tune == "lora":
            add_adapters(network, rank)

    def train(self, mode: bool = True) -> Pretrained:
        super().train(mode)
        self.network.eval()
        return self


def _settings(network: PreTrainedModel) -> dict[str, Any]:
    """The network's configuration, from which it can be built again, as JSON holds it."""
    kept = json.loads(network.config.to_json_string(use_diff=False))
    return {name: value for name, value in kept.items() if name not in NOT_KEPT}


def add_adapters(network: PreTrainedModel, rank: int) -> None:
    """Adapters of low *rank* in attention (`ADAPTED`; else in every linear layer), which change nothing at first.

    Raises RecipeError without the library `peft`.
    """
    import re

    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise RecipeError(
            "encoder.tune, decoder.tune: lora needs the library peft; install it with "
            "pip install 'textebm[pretrained]', or set them to rest or full"
        ) from error
    from transformers.pytorch_utils import Conv1D

    places = [(name, type(each)) for name, each in network.named_modules() if re.fullmatch(ADAPTED, name)]
    targets = [name for name, kind in places if kind in (nn.Linear, Conv1D)]
    options = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=targets or "all-linear",
        fan_in_fan_out=any(kind is Conv1D for _, kind in places),
    )
    inject_adapter_in_model(options, network)
    network.eval()


def run_cached(network: PreTrainedModel, x: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
    """The last states of vectors x (B, T, E) behind those whose keys and values are *state*; and with theirs, too."""
    from transformers import DynamicCache

    past = DynamicCache()
    for layer in range(len(state) // 2):
        past.update(state[2 * layer], state[2 * layer + 1], layer)
    out = network(inputs_embeds=x, past_key_values=past, use_cache=True)
    layers = out.past_key_values.layers
    return out.last_hidden_state, tuple(each for layer in layers for each in (layer.keys, layer.values))


def pretrained_modules(model: nn.Module) -> Iterator[tuple[str, Pretrained]]:
    """The pretrained networks of *model* and where they are, by name."""
    for name, module in model.named_modules():
        if isinstance(module, Pretrained):
            yield name, module


def pretrained_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Those of *model* that came trained and are tuned in full, the encoder's and the decoder's. Adapters are new."""
    tuned: dict[nn.Parameter, None] = {}
    for _, module in pretrained_modules(model):
        for each in (module.network, getattr(module, "head", None)):
            if each is not None:
                named = each.named_parameters()
                tuned.update(dict.fromkeys(p for name, p in named if p.requires_grad and ".lora_" not in name))
    return list(tuned)


def adapter_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The adapters of low rank of *model*'s pretrained networks."""
    named = (pair for _, module in pretrained_modules(model) for pair in module.network.named_parameters())
    return list(dict.fromkeys(parameter for name, parameter in named if ".lora_" in name))


def cast_networks(model: nn.Module, dtype: torch.dtype) -> None:
    """Let the pretrained networks of *model*, and they alone, compute in *dtype*."""
    for _, module in pretrained_modules(model):
        for each in (module.network, getattr(module, "head", None)):
            if each is not None:
                each.to(dtype)


def resting_names(model: nn.Module) -> set[str]:
    """The entries of the state of *model* that are as their pretrained networks came: who has those needs no copy."""
    resting = {
        id(each)
        for _, module in pretrained_modules(model)
        for network in (module.network, getattr(module, "head", None))
        if network is not None
        for each in (*network.parameters(), *network.buffers())
        if not each.requires_grad
    }
    return {name for name, value in model.state_dict(keep_vars=True).items() if id(value) in resting}


def load_encoder(
    source: Source, *, vocabulary_size: int, positions: int, option: str, revision: str | None = None
) -> PreTrainedModel:
    """A network that reads, with an entry for each of *vocabulary_size* tokens (those it lacks: the mean).

    positions: how many it must be able to read at once. option: what the recipe calls it. Raises RecipeError.
    """
    from transformers import AutoModel

    return _fit(_load(AutoModel, source, option, revision), vocabulary_size, positions, option)


def check_layers(network: PreTrainedModel, layers: Sequence[int], *, source: Source, option: str) -> tuple[int, ...]:
    """*layers* of hidden states that *network* has, 0 the embedding and −1 the last. Raises RecipeError naming *option*
    for others, and for none."""
    last = int(network.config.num_hidden_layers)
    unknown = [each for each in layers if not -last - 1 <= each <= last]
    if unknown or not layers:
        got = unknown[0] if unknown else "none"
        raise RecipeError(f"{option}: {_name(source)} has layers 0 to {last} (or −1, the last), got {got}")
    return tuple(layers)


def load_language_model(
    source: Source, *, vocabulary_size: int, positions: int, option: str, revision: str | None = None
) -> tuple[PreTrainedModel, nn.Linear]:
    """A causal language model without its output layer, and that layer; as above.

    Raises RecipeError, also where its logits are more than a product of the last states with that layer.
    """
    from transformers import AutoModelForCausalLM

    loaded = _load(AutoModelForCausalLM, source, option, revision)
    model = _fit(loaded, vocabulary_size, positions, option)
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
        before, kept = run_cached(network, words[:, :4], ())
        torch.stack(kept)  # the same form in every layer
        after, _ = run_cached(network, words[:, 4:], kept)
    except (*LOADING_ERRORS, IndexError) as error:
        raise RecipeError(f"{name} cannot write word by word; take a Transformer ({type(error).__name__})") from error
    if not torch.allclose(torch.cat([before, after], dim=1), states, rtol=1e-3, atol=1e-3):
        raise RecipeError(f"{name} cannot write word by word; take a Transformer")


def _name(source: Source) -> str:
    return repr(source) if isinstance(source, str) else f"a {source.get('model_type', 'nameless')} network"


@contextmanager
def _quietly() -> Iterator[None]:
    """Bars that transformers draws while it loads belong on a terminal; what its report says `_load` looks at."""
    from transformers.utils import logging

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


def _load(kind: Any, source: Source, option: str, revision: str | None) -> PreTrainedModel:
    from transformers import AutoConfig

    missing: list[str] = []
    if isinstance(source, str):
        check_place(source, option)
    try:
        if isinstance(source, str):
            with _quietly():
                model, report = kind.from_pretrained(
                    source,
                    revision=revision or "main",
                    use_safetensors=True,
                    trust_remote_code=False,
                    dtype=torch.float32,
                    output_loading_info=True,
                )
            missing = sorted(name for name in report["missing_keys"] if "pooler" not in name)  # that nothing here reads
        else:
            settings = {name: value for name, value in source.items() if name not in {"model_type", *NOT_KEPT}}
            model = kind.from_config(AutoConfig.for_model(source["model_type"], **settings), dtype=torch.float32)
    except LOADING_ERRORS as error:
        told = f"{type(error).__name__}: {error}".splitlines()[0]  # some list all that would have been possible
        raise RecipeError(f"{option}: {_name(source)} cannot be loaded: {told[:300]}") from error
    if missing and "ForCausalLM" in kind.__name__:
        raise RecipeError(
            f"{option}: {_name(source)} is no causal language model: its weights have no {missing[0]} and "
            f"{len(missing) - 1} more that writing needs; an encoder such as BERT can only read (encoder.pretrained)"
        )
    if missing:
        raise RecipeError(f"{option}: {_name(source)} comes without {missing[0]} and {len(missing) - 1} more weights")
    return cast("PreTrainedModel", model.eval())


def check_place(source: str, option: str) -> None:
    """Raises RecipeError for what is no model's directory and cannot be a Hub id."""
    place = Path(source).expanduser()
    if not place.exists():
        if place.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1:
            raise RecipeError(f"{option}: there is no directory {source!r}; give a model's directory or a Hub id")
        return
    names = {each.name for each in place.iterdir()} if place.is_dir() else {place.name}
    if any(name.endswith(".safetensors") for name in names) and "config.json" in names:
        return
    if any(name.endswith(".gguf") for name in names):
        problem = (
            "holds a GGUF file, which is quantised; write it out as safetensors once: docs/pretrained.md, "
            '"From a GGUF file"'
        )
    elif any(name.endswith((".bin", ".pt", ".pth")) for name in names):
        problem = (
            "holds its weights as a pickle, which can run code; write them out as safetensors once: "
            'docs/pretrained.md, "From pytorch_model.bin"'
        )
    elif not place.is_dir():
        problem = "is a file; give the directory that holds config.json and model.safetensors"
    else:
        absent = [name for name in ("config.json", "model.safetensors") if name not in names]
        problem = f"holds no {' and no '.join(absent)}; give the directory of a model as transformers saves it"
    raise RecipeError(f"{option}: {source!r} {problem}")


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
