"""A class that a model never sees, so that its sentences are outliers for it."""

from __future__ import annotations

import numpy as np
from datasets import ClassLabel, DatasetDict

from textebm.errors import CorpusError, did_you_mean


def leave_out_class(splits: DatasetDict, chosen: str) -> DatasetDict:
    """The splits without the sentences of one class in train and validation; test keeps them.

    chosen: "label=class", a label column and the name of one of its classes. Raises CorpusError.
    """
    label, _, name = chosen.partition("=")
    features = splits["train"].features
    labels = [column for column, feature in features.items() if isinstance(feature, ClassLabel)]
    if label not in labels:
        raise CorpusError(f"data.leave_out={chosen}: the corpus has no label {label!r}{did_you_mean(label, labels)}")
    if name not in features[label].names:
        known = did_you_mean(name, features[label].names)
        raise CorpusError(f"data.leave_out={chosen}: the label {label!r} has no class {name!r}{known}")
    number, kept = features[label].names.index(name), DatasetDict(splits)
    for split in ("train", "validation"):
        kept[split] = kept[split].select(np.flatnonzero(np.asarray(kept[split][label]) != number))
        if not len(kept[split]):
            raise CorpusError(f"data.leave_out={chosen}: {split} has no other class")
    return kept
