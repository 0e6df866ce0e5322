"""Detectors as conditions: what tells them apart, and what an unseen one starts from."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from pipeline.config import BUILT_IN_DETECTORS, ConfigError, DiffusionSpec, HeadSpec, MaskedViTSpec, load_config
from pipeline.config.detector_embedding import DetectorEmbeddingSpec
from pipeline.models import Architecture, Conditions, build_network
from pipeline.models.conditions import PartlyUnknown
from pipeline.models.detectors import DetectorEmbedding, descriptor
from pipeline.training.adaptation import architecture_from, start_from
from pipeline.training.batches import Batch, with_unknown_detectors
from pipeline.training.checkpoint import TrainedModel
from pipeline.training.objectives import generator_loss
from pipeline.training.pretexts import pretext_loss

SHAPE = (4, 6, 5)
SIW, SCIPB = BUILT_IN_DETECTORS["SiW"], BUILT_IN_DETECTORS["SciPb"]
OF_SIW, OF_SCIPB = descriptor(SIW, SIW.mesh), descriptor(SCIPB, SCIPB.mesh)
KINDS = ["learned", "one_hot", "descriptor", "learned_and_descriptor"]


def architecture(domains, descriptors, **embedding) -> Architecture:
    spec = DiffusionSpec(patch=(4, 6, 1), width=24, depth=1, heads=2, layer_energies=None, detector_embedding=embedding)
    detectors = tuple(dict.fromkeys(detector for _, detector in domains))
    return Architecture(spec, None, SHAPE, domains, detectors, 0.015, {}, (), tuple(descriptors))


def conditions(n: int = 6, domain: int = 0) -> Conditions:
    random = torch.Generator().manual_seed(3)
    layers = 1 + torch.rand(n, SHAPE[2], generator=random)
    return Conditions(torch.full((n,), 2000.0), torch.full((n,), math.pi / 2), torch.full((n,), domain), layers)


def vector(network, own: Conditions) -> torch.Tensor:
    return network.showers.conditions(own, torch.zeros(len(own)))


def parent(**embedding) -> TrainedModel:
    own = architecture((("a", "SiW"), ("b", "SciPb")), (OF_SIW, OF_SCIPB), **embedding)
    return TrainedModel(build_network(own, 1), own, {}, {"run": "generator"})


def grown(model: TrainedModel, numbers) -> torch.nn.Module:
    """The parent, carried to one data set of a detector that it never saw."""
    own = replace(model.architecture, domains=(("c", "New"),), detectors=("New",), descriptors=(numbers,))
    network = build_network(architecture_from(model.architecture, own), 9)
    assert start_from(network, model) == []
    return network


def test_descriptors_are_differences_of_logarithms():
    assert OF_SIW == (0.0,) * 10
    x0, moliere, fraction, absorber, *_ = OF_SCIPB
    assert (x0, moliere) == pytest.approx((math.log(7.1 / 4.25), math.log(22.7 / 12.1)))
    assert (fraction, absorber) == pytest.approx((math.log(0.0334 / 0.0319), math.log(4.4 / 1.4)))
    coarse = SIW.mesh.model_copy(update={"cells": (9, 10, 15), "dr_mm": 4.65, "dz_mm": 10.2})
    changed = [i for i, number in enumerate(descriptor(SIW, coarse)) if number]
    assert changed == [6, 7, 8]  # cell sizes and sectors


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_tells_two_detectors_apart_and_survives_json(kind):
    model = parent(kind=kind)
    first, second = (vector(model.network, conditions(2, domain)) for domain in (0, 1))
    assert not torch.allclose(first, second, atol=1e-4)
    assert Architecture.from_state(model.architecture.state()) == model.architecture


def test_two_data_sets_of_one_detector_are_the_same_to_a_one_hot():
    own = architecture((("a", "SiW"), ("b", "SiW")), (OF_SIW, OF_SIW), kind="one_hot")
    network = build_network(own, 1)
    assert torch.equal(vector(network, conditions(2, 0)), vector(network, conditions(2, 1)))


@pytest.mark.parametrize("kind", ["descriptor", "learned_and_descriptor"])
def test_an_unseen_detector_is_told_by_its_descriptor_alone(kind):
    """Zero shots: with the descriptor of SciPb it is what SciPb is to a network that does not know its name."""
    model = parent(kind=kind, **({"dropout": 0.2} if kind != "descriptor" else {}))
    unnamed = PartlyUnknown(**vars(conditions(4, 1)), unknown=torch.ones(4, dtype=torch.bool))
    assert torch.equal(vector(grown(model, OF_SCIPB), conditions(4)), vector(model.network, unnamed))
    other = tuple(0.3 + number for number in OF_SCIPB)
    assert not torch.allclose(vector(grown(model, other), conditions(4)), vector(model.network, unnamed), atol=1e-4)


def test_an_unseen_detector_behaves_as_the_nearest():
    model = parent(kind="descriptor")

    def between(share: float) -> torch.Tensor:
        numbers = tuple(share * b + (1 - share) * a for a, b in zip(OF_SIW, OF_SCIPB, strict=True))
        return vector(grown(model, numbers), conditions(1))

    siw, scipb = (vector(model.network, conditions(1, domain)) for domain in (0, 1))
    assert (between(0.1) - siw).norm() < (between(0.1) - scipb).norm()
    assert (between(0.9) - scipb).norm() < (between(0.9) - siw).norm()
    assert torch.allclose(between(0.0), siw, atol=1e-6) and torch.allclose(between(1.0), scipb, atol=1e-6)


def test_a_new_detector_takes_a_free_slot():
    model = parent(kind="one_hot", slots=3)
    network = grown(model, OF_SCIPB)
    assert network.showers.conditions.detector.detector_of.tolist() == [2]
    full = parent(kind="one_hot", slots=2)
    with pytest.raises(ValueError, match=r"detector_embedding\.slots: expected at least the 3 detectors .*, got 2"):
        grown(full, OF_SCIPB)


def test_without_dropout_a_new_row_is_the_mean_of_the_known():
    model = parent(kind="learned_and_descriptor")
    rows = grown(model, OF_SIW).showers.conditions.detector.rows.weight
    assert torch.allclose(rows[2], rows[:2].mean(dim=0))


def test_dropout_takes_the_row_of_its_share_of_showers():
    own = DetectorEmbedding(DetectorEmbeddingSpec(dropout=0.3), [0], 1, [OF_SIW])
    batch = Batch(torch.zeros(2000, *SHAPE), torch.zeros(2000, *SHAPE, dtype=torch.bool), conditions(2000))
    dropped = with_unknown_detectors(0.3, batch, torch.Generator().manual_seed(0)).conditions
    zero = (own(dropped.domain, dropped.unknown) == 0).all(dim=1)
    assert torch.equal(zero, dropped.unknown) and zero.float().mean() == pytest.approx(0.3, abs=0.03)
    assert dropped.repeat(2).unknown.tolist() == dropped.unknown.repeat_interleave(2).tolist()
    assert with_unknown_detectors(0.0, batch, torch.Generator()) is batch


def test_a_generator_with_dropout_trains():
    network = parent(kind="learned_and_descriptor", dropout=0.5).network
    batch = Batch(torch.randn(6, *SHAPE), torch.rand(6, *SHAPE) > 0.5, conditions())
    torch.nn.init.normal_(network.showers.out.weight)
    torch.nn.init.normal_(network.showers.blocks[0].modulation.linear.weight)
    torch.stack(list(generator_loss(network, batch, torch.Generator().manual_seed(1)).values())).sum().backward()
    detector = network.showers.conditions.detector
    assert detector.rows.weight.grad[0].abs().sum() > 0 and detector.perceptron[0].weight.grad.abs().sum() > 0


def test_dropout_of_a_descriptor_is_refused():
    with pytest.raises(ValidationError, match="dropout: expected a detector_embedding with rows, got kind: descriptor"):
        DetectorEmbeddingSpec(kind="descriptor", dropout=0.1)


# ---------------------------------------------------------------------------------------- masked ViT


def vit(domains, descriptors, head: HeadSpec | None = None, **embedding) -> Architecture:
    spec = MaskedViTSpec(
        patch=(2, 3, 5), width=24, depth=1, heads=2, decoder_width=12, detector_embedding=embedding or None
    )
    detectors = tuple(dict.fromkeys(detector for _, detector in domains))
    return Architecture(spec, head, SHAPE, domains, detectors, 0.015, {}, (), tuple(descriptors))


def representation(**embedding) -> TrainedModel:
    own = vit((("a", "SiW"), ("b", "SciPb")), (OF_SIW, OF_SCIPB), **embedding)
    return TrainedModel(build_network(own, 1), own, {}, {"run": "representation"})


def encoded(network, domain: int) -> torch.Tensor:
    cells = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(5))
    return network.encode(cells, told=network.told(torch.full((2,), domain)))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_tells_a_masked_vit_the_detector(kind):
    model = representation(kind=kind)
    assert not torch.allclose(encoded(model.network, 0), encoded(model.network, 1), atol=1e-4)
    assert Architecture.from_state(model.architecture.state()) == model.architecture
    order = torch.arange(model.network.tokens).expand(2, -1)
    cells, told = torch.randn(2, *SHAPE), [model.network.told(torch.full((2,), d)) for d in (0, 1)]
    first, second = (model.network(cells, order, 1, own) for own in told)
    assert not torch.allclose(first[:, 1:], second[:, 1:], atol=1e-4)  # the decoder's hidden tokens, too


def test_a_masked_vit_that_is_told_nothing_has_no_more_weights():
    plain = representation().network
    assert plain.told(torch.zeros(2, dtype=torch.int64)) is None
    more = set(representation(kind="descriptor").network.state_dict()) - set(plain.state_dict())
    assert {name.split(".")[0] for name in more} == {"detector", "tell", "tell_decoder"}


@pytest.mark.parametrize("head", [None, HeadSpec(predict="incident_energy", width=8), HeadSpec(predict="theta")])
def test_an_unseen_detector_of_a_masked_vit_starts_from_its_descriptor(head):
    """Pre-trained on two detectors, carried to a third with the numbers of the second: as the second, unnamed."""
    model = representation(kind="learned_and_descriptor", dropout=0.2)
    own = vit((("c", "New"),), (OF_SCIPB,), head, kind="learned_and_descriptor", dropout=0.2)
    network = build_network(architecture_from(model.architecture, own), 9)
    start_from(network, model)
    backbone = network if head is None else network.backbone
    assert backbone.detector.detector_of.tolist() == [2]
    cells = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(5))
    unnamed = model.network.told(torch.full((2,), 1), torch.ones(2, dtype=torch.bool))
    assert torch.equal(encoded(backbone, 0), model.network.encode(cells, told=unnamed))
    if head is not None:
        torch.nn.init.normal_(network.out.weight if head.predict == "incident_energy" else network.readout.out.weight)
        first = network(cells, torch.full((2,), 30.0), torch.zeros(2, dtype=torch.int64))[0]
        backbone.detector.rows.weight.data += 1
        assert not torch.allclose(first, network(cells, torch.full((2,), 30.0), torch.zeros(2, dtype=torch.int64))[0])


@pytest.mark.parametrize("tasks", [("masked_patches",), ("denoising", "replaced_tokens", "jigsaw", "incident_energy")])
def test_pre_training_learns_the_embedding(tasks):
    own = vit((("a", "SiW"), ("b", "SciPb")), (OF_SIW, OF_SCIPB), kind="learned_and_descriptor", dropout=0.5)
    pretext = MaskedViTSpec.model_validate({**own.model.model_dump(exclude={"pretext"}), "pretext": tasks})
    network = build_network(replace(own, model=pretext), 1)
    told = conditions(8, 1)
    batch = Batch(torch.rand(8, *SHAPE), torch.rand(8, *SHAPE) > 0.5, told)
    torch.stack(list(pretext_loss(network, batch, torch.Generator().manual_seed(1)).values())).sum().backward()
    assert network.detector.rows.weight.grad[1].abs().sum() > 0 == network.detector.rows.weight.grad[0].abs().sum()
    assert network.detector.perceptron[0].weight.grad.abs().sum() > 0 and network.tell.weight.grad.abs().sum() > 0


def test_a_head_may_not_be_told_what_it_predicts(test_config):
    model = test_config["runs"]["representation"]["model"]
    model["detector_embedding"] = {"kind": "descriptor"}
    load_config(test_config)
    test_config["runs"]["energy"]["head"] = {"predict": "detector"}
    expected = r"runs\.energy: predicts 'detector', but run 'representation' is told it; take detector_embedding out of"
    with pytest.raises(ConfigError, match=expected):
        load_config(test_config)
    first = test_config["datasets"]["test_siw"]
    photons = {**first, "detector": "SciPb", "files": "other*.h5", "simulate": None, "particle": "gamma"}
    test_config["datasets"]["photons"] = photons
    test_config["runs"]["energy"] |= {"head": {"predict": "particle"}, "data": ["test_siw", "photons"]}
    with pytest.raises(ConfigError, match=r"predicts 'particle', but its network is told the detector, which tells"):
        load_config(test_config)
