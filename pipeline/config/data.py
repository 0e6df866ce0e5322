"""Configuration of data: where showers come from and how they are split; `recipes` says how they are preprocessed."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator, model_validator

from pipeline.config.detectors import MeshSpec
from pipeline.config.download import DownloadSpec
from pipeline.config.spec import Spec, digest_of

SimulatedParticle = Literal["e-", "e+", "gamma"]
Particle = Literal["e-", "e+", "gamma", "pi+", "pi-"]
SimulatedLayout = Literal["calochallenge", "par04", "caloforge"]
Format = Literal["calochallenge", "calochallenge_ds1", "caloforge", "lemurs", "par04", "par04_events"]
_NOT_READ = {
    "files",
    "download",
    "simulate",
    "first_file_only",
    "binning",
}  # the content of a binning counts, not its path
PATH_FIELDS = ("detector", "angle_deg", "energy_gev", "particle")


class SimulateSpec(Spec):
    """Makes a data set's raw files instead of, or besides, finding them."""

    engine: Literal["geant4", "parametric"] = "geant4"
    files: PositiveInt
    showers: PositiveInt = Field(description="showers in each file")
    energy_gev: tuple[PositiveFloat, ...] = Field(
        min_length=1, description="[low, high] of the log-uniform range, or the fixed energies"
    )
    spectrum: Literal["log_uniform", "fixed"] = "log_uniform"
    angle_deg: Annotated[float, Field(gt=10, lt=170)] = 90.0
    particle: SimulatedParticle = "e-"
    mesh: MeshSpec | None = Field(None, description="default: the detector's mesh")
    threshold_mev: NonNegativeFloat = Field(5e-4, description="readout threshold of a cell")
    layout: SimulatedLayout = "calochallenge"
    seed: int = 1
    version: int = 1

    @model_validator(mode="after")
    def _range(self) -> SimulateSpec:
        if self.spectrum == "log_uniform" and not (
            len(self.energy_gev) == 2 and self.energy_gev[0] < self.energy_gev[1]
        ):
            raise ValueError(
                f"simulate.energy_gev: expected [low, high] with low < high for spectrum 'log_uniform', "
                f"got {list(self.energy_gev)}; or set spectrum: fixed"
            )
        if self.layout == "par04" and self.spectrum != "fixed":
            raise ValueError("simulate.layout: par04 stores one data set per energy; set spectrum: fixed")
        return self


class SelectSpec(Spec):
    """Which showers of a data set's raw files are ingested; nothing is copied, the rest of a file stays unread."""

    energy_gev: tuple[PositiveFloat, ...] | None = Field(
        None, min_length=1, description="[low, high] with both ends, or one, three or more fixed incident energies"
    )
    exact: bool = Field(False, description="energy_gev lists fixed energies, two of them as well")
    angle_deg: tuple[float, float] | None = Field(None, description="[low, high] with both ends, or one angle")
    showers: PositiveInt | None = Field(None, description="the first of each file, of those chosen above")

    @field_validator("energy_gev", mode="before")
    @classmethod
    def _one_energy(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int | float) else value

    @field_validator("angle_deg", mode="before")
    @classmethod
    def _one_angle(cls, value: Any) -> Any:
        return (value, value) if isinstance(value, int | float) else value

    @property
    def energy_range(self) -> tuple[float, float] | None:
        """Lowest and highest incident energy in GeV where a range is asked for."""
        energies = self.energy_gev
        return (energies[0], energies[1]) if energies and len(energies) == 2 and not self.exact else None

    @model_validator(mode="after")
    def _ranges(self) -> SelectSpec:
        for name, pair in (("energy_gev", self.energy_range), ("angle_deg", self.angle_deg)):
            if pair is not None and pair[0] > pair[1]:
                raise ValueError(f"select.{name}: expected [low, high] with low <= high, got {list(pair)}")
        return self


class DatasetSpec(Spec):
    """Raw files of one layout from one detector.

    What a file does not say of itself must stand here (`detector`, `sampling_corrected`, `angle_deg`), and what it
    says must not contradict what stands here, or the file is refused.
    """

    format: Format = Field(description="layout of the raw files, see docs/formats.md")
    files: tuple[str, ...] = Field((), description="glob pattern(s) of raw files")
    detector: str
    mesh: MeshSpec | None = Field(None, description="default: the detector's mesh")
    sampling_corrected: bool | None = Field(
        None, description="true when energies were divided by the sampling fraction"
    )
    sampling_fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    angle_deg: Annotated[float, Field(gt=0, lt=180)] | None = None
    particle: Particle = "e-"
    path_pattern: str | None = Field(
        None,
        description="what the files' paths say, such as '{detector}_angle_{angle_deg}'; "
        "fields: detector, angle_deg, energy_gev, particle",
    )
    binning: str | None = Field(None, description="calochallenge_ds1: the challenge's binning XML of the voxels")
    first_file_only: bool = Field(False, description="take one file of those found, to try things out")
    select: SelectSpec | None = Field(None, description="which showers of each file; default: all")
    download: DownloadSpec | None = None
    simulate: SimulateSpec | None = None
    ingest_version: int = 2

    @field_validator("files", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("path_pattern")
    @classmethod
    def _known_fields(cls, value: str | None) -> str | None:
        fields = re.findall(r"\{([^{}]*)\}", value or "")
        if value is not None and (not fields or not set(fields) <= set(PATH_FIELDS)):
            raise ValueError(
                f"path_pattern: expected at least one of {', '.join(f'{{{f}}}' for f in PATH_FIELDS)}, "
                f"got {value!r}; other parts of the path are written as they are"
            )
        return value

    @model_validator(mode="after")
    def _binning(self) -> DatasetSpec:
        if (self.format == "calochallenge_ds1") != (self.binning is not None):
            raise ValueError(
                f"binning: expected the binning XML with format 'calochallenge_ds1', and with it only, got "
                f"format '{self.format}' and binning {self.binning!r}"
            )
        return self

    @model_validator(mode="after")
    def _place_for_downloads(self) -> DatasetSpec:
        if self.download and not self.files:
            raise ValueError("download: expected 'files' beside it, which says where the files go, got none")
        return self

    def reading_digest(self) -> str:
        """Digest of how a file is read; which files there are, and where they come from, does not matter.

        Defaults are left out, so that an option added tomorrow moves no part of today; a change of what a default
        means bumps `ingest_version`, which is always in.
        """
        content = self.model_dump(mode="json", exclude_defaults=True, exclude=_NOT_READ)
        return digest_of([content, self.ingest_version])


class SplitSpec(Spec):
    """Fractions of the showers, decided by a hash of each shower's content (no seed)."""

    train: Annotated[float, Field(gt=0, lt=1)] = 0.7
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.1
    test: Annotated[float, Field(ge=0, lt=1)] = 0.2

    @model_validator(mode="after")
    def _sum(self) -> SplitSpec:
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(f"splits: expected fractions that sum to 1, got {total:g}")
        return self
