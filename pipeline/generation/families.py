"""The families of generators and how each makes showers, by the name of their spec."""

from __future__ import annotations

from pipeline.generation.autoregression import sample_autoregressive
from pipeline.generation.consistency import sample_consistency
from pipeline.generation.diffusion import sample_diffusion
from pipeline.generation.drawn import FamilySampler
from pipeline.generation.vae import sample_vae

FAMILIES: dict[str, FamilySampler] = {
    "diffusion": sample_diffusion,
    "consistency": sample_consistency,
    "vae": sample_vae,
    "autoregressive": sample_autoregressive,
}
