"""Training steps on one core: share of the matrix-product peak, fastest mode against fp32 eager, visible tokens alone.

All ratios come from one run, repetition by repetition. A step is forward, backward and fused AdamW of a masked ViT on
the seeds' 150 tokens of 270 cells, in the settings of a training; its operations are counted by torch (matrix products
and attention). Seconds are those of the process on one thread, after two steps of warm-up, so that compiling does not
count. The peak, a large square matrix product, is measured between the steps that it is compared with. It depends on
the instructions that the processor has: the share is also taken with both limited to AVX2. `--small` tries it all on a
tiny network. `make bench-train` writes benchmarks/results/train.json.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from measure import Case, Cost, Row, interleaved, row, write
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pipeline.config import MaskedViTSpec
from pipeline.models import Conditions
from pipeline.models.masked_vit import MaskedViT
from pipeline.training.batches import Batch
from pipeline.training.determinism import reproducible
from pipeline.training.pretexts import pretext_loss

SHAPE, PATCH = (18, 50, 45), "seeds_1x10x15"
WARM_UP, REPETITIONS = 2, 3
GEMM, PRODUCTS, ROUNDS = 1536, 4, 6
AVX2 = {"MKL_ENABLE_INSTRUCTIONS": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
Step = Callable[[], None]


def network(width: int, depth: int, fill: str = "zero", ratio: float = 0.75) -> MaskedViT:
    """A masked ViT whose encoder does nearly all of the work."""
    torch.manual_seed(0)
    return MaskedViT(
        MaskedViTSpec(
            patch=PATCH,
            width=width,
            depth=depth,
            heads=max(2, width // 48),
            mlp_ratio=4,
            decoder_width=24,
            decoder_depth=1,
            pretext=[{"name": "masked_patches", "ratio": ratio, "fill": fill}],
        ),
        SHAPE,
    )


def batch(showers: int) -> Batch:
    """Random cells: what they hold costs nothing."""
    values = torch.randn(showers, *SHAPE, generator=torch.Generator().manual_seed(1))
    ones = torch.ones(showers)
    return Batch(values, values > 0, Conditions(ones, ones, torch.zeros(showers, dtype=torch.int64), values[:, 0, 0]))


def training_step(own: MaskedViT, showers: int, mode: str) -> Step:
    """One optimiser step in a mode: eager or compile, fp32 or bf16."""
    optimiser = torch.optim.AdamW(own.parameters(), lr=1e-4, fused=True)
    data, generator = batch(showers), torch.Generator().manual_seed(2)
    if "compile" in mode:
        own.encoder = nn.ModuleList(torch.compile(block) for block in own.encoder)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled="bf16" in mode):
            loss = pretext_loss(own, data, generator)["reconstruction"]
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    return step


def seconds_per_shower(width: int, depth: int, showers: int, steps: int, mode: str, fill: str = "zero") -> float:
    """CPU seconds of a training step for each shower."""
    with reproducible(1, torch.device("cpu")):
        step = training_step(network(width, depth, fill), showers, mode)
        _repeat(step, WARM_UP)
        return _repeat(step, steps) / (steps * showers)


def share_of_peak(width: int, depth: int, showers: int, steps: int, mode: str, size: int, gflop: float) -> float:
    """Operations per second of training steps over those of square fp32 matrix products: median over turns of both."""
    with reproducible(1, torch.device("cpu")):
        step = training_step(network(width, depth), showers, mode)
        left, right = torch.randn(2, size, size)
        out = torch.empty(size, size)

        def product() -> None:
            torch.mm(left, right, out=out)

        _repeat(step, WARM_UP)
        _repeat(product, WARM_UP)
        shares = []
        for _ in range(ROUNDS):
            peak = PRODUCTS * 2 * size**3 / 1e9 / _repeat(product, PRODUCTS)
            shares.append(steps * showers * gflop / _repeat(step, steps) / peak)
    return statistics.median(shares)


def gflop_per_shower(width: int, depth: int) -> float:
    """Operations of a training step for each shower, 1e9."""
    own, few = network(width, depth), batch(2)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # others are not counted on a CPU
        pretext_loss(own, few, torch.Generator().manual_seed(2))["reconstruction"].backward()  # type: ignore[no-untyped-call]
    return counter.get_total_flops() / len(few) / 1e9


def _repeat(step: Step, repeats: int) -> float:
    start = time.process_time()
    for _ in range(repeats):
        step()
    return time.process_time() - start


def ratio(slow: Sequence[Cost], fast: Sequence[Cost]) -> float:
    """Median over repetitions of the ratio of what two cases returned."""
    return statistics.median(a.result / b.result for a, b in zip(slow, fast, strict=True))


def rows(small: bool, repetitions: int) -> list[Row]:
    """All ratios of one run."""
    narrow, wide, depth, showers, steps = (36, 48, 1, 4, 2) if small else (144, 384, 6, 32, 4)
    limits = {"eager fp32": {}, "compile fp32": {}, "eager fp32 avx2": AVX2}
    modes = ("eager fp32", "compile fp32", "eager bf16", "compile bf16")
    gflop, size = gflop_per_shower(narrow, depth), 256 if small else GEMM
    cases = {
        f"narrow {mode}": Case(share_of_peak, (narrow, depth, showers, steps, mode, size, gflop), limit)
        for mode, limit in limits.items()
    }
    cases |= {f"wide {m}": Case(seconds_per_shower, (wide, depth, max(2, showers // 4), steps, m)) for m in modes}
    for fill in ("drop", "zero"):
        cases[fill] = Case(seconds_per_shower, (narrow, depth, showers, steps, "eager fp32", fill))
    costs = interleaved(cases, repetitions)
    what = f"d{narrow} L{depth}, 150 tokens, one core"
    shares = {m: statistics.median(cost.result for cost in costs[f"narrow {m}"]) for m in limits}
    best = {m: ratio(costs["wide eager fp32"], costs[f"wide {m}"]) for m in modes}
    top = max(share for m, share in shares.items() if not limits[m])
    made = [row("train_d144_share_of_gemm_peak", top, "1", "fp32 GEMM", what, repetitions)]
    made += [
        row(f"train_d144_share_{m.replace(' ', '_')}", s, "1", "fp32 GEMM", what, repetitions)
        for m, s in shares.items()
    ]
    wide_what = f"d{wide} L{depth}, 150 tokens, one core"
    made.append(row("train_d384_best_vs_eager_fp32", max(best.values()), "x", "eager fp32", wide_what, repetitions))
    made += [
        row(f"train_d384_{m.replace(' ', '_')}", x, "x", "eager fp32", wide_what, repetitions) for m, x in best.items()
    ]
    visible = ratio(costs["zero"], costs["drop"])
    made.append(row("masked_visible_only_speedup", visible, "x", "all tokens", f"{what}, ratio .75", repetitions))
    return made


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a tiny network, for a try; writes train_small.json")
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    options = parser.parse_args()
    write("train_small" if options.small else "train", rows(options.small, options.repetitions))


if __name__ == "__main__":
    torch.set_num_threads(1)
    assert Path("benchmarks").is_dir(), "start it in the repository's root"
    main()
