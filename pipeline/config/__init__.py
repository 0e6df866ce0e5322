"""Configuration: frozen records of numbers and names; imports no torch, zarr or xarray."""

from pipeline.config.adaptation import AdaptSpec, HeadSpec
from pipeline.config.autoencoders import (
    AutoregressiveSpec,
    FiniteScalarsSpec,
    LearnedCodebookSpec,
    VAESpec,
    VQVAESpec,
)
from pipeline.config.compute import ComputeSpec, SlurmWorkersSpec
from pipeline.config.cost import CostSpec
from pipeline.config.data import DatasetSpec, SelectSpec, SimulateSpec, SplitSpec
from pipeline.config.detectors import BUILT_IN_DETECTORS, DetectorSpec, LayerSpec, MeshSpec
from pipeline.config.evaluation import EvaluationSpec, FiguresSpec
from pipeline.config.experiment import Config, ConfigError, load_config
from pipeline.config.generator_study import GeneratorStudySpec
from pipeline.config.generators import ConsistencySpec, DiffusionSpec, GeneratorSpec, LayerEnergiesSpec, ModelSpec
from pipeline.config.parallel import ParallelSpec
from pipeline.config.pretraining import MaskedViTSpec
from pipeline.config.recipes import LABELS, RecipeSpec
from pipeline.config.runs import (
    AugmentSpec,
    RunSpec,
    TrainingSpec,
)
from pipeline.config.samples import (
    BaselineSampleSpec,
    FilesSampleSpec,
    PerturbedSampleSpec,
    Sample,
    SampleSpec,
    SamplingSpec,
)
from pipeline.config.spec import Spec, digest_of
from pipeline.config.study import ClaimSpec, StudySpec, TaskSpec

__all__ = [
    "BUILT_IN_DETECTORS",
    "LABELS",
    "AdaptSpec",
    "AugmentSpec",
    "AutoregressiveSpec",
    "BaselineSampleSpec",
    "ClaimSpec",
    "ComputeSpec",
    "Config",
    "ConfigError",
    "ConsistencySpec",
    "CostSpec",
    "DatasetSpec",
    "DetectorSpec",
    "DiffusionSpec",
    "EvaluationSpec",
    "FiguresSpec",
    "FilesSampleSpec",
    "FiniteScalarsSpec",
    "GeneratorSpec",
    "GeneratorStudySpec",
    "HeadSpec",
    "LayerEnergiesSpec",
    "LayerSpec",
    "LearnedCodebookSpec",
    "MaskedViTSpec",
    "MeshSpec",
    "ModelSpec",
    "ParallelSpec",
    "PerturbedSampleSpec",
    "RecipeSpec",
    "RunSpec",
    "Sample",
    "SampleSpec",
    "SamplingSpec",
    "SelectSpec",
    "SimulateSpec",
    "SlurmWorkersSpec",
    "Spec",
    "SplitSpec",
    "StudySpec",
    "TaskSpec",
    "TrainingSpec",
    "VAESpec",
    "VQVAESpec",
    "digest_of",
    "load_config",
]
