"""A trained generator of any family, as one thing that makes showers in MeV.

    model = GenerativeModel.load(Path("results/demo/train/generator/model.json"), "siw")
    showers = model.sample(conditions, rng=1, steps=8)

Layer energies first where the model has an energy network, then the family's showers given them, the inverse
transform, the threshold, and the exact rescale to the layer energies. As many showers come out as conditions went in.
The same seed gives the same bits whatever the batch: on a CPU every network call has `block` showers, the last one
filled up, since a matrix product rounds as its shape says; another `block` is another rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.calorimeter import RaggedShowers, Showers
from pipeline.config import SamplingSpec
from pipeline.data.transforms import Transform
from pipeline.generation.autoregression import sample_autoregressive
from pipeline.generation.completion import complete_layer_energies, first_codes, first_layers
from pipeline.generation.drawn import Drawn
from pipeline.generation.energies import sample_layer_energies
from pipeline.generation.families import FAMILIES
from pipeline.generation.noise import ShowerNoise
from pipeline.generation.rescale import rescale_layers
from pipeline.models import AutoregressivePrior, Conditions, ShowerGenerator
from pipeline.training.checkpoint import TrainedModel, load_model

CPU_BLOCK = 50


class GenerationError(RuntimeError):
    """A sample that cannot be made with this model."""


class ShowerConditions(Protocol):
    """What showers are asked for; `Showers` and `RaggedShowers` say it, among others."""

    @property
    def incident_energy(self) -> NDArray[np.floating]:
        """(n,) MeV."""

    @property
    def theta(self) -> NDArray[np.floating]:
        """(n,) rad."""

    @property
    def phi(self) -> NDArray[np.floating]:
        """(n,) rad."""

    @property
    def detector(self) -> str:
        """Its name."""

    @property
    def particle(self) -> str:
        """Its name."""


@dataclass(frozen=True)
class GenerativeModel:
    """A generator, the transform of one of its data sets, and that data set's index."""

    network: ShowerGenerator
    transform: Transform
    domain: int
    device: torch.device

    @classmethod
    def of(cls, trained: TrainedModel, dataset: str, device: torch.device | None = None) -> GenerativeModel:
        """From a trained model; GenerationError when it generates nothing."""
        if not isinstance(trained.network, ShowerGenerator):
            raise GenerationError(
                f"run '{trained.manifest['run']}': expected a generative model, got {trained.architecture.model.name}"
            )
        where = device or torch.device("cpu")
        return cls(trained.network.to(where).eval(), trained.transforms[dataset], trained.domain(dataset), where)

    @classmethod
    def load(cls, manifest: Path, dataset: str, device: torch.device | None = None) -> GenerativeModel:
        """From the manifest of a run."""
        return cls.of(load_model(manifest), dataset, device)

    def sample(
        self,
        conditions: ShowerConditions,
        rng: int,
        steps: int | None = None,
        spec: SamplingSpec | None = None,
        block: int = CPU_BLOCK,
    ) -> Showers:
        """One shower for each condition; `rng` is the seed, `steps` replaces those of `spec` (settings)."""
        blocks = list(self.blocks(conditions, rng, steps, spec, block))
        return replace(
            blocks[0],
            energy=np.concatenate([b.energy for b in blocks]),
            incident_energy=np.asarray(conditions.incident_energy),
            theta=np.asarray(conditions.theta),
            phi=np.asarray(conditions.phi),
        )

    def blocks(
        self,
        conditions: ShowerConditions,
        rng: int,
        steps: int | None = None,
        spec: SamplingSpec | None = None,
        block: int = CPU_BLOCK,
    ) -> Iterator[Showers]:
        """The same showers, `block` at a time."""
        settings = spec or SamplingSpec()
        settings = settings if steps is None else settings.model_copy(update={"steps": steps})
        if settings.given_layers:
            self._check_completion(conditions, settings.given_layers)
        for start in range(0, len(conditions.incident_energy), block):
            rows = np.arange(start, min(start + block, len(conditions.incident_energy)))
            yield Showers(
                self._energies(conditions, rows, rng, settings, block),
                conditions.incident_energy[rows],
                conditions.theta[rows],
                conditions.phi[rows],
                self.transform.mesh,
                conditions.detector,
                conditions.particle,
            )

    @torch.no_grad()
    def _energies(
        self, asked: ShowerConditions, rows: NDArray[np.int64], seed: int, spec: SamplingSpec, block: int
    ) -> NDArray[np.float32]:
        """(rows, r, phi, z) MeV: one network call of `block` showers, filled up by repeating the last."""
        filled = np.concatenate([rows, np.full(block - len(rows), rows[-1])])
        incident = asked.incident_energy[filled]
        conditions = Conditions(
            torch.tensor(incident, dtype=torch.float32),
            torch.tensor(asked.theta[filled], dtype=torch.float32),
            torch.full((block,), self.domain),
            torch.zeros(block, self.transform.mesh.n_z),
        ).to(self.device)
        noise = ShowerNoise(seed, filled, self.device)
        first = noise.normal(1 + self.transform.mesh.n_z)  # drawn with or without an energy network
        if self.network.energies is not None:
            how = spec.energy_steps, spec.energy_sampler
            layers = sample_layer_energies(self.network.energies, conditions, first, *how)
            conditions = replace(conditions, layer_energy=layers)
        if spec.given_layers:
            mev = self._completed(asked, filled, conditions, noise, spec)
        else:
            drawn = FAMILIES[self.network.spec.name](self.network.showers, conditions, noise, spec)
            mev = self._in_mev(drawn, conditions, incident)
        return mev[: len(rows)].astype(np.float32)

    def _completed(
        self,
        asked: ShowerConditions,
        rows: NDArray[np.int64],
        conditions: Conditions,
        noise: ShowerNoise,
        spec: SamplingSpec,
    ) -> NDArray[np.floating]:
        """(B, r, phi, z) MeV whose first layers are those of the showers at `rows`."""
        assert isinstance(asked, RaggedShowers) and isinstance(self.network.showers, AutoregressivePrior)  # checked
        given, incident = spec.given_layers, asked.incident_energy[rows]
        begun = first_layers(asked.take(rows), self.transform, given)
        if self.network.energies is not None:
            sums = torch.from_numpy(begun.sum(axis=(1, 2), dtype=np.float64)[:, :given].astype(np.float32))
            how = spec.energy_steps, spec.energy_sampler
            layers = complete_layer_energies(self.network.energies, conditions, sums.to(self.device), noise, *how)
            conditions = replace(conditions, layer_energy=layers)
        codes = first_codes(self.network.showers, begun, given, self.transform, conditions)
        drawn = sample_autoregressive(self.network.showers, conditions, noise, spec, codes)
        mev = self._in_mev(drawn, conditions, incident)
        mev[..., :given] = begun[..., :given]
        return mev

    def _check_completion(self, asked: ShowerConditions, layers: int) -> None:
        if not isinstance(self.network.showers, AutoregressivePrior):
            raise GenerationError(
                f"given_layers: expected an autoregressive model to complete showers with, got {self.network.spec.name}"
            )
        if not isinstance(asked, RaggedShowers):
            raise GenerationError(
                f"given_layers: expected RaggedShowers that begin what is to be completed, got {type(asked).__name__}"
            )
        if layers >= self.transform.mesh.n_z:
            raise GenerationError(
                f"given_layers: expected fewer than the network's {self.transform.mesh.n_z} layers, got {layers}"
            )

    def _in_mev(self, drawn: Drawn, conditions: Conditions, incident: NDArray[np.floating]) -> NDArray[np.floating]:
        """(B, r, phi, z) MeV behind the inverse transform, the threshold, and the rescale to the layer energies."""
        cut = self.transform.threshold_mev
        has_energies = self.network.energies is not None
        layers = conditions.layer_energy.cpu().numpy() if has_energies else None
        mev = np.asarray(self.transform.inverse(drawn.values.cpu().numpy(), incident, layers))
        if drawn.hit is not None:
            mev = np.where(drawn.hit.cpu().numpy(), np.maximum(mev, cut), 0)
        else:
            mev = np.where(mev < cut, 0, mev)
        return mev if layers is None else rescale_layers(mev, layers, drawn.likelihood.cpu().numpy(), cut)
