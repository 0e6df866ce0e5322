"""Laws of the networks: patches, masks, preconditioning, and the energy network's map."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import DiffusionSpec, HeadSpec, LayerEnergiesSpec, MaskedViTSpec
from pipeline.models import Architecture, Conditions, build_network
from pipeline.models.blocks import Attention
from pipeline.models.layer_energies import edm_coefficients
from pipeline.models.masked_vit import MaskedViT
from pipeline.models.masking import random_order, visible_tokens
from pipeline.models.tokens import (
    layers_of_tokens,
    patch_grid,
    patchify,
    position_table,
    rotary_angles,
    rotated,
    unpatchify,
)

SHAPE = (4, 6, 5)
VIT = MaskedViTSpec(patch=(2, 3, 1), width=24, depth=2, heads=2, decoder_width=12)
DIFFUSION = DiffusionSpec(patch=(4, 6, 1), width=24, depth=1, heads=2, layer_energies=LayerEnergiesSpec(width=16))


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def architecture(model, head=None) -> Architecture:
    return Architecture(model, head, SHAPE, (("a", "SiW"), ("b", "SciPb")), ("SiW", "SciPb"), 0.015)


def conditions(n: int, seed: int = 0) -> Conditions:
    random = torch.Generator().manual_seed(seed)
    layers = 10 * torch.rand(n, SHAPE[2], generator=random) + 0.1
    layers[:, -1] = 0
    return Conditions(
        1000 * (1 + torch.rand(n, generator=random)), torch.full((n,), math.pi / 2), torch.arange(n) % 2, layers
    )


@settings(max_examples=20, deadline=None)
@given(st.tuples(*[st.integers(1, 3)] * 3), st.tuples(*[st.integers(1, 3)] * 3))
def test_patchify_round_trip(grid, patch):
    shape = tuple(g * p for g, p in zip(grid, patch, strict=True))
    cells = torch.arange(2 * math.prod(shape)).reshape(2, *shape)
    tokens = patchify(cells, patch)
    assert tokens.shape == (2, math.prod(grid), math.prod(patch))
    assert torch.equal(unpatchify(tokens, patch, shape), cells)


def test_a_token_holds_the_cells_of_its_patch():
    cells = torch.arange(math.prod(SHAPE)).reshape(1, *SHAPE)
    assert torch.equal(patchify(cells, (2, 3, 1))[0, 1], cells[0, :2, :3, 1].flatten())


def test_layer_values_go_to_the_tokens_of_their_layers():
    z = torch.arange(SHAPE[2]).float()
    own = layers_of_tokens(z[None], patch_grid(SHAPE, (2, 3, 1)))
    assert torch.equal(own, patchify(z.expand(1, *SHAPE), (2, 3, 1)).mean(dim=2, keepdim=True))


def test_a_patch_must_divide_the_mesh():
    with pytest.raises(ValueError, match=r"patch: expected a divisor of the mesh \(4, 6, 5\), got \(3, 3, 1\)"):
        patch_grid(SHAPE, (3, 3, 1))


def test_positions_have_amplitude_one_and_are_periodic_in_phi():
    grid = (3, 8, 5)
    table = position_table(grid, 36).reshape(*grid, 36)
    assert table.abs().max() == pytest.approx(1, abs=0.01)
    step = (table[0, :, 0] - table[0, :, 0].roll(-1, 0)).norm(dim=1)
    assert torch.allclose(step, step[:1].expand(8), atol=1e-5)  # the last sector is as near to the first as others


def test_attention_is_softmax_of_scaled_products():
    layer, x = Attention(8, 2), torch.randn(3, 5, 8)
    query, key, value = layer.query_key_value(x).reshape(3, 5, 3, 2, 4).permute(2, 0, 3, 1, 4)
    weights = torch.softmax(query @ key.transpose(2, 3) / 2, dim=3)
    slow = layer.out((weights @ value).transpose(1, 2).reshape(3, 5, 8))
    assert torch.allclose(layer(x), slow, atol=1e-5)


def test_the_encoder_sees_visible_tokens_only():
    network = MaskedViT(VIT, SHAPE)
    cells = torch.randn(2, *SHAPE)
    order = random_order(2, network.tokens, torch.Generator().manual_seed(1))
    visible = visible_tokens(network.tokens, 0.75)
    tokens = patchify(cells, VIT.patch)
    tokens[torch.arange(2)[:, None], order[:, visible:]] = 99.0
    changed = unpatchify(tokens, VIT.patch, SHAPE)
    seen = order[:, :visible]
    assert torch.equal(network.encode(cells, seen), network.encode(changed, seen))
    assert torch.equal(network(cells, order, visible), network(changed, order, visible))


def test_encoding_all_tokens_does_not_depend_on_their_order():
    network = MaskedViT(VIT, SHAPE)
    cells = torch.randn(1, *SHAPE)
    order = torch.randperm(network.tokens)[None]
    assert torch.allclose(network.encode(cells, order), network.encode(cells)[:, order[0]], atol=1e-5)


def test_edm_preconditioning_identities():
    """arXiv:2206.00364, appendix B.6: unit input and target, and c_skip and c_out at the ends."""
    sigma, data = torch.logspace(-3, 3, 25, dtype=torch.float64), 0.5
    skip, out, scale, log_sigma = edm_coefficients(sigma, data)
    assert torch.allclose(scale.square() * (sigma.square() + data**2), torch.ones_like(sigma))
    target = ((1 - skip).square() * data**2 + skip.square() * sigma.square()) / out.square()
    assert torch.allclose(target, torch.ones_like(sigma))
    assert torch.allclose(log_sigma, sigma.log() / 4)
    assert skip[0] == pytest.approx(1, abs=1e-4) and skip[-1] == pytest.approx(0, abs=1e-4)


def test_an_untrained_generator_knows_hit_rates_and_means():
    network = build_network(architecture(DIFFUSION)).showers
    values, hit = torch.randn(400, *SHAPE) + 2, torch.rand(400, *SHAPE) < 0.3
    network.fit(0, torch.full(SHAPE, -1.0), values, hit)
    own = Conditions(*(v[:1] for v in vars(conditions(2)).values()))
    cell = network.distribution(torch.randn(1, *SHAPE), torch.ones(1), own)
    assert cell.logit.sigmoid().mean() == pytest.approx(0.3, abs=0.02)
    expected = 0.3 * 2 + 0.7 * -1
    assert network.denoised(torch.randn(1, *SHAPE), torch.ones(1), own).mean() == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize(
    "choice",
    [
        {"norm": "rms", "qk_norm": True, "perceptron": "swiglu"},
        {"modulation": "adaln"},
        {"output": "pixels", "formulation": "ddpm", "target": "v"},
        {"output": "pixels", "formulation": "flow", "target": "eps"},
    ],
    ids=lambda c: "-".join(str(v) for v in c.values()),
)
def test_every_choice_of_a_diffusion_makes_finite_showers_and_gradients(choice):
    network = build_network(architecture(DIFFUSION.model_copy(update=choice))).showers
    with torch.enable_grad():
        torch.nn.init.normal_(network.out.weight, std=0.1)
        x = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0))
        made = network.denoised(x, torch.tensor([0.5, 1.0, 20.0]), conditions(3))
        made.square().mean().backward()
    assert made.shape == x.shape and torch.isfinite(made).all()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)
    assert network.embed.weight.grad.abs().sum() > 0


def test_a_network_can_be_conditioned_on_the_particle():
    spec = DIFFUSION.model_copy(update={"conditions": ("incident_energy", "particle")})
    domains = (("a", "SiW"), ("b", "SiW"))
    own = Architecture(spec, None, SHAPE, domains, ("SiW",), 0.015, particles=("e-", "gamma"))
    assert Architecture.from_state(own.state()) == own
    encoder = build_network(own).showers.conditions
    shower = conditions(1)
    of = [Conditions(*(*list(vars(shower).values())[:2], torch.tensor([d]), shower.layer_energy)) for d in (0, 1)]
    one, other = (encoder(c, torch.zeros(1)) for c in of)
    assert not torch.allclose(one, other)
    assert torch.equal(encoder.particle_of, torch.tensor([0, 2]))


def test_dropped_showers_do_not_see_their_conditions():
    network = build_network(architecture(DIFFUSION.model_copy(update={"condition_dropout": 0.1}))).showers
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.2, generator=torch.Generator().manual_seed(weight.numel()))
    x, sigma, dropped = torch.randn(2, *SHAPE), torch.ones(2), torch.tensor([True, False])
    one, other = (network(x, sigma.log(), conditions(2, seed), dropped) for seed in (1, 2))
    assert torch.equal(one[0], other[0]) and not torch.allclose(one[1], other[1])


def test_layer_energies_and_features_are_inverse():
    network = build_network(architecture(DIFFUSION)).energies
    own = conditions(64)
    network.conditions.fit(own)
    network.fit(own, torch.rand(64, SHAPE[2]))
    features = network.features(own, torch.rand(64, SHAPE[2]))
    assert torch.allclose(network.layer_energies(features, own), own.layer_energy, rtol=1e-3, atol=1e-4)


def test_any_features_give_possible_layer_energies():
    network = build_network(architecture(DIFFUSION)).energies
    own = conditions(200)
    energy = network.layer_energies(8 * torch.randn(200, 1 + SHAPE[2]), own)
    assert torch.isfinite(energy).all()
    assert ((energy == 0) | (energy >= 0.015 * (1 - 1e-5))).all()
    assert (energy.sum(dim=1) > 0).all()


def test_the_energy_head_starts_at_the_linear_calibration():
    network = build_network(architecture(VIT, HeadSpec(predict="incident_energy")))
    visible = torch.linspace(10, 100, 50)
    incident = 30 * visible**1.1
    network.fit(visible, incident, torch.zeros(50, dtype=torch.int64))
    mean, _ = network(torch.randn(50, *SHAPE), visible, torch.zeros(50, dtype=torch.int64))
    assert torch.allclose(mean, incident.log(), atol=1e-3)


def test_an_architecture_survives_json():
    own = architecture(VIT, HeadSpec(predict="incident_energy"))
    assert Architecture.from_state(own.state()) == own


def test_a_head_on_a_diffusion_is_refused():
    with pytest.raises(ValueError, match="head: expected a run of a masked_vit, got one of a diffusion"):
        build_network(architecture(DIFFUSION, HeadSpec(predict="incident_energy")))


def test_initial_weights_depend_on_the_seed_alone():
    torch.manual_seed(5)
    first = build_network(architecture(VIT), seed=3).state_dict()
    second = build_network(architecture(VIT), seed=3).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["embed.weight"], build_network(architecture(VIT), seed=4).state_dict()["embed.weight"])


# --------------------------------------------------------------------------------------- positions

GRID = (3, 8, 5)


def products(angles, query, key):
    """(token, token) attention products of one query and one key standing at every token."""
    turned = (rotated(x.expand(1, 1, len(angles), -1), angles)[0, 0] for x in (query, key))
    first, second = turned
    return first @ second.T


def test_rotary_products_depend_on_the_difference_of_places_alone():
    angles = rotary_angles(GRID, 16)
    table = products(angles, torch.randn(16), torch.randn(16)).reshape(*GRID, *GRID)
    for axis, n in enumerate(GRID):
        own = table.movedim((axis, 3 + axis), (0, 1))
        assert torch.allclose(own[0, 1], own[n - 2, n - 1], atol=1e-4)
        assert not torch.allclose(own[0, 1], own[1, 0], atol=1e-2)
    assert torch.allclose(table[0, 0, 0, 0, 1, 0], table[0, 7, 0, 0, 0, 0], atol=1e-4)  # round the circle


def test_without_periodic_phi_the_seam_is_seen():
    table = products(rotary_angles(GRID, 16, False), torch.randn(16), torch.randn(16)).reshape(*GRID, *GRID)
    assert not torch.allclose(table[0, 0, 0, 0, 1, 0], table[0, 7, 0, 0, 0, 0], atol=1e-2)
    fixed = position_table(GRID, 36, False).reshape(*GRID, 36)
    step = (fixed[0, :, 0] - fixed[0, :, 0].roll(-1, 0)).norm(dim=1)
    assert step[7] > 1.2 * step[0]


def test_turning_keeps_lengths_and_the_first_token():
    x, angles = torch.randn(2, 3, 120, 12), rotary_angles(GRID, 12)
    assert torch.allclose(rotated(x, angles).norm(dim=3), x.norm(dim=3), atol=1e-5)
    assert torch.equal(rotated(x, angles)[:, :, 0], x[:, :, 0])


def test_heads_too_narrow_for_rotary_positions_are_refused():
    with pytest.raises(ValueError, match="rotary: expected an even number of at least 6 values per head, got 4"):
        rotary_angles(GRID, 4)


@pytest.mark.parametrize("positions", ["sine_cosine", "learned", "none"])
def test_only_positions_tell_tokens_apart(positions):
    """Without any, showers with exchanged patches give the same tokens in another order; with them they do not."""
    spec = VIT.model_copy(update={"positions": positions})
    network, cells = MaskedViT(spec, SHAPE), torch.randn(1, *SHAPE)
    moved = unpatchify(patchify(cells, VIT.patch).flip(1), VIT.patch, SHAPE)
    same = torch.allclose(network.encode(moved), network.encode(cells).flip(1), atol=1e-5)
    assert same == (positions == "none")
    assert ("positions" in dict(network.named_parameters())) == (positions == "learned")


@pytest.mark.parametrize("rotary", [False, True])
def test_a_turned_shower_gives_turned_tokens_with_rotary_positions_alone(rotary):
    spec = VIT.model_copy(update={"positions": "none", "rotary": rotary, "patch": (2, 1, 1)})
    network, cells = MaskedViT(spec, SHAPE), torch.randn(1, *SHAPE)
    tokens, turned = (network.encode(x).reshape(2, 6, 5, 24) for x in (cells, cells.roll(2, 2)))
    assert torch.allclose(turned, tokens.roll(2, 1), atol=1e-5)
    along_z = network.encode(cells.flip(3)).reshape(2, 6, 5, 24).flip(2)
    assert torch.allclose(along_z, tokens, atol=1e-5) != rotary


@pytest.mark.parametrize("options", [{"positions": "learned"}, {"rotary": True}])
def test_visible_tokens_take_their_own_positions(options):
    network = MaskedViT(VIT.model_copy(update=options), SHAPE)
    cells, order = torch.randn(2, *SHAPE), random_order(2, 20, torch.Generator().manual_seed(0))
    whole = network.encode(cells)
    assert torch.allclose(network.encode(cells, order), whole.gather(1, order[..., None].expand_as(whole)), atol=1e-5)
    assert network(cells, order, 5).shape == (2, 20, 6)


@pytest.mark.parametrize(("positions", "least"), [("sine_cosine", 6), ("none", 6), ("learned", 1)])
def test_the_least_width_of_the_configuration_is_that_of_the_network(positions, least):
    for width in {least, max(1, least - 1)}:
        own = MaskedViTSpec(patch=(2, 3, 1), depth=1, heads=1, positions=positions, width=width, decoder_width=6)
        assert bool(own.errors_on(SHAPE)) == (width < least)
        if width < least:
            with pytest.raises(ValueError, match=f"width: expected at least {least} for three directions, got {width}"):
                build_network(architecture(own))
        else:
            build_network(architecture(own))
