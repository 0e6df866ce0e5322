"""What a frozen encoder must beat: the visible energy, hand-made features with a linear head, and boosted trees.

In: a `Pool`; out: features (n, k) or errors. Nothing is computed of hidden cells, nothing of the incident energy.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipeline.config.study import BOOSTED, CELL_SUM, CORRECTED_SUM, FEATURES
from pipeline.evaluation.baselines import BoostedFeatures, shape_features
from pipeline.evaluation.observables import OBSERVABLES, Table, observe
from pipeline.studies.linear import Fitted, linear_head
from pipeline.studies.pool import Array, Pool, Rows, relative_error

_EMPTY_MEV = 1e-3
_LEAST_SHARE = 1e-4
HAND_MADE = (
    "visible_energy",
    "hits",
    "first_moment_z",
    "second_moment_z",
    "first_moment_r",
    "second_moment_r",
    "containment_radius",
    "layer_of_maximum",
    "azimuthal_asymmetry",
)
_MEASURED = ("layer_energy", "layer_hits", "layer_centres", *HAND_MADE)


def measured(pool: Pool) -> Table:
    """Observables of what is visible."""
    return observe(pool.showers, {name: OBSERVABLES[name] for name in _MEASURED})


def log_visible_energy(pool: Pool) -> Array:
    """(n, 1) ln of the visible energy in MeV."""
    return np.log(np.maximum(pool.showers.visible_energy, _EMPTY_MEV))[:, None]


def log_expected(pool: Pool) -> Array:
    """(n, 1) ln of the share of a mean shower that is visible: what tells a dead core from a small shower."""
    return np.log(np.maximum(pool.expected, _LEAST_SHARE))[:, None]


def hand_made_features(table: Table) -> Array:
    """(n, 11): logarithms of energy, hits, first and last layer's energy; moments, R90, maximum, asymmetry."""
    layers = np.asarray(table["layer_energy"], dtype=np.float64)
    seen = layers[:, layers.any(axis=0)]
    columns = [
        np.log(np.maximum(table["visible_energy"], _EMPTY_MEV)),
        np.log1p(table["hits"]),
        *(np.log(np.maximum(seen[:, i], _EMPTY_MEV)) for i in (0, -1)),
        *(table[name] for name in HAND_MADE[2:]),
    ]
    return np.stack([np.asarray(c, dtype=np.float64) for c in columns], axis=1)


def boosted_head(features: Array, visible: Array, pool: Pool, train: Rows) -> Fitted:
    """Boosted trees that correct a line in the logarithms of energy and visible energy; nothing is chosen."""
    log = np.log(pool.incident_energy)
    slope, intercept = np.polyfit(visible[train, 0], log[train], 1)
    line = slope * visible[:, 0] + intercept
    correction = BoostedFeatures.fit(features[train], (log - line)[train]).predict(features)
    energy = np.exp(np.clip(line + correction, log[train].min(), log[train].max()))
    errors = [
        relative_error(energy[rows], pool.incident_energy[rows]) for rows in (pool.test_rows, pool.validation_rows)
    ]
    return Fitted(errors[0], errors[1], 0.0)


def baseline_heads(pool: Pool) -> dict[str, Callable[[Rows], Fitted]]:
    """Each baseline as a function of the labelled rows."""
    table, visible, expected = measured(pool), log_visible_energy(pool), log_expected(pool)
    hand_made = np.concatenate([hand_made_features(table), expected], axis=1)
    shapes = np.concatenate([shape_features(table), expected], axis=1)
    fixed = pool.incident_energy, pool.validation_rows, pool.test_rows

    def line(features: Array) -> Callable[[Rows], Fitted]:
        return lambda rows: linear_head(features, fixed[0], rows, fixed[1], fixed[2])

    return {
        CELL_SUM: line(visible),
        CORRECTED_SUM: line(np.concatenate([visible, expected], axis=1)),
        FEATURES: line(hand_made),
        BOOSTED: lambda rows: boosted_head(shapes, visible, pool, rows),
    }
