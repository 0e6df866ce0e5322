"""Caloforge: from raw calorimeter showers to trusted generative and foundation models."""

__version__ = "0.1.0"
