"""One training over several processes: who they are, how a loss is spread over them, and how its state is gathered.

In: a network, a loss that knows of no processes, and what torchrun says in the environment (RANK, WORLD_SIZE,
LOCAL_RANK). Out: the same loss as a module whose gradients are means over all processes; each holds the whole network
(DistributedDataParallel) or a share of every block (FSDP2, `fully_shard`). `whole` gives a state as one process would
have it, so a checkpoint does not know how many wrote it. One process needs none of this and pays nothing for it.
Blocks are the members of a network's outermost ModuleLists; they are called, not reached into.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from torch.utils.checkpoint import checkpoint

from pipeline.config import ParallelSpec

_TIMEOUT = datetime.timedelta(minutes=10)  # how long a process waits for the others before it fails
# The last group joined. torch ends a group's threads without Python's lock only where Python lets go of it last; where
# the reducer of a network does, a thread that lets go of a tensor then waits for that lock for ever (torch 2.13, gloo).
_GROUP: list[Any] = []


@dataclass(frozen=True)
class Ranks:
    """This process among those of one training."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def share(self, n: int) -> slice:
        """This process's showers of n, as equal as can be."""
        return slice(n * self.rank // self.world, n * (self.rank + 1) // self.world)

    def total(self, numbers: Sequence[float]) -> list[float]:
        """The sums of the processes' numbers, the same to the bit everywhere."""
        return self._reduced(numbers, "SUM")

    def largest(self, number: float) -> float:
        """The largest of the processes' numbers."""
        return self._reduced([number], "MAX")[0]

    def _reduced(self, numbers: Sequence[float], how: str) -> list[float]:
        if self.world == 1:
            return list(numbers)
        from torch import distributed

        values = torch.tensor(numbers, dtype=torch.float64)  # on the CPU: a GPU goes on meanwhile
        distributed.all_reduce(values, getattr(distributed.ReduceOp, how))
        found: list[float] = values.tolist()
        return found


@contextmanager
def ranks(device: torch.device) -> Iterator[Ranks]:
    """Join the processes that torchrun started, each on its own GPU; without torchrun there is one."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Ranks()
        return
    from torch import distributed

    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=_TIMEOUT)
    _GROUP[:] = [distributed.group.WORLD]
    try:
        yield Ranks(int(os.environ["RANK"]), world)
    finally:
        distributed.destroy_process_group()


# ------------------------------------------------------------------------------ the spread loss

Loss = Callable[..., dict[str, Tensor]]


class SpreadLoss(nn.Module):
    """A loss of a network as a module, so that a call of it is the beginning and the end of one forward pass."""

    def __init__(self, network: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.network, self.loss = network, loss

    def forward(self, *batch: Any) -> dict[str, Tensor]:
        """The named terms, means over the showers at hand."""
        return self.loss(self.network, *batch)


def spread(
    network: nn.Module, loss: Loss, spec: ParallelSpec, ranks: Ranks, device: torch.device, unused: bool = False
) -> nn.Module:
    """The loss as a module whose gradients are means over all processes; with fsdp the network is sharded in place.

    unused: some parameters take no part in the loss, as `unused_parameters` finds.
    """
    module: nn.Module = SpreadLoss(network, loss)
    if ranks.world > 1 and spec.strategy == "fsdp":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(device.type, (ranks.world,))
        for block in blocks(network):
            fully_shard(block, mesh=mesh)
        fully_shard(module, mesh=mesh)
    elif ranks.world > 1 and any(p.requires_grad for p in network.parameters()):
        from torch.nn.parallel import DistributedDataParallel

        module = DistributedDataParallel(
            module, broadcast_buffers=False, find_unused_parameters=unused, gradient_as_bucket_view=True
        )
    return module


def piece(module: nn.Module, last: bool) -> AbstractContextManager[None]:
    """One piece of a process's share: gradients add up here, and are exchanged behind the last one."""
    if hasattr(module, "set_requires_gradient_sync"):
        module.set_requires_gradient_sync(last)  # type: ignore[operator]
    elif hasattr(module, "no_sync") and not last:
        context: AbstractContextManager[None] = module.no_sync()  # type: ignore[operator]
        return context
    return nullcontext()


def blocks(network: nn.Module) -> list[nn.Module]:
    """The repeated parts of a network: what is sharded, computed again, or compiled one by one."""
    found: list[nn.Module] = []
    for child in network.children():
        found += list(child) if isinstance(child, nn.ModuleList) else blocks(child)
    return found


def prepare_blocks(network: nn.Module, spec: ParallelSpec) -> None:
    """Compile the blocks, and compute their activations twice, where asked; names of parameters stay."""
    for block in blocks(network):
        if spec.compile:
            block.forward = _compiled(block.forward)
        if spec.recompute:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)


def _compiled(forward: Callable[..., Any]) -> Callable[..., Any]:
    compiled = torch.compile(forward, dynamic=False)

    def call(*args: Any) -> Any:
        with torch._C.DisableTorchFunction():  # what cuts random numbers (see draws) has no business in a block
            return compiled(*args)

    return call


# ------------------------------------------------------------------------------ state, gathered


def whole(state: Any, keep: bool = True) -> Any:
    """A copy on the CPU of a (nested) state, gathered from all processes, which must all ask; None where not kept."""

    def copied(value: Tensor) -> Tensor | None:
        full = value.full_tensor() if hasattr(value, "full_tensor") else value
        return full.detach().to("cpu", copy=True) if keep else None

    return tree_map_only(Tensor, copied, state)


def load_network(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a whole state, of which each process takes its share."""
    own = network.state_dict()
    network.load_state_dict({name: shared_like(value, own.get(name)) for name, value in state.items()})


def load_optimiser(optimiser: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load a whole state, of which each process takes its share."""
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    shared = {
        index: {name: shared_like(value, parameters[index]) for name, value in moments.items()}
        for index, moments in state["state"].items()
    }
    optimiser.load_state_dict({**state, "state": shared})


def shared_like(value: Any, like: Tensor | None) -> Any:
    """This process's share of a whole tensor, cut as `like` is; what is not cut stays."""
    if not hasattr(like, "placements") or not isinstance(value, Tensor) or value.shape != like.shape:  # type: ignore[union-attr]
        return value
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = like.device_mesh, like.placements  # type: ignore[union-attr]
    return distribute_tensor(value.to(like.device), mesh, placements, src_data_rank=None)  # type: ignore[union-attr]


def local(parameters: Iterator[nn.Parameter]) -> list[Tensor]:
    """The numbers that this process holds."""
    return [p.to_local() if hasattr(p, "to_local") else p for p in parameters]
