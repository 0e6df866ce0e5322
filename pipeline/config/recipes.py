"""Configuration of preprocessing: a recipe is a list of steps, from visible MeV to what a network sees.

Steps on the mesh (crop, rebin, cut) act on energies in MeV and come first, the others map single values.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PositiveFloat, model_validator

from pipeline.config.detectors import Cells, MeshSpec
from pipeline.config.spec import Spec

_LARGER = ("divide_by_incident_energy", "divide_by_largest_shower", "divide_by_largest_cell", "layer_fractions")
LABELS = ("incident_energy", "theta", "phi", "detector", "particle")


class _Step(Spec):
    """What every step declares: invertible or lossy, fitted or not, stored per part or not, labels it reads.

    `first`: it acts on MeV, so that only crop, rebin and cut may stand before it.
    """

    invertible: ClassVar[bool] = True
    fitted: ClassVar[bool] = False
    stored: ClassVar[bool] = True
    first: ClassVar[bool] = False
    reads: ClassVar[frozenset[str]] = frozenset()


class _FittedDivision(_Step):
    """x / c with one number c of the training split, MeV."""

    fitted: ClassVar[bool] = True
    stored: ClassVar[bool] = False
    first: ClassVar[bool] = True


class Crop(_Step):
    """Keep the first cells along (r, phi, z); phi is kept whole. Lossy: the inverse pads zeros."""

    invertible: ClassVar[bool] = False
    name: Literal["crop"] = "crop"
    cells: Cells


class Rebin(_Step):
    """Sum groups of cells along (r, phi, z). Lossy: the inverse spreads the energy evenly."""

    invertible: ClassVar[bool] = False
    name: Literal["rebin"] = "rebin"
    factors: Cells


class Cut(_Step):
    """Set cells below the threshold to zero. Lossy: the inverse is the identity."""

    invertible: ClassVar[bool] = False
    name: Literal["cut"] = "cut"
    threshold_mev: PositiveFloat


class DivideByIncidentEnergy(_Step):
    """x / E_inc (Par04, MetaHEP); with `unit: GeV` the quotient is MeV per GeV."""

    reads: ClassVar[frozenset[str]] = frozenset({"incident_energy"})
    name: Literal["divide_by_incident_energy"] = "divide_by_incident_energy"
    unit: Literal["MeV", "GeV"] = "MeV"


class DivideByLargestShower(_FittedDivision):
    """x / c, c the largest energy of a training shower (all its cells on the raw mesh, visible MeV)."""

    name: Literal["divide_by_largest_shower"] = "divide_by_largest_shower"


class DivideByLargestCell(_FittedDivision):
    """x / c, c the largest energy of a cell in the training split (behind crop, rebin and cut, visible MeV)."""

    name: Literal["divide_by_largest_cell"] = "divide_by_largest_cell"


class DivideByQuantile(_FittedDivision):
    """x / c, c the q-quantile of the non-zero cells of the training split (visible MeV, to 0.4 %)."""

    name: Literal["divide_by_quantile"] = "divide_by_quantile"
    q: Annotated[float, Field(gt=0, le=1)] = 0.99


class LayerFractions(_Step):
    """x / E_layer, 0 in an empty layer (CaloFlow, CaloDREAM); the inverse needs the layer energies."""

    stored: ClassVar[bool] = False
    first: ClassVar[bool] = True
    name: Literal["layer_fractions"] = "layer_fractions"


class Noise(_Step):
    """Cells below `width` become uniform in [0, width), seeded by the shower (CaloFlow, CaloDREAM). Lossy: a cut."""

    invertible: ClassVar[bool] = False
    stored: ClassVar[bool] = False
    name: Literal["noise"] = "noise"
    width: PositiveFloat = Field(5e-6, description="in the unit of the step's input")


class Log(_Step):
    """ln(x + epsilon), as in CaloDiT."""

    name: Literal["log"] = "log"
    epsilon_mev: PositiveFloat = Field(1e-3, description="in the unit of the step's input")


class Log1p(_Step):
    """ln(1 + x / scale): an empty cell is exactly 0."""

    name: Literal["log1p"] = "log1p"
    scale_mev: PositiveFloat = Field(1e-2, description="in the unit of the step's input")


class Power(_Step):
    """x ** exponent."""

    name: Literal["power"] = "power"
    exponent: Annotated[float, Field(gt=0, le=1)] = 0.3


class Logit(_Step):
    """ln(o / (1 - o)) with o = alpha + (1 - 2 alpha) x / scale, x in [0, scale] (CaloDiffusion: alpha 1e-6)."""

    name: Literal["logit"] = "logit"
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 1e-6
    scale: PositiveFloat = 2.0


class Standardise(_Step):
    """(x - mean) / standard deviation over the training split."""

    fitted: ClassVar[bool] = True
    stored: ClassVar[bool] = False
    name: Literal["standardise"] = "standardise"
    per: tuple[Literal["r", "phi", "z"], ...] = Field(
        (), description="own mean and deviation for each index along these axes; empty: one pair for all"
    )
    over: Literal["all", "hits"] = Field("all", description="statistics over all cells or over hits")


Step = Annotated[
    Crop
    | Rebin
    | Cut
    | DivideByIncidentEnergy
    | DivideByLargestShower
    | DivideByLargestCell
    | DivideByQuantile
    | LayerFractions
    | Noise
    | Log
    | Log1p
    | Power
    | Logit
    | Standardise,
    Field(discriminator="name"),
]


class RecipeSpec(Spec):
    """An ordered list of preprocessing steps."""

    steps: tuple[Step, ...]
    version: int = 2

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        """Accept the YAML list `[standardise, {log: {epsilon_mev: 1e-3}}]`."""
        if isinstance(value, list | tuple):
            value = {"steps": value}
        if isinstance(value, dict) and isinstance(value.get("steps"), list | tuple):
            value = {**value, "steps": [named(step) for step in value["steps"]]}
        return value

    @model_validator(mode="after")
    def _order(self) -> RecipeSpec:
        before: list[str] = []
        for step in self.steps:
            on_mesh = step.name in ("crop", "rebin", "cut")
            if before and (on_mesh or step.first):
                raise ValueError(f"recipe: {step.name} acts on MeV and must stand before {before[0]}")
            if step.name == "noise" and (mapped := [name for name in before if not _divides(name)]):
                raise ValueError(f"recipe: noise acts on energies or their fractions and must stand before {mapped[0]}")
            if step.name == "standardise" and step.name in before:
                raise ValueError("recipe: expected standardise at most once, got it twice; keep the last one")
            before += [] if on_mesh else [step.name]
        return self

    @property
    def reads(self) -> frozenset[str]:
        """The labels that the network's input is computed from."""
        return frozenset().union(*(step.reads for step in self.steps))

    @property
    def within_unit_interval(self) -> bool:
        """Whether the network's input lies in [0, 1] by construction: divided by a larger energy, perhaps a power."""
        mapped = [step for step in self.steps if step.name not in ("crop", "rebin", "cut", "power", "noise")]
        divided = len(mapped) == 1 and mapped[0].name in _LARGER
        return divided and getattr(mapped[0], "unit", "MeV") == "MeV"

    @property
    def rounds(self) -> int:
        """How many rounds a fit takes: 2 where standardise stands behind a division that is fitted, too."""
        return 2 if len([step for step in self.steps if step.fitted]) > 1 else 1

    def mesh_after(self, mesh: MeshSpec) -> MeshSpec:
        """The mesh behind the recipe's crop and rebin steps; ValueError when a step does not fit."""
        cells: tuple[int, ...] = mesh.cells
        dr, dz = mesh.dr_mm, mesh.dz_mm
        for step in self.steps:
            if isinstance(step, Crop):
                if step.cells[1] != cells[1] or any(c > m for c, m in zip(step.cells, cells, strict=True)):
                    raise ValueError(
                        f"crop: expected cells within {list(cells)} and phi kept whole, got {list(step.cells)}"
                    )
                cells = step.cells
            elif isinstance(step, Rebin):
                if any(m % f for f, m in zip(step.factors, cells, strict=True)):
                    raise ValueError(
                        f"rebin: expected factors that divide the mesh {list(cells)}, got {list(step.factors)}"
                    )
                cells = tuple(m // f for f, m in zip(step.factors, cells, strict=True))
                dr, dz = dr * step.factors[0], dz * step.factors[2]
        return MeshSpec(cells=(cells[0], cells[1], cells[2]), dr_mm=dr, dz_mm=dz)

    @property
    def threshold_mev(self) -> float:
        """The cut's threshold, or the readout threshold of 0.5 keV where the recipe has no cut."""
        return next((s.threshold_mev for s in reversed(self.steps) if isinstance(s, Cut)), 5e-4)


def _divides(name: str) -> bool:
    return name.startswith("divide_by_") or name == "layer_fractions"


def named(step: Any) -> Any:
    """A step's mapping with its name: from `standardise` or `{log: {epsilon_mev: 1e-3}}`."""
    if isinstance(step, str):
        return {"name": step}
    if isinstance(step, dict) and len(step) == 1 and "name" not in step:
        ((name, options),) = step.items()
        if not isinstance(options, dict | None):
            raise ValueError(
                f"{name}: expected the step's options, such as {{log: {{epsilon_mev: 1e-3}}}}, got {options!r}"
            )
        return {"name": name, **(options or {})}
    return step
