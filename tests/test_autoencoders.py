"""Laws of the models with a bottleneck: codebooks, the order of codes, the VAE's KL, the prior and its sampling."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import (
    AutoregressiveSpec,
    FiniteScalarsSpec,
    LayerEnergiesSpec,
    LearnedCodebookSpec,
    SamplingSpec,
    VAESpec,
    VQVAESpec,
)
from pipeline.generation.autoregression import filtered, picked, sample_codes
from pipeline.models import Architecture, Conditions, build_network
from pipeline.models.autoregressive import own_layers
from pipeline.models.codebook import FiniteScalars, LearnedCodebook, perplexity
from pipeline.models.vqvae import depth_order, last_layer
from pipeline.training.adaptation import freeze_encoder
from pipeline.training.batches import Batch
from pipeline.training.collapse import collapse
from pipeline.training.objectives import LOSSES, free_bits, normal_kl, total

SHAPE = (4, 6, 6)
SMALL = {"width": 24, "depth": 1, "heads": 2}
ENERGIES = LayerEnergiesSpec(width=16, depth=1)
TOKENIZER = VQVAESpec(patch=(2, 3, 1), codebook=FiniteScalarsSpec(levels=(5, 4)), **SMALL)
PRIOR = AutoregressiveSpec(tokenizer="codes", layer_energies=ENERGIES, width=24, depth=2, heads=2)


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def architecture(model, **parents) -> Architecture:
    domains = (("a", "SiW"), ("b", "SciPb"))
    return Architecture(model, None, SHAPE, domains, ("SiW", "SciPb"), 0.015, parents)


def conditions(n: int, seed: int = 0) -> Conditions:
    layers = 10 * torch.rand(n, SHAPE[2], generator=random(seed)) + 0.1
    energy = 1000 * (1 + torch.rand(n, generator=random(seed + 1)))
    return Conditions(energy, torch.full((n,), math.pi / 2), torch.arange(n) % 2, layers)


def batch(n: int = 16, seed: int = 0) -> Batch:
    values = torch.randn(n, *SHAPE, generator=random(seed))
    return Batch(values, values > 0.5, conditions(n, seed))


def shaken(network: torch.nn.Module) -> torch.nn.Module:
    """Weights that are zero at the start of training, too, become random."""
    with torch.no_grad():
        for i, parameter in enumerate(network.parameters()):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=random(i)))
    return network.eval()


def tokenizer(**changes) -> torch.nn.Module:
    return shaken(build_network(architecture(TOKENIZER.model_copy(update=changes))))


def prior(**changes) -> torch.nn.Module:
    own = TOKENIZER.model_copy(update=changes)
    return shaken(build_network(architecture(PRIOR, tokenizer=architecture(own)))).showers


# ----------------------------------------------------------------------------------- codebooks


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(2, 9), min_size=1, max_size=4))
def test_every_code_of_finite_scalars_comes_back(levels):
    codebook = FiniteScalars(FiniteScalarsSpec(levels=levels))
    codes = torch.arange(codebook.size)
    assert torch.equal(codebook.lookup(codes).unique(dim=0), codebook.lookup(codes).unique(dim=0, sorted=True))
    assert len(codebook.lookup(codes).unique(dim=0)) == math.prod(levels)
    half = (codebook.levels - 1) * (1 + 1e-3) / 2
    offset = torch.where(codebook.levels % 2 == 0, 0.5, 0.0)
    aimed = codebook.lookup(codes) * (codebook.levels // 2)  # the integers; find an x that is bounded to them
    x = (((aimed + offset) / half).clamp(-0.9999, 0.9999)).atanh() - (offset / half).atanh()
    quantised = codebook(x)
    assert torch.equal(quantised.codes, codes)
    assert torch.allclose(quantised.vectors, codebook.lookup(codes))


def test_finite_scalars_use_exactly_their_levels():
    codebook = FiniteScalars(FiniteScalarsSpec(levels=(8, 5, 2)))
    quantised = codebook(20 * torch.randn(5000, 3, generator=random()))
    assert [len(column.unique()) for column in quantised.vectors.unbind(1)] == [8, 5, 2]
    assert quantised.codes.min() == 0 and quantised.codes.max() == codebook.size - 1


def test_gradients_of_finite_scalars_are_those_of_the_bounded_vector():
    codebook = FiniteScalars(FiniteScalarsSpec(levels=(8, 5)))
    x, weight = torch.randn(10, 2, generator=random()), torch.randn(10, 2, generator=random(1))
    through, direct = x.clone().requires_grad_(), x.clone().requires_grad_()
    (codebook(through).vectors * weight).sum().backward()
    (codebook.bounded(direct) / (codebook.levels // 2) * weight).sum().backward()
    assert torch.allclose(through.grad, direct.grad)


def learned(**changes) -> LearnedCodebook:
    torch.manual_seed(0)
    return LearnedCodebook(LearnedCodebookSpec(codes=7, width=3).model_copy(update=changes))


def test_a_vector_becomes_the_nearest_code():
    codebook, x = learned(), torch.randn(5, 4, 3, generator=random())
    quantised = codebook(x)
    slow = [min(range(7), key=lambda k: (v - codebook.vectors[k]).norm().item()) for v in x.reshape(-1, 3)]
    assert quantised.codes.reshape(-1).tolist() == slow
    assert torch.allclose(quantised.vectors, codebook.lookup(quantised.codes), atol=1e-6)
    error = (x - codebook.lookup(quantised.codes)).square().mean()
    assert torch.allclose(quantised.commitment, 0.25 * error)


def test_gradients_go_straight_through_a_learned_codebook():
    codebook, weight = learned(commitment=0.0), torch.randn(6, 3, generator=random(1))
    x = torch.randn(6, 3, generator=random(), requires_grad=True)
    quantised = codebook(x)
    ((quantised.vectors * weight).sum() + quantised.commitment).backward()
    assert torch.equal(x.grad, weight)


def test_the_codebook_is_the_moving_average_of_its_vectors():
    """A slow twin of arXiv:1711.00937, appendix A.1, one code and one vector at a time."""
    codebook = learned(decay=0.9, renew_below=0.0)
    uses, sums = codebook.uses.clone().double(), codebook.sums.clone().double()
    for step in range(5):
        x = torch.randn(20, 3, generator=random(step))
        codes = codebook.nearest(x)
        codebook.update(x, codes)
        for k in range(7):
            members = [v for v, code in zip(x, codes.tolist(), strict=True) if code == k]
            uses[k] = 0.9 * uses[k] + 0.1 * len(members) * 7 / 20
            sums[k] = 0.9 * sums[k] + 0.1 * sum((v.double() for v in members), torch.zeros(3)) * 7 / 20
    assert torch.allclose(codebook.vectors.double(), sums / uses[:, None], rtol=1e-4)


def test_a_codebook_starts_at_the_clusters():
    centres = 10 * torch.randn(7, 3, generator=random())
    x = centres.repeat(50, 1) + 0.05 * torch.randn(350, 3, generator=random(1))
    found = learned(codes=30)
    found.start(x, random())
    nearest = torch.cdist(centres, found.vectors)
    assert (nearest.min(dim=1).values < 0.2).all()
    assert (x - found.lookup(found.nearest(x))).square().mean() < 0.01
    assert found.uses.sum() == pytest.approx(30, rel=1e-4)


def test_unused_codes_start_anew_at_vectors_of_the_batch():
    codebook = learned(decay=0.5)
    codebook.vectors[3:] = 1e3  # nothing is quantised to these
    codebook.sums.copy_(codebook.vectors)
    for step in range(8):
        x = torch.randn(40, 3, generator=random(step))
        codebook.update(x, codebook.nearest(x))
    assert codebook.vectors.abs().max() < 10
    x = torch.randn(400, 3, generator=random(9))
    assert perplexity(codebook.nearest(x), 7) > 4


def test_perplexity_counts_the_codes_in_use():
    assert perplexity(torch.arange(8).repeat(3), 16) == pytest.approx(8, rel=1e-5)
    assert perplexity(torch.zeros(10, dtype=torch.int64), 16) == pytest.approx(1)


# ------------------------------------------------------------------------------------- tokens


@settings(max_examples=25, deadline=None)
@given(st.tuples(*[st.integers(1, 4)] * 3))
def test_codes_are_ordered_by_depth(grid):
    order = depth_order(grid)
    places = torch.stack(torch.meshgrid(*map(torch.arange, grid), indexing="ij"), dim=-1).reshape(-1, 3)[order]
    keys = [(z, r, phi) for r, phi, z in places.tolist()]
    assert keys == sorted(keys) and len(set(keys)) == math.prod(grid)


@pytest.mark.parametrize("grid", [None, (1, 2, 6), (2, 2, 3), (3, 4, 5)])
def test_a_shower_has_a_code_for_each_place(grid):
    network = tokenizer(grid=grid)
    own = batch(3)
    codes = network.encode(own.values, own.conditions)
    assert codes.shape == (3, math.prod(grid or (2, 2, 6)))
    assert network.decode_codes(codes, own.conditions).shape == (3, 3, *SHAPE)


@pytest.mark.parametrize(("grid", "patch"), [(None, (2, 3, 1)), ((2, 2, 3), (2, 3, 1)), ((3, 4, 2), (4, 6, 3))])
def test_first_codes_do_not_know_what_comes_behind(grid, patch):
    network = tokenizer(grid=grid, patch=patch, sees="layers_before")
    own, layers = batch(3), 3
    changed = own.values.clone()
    changed[..., layers:] = torch.randn(changed[..., layers:].shape, generator=random(5))
    a, b = (network.vectors(values, own.conditions) for values in (own.values, changed))
    within = network.codes_within(layers)
    along_z = network.grid[2]
    assert within == network.tokens // along_z * (layers * along_z // SHAPE[2])
    assert torch.equal(a[:, :within], b[:, :within])
    assert (a[:, within:] != b[:, within:]).any(dim=2).all()


def test_a_code_that_sees_the_shower_knows_all_of_it():
    network, own = tokenizer(), batch(3)
    changed = own.values.clone()
    changed[..., -1] += 1
    assert (network.vectors(own.values, own.conditions) != network.vectors(changed, own.conditions)).any(dim=2).all()


def test_places_end_where_their_layers_end():
    assert last_layer((1, 1, 3), 6).tolist() == [2, 4, 6]
    weights = own_layers(torch.tensor([1.5, 3.0, 4.5, 6.0]), 4, 6)
    assert torch.allclose(weights.sum(dim=1), torch.ones(4))
    assert torch.allclose(weights[1], torch.tensor([0, 1 / 3, 2 / 3, 0, 0, 0]))


@pytest.mark.parametrize("model", [TOKENIZER, VAESpec(patch=(2, 3, 1), layer_energies=ENERGIES, latent=8, **SMALL)])
@pytest.mark.parametrize("output", ["probabilistic", "pixels"])
def test_every_weight_learns_from_the_cells(model, output):
    network = shaken(build_network(architecture(model.model_copy(update={"output": output})))).train()
    total(LOSSES[type(network)](network, batch(), random())).backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without


# ---------------------------------------------------------------------------------------- VAE


def test_the_kl_is_that_of_torch():
    mean, log_variance = torch.randn(2, 5, 4, generator=random()).unbind(0)
    posterior = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    exact = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0))
    assert torch.allclose(normal_kl(mean, log_variance), exact, atol=1e-6)


def test_free_bits_cost_a_constant_without_gradient():
    kl = torch.tensor([[0.01, 2.0, 0.3], [0.03, 1.0, 0.3]], requires_grad=True)
    cost = free_bits(kl, 0.1)
    assert cost.item() == pytest.approx(0.1 + 1.5 + 0.3)
    cost.backward()
    assert torch.equal(kl.grad, torch.tensor([[0.0, 0.5, 0.5], [0.0, 0.5, 0.5]]))


def vae(**changes) -> torch.nn.Module:
    spec = VAESpec(patch=(2, 3, 1), layer_energies=ENERGIES, latent=8, **SMALL)
    return build_network(architecture(spec.model_copy(update=changes))).showers


def test_the_weight_of_the_kl_grows_while_training_only():
    network = vae(kl_warmup_samples=64, kl_weight=0.5).eval()
    loss = LOSSES[type(network)]
    assert loss(network, batch(), random())["kl"] == 0 and network.samples_seen == 0
    weights = []
    for _ in range(6):
        weights.append(network.kl_weight.item())
        loss(network.train(), batch(), random())
    assert weights == [0, 0.125, 0.25, 0.375, 0.5, 0.5]
    assert "samples_seen" in network.state_dict()  # a resumed training goes on with the schedule


@pytest.mark.parametrize("decoder", ["dense", "broadcast"])
def test_the_latent_vector_reaches_every_cell(decoder):
    network, own = shaken(vae(decoder=decoder)), conditions(2)
    a, b = (network.decode(torch.randn(2, 8, generator=random(i)), own) for i in (1, 2))
    assert (a != b).all()


def test_a_collapsed_posterior_is_told():
    network = build_network(architecture(VAESpec(patch=(2, 3, 1), **SMALL)))
    assert "expected a latent vector of 1 nat or more, got a KL of 0.13" in collapse(network, {"kl_nats": 0.13})
    assert collapse(network, {"kl_nats": 7.0}) == ""


def test_a_codebook_that_is_hardly_used_is_told():
    network = tokenizer()
    assert "expected codes of a perplexity of 2 or more out of 20, got 1.1" in collapse(
        network, {"code_perplexity": 1.1}
    )
    assert collapse(network, {"code_perplexity": 11.0}) == ""


@pytest.mark.parametrize("model", [TOKENIZER, VAESpec(patch=(2, 3, 1), **SMALL)])
def test_freezing_the_encoder_leaves_the_decoder_free(model):
    network = build_network(architecture(model))
    freeze_encoder(network)
    showers = getattr(network, "showers", network)
    assert not any(p.requires_grad for p in showers.encoder.parameters())
    assert all(p.requires_grad for p in showers.decoder.parameters())


# -------------------------------------------------------------------------------------- prior


@torch.no_grad()
@pytest.mark.parametrize("grid", [None, (3, 4, 5)])
def test_kept_keys_and_values_give_the_same_logits(grid):
    network, own = prior(grid=grid), conditions(3)
    codes = torch.randint(20, (3, network.tokenizer.tokens), generator=random())
    whole, sequence = network(codes, own), network.begin(own)
    for place in range(network.tokenizer.tokens):
        one = network.following(sequence, place, codes[:, place - 1] if place else None)
        assert torch.allclose(one, whole[:, place], atol=1e-4)


@torch.no_grad()
def test_a_code_depends_on_those_before_it_alone():
    network, own = prior(), conditions(2)
    codes = torch.randint(20, (2, network.tokenizer.tokens), generator=random())
    changed = codes.clone()
    changed[:, 9:] = (codes[:, 9:] + 1) % 20
    a, b = network(codes, own), network(changed, own)
    assert torch.equal(a[:, :10], b[:, :10]) and not torch.equal(a[:, 10:], b[:, 10:])


def test_an_untrained_prior_knows_the_frequencies():
    network = build_network(architecture(PRIOR, tokenizer=architecture(TOKENIZER))).showers
    codes = torch.randint(20, (4000, network.tokenizer.tokens), generator=random()) // 2
    network.fit_codes(codes)
    share = network(codes[:1], conditions(1)).softmax(dim=2)[0]
    counts = torch.stack([torch.bincount(c, minlength=20) for c in codes.unbind(1)]) / 4000
    assert torch.allclose(share, counts, atol=0.005) and (share > 0).all()


def test_a_tokenizer_is_frozen():
    network = build_network(architecture(PRIOR, tokenizer=architecture(TOKENIZER)))
    assert not any(p.requires_grad for p in network.showers.tokenizer.parameters())
    before = {k: v.clone() for k, v in network.showers.tokenizer.state_dict().items()}
    total(LOSSES[type(network)](network.train(), batch(), random())).backward()
    assert all(torch.equal(before[k], v) for k, v in network.showers.tokenizer.state_dict().items())


def slow_filter(logits: list[float], temperature: float, top_k: int | None, top_p: float) -> set[int]:
    """Codes that may be drawn, one at a time from the likeliest on."""
    weight = [math.exp(x / temperature) for x in logits]
    ranked = sorted(range(len(logits)), key=lambda i: -weight[i])[: top_k or len(logits)]
    whole, kept, so_far = sum(weight[i] for i in ranked), set(), 0.0
    for i in ranked:
        if so_far < top_p:
            kept.add(i)
        so_far += weight[i] / whole
    return kept


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([0.5, 1.0, 2.0]),
    st.sampled_from([None, 1, 3, 12]),
    st.sampled_from([0.05, 0.5, 0.9, 1.0]),
)
def test_top_k_and_top_p_match_a_slow_twin(seed, temperature, top_k, top_p):
    logits = 2 * torch.randn(4, 9, generator=random(seed), dtype=torch.float64)
    found = filtered(logits, temperature, top_k, top_p)
    for row, original in zip(found, logits, strict=True):
        assert {*row.isfinite().nonzero().flatten().tolist()} == slow_filter(
            original.tolist(), temperature, top_k, top_p
        )
    kept = found.isfinite()
    assert torch.allclose(found[kept], logits[kept] / temperature)


def test_codes_are_drawn_with_their_probabilities():
    logits = torch.tensor([0.0, 1.0, -torch.inf, 2.0]).expand(8000, -1)
    codes = picked(logits, torch.arange(8000) / 8000)
    share = torch.bincount(codes, minlength=4) / 8000
    assert torch.allclose(share, logits[0].softmax(dim=0), atol=2e-4)
    ends = picked(torch.tensor([[-torch.inf, 0.0, -torch.inf]] * 2), torch.tensor([0.0, 1 - 2**-24]))
    assert ends.tolist() == [1, 1]


def test_given_codes_are_kept_and_the_rest_follows_from_them():
    network, own = prior(), conditions(4)
    uniform = torch.rand(4, network.tokenizer.tokens, generator=random())
    whole = sample_codes(network, own, uniform, SamplingSpec())
    again = sample_codes(network, own, uniform, SamplingSpec(), whole[:, :7])
    assert torch.equal(again, whole)
    other = sample_codes(network, own, uniform, SamplingSpec(), (whole[:, :7] + 1) % 20)
    assert torch.equal(other[:, :7], (whole[:, :7] + 1) % 20) and not torch.equal(other[:, 7:], whole[:, 7:])


def test_the_likeliest_code_needs_no_luck():
    network, own = prior(), conditions(4)
    made = [
        sample_codes(network, own, torch.rand(4, network.tokenizer.tokens, generator=random(i)), SamplingSpec(top_k=1))
        for i in (0, 1)
    ]
    assert torch.equal(*made)
    assert np.array_equal(made[0][:, 0], network(made[0], own)[:, 0].argmax(dim=1))
