"""Codebooks: vectors to codes and back, with straight-through gradients.

In: vectors (..., D). Out: `Quantised` vectors of the same shape and codes (...). Two kinds:
- `LearnedCodebook`: the nearest of K vectors; these follow exponential moving averages of what is quantised to them
  (arXiv:1711.00937, appendix A.1), start at the means of k-means, and are renewed where they are not used
  (arXiv:2005.00341, section 3). All of that are buffers: a training that resumes goes on exactly.
- `FiniteScalars`: each dimension bounded and rounded to one of a few levels (arXiv:2309.15505), nothing to learn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.config import FiniteScalarsSpec, LearnedCodebookSpec
from pipeline.models.processes import from_first, summed

ITERATIONS = 10
SMALLEST_USE = 1e-6
DISTANCES = 2**24  # held at once


@dataclass(frozen=True)
class Quantised:
    """Vectors (..., D) with straight-through gradients, their codes (...), and the commitment error ()."""

    vectors: Tensor
    codes: Tensor
    commitment: Tensor


class LearnedCodebook(nn.Module):
    """K vectors of D dimensions; `uses` and `sums` are the moving averages that they are the ratio of."""

    vectors: Tensor
    uses: Tensor
    sums: Tensor
    updates: Tensor

    def __init__(self, spec: LearnedCodebookSpec) -> None:
        super().__init__()
        self.spec, self.size, self.width = spec, spec.codes, spec.width
        self.register_buffer("vectors", torch.randn(spec.codes, spec.width))
        self.register_buffer("uses", torch.ones(spec.codes))
        self.register_buffer("sums", self.vectors.clone())
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))  # the seed of what is renewed

    def forward(self, x: Tensor) -> Quantised:
        """(..., D) -> the nearest vectors; gradients of these go to x unchanged."""
        x = x.float()
        codes = self.nearest(x)  # (...)
        chosen = self.vectors[codes]  # (..., D)
        commitment = self.spec.commitment * (x - chosen).square().mean()
        return Quantised(x + (chosen - x).detach(), codes, commitment)

    def nearest(self, x: Tensor) -> Tensor:
        """(..., D) -> (...) codes."""
        squares = self.vectors.square().sum(dim=1)  # (K,)
        flat, n = x.reshape(-1, self.width), max(1, DISTANCES // self.size)
        found = [
            (squares - 2 * flat[i : i + n] @ self.vectors.T).argmin(dim=1)  # (n, K) distances up to |x|^2 -> (n,)
            for i in range(0, len(flat), n)
        ]
        return torch.cat(found).reshape(x.shape[:-1])  # (...)

    def lookup(self, codes: Tensor) -> Tensor:
        """(...) codes -> (..., D)."""
        return self.vectors[codes]

    @torch.no_grad()
    def start(self, x: Tensor, generator: torch.Generator) -> None:
        """Begin at the means of k-means over vectors (n, D)."""
        x = x.float()
        chosen = torch.randperm(len(x), generator=generator, device=generator.device)[: self.size]
        spare = torch.randint(len(x), (self.size - len(chosen),), generator=generator, device=generator.device)
        self.vectors.copy_(x[torch.cat([chosen, spare])])
        for _ in range(ITERATIONS):
            uses, sums = self._assigned(x, self.nearest(x))
            self.vectors.copy_(torch.where(uses[:, None] > 0, sums / uses[:, None].clamp_min(1), self.vectors))
        uses, _ = self._assigned(x, self.nearest(x))
        self.uses.copy_(uses / len(x) * self.size)  # one use per code on average
        self.sums.copy_(self.vectors * self.uses[:, None])

    @torch.no_grad()
    def update(self, x: Tensor, codes: Tensor) -> None:
        """Follow the vectors of a batch (..., D) and renew the codes that hardly anything is quantised to."""
        flat = x.detach().float().reshape(-1, self.width)  # (n, D)
        uses, sums = (summed(value) for value in self._assigned(flat, codes.reshape(-1)))
        scale = self.size / uses.sum()  # uses are 1 on average, whatever the batch
        self.uses.lerp_(uses * scale, 1 - self.spec.decay)
        self.sums.lerp_(sums * scale, 1 - self.spec.decay)
        dead = self.uses < self.spec.renew_below  # (K,)
        own = torch.Generator().manual_seed(int(self.updates))
        fresh = from_first(flat[torch.randint(len(flat), (self.size,), generator=own).to(flat.device)])  # (K, D)
        self.updates += 1
        self.sums.copy_(torch.where(dead[:, None], fresh, self.sums))
        self.uses.copy_(torch.where(dead, 1.0, self.uses))
        used = self.uses[:, None] > SMALLEST_USE
        self.vectors.copy_(torch.where(used, self.sums / self.uses[:, None].clamp_min(SMALLEST_USE), self.vectors))

    def _assigned(self, x: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """How many of the vectors (n, D) go to each code, (K,), and their sums, (K, D)."""
        uses = torch.zeros_like(self.uses).index_add_(0, codes, torch.ones_like(x[:, 0]))
        return uses, torch.zeros_like(self.sums).index_add_(0, codes, x)


class FiniteScalars(nn.Module):
    """prod(levels) codes of D = len(levels) dimensions."""

    levels: Tensor
    base: Tensor

    def __init__(self, spec: FiniteScalarsSpec) -> None:
        super().__init__()
        self.spec, self.width, self.size = spec, len(spec.levels), math.prod(spec.levels)
        levels = torch.tensor(spec.levels)
        self.register_buffer("levels", levels, persistent=False)
        self.register_buffer("base", torch.cat([torch.ones(1, dtype=torch.int64), levels[:-1].cumprod(0)]), False)

    def forward(self, x: Tensor) -> Quantised:
        """(..., D) -> each dimension rounded to one of its levels, in [-1, 1]; nothing is committed to."""
        bounded = self.bounded(x.float())  # (..., D)
        rounded = bounded + (bounded.round() - bounded).detach()  # (..., D)
        digits = rounded.detach().long() + self.levels // 2  # (..., D)
        return Quantised(rounded / (self.levels // 2), (digits * self.base).sum(dim=-1), bounded.new_zeros(()))

    def bounded(self, x: Tensor) -> Tensor:
        """(..., D) -> the range that rounds to exactly L levels (arXiv:2309.15505, appendix A.1)."""
        half = (self.levels - 1) * (1 + 1e-3) / 2  # (D,)
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)  # (D,)
        bounded: Tensor = (x + (offset / half).atanh()).tanh() * half - offset  # (..., D)
        return bounded

    def lookup(self, codes: Tensor) -> Tensor:
        """(...) codes -> (..., D)."""
        digits = codes[..., None] // self.base % self.levels  # (..., D)
        vectors: Tensor = (digits - self.levels // 2) / (self.levels // 2)  # (..., D)
        return vectors

    def start(self, x: Tensor, generator: torch.Generator) -> None:
        """Nothing to start."""

    def update(self, x: Tensor, codes: Tensor) -> None:
        """Nothing to follow."""


Codebook = LearnedCodebook | FiniteScalars


def build_codebook(spec: LearnedCodebookSpec | FiniteScalarsSpec) -> Codebook:
    """The codebook of a spec."""
    return LearnedCodebook(spec) if isinstance(spec, LearnedCodebookSpec) else FiniteScalars(spec)


def perplexity(codes: Tensor, size: int) -> Tensor:
    """exp of the entropy of the codes' frequencies: how many codes are in use, () between 1 and `size`."""
    share = torch.bincount(codes.reshape(-1), minlength=size).float() / codes.numel()  # (K,)
    entropy: Tensor = torch.special.entr(share).sum()  # ()
    return entropy.exp()
