"""The CaloChallenge's classifiers: a dense network on cells or features, a 3-D residual network on images of cells.

In: `Sides` and a `Fold`; out: calibrated scores of the test rows and the Jensen-Shannon divergence.
Sources: CaloChallenge `code/evaluate.py` (`DNN`, `train_and_evaluate_cls`, `calibrate_classifier`), `code/resnet.py`,
arXiv:2410.21611 section 4.4; the residual network's optimiser and schedule from its author's fork
(hqucms/CaloChallenge). 50 epochs of batches of 1000, binary cross-entropy; the epoch with the best accuracy on the
choosing part; isotonic calibration there. The challenge sets no seed and computes in float64; here every training has
its seed, one thread on a CPU, float32.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import log_loss
from torch import Tensor, nn
from torch.nn import functional

from pipeline.calorimeter import CylinderMesh
from pipeline.evaluation.classifier import Fold, Scored, Sides

Network = Callable[[int], nn.Module]
Optimiser = Callable[[nn.Module, int], tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]]

BATCH = 1000
EPOCHS = 50
PLANES = (32, 64, 64, 128)


# ------------------------------------------------------------------------------- networks


def dense_network(inputs: int, width: int = 2048) -> nn.Sequential:
    """inputs -> width -> width -> width -> 1 logit, leaky rectifiers in between (`DNN` with two hidden layers)."""
    sizes = [inputs, width, width, width]
    hidden = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.LeakyReLU())]
    return nn.Sequential(*hidden, nn.Linear(width, 1), nn.Flatten(0))


class ResidualBlock(nn.Module):
    """Two 3 x 3 x 3 convolutions beside a short cut, which is a 1 x 1 x 1 convolution where shapes differ."""

    def __init__(self, planes_in: int, planes: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv3d(planes_in, planes, 3, stride, 1, bias=False)
        self.second = nn.Conv3d(planes, planes, 3, 1, 1, bias=False)
        self.first_norm, self.second_norm = nn.BatchNorm3d(planes), nn.BatchNorm3d(planes)
        self.short_cut: nn.Module = nn.Identity()
        if stride != 1 or planes_in != planes:
            self.short_cut = nn.Sequential(nn.Conv3d(planes_in, planes, 1, stride, bias=False), nn.BatchNorm3d(planes))

    def forward(self, x: Tensor) -> Tensor:
        """(n, planes_in, z, phi, r) -> (n, planes, ...), halved along each axis at stride 2."""
        inner = functional.relu(self.first_norm(self.first(x)))
        return functional.relu(self.second_norm(self.second(inner)) + self.short_cut(x))


class ResidualNetwork(nn.Module):
    """The challenge's 3-D ResNet-18: a 7^3 convolution, pooling, four stages of two blocks, and log10 E_inc at the end.

    Rows of `low_features`: cells in (r, phi, z) order, then log10 E_inc; out: one logit each.
    """

    def __init__(self, mesh: CylinderMesh, planes: tuple[int, ...] = PLANES) -> None:
        super().__init__()
        self.cells = mesh.shape
        self.stem = nn.Sequential(
            nn.Conv3d(1, planes[0], 7, 2, 3, bias=False), nn.BatchNorm3d(planes[0]), nn.ReLU(), nn.MaxPool3d(3, 2, 1)
        )
        stages = zip((planes[0], *planes), planes, strict=False)
        self.stages = nn.Sequential(
            *(
                block
                for i, (a, b) in enumerate(stages)
                for block in (ResidualBlock(a, b, 1 if i == 0 else 2), ResidualBlock(b, b, 1))
            )
        )
        self.energy_norm = nn.BatchNorm1d(1)
        self.last = nn.Linear(planes[-1] + 1, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv3d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, rows: Tensor) -> Tensor:
        """(n, cells + 1) -> (n,) logits."""
        image = rows[:, :-1].reshape(-1, 1, *self.cells).permute(0, 1, 4, 3, 2)  # (n, 1, z, phi, r)
        seen = self.stages(self.stem(image)).mean(dim=(2, 3, 4))  # (n, planes)
        logits: Tensor = self.last(torch.cat([seen, self.energy_norm(rows[:, -1:])], dim=1))
        return logits.flatten()


def adam(network: nn.Module, epochs: int) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Adam at 2e-4 throughout, for the dense network."""
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-4)
    return optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, lambda epoch: 1.0)


def adamw(network: nn.Module, epochs: int) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW at 2e-4, falling to a hundredth over the last 30 % of the epochs, for the residual network."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-4, weight_decay=0.01)
    last = max(1, int(0.3 * epochs))
    fall = 0.01 ** (1 / last)
    steps = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda epoch: fall ** max(0, epoch - epochs + last + 1))
    return optimiser, steps


# ------------------------------------------------------------------------------- training


@dataclass(frozen=True)
class NetworkScorer:
    """Trains a network on one fold and scores its test part; a `Scorer`.

    network: from the number of features to a module of logits; optimiser: with its schedule, from module and epochs.
    """

    network: Network
    optimiser: Optimiser = adam
    epochs: int = EPOCHS
    batch: int = BATCH

    def __call__(self, sides: Sides, fold: Fold, seed: int) -> Scored:
        """Calibrated scores of the test rows, and the Jensen-Shannon divergence in bits, 1 - BCE / ln 2."""
        with repeatable(seed) as device:
            network = self.network(sides.reference.shape[1]).to(device)
            optimiser, schedule = self.optimiser(network, self.epochs)
            shuffle = np.random.default_rng(seed)
            best, chosen = -1.0, network.state_dict()
            for _ in range(self.epochs):
                self._epoch(network, optimiser, sides, shuffle.permutation(fold.fit), device)
                schedule.step()
                logits = self._logits(network, sides, fold.choose, device)
                accuracy = float(((logits > 0) == sides.labels(fold.choose)).mean())
                if accuracy > best:
                    best, chosen = accuracy, copy.deepcopy(network.state_dict())
                if accuracy == 1:
                    break
            network.load_state_dict(chosen)
            scores = [self._logits(network, sides, rows, device) for rows in (fold.choose, fold.test)]
        return calibrated(scores[0], sides.labels(fold.choose), scores[1], sides.labels(fold.test))

    def _epoch(
        self,
        network: nn.Module,
        optimiser: torch.optim.Optimizer,
        sides: Sides,
        order: NDArray[np.integer],
        device: torch.device,
    ) -> None:
        network.train()
        for start in range(0, len(order), self.batch):
            rows = order[start : start + self.batch]
            if len(rows) < 2:  # batch normalisation needs two
                continue
            labels = torch.from_numpy(sides.labels(rows)).to(device, torch.float32)
            loss = functional.binary_cross_entropy_with_logits(network(_features(sides, rows, device)), labels)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()

    def _logits(
        self, network: nn.Module, sides: Sides, rows: NDArray[np.integer], device: torch.device
    ) -> NDArray[np.float64]:
        network.eval()
        blocks = (rows[start : start + self.batch] for start in range(0, len(rows), self.batch))
        with torch.no_grad():
            return np.concatenate([network(_features(sides, b, device)).double().cpu().numpy() for b in blocks])


def _features(sides: Sides, rows: NDArray[np.integer], device: torch.device) -> Tensor:
    """One dense batch on the device; all others stay sparse."""
    return torch.from_numpy(sides.features(rows)).to(device)


def calibrated(
    choose: NDArray[np.float64],
    choose_labels: NDArray[np.int64],
    test: NDArray[np.float64],
    test_labels: NDArray[np.int64],
) -> Scored:
    """Test scores after isotonic regression on the choosing part, and 1 - BCE / ln 2 of them; from logits."""
    regression = IsotonicRegression(out_of_bounds="clip", y_min=1e-6, y_max=1 - 1e-6)
    regression.fit(_sigmoid(choose), choose_labels)
    scores = np.asarray(regression.predict(_sigmoid(test)), dtype=np.float64)
    return Scored(scores, 1 - float(log_loss(test_labels, scores, labels=[0, 1])) / math.log(2))


def _sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -500, 500))))


@contextmanager
def repeatable(seed: int) -> Iterator[torch.device]:
    """A seeded torch on one thread, deterministic where it can be, undone afterwards; a GPU where there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=device.type != "cpu")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            yield device
        finally:
            torch.set_num_threads(before[0])
            torch.use_deterministic_algorithms(before[1])
