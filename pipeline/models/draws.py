"""Random numbers of a part of a batch: those of the whole batch, cut.

A batch is shared between processes and pieces, and its random numbers must not know. `BatchGenerator` is a
`torch.Generator` that knows the batch and which of its showers are at hand. Inside `drawing(generator)` each draw from
it whose first size is k times the showers at hand is made for the whole batch, and their rows are returned; a draw
of size () is the batch's, the same for all. Losses draw as if they had the whole batch. Draws from any other
generator, or in place, are left alone. Every part draws for all: that costs little beside a network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_DRAWS: frozenset[Any] = frozenset({torch.rand, torch.randn, torch.randint})


class BatchGenerator(torch.Generator):
    """A generator for the showers `own` of a batch of `whole`."""

    whole: int
    own: slice

    @classmethod
    def seeded(cls, device: torch.device, seed: int, whole: int, own: slice | None = None) -> BatchGenerator:
        """With a seed; by default all showers are at hand."""
        generator = cls(device)
        generator.manual_seed(seed)
        return generator.cut(whole, own or slice(0, whole))

    def cut(self, whole: int, own: slice) -> BatchGenerator:
        """The same generator, for the next batch."""
        self.whole, self.own = whole, own
        return self


def evenly(n: int, generator: torch.Generator) -> Tensor:
    """(n,) numbers in [0, 1), spread evenly over the whole batch behind one random offset."""
    offset = torch.rand((), generator=generator, device=generator.device)
    whole, first = (generator.whole, generator.own.start) if isinstance(generator, BatchGenerator) else (n, 0)
    return (torch.arange(first, first + n, device=generator.device) / whole + offset) % 1


@contextmanager
def drawing(generator: BatchGenerator) -> Iterator[None]:
    """Draws from the generator are those of the showers at hand; nothing is done where these are all."""
    if generator.own == slice(0, generator.whole):
        yield
        return
    with _Cut(generator):
        yield


class _Cut(TorchFunctionMode):
    def __init__(self, generator: BatchGenerator) -> None:
        super().__init__()
        self.generator = generator

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("generator") is not self.generator or func not in _DRAWS:
            return func(*args, **kwargs)
        before, shape = _sizes(func, args, kwargs)
        if not shape:
            return func(*args, **kwargs)
        own, whole = self.generator.own, self.generator.whole
        times, rest = divmod(shape[0], own.stop - own.start)
        if rest:
            raise ValueError(
                f"random numbers: expected a multiple of the {own.stop - own.start} showers at hand as the first size, "
                f"or the size (), got {tuple(shape)}; draw for each shower, or once for the batch"
            )
        named = {name: value for name, value in kwargs.items() if name != "size"}
        drawn = func(*before, (times * whole, *shape[1:]), **named)
        return drawn[times * own.start : times * own.stop]


def _sizes(func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[list[Any], list[int]]:
    """The arguments before the shape (the bounds of randint), and the shape, however it was given."""
    if "size" in kwargs:
        return list(args), list(kwargs["size"])
    if func is torch.randint:
        return list(args[:-1]), list(args[-1])
    shape = args[0] if args and isinstance(args[0], Sequence) else args
    return [], list(shape)
