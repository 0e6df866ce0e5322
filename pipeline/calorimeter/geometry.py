"""The scoring mesh: a cylinder along the particle's direction, in (r, phi, z).

Cell centres: r = (i + 1/2) dr, phi = (i + 1/2) 2 pi / N - pi, z = (i + 1/2) dz; mm and rad.
Source: Geant4 11.4 example Par04; physics of the mesh in docs/physics.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.config import MeshSpec


@dataclass(frozen=True)
class CylinderMesh:
    """A regular (r, phi, z) mesh; `dr_mm` and `dz_mm` are cell sizes."""

    n_r: int
    n_phi: int
    n_z: int
    dr_mm: float
    dz_mm: float

    def __post_init__(self) -> None:
        if min(self.n_r, self.n_phi, self.n_z) < 1 or not (self.dr_mm > 0 and self.dz_mm > 0):
            raise ValueError(f"mesh: expected positive numbers of cells and sizes, got {self}")

    @classmethod
    def from_spec(cls, spec: MeshSpec) -> CylinderMesh:
        """The mesh that the configuration describes."""
        return cls(*spec.cells, dr_mm=spec.dr_mm, dz_mm=spec.dz_mm)

    def as_spec(self) -> MeshSpec:
        """The configuration record of this mesh."""
        return MeshSpec(cells=self.shape, dr_mm=self.dr_mm, dz_mm=self.dz_mm)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of cells along (r, phi, z)."""
        return (self.n_r, self.n_phi, self.n_z)

    @property
    def n_cells(self) -> int:
        """Number of cells of one shower."""
        return self.n_r * self.n_phi * self.n_z

    @property
    def r_mm(self) -> NDArray[np.float64]:
        """Cell centres along r, shape (n_r,)."""
        return (np.arange(self.n_r, dtype=np.float64) + 0.5) * self.dr_mm

    @property
    def phi_rad(self) -> NDArray[np.float64]:
        """Cell centres along phi, shape (n_phi,)."""
        return (np.arange(self.n_phi, dtype=np.float64) + 0.5) * (2 * math.pi / self.n_phi) - math.pi

    @property
    def z_mm(self) -> NDArray[np.float64]:
        """Cell centres along z, shape (n_z,)."""
        return (np.arange(self.n_z, dtype=np.float64) + 0.5) * self.dz_mm

    def rebinned(self, factors: tuple[int, int, int]) -> CylinderMesh:
        """The mesh after summing `factors` cells along (r, phi, z); ValueError when they do not divide it."""
        if any(n % f for n, f in zip(self.shape, factors, strict=True)):
            raise ValueError(f"rebin: expected factors that divide the mesh {self.shape}, got {factors}")
        n_r, n_phi, n_z = (n // f for n, f in zip(self.shape, factors, strict=True))
        return CylinderMesh(n_r, n_phi, n_z, self.dr_mm * factors[0], self.dz_mm * factors[2])

    def cropped(self, cells: tuple[int, int, int]) -> CylinderMesh:
        """The mesh of the first `cells` along (r, phi, z); phi must be kept whole."""
        if cells[1] != self.n_phi or any(c > n for c, n in zip(cells, self.shape, strict=True)):
            raise ValueError(f"crop: expected cells within {self.shape} and phi kept whole, got {cells}")
        return CylinderMesh(*cells, self.dr_mm, self.dz_mm)

    def factors_to(self, coarse: CylinderMesh) -> tuple[int, int, int]:
        """The rebin factors that lead from this mesh to `coarse`; ValueError when there are none."""
        factors = tuple(n // max(m, 1) for n, m in zip(self.shape, coarse.shape, strict=True))
        ok = all(f * m == n for f, n, m in zip(factors, self.shape, coarse.shape, strict=True))
        if not ok or not (
            math.isclose(self.dr_mm * factors[0], coarse.dr_mm, rel_tol=1e-6)
            and math.isclose(self.dz_mm * factors[2], coarse.dz_mm, rel_tol=1e-6)
        ):
            raise ValueError(f"mesh: expected one that {self} divides into, got {coarse}")
        return (factors[0], factors[1], factors[2])
