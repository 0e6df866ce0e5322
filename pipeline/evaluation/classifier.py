"""Two small classifiers that try to tell a sample from the reference; named small, for they are no CaloChallenge DNNs.

In: cell energies (n, cells) or features (n, k) of both sides, one row per shower; out: the area under the ROC
curve on held-out showers, .5 when the sides cannot be told apart. `auc_small_cells`: a perceptron (128, 64) on
ln(1 + E/threshold) of every cell and ln E_inc; `auc_small_features`: boosted trees on high-level features.
Split 60/20/20 into training, choice of the best epoch or tree count, and test. Row i of both sides falls into the
same part, because the sides may share their conditions and a shared E_inc must not give the label away.
Single-threaded and seeded. Source of the idea: CaloChallenge, arXiv:2410.21611 section 4.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import roc_auc_score
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from pipeline.calorimeter import RaggedShowers
from pipeline.evaluation.observables import Table

Features = NDArray[np.float32]
Part = tuple[Features, NDArray[np.int64]]
Scorer = Callable[[Part, Part, Features, int], NDArray[np.float64]]

MIN_SHOWERS = 10


@dataclass(frozen=True)
class Auc:
    """Mean test AUC over trainings, and its error: the larger of their spread and of one test set's own error."""

    value: float
    error: float
    n_test: int
    trainings: int


def small_auc(reference: Features, sample: Features, scorer: Scorer, trainings: int, seed: int) -> Auc | None:
    """Train `trainings` times, each with its own split and start; None below 10 showers a side."""
    n = min(len(reference), len(sample))
    if n < MIN_SHOWERS:
        return None
    values = []
    with threadpool_limits(limits=1):
        for training in range(trainings):
            order = np.random.default_rng([seed, training]).permutation(n)
            cuts = np.split(order, [int(0.6 * n), int(0.8 * n)])
            fit, choose, test = (_labelled(reference, sample, rows) for rows in cuts)
            scores = scorer(fit, choose, test[0], int(np.random.default_rng([seed, training]).integers(2**31)))
            values.append(float(roc_auc_score(test[1], scores)))
    mean, n_test = float(np.mean(values)), len(cuts[2])
    spread = float(np.std(values, ddof=1)) if trainings > 1 else 0.0
    return Auc(mean, max(spread, auc_error(mean, n_test, n_test)), n_test, trainings)


def auc_error(auc: float, n_first: int, n_second: int) -> float:
    """Standard error of an AUC on a test set (Hanley and McNeil, Radiology 143 (1982) 29, eq. 1)."""
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (n_first - 1) * (q1 - auc**2) + (n_second - 1) * (q2 - auc**2)
    return float(np.sqrt(max(variance, 0) / (n_first * n_second)))


def _labelled(reference: Features, sample: Features, rows: NDArray[np.intp]) -> Part:
    """The rows of both sides, labelled 0 (reference) and 1 (sample)."""
    return np.concatenate([reference[rows], sample[rows]]), np.repeat(np.arange(2), len(rows))


# ------------------------------------------------------------------------------- the two classifiers


def score_cells(fit: Part, choose: Part, test: Features, seed: int, epochs: int = 25) -> NDArray[np.float64]:
    """Perceptron (128, 64), Adam 1e-3, batch 64; test scores of the epoch with the best AUC on `choose`."""
    centre, width = fit[0].mean(axis=0), fit[0].std()
    network = MLPClassifier(
        (128, 64), batch_size=min(64, len(fit[0])), alpha=1e-3, random_state=seed, max_iter=1, warm_start=True
    )
    best, scores = -1.0, np.zeros(len(test))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for _ in range(epochs):
            network.partial_fit((fit[0] - centre) / width, fit[1], classes=[0, 1])
            reached = roc_auc_score(choose[1], network.predict_proba((choose[0] - centre) / width)[:, 1])
            if reached > best:
                best, scores = reached, network.predict_proba((test - centre) / width)[:, 1].astype(np.float64)
    return scores


def score_features(fit: Part, choose: Part, test: Features, seed: int, trees: int = 150) -> NDArray[np.float64]:
    """Boosted trees of 15 leaves, rate .1; test scores of the tree count with the best AUC on `choose`."""
    model = HistGradientBoostingClassifier(
        max_iter=trees,
        max_leaf_nodes=15,
        learning_rate=0.1,
        min_samples_leaf=10,
        early_stopping=False,
        random_state=seed,
    )
    model.fit(*fit)
    reached = [roc_auc_score(choose[1], s) for s in model.staged_decision_function(choose[0])]
    staged = model.staged_decision_function(test)
    return np.asarray(next(islice(staged, int(np.argmax(reached)), None)), dtype=np.float64).ravel()


def cell_features(showers: RaggedShowers, threshold_mev: float) -> Features:
    """ln(1 + E/threshold) of every cell, and 10 ln(E_inc / GeV), (n, cells + 1)."""
    features = np.zeros((len(showers), showers.mesh.n_cells + 1), dtype=np.float32)
    features[showers.shower_of_hit, showers.cell] = np.log1p(showers.energy / threshold_mev)
    features[:, -1] = 10 * np.log(showers.incident_energy / 1e3)
    return features


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
    columns = [*logs, table["layer_centres"], table["layer_hits"], *(table[name] for name in scalars)]
    return np.concatenate([c.reshape(len(c), -1) for c in columns], axis=1).astype(np.float32)
