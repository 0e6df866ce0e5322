"""`Showers`: the one object that crosses every boundary, dense or ragged.

Energies are visible MeV, axes (shower, r, phi, z); angles are rad: theta is the polar angle to the
detector's axis (90 degrees = perpendicular incidence), phi the azimuth. Sparse showers travel as a
contiguous ragged array: the cell indices of all hits in a row, `row_size` of them per shower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.calorimeter.geometry import CylinderMesh


class ShowerError(ValueError):
    """Showers that cannot be right: wrong shapes, NaN, negative energies."""


def _check_labels(n: int, **labels: NDArray[np.floating]) -> None:
    for name, values in labels.items():
        if values.shape != (n,):
            raise ShowerError(f"{name}: expected shape ({n},), got {values.shape}")
        if not np.isfinite(values).all():
            raise ShowerError(f"{name}: expected finite numbers, got {values[~np.isfinite(values)][0]}")


@dataclass(frozen=True)
class Showers:
    """Dense showers.

    energy: (shower, r, phi, z) visible MeV, >= 0; incident_energy: (shower,) MeV, > 0;
    theta, phi: (shower,) rad. Raises `ShowerError` when a shape or a value is impossible.
    """

    energy: NDArray[np.floating]
    incident_energy: NDArray[np.floating]
    theta: NDArray[np.floating]
    phi: NDArray[np.floating]
    mesh: CylinderMesh
    detector: str
    particle: str = "e-"

    def __post_init__(self) -> None:
        n = len(self.incident_energy)
        if self.energy.shape != (n, *self.mesh.shape):
            raise ShowerError(f"energy: expected shape {(n, *self.mesh.shape)}, got {self.energy.shape}")
        _check_labels(n, incident_energy=self.incident_energy, theta=self.theta, phi=self.phi)
        check_energies(self.energy, self.incident_energy)

    def __len__(self) -> int:
        return len(self.incident_energy)

    def __getitem__(self, rows: slice | NDArray[np.integer]) -> Showers:
        """The chosen showers."""
        return replace(
            self,
            energy=self.energy[rows],
            incident_energy=self.incident_energy[rows],
            theta=self.theta[rows],
            phi=self.phi[rows],
        )

    def rebin(self, factors: tuple[int, int, int]) -> Showers:
        """Groups of cells summed; the energy of each shower is conserved."""
        return replace(self, energy=rebin(self.energy, factors), mesh=self.mesh.rebinned(factors))

    def cut(self, threshold_mev: float) -> Showers:
        """Cells below the threshold set to zero."""
        return replace(self, energy=np.where(self.energy < threshold_mev, 0, self.energy))

    @property
    def visible_energy(self) -> NDArray[np.float64]:
        """Visible energy of each shower, shape (shower,), MeV."""
        return np.asarray(self.energy.sum(axis=(1, 2, 3), dtype=np.float64))


@dataclass(frozen=True)
class RaggedShowers:
    """Sparse showers as a contiguous ragged array.

    row_size: (shower,) hits of each shower; cell: (hit,) flat index into (r, phi, z), ascending within
    a shower; energy: (hit,) float32 visible MeV; incident_energy (shower,) MeV; theta, phi (shower,) rad.
    """

    row_size: NDArray[np.integer]
    cell: NDArray[np.unsignedinteger]
    energy: NDArray[np.float32]
    incident_energy: NDArray[np.floating]
    theta: NDArray[np.floating]
    phi: NDArray[np.floating]
    mesh: CylinderMesh
    detector: str
    particle: str = "e-"

    def __post_init__(self) -> None:
        hits = int(np.sum(self.row_size, dtype=np.int64))
        if self.cell.shape != (hits,) or self.energy.shape != (hits,):
            raise ShowerError(
                f"cell, energy: expected {hits} hits as in row_size, got {self.cell.shape} and {self.energy.shape}"
            )
        _check_labels(len(self.row_size), incident_energy=self.incident_energy, theta=self.theta, phi=self.phi)

    def __len__(self) -> int:
        return len(self.row_size)

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Start of each shower among the hits, shape (shower + 1,)."""
        return np.concatenate([[0], np.cumsum(self.row_size, dtype=np.int64)])

    @property
    def visible_energy(self) -> NDArray[np.float64]:
        """Visible energy of each shower, shape (shower,), MeV."""
        return np.bincount(self.shower_of_hit, weights=self.energy, minlength=len(self)).astype(np.float64)

    @property
    def shower_of_hit(self) -> NDArray[np.intp]:
        """The shower that each hit belongs to, shape (hit,)."""
        return np.repeat(np.arange(len(self)), self.row_size)

    def take(self, rows: NDArray[np.integer]) -> RaggedShowers:
        """The showers at `rows`, in that order (repeats allowed)."""
        rows = np.asarray(rows, dtype=np.int64)
        sizes = np.asarray(self.row_size)[rows].astype(np.int64)
        ends = np.cumsum(sizes)
        hits = np.arange(int(ends[-1]) if len(ends) else 0) + np.repeat(self.offsets[rows] - (ends - sizes), sizes)
        return replace(
            self,
            row_size=np.asarray(self.row_size)[rows],
            cell=self.cell[hits],
            energy=self.energy[hits],
            incident_energy=self.incident_energy[rows],
            theta=self.theta[rows],
            phi=self.phi[rows],
        )

    def where(self, keep: NDArray[np.bool_]) -> RaggedShowers:
        """The showers whose flag in `keep` (shower,) is set, in their order; neighbours are copied in one go."""
        edges = np.flatnonzero(np.diff(keep, prepend=False, append=False))
        runs = [slice(first, end) for first, end in self.offsets[edges].reshape(-1, 2)]
        return replace(
            self,
            row_size=np.asarray(self.row_size)[keep],
            cell=np.concatenate([self.cell[:0], *(self.cell[run] for run in runs)]),
            energy=np.concatenate([self.energy[:0], *(self.energy[run] for run in runs)]),
            incident_energy=self.incident_energy[keep],
            theta=self.theta[keep],
            phi=self.phi[keep],
        )

    def rebin(self, factors: tuple[int, int, int]) -> RaggedShowers:
        """Groups of cells summed; the energy of each shower is conserved."""
        if factors == (1, 1, 1):
            return self
        coarse = self.mesh.rebinned(factors)
        r, phi, z = np.unravel_index(self.cell.astype(np.int64), self.mesh.shape)
        index = ((r // factors[0]) * coarse.n_phi + phi // factors[1]) * coarse.n_z + z // factors[2]
        key, inverse = np.unique(self.shower_of_hit * coarse.n_cells + index, return_inverse=True)
        energy = np.bincount(inverse, weights=self.energy, minlength=len(key)).astype(np.float32)
        row_size = np.bincount(key // coarse.n_cells, minlength=len(self)).astype(np.int64)
        cell = (key % coarse.n_cells).astype(index_dtype(coarse))
        return replace(self, row_size=row_size, cell=cell, energy=energy, mesh=coarse)

    def cut(self, threshold_mev: float) -> RaggedShowers:
        """Hits below the threshold dropped."""
        keep = self.energy >= threshold_mev
        row_size = np.bincount(self.shower_of_hit[keep], minlength=len(self)).astype(np.int64)
        return replace(self, row_size=row_size, cell=self.cell[keep], energy=self.energy[keep])

    def dense(self, dtype: np.dtype[Any] | type = np.float32) -> Showers:
        """The same showers as a dense array of shape (shower, r, phi, z)."""
        energy = np.zeros((len(self), self.mesh.n_cells), dtype=dtype)
        energy[self.shower_of_hit, self.cell] = self.energy
        return Showers(
            energy.reshape(len(self), *self.mesh.shape),
            self.incident_energy,
            self.theta,
            self.phi,
            self.mesh,
            self.detector,
            self.particle,
        )

    @classmethod
    def from_dense(cls, showers: Showers) -> RaggedShowers:
        """The hits (cells above zero) of dense showers; energies become float32."""
        flat = np.ascontiguousarray(showers.energy.reshape(len(showers), -1), dtype=np.float32)
        hit, n_cells = np.flatnonzero(flat > 0), showers.mesh.n_cells
        row_size = np.diff(np.searchsorted(hit, np.arange(len(flat) + 1) * n_cells))
        return cls(
            row_size,
            (hit - np.repeat(np.arange(len(flat)) * n_cells, row_size)).astype(index_dtype(showers.mesh)),
            flat.reshape(-1)[hit],
            showers.incident_energy,
            showers.theta,
            showers.phi,
            showers.mesh,
            showers.detector,
            showers.particle,
        )

    @classmethod
    def concatenate(cls, pieces: Sequence[RaggedShowers]) -> RaggedShowers:
        """Showers of several pieces behind each other; all must share mesh, detector and particle."""
        first = pieces[0]
        for piece in pieces[1:]:
            if (piece.mesh, piece.detector, piece.particle) != (first.mesh, first.detector, first.particle):
                raise ShowerError(
                    f"concatenate: expected {first.detector}, {first.particle} on {first.mesh}, "
                    f"got {piece.detector}, {piece.particle} on {piece.mesh}"
                )
        columns: dict[str, Any] = {
            name: np.concatenate([getattr(piece, name) for piece in pieces])
            for name in ("row_size", "cell", "energy", "incident_energy", "theta", "phi")
        }
        return replace(first, **columns)


def index_dtype(mesh: CylinderMesh) -> np.dtype[np.unsignedinteger[Any]]:
    """The smallest unsigned integer that numbers the mesh's cells."""
    return np.dtype(np.uint16 if mesh.n_cells <= 2**16 else np.uint32)


def rebin(energy: NDArray[np.floating], factors: tuple[int, int, int]) -> NDArray[np.floating]:
    """Sum groups of cells along the last three axes (r, phi, z)."""
    *lead, n_r, n_phi, n_z = energy.shape
    f_r, f_phi, f_z = factors
    if n_r % f_r or n_phi % f_phi or n_z % f_z:
        raise ValueError(f"rebin: expected factors that divide {(n_r, n_phi, n_z)}, got {factors}")
    grouped = energy.reshape(*lead, n_r // f_r, f_r, n_phi // f_phi, f_phi, n_z // f_z, f_z)
    return np.asarray(grouped.sum(axis=(-5, -3, -1)))


def check_energies(energy: NDArray[np.floating], incident_energy: NDArray[np.floating]) -> None:
    """Raise `ShowerError` at a NaN, an infinity, a negative cell or an incident energy that is not positive."""
    total = energy.sum(dtype=np.float64)
    if not np.isfinite(total):
        where = np.argwhere(~np.isfinite(energy))[0]
        raise ShowerError(
            f"shower {where[0]}: expected finite cell energies, got {energy[tuple(where)]} "
            f"in cell {tuple(int(i) for i in where[1:])}"
        )
    if energy.size and energy.min() < 0:
        where = np.argwhere(energy < 0)[0]
        raise ShowerError(
            f"shower {where[0]}: expected cell energies >= 0 MeV, got {energy[tuple(where)]:g} "
            f"in cell {tuple(int(i) for i in where[1:])}"
        )
    if not (incident_energy > 0).all():
        row = int(np.argmax(~(incident_energy > 0)))
        raise ShowerError(f"shower {row}: expected an incident energy > 0 MeV, got {incident_energy[row]:g}")
