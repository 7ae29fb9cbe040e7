"""The sections of a recipe that decide what the model is: tokenizer, networks, latent, inference, heads."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from textebm.recipe.implementation import PATTERN

# names become folder names, metric names and ``head=class`` on the command line
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"

# Layers of the latent where latent.layers is empty: as equal as the dimensions allow. Other kinds have one.
LAYERS = {"joint_energy": 2, "hierarchical_diffusion_energy": 2}
LAYER_SIZE = Annotated[int, Field(ge=1)]
LAYERS_READ = Annotated[tuple[int, ...], BeforeValidator(lambda value: (value,) if isinstance(value, int) else value)]


class Part(BaseModel):
    """A closed, immutable section of the recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


def option(default: Any, what: str, when: str, **bounds: Any) -> Any:
    """An option: its default, what it does, when to touch it, and its range (ge, gt, le, lt)."""
    return Field(default, description=what, json_schema_extra={"when": when}, **bounds)


def _tune_in_words(section: Any) -> Any:
    """Recipes of earlier versions said true (full) or false (rest)."""
    if not isinstance(section, dict) or not isinstance(section.get("tune"), bool):
        return section
    rest = {name: value for name, value in section.items() if name != "tune"}
    return {**rest, "tune": "full" if section["tune"] else "rest"} if section.get("pretrained") else rest


def implementation(what: str, instead_of: str = "kind") -> Any:
    """The option that names a class of the user's own."""
    return option(
        None,
        f"{what}, as package.module:Class (docs/extending.md), in place of {instead_of}; needs --allow-code.",
        "you have written your own.",
        pattern=PATTERN,
    )


class Tokenizer(Part):
    kind: Literal["word", "bpe", "pretrained"] | None = option(
        None,
        "How text is cut: into words split at blanks, into pieces of words (byte-pair encoding over bytes, which can "
        "spell any text) learned from the training text, or by the tokenizer of tokenizer.name; null: bpe for "
        "files and hub, words for the corpora that textebm knows.",
        "word for own text that is already split at blanks; pretrained together with a pretrained encoder or decoder.",
    )
    vocabulary_size: int = option(
        10000, "At most this many tokens; rarer words are read as <unk>.", "many words of your text are <unk>.", ge=10
    )
    name: str | None = option(
        None,
        "The pretrained tokenizer: a directory or a Hub id; null: that of decoder.pretrained, or else of "
        "encoder.pretrained.",
        "tokenizer.kind is pretrained and no network is.",
    )
    lowercase: bool = option(
        False, "Capitals are read and written as small letters.", "text is little and capitals say little."
    )
    punctuation: Literal["keep", "apart"] = option(
        "keep",
        "word: whether marks (! , ?) stay at their words or are tokens of their own, set back when text is written.",
        "apart for own text in words; bpe sets them apart by itself.",
    )
    html: bool = option(
        False, "HTML entities and tags are read as what they stand for.", "`textebm data check` found some."
    )


class Encoder(Part):
    kind: Literal["gru", "lstm", "transformer", "bag_of_words", "whole_words"] = option(
        "gru",
        "The network that reads a sentence. Two do not know the words' order: bag_of_words reads documents of any "
        "length; whole_words gives each word, whatever its pieces and capitals, a vector in the latent itself, and "
        "needs no sizes.",
        "a transformer pays for long texts and many sentences, and best on a GPU; bag_of_words for topics; whole_words "
        "for labels of few texts, with latent.standardize false.",
    )
    implementation: str | None = implementation("An encoder of your own")
    embedding_size: int = option(256, "Dimension of a word.", "shrink it for small corpora.", ge=1)
    hidden_size: int = option(
        512,
        "Dimension of the network's states; a transformer's must be divisible by num_attention_heads.",
        "shrink it for speed or for small corpora; grow it where reconstructions are poor.",
        ge=1,
    )
    num_layers: int = option(
        1, "Layers of the network.", "a transformer wants 2 to 6; a recurrent one rarely more.", ge=1
    )
    num_attention_heads: int = option(4, "Attention heads of a transformer.", "encoder.kind is transformer.", ge=1)
    dropout: float = option(
        0.0, "Share of the activations hidden in training.", "validation is worse than training: .1 to .3.", ge=0, lt=1
    )
    word_dropout: float = option(
        0.02,
        "Share of the encoder's input words replaced by <unk> in training, so that it learns to read around a word it "
        "does not know.",
        "set it to 0 where no word can be unknown (tokenizer.kind is bpe).",
        ge=0,
        lt=1,
    )
    bidirectional: bool = option(
        True, "A recurrent network reads from both ends.", "set it to false to halve the time of reading."
    )
    tie_embedding: bool = option(
        False,
        "Read words in the decoder's embedding, whose embedding_size must be the same; that of a pretrained decoder is "
        "mapped to it.",
        "the corpus is small beside its vocabulary (as in the ptb recipe).",
    )
    pretrained: str | None = option(
        None,
        "A transformers model (directory, Hub id or Hub id@revision) by which words are read, in its own tokens, as "
        "its hidden states, mapped to embedding_size.",
        "few sentences, or a language that a published model knows well.",
    )
    tune: Literal["rest", "lora", "full"] = option(
        "lora",
        "What of the pretrained network is trained: nothing, adapters of low rank in its attention (needs the library "
        "peft), or every weight, at training.pretrained_learning_rate.",
        "rest reads each sentence once and keeps the states; full wants many sentences and memory.",
    )
    lora_rank: int = option(8, "Rank of those adapters.", "tune is lora and much text differs from English.", ge=1)
    pooling: Literal["mean", "first", "last"] | None = option(
        None,
        "The posterior is read straight off the mean, first or last of the pretrained network's states, in place of "
        "kind and the sizes above; null: words are read one by one.",
        "encoder.pretrained is a sentence encoder, whose page names its pooling.",
    )
    layer: LAYERS_READ = option(
        (-1,),
        "Which of its layers are read: 0 is its embedding, -1 the last. Several stand beside each other.",
        "a middle layer keeps more of the words.",
        min_length=1,
    )
    _earlier = model_validator(mode="before")(_tune_in_words)
    context_size: int = option(
        128, "Dimension of the encoded turns before a sentence.", "data.context_turns is above 0.", ge=1
    )


class Decoder(Part):
    kind: Literal["gru", "lstm", "transformer", "bag_of_words"] = option(
        "gru",
        "The network that writes a sentence from its latent; bag_of_words writes a list of words.",
        "a transformer pays for long texts and many sentences, and best on a GPU; bag_of_words for topics.",
    )
    implementation: str | None = implementation("A decoder of your own")
    embedding_size: int = option(256, "Dimension of a word.", "shrink it for small corpora.", ge=1)
    hidden_size: int = option(
        512,
        "Dimension of the network's states; a transformer's must be divisible by num_attention_heads.",
        "shrink it for speed; grow it where sentences are not fluent.",
        ge=1,
    )
    num_layers: int = option(
        1, "Layers of the network.", "a transformer wants 2 to 6; decoder.ladder needs several.", ge=1
    )
    num_attention_heads: int = option(
        4,
        "Attention heads of a transformer, or of the look-up of segments.",
        "decoder.kind is transformer, or latent.segments is above 1.",
        ge=1,
    )
    dropout: float = option(
        0.0, "Share of the activations hidden in training.", "validation is worse than training: .1 to .3.", ge=0, lt=1
    )
    ladder: bool = option(
        False,
        "Each layer of the latent enters a recurrent layer of its own, the top one first.",
        "a hierarchical prior whose layers should say different things.",
    )
    skip: bool = option(
        False,
        "The latent also goes straight to the output layer of a recurrent decoder.",
        "reconstructions are poor: it raised them in every recipe that has it.",
    )
    word_dropout: float = option(
        0.0,
        "Share of the decoder's input words replaced by <unk> in training, so that it must read the latent.",
        "the decoder ignores the latent (KL near 0): .3; it costs fluency.",
        ge=0,
        le=1,
    )
    pretrained: str | None = option(
        None,
        "A causal transformers model (directory, Hub id or Hub id@revision) that writes, in place of kind and the "
        "sizes above; tokenizer.kind must be pretrained.",
        "few sentences, or a need for fluency.",
    )
    tune: Literal["rest", "lora", "full"] = option(
        "lora",
        "What of the pretrained network is trained: nothing, adapters of low rank in its attention (needs the library "
        "peft), or every weight, at training.pretrained_learning_rate.",
        "rest is the least memory; full wants many sentences, and forgets what the network knew.",
    )
    lora_rank: int = option(8, "Rank of those adapters.", "tune is lora and much text differs from English.", ge=1)
    _earlier = model_validator(mode="before")(_tune_in_words)


class Latent(Part):
    dim: int = option(
        32,
        "Dimensions of a sentence's latent vector.",
        "16 for simple sentences, 64 and more where reconstructions are poor; a prior of more is harder to learn.",
        ge=1,
    )
    layers: tuple[LAYER_SIZE, ...] = option(
        (),
        "Dimensions of the latent's layers, the top one first; they sum to latent.dim. Empty: one layer, or two halves "
        "under joint_energy and hierarchical_diffusion_energy.",
        "a hierarchical prior with other layers than two halves.",
    )
    standardize: bool = option(
        True,
        "Posterior means are batch-normalised, without scale and shift (BN-VAE, Zhu et al. 2020), so no unit dies.",
        "set it to false to reproduce published models; watch the reliance then.",
    )
    max_stddev: float | None = option(
        0.5,
        "Cap on the posterior's standard deviation, in units of the prior's; null for none.",
        "raise it (.6 to .9) for smoother latents and a lower KL, lower it for exact reconstructions.",
        gt=0,
    )
    segments: int = option(
        1,
        "Parts that each say a stretch of the sentence and that the decoder looks up; it divides every layer.",
        "long sentences (20 words and more) come back wrong: 4 to 8.",
        ge=1,
    )


def layer_sizes(layers: tuple[int, ...], dim: int, kind: str) -> tuple[int, ...]:
    """Dimensions of the latent's layers under a prior of *kind*, top first; a remainder goes to the lower ones."""
    count = LAYERS.get(kind, 1)
    return layers or tuple((dim + place) // count for place in range(count))


class Inference(Part):
    kind: Literal["amortized", "refined", "short_run"] = option(
        "amortized",
        "How a sentence's latent is inferred: by the encoder; by the encoder and Langevin steps on the true posterior; "
        "by such steps from noise without an encoder (encoder.*, latent.standardize and latent.max_stddev then mean "
        "nothing).",
        "refined for better latents at several times the cost; short_run to reproduce published models.",
    )
    steps: int | None = option(
        None, "Langevin steps; null is 5 (refined) or 10 (short_run).", "inference.kind is not amortized.", ge=1
    )
    step_size: float | None = option(
        None,
        "refined: step in standard deviations of the encoder's posterior, null is 0.7; short_run: where its learned "
        "steps begin, null is 0.3.",
        "inference.kind is not amortized and training diverges (lower it).",
        gt=0,
        le=2,
    )
    elbo_weight: float | None = option(
        None,
        "refined: weight of the encoder's own bound beside −log q at refined latents; null is 1.",
        "0 to train the encoder on refined latents alone.",
        ge=0,
    )


class Head(Part):
    """A symbol: a discrete variable with a name, read off the latent."""

    name: str = option(
        ..., "Its name, as in --symbol NAME=CLASS and in metrics.", "always.", pattern=NAME_PATTERN, max_length=60
    )
    classes: int | None = option(
        None,
        "Number of codes of an unsupervised head, which are found by clustering; 0, or the word auto: as many as the "
        "clusters' silhouette says (not for features latent).",
        "the codes are too coarse or too fine; give this, labels or seeds.",
        ge=0,
    )
    features: Literal["latent", "answer", "content", "sentence", "mixed"] | None = option(
        None,
        "What this head's codes are found in; null: objective.cluster_features.",
        "two heads should find different things, acts and moods, say.",
    )
    seeds: tuple[str, ...] = option(
        (),
        "Classes given by words or phrases instead of labels, one a line: 'joy: happy, what a great day'. A class "
        "without phrases ('none:') is what no other tells. objective.sentence_encoder, where there is one, compares.",
        "you know the classes and have no labels.",
    )
    labels: str | None = option(
        None, "The label column that teaches a supervised head.", "the corpus has labels; give this or classes."
    )
    label_limit: int | None = option(
        None,
        "Keep only this many of the training labels, chosen by the seed (semi-supervised).",
        "to see what few labels are worth.",
        ge=0,
    )
    estimate_labels: bool = option(
        False,
        "Fill in the training labels that are missing, by naive Bayes fitted by EM to all training texts (Nigam et al. "
        "2000), before training.",
        "few texts have labels, and the words of a text tell its class.",
    )

    @field_validator("classes", mode="before")
    @classmethod
    def _auto(cls, value: object) -> object:
        return 0 if value == "auto" else value

    layer: int | None = option(
        None,
        "The layer of the latent that it reads, 1 the lowest; null: all. Only joint_energy and "
        "hierarchical_diffusion_energy have several.",
        "a symbol should live in one layer.",
        ge=1,
    )
