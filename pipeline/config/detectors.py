"""Detectors as numbers: the stack of layers, the scoring mesh, the sampling fraction.

Built in are the two sampling calorimeters of Geant4's example Par04 (SiW, SciPb); others are added in
the configuration under `detectors:`. Thicknesses and cell sizes are in mm. Sources: Geant4 11.4
`examples/extended/parameterisations/Par04`, Zenodo 6082201; the sampling fractions are those of
1-16 GeV electrons simulated by `pipeline.simulation.geant4`.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt

from pipeline.config.spec import Spec

Cells = tuple[PositiveInt, PositiveInt, PositiveInt]


class MeshSpec(Spec):
    """A cylinder mesh along the particle's direction."""

    cells: Cells = Field(description="number of cells along (r, phi, z)")
    dr_mm: PositiveFloat = Field(description="cell size along r")
    dz_mm: PositiveFloat = Field(description="cell size along z")


class LayerSpec(Spec):
    """One material of the repeated layer."""

    material: str = Field(description="Geant4 NIST material name, such as G4_W")
    thickness_mm: PositiveFloat


class DetectorSpec(Spec):
    """A sampling calorimeter: `layers` times an absorber followed by an active material."""

    layers: PositiveInt
    absorber: LayerSpec
    active: LayerSpec
    inner_radius_mm: PositiveFloat = 800.0
    mesh: MeshSpec
    sampling_fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        description="mean visible over incident energy for electrons"
    )
    radiation_length_mm: PositiveFloat = Field(description="effective X0 of the stack")
    moliere_radius_mm: PositiveFloat = Field(description="effective Moliere radius of the stack")


BUILT_IN_DETECTORS: dict[str, DetectorSpec] = {
    "SiW": DetectorSpec(
        layers=90,
        absorber=LayerSpec(material="G4_W", thickness_mm=1.4),
        active=LayerSpec(material="G4_Si", thickness_mm=0.3),
        mesh=MeshSpec(cells=(18, 50, 45), dr_mm=2.325, dz_mm=3.4),
        sampling_fraction=0.0319,
        radiation_length_mm=4.25,
        moliere_radius_mm=12.1,
    ),
    "SciPb": DetectorSpec(
        layers=45,
        absorber=LayerSpec(material="G4_Pb", thickness_mm=4.4),
        active=LayerSpec(material="G4_POLYSTYRENE", thickness_mm=1.2),
        mesh=MeshSpec(cells=(18, 50, 45), dr_mm=4.9, dz_mm=5.6),
        sampling_fraction=0.0334,
        radiation_length_mm=7.1,
        moliere_radius_mm=22.7,
    ),
}
