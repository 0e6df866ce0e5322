"""The CaloChallenge's definitions: its high-level features, and what its classifiers look at.

In: the `Table` or the showers of one side, visible MeV; out: features, one row per shower. The challenge's energies
are divided by its sampling fraction .033, so ours are, whatever the detector: networks without normalisation depend on
the scale.
Sources: CaloChallenge `code/HighLevelFeatures.py` and `code/evaluate.py` (`prepare_low_data_for_classifier`,
`prepare_high_data_for_classifier`), arXiv:2410.21611 sections 4.2-4.4; separation power `evaluate_plotting_helper.py`.
The networks are in `challenge_networks`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.calorimeter import CylinderMesh, RaggedShowers
from pipeline.evaluation.cells import CellRows
from pipeline.evaluation.observables import OBSERVABLES, Observables, Table

Array = NDArray[np.float64]

SAMPLING_FRACTION = 0.033
FEATURES: Observables = {
    name: OBSERVABLES[name]
    for name in ("incident_energy", "visible_energy", "layer_energy", "layer_centres", "layer_hits")
}  # what a table must hold for `high_features`


def high_features(table: Table, mesh: CylinderMesh) -> Array:
    """The challenge's high-level features, (n, 8 Z + 2).

    [log10 E_inc, log10(E_layer + 1e-8), EC_eta/100, EC_phi/100, width_eta/100, width_phi/100, log10(E_tot + 1e-8),
    sparsity, EC_r/100, width_r/100]: MeV divided by the sampling fraction, mm (eta and phi are x and y across the
    shower), and per layer the fraction of cells that are empty.
    """
    x, x_width, y, y_width, r, r_width = (part / 100 for part in np.split(_wide(table["layer_centres"]), 6, axis=1))
    layers, total = (_wide(table[name]) / SAMPLING_FRACTION for name in ("layer_energy", "visible_energy"))
    empty = 1 - _wide(table["layer_hits"]) / (mesh.n_r * mesh.n_phi)
    columns = [
        np.log10(_wide(table["incident_energy"])),
        np.log10(layers + 1e-8),
        *(x, y, x_width, y_width),
        np.log10(total + 1e-8),
        empty,
        *(r, r_width),
    ]
    return np.concatenate(columns, axis=1)


def _wide(column: NDArray[Any]) -> Array:
    """A column of a table as float64 (n, k)."""
    return np.asarray(column, dtype=np.float64).reshape(len(column), -1)


def low_features(showers: RaggedShowers, scale: float = 1.0) -> CellRows:
    """[voxel / E_inc of every cell, log10 E_inc], the voxel divided by the sampling fraction and times `scale`.

    The challenge has log10 E_inc first; to a network without order it is the same.
    """

    def fraction(part: RaggedShowers) -> NDArray[Any]:
        return scale / SAMPLING_FRACTION * part.energy / np.repeat(part.incident_energy, part.row_size)

    return CellRows(showers, fraction, lambda part: np.log10(part.incident_energy)[:, None])


def histogram_separation(reference: Array, sample: Array, edges: Array) -> float:
    """The challenge's separation power of values in its own bins, both sides normalised to the bins' content.

    1/2 sum (p - q)^2 / (p + q + 1e-16); values outside of `edges` do not count (`metrics.separation_power` takes
    quantile bins with open ends instead).
    """
    p, q = (np.histogram(side, edges)[0].astype(np.float64) for side in (reference, sample))
    p, q = p / max(p.sum(), 1e-300), q / max(q.sum(), 1e-300)
    return float(0.5 * ((p - q) ** 2 / (p + q + 1e-16)).sum())
