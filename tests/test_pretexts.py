"""Pretext tasks: what they hide, what they fill in, what they ask for, and that each can be learned."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from scipy.optimize import linear_sum_assignment
from torch.nn import functional as F

from pipeline.config import ConfigError, MaskedViTSpec, load_config
from pipeline.config.pretraining import LossSpec, Pretext
from pipeline.models import Conditions
from pipeline.models.masked_vit import MaskedViT
from pipeline.models.masking import masking, random_order, visible_tokens
from pipeline.models.tokens import patchify
from pipeline.training.batches import Batch
from pipeline.training.pretexts import exchanged, filled, pretext_loss, shuffled
from pipeline.training.reconstruction import masked_error, reconstruction_loss, sinkhorn, token_points

GRID, PATCH, SHAPE = (3, 6, 4), (2, 2, 1), (6, 12, 4)
TASKS = ["masked_patches", "blocks", "neighbourhoods", "mixture", "denoising", "next_layer"]
OTHERS = ["replaced_tokens", "jigsaw", "incident_energy"]


def task(name: str, **options):
    return TypeAdapter(Pretext).validate_python({"name": name, **options})


def network(*tasks, **options) -> MaskedViT:
    torch.manual_seed(0)
    spec = MaskedViTSpec(patch=PATCH, width=24, depth=1, heads=2, decoder_width=12, pretext=tasks, **options)
    own = MaskedViT(spec, SHAPE, 2)
    own.fit(0, torch.full(SHAPE, -1.0), torch.full(SHAPE, 0.5))
    own.fit(1, torch.full(SHAPE, -2.0), torch.full(SHAPE, 0.25))
    return own


def batch(n: int = 16, seed: int = 0) -> Batch:
    """Cells in [0, 1) that grow with the incident energy and fall with r and z, a third of them empty."""
    random = seeded(seed)
    energy = 1000 * (1 + 3 * torch.rand(n, generator=random))
    r, z = torch.exp(-torch.arange(6) / 2.0), torch.exp(-torch.arange(4) / 3.0)
    cells = torch.rand(n, *SHAPE, generator=random) * r[:, None, None] * z * energy[:, None, None, None] / 4000
    hit = torch.rand(n, *SHAPE, generator=random) > 0.3
    conditions = Conditions(energy, torch.full((n,), math.pi / 2), torch.arange(n) % 2, (cells * hit).sum((1, 2)))
    return Batch(cells * hit, hit, conditions)


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --------------------------------------------------------------------------------- what is hidden


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(["masked_patches", "blocks", "neighbourhoods", "replaced_tokens"]),
    st.floats(0.05, 0.95),
    st.integers(0, 99),
)
def test_every_shower_hides_the_same_number_of_tokens(name, ratio, seed):
    own = masking(task(name, ratio=ratio), 5, GRID, seeded(seed))
    assert (own.hidden.sum(dim=1) == 72 - visible_tokens(72, ratio)).all()
    assert torch.equal(own.order.sort(dim=1).values, torch.arange(72).expand(5, -1))


def test_masked_patches_are_the_first_of_a_random_order():
    """The order and the number of the seed's masked ViT: results of older configurations stay."""
    own = masking(task("masked_patches", ratio=0.75), 4, GRID, seeded())
    assert torch.equal(own.order, random_order(4, 72, seeded()))
    assert own.visible == 18 and torch.equal(own.asked, own.hidden)


def test_a_sampled_ratio_fills_its_range():
    some = task("masked_patches", ratio=[0.1, 0.9])
    seen = {masking(some, 1, GRID, seeded(i)).visible / 72 for i in range(60)}
    assert min(seen) >= 0.09 and max(seen) <= 0.91 and max(seen) - min(seen) > 0.6


def test_blocks_are_hidden_whole():
    """For some place of the grid of blocks, which is not known here, at most one block is hidden in part."""
    own = masking(task("blocks", ratio=0.4, size=[1, 2, 2]), 6, GRID, seeded())
    for hidden in own.hidden.reshape(6, *GRID):
        cut = []
        for in_phi, in_z in [(i, j) for i in range(2) for j in range(2)]:
            padded = F.pad(hidden.roll(in_phi, 1), (in_z, in_z), value=False)
            known = F.pad(torch.ones(GRID, dtype=torch.bool), (in_z, in_z), value=False)
            blocks, cells = (x.reshape(3, 3, 2, -1, 2).sum(dim=(2, 4)) for x in (padded, known))
            cut.append(int(((blocks > 0) & (blocks < cells)).sum()))
        assert min(cut) <= 1


def test_neighbourhoods_are_the_tokens_nearest_to_one():
    own = masking(task("neighbourhoods", ratio=0.25), 8, GRID, seeded())
    places = np.stack(np.unravel_index(np.arange(72), GRID), axis=1)
    for hidden in own.hidden.numpy():
        inside = []
        for centre in np.flatnonzero(hidden):
            away = np.abs(places - places[centre])
            away[:, 1] = np.minimum(away[:, 1], 6 - away[:, 1])
            distance = (away**2).sum(axis=1)
            inside.append(distance[hidden].max() <= distance[~hidden].min())
        assert any(inside)


@pytest.mark.parametrize("first", [None, [1, 5, 2]])
def test_a_box_is_a_box_also_across_the_seam_in_phi(first):
    own = masking(task("inpainting", size=[2, 2, 2], first=first), 10, GRID, seeded())
    for hidden in own.hidden.reshape(10, *GRID):
        assert hidden.sum() == 8
        r, z = hidden.any(dim=2).any(dim=1), hidden.any(dim=1).any(dim=0)
        phi = hidden.any(dim=2).any(dim=0)
        assert r.sum() == z.sum() == phi.sum() == 2
        assert (phi & phi.roll(1)).sum() == 1
    if first:
        assert own.hidden.reshape(10, *GRID)[:, 1:3, [5, 0], 2:4].all()


def test_the_next_layer_is_asked_for_and_deeper_ones_stay_hidden():
    for seed in range(6):
        own = masking(task("next_layer"), 3, GRID, seeded(seed))
        depth = own.visible // 18
        hidden, asked = own.hidden.reshape(3, *GRID), own.asked.reshape(3, *GRID)
        assert hidden[..., depth:].all() and not hidden[..., :depth].any()
        assert asked[..., depth].all() and asked.sum() == 3 * 18


# --------------------------------------------------------------------------------- what is filled in


@pytest.mark.parametrize("fill", ["token", "zero", "empty", "noise", "climatology", "mixture"])
def test_a_fill_changes_the_hidden_tokens_only(fill):
    some = task("masked_patches", fill=fill, sigma=0.5, shares=[0.5, 0.25, 0.25])
    own, data = network(some), batch()
    masked = masking(some, 16, GRID, seeded())
    true, hidden = patchify(data.values, PATCH), masked.hidden
    patches, token = filled(own, some, true, masked, data.conditions.domain, seeded(2))
    assert torch.equal(patches[~hidden], true[~hidden])
    assert token is None or not (token & ~hidden).any()
    if fill == "zero":
        assert (patches[hidden] == 0).all()
    elif fill == "empty":
        assert (patches[0][hidden[0]] == -1).all() and (patches[1][hidden[1]] == -2).all()
    elif fill == "climatology":
        assert (patches[0][hidden[0]] == 0.5).all() and (patches[1][hidden[1]] == 0.25).all()
    elif fill == "noise":
        added = (patches - true)[hidden]
        assert added.std() == pytest.approx(0.5, rel=0.05) and abs(added.mean()) < 0.05
    elif fill == "mixture":
        mean = patches == torch.tensor([0.5, 0.25]).repeat(8)[:, None, None]
        shares = [token.sum(), (hidden & ~token & ~mean.all(dim=2)).sum(), (hidden & mean.all(dim=2)).sum()]
        assert torch.allclose(torch.stack(shares) / hidden.sum(), torch.tensor([0.5, 0.25, 0.25]), atol=0.06)


@pytest.mark.parametrize("fill", ["drop", "token", "zero", "empty", "climatology"])
def test_what_is_hidden_does_not_reach_the_prediction(fill):
    some = task("masked_patches", fill=fill)
    own, data = network(some), batch()
    masked = masking(some, 16, GRID, seeded())

    def predicted(cells):
        if fill == "drop":
            return own(cells, masked.order, masked.visible)
        return own.restore(*filled(own, some, patchify(cells, PATCH), masked, data.conditions.domain, seeded()))

    hidden_cells = masked.hidden.reshape(16, *GRID).repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert torch.equal(predicted(data.values), predicted(torch.where(hidden_cells, 9.0, data.values)))


def test_shuffled_showers_keep_their_cells_and_lose_their_shape():
    data = batch()
    moved = shuffled(data, seeded())
    assert torch.equal(moved.values.flatten(1).sort().values, data.values.flatten(1).sort().values)
    assert torch.equal(moved.hit, moved.values > 0)
    assert moved.values.mean(dim=(0, 2, 3)).std() < 0.1 * data.values.mean(dim=(0, 2, 3)).std() + 0.01


# ------------------------------------------------------------------------------------------- losses


def test_cell_losses_match_torch():
    raw, target = torch.randn(2, 5, 3), torch.rand(2, 5, 3)
    asked = torch.tensor([[True, False, True, False, False], [False, True, False, False, True]])
    chosen, true = raw[asked], target[asked]
    for name, expected in {
        "mse": F.mse_loss(chosen / 0.1, true / 0.1),
        "mae": F.l1_loss(chosen / 0.1, true / 0.1),
        "huber": F.huber_loss(chosen / 0.1, true / 0.1, delta=2.0),
        "bce": F.binary_cross_entropy(chosen.sigmoid(), true),
    }.items():
        spec = LossSpec(name=name, scale=0.1, delta=2.0)
        assert torch.allclose(reconstruction_loss(spec, raw, target, asked, (1, 5, 1), False), expected, rtol=1e-5)
        same = reconstruction_loss(spec, raw, target, asked, (1, 5, 1), True)
        of_sigmoid = LossSpec(name=name, scale=0.1, delta=2.0) if name != "bce" else spec
        again = reconstruction_loss(
            of_sigmoid, raw if name == "bce" else raw.sigmoid(), target, asked, (1, 5, 1), False
        )
        assert torch.allclose(same, again, rtol=1e-5)


def test_cross_entropy_is_least_at_the_truth():
    """Its gradient in the logit is sigmoid(logit) - target, at any scale: why it works where MSE is flat."""
    target = torch.tensor([[[1e-4, 0.02, 0.9]]])
    raw = target.logit().requires_grad_()
    asked = torch.ones(1, 1, dtype=torch.bool)
    reconstruction_loss(LossSpec(name="bce"), raw, target, asked, (1, 1, 1), True).backward()
    assert raw.grad.abs().max() < 1e-7


def test_sinkhorn_is_half_the_squared_wasserstein_distance():
    """Reference: the exact assignment of equal weights (scipy)."""
    grid, generator = (2, 3, 4), seeded(3)
    first, second = (torch.randperm(24, generator=generator)[:6] for _ in range(2))
    sides = [torch.zeros(1, 24, 2) for _ in range(2)]
    for side, places in zip(sides, (first, second), strict=True):
        side[0, places] = 0.5
    points = token_points(grid).double()
    cost = torch.cdist(points[first], points[second]).square().numpy() / 2
    exact = cost[linear_sum_assignment(cost)].mean()
    assert sinkhorn(*sides, grid, blur=0.005, scaling=0.98).item() == pytest.approx(exact, rel=0.02)
    assert sinkhorn(sides[0], 3 * sides[0], grid, blur=0.05).item() == pytest.approx(0, abs=1e-5)


def test_reported_terms_are_weighted_and_sum_to_the_loss():
    plain = network("masked_patches", "jigsaw", {"denoising": {"losses": ["mse", "mae"]}})
    heavy = network(
        {"masked_patches": {"weight": 3}}, "jigsaw", {"denoising": {"losses": ["mse", {"mae": {"weight": 5}}]}}
    )
    data = batch()
    one, three = (pretext_loss(own, data, seeded()) for own in (plain, heavy))
    assert list(one) == ["masked_patches_mse", "jigsaw", "denoising_mse", "denoising_mae"]
    assert torch.allclose(torch.stack([three[k] / one[k] for k in one]), torch.tensor([3.0, 1, 1, 5]), rtol=1e-5)


def test_the_default_is_masked_patches():
    data, own = batch(), network()
    terms = pretext_loss(own, data, seeded())
    order = random_order(16, 72, seeded())
    hidden = order.argsort(dim=1) >= 18
    expected = masked_error(own(data.values, order, 18), patchify(data.values, PATCH), hidden)
    assert list(terms) == ["reconstruction"] and torch.equal(terms["reconstruction"], expected)
    assert not [name for name, _ in own.named_parameters() if "hidden_token" in name or "jigsaw" in name]


def test_exchanged_tokens_are_a_permutation_of_the_chosen():
    masked = masking(task("jigsaw", ratio=0.3), 5, GRID, seeded())
    source = exchanged(masked)
    assert torch.equal(source.sort(dim=1).values, torch.arange(72).expand(5, -1))
    assert torch.equal(source != torch.arange(72), masked.hidden)


def test_equal_tokens_cannot_be_told_replaced():
    own, data = network("replaced_tokens"), batch()
    same = Batch(torch.ones_like(data.values), data.hit, data.conditions)
    with torch.no_grad():
        own.replaced.weight.zero_()
        own.replaced.bias.fill_(-20.0)  # "nothing was replaced"
    assert pretext_loss(own, same, seeded())["replaced_tokens"] < 1e-6
    assert pretext_loss(own, data, seeded())["replaced_tokens"] > 1


@pytest.mark.parametrize("name", [*TASKS, *OTHERS, "inpainting"])
def test_each_task_can_be_learned(name):
    own = network({name: {"size": [2, 3, 2]}} if name == "inpainting" else name)
    data = batch()
    own.fit_energy(data.conditions.incident_energy)
    optimiser, losses = torch.optim.Adam(own.parameters(), lr=4e-3), []
    for i in range(60):
        loss = torch.stack(list(pretext_loss(own, data, seeded(i % 4)).values())).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-6:]) < (0.92 if name == "jigsaw" else 0.8) * np.mean(losses[:4])
    assert all(p.grad is not None for n, p in own.named_parameters() if n.split(".")[0] in (name, "encoder", "embed"))


# ------------------------------------------------------------------------------------ configuration


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            {"pretext": [{"inpainting": {"size": [4, 1, 1]}}]},
            r"pretext\.inpainting\.size: expected less than the \[3, 2, 5",
        ),
        ({"pretext": ["next_layer"], "patch": [3, 5, 15]}, r"pretext\.next_layer: expected two tokens along z, got 1"),
        ({"pretext": [{"blocks": {"losses": ["bce"]}}]}, r"losses\.bce: expected output: sigmoid, got linear"),
        (
            {"pretext": [{"blocks": {"losses": ["sinkhorn"]}}], "output": "sigmoid"},
            r"losses\.sinkhorn: expected a recipe with values in \[0, 1\], got .*standardise",
        ),
        ({"pretext": ["jigsaw", "jigsaw"]}, r"pretext: expected each task once, got \['jigsaw', 'jigsaw'\]"),
        ({"pretext": [{"blocks": {"ratio": [0.9, 0.1]}}]}, r"expected a ratio, or \[lowest, highest\]"),
        ({"pretext": [{"mixture": {"shares": [1, 1, 1]}}]}, r"shares: expected three shares that sum to 1"),
        ({"patch": "halves"}, r"expected cells along \(r, phi, z\) or one of \['seeds_1x10x15'\], got 'halves'"),
        ({"patch": "seeds_1x10x15"}, r"patch: expected a divisor of the mesh \[9, 10, 15\], got \[18, 5, 3\]"),
    ],
)
def test_tasks_that_cannot_work_are_refused(test_config, model, message):
    test_config["runs"]["representation"]["model"].update(model)
    with pytest.raises(ConfigError, match=message):
        load_config(test_config)


def test_a_recipe_within_the_unit_interval_allows_cross_entropy(test_config):
    test_config["preprocessing"]["ratio"] = [{"rebin": {"factors": [2, 5, 3]}}, "divide_by_incident_energy", "power"]
    test_config["runs"]["representation"] |= {"recipe": "ratio"}
    test_config["runs"]["representation"]["model"] |= {
        "output": "sigmoid",
        "pretext": [{"masked_patches": {"losses": ["bce", "sinkhorn"]}}],
    }
    del test_config["runs"]["energy"]
    assert load_config(test_config).runs["representation"].model.tasks[0].losses[0].name == "bce"


def test_the_seeds_splits_are_a_preset():
    assert MaskedViTSpec(patch="seeds_1x10x15").patch == (18, 5, 3)
    assert (
        MaskedViT(MaskedViTSpec(patch="seeds_1x10x15", width=12, depth=1, decoder_width=12), (18, 50, 45)).tokens == 150
    )
