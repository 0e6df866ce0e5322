"""The energy network: what it has learned answers to the energy, the angle and the detector that it is asked for."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pipeline.config import DiffusionSpec, LayerEnergiesSpec
from pipeline.generation.energies import sample_layer_energies
from pipeline.models import Architecture, Conditions, LayerEnergyDiffusion, build_network
from pipeline.training.objectives import layer_energies_loss

DEPTH = torch.tensor([0.1, 0.4, 0.35, 0.15])
SAMPLING, STOCHASTIC = torch.tensor([0.03, 0.06]), torch.tensor([0.20, 0.35])
THETA = math.pi / 3, math.pi / 2
TRAINED, ASKED, STEPS = 6000, 1500, 700


def calorimeter(energy_gev: Tensor, theta: Tensor, domain: Tensor, generator: torch.Generator) -> Conditions:
    """Two detectors: linear, sigma/E = a / sqrt(E), more absorber under an angle, deeper at higher energies."""
    n = len(energy_gev)
    noise = torch.randn(n, 1 + len(DEPTH), generator=generator)
    response = SAMPLING[domain] * theta.sin() * (1 + STOCHASTIC[domain] / energy_gev.sqrt() * noise[:, 0])
    tilt = 0.2 * energy_gev.log()[:, None] * torch.linspace(-1, 1, len(DEPTH))
    shares = (DEPTH.log() + tilt + 0.2 * noise[:, 1:]).softmax(dim=1)
    total = 1000 * energy_gev * response.clamp_min(1e-3)
    return Conditions(1000 * energy_gev, theta, domain, total[:, None] * shares)


def drawn(n: int, generator: torch.Generator) -> Conditions:
    energy_gev = torch.exp(math.log(16) * torch.rand(n, generator=generator))
    theta = torch.tensor(THETA)[torch.randint(2, (n,), generator=generator)]
    return calorimeter(energy_gev, theta, torch.randint(2, (n,), generator=generator), generator)


@pytest.fixture(scope="module")
def network() -> LayerEnergyDiffusion:
    spec = DiffusionSpec(patch=(1, 1, 1), width=8, heads=1, layer_energies=LayerEnergiesSpec(width=64, depth=2))
    own = Architecture(spec, None, (1, 1, 4), (("a", "A"), ("b", "B")), ("A", "B"), 0.015)
    energies = build_network(own).energies
    generator = torch.Generator().manual_seed(1)
    showers = drawn(TRAINED, generator)
    energies.conditions.fit(showers)
    energies.fit(showers, torch.rand(showers.layer_energy.shape, generator=generator))
    optimiser = torch.optim.AdamW(energies.parameters(), lr=3e-3)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=STEPS)
    with torch.enable_grad():
        for _ in range(STEPS):
            rows = torch.randint(TRAINED, (256,), generator=generator)
            optimiser.zero_grad()
            batch = Conditions(*(values[rows] for values in vars(showers).values()))
            layer_energies_loss(energies, batch, generator).backward()
            optimiser.step()
            rate.step()
    return energies.eval()


@pytest.mark.parametrize(("sampler", "steps"), [("heun", 24), ("dpm_solver", 8)])
@pytest.mark.parametrize("theta", THETA)
@pytest.mark.parametrize("domain", [0, 1])
def test_an_energy_scan_follows_response_resolution_and_depth(network, domain, theta, sampler, steps):
    for energy_gev in (1.5, 4.0, 12.0):
        generator = torch.Generator().manual_seed(2)
        same = torch.ones(ASKED)
        truth = calorimeter(energy_gev * same, theta * same, domain * same.long(), generator)
        asked = replace(truth, layer_energy=torch.zeros_like(truth.layer_energy))
        noise = torch.randn(ASKED, 1 + len(DEPTH), generator=generator)
        made = sample_layer_energies(network, asked, noise, steps, sampler)
        total, wanted = made.sum(dim=1), truth.layer_energy.sum(dim=1)
        assert float(total.mean()) == pytest.approx(float(wanted.mean()), rel=0.03)
        resolution, expected = (float(t.std() / t.mean()) for t in (total, wanted))
        assert resolution == pytest.approx(expected, rel=0.15)
        assert torch.allclose(made.mean(dim=0), truth.layer_energy.mean(dim=0), rtol=0.06)
