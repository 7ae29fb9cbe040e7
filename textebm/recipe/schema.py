"""The recipe: every choice of an experiment, typed, closed and frozen."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from textebm.recipe.removed import without_removed

# names become folder names, metric names and ``head=class`` on the command line
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"


class Part(BaseModel):
    """A closed, immutable section of the recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


# Layers of the latent where latent.layers is empty: as equal as the dimensions allow. Other kinds have one.
LAYERS = {"joint_energy": 2, "hierarchical_diffusion_energy": 2}
LAYER_SIZE = Annotated[int, Field(ge=1)]


class Data(Part):
    corpus: Literal["grammar", "ptb", "dailydialog", "yelp", "files", "hub"] = Field(
        "grammar", description="where the text comes from"
    )
    name: str | None = Field(None, description="hub: the data set's name")
    train: str | None = Field(None, description="files: the training file (txt, csv, tsv, jsonl, parquet)")
    validation: str | None = Field(None, description="files: the validation file; split off train when absent")
    test: str | None = Field(None, description="files: the test file; split off train when absent")
    text_column: str = Field("text", description="files, hub: the column that holds the sentence")
    label_columns: tuple[str, ...] = Field((), description="files, hub: columns read as labels")
    context_column: str | None = Field(
        None, description="files, hub: the turns before the sentence: a list, or a text with __eou__ or tabs between"
    )
    context_turns: int = Field(
        0, ge=0, description="dialogue: encoder, decoder and energy see this many turns before the sentence"
    )
    context_tokens: int = Field(80, ge=1, description="a longer history loses its beginning")
    size: int = Field(6000, ge=100, description="grammar: number of training sentences")
    max_tokens: int = Field(40, ge=2, description="longer sentences are cut to this many tokens")
    limit: int | None = Field(None, ge=1, description="use only the first so many training sentences")


class Tokenizer(Part):
    kind: Literal["word", "bpe", "pretrained"] = "word"
    vocabulary_size: int = Field(10000, ge=10)
    name: str | None = Field(None, description="pretrained: a directory or a Hub id")


class Encoder(Part):
    kind: Literal["gru", "lstm", "transformer"] = "gru"
    embedding_size: int = Field(256, ge=1)
    hidden_size: int = Field(512, ge=1)
    num_layers: int = Field(1, ge=1)
    num_attention_heads: int = Field(4, ge=1, description="transformer only")
    dropout: float = Field(0.0, ge=0, lt=1)
    bidirectional: bool = Field(True, description="recurrent only")
    tie_embedding: bool = Field(
        False, description="read words in the decoder's embedding; its embedding_size must be the same"
    )
    pretrained: str | None = Field(
        None,
        description="a transformers model (directory or Hub id): words are read as its last hidden states, mapped to "
        "embedding_size; the same name as tokenizer.name",
    )
    tune: bool = Field(True, description="pretrained: train its weights, too (training.pretrained_learning_rate)")
    context_size: int = Field(128, ge=1, description="with data.context_turns: width of the encoded history")


class Decoder(Part):
    kind: Literal["gru", "lstm", "transformer"] = "gru"
    embedding_size: int = Field(256, ge=1)
    hidden_size: int = Field(512, ge=1)
    num_layers: int = Field(1, ge=1)
    num_attention_heads: int = Field(4, ge=1, description="transformer, or with latent.segments")
    dropout: float = Field(0.0, ge=0, lt=1)
    ladder: bool = Field(False, description="recurrent only: a latent layer a recurrent layer, the top one first")
    skip: bool = Field(False, description="recurrent only: the latent also goes straight to the output layer")
    word_dropout: float = Field(
        0.0, ge=0, le=1, description="share of the decoder's input words replaced by <unk> in training"
    )
    pretrained: str | None = Field(
        None,
        description="a causal transformers model (directory or Hub id) that writes, in place of kind and the sizes "
        "above; the same name as tokenizer.name",
    )
    tune: bool = Field(True, description="pretrained: train its weights, too (training.pretrained_learning_rate)")


class Latent(Part):
    dim: int = Field(32, ge=1)
    layers: tuple[LAYER_SIZE, ...] = Field(
        (), description="dimensions of its layers, top first; default one, or two halves (joint_energy, hierarchical…)"
    )
    standardize: bool = Field(True, description="batch-normalise posterior means (BN-VAE)")
    max_stddev: float | None = Field(0.5, gt=0, description="cap on the posterior's standard deviation; null for none")
    segments: int = Field(
        1,
        ge=1,
        description="parts that each say a stretch of the sentence, and that the decoder looks up; divides each layer",
    )


def layer_sizes(layers: tuple[int, ...], dim: int, kind: str) -> tuple[int, ...]:
    """Dimensions of the latent's layers under a prior of *kind*, top first; a remainder goes to the lower ones."""
    count = LAYERS.get(kind, 1)
    return layers or tuple((dim + place) // count for place in range(count))


class Inference(Part):
    kind: Literal["amortized", "refined", "short_run"] = Field(
        "amortized",
        description="an encoder; an encoder and Langevin steps on the true posterior; such steps from noise, without "
        "an encoder (encoder.*, latent.standardize and latent.max_stddev then have no part)",
    )
    steps: int | None = Field(None, ge=1, description="Langevin steps; default 5 (refined) or 10 (short_run)")
    step_size: float | None = Field(
        None,
        gt=0,
        le=2,
        description="refined: in standard deviations of the encoder's posterior, default 0.7; "
        "short_run: where its learned sizes begin, default 0.3",
    )
    elbo_weight: float | None = Field(
        None, ge=0, description="refined: weight of the encoder's own bound beside −log q at refined latents; default 1"
    )


class Prior(Part):
    kind: Literal[
        "gaussian", "gaussian_mixture", "energy", "diffusion_energy", "joint_energy", "hierarchical_diffusion_energy"
    ] = "diffusion_energy"
    transport: Literal["identity", "ladder"] | None = Field(
        None,
        description="from noise to latents; default ladder (joint_energy, hierarchical_diffusion_energy) or identity",
    )
    learning: Literal["score_matching", "recovery"] = "score_matching"
    num_levels: int | None = Field(
        None,
        ge=1,
        description="levels of the noise ladder; default 16 (diffusion_energy) or 8 (hierarchical…); energies have 1",
    )
    schedule: Literal["log_snr", "published"] = "log_snr"
    reference: Literal["stationary", "flat"] = Field(
        "stationary", description="what F = 0 means: N(0, I) at every level, or the published form"
    )
    log_snr_max: float = 5.0
    log_snr_min: float = -4.0
    sampler: Literal["semi_implicit", "langevin"] = "semi_implicit"
    steps: int | None = Field(
        None, ge=1, description="chain steps a level; default 2 (diffusions) or 40 (energies, gaussian, mixture)"
    )
    step_size: float = Field(0.1, gt=0, description="langevin: step in units of sigma")
    start: Literal["tweedie", "reference"] = Field(
        "tweedie", description="where a level's chain begins: at the denoised mean, or at a draw of the Gaussian"
    )
    acceptance: float = Field(0.9, gt=0, lt=1, description="semi_implicit: rho is adapted to this acceptance")
    metropolis: bool | None = Field(
        None, description="reject proposals (Metropolis-Hastings); default true, but false for recovery, which diverges"
    )
    chain_precision: Literal["float32", "bf16"] = Field(
        "bf16", description="of a chain's matrix products; bf16 only where the hardware has it"
    )
    hidden_size: int = Field(256, ge=1)
    num_blocks: int = Field(3, ge=1)
    spectral_norm: bool = False
    potential_penalty: float = Field(1e-3, ge=0)
    encoder_gradient: Literal["full", "positive_only"] = "full"
    components: int = Field(20, ge=1, description="gaussian_mixture: number of components")
    symbol_levels: Literal["all", "first"] = "all"
    strength: float = Field(2.0, ge=0, description="default strength of conditioning on symbols")
    view_size: int = Field(
        32, ge=2, description="dimension of contrastive views, where objective.contrastive_weight > 0"
    )
    like_strength: float = Field(2.0, ge=0, description="default strength of being like examples; 1 is Bayes' rule")


class Head(Part):
    name: str = Field(pattern=NAME_PATTERN, max_length=60)
    classes: int | None = Field(None, ge=1, description="number of codes of an unsupervised head")
    labels: str | None = Field(None, description="label column of a supervised head")
    label_limit: int | None = Field(None, ge=0, description="semi-supervised: keep only so many labels")
    layer: int | None = Field(
        None,
        ge=1,
        description="layer of the latent that it reads, 1 the lowest (layer-wise potentials only); default all",
    )


class Objective(Part):
    kl_weight: float = Field(1.0, ge=0)
    kl_schedule: Literal["constant", "linear", "cyclical"] = "linear"
    kl_warmup: float = Field(
        0.25, ge=0, le=1, description="share of the stage (or of a cycle) over which the weight rises"
    )
    kl_cycles: int = Field(4, ge=1)
    free_bits: float = Field(0.0, ge=0, description="nats per latent dimension")
    supervised_weight: float = Field(1.0, ge=0)
    cluster_weight: float = Field(1.0, ge=0)
    mutual_information_weight: float = Field(0.0, ge=0)
    cluster_sampling: bool = Field(False, description="draw training batches uniformly over clusters")
    cluster_features: Literal["latent", "answer"] = Field(
        "latent",
        description="what k-means sees: posterior means, anew each epoch; or, in dialogues, what of a turn tells the "
        "turn after it (canonical correlation of their words), once",
    )
    cluster_pca: int = Field(64, ge=1, description="principal components that k-means sees; at most latent.dim")
    cluster_whiten: bool = Field(False, description="whiten those components, as published")
    cluster_start: float = Field(
        0.7, ge=0, le=1, description="share of a text stage after which clusters begin to teach the encoder"
    )
    contrastive_weight: float = Field(
        0.0, ge=0, description="contrastive guidance (generation by example): weight of SimCLR and of the prior's view"
    )
    contrastive_temperature: float = Field(0.1, gt=0)
    contrastive_word_dropout: float = Field(
        0.2, ge=0, lt=1, description="share of the words hidden in the second reading of a sentence"
    )
    contrastive_negatives: int = Field(16, ge=0, description="the model's own sentences among the negatives of a batch")
    cluster_residual: bool = Field(True, description="cluster what the supervised heads' labels leave unexplained")


class Stage(Part):
    name: Literal["autoencoder", "prior", "joint"]
    epochs: float | None = Field(None, gt=0)
    steps: int | None = Field(None, ge=1)


class Training(Part):
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)] = (
        Stage(name="autoencoder", epochs=5),
        Stage(name="prior", steps=2000),
    )
    start_from: str | None = Field(
        None, description="a run or saved model whose encoder, decoder and transport this one begins with"
    )
    batch_size: int = Field(128, ge=1)
    prior_batch_size: int = Field(256, ge=1)
    accumulate: int = Field(
        1,
        ge=1,
        description="batches whose gradients are added up for one step: what one batch of all their sentences does, "
        "but for its statistics (latent.standardize, mutual information, negatives), which are of each one",
    )
    workers: int = Field(
        0,
        ge=0,
        description="processes that read and pad the same batches ahead; 0, a thread, is faster for text in memory",
    )
    learning_rate: float = Field(1e-3, gt=0)
    prior_learning_rate: float = Field(1e-3, gt=0)
    pretrained_learning_rate: float = Field(
        5e-5, gt=0, description="of what encoder.pretrained or decoder.pretrained names"
    )
    weight_decay: float = Field(0.0, ge=0)
    gradient_clip: float = Field(1.0, gt=0)
    mixed_precision: Literal["no", "bf16"] = Field(
        "no", description="bf16: bfloat16 products in the text's stages, where the hardware has them; else float32"
    )
    evaluate_every: int = Field(500, ge=1, description="steps between health lines")
    checkpoint_every: int = Field(500, ge=1)
    keep_checkpoints: int = Field(2, ge=1)


class LanguageModel(Part):
    samples: int = Field(40000, ge=40, description="sentences for reverse and forward perplexity, as published")
    embedding_size: int = Field(256, ge=1)
    hidden_size: int = Field(256, ge=1)
    num_layers: int = Field(1, ge=1)
    dropout: float = Field(0.3, ge=0, lt=1)
    max_epochs: int = Field(12, ge=1, description="it stops earlier when held-out sentences no longer gain")
    batch_size: int = Field(64, ge=1)


class Evaluation(Part):
    samples: int = Field(2000, ge=1)
    samples_per_class: int = Field(500, ge=1)
    limit: int | None = Field(None, ge=1)
    decoding: Literal["greedy", "sample"] = Field(
        "greedy", description="how sentences under symbols and edits are written; free samples are measured both ways"
    )
    temperature: float = Field(1.0, gt=0, description="of sampled words; 1 is the model's own distribution")
    draws: int = Field(16, ge=1, description="suites: draws of the posterior for each likelihood interval")
    q_steps: int = Field(
        40, ge=0, description="suites: gradient steps on each sentence's own posterior before those draws"
    )
    temperatures: int = Field(4, ge=1, description="suites: annealing temperatures for each log Z")
    chains: int = Field(1, ge=1, description="suites: annealing chains averaged for each log Z")
    refine: int = Field(
        0,
        ge=0,
        description="steps that move posterior means uphill (as --refine does): a second reconstruction beside the "
        "encoder's own",
    )
    language_model: LanguageModel = LanguageModel()


class Recipe(Part):
    name: str = Field(pattern=NAME_PATTERN, max_length=80)
    description: str = ""
    seed: int = Field(0, ge=0, lt=2**32)
    data: Data = Data()
    tokenizer: Tokenizer = Tokenizer()
    encoder: Encoder = Encoder()
    decoder: Decoder = Decoder()
    latent: Latent = Latent()
    inference: Inference = Inference()
    heads: tuple[Head, ...] = ()
    prior: Prior = Prior()
    objective: Objective = Objective()
    training: Training = Training()
    evaluation: Evaluation = Evaluation()

    @model_validator(mode="before")
    @classmethod
    def _drop_removed(cls, data: Any) -> Any:
        return without_removed(data)
