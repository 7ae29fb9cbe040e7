"""The files that a recipe names, looked at before anything is trained."""

from __future__ import annotations

from textebm.errors import CorpusError
from textebm.recipe.schema import Recipe
from textebm.text.check import FileReport, check_file
from textebm.text.corpora import expanded

# findings that the recipe has answered already, by option
CURED = {"unknown_words", "glued_punctuation", "no_spaces"}


def check_files(recipe: Recipe) -> list[str]:
    """What of the recipe's files will hurt its model, a line each. Raises CorpusError for files that cannot be used,
    and for a label column that a head names and the recipe does not read."""
    data, tokenizer = recipe.data, recipe.tokenizer
    paths = {
        split: expanded(path)
        for split, path in (("train", data.train), ("validation", data.validation), ("test", data.test))
        if path is not None
    }
    for i, head in enumerate(recipe.heads):
        if head.labels is not None and head.labels not in data.label_columns:
            raise CorpusError(f"heads.{i}.labels: {head.labels!r} is not in data.label_columns; add it there")
    cured = CURED if tokenizer.kind != "word" else {"glued_punctuation"} if tokenizer.punctuation == "apart" else set()
    cured |= {"mixed_case"} if tokenizer.lowercase else set()
    cured |= {"html"} if tokenizer.html else set()
    cured |= {"numbered_classes"} if data.class_names else set()
    lines = []
    for split, path in paths.items():
        others = [other for name, other in paths.items() if name != split] if split == "train" else []
        report = check_file(
            path,
            data.text_column,
            data.label_columns,
            tokenizer.vocabulary_size,
            max_tokens=data.max_tokens,
            group_column=data.group_column,
            against=others,
        )
        if not report.ok:
            raise CorpusError(f"data.{split}: {path}: {_problem(report)}; textebm data check lists all")
        lines += [f"{split}: {finding}" for finding in report.findings if finding.name not in cured]
    return lines


def _problem(report: FileReport) -> str:
    if not report.problems:
        return "no text"
    return f"{report.num_problems} problems, the first in line {report.problems[0].line}: {report.problems[0].message}"
