"""The nouns of the field: the mesh of a calorimeter and the showers in it."""

from pipeline.calorimeter.geometry import CylinderMesh
from pipeline.calorimeter.showers import RaggedShowers, ShowerError, Showers, rebin

__all__ = ["CylinderMesh", "RaggedShowers", "ShowerError", "Showers", "rebin"]
