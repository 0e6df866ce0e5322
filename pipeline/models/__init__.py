"""Networks: no data paths, no optimiser; every line of a `forward` ends with its shape."""

from pipeline.models.architecture import NETWORKS, Architecture, build_network
from pipeline.models.conditions import Conditions
from pipeline.models.diffusion import DiffusionTransformer
from pipeline.models.generator import ShowerGenerator
from pipeline.models.heads import EnergyRegression
from pipeline.models.layer_energies import LayerEnergyDiffusion
from pipeline.models.masked_vit import MaskedViT
from pipeline.models.shower_network import ShowerNetwork

__all__ = [
    "NETWORKS",
    "Architecture",
    "Conditions",
    "DiffusionTransformer",
    "EnergyRegression",
    "LayerEnergyDiffusion",
    "MaskedViT",
    "ShowerGenerator",
    "ShowerNetwork",
    "build_network",
]
