"""What the record of a network asks for, known before any memory is taken for it.

In: an `Architecture`, which may be somebody else's, and how many tensors are beside it. Out: the shapes of all tensors
that the network saves, by name. It is built on torch's device `meta`, where a tensor has a shape and no memory; a depth
without end is stopped by counting. Reads no weights, and does not say that a network fits the machine.
"""

from __future__ import annotations

import torch
from torch.nn.modules.module import register_module_parameter_registration_hook

from pipeline.models.architecture import Architecture, build_network

SPARE = 2  # a network may build parts and drop them


def saved_shapes(architecture: Architecture, tensors: int) -> dict[str, tuple[int, ...]]:
    """Name -> shape; ValueError where there are by far more than so many `tensors`, or `build_network` refuses it."""
    found = 0

    def counted(*_: object) -> None:
        nonlocal found
        found += 1
        if found > SPARE * tensors:
            raise ValueError(f"architecture: expected a network of {tensors} tensors, found one of more; take its own")

    hook = register_module_parameter_registration_hook(counted)
    try:
        with torch.device("meta"):
            network = build_network(architecture)
    except (RuntimeError, TypeError) as error:  # numbers that cannot be counted with, or are none
        reason = str(error).splitlines()[0]
        raise ValueError(f"architecture: expected the sizes of a network, got {reason}; take its own record") from None
    finally:
        hook.remove()
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def refuse_other_shapes(architecture: Architecture, weights: dict[str, torch.Tensor], where: str) -> None:
    """ValueError with the first tensor that has another shape among the `weights`, which lie in the file `where`."""
    expected = {name: tuple(value.shape) for name, value in weights.items()}
    found = saved_shapes(architecture, len(weights))
    for name in [*found, *expected]:
        if found.get(name) != expected.get(name):
            own, other = (f"{list(of[name])}" if name in of else "none" for of in (expected, found))
            raise ValueError(f"architecture: expected '{name}' of its shape in {where}, {own}, found {other}")
