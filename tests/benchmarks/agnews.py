"""AG News: accuracy from few labels and the topics' words, beside what needs no model (docs/agnews.md).

    python tests/benchmarks/agnews.py accuracy --data ../shared/data --labels 200,500,2500 --seeds 3 --out rows.jsonl
    python tests/benchmarks/agnews.py topics --data ../shared/data [--seeds 3] [--split validation]

Every method sees the same training documents, of which the same few have a label; nothing sees a validation or test
document before it is measured there. Settings are chosen on the validation part of dev.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import NMF, LatentDirichletAllocation, TruncatedSVD
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import normalize

from textebm import TextEBM
from textebm.evaluation.code_scores import diversity, names_from_words, npmi
from textebm.model.build import build_corpus
from textebm.networks.bag_of_words import BagOfWordsDecoder
from textebm.objective.semi_supervised import PRIOR, ROUNDS, UNLABELLED
from textebm.recipe.read import load_recipe
from textebm.runs.train import build_trainer
from textebm.text.words import content_words
from textebm.training.data import shown_rows

Rows = NDArray[Any]
SPLITS = ("validation", "test")
RELEVANCE = 0.8  # chosen on validation (docs/agnews.md)


def logistic(features: Any, labelled: Rows, classes: Rows, c: float = 10.0) -> LogisticRegression:
    return LogisticRegression(C=c, max_iter=2000).fit(features[labelled], classes[labelled])


def self_trained(features: Rows, labelled: Rows, classes: Rows, rounds: int = 5) -> LogisticRegression:
    """Logistic regression that learns again from what it is sure of (above .9; Yarowsky 1995)."""
    model = logistic(features, labelled, classes)
    for _ in range(rounds):
        p = model.predict_proba(features)
        sure = np.setdiff1d(np.flatnonzero(p.max(1) > 0.9), labelled)
        rows, told = np.r_[labelled, sure], np.r_[classes[labelled], p[sure].argmax(1)]
        model = LogisticRegression(C=10.0, max_iter=2000).fit(features[rows], told)
    return model


def naive_bayes_em(
    counts: Any,
    labelled: Rows,
    classes: Rows,
    *,
    rounds: int = ROUNDS,
    weight: float = UNLABELLED,
    prior: float = PRIOR,
) -> Callable[[Any], Rows]:
    """A multinomial for each class, fitted by EM to all documents, those without a label counting *weight* (Nigam et
    al. 2000)."""
    n, known = counts.shape[0], np.zeros(counts.shape[0], dtype=bool)
    known[labelled] = True
    truth = np.eye(4)[classes] * known[:, None]
    shares, weights = truth.copy(), known.astype(float)
    for _ in range(rounds + 1):
        total = (counts.T @ (shares * weights[:, None])).T + prior
        log_word = np.log(total / total.sum(1, keepdims=True)).T
        log_class = np.log((shares * weights[:, None]).sum(0) + 1)

        def read(rows: Any, log_word: Rows = log_word, log_class: Rows = log_class) -> Rows:
            logits = rows @ log_word + log_class
            p = np.exp(logits - logits.max(1, keepdims=True))
            return np.asarray(p / p.sum(1, keepdims=True))

        shares = np.where(known[:, None], truth, read(counts))
        weights = np.where(known, 1.0, weight)
    assert len(shares) == n
    return lambda rows: read(rows).argmax(1)


def baselines(texts: dict[str, list[str]], labelled: Rows, classes: Rows) -> dict[str, dict[str, Rows]]:
    """Predicted classes of each method and split."""
    vectorizer = TfidfVectorizer(sublinear_tf=True, min_df=2, ngram_range=(1, 2))
    counter = CountVectorizer(min_df=2, stop_words="english")
    tfidf, counts = vectorizer.fit_transform(texts["train"]), counter.fit_transform(texts["train"])
    svd = TruncatedSVD(100, random_state=0)
    points = normalize(svd.fit_transform(tfidf))
    models = {
        "tfidf": logistic(tfidf, labelled, classes),
        "svd": logistic(points, labelled, classes),
        "self_training": self_trained(points, labelled, classes),
    }
    bayes = naive_bayes_em(counts, labelled, classes)
    told: dict[str, dict[str, Rows]] = {name: {} for name in (*models, "naive_bayes_em")}
    for split in SPLITS:
        rows = vectorizer.transform(texts[split])
        reduced = normalize(svd.transform(rows))
        for name, model in models.items():
            told[name][split] = model.predict(rows if name == "tfidf" else reduced)
        told["naive_bayes_em"][split] = bayes(counter.transform(texts[split]))
    return told


def accuracy(data: str, labels: int, seed: int, overrides: list[str]) -> dict[str, Any]:
    """One draw of the labels: accuracy of each method on validation and test. topic_head_best_epoch: of the epoch that
    is best on validation, as published; topic_head: of the last one."""
    began = time.process_time()
    stage = "training.stages=[{name: autoencoder, epochs: 15}]"  # the prior stage does not move the encoder
    recipe = load_recipe("agnews", [f"heads.0.label_limit={labels}", f"seed={seed}", stage, *overrides])
    corpus = build_corpus(recipe.data, data_dir=data, seed=recipe.seed)
    torch.manual_seed(recipe.seed)
    trainer = build_trainer(recipe, corpus)
    texts = {split: list(corpus[split]["text"]) for split in corpus}
    truth = {split: np.array(corpus[split]["topic"]) for split in SPLITS}
    best, best_state = -1.0, {}
    for step in trainer.steps():
        if step.stage_step % step.stage.batches_per_epoch == 0:
            read = TextEBM(trainer.model.eval()).encode(texts["validation"]).codes["topic"].numpy()
            if (right := float((read == truth["validation"]).mean())) > best:
                best, best_state = right, copy.deepcopy(trainer.model.state_dict())
    model = TextEBM(trainer.model.eval())
    seconds = time.process_time() - began
    classes = np.asarray(corpus["train"]["topic"])
    labelled = np.asarray(shown_rows(classes, labels, recipe.seed))  # the others' classes are only masked, never read
    told = baselines(texts, labelled, classes)
    encoded = {split: model.encode(texts[split]) for split in texts}
    means = {split: each.mean.numpy() for split, each in encoded.items()}
    posterior = logistic(means["train"], labelled, classes, c=1.0)
    told["posterior_means"] = {split: posterior.predict(means[split]) for split in SPLITS}
    told["topic_head"] = {split: encoded[split].codes["topic"].numpy() for split in SPLITS}
    trainer.model.load_state_dict(best_state)
    told["topic_head_best_epoch"] = {split: model.encode(texts[split]).codes["topic"].numpy() for split in SPLITS}
    scores = {f"{name}/{s}": float((by[s] == truth[s]).mean()) for name, by in told.items() for s in SPLITS}
    return {"labels": len(labelled), "seed": seed, "cpu_seconds": round(seconds), **scores}


def topics(data: str, seed: int, count: int, split: str, overrides: list[str]) -> dict[str, Any]:
    """NPMI in the documents of *split*, and diversity, of the ten words of each of *count* topics.

    Every method chooses among the same words: content words of at least five training documents. "weights": the words
    that a method itself gives most weight in a topic (ours: the decoder's p(word|z) at a code's typical latent);
    "relevance": `RELEVANCE` of the logarithm of that weight, and the rest of its lift over the background; "c_tf_idf":
    the words that mark the documents whose largest topic it is.
    """
    stage = "training.stages=[{name: autoencoder, epochs: 15}]"
    recipe = load_recipe("agnews", [f"heads.1.classes={count}", f"seed={seed}", stage, *overrides])
    corpus = build_corpus(recipe.data, data_dir=data, seed=recipe.seed)
    train, reference = list(corpus["train"]["text"]), list(corpus[split]["text"])
    counts = CountVectorizer(analyzer=content_words, min_df=5).fit(train)
    words, tfidf = counts.get_feature_names_out(), TfidfVectorizer(analyzer=content_words, min_df=5).fit(train)
    codes: dict[str, Rows] = {}
    lists: dict[str, list[list[str]]] = {}

    def strongest(weights: Rows) -> list[list[str]]:
        return [[words[i] for i in np.argsort(-row)[:10]] for row in weights]

    models = {
        "nmf": (NMF(count, init="nndsvd", random_state=seed, max_iter=300), tfidf),
        "lda": (LatentDirichletAllocation(count, learning_method="batch", max_iter=30, random_state=seed), counts),
    }
    for name, (method, vectorizer) in models.items():
        codes[name] = method.fit_transform(vectorizer.transform(train)).argmax(1)
        lists[f"{name}/weights"] = strongest(method.components_)
    torch.manual_seed(recipe.seed)
    trainer = build_trainer(recipe, corpus)
    for _ in trainer.steps():
        pass
    model = TextEBM(trainer.model.eval())
    encoded = model.encode(train)
    codes["textebm"] = encoded.codes["code"].numpy()
    decoder, places = trainer.model.decoder, model.tokenizer.convert_tokens_to_ids(words.tolist())
    assert isinstance(decoder, BagOfWordsDecoder)
    typical = []  # the mean latent of the third of a code's documents that are surest of it
    for code in range(count):
        members = (encoded.codes["code"] == code).nonzero()[:, 0]
        surest = encoded.probabilities["code"][members, code].argsort(descending=True)[: max(5, len(members) // 3)]
        typical.append(encoded.mean[members[surest]].mean(0))
    with torch.no_grad():
        log_p = decoder.logits(decoder.hidden(torch.zeros(count, 1, dtype=torch.long), torch.stack(typical))[:, 0])
    log_p = log_p.masked_fill(~decoder.topical, -torch.inf)
    lists["textebm/weights"] = strongest(log_p[:, places].numpy())
    lists["textebm/relevance"] = strongest((log_p - (1 - RELEVANCE) * decoder.background)[:, places].numpy())
    codes["shuffled"] = np.random.default_rng(seed).permutation(codes["textebm"])
    for name, chosen in codes.items():
        known = [" ".join(word for word in content_words(text) if word in counts.vocabulary_) for text in train]
        lists[f"{name}/c_tf_idf"] = [list(own) for own in names_from_words(known, chosen, count)]
    result: dict[str, Any] = {"topics": count, "seed": seed, "split": split}
    for name, own in lists.items():
        result[f"{name}/npmi"] = round(float(np.nanmean(npmi(own, reference))), 3)
        result[f"{name}/diversity"] = round(diversity(own), 3)
    result["words"] = {name: [" ".join(own) for own in lists[f"{name}/weights"]] for name in ("textebm", "nmf", "lda")}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["accuracy", "topics"])
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--out", default=None, help="append a line of JSON a run")
    parser.add_argument("--labels", default="200,500,2500")
    parser.add_argument("--topics", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--split", default="test", choices=SPLITS, help="whose documents tell coherence")
    parser.add_argument("overrides", nargs="*", metavar="OPTION=VALUE")
    given = parser.parse_intermixed_args()
    for seed in range(given.seeds):
        for labels in given.labels.split(",") if given.what == "accuracy" else [""]:
            if given.what == "accuracy":
                row = accuracy(given.data, int(labels), seed, given.overrides)
            else:
                row = topics(given.data, seed, given.topics, given.split, given.overrides)
            print(json.dumps(row), flush=True)
            if given.out:
                with open(given.out, "a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
