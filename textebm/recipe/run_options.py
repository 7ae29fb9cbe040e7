"""The sections of a recipe that decide how the model is made and measured: data, objective, training, evaluation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from textebm.recipe.model_options import LAYERS_READ, Part, implementation, option


class Data(Part):
    corpus: Literal["grammar", "ptb", "dailydialog", "yelp", "agnews", "smd", "files", "hub"] = option(
        "grammar",
        "Where the text comes from: the embedded language, a corpus that textebm knows, your files, or a data set of "
        "the Hugging Face Hub.",
        "always.",
    )
    name: str | None = option(None, "hub: the data set's name.", "data.corpus is hub.")
    train: str | None = option(
        None, "files: the training file (txt, csv, tsv, jsonl, parquet).", "data.corpus is files."
    )
    validation: str | None = option(
        None, "files: the validation file; null: split off the training file.", "you have a split of your own."
    )
    test: str | None = option(
        None, "files: the test file; null: split off the training file.", "you have a split of your own."
    )
    text_column: str = option(
        "text",
        "files, hub: the column that holds the sentence; agnews: text (headline and text) or headline.",
        "yours has another name.",
    )
    label_columns: tuple[str, ...] = option((), "files, hub: columns read as labels.", "the text has labels.")
    class_names: tuple[tuple[str, ...], ...] = option(
        (),
        "files, hub: names for the classes of each label column, in the order of their values; an empty list keeps "
        "the values.",
        "labels are numbers.",
    )
    group_column: str | None = option(
        None,
        "files, hub: rows with the same value here stay on one side of a split that is drawn.",
        "several rows are of one document, dialogue or author.",
    )
    leave_out: str | None = option(
        None,
        "LABEL=CLASS: train and validation lose this class's sentences; a suite measures them as outliers.",
        "you ask whether the model knows what it never saw.",
        pattern=r"^[^=]+=.+$",
    )
    context_column: str | None = option(
        None,
        "files, hub: the column of the turns before the sentence: a list, or a text with __eou__ or tabs between.",
        "your text is dialogue and data.context_turns is above 0.",
    )
    context_turns: int = option(
        0,
        "Dialogue: encoder, decoder and energy see this many turns before the sentence.",
        "the model should answer: 1 to 3.",
        ge=0,
    )
    context_tokens: int = option(
        80, "A longer history loses its beginning.", "data.context_turns is above 0 and turns are long.", ge=1
    )
    size: int = option(6000, "grammar: number of training sentences.", "for a quicker or better quickstart.", ge=100)
    max_tokens: int = option(
        40,
        "Longer sentences are cut to this many tokens.",
        "`textebm data check` says how long your sentences are; time and memory grow with it.",
        ge=2,
    )
    limit: int | None = option(
        None, "Use only this many training sentences; null: all.", "to try something on less text.", ge=1
    )
    detokenize: bool = option(
        False,
        "The networks read and write English as it is written (n't and signs at their words, capitals); the corpus, "
        "the measures and what the model gives stay lower-case tokens.",
        "decoder.pretrained is a published model and the corpus is yelp or dailydialog.",
    )


class Objective(Part):
    kl_weight: float = option(
        1.0,
        "Weight of the KL term of the bound.",
        "lower it (.4 to .8) where reconstructions are poor or the latent is ignored.",
        ge=0,
    )
    kl_schedule: Literal["constant", "linear", "cyclical"] = option(
        "linear",
        "The weight rises linearly (Bowman et al. 2016), in cycles (Fu et al. 2019), or not at all.",
        "cyclical if the latent is ignored; constant to continue a trained model.",
    )
    kl_warmup: float = option(
        0.25,
        "Share of the stage (or of a cycle) over which the weight rises.",
        "the latent is ignored (raise it).",
        ge=0,
        le=1,
    )
    kl_cycles: int = option(4, "cyclical: number of cycles.", "objective.kl_schedule is cyclical.", ge=1)
    free_bits: float = option(
        0.0,
        "Nats of each latent dimension that cost nothing (Kingma et al. 2016).",
        "latent.standardize is false and units die.",
        ge=0,
    )
    supervised_weight: float = option(
        1.0, "Weight of the heads' labels.", "control by a label is weak (raise it, 3 to 5).", ge=0
    )
    cluster_weight: float = option(
        4.0,
        "Weight of the found clusters as targets of the unsupervised heads.",
        "codes are not recovered from what they generate (raise it); 1 with features latent, which the latent holds "
        "already.",
        ge=0,
    )
    mutual_information_weight: float = option(
        0.0,
        "Weight of the information between text and codes (SVEBM-IB).",
        "few codes are in use, or to reproduce published models.",
        ge=0,
    )
    cluster_features: Literal["latent", "answer", "content", "sentence", "mixed"] = option(
        "content",
        "What k-means sees, once: a text's content words (content), what of a turn tells the turn after it (answer), "
        "what a sentence encoder says of it (sentence), or several (mixed); or posterior means, anew each epoch "
        "(latent).",
        "answer for speech acts in dialogues; latent for codes of form, which are followed best; docs/codes.md has "
        "what each is worth.",
    )
    sentence_encoder: str | None = option(
        None,
        "A transformers encoder (directory or Hub id) for features sentence and for seeds; null: encoder.pretrained. "
        "It rests, and is asked once.",
        "cluster_features is sentence or mixed.",
    )
    sentence_layer: LAYERS_READ = option(
        (-1,),
        "Which of its layers are averaged over the words: -1 the last, which knows subjects; middle ones know more of "
        "the form. Several stand beside each other.",
        "codes should be acts rather than subjects (half the layers), or feelings, by seeds ([3, -1] of 6).",
        min_length=1,
    )

    cluster_mix: tuple[str, ...] = option(
        (),
        "What features mixed are made of, each with a weight: 'content=1', 'sentence=0.5', 'answer=1'; empty: content "
        "and sentence.",
        "cluster_features is mixed.",
    )
    cluster_implementation: str | None = implementation("The features that are clustered", "cluster_features")
    cluster_pca: int = option(
        64,
        "Principal components that k-means sees; at most latent.dim.",
        "codes follow noise (lower it, 8 to 16).",
        ge=1,
    )
    cluster_start: float = option(
        0.7,
        "Share of a text stage after which clusters of the latent begin to teach the encoder; those of other features "
        "do from the first step.",
        "cluster_features is latent: clusters of half-trained latents are poor targets.",
        ge=0,
        le=1,
    )
    contrastive_weight: float = option(
        0.0,
        "Weight of contrastive guidance (CLEL), which generation by example needs: SimCLR on the encoder and the "
        "prior's view of it.",
        "you want `--like`: 1.",
        ge=0,
    )
    contrastive_temperature: float = option(
        0.1, "Temperature of SimCLR.", "objective.contrastive_weight is above 0; lower tells finer differences.", gt=0
    )
    cluster_residual: bool = option(
        True,
        "Cluster what the supervised heads' labels leave unexplained.",
        "set it to false where codes may say the same as labels.",
    )


class Stage(Part):
    name: Literal["autoencoder", "prior", "joint"] = option(
        ...,
        "What learns: encoder and decoder; the prior on their latents; or all together.",
        "add a joint stage after the prior to compare with published models.",
    )
    epochs: float | None = option(
        None, "Length in passes over the training sentences.", "validation still improves; give this or steps.", gt=0
    )
    steps: int | None = option(None, "Length in optimiser steps.", "the same, for a prior stage.", ge=1)


class Training(Part):
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)] = option(
        (Stage(name="autoencoder", epochs=5), Stage(name="prior", steps=2000)),
        "What is trained, in this order.",
        "to train longer, or jointly.",
    )
    start_from: str | None = option(
        None,
        "A run or saved model whose encoder, decoder and transport this one begins with.",
        "to try other priors on one autoencoder.",
    )
    batch_size: int = option(128, "Sentences a step.", "memory is short, or to use a large GPU.", ge=1)
    prior_batch_size: int = option(256, "Latents a step of a prior stage.", "very small corpora.", ge=1)
    accumulate: int = option(
        1,
        "Batches whose gradients are added up for one step: what one batch of all their sentences does, but for its "
        "statistics (latent.standardize, mutual information, negatives), which are of each one.",
        "memory is short.",
        ge=1,
    )
    learning_rate: float = option(
        1e-3, "Of encoder and decoder.", "training diverges (lower it) or is slow (2e-3).", gt=0
    )
    prior_learning_rate: float = option(1e-3, "Of the prior.", "the energy runs away (lower it).", gt=0)
    save_full: bool = option(
        False,
        "Save the weights of a pretrained network at rest, too, not only its name, revision and SHA-256.",
        "the model should load where that network is not.",
    )
    adapter_learning_rate: float = option(
        1e-3, "Of the adapters of encoder.tune or decoder.tune = lora.", "sentences are not fluent (lower it).", gt=0
    )
    pretrained_learning_rate: float = option(
        5e-5, "Of what encoder.pretrained or decoder.pretrained names.", "its knowledge is lost (lower it).", gt=0
    )
    weight_decay: float = option(0.0, "Of AdamW.", "validation is worse than training: .01.", ge=0)
    gradient_clip: float = option(1.0, "Largest norm of a group's gradient.", "rarely.", gt=0)
    mixed_precision: Literal["no", "bf16"] = option(
        "no",
        "bf16: bfloat16 products in the text's stages, where the hardware has them; else float32.",
        "speed matters: the shipped recipes use bf16.",
    )
    patience: int | None = option(
        None,
        "A text stage ends when so many health lines in a row had a worse validation bound (its KL weighted "
        "as in training) than the best one, and the "
        "best weights are kept; null: it runs to its end, and the last weights are kept.",
        "text is little and training learns it by heart: 3.",
        ge=1,
    )
    evaluate_every: int = option(500, "Steps between health lines.", "to see more or less of them.", ge=1)
    health_sentences: int = option(
        512, "Validation sentences that a health line measures.", "the decoder is a large language model: 64.", ge=2
    )
    checkpoint_every: int = option(500, "Steps between checkpoints.", "a step takes long.", ge=1)
    keep_checkpoints: int = option(2, "Checkpoints kept.", "the disk is small, or you want to go back.", ge=1)
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] = option(
        (),
        "Experiment trackers, each a package of its own, that get the health lines too; metrics.jsonl has them anyway.",
        "several runs are watched at once.",
    )


class LanguageModel(Part):
    """The recurrent language model that perplexities are measured with; part of the protocol, so change it for none."""

    samples: int = option(
        40000, "Sentences for reverse and forward perplexity, as published.", "a suite takes too long.", ge=40
    )
    embedding_size: int = option(256, "Dimension of its words.", "a suite takes too long.", ge=1)
    hidden_size: int = option(256, "Dimension of its states.", "a suite takes too long.", ge=1)
    max_epochs: int = option(
        12, "It stops earlier when held-out sentences no longer gain.", "a suite takes too long.", ge=1
    )


class Evaluation(Part):
    samples: int = option(2000, "Sentences written for measures of samples.", "an evaluation takes too long.", ge=1)
    samples_per_class: int = option(
        500, "Sentences written under each class of a labelled head.", "an evaluation takes too long.", ge=1
    )
    limit: int | None = option(
        None, "At most this many test sentences, chosen by the seed; null: all.", "an evaluation takes too long.", ge=1
    )
    report_sentences: int | None = option(
        None,
        "Sentences that the report and its maps show, chosen by the seed; null: as many as limit, at most 3,000.",
        "making the report takes too long, or the map is too thin.",
        ge=1,
    )
    decoding: Literal["greedy", "sample"] = option(
        "greedy",
        "How sentences under symbols and edits are written; free samples are measured both ways.",
        "you will generate by sampling.",
    )
    temperature: float = option(
        1.0, "Of sampled words; 1 is the model's own distribution.", "evaluation.decoding is sample.", gt=0
    )
    draws: int = option(
        16, "Suites: draws of the posterior for each likelihood interval.", "the interval is wide (raise it).", ge=1
    )
    q_steps: int = option(
        40,
        "Suites: gradient steps on each sentence's own posterior before those draws.",
        "the interval is wide (raise it), or a suite takes too long.",
        ge=0,
    )
    temperatures: int = option(
        4, "Suites: annealing temperatures for each log Z.", "the interval is wide (raise it, 10 to 40).", ge=1
    )
    chains: int = option(
        1, "Suites: annealing chains averaged for each log Z.", "the interval is wide after more temperatures.", ge=1
    )
    refine: int = option(
        0,
        "Steps that move posterior means uphill (as --refine does), for a second reconstruction beside the encoder's.",
        "the encoder reads long sentences inexactly: 20 to 30.",
        ge=0,
    )
    language_model: LanguageModel = LanguageModel()
