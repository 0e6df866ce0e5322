"""Whether the energies of a raw file can be right: what its showers leave, against what came in.

In: blocks of ragged showers in visible MeV, of each the first few. Out: nothing, or a `FormatError` with the likely
cause. Looked at is the median over the showers with hits of E_tot / E_inc, E_tot being the visible energy divided by
the sampling fraction: near 1 for an electromagnetic shower, some per cent where much is lost. A factor of 1000 is GeV
taken for MeV, where half of the showers agree on it; one over the sampling fraction is a file divided by it already.
A single odd shower is not judged.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.calorimeter import RaggedShowers
from pipeline.data.formats import Description, FormatError

_LOOKED_AT = 64  # showers of each block
_MOST = 10.0  # E_tot / E_inc; and the visible energy is at least _SHARE and at most _MOST_VISIBLE of the incident
_SHARE, _MOST_VISIBLE = 0.3, 3.0
_GEV = 1e3
_NEAR = 3.0


class EnergyCheck:
    """Collects showers of one file, and says when their energies cannot be right."""

    def __init__(self, description: Description) -> None:
        self._description = description
        self._visible: list[NDArray[np.float64]] = []
        self._incident: list[NDArray[np.float64]] = []

    def add(self, showers: RaggedShowers) -> None:
        """Look at the first showers of a block; the first block is judged at once, before hours are spent."""
        n = min(len(showers), _LOOKED_AT)
        shower = np.repeat(np.arange(n), np.asarray(showers.row_size[:n]))
        self._visible.append(np.bincount(shower, weights=showers.energy[: len(shower)], minlength=n).astype(float))
        self._incident.append(np.asarray(showers.incident_energy[:n], dtype=np.float64))
        if len(self._visible) == 1 and self._visible[0].any():
            self.judge()

    def judge(self) -> None:
        """Raise `FormatError` when all showers are empty, or their energies are off by a known factor or absurd."""
        visible, incident = np.concatenate(self._visible), np.concatenate(self._incident)
        hit = visible > 0
        where, fraction = self._description.path, self._description.sampling_fraction
        if not hit.any():
            raise FormatError(
                f"{where}: expected showers with energy, found none above 0 in any of those looked at "
                f"({len(hit)}); take the file out of `files:`"
            )
        low, share, high = (float(q) for q in np.quantile(visible[hit] / incident[hit], [0.25, 0.5, 0.75]))
        ratio = share / fraction
        alike = low / share > 1 / _NEAR and high / share < _NEAR
        remedy = self._remedy(ratio, share, alike)
        if remedy:
            raise FormatError(
                f"{where}: expected E_tot/E_inc near 1 (E_tot: visible energy / sampling fraction {fraction:g}), found "
                f"a median of {ratio:.3g}: {remedy}"
            )

    def _remedy(self, ratio: float, share: float, alike: bool) -> str:
        """What is likely wrong and what to do; empty when the energies may be right."""
        fraction, corrected = self._description.sampling_fraction, self._description.sampling_corrected
        if alike and 1 / _NEAR < ratio * _GEV < _NEAR:
            return "cell energies look like GeV; multiply them by 1000 (all energies of a raw file are MeV)"
        if share < min(max(_SHARE, _MOST * fraction), _MOST_VISIBLE):
            return ""
        if 1 / _NEAR < ratio / _GEV < _NEAR:
            return "incident energies look like GeV; multiply them by 1000 (all energies of a raw file are MeV)"
        if not corrected and 1 / _NEAR < share < _NEAR:
            return (
                "the energies look divided by the sampling fraction; set `sampling_corrected: true`, or correct "
                "`sampling_fraction:`"
            )
        return "more than can be; check units, `sampling_corrected:` and `sampling_fraction:`, or take the file out"
