"""The field's tables: published rows, with their sources, and beside them what was measured here.

Published figures come from the project's notes (design/evaluation.md), which name table and paper; none is filled in
from memory. A cell that was not measured or not published is a dash.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from textebm.evaluation.metric import Evaluation, cell, markdown_table, number

NOTHING = "–"
Cells = tuple[str, ...]


@dataclass(frozen=True)
class FieldTable:
    """columns: headings after the first. published rows hold figures as printed; own rows names of metrics, or text in
    quotes."""

    title: str
    source: str
    columns: Cells
    published: tuple[Cells, ...]
    own: tuple[Cells, ...]

    def markdown(self, evaluation: Evaluation) -> str:
        rows = [*self.published, *((f"**{name}**", *values) for name, *values in _measured(evaluation, self.own))]
        return "\n".join(
            [
                f"### {self.title}",
                "",
                *_lines(("system", *self.columns), rows),
                "",
                f"Published rows: {self.source} Rows in bold were measured here.",
                "",
            ]
        )


def _lines(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return markdown_table(heads, rows, numeric=range(1, len(heads)))


def _rows(text: str) -> tuple[Cells, ...]:
    """The rows of a table whose cells are set apart by bars."""
    return tuple(tuple(part.strip() for part in line.split("|")) for line in text.strip().splitlines())


def _measured(evaluation: Evaluation, rows: Sequence[Cells]) -> list[list[str]]:
    """Names of metrics replaced by their values; rows without any are left out."""

    def value(name: str) -> str:
        metric = evaluation.metrics.get(name)
        return name.strip("'") if name.startswith("'") else NOTHING if metric is None else number(metric.value)

    filled = [[name, *map(value, names)] for name, *names in rows]
    return [row for row in filled if any(each != NOTHING for each in row[1:])]


PTB = FieldTable(
    "Penn Treebank, sentences of up to 40 tokens",
    "Shi et al. 2020, table 1 (40,000 samples).",
    ("rPPL ↓", "BLEU ↑", "wKL ↓", "NLL ↓"),
    _rows(
        """
        test set      | –      | 100  | 0.14 | –
        RNN-LM        | –      | –    | –    | 101.21
        VAE           | 686.18 | 3.12 | 0.50 | ≤ 100.85
        DI-VAE        | 310.29 | 4.53 | 0.24 | ≤ 108.90
        semi-VAE + MI | 260.28 | 5.08 | 0.20 | ≤ 107.30
        GM-VAE        | 983.50 | 2.34 | 0.72 | ≤ 99.44
        DGM-VAE + MI  | 247.37 | 8.67 | 0.18 | ≤ 105.73
        """
    ),
    _rows(
        """
        this run, sampled words | reverse_ppl        | reconstruction_bleu | wkl_large        | nll_upper
        this run, greedy words  | reverse_ppl_greedy | reconstruction_bleu | wkl_large_greedy | nll_upper
        this run, refined latents | – | reconstruction_bleu_refined | – | –
        RNN-LM of the same run | rnn_lm_reverse_ppl | – | rnn_lm_wkl_large | rnn_lm_nll
        real sentences (rPPL: as many; wKL: test set) | reverse_ppl_floor | – | wkl_real | –
        """
    ),
)
PTB_PPL = FieldTable(
    "Penn Treebank, perplexity with a 32-dimensional latent",
    "Pang et al. 2021, table 1.",
    ("PPL ↓",),
    _rows("LSTM-LM | 100.47\nfree-bits VAE | 96.35\nshort-run inference | 94.26"),
    _rows("this run, upper bound | ppl_upper\nLSTM-LM of the same run | rnn_lm_ppl\nbigrams | bigram_ppl"),
)
_CODES = "{0}homogeneity_act | {0}v_measure_act | {0}ami_act | {0}homogeneity_emotion | {0}ami_emotion"
DAILYDIALOG = FieldTable(
    "DailyDialog, codes found without labels",
    "Shi et al. 2020, table 2; the k-means rows in plain type were measured before, with 125 codes.",
    ("MI ↑", "BLEU ↑", "act hom. ↑", "act V ↑", "act AMI ↑", "emotion hom. ↑", "emotion AMI ↑"),
    _rows(
        """
        DI-VAE                            | 1.20 | 3.05 | .18  | –    | –    | .09  | –
        semi-VAE + MI                     | 1.21 | 3.69 | .21  | –    | –    | .14  | –
        GM-VAE + MI                       | 1.41 | 2.96 | .19  | –    | –    | .09  | –
        DGM-VAE + MI                      | 1.32 | 7.39 | .23  | –    | –    | .16  | –
        k-means, words                    | –    | –    | .317 | .131 | .123 | .170 | .025
        k-means, 1–3-grams                | –    | –    | .342 | .141 | .134 | .181 | .027
        k-means, first and last two words | –    | –    | .395 | .174 | .167 | .178 | .031
        random codes                      | –    | –    | .020 | –    | 0    | .074 | 0
        """
    ),
    _rows(
        f"""
        this run | mutual_information_zy | reconstruction_bleu | {_CODES.format("")}
        this run, codes shuffled | – | – | permuted_homogeneity_act | – | – | permuted_homogeneity_emotion | –
        k-means, words | – | – | {_CODES.format("kmeans_words_")}
        k-means, 1–3-grams | – | – | {_CODES.format("kmeans_ngrams_")}
        k-means, first and last two words | – | – | {_CODES.format("kmeans_ends_")}
        """
    ),
)
_PROTOCOLS = " | ".join(
    f"{{0}}homogeneity{batch}_{label}" for label in ("act", "emotion") for batch in ("", "_batch128", "_batch30")
)
DAILYDIALOG_PROTOCOLS = FieldTable(
    "DailyDialog, homogeneity as three protocols have it",
    "random codes, measured before. All turns pooled is what Shi et al. report; other releases average over batches.",
    (
        "act, pooled",
        "act, batches of 128",
        "act, of 30",
        "emotion, pooled",
        "emotion, batches of 128",
        "emotion, of 30",
    ),
    _rows(
        """
        125 random codes | .022 | .700 | .912 | .071 | .727 | .918
        20 random codes  | .003 | .219 | .582 | .012 | .298 | .611
        """
    ),
    _rows(
        f"""
        this run | {_PROTOCOLS.format("")}
        this run, codes shuffled | {_PROTOCOLS.format("permuted_")}
        """
    ),
)


def _control(name: str, suffix: str = "") -> str:
    return " | ".join(f"{name}_{metric}_sentiment{suffix}" for metric in ("accuracy", "self_bleu", "forward_ppl"))


YELP = FieldTable(
    "Yelp, sentiment control",
    "LatentOps, thesis tables 4.1 and 4.3 (another classifier, and self-BLEU of another number of samples).",
    ("accuracy ↑", "self-BLEU ↓", "forward PPL ↓", "seconds for 150 ↓"),
    _rows(
        """
        GPT2-FT   | .98 | 23.8 | – | –
        PPLM      | .86 | 31.0 | – | 3182
        FUDGE     | .77 | 27.2 | – | 36.1
        LatentOps | .99 | 13.0 | – | 5.5
        """
    ),
    (
        *_rows(
            f"""
            this run                       | {_control("control")} | control_seconds_sentiment
            … read back by its own encoder | {_control("checked")} | –
            … and as diverse as real ones  | {_control("diverse")} | –
            """
        ),
        *(
            _rows(f"… at strength {s} | {_control('sweep', f'_strength{s}')} | –")[0]
            for s in ("0.5", "1", "2", "4", "8")
        ),
        *_rows(
            f"""
            LSTM-LM of each class | {_control("class_lm")} | –
            real sentences        | judge_accuracy_sentiment | real_self_bleu_sentiment | real_forward_ppl_sentiment | –
            """
        ),
    ),
)


def _edit(suffix: str = "") -> str:
    return " | ".join(f"edit_{metric}{suffix}" for metric in ("accuracy", "input_bleu", "reference_bleu"))


YELP_EDITS = FieldTable(
    "Yelp, sentiment edits of the 1,000 test sentences",
    "LatentOps, thesis (another classifier).",
    ("accuracy ↑", "input BLEU ↑", "reference BLEU ↑"),
    _rows("LatentOps | .95 | 54.0 | 24.3\nDiRR | .96 | 61.5 | 29.8\nFUDGE | .40 | 57.0 | 18.0"),
    (
        *_rows(f"this run, least change | {_edit()}"),
        *(_rows(f"… another word {keep} nats likelier | {_edit(f'_keep{keep}')}")[0] for keep in (0, 3, 10)),
        *(_rows(f"written anew from level {level} | {_edit(f'_level{level}')}")[0] for level in range(2, 65, 2)),
        *_rows("human rewrites | edit_human_accuracy | edit_human_input_bleu | –"),
        *_rows("unchanged input | – | '100' | edit_copy_reference_bleu"),
    ),
)
TABLES: dict[str, tuple[FieldTable, ...]] = {
    "ptb": (PTB, PTB_PPL),
    "dailydialog": (DAILYDIALOG, DAILYDIALOG_PROTOCOLS),
    "yelp": (YELP, YELP_EDITS),
}


def field_tables(evaluation: Evaluation, corpus: str, name: str) -> str:
    """A Markdown page: the corpus's tables, what the codes are called, all metrics, and how they were measured."""
    sizes = ", ".join(f"{key} {value:,}" for key, value in evaluation.sizes.items())
    lines = [f"# {name}: measured on {evaluation.split}, seed {evaluation.seed}", "", f"Sentences: {sizes}.", ""]
    lines += [f"- {key}: {value}" for key, value in evaluation.settings.items()] + [""]
    lines += [table.markdown(evaluation) for table in TABLES.get(corpus, ())]
    for title, heads, own in (
        ("Likelihood and language", ("", "model", "model, greedy", "RNN-LM", "real"), _LIKELIHOOD),
        ("Other text", ("against", "AUROC", "by the log-posterior", "by the RNN-LM", "AUPRC"), _outliers(evaluation)),
        ("Labels", ("accuracy", "200 labels", "500 labels", "2500 labels", "all, or none"), _labels(evaluation)),
    ):
        if rows := _measured(evaluation, own):
            lines += [f"### {title}", "", *_lines(heads, rows), ""]
    if evaluation.code_names:
        names = [(cell(code), cell(words)) for code, words in evaluation.code_names.items()]
        lines += ["### Codes by their words (c-TF-IDF; sentences)", ""]
        lines += [*markdown_table(("code", "words"), names, numeric=()), ""]
    return "\n".join([*lines, "### Everything", "", evaluation.markdown()])


_LIKELIHOOD = _rows(
    """
    NLL a sentence, upper | nll_upper         | –                  | rnn_lm_nll         | –
    … lower               | nll_lower         | –                  | –                  | –
    perplexity, upper     | ppl_upper         | –                  | rnn_lm_ppl         | –
    reverse perplexity    | reverse_ppl       | reverse_ppl_greedy | rnn_lm_reverse_ppl | reverse_ppl_floor
    forward perplexity    | forward_ppl       | forward_ppl_greedy | rnn_lm_forward_ppl | rnn_lm_ppl
    fluency               | fluency_sampled   | fluency            | –                  | '1'
    wKL                   | wkl_sampled       | wkl                | rnn_lm_wkl         | wkl_real
    self-BLEU             | self_bleu_sampled | self_bleu          | rnn_lm_self_bleu   | self_bleu_real
    copied                | copied_sampled    | copied             | –                  | –
    """
)


def _suffixes(evaluation: Evaluation, prefix: str) -> list[str]:
    return [name.removeprefix(prefix) for name in evaluation.metrics if name.startswith(prefix)]


def _outliers(evaluation: Evaluation) -> list[Cells]:
    prefixes = ("outlier_auroc_", "posterior_outlier_auroc_", "rnn_lm_outlier_auroc_", "outlier_auprc_")
    return [(name, *(f"{prefix}{name}" for prefix in prefixes)) for name in _suffixes(evaluation, "outlier_auroc_")]


def _labels(evaluation: Evaluation) -> list[Cells]:
    rows: list[Cells] = []
    for label in _suffixes(evaluation, "few_labels_base_"):
        for features, title in (("tfidf", "TF-IDF"), ("means", "posterior means")):
            names = (f"few_labels_{features}_{number}_{label}" for number in (200, 500, 2500))
            rows.append((f"{label}, {title}", *names, NOTHING))
        rows.append((f"{label}, commonest", *[NOTHING] * 3, f"few_labels_base_{label}"))
    for head in _suffixes(evaluation, "head_accuracy_"):
        rows.append((f"{head}, the model's own", *[NOTHING] * 3, f"head_accuracy_{head}"))
        rows.append((f"{head}, TF-IDF on the same labels", *[NOTHING] * 3, f"tfidf_accuracy_{head}"))
    return rows
