"""Classifiers that try to tell a sample from the reference: trained in turn on four fifths, tested on the fifth.

In: features of both sides, one row per shower (`Rows`); out: the area under the ROC curve on held-out showers, .5
when the sides cannot be told apart, with its error. `auc_small_cells`: a perceptron (128, 64) on ln(1 + E/threshold)
of every cell and ln E_inc; `auc_small_features`: boosted trees on high-level features. They are named small, for they
are no CaloChallenge networks (`challenge_networks`).
Split 60/20/20 into training, choice of the best epoch or tree count, and test; the test fifths of five trainings are
disjoint. Row i of both sides falls into the same part, because the sides may share their conditions and a shared
E_inc must not give the label away. Single-threaded and seeded. Source: CaloChallenge, arXiv:2410.21611 section 4.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from pipeline.evaluation.cells import Features, Rows
from pipeline.evaluation.distances import Estimate
from pipeline.evaluation.observables import Table

Labels = NDArray[np.int64]

MIN_SHOWERS = 10
FOLDS = 5
CORRELATION = 0.25  # of the AUCs of two trainings: test / (test + fit) showers
DENSE_NUMBERS = 2**24  # features made dense at a time: 64 MB


@dataclass(frozen=True)
class Sides:
    """Showers of both sides under one numbering: 0 to n - 1 the reference, label 0, then n of the sample, label 1."""

    reference: Rows
    sample: Rows

    @property
    def n(self) -> int:
        """Showers of each side; the longer one is cut."""
        return min(self.reference.shape[0], self.sample.shape[0])

    def features(self, rows: NDArray[np.integer]) -> Features:
        """The dense features of rows of the common numbering."""
        both = np.empty((len(rows), self.reference.shape[1]), dtype=np.float32)
        second = rows >= self.n
        both[~second], both[second] = self.reference[rows[~second]], self.sample[rows[second] - self.n]
        return both

    def labels(self, rows: NDArray[np.integer]) -> Labels:
        """0 for the reference, 1 for the sample."""
        return (rows >= self.n).astype(np.int64)

    def blocks(self, rows: NDArray[np.integer]) -> Iterator[NDArray[np.integer]]:
        """The rows in blocks whose dense features fit into 64 MB."""
        size = max(DENSE_NUMBERS // self.reference.shape[1], 64)
        return (rows[start : start + size] for start in range(0, len(rows), size))


@dataclass(frozen=True)
class Fold:
    """Rows (of `Sides`) to train on, to choose with, and to test with."""

    fit: NDArray[np.intp]
    choose: NDArray[np.intp]
    test: NDArray[np.intp]


@dataclass(frozen=True)
class Scored:
    """Scores of the test rows, higher where the sample is likelier; the Jensen-Shannon divergence where known."""

    scores: NDArray[np.float64]
    jsd: float | None = None


Scorer = Callable[[Sides, Fold, int], Scored]


@dataclass(frozen=True)
class Auc:
    """Mean test AUC over trainings and its error; the same of the Jensen-Shannon divergence where scores give one."""

    value: float
    error: float
    n_test: int
    trainings: int
    jsd: Estimate | None = None


def held_out_auc(reference: Rows, sample: Rows, scorer: Scorer, trainings: int, seed: int) -> Auc | None:
    """Train `trainings` times, each with its own test fifth and start; None below 10 showers a side."""
    sides = Sides(reference, sample)
    if sides.n < MIN_SHOWERS:
        return None
    values, divergences = [], []
    with threadpool_limits(limits=1):
        for training in range(trainings):
            fold = fold_of(sides.n, training, seed)
            scored = scorer(sides, fold, int(np.random.default_rng([seed, training]).integers(2**31)))
            values.append(float(roc_auc_score(sides.labels(fold.test), scored.scores)))
            divergences += [] if scored.jsd is None else [scored.jsd]
    n_test = sides.n // FOLDS
    jsd = Estimate(float(np.mean(divergences)), _error_of_mean(divergences)) if divergences else None
    return Auc(float(np.mean(values)), mean_auc_error(values, n_test), n_test, trainings, jsd)


def fold_of(n: int, training: int, seed: int) -> Fold:
    """The parts of one training: five test fifths in turn, then another shuffle; row i of both sides together."""
    order = np.random.default_rng([seed, training // FOLDS]).permutation(n)
    fifths = np.array_split(order, FOLDS)
    turn = training % FOLDS
    fit = np.concatenate([fifths[(turn + i) % FOLDS] for i in range(2, FOLDS)])
    parts = (fit, fifths[(turn + 1) % FOLDS], fifths[turn])
    return Fold(*(np.concatenate([rows, rows + n]) for rows in parts))


def mean_auc_error(values: list[float], n_test: int) -> float:
    """Standard error of the mean AUC of trainings that test on disjoint fifths, n_test showers of each side.

    They share the other showers, so their AUCs are correlated by about rho = test / (test + fit) = 1/4 (Nadeau and
    Bengio, Machine Learning 52 (2003) 239): var = s^2 (1/T + (1 - 1/T) rho) with Hanley and McNeil's s of one fifth,
    plus 1/T of what the variance over trainings exceeds (1 - rho) s^2 by: starts that end differently.
    """
    one = auc_error(float(np.mean(values)), n_test, n_test) ** 2
    count, disjoint = len(values), min(len(values), FOLDS)
    excess = float(np.var(values, ddof=1)) - (1 - CORRELATION) * one if count > 1 else 0.0
    return float(np.sqrt(one * (1 / disjoint + (1 - 1 / disjoint) * CORRELATION) + max(excess, 0.0) / count))


def _error_of_mean(values: list[float]) -> float:
    """Standard error of the mean of correlated trainings, from their spread (Nadeau and Bengio 2003, section 3)."""
    count = len(values)
    return float(np.std(values, ddof=1) * np.sqrt(1 / count + CORRELATION / (1 - CORRELATION))) if count > 1 else 0.0


def auc_error(auc: float, n_first: int, n_second: int) -> float:
    """Standard error of an AUC on a test set (Hanley and McNeil, Radiology 143 (1982) 29, eq. 1)."""
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (n_first - 1) * (q1 - auc**2) + (n_second - 1) * (q2 - auc**2)
    return float(np.sqrt(max(variance, 0) / (n_first * n_second)))


# ------------------------------------------------------------------------------- the two small ones


def score_cells(sides: Sides, fold: Fold, seed: int, epochs: int = 25) -> Scored:
    """Perceptron (128, 64), Adam 1e-3, batch 64; test scores of the epoch with the best AUC on `choose`."""
    centre, width = _centre_and_width(sides, fold.fit)
    network = MLPClassifier(
        (128, 64), batch_size=min(64, len(fold.fit)), alpha=1e-3, random_state=seed, max_iter=1, warm_start=True
    )

    def scores(rows: NDArray[np.integer]) -> NDArray[np.float64]:
        blocks = ((sides.features(block) - centre) / width for block in sides.blocks(rows))
        return np.concatenate([network.predict_proba(block)[:, 1].astype(np.float64) for block in blocks])

    generator, order = np.random.default_rng(seed), fold.fit
    best, chosen = -1.0, np.zeros(len(fold.test))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # one epoch at a time; a last block below a batch
        for _ in range(epochs):
            order = generator.permutation(order)
            for block in sides.blocks(order):
                network.partial_fit((sides.features(block) - centre) / width, sides.labels(block), classes=[0, 1])
            reached = roc_auc_score(sides.labels(fold.choose), scores(fold.choose))
            if reached > best:
                best, chosen = reached, scores(fold.test)
    return Scored(chosen)


def _centre_and_width(sides: Sides, rows: NDArray[np.integer]) -> tuple[Features, np.float32]:
    """The mean of each feature, (k,), and one standard deviation of all of them around their common mean."""
    total, squares = np.zeros(sides.reference.shape[1]), 0.0
    for block in sides.blocks(rows):
        features = sides.features(block)
        total += features.sum(axis=0, dtype=np.float64)
        squares += float(np.square(features, dtype=np.float64).sum())
    mean = total / len(rows)
    width = np.sqrt(squares / (len(rows) * len(mean)) - mean.mean() ** 2)
    return mean.astype(np.float32), np.float32(width)


def score_features(sides: Sides, fold: Fold, seed: int, trees: int = 150) -> Scored:
    """Boosted trees of 15 leaves, rate .1; test scores of the tree count with the best AUC on `choose`."""
    model = HistGradientBoostingClassifier(
        max_iter=trees,
        max_leaf_nodes=15,
        learning_rate=0.1,
        min_samples_leaf=10,
        early_stopping=False,
        random_state=seed,
    )
    model.fit(sides.features(fold.fit), sides.labels(fold.fit))
    choose = sides.labels(fold.choose)
    reached = [roc_auc_score(choose, s) for s in model.staged_decision_function(sides.features(fold.choose))]
    staged = model.staged_decision_function(sides.features(fold.test))
    return Scored(np.asarray(next(islice(staged, int(np.argmax(reached)), None)), dtype=np.float64).ravel())


def high_level_features(table: Table) -> Features:
    """Layer energies, centres, widths, hits, and the scalars of `OBSERVABLES`, logarithms where positive; (n, k)."""
    scalars = (
        "sparsity",
        "first_moment_z",
        "first_moment_r",
        "second_moment_z",
        "second_moment_r",
        "containment_radius",
        "azimuthal_asymmetry",
        "energy_response",
    )
    logs = [np.log10(table[name] + 1e-8) for name in ("incident_energy", "visible_energy", "layer_energy")]
    columns: list[NDArray[Any]] = [*logs, table["layer_centres"], table["layer_hits"], *(table[s] for s in scalars)]
    return np.concatenate([c.reshape(len(c), -1) for c in columns], axis=1).astype(np.float32)
