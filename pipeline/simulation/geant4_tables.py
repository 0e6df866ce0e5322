"""A stand-in of 0.5 MB for the Geant4 data set G4LEDATA, written from formulas in a fraction of a second.

`G4EmStandardPhysics` (option 0) reads three tables per element:
  brem_SB/br<Z>                 bremsstrahlung: Tsai's Bethe-Heitler formula with Thomas-Fermi screening (Rev. Mod.
                                Phys. 46 (1974) 815), times a smooth fit to the NIST (Seltzer-Berger) tables
  epics2017/phot/pe-*-<Z>.dat   photo-electric effect: Sandia tables and shell energies compiled into Geant4
  epics2017/rayl/re-cs-<Z>.dat  Rayleigh scattering: Thomson times a Thomas-Fermi form factor
File formats: Geant4 11.4. Good to about a per cent for electromagnetic showers; X-rays below 50 keV are
approximate, and the more detailed physics lists (Livermore, Penelope, option 3 and 4) need the official data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.simulation.bremsstrahlung_fit import CHEBYSHEV, KAPPA, KINETIC_ENERGY_MEV

_ELECTRON_MASS_MEV = 0.51099895
_ALPHA = 1 / 137.035999
_RE2_MILLIBARN, _RE2_MM2 = 79.407877, 7.9407877e-24  # classical electron radius, squared
_EDGE = 1e-5  # relative distance at which both sides of an absorption edge are tabulated
_NO_FIT_MEV = "1e12"  # threshold of the parametrised photo-electric cross-section: never reached
CrossSection = Callable[[float], float]


def write_standin_data(folder: Path, g4: Any, elements: Iterable[int]) -> None:
    """Write the tables of the elements (atomic numbers) below `folder`; `g4` are the imported bindings."""
    for name in ("brem_SB", "epics2017/phot", "epics2017/rayl"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for z in elements:
        _write_bremsstrahlung(folder / "brem_SB" / f"br{z}", z)
        _write_photoelectric(folder / "epics2017/phot", z, _sandia(g4, z), _shells_mev(g4, z))
        _write_rayleigh(folder / "epics2017/rayl" / f"re-cs-{z}.dat", z)
    write_empty_nuclides(folder)


def write_empty_nuclides(folder: Path) -> None:
    """An empty ENSDFSTATE.dat: ground states only."""
    (folder / "ENSDFSTATE.dat").touch()


# ------------------------------------------------------------------------------------------ bremsstrahlung


def bremsstrahlung_mb(z: int) -> NDArray[np.float64]:
    """(beta^2/Z^2) k dsigma/dk in mb, shape (kinetic energy, kappa), on the grids of `bremsstrahlung_fit`."""
    kinetic, kappa = np.array(KINETIC_ENERGY_MEV), np.array(KAPPA)
    x = 2 * np.log(kinetic / kinetic[0]) / math.log(kinetic[-1] / kinetic[0]) - 1
    nearest = z if z in CHEBYSHEV else min(CHEBYSHEV, key=lambda known: abs(math.log(known / z)))
    coefficients = np.array(CHEBYSHEV[nearest]).reshape(9, 4)
    correction = np.exp(np.polynomial.chebyshev.chebgrid2d(x, 2 * kappa - 1, coefficients))
    return np.asarray(_tsai_mb(z, kinetic[:, None], kappa[None, :]) * correction)


def _tsai_mb(z: int, kinetic_mev: NDArray[np.float64], kappa: NDArray[np.float64]) -> NDArray[np.float64]:
    """Tsai (1974) eq. 3.83 with the screening functions of eqs. 3.38-3.41 and Coulomb correction eq. 3.3."""
    total = kinetic_mev + _ELECTRON_MASS_MEV
    k = np.minimum(kappa * kinetic_mev, kinetic_mev * (1 - 1e-6))
    y = k / total
    beta2 = kinetic_mev * (kinetic_mev + 2 * _ELECTRON_MASS_MEV) / total**2
    a2 = (_ALPHA * z) ** 2
    f_z = a2 * (1 / (1 + a2) + 0.20206 - 0.0369 * a2 + 0.0083 * a2**2 - 0.002 * a2**3)
    coulomb = f_z * kinetic_mev / (kinetic_mev + 2)
    g = 100 * _ELECTRON_MASS_MEV * y / (total - k) / z ** (1 / 3)
    e = g / z ** (1 / 3)
    phi1 = 16.863 - 2 * np.log(1 + 0.311877 * g * g) + 2.4 * np.exp(-0.9 * g) + 1.6 * np.exp(-1.5 * g)
    phi_difference = 2 / (3 + 19.5 * g + 18 * g * g)
    psi1 = 24.34 - 2 * np.log(1 + 13.111641 * e * e) + 2.8 * np.exp(-8 * e) + 1.2 * np.exp(-29.2 * e)
    psi_difference = 2 / (3 + 120 * e + 1200 * e * e)
    nucleus = np.maximum(0.25 * phi1 - math.log(z) / 3 - coulomb, 0.6)
    electrons = np.maximum(0.25 * psi1 - 2 * math.log(z) / 3, 0)
    main = (1 - y + 0.75 * y * y) * (nucleus + electrons / z)
    screened = 0.125 * (1 - y) * (phi_difference + psi_difference / z)
    return np.asarray(beta2 * 16 * _ALPHA * _RE2_MILLIBARN / 3 * (main + screened))


def _write_bremsstrahlung(path: Path, z: int) -> None:
    rows = [
        f"0 {len(KAPPA)} {len(KINETIC_ENERGY_MEV)}",
        " ".join(f"{x:.6g}" for x in KAPPA),
        " ".join(f"{math.log(x):.8g}" for x in KINETIC_ENERGY_MEV),
        *(" ".join(f"{x:.6g}" for x in row) for row in bremsstrahlung_mb(z)),
    ]
    path.write_text("\n".join(rows) + "\n")


# ------------------------------------------------------------------------------------ photo-electric effect


def _sandia(g4: Any, z: int) -> CrossSection:
    """Photo-electric cross-section, energy in MeV -> barn, from the Sandia table inside Geant4."""
    table = g4.G4NistManager.Instance().FindOrBuildMaterial("G4_Galactic").GetSandiaTable()
    c = g4.G4doubleVector([0.0] * 4)

    def cross_section(energy_mev: float) -> float:
        table.GetSandiaCofPerAtom(z, energy_mev * g4.MeV, c)
        x = 1 / (energy_mev * g4.MeV)
        return float(x * (c[0] + x * (c[1] + x * (c[2] + x * c[3]))) / g4.barn)

    return cross_section


def _shells_mev(g4: Any, z: int) -> list[float]:
    """Binding energies above 1 keV, falling, then 10 eV for all outer shells."""
    shells = g4.G4AtomicShells
    energies = {shells.GetBindingEnergy(z, i) / g4.MeV for i in range(shells.GetNumberOfShells(z))}
    return [*sorted((b for b in energies if b > 1e-3), reverse=True), 1e-5]


def _energy_grid(low: float, high: float, edges: Sequence[float] = ()) -> NDArray[np.float64]:
    """40 points per decade, and both sides of each absorption edge; MeV."""
    smooth = np.geomspace(low, high, int(40 * math.log10(high / low)) + 3)
    return np.array(sorted([*smooth, *(edge * (1 + side) for edge in edges for side in (-_EDGE, _EDGE))]))


def _shell_shares(cross_section: CrossSection, shells: Sequence[float]) -> Callable[[float], NDArray[np.float64]]:
    """Energy -> share of each shell in the cross-section, from the size of the jumps at the edges."""
    jumps = [
        min(max(1 - cross_section(b * (1 - _EDGE)) / max(cross_section(b * (1 + _EDGE)), 1e-300), 0.0), 1.0)
        for b in shells[:-1]
    ]

    def shares(energy_mev: float) -> NDArray[np.float64]:
        share, left = np.zeros(len(shells)), 1.0
        for i, (binding, jump) in enumerate(zip(shells[:-1], jumps, strict=True)):
            if energy_mev > binding:
                share[i] = left * jump
                left -= share[i]
        share[-1] = left
        return share

    return shares


def _write_photoelectric(folder: Path, z: int, cross_section: CrossSection, shells: Sequence[float]) -> None:
    """Total cross-section times E^3 above and below the K edge, and that of each shell (MeV^3 barn)."""
    high = _energy_grid(shells[0] * (1 + _EDGE), 1e3)
    _write_vector(folder / f"pe-cs-{z}.dat", high, [cross_section(x) * x**3 for x in high])
    for name in ("high", "low"):
        zeros = "".join(f"{b:.9g} 0 0 0 0 0 0\n" for b in shells)
        (folder / f"pe-{name}-{z}.dat").write_text(f"{len(shells)} {len(shells)} {_NO_FIT_MEV}\n{zeros}")
    if len(shells) == 1:
        return
    low = _energy_grid(shells[-1] * (1 + _EDGE), shells[0] * (1 - _EDGE), shells[1:-1])
    _write_vector(folder / f"pe-le-cs-{z}.dat", low, [cross_section(x) * x**3 for x in low])
    shares = _shell_shares(cross_section, shells)
    energy = np.concatenate([low, high])
    of_shell = np.array([cross_section(x) * x**3 * shares(x) for x in energy])
    with open(folder / f"pe-ss-cs-{z}.dat", "w") as handle:
        for i, binding in enumerate(shells):
            above = energy > binding
            x, values = energy[above], of_shell[above, i]
            handle.write(f"{x[0]:.9g} {x[-1]:.9g} {len(x)} {i}\n")
            handle.writelines(f"{a:.9g} {b:.7g}\n" for a, b in zip(x, values, strict=True))


# ------------------------------------------------------------------------------------- Rayleigh scattering


def _write_rayleigh(path: Path, z: int) -> None:
    """E^2 times the cross-section (MeV^2 mm^2): Thomson, form factor Z / (1 + q^2 a^2)."""
    a = 137.036 * 0.8853 / z ** (1 / 3) / _ELECTRON_MASS_MEV / 1.25
    t = np.geomspace(1e-10, 2, 2000)  # 1 - cos(theta)
    energy = np.geomspace(1e-5, 100.0, 141)
    values = []
    for x in energy:
        form_factor = z / (1 + (x * np.sqrt(2 * t) * a) ** 2)
        y = math.pi * _RE2_MM2 * (1 + (1 - t) ** 2) * form_factor * form_factor
        values.append(x * x * float(np.sum((y[1:] + y[:-1]) * np.diff(t)) / 2))
    _write_vector(path, energy, values)


def _write_vector(path: Path, x: NDArray[np.float64], y: Sequence[float]) -> None:
    rows = "".join(f"{a:.9g} {b:.7g}\n" for a, b in zip(x, y, strict=True))
    path.write_text(f"{x[0]:.9g} {x[-1]:.9g} {len(x)}\n{len(x)}\n{rows}")
