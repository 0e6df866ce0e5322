"""Showers made wrong on purpose: what a metric must see, and what it must not.

In and out: `RaggedShowers` of visible MeV, the conditions untouched. Each perturbation is a pure function; those that
draw take a generator. `PERTURBATIONS` names the ones that the evaluation and the study use, at their usual strength.
Rotation and reflection in phi are symmetries at perpendicular incidence (reflection also of tilted particles), so a
good metric does not react to them. `exchange_cells` is the control of docs/metrics.md: every cell keeps its
distribution at every energy, and the cells of a shower no longer belong together.
It evaluates nothing, and cuts nothing again: that is the caller's, who knows the threshold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.calorimeter import RaggedShowers, Showers

Perturb = Callable[[RaggedShowers, np.random.Generator, float], RaggedShowers]
"""(showers, generator, threshold of the evaluation in MeV) -> the showers made wrong."""

NEIGHBOURS = 20


def scale_energy(showers: RaggedShowers, factor: float) -> RaggedShowers:
    """Every cell times `factor` > 0."""
    if not factor > 0:
        raise ValueError(f"scale_energy: expected a factor > 0, got {factor:g}")
    return replace(showers, energy=(showers.energy * np.float32(factor)).astype(np.float32))


def smear_cells(showers: RaggedShowers, width: float, generator: np.random.Generator) -> RaggedShowers:
    """Every hit times its own log-normal number of mean 1 and relative width about `width`."""
    if width < 0:
        raise ValueError(f"smear_cells: expected a width >= 0, got {width:g}")
    factors = np.exp(width * generator.standard_normal(len(showers.energy)) - 0.5 * width**2)
    return replace(showers, energy=(showers.energy * factors).astype(np.float32))


def drop_layer(showers: RaggedShowers, layer: int) -> RaggedShowers:
    """No hits in one z layer, as from a dead board."""
    if not 0 <= layer < showers.mesh.n_z:
        raise ValueError(f"drop_layer: expected a layer in 0 to {showers.mesh.n_z - 1}, got {layer}")
    return _where(showers, showers.cell % showers.mesh.n_z != layer)


def raise_threshold(showers: RaggedShowers, threshold_mev: float) -> RaggedShowers:
    """Hits below another threshold dropped."""
    return showers.cut(threshold_mev)


def rotate_phi(showers: RaggedShowers, cells: int) -> RaggedShowers:
    """All hits `cells` sectors further in phi."""
    return _with_phi(showers, lambda phi, n: (phi + cells) % n)


def reflect_phi(showers: RaggedShowers) -> RaggedShowers:
    """All hits mirrored: sector i becomes sector n - 1 - i."""
    return _with_phi(showers, lambda phi, n: n - 1 - phi)


def exchange_cells(showers: RaggedShowers, neighbours: int, generator: np.random.Generator) -> RaggedShowers:
    """The values of each cell permuted among `neighbours` showers of neighbouring incident energy.

    Showers are put in groups by rising energy; within a group every cell is permuted on its own, empty cells
    included, so each cell's values stay exactly what they were. Showers keep their place and their conditions.
    """
    if neighbours < 2:
        raise ValueError(f"exchange_cells: expected at least 2 neighbours, got {neighbours}")
    order = np.argsort(showers.incident_energy, kind="stable")
    groups = np.array_split(order, max(len(order) // neighbours, 1))
    exchanged = [_exchanged(showers.take(rows), generator) for rows in groups]
    return RaggedShowers.concatenate(exchanged).take(np.argsort(order, kind="stable"))


def quarter_turn(n_phi: int) -> int:
    """The whole number of sectors nearest to 90 degrees, at least 1."""
    return max(round(n_phi / 4), 1)


def fullest_layer(showers: RaggedShowers) -> int:
    """The z layer with most energy: where the showers have their maximum."""
    return int(np.bincount(showers.cell % showers.mesh.n_z, weights=showers.energy, minlength=1).argmax())


# ------------------------------------------------------------------------------- the named ones


@dataclass(frozen=True)
class Perturbation:
    """A perturbation at a fixed strength; `invariant` when a metric should not react."""

    label: str
    apply: Perturb
    invariant: bool = False
    per_shower: bool = True


def _quarter(showers: RaggedShowers, _: np.random.Generator, __: float) -> RaggedShowers:
    return rotate_phi(showers, quarter_turn(showers.mesh.n_phi))


PERTURBATIONS: dict[str, Perturbation] = {
    "rotated": Perturbation("rotated by a quarter turn", _quarter, invariant=True),
    "reflected": Perturbation("reflected in phi", lambda s, _, __: reflect_phi(s), invariant=True),
    "energy_1_percent": Perturbation("energy +1 %", lambda s, _, __: scale_energy(s, 1.01)),
    "energy_5_percent": Perturbation("energy +5 %", lambda s, _, __: scale_energy(s, 1.05)),
    "smeared_5_percent": Perturbation("cells smeared 5 %", lambda s, g, _: smear_cells(s, 0.05, g)),
    "smeared_20_percent": Perturbation("cells smeared 20 %", lambda s, g, _: smear_cells(s, 0.2, g)),
    "raised_threshold": Perturbation("threshold doubled", lambda s, _, t: raise_threshold(s, 2 * t)),
    "dropped_layer": Perturbation("layer dropped", lambda s, _, __: drop_layer(s, fullest_layer(s))),
    "exchanged_cells": Perturbation(
        "cells exchanged", lambda s, g, _: exchange_cells(s, NEIGHBOURS, g), per_shower=False
    ),
}


SENSITIVITY = ("energy_1_percent", "smeared_5_percent", "dropped_layer", "rotated")
"""The faults whose reaction stands in every summary."""


# ------------------------------------------------------------------------------- what they share


def _where(showers: RaggedShowers, keep: NDArray[np.bool_]) -> RaggedShowers:
    """The hits that are kept."""
    row_size = np.bincount(showers.shower_of_hit[keep], minlength=len(showers)).astype(np.int64)
    return replace(showers, row_size=row_size, cell=showers.cell[keep], energy=showers.energy[keep])


def _with_phi(showers: RaggedShowers, move: Callable[[NDArray[np.intp], int], NDArray[np.intp]]) -> RaggedShowers:
    """Hits moved in phi, their cells ascending again within each shower."""
    mesh = showers.mesh
    r, phi, z = np.unravel_index(showers.cell.astype(np.intp), mesh.shape)
    cell = np.ravel_multi_index((r, move(phi, mesh.n_phi), z), mesh.shape)
    order = np.lexsort((cell, showers.shower_of_hit))
    return replace(showers, cell=cell[order].astype(showers.cell.dtype), energy=showers.energy[order])


def _exchanged(group: RaggedShowers, generator: np.random.Generator) -> RaggedShowers:
    """One group with every cell permuted among its showers."""
    dense = group.dense()
    flat = generator.permuted(dense.energy.reshape(len(group), -1), axis=0)
    return RaggedShowers.from_dense(
        Showers(
            flat.reshape(dense.energy.shape),
            group.incident_energy,
            group.theta,
            group.phi,
            group.mesh,
            group.detector,
            group.particle,
        )
    )
