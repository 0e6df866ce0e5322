"""Configuration of what an experiment's cost is counted with. No result depends on it, so no key holds it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, NonNegativeFloat, PositiveFloat

from pipeline.config.spec import Spec


class CostSpec(Spec):
    """Watts where nothing measures energy (what follows is called an estimate), and what a kWh emits."""

    watts_per_core: PositiveFloat = Field(10.0, description="of a busy core with its share of the node; an assumption")
    watts_per_gpu: PositiveFloat = Field(400.0, description="of a GPU that a job holds; an assumption")
    overhead: Annotated[float, Field(ge=1)] = Field(1.0, description="power usage effectiveness of the site")
    grid_g_per_kwh: NonNegativeFloat | None = Field(None, description="grams of CO2 per kWh; none: no CO2 is given")
