"""Steps that look at a whole shower: fractions of layer energies, seeded noise; and the ratios of layer energies.

In and out: energies or fractions (…, r, phi, z), layer energies (…, z) in MeV. NumPy and torch through the array API.
The fractions are those of CaloFlow (arXiv:2106.05285) and CaloDREAM (arXiv:2405.09629), the noise theirs too, but
only where a cell is below its width: cells above stay exact, so that the inverse, a cut, undoes all of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from array_api_compat import array_namespace, device

from pipeline.data.fitted import TransformError

Array = Any
_MASK = 0xFFFFFFFF


@dataclass(frozen=True)
class LayerFractions:
    """x / E_layer, the sum over (r, phi), and 0 in a layer without energy.

    The inverse needs `layer_energy`, MeV (…, 1, 1, z).
    """

    layer_energy: Array = None

    def forward(self, x: Array, incident: Array) -> Array:
        """MeV (…, r, phi, z) to fractions."""
        return fractions(x, array_namespace(x).sum(x, axis=(-3, -2), keepdims=True))

    def inverse(self, x: Array, incident: Array) -> Array:
        """Fractions to MeV; TransformError without layer energies."""
        if self.layer_energy is None:
            raise TransformError("layer_fractions: expected layer energies for the inverse, got none; pass them on")
        return x * self.layer_energy

    def given(self, layer_energy: Array, like: Array) -> LayerFractions:
        """The step that knows the layer energies (…, z) in MeV."""
        if layer_energy is None:
            return self
        energy = array_namespace(like).asarray(layer_energy, dtype=like.dtype, device=device(like))
        return replace(self, layer_energy=energy[..., None, None, :])


def fractions(x: Array, energy: Array) -> Array:
    """x / energy, and 0 where the energy is 0."""
    xp = array_namespace(x, energy)
    return xp.where(energy > 0, x / xp.where(energy > 0, energy, xp.ones_like(energy)), xp.zeros_like(x))


@dataclass(frozen=True)
class Noise:
    """Cells below `width` become uniform in [0, width); the inverse cuts there.

    The random numbers of a shower depend on which of its cells are above the width, and on nothing else: not on its
    place, its batch or the library, so a second pass draws the same.
    """

    width: float

    def forward(self, x: Array, incident: Array) -> Array:
        """(…, r, phi, z) >= 0."""
        xp = array_namespace(x)
        below = x < self.width
        number = xp.arange(1, 1 + math.prod(x.shape[-3:]), dtype=xp.int64, device=device(x))
        number = xp.reshape(number, tuple(x.shape[-3:]))
        marks = xp.where(below, xp.zeros_like(number), _mixed(number))
        seed = _mixed(xp.sum(marks, axis=(-3, -2, -1), keepdims=True) & _MASK)
        uniform = xp.astype(_mixed(seed ^ number) >> 9, x.dtype) / 2**23
        return xp.where(below, uniform * self.width, x)

    def inverse(self, x: Array, incident: Array) -> Array:
        """What is below the width is 0."""
        xp = array_namespace(x)
        return xp.where(x < self.width, xp.zeros_like(x), x)


def _mixed(x: Array) -> Array:
    """A 32-bit integer hash of int64 in [0, 2^32) (C. Wellons, "Prospecting for hash functions", lowbias32)."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _MASK
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _MASK
    return x ^ (x >> 16)


def layer_ratios(layer_energy: Array, incident: Array) -> Array:
    """(…, z) MeV and (…,) MeV to the ratios u of shape (…, z), arXiv:2405.09629: all but u_0 in [0, 1].

    u_0 = sum E / E_inc, u_i = E_(i-1) / sum of E_j over j >= i-1; 0 where nothing is left.
    """
    xp = array_namespace(layer_energy)
    left = xp.flip(xp.cumulative_sum(xp.flip(layer_energy, axis=-1), axis=-1), axis=-1)
    first = left[..., :1] / incident[..., None]
    return xp.concat([first, fractions(layer_energy, left)[..., :-1]], axis=-1)


def from_layer_ratios(u: Array, incident: Array) -> Array:
    """The layer energies (…, z) in MeV behind the ratios (…, z): the inverse of `layer_ratios`."""
    xp = array_namespace(u)
    left, energies = u[..., 0] * incident, []
    for i in range(1, u.shape[-1]):
        energies.append(left * u[..., i])
        left = left - energies[-1]
    return xp.stack([*energies, left], axis=-1)
