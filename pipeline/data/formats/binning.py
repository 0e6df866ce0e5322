"""The voxels of CaloChallenge's data set 1: edges from the challenge's XML, weights onto a regular mesh.

In: `<Bins><Bin name="photon"><Layer id="0" r_edges="0,5,10" n_bin_alpha="10"/>…`, edges in mm, alpha from -pi to
pi in equal bins; a layer with a single edge has no voxels. Out: the layers that have voxels, and energies of one
layer moved to the (r, phi) cells of a mesh. A voxel's energy is taken as even over its area, so the share of a
cell is the overlap in r^2 times the overlap in alpha; the shares of a voxel sum to 1.
Source: github.com/CaloChallenge/homepage, code/XMLHandler.py (order and edges).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from pipeline.calorimeter import CylinderMesh
from pipeline.data.formats.path_pattern import PARTICLES
from pipeline.data.formats.reader import FormatError


@dataclass(frozen=True)
class VoxelLayer:
    """A layer's voxels: edges in r (mm, ascending), equal bins in alpha; r is fastest."""

    id: int
    r_edges_mm: tuple[float, ...]
    n_alpha: int

    @property
    def n_voxels(self) -> int:
        """Number of voxels."""
        return (len(self.r_edges_mm) - 1) * self.n_alpha


def read_binning(path: Path, particle: str | None) -> tuple[str, tuple[VoxelLayer, ...]]:
    """The particle and its layers that have voxels; without a particle, the file's only one.

    Raises `FormatError` that names the XML.
    """
    try:
        blocks = list(ElementTree.parse(path).getroot())
    except (OSError, ElementTree.ParseError) as error:
        raise FormatError(f"{path}: expected the challenge's binning XML, found: {error}; correct `binning:`") from None
    found = [(PARTICLES.get(block.get("name", ""), block.get("name", "")), block) for block in blocks]
    wanted = "pi+" if particle == "pi-" else particle
    fitting = [(name, block) for name, block in found if wanted in (None, name)]
    if len(fitting) != 1:
        raise FormatError(
            f"{path}: expected one block for particle '{particle or 'any'}', found {[name for name, _ in found]}; "
            "correct `particle:` or `binning:` of the data set's YAML"
        )
    name, block = fitting[0]
    layers = (_layer(path, element) for element in block)
    return particle or name, tuple(layer for layer in layers if layer.n_voxels)


def _layer(path: Path, element: ElementTree.Element) -> VoxelLayer:
    try:
        edges = tuple(float(edge) for edge in element.attrib["r_edges"].split(","))
        layer = VoxelLayer(int(element.attrib["id"]), edges, int(element.attrib["n_bin_alpha"]))
    except (KeyError, ValueError) as error:
        raise FormatError(
            f"{path}: Layer {element.get('id')}: expected id, r_edges and n_bin_alpha as numbers, found {error}; "
            "copy the challenge's file again"
        ) from None
    if layer.n_alpha < 1 or edges[0] < 0 or not all(a < b < math.inf for a, b in pairwise(edges)):
        raise FormatError(
            f"{path}: Layer {layer.id}: expected ascending r_edges from 0 and n_bin_alpha >= 1, found {edges}, "
            f"{layer.n_alpha}; copy the challenge's file again"
        )
    return layer


def rebin_layer(voxels: NDArray[np.floating], layer: VoxelLayer, mesh: CylinderMesh) -> NDArray[np.float64]:
    """Energies (shower, voxel) of one layer on the cells (shower, r, phi) of a mesh; each shower's sum is kept."""
    in_r, in_alpha = weights(layer, mesh)
    energy = voxels.astype(np.float64).reshape(len(voxels), layer.n_alpha, -1)  # (n, alpha, r)
    return np.asarray(np.einsum("nar,rR,aP->nRP", energy, in_r, in_alpha, optimize=True))


@lru_cache(maxsize=64)
def weights(layer: VoxelLayer, mesh: CylinderMesh) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shares of the layer's r bins in the mesh's rings, and of its alpha bins in the mesh's phi bins.

    Shapes (r, R) and (alpha, phi); rows sum to 1. A bin's share beyond the mesh goes to the outermost ring.
    """
    rings = np.arange(mesh.n_r + 1) * mesh.dr_mm
    rings[-1] = max(rings[-1], layer.r_edges_mm[-1])
    areas = _overlap(np.square(layer.r_edges_mm), np.square(rings))
    angles = _overlap(np.arange(layer.n_alpha + 1) / layer.n_alpha, np.arange(mesh.n_phi + 1) / mesh.n_phi)
    return areas, angles


def _overlap(fine: NDArray[np.float64], coarse: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of each interval of `fine` edges in each interval of `coarse` edges; rows sum to 1."""
    low = np.maximum(fine[:-1, None], coarse[None, :-1])
    high = np.minimum(fine[1:, None], coarse[None, 1:])
    shares = np.clip(high - low, 0, None)
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))
