"""Networks: no data paths, no optimiser; every line of a `forward` ends with its shape."""

from pipeline.models.architecture import NETWORKS, Architecture, build_network
from pipeline.models.autoregressive import AutoregressivePrior
from pipeline.models.cell_network import CellNetwork
from pipeline.models.conditions import Conditions
from pipeline.models.diffusion import DiffusionTransformer
from pipeline.models.generator import ShowerGenerator
from pipeline.models.heads import HEADS, AngleRegression, Classification, EnergyRegression
from pipeline.models.layer_energies import LayerEnergyDiffusion
from pipeline.models.masked_vit import MaskedViT
from pipeline.models.shower_network import ShowerNetwork
from pipeline.models.vae import ShowerVAE
from pipeline.models.vqvae import ShowerVQVAE

__all__ = [
    "HEADS",
    "NETWORKS",
    "AngleRegression",
    "Architecture",
    "AutoregressivePrior",
    "CellNetwork",
    "Classification",
    "Conditions",
    "DiffusionTransformer",
    "EnergyRegression",
    "LayerEnergyDiffusion",
    "MaskedViT",
    "ShowerGenerator",
    "ShowerNetwork",
    "ShowerVAE",
    "ShowerVQVAE",
    "build_network",
]
