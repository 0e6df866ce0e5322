"""Configuration of the evaluation: what is compared, on which mesh, in which bins."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from pipeline.config.detectors import Cells
from pipeline.config.spec import Spec

Figure = Literal[
    "summary",
    "longitudinal_profile",
    "radial_profile",
    "azimuthal_profile",
    "energy_response",
    "linearity",
    "resolution",
    "containment",
    "shower_depth",
    "angular_dependence",
    "cell_spectrum",
    "hits",
    "moments",
    "azimuthal_asymmetry",
    "clusters",
    "shower_images",
    "shower_unrolled",
    "shower_space",
    "average_showers",
    "energy_prediction",
    "pulls",
    "training_curves",
    "front",
    "speedup",
    "attention",
    "forgetting",
    "study",
]
ON_REQUEST = ("angular_dependence", "front", "speedup", "attention", "forgetting", "study")

Metric = Literal[
    "mean_ratio",
    "spread_ratio",
    "separation_power",
    "wasserstein",
    "l1",
    "distance",
    "sliced_wasserstein",
    "fpd",
    "kpd",
    "prdc",
]
Classifier = Literal["small_cells", "small_features", "low", "high", "cnn"]


class EvaluationSpec(Spec):
    """Compares every sample with the reference data set's test split, beside the Geant4 floor.

    The test split is halved by the shower hash: one half is the reference, the other the floor.
    """

    reference: str = Field(description="data set whose test split is the truth")
    rebin: Cells = Field((1, 1, 1), description="cells summed along (r, phi, z) before comparing")
    threshold_mev: PositiveFloat = Field(5e-4, description="cells below it are empty, on all sides alike")
    showers: PositiveInt = Field(1000, description="showers on each side")
    convention: Literal["standard", "par04"] = Field("standard", description="positions in moments: centres, or edges")
    energy_bins: PositiveInt = Field(3, description="bins equal in log E_inc")
    angle_bins: PositiveInt = Field(4, description="bins of the polar angle where there are several angles")
    bins: PositiveInt = Field(10, description="quantile bins of a separation power")
    bootstrap: PositiveInt = Field(50, description="replicas behind an error")
    sensitivity: bool = Field(True, description="show beside the samples what known faults would have shown")
    forgetting: bool = Field(
        False, description="measure what runs that go on from others forgot of these runs' data sets"
    )
    published: Literal["calochallenge_ds2", "calochallenge_ds3"] | None = Field(
        None, description="published results to set beside ours; default: those on the evaluation's mesh, if any"
    )
    metrics: tuple[Metric, ...] = Field(get_args(Metric), description="which distances are measured")
    feature_showers: PositiveInt = Field(
        50000, description="showers of each side that metrics of feature vectors see, at most"
    )
    projections: PositiveInt = Field(128, description="random directions of a sliced Wasserstein distance")
    neighbour_showers: PositiveInt = Field(1000, description="showers of each side that precision and recall see")
    classifiers: tuple[Classifier, ...] = Field(
        ("small_cells", "small_features"),
        description="which classifiers are trained; low, high and cnn are the CaloChallenge's and want a GPU",
    )
    classifier_seeds: PositiveInt = Field(3, description="trainings of each classifier, each with its own test fifth")
    classifier_epochs: PositiveInt = Field(50, description="epochs of low, high and cnn; the CaloChallenge's are 50")
    classifier_showers: PositiveInt = Field(
        10000, description="showers of each side that metrics of cells see, at most"
    )
    version: int = 4


class FiguresSpec(Spec):
    """Which figures the report holds, and how they look."""

    draw: tuple[Figure, ...] = Field(
        tuple(f for f in get_args(Figure) if f not in ON_REQUEST),
        description="angular_dependence is worth asking for where data hold several angles; front and speedup "
        "show measured times; attention looks into masked ViTs and diffusions, forgetting needs evaluation.forgetting; "
        "study is drawn wherever there is one",
    )
    samples: tuple[str, ...] = Field(
        (),
        description="samples drawn beside Geant4, in this order; default: all. The summary, front and the metric rows "
        "hold all of them",
    )
    attention_quantile: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5, description="attention: the held-out shower at this quantile of the incident energy"
    )
    images: NonNegativeInt = Field(4, description="single showers shown, in figures and on the page")
    version: int = 4
