"""The field's tables: published rows, with their sources, and beside them what was measured here.

Published figures come from the project's notes (design/evaluation.md), which name table and paper; none is filled in
from memory. A cell that was not measured or not published is a dash.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from textebm.evaluation.metric import Evaluation, cell, number

Row = tuple[str, ...]  # first the name of the system, then cells as printed; or names of metrics, for our own rows


@dataclass(frozen=True)
class FieldTable:
    """columns: headings after the first; published and own rows have as many cells. A cell of an own row is a metric's
    name, or text in quotes."""

    title: str
    source: str
    columns: Row
    published: tuple[Row, ...]
    own: tuple[Row, ...]

    def markdown(self, evaluation: Evaluation) -> str:
        head = ["system", *self.columns]
        lines = [f"### {self.title}", "", _line(head), "|---|" + "---:|" * len(self.columns)]
        lines += [_line(row) for row in self.published]
        for name, *cells in self.own:
            values = [_value(evaluation, each) for each in cells]
            if any(value != "–" for value in values):
                lines.append(_line([f"**{name}**", *values]))
        return "\n".join([*lines, "", f"Published rows: {self.source} Rows in bold were measured here.", ""])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _value(evaluation: Evaluation, name: str) -> str:
    if name.startswith("'"):
        return name.strip("'")
    metric = evaluation.metrics.get(name)
    return "–" if metric is None else number(metric.value)


PTB = FieldTable(
    "Penn Treebank, sentences of up to 40 tokens",
    "Shi et al. 2020, table 1 (40,000 samples).",
    ("rPPL ↓", "BLEU ↑", "wKL ↓", "NLL ↓"),
    (
        ("test set", "–", "100", "0.14", "–"),
        ("RNN-LM", "–", "–", "–", "101.21"),
        ("VAE", "686.18", "3.12", "0.50", "≤ 100.85"),
        ("DI-VAE", "310.29", "4.53", "0.24", "≤ 108.90"),
        ("semi-VAE + MI", "260.28", "5.08", "0.20", "≤ 107.30"),
        ("GM-VAE", "983.50", "2.34", "0.72", "≤ 99.44"),
        ("DGM-VAE + MI", "247.37", "8.67", "0.18", "≤ 105.73"),
    ),
    (
        ("this run, sampled words", "reverse_ppl", "reconstruction_bleu", "wkl_large", "nll_upper"),
        ("this run, greedy words", "reverse_ppl_greedy", "reconstruction_bleu", "wkl_large_greedy", "nll_upper"),
        ("this run, refined latents", "–", "reconstruction_bleu_refined", "–", "–"),
        ("RNN-LM of the same run", "rnn_lm_reverse_ppl", "–", "rnn_lm_wkl_large", "rnn_lm_nll"),
        ("real sentences (rPPL: as many; wKL: test set)", "reverse_ppl_floor", "–", "wkl_real", "–"),
    ),
)
PTB_PPL = FieldTable(
    "Penn Treebank, perplexity with a 32-dimensional latent",
    "Pang et al. 2021, table 1.",
    ("PPL ↓",),
    (("LSTM-LM", "100.47"), ("free-bits VAE", "96.35"), ("short-run inference", "94.26")),
    (("this run, upper bound", "ppl_upper"), ("LSTM-LM of the same run", "rnn_lm_ppl")),
)


def _kmeans(features: str) -> tuple[str, ...]:
    parts = [f"kmeans_{features}_{metric}" for metric in ("homogeneity", "v_measure", "ami")]
    return tuple(f"{part}_act" for part in parts) + tuple(f"{part}_emotion" for part in (parts[0], parts[2]))


DAILYDIALOG = FieldTable(
    "DailyDialog, codes found without labels",
    "Shi et al. 2020, table 2; the k-means rows in plain type were measured before, with 125 codes.",
    ("MI ↑", "BLEU ↑", "act hom. ↑", "act V ↑", "act AMI ↑", "emotion hom. ↑", "emotion AMI ↑"),
    (
        ("DI-VAE", "1.20", "3.05", ".18", "–", "–", ".09", "–"),
        ("semi-VAE + MI", "1.21", "3.69", ".21", "–", "–", ".14", "–"),
        ("GM-VAE + MI", "1.41", "2.96", ".19", "–", "–", ".09", "–"),
        ("DGM-VAE + MI", "1.32", "7.39", ".23", "–", "–", ".16", "–"),
        ("k-means, words", "–", "–", ".317", ".131", ".123", ".170", ".025"),
        ("k-means, 1–3-grams", "–", "–", ".342", ".141", ".134", ".181", ".027"),
        ("k-means, first and last two words", "–", "–", ".395", ".174", ".167", ".178", ".031"),
        ("random codes", "–", "–", ".020", "–", "0", ".074", "0"),
    ),
    (
        (
            "this run",
            "mutual_information_zy",
            "reconstruction_bleu",
            "homogeneity_act",
            "v_measure_act",
            "ami_act",
            "homogeneity_emotion",
            "ami_emotion",
        ),
        (
            "this run, codes shuffled",
            "–",
            "–",
            "permuted_homogeneity_act",
            "permuted_v_measure_act",
            "–",
            "permuted_homogeneity_emotion",
            "–",
        ),
        ("k-means, words", "–", "–", *_kmeans("words")),
        ("k-means, 1–3-grams", "–", "–", *_kmeans("ngrams")),
        ("k-means, first and last two words", "–", "–", *_kmeans("ends")),
    ),
)
YELP = FieldTable(
    "Yelp, sentiment control",
    "LatentOps, thesis tables 4.1 and 4.3 (another classifier, and self-BLEU of another number of samples).",
    ("accuracy ↑", "self-BLEU ↓", "forward PPL ↓", "seconds for 150 ↓"),
    (
        ("GPT2-FT", ".98", "23.8", "–", "–"),
        ("PPLM", ".86", "31.0", "–", "3182"),
        ("FUDGE", ".77", "27.2", "–", "36.1"),
        ("LatentOps", ".99", "13.0", "–", "5.5"),
    ),
    (
        (
            "this run",
            "control_accuracy_sentiment",
            "control_self_bleu_sentiment",
            "control_forward_ppl_sentiment",
            "control_seconds_sentiment",
        ),
        (
            "… read back by its own encoder",
            "checked_accuracy_sentiment",
            "checked_self_bleu_sentiment",
            "checked_forward_ppl_sentiment",
            "–",
        ),
        (
            "… and as diverse as real ones",
            "diverse_accuracy_sentiment",
            "diverse_self_bleu_sentiment",
            "diverse_forward_ppl_sentiment",
            "–",
        ),
        *(
            (
                f"… at strength {strength}",
                f"sweep_accuracy_sentiment_strength{strength}",
                f"sweep_self_bleu_sentiment_strength{strength}",
                f"sweep_forward_ppl_sentiment_strength{strength}",
                "–",
            )
            for strength in ("0.5", "1", "2", "4", "8")
        ),
        (
            "LSTM-LM of each class",
            "class_lm_accuracy_sentiment",
            "class_lm_self_bleu_sentiment",
            "class_lm_forward_ppl_sentiment",
            "–",
        ),
        ("real sentences", "judge_accuracy_sentiment", "real_self_bleu_sentiment", "real_forward_ppl_sentiment", "–"),
    ),
)
YELP_EDITS = FieldTable(
    "Yelp, sentiment edits of the 1,000 test sentences",
    "LatentOps, thesis (another classifier).",
    ("accuracy ↑", "input BLEU ↑", "reference BLEU ↑"),
    (("LatentOps", ".95", "54.0", "24.3"), ("DiRR", ".96", "61.5", "29.8"), ("FUDGE", ".40", "57.0", "18.0")),
    (
        ("this run, least change", "edit_accuracy", "edit_input_bleu", "edit_reference_bleu"),
        *(
            (
                f"… another word {keep} nats likelier",
                f"edit_accuracy_keep{keep}",
                f"edit_input_bleu_keep{keep}",
                f"edit_reference_bleu_keep{keep}",
            )
            for keep in (0, 3, 10)
        ),
        *(
            (
                f"written anew from level {level}",
                f"edit_accuracy_level{level}",
                f"edit_input_bleu_level{level}",
                f"edit_reference_bleu_level{level}",
            )
            for level in range(2, 65, 2)
        ),
        ("human rewrites", "edit_human_accuracy", "edit_human_input_bleu", "–"),
        ("unchanged input", "–", "'100'", "edit_copy_reference_bleu"),
    ),
)
TABLES: dict[str, tuple[FieldTable, ...]] = {
    "ptb": (PTB, PTB_PPL),
    "dailydialog": (DAILYDIALOG,),
    "yelp": (YELP, YELP_EDITS),
}


def field_tables(evaluation: Evaluation, corpus: str, name: str) -> str:
    """A Markdown page: the corpus's tables, what the codes are called, all metrics, and how they were measured."""
    sizes = ", ".join(f"{key} {value:,}" for key, value in evaluation.sizes.items())
    parts = [f"# {name}: measured on {evaluation.split}, seed {evaluation.seed}", "", f"Sentences: {sizes}.", ""]
    parts += [f"- {key}: {value}" for key, value in evaluation.settings.items()] + [""]
    parts += [table.markdown(evaluation) for table in TABLES.get(corpus, ())]
    for title, build in (("Likelihood and language", _likelihood), ("Other text", _outliers), ("Few labels", _labels)):
        if found := build(evaluation):
            parts += [f"### {title}", "", *found, ""]
    if evaluation.code_names:
        parts += ["### Codes by their words (c-TF-IDF; sentences)", "", "| code | words |", "|---|---|"]
        parts += [_line([cell(code), cell(words)]) for code, words in evaluation.code_names.items()] + [""]
    return "\n".join([*parts, "### Everything", "", evaluation.markdown()])


def _pairs(evaluation: Evaluation, head: Row, rows: Sequence[Row]) -> list[str]:
    """A table of metrics by name; empty when none was measured."""
    lines = [[name, *(_value(evaluation, each) for each in cells)] for name, *cells in rows]
    kept = [line for line in lines if any(value != "–" for value in line[1:])]
    return [_line(head), "|---|" + "---:|" * (len(head) - 1), *map(_line, kept)] if kept else []


def _likelihood(evaluation: Evaluation) -> list[str]:
    head = ("", "model", "model, greedy", "RNN-LM", "real")
    return _pairs(
        evaluation,
        head,
        (
            ("NLL a sentence, upper", "nll_upper", "–", "rnn_lm_nll", "–"),
            ("… lower", "nll_lower", "–", "–", "–"),
            ("perplexity, upper", "ppl_upper", "–", "rnn_lm_ppl", "–"),
            ("reverse perplexity", "reverse_ppl", "reverse_ppl_greedy", "rnn_lm_reverse_ppl", "reverse_ppl_floor"),
            ("forward perplexity", "forward_ppl", "forward_ppl_greedy", "rnn_lm_forward_ppl", "rnn_lm_ppl"),
            ("wKL", "wkl_sampled", "wkl", "rnn_lm_wkl", "wkl_real"),
            ("self-BLEU", "self_bleu_sampled", "self_bleu", "rnn_lm_self_bleu", "self_bleu_real"),
            ("copied", "copied_sampled", "copied", "–", "–"),
        ),
    )


def _suffixes(evaluation: Evaluation, prefix: str) -> list[str]:
    return [name.removeprefix(prefix) for name in evaluation.metrics if name.startswith(prefix)]


def _outliers(evaluation: Evaluation) -> list[str]:
    rows = [
        (name, f"outlier_auroc_{name}", f"rnn_lm_outlier_auroc_{name}", f"outlier_auprc_{name}")
        for name in _suffixes(evaluation, "outlier_auroc_")
    ]
    return _pairs(evaluation, ("against", "AUROC", "AUROC of the RNN-LM", "AUPRC"), rows)


def _labels(evaluation: Evaluation) -> list[str]:
    numbers = ("200", "500", "2500")
    rows: list[Row] = []
    names: dict[str, Callable[[str, str], str]] = {
        "TF-IDF": lambda label, n: f"few_labels_tfidf_{n}_{label}",
        "posterior means": lambda label, n: f"few_labels_means_{n}_{label}",
    }
    for label in _suffixes(evaluation, "few_labels_base_"):
        rows += [(f"{label}, {name}", *(make(label, n) for n in numbers), "–") for name, make in names.items()]
        rows.append((f"{label}, commonest", "–", "–", "–", f"few_labels_base_{label}"))
    rows += [
        (f"{head}, the model's own", "–", "–", "–", f"head_accuracy_{head}")
        for head in _suffixes(evaluation, "head_accuracy_")
    ]
    return _pairs(evaluation, ("accuracy", *(f"{n} labels" for n in numbers), "all, or none"), rows)
