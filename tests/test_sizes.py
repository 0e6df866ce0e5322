"""The shapes that a record asks for are those that its network saves, and nothing is allocated to know them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

from pipeline.config import HeadSpec
from pipeline.config.runs import Model
from pipeline.models import Architecture, build_network
from pipeline.models.sizes import refuse_other_shapes, saved_shapes

SHAPE = (4, 6, 5)
SMALL = {"patch": [2, 3, 1], "width": 12, "depth": 2, "heads": 2}
ENERGIES = {"layer_energies": {"width": 6, "depth": 2}}
TOLD = {"detector_embedding": {"kind": "learned_and_descriptor"}}
CODES = {"name": "vqvae", **SMALL, "codebook": {"kind": "learned", "codes": 5}, "grid": [1, 1, 5]}
MODELS: dict[str, tuple[dict[str, Any], dict[str, dict[str, Any]]]] = {
    "masked_vit": ({"name": "masked_vit", **SMALL, "decoder_width": 6}, {}),
    "masked_vit, told": ({"name": "masked_vit", **SMALL, **TOLD, "decoder_width": 8, "positions": "learned"}, {}),
    "masked_vit, rotary": ({"name": "masked_vit", **SMALL, "decoder_width": 12, "rotary": True}, {}),
    "masked_vit, tasks": (
        {"name": "masked_vit", **SMALL, "pretext": ["mixture", "jigsaw", "replaced_tokens", "incident_energy"]},
        {},
    ),
    "diffusion": ({"name": "diffusion", **SMALL, **ENERGIES, **TOLD, "condition_dropout": 0.1}, {}),
    "pixels": ({"name": "diffusion", **SMALL, "layer_energies": None, "output": "pixels", "qk_norm": True}, {}),
    "consistency": (
        {"name": "consistency", "teacher": "t"},
        {"teacher": {"name": "diffusion", **SMALL, **ENERGIES}},
    ),
    "vae": ({"name": "vae", **SMALL, **ENERGIES, "latent": 3}, {}),
    "vqvae": (CODES, {}),
    "layers before": ({"name": "vqvae", **SMALL, "sees": "layers_before", "codebook": {"kind": "finite_scalars"}}, {}),
    "autoregressive": (
        {"name": "autoregressive", "tokenizer": "c", "width": 12, "depth": 2, "heads": 2, **ENERGIES},
        {"tokenizer": CODES},
    ),
}


def architecture(family: str, head: dict[str, Any] | None = None) -> Architecture:
    """On two data sets of two detectors."""

    def of(spec: dict[str, Any], **parents: Architecture) -> Architecture:
        numbers = tuple((0.1 * i,) * 10 for i in range(2))
        made = HeadSpec.model_validate(head) if head else None
        domains, detectors = (("a", "SiW"), ("b", "SciPb")), ("SiW", "SciPb")
        model = TypeAdapter[Any](Model).validate_python(spec)
        return Architecture(model, made, SHAPE, domains, detectors, 0.015, parents, ("gamma", "e-"), numbers)

    spec, parents = MODELS[family]
    return of(spec, **{role: of(parent) for role, parent in parents.items()})


CASES = [(family, None) for family in MODELS] + [
    ("masked_vit", {"predict": predict}) for predict in ("incident_energy", "theta", "detector", "particle")
]


@pytest.mark.parametrize(("family", "head"), CASES, ids=str)
def test_the_shapes_of_a_record_are_those_that_its_network_saves(family: str, head: dict[str, Any] | None) -> None:
    asked = architecture(family, head)
    weights = build_network(asked).state_dict()
    assert saved_shapes(asked, len(weights)) == {name: tuple(value.shape) for name, value in weights.items()}
    refuse_other_shapes(asked, weights, "weights")
    assert all(value.device.type == "cpu" for value in build_network(asked).state_dict().values())


def test_the_first_tensor_of_another_shape_is_named() -> None:
    asked = architecture("masked_vit")
    weights = build_network(asked).state_dict()
    first = r"architecture: expected 'mask_token' of its shape in w, \[6\], found \[8\]"
    with pytest.raises(ValueError, match=first):
        wider = asked.model.model_copy(update={"decoder_width": 8})
        refuse_other_shapes(replace(asked, model=wider), weights, "w")
    with pytest.raises(ValueError, match=r"expected 'more' of its shape in w, \[1\], found none"):
        refuse_other_shapes(asked, {**weights, "more": torch.zeros(1)}, "w")


def test_positions_without_end_are_refused_before_they_are_made() -> None:
    huge = replace(architecture("masked_vit"), shape=(4000, 6000, 5000))
    expected = r"model: expected positions and masks of the tokens of at most 268435456 bytes, got \d+ on the mesh"
    with torch.device("meta"), pytest.raises(ValueError, match=expected):
        build_network(huge)
