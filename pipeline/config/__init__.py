"""Configuration: frozen records of numbers and names; imports no torch, zarr or xarray."""

from pipeline.config.compute import ComputeSpec
from pipeline.config.data import DatasetSpec, SimulateSpec, SplitSpec
from pipeline.config.detectors import BUILT_IN_DETECTORS, DetectorSpec, LayerSpec, MeshSpec
from pipeline.config.evaluation import EvaluationSpec, FiguresSpec
from pipeline.config.experiment import Config, ConfigError, load_config
from pipeline.config.recipes import LABELS, RecipeSpec
from pipeline.config.runs import (
    AugmentSpec,
    DiffusionSpec,
    HeadSpec,
    LayerEnergiesSpec,
    MaskedViTSpec,
    RunSpec,
    SampleSpec,
    TrainingSpec,
)
from pipeline.config.spec import Spec, digest_of

__all__ = [
    "BUILT_IN_DETECTORS",
    "LABELS",
    "AugmentSpec",
    "ComputeSpec",
    "Config",
    "ConfigError",
    "DatasetSpec",
    "DetectorSpec",
    "DiffusionSpec",
    "EvaluationSpec",
    "FiguresSpec",
    "HeadSpec",
    "LayerEnergiesSpec",
    "LayerSpec",
    "MaskedViTSpec",
    "MeshSpec",
    "RecipeSpec",
    "RunSpec",
    "SampleSpec",
    "SimulateSpec",
    "Spec",
    "SplitSpec",
    "TrainingSpec",
    "digest_of",
    "load_config",
]
