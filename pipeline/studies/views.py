"""Which part of a shower a task shows: cells behind the recipe's geometry, and the tokens that lie in them.

In: a `TaskSpec`, a mesh of (r, phi, z) cells. Out: masks of visible cells, (n, r, phi, z) bool, and groups of showers
with equally many visible tokens. Dead blocks are drawn for each shower from a seed. It hides nothing by itself.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pipeline.config import TaskSpec
from pipeline.models.tokens import Triple, patch_grid

Mask = NDArray[np.bool_]


def visible_cells(task: TaskSpec, shape: Triple, n: int, seed: int) -> Mask:
    """(n, r, phi, z): the cells that are read out; the same number of dead blocks in each shower."""
    visible = np.ones((n, *shape), dtype=bool)
    if task.layers is not None:
        visible[..., task.layers :] = False
    if task.dead is not None and task.block is not None:
        grid = patch_grid(shape, task.block)
        blocks = int(np.prod(grid))
        dead = np.random.default_rng(seed).random((n, blocks)).argsort(axis=1) < round(task.dead * blocks)
        alive = ~dead.reshape(n, *grid)
        for axis, size in enumerate(task.block, start=1):
            alive = alive.repeat(size, axis=axis)
        visible &= alive
    return visible


def visible_tokens(visible: Mask, patch: Triple) -> Mask:
    """(n, token): tokens with a visible cell, in the order of `patchify`."""
    n, *shape = visible.shape
    grid = patch_grid((shape[0], shape[1], shape[2]), patch)
    split = visible.reshape(n, grid[0], patch[0], grid[1], patch[1], grid[2], patch[2])
    return np.asarray(split.any(axis=(2, 4, 6)).reshape(n, -1))


def groups(tokens: Mask) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Rows with equally many visible tokens (g,), and the indices of these tokens (g, V); none without a token."""
    counts = tokens.sum(axis=1)
    for count in np.unique(counts[counts > 0]):
        rows = np.flatnonzero(counts == count)
        yield rows, np.nonzero(tokens[rows])[1].reshape(len(rows), count)
