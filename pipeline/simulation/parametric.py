"""Showers from formulas: thousands a second on one core, for bulk data, benchmarks and machines without Geant4.

In: a `SimulateSpec`, a detector, a seed. Out: visible energies (shower, r, phi, z), MeV, of electrons, positrons
or photons. A shower is a number of energy spots. Depths follow a gamma profile whose maximum and shape fluctuate
from shower to shower, radii a core and a tail; azimuths are those of a few branches, so that a shower leans to a
side as real ones do. Source of the profiles: G. Grindhammer and S. Peters, hep-ex/0001020 ("GFLASH"), sampling
calorimeters; t is a depth in radiation lengths, tau = t / t_max, y = E / E_c. Spots and branches are ours, tuned
to Geant4 electrons of 1-16 GeV (docs/geant4.md). Not modelled: the angle (a label only; the mesh lies along the
particle), tracks through neighbouring cells, back-scattering, any end of the calorimeter other than the mesh's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.calorimeter import CylinderMesh, Showers
from pipeline.config.data import SimulateSpec
from pipeline.config.detectors import DetectorSpec
from pipeline.simulation.conditions import as_showers, incident_energies_mev, mesh_of

Floats = NDArray[np.float64]
_SCALE_ENERGY_MEV = 21.2  # Moliere radius = X0 * 21.2 MeV / E_c
_VISIBLE_TO_MIP = 0.68  # e/mip of a heavy absorber with a light active material (Z1 - Z2 = 60 to 75)
_SPOT_SHAPE = 1.4  # of the gamma distribution of a spot's energy
_BRANCHES_PER_GEV, _BRANCH_WIDTH_RAD = 10.0, 0.5
_RADIAL_SCALE = 1.18  # 90 % of the visible energy within the detector's Moliere radius, as Geant4 has it
_BLOCK = 256
_BLOCK_SPOTS = 500_000


@dataclass(frozen=True)
class Medium:
    """The homogenised detector: radiation length and Moliere radius in mm, critical energy in MeV."""

    radiation_length_mm: float
    moliere_radius_mm: float
    layer_x0: float
    sampling_fraction: float

    @classmethod
    def from_detector(cls, detector: DetectorSpec) -> Medium:
        """From the thicknesses of a layer and the effective constants of the stack."""
        pitch_mm = detector.absorber.thickness_mm + detector.active.thickness_mm
        return cls(
            detector.radiation_length_mm,
            detector.moliere_radius_mm,
            pitch_mm / detector.radiation_length_mm,
            detector.sampling_fraction,
        )

    @property
    def critical_energy_mev(self) -> float:
        """E_c = 21.2 MeV X0 / R_M."""
        return _SCALE_ENERGY_MEV * self.radiation_length_mm / self.moliere_radius_mm

    @property
    def atomic_number(self) -> float:
        """Effective Z, from Rossi's E_c = 610 MeV / (Z + 1.24)."""
        return min(max(610 / self.critical_energy_mev - 1.24, 1.0), 92.0)

    @property
    def stochastic_term(self) -> float:
        """sigma / E at 1 GeV: a power law through Geant4's SiW (13.5 % at 0.40 X0 a layer) and SciPb (17 %, 0.79)."""
        return 0.135 * math.pow(self.layer_x0 / 0.4, 0.34)

    @property
    def spots_per_gev(self) -> float:
        """Visible energy spots per GeV: a power law through the numbers of hit cells in SiW and SciPb."""
        return 170.0 * math.pow(self.layer_x0 / 0.4, -0.6)


def simulate_parametric(spec: SimulateSpec, detector_name: str, detector: DetectorSpec, seed: int) -> Showers:
    """The showers of one file."""
    blocks = list(simulate_blocks(spec, detector_name, detector, seed))
    energy = np.concatenate([block.energy for block in blocks])
    incident_energy = np.concatenate([block.incident_energy for block in blocks])
    return as_showers(energy, incident_energy, spec, blocks[0].mesh, detector_name)


def simulate_blocks(spec: SimulateSpec, detector_name: str, detector: DetectorSpec, seed: int) -> Iterator[Showers]:
    """The same showers in blocks of at most 256, so that memory does not grow with their number."""
    mesh, medium = mesh_of(spec, detector), Medium.from_detector(detector)
    energies = incident_energies_mev(spec, seed)
    rng = np.random.default_rng([seed, 1])
    for rows in _blocks(energies, medium.spots_per_gev):
        energy = shower_block(energies[rows], spec.particle, medium, mesh, rng)
        energy[energy < spec.threshold_mev] = 0
        yield as_showers(energy, energies[rows], spec, mesh, detector_name)


def _blocks(energies_mev: Floats, spots_per_gev: float) -> Iterator[slice]:
    """Consecutive rows: at most `_BLOCK` showers and about `_BLOCK_SPOTS` spots, at least one shower."""
    spots = np.cumsum(energies_mev) * 1e-3 * spots_per_gev
    start = 0
    while start < len(energies_mev):
        before = spots[start - 1] if start else 0.0
        fitting = int(np.searchsorted(spots, before + _BLOCK_SPOTS))
        stop = min(max(fitting, start + 1), start + _BLOCK)
        yield slice(start, stop)
        start = stop


def shower_block(
    energy_mev: Floats, particle: str, medium: Medium, mesh: CylinderMesh, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Visible energies (shower, r, phi, z), MeV, before the threshold, for incident energies (shower,)."""
    t_max, alpha = longitudinal_shapes(energy_mev, particle, medium, rng)
    start_x0 = rng.exponential(9 / 7, len(energy_mev)) if particle == "gamma" else np.zeros(len(energy_mev))
    shower, visible_mev = energy_spots(energy_mev, medium, rng)
    t = rng.standard_gamma(alpha[shower]) * (t_max / (alpha - 1))[shower]
    r = radii(t / t_max[shower], np.log(energy_mev * 1e-3)[shower], medium, rng)
    i_z = ((t + start_x0[shower]) * (medium.radiation_length_mm / mesh.dz_mm)).astype(np.int64)
    r_mm = r * (_RADIAL_SCALE * medium.moliere_radius_mm)
    i_r = np.minimum(r_mm / mesh.dr_mm, mesh.n_r).astype(np.int64)
    i_phi = azimuths(shower, energy_mev, rng) * (mesh.n_phi / (2 * math.pi))
    inside = (i_z < mesh.n_z) & (i_r < mesh.n_r)
    cell = ((shower * mesh.n_r + i_r) * mesh.n_phi + i_phi.astype(np.int64) % mesh.n_phi) * mesh.n_z + i_z
    flat = np.bincount(cell[inside], visible_mev[inside], len(energy_mev) * mesh.n_cells)
    return flat.astype(np.float32).reshape(-1, *mesh.shape)


def longitudinal_shapes(
    energy_mev: Floats, particle: str, medium: Medium, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Depth of maximum T in X0 and shape alpha of each shower's gamma profile: correlated log-normals.

    hep-ex/0001020, sections 3.1.2 and 3.2.2 and its appendix; F_S = X0 / thickness of a layer. A photon converts
    9/7 X0 deep on average and its maximum lies 1 X0 deeper than an electron's, so T is 2/7 smaller after that.
    """
    ln_y = np.maximum(np.log(energy_mev / medium.critical_energy_mev), 2.8)
    t_max = ln_y - 0.812 - 0.55 * medium.layer_x0 - 0.69 * (1 - _VISIBLE_TO_MIP)
    if particle == "gamma":
        t_max = t_max - 2 / 7
    alpha = 0.81 + (0.458 + 2.26 / medium.atomic_number) * ln_y - 0.476 * medium.layer_x0
    sigma_t = np.minimum(1 / (-2.5 + 1.25 * ln_y), 0.5)
    sigma_alpha = np.minimum(1 / (-0.82 + 0.79 * ln_y), 0.5)
    rho = 0.784 - 0.023 * ln_y
    z1, z2 = rng.standard_normal((2, len(energy_mev)))
    common, opposite = np.sqrt((1 + rho) / 2) * z1, np.sqrt((1 - rho) / 2) * z2
    t_max = np.maximum(t_max, 0.5) * np.exp(sigma_t * (common + opposite))
    return t_max, np.maximum(alpha * np.exp(sigma_alpha * (common - opposite)), 1.1)


def energy_spots(energy_mev: Floats, medium: Medium, rng: np.random.Generator) -> tuple[NDArray[np.int64], Floats]:
    """Shower and visible energy (MeV) of each spot; the energies are gamma-distributed.

    The number of spots is Poisson with a gamma-distributed mean, so that the visible energy has the mean
    sampling_fraction * E and the relative variance stochastic_term^2 / (E / GeV): the spots alone give
    (1 + 1 / shape) / n of it, the fluctuating mean the rest.
    """
    gev, rate = energy_mev * 1e-3, medium.spots_per_gev
    rest = max(medium.stochastic_term**2 - (1 + 1 / _SPOT_SHAPE) / rate, 1e-6)
    n = rng.poisson(rate * rest * rng.standard_gamma(gev / rest))
    shower = np.repeat(np.arange(len(energy_mev)), n)
    mean_mev = 1e3 * medium.sampling_fraction / rate
    return shower, rng.standard_gamma(_SPOT_SHAPE, len(shower)) * (mean_mev / _SPOT_SHAPE)


def azimuths(shower: NDArray[np.int64], energy_mev: Floats, rng: np.random.Generator) -> Floats:
    """An azimuth >= 0 for each spot, to be taken modulo 2 pi: that of one of the shower's branches, smeared."""
    n_branches = 1 + rng.poisson(_BRANCHES_PER_GEV * energy_mev * 1e-3)
    first = np.cumsum(n_branches) - n_branches
    direction = rng.random(int(n_branches.sum())) * (2 * math.pi)
    branch = (rng.random(len(shower)) * n_branches[shower]).astype(np.int64)
    smeared = direction[first[shower] + branch] + _BRANCH_WIDTH_RAD * rng.standard_normal(len(shower))
    return np.asarray(smeared + 4 * math.pi)


def radii(tau: Floats, ln_gev: Floats, medium: Medium, rng: np.random.Generator) -> Floats:
    """A radius in Moliere radii for each depth tau: core and tail of hep-ex/0001020 sections 3.1.3 and 3.2.3.

    f(r) = p 2 r Rc^2 / (r^2 + Rc^2)^2 + (1 - p) 2 r Rt^2 / (r^2 + Rt^2)^2, drawn by inversion: r = R sqrt(u / (1 - u)).
    """
    z, per_layer = medium.atomic_number, medium.layer_x0
    core = 0.0251 + 0.00319 * ln_gev + (0.1162 - 0.000381 * z) * tau
    core = core - 0.0203 * (1 - _VISIBLE_TO_MIP) + 0.0397 * per_layer * np.exp(-tau)
    away = tau - 0.645
    tail = (0.659 - 0.00309 * z) * (np.exp(-2.59 * away) + np.exp((0.3585 + 0.0412 * ln_gev) * away))
    tail = tail - 0.14 * (1 - _VISIBLE_TO_MIP) - 0.495 * per_layer * np.exp(-tau)
    reduced = (0.401 + 0.00187 * z - tau) / (1.313 - 0.0686 * ln_gev)
    p = (2.632 - 0.00094 * z) * np.exp(reduced - np.exp(reduced))
    p = p + (1 - _VISIBLE_TO_MIP) * (0.348 - 0.642 * per_layer * np.exp(-((tau - 1) ** 2)))
    u, v = rng.random((2, len(tau)))
    scale = np.where(u < p, np.maximum(core, 0.01), np.maximum(tail, 0.05))
    radius: Floats = scale * np.sqrt(v / (1 - v))
    return radius
