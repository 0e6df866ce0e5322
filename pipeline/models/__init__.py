"""Networks: no data paths, no optimiser; every line of a `forward` ends with its shape."""

from pipeline.models.architecture import NETWORKS, Architecture, build_network
from pipeline.models.conditions import Conditions
from pipeline.models.diffusion import DiffusionTransformer, ShowerDiffusion
from pipeline.models.heads import EnergyRegression
from pipeline.models.layer_energies import LayerEnergyDiffusion
from pipeline.models.masked_vit import MaskedViT

__all__ = [
    "NETWORKS",
    "Architecture",
    "Conditions",
    "DiffusionTransformer",
    "EnergyRegression",
    "LayerEnergyDiffusion",
    "MaskedViT",
    "ShowerDiffusion",
    "build_network",
]
