"""A ViT that learns from what it did not see (masked autoencoder, arXiv:2111.06377), and the heads of its tasks.

In: (B, r, phi, z) in network space. The encoder runs on the visible tokens alone, or on all tokens with some of them
corrupted; a small decoder predicts every patch. Out: (B, token, cell of the patch) in network space (logits of it where
`output: sigmoid`). With `detector_embedding` a vector that tells the shower's detector is added to every token of
encoder and decoder. What is hidden is drawn by `masking`; losses are taken elsewhere.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pipeline.config import MaskedViTSpec
from pipeline.config.pretraining import Fill
from pipeline.models.blocks import Block
from pipeline.models.detectors import DetectorEmbedding
from pipeline.models.tokens import Triple, patch_grid, patchify, position_table, rotary_angles

_TOKEN: frozenset[Fill] = frozenset({"token", "mixture"})
_CLIMATOLOGY: frozenset[Fill] = frozenset({"climatology", "mixture"})


class MaskedViT(nn.Module):
    """Encoder and decoder; B showers, N tokens, V visible tokens, P cells of a patch, W width, D decoder width."""

    positions: Tensor
    decoder_positions: Tensor
    angles: Tensor
    decoder_angles: Tensor
    climatology: Tensor
    empty: Tensor
    log_energy: Tensor

    def __init__(
        self, spec: MaskedViTSpec, shape: Triple, domains: int = 1, detector: DetectorEmbedding | None = None
    ) -> None:
        super().__init__()
        self.spec = spec
        self.grid = patch_grid(shape, spec.patch)
        cells = math.prod(spec.patch)
        self.tokens = math.prod(self.grid)
        self._add_positions()
        self.embed = nn.Linear(cells, spec.width)
        self.encoder = nn.ModuleList(Block(spec.width, spec.heads, spec.mlp_ratio) for _ in range(spec.depth))
        self.norm = nn.LayerNorm(spec.width)
        self.to_decoder = nn.Linear(spec.width, spec.decoder_width)
        self.mask_token = nn.Parameter(torch.zeros(spec.decoder_width))
        self.decoder = nn.ModuleList(
            Block(spec.decoder_width, spec.heads, spec.mlp_ratio) for _ in range(spec.decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(spec.decoder_width)
        self.to_cells = nn.Linear(spec.decoder_width, cells)
        self._add_for_tasks(shape, domains)
        self.detector = detector
        if detector is not None:
            self.tell = nn.Linear(detector.width, spec.width)
            self.tell_decoder = nn.Linear(detector.width, spec.decoder_width)

    def _add_positions(self) -> None:
        """Of encoder and decoder: tables that are added, and angles by which attention turns queries and keys."""
        spec, heads = self.spec, self.spec.heads
        for prefix, width in (("", spec.width), ("decoder_", spec.decoder_width)):
            if spec.positions == "learned":  # as large as the fixed ones
                table = torch.randn(self.tokens, width) * math.sqrt(0.5)
                self.register_parameter(f"{prefix}positions", nn.Parameter(table))
            else:
                fixed = position_table(self.grid, width, spec.periodic_phi) * (spec.positions != "none")
                self.register_buffer(f"{prefix}positions", fixed, persistent=False)
            if spec.rotary:
                angles = rotary_angles(self.grid, width // heads, spec.periodic_phi)
                self.register_buffer(f"{prefix}angles", angles, persistent=False)

    def _add_for_tasks(self, shape: Triple, domains: int) -> None:
        """Parameters and buffers that only some pretext tasks need."""
        width, names = self.spec.width, {task.name for task in self.spec.tasks}
        fills: set[Fill] = {task.fill for task in self.spec.tasks if hasattr(task, "fill")}
        if fills & _TOKEN:
            self.hidden_token = nn.Parameter(torch.zeros(width))
        if "replaced_tokens" in names:
            self.replaced = nn.Linear(width, 1)
        if "jigsaw" in names:
            self.jigsaw = nn.Linear(width, self.tokens)
        if "incident_energy" in names:
            self.energy = nn.Linear(width, 1)
            self.register_buffer("log_energy", torch.tensor([0.0, 1.0]))
        if fills & _CLIMATOLOGY:
            self.register_buffer("climatology", torch.zeros(domains, *shape))
        if "empty" in fills:
            self.register_buffer("empty", torch.zeros(domains, *shape))

    def told(self, domain: Tensor, unknown: Tensor | None = None) -> Tensor | None:
        """(B,) data set, (B,) whether its detector counts as unseen -> (B, E) what tells it; None if nothing does."""
        return None if self.detector is None else self.detector(domain, unknown)

    def encode(self, cells: Tensor, visible: Tensor | None = None, told: Tensor | None = None) -> Tensor:
        """(B, r, phi, z), (B, V) token indices or None for all, (B, E) detectors -> (B, V, W)."""
        return self.encode_patches(patchify(cells, self.spec.patch), visible, told=told)  # (B, V, W)

    def encode_patches(
        self, patches: Tensor, visible: Tensor | None = None, hidden: Tensor | None = None, told: Tensor | None = None
    ) -> Tensor:
        """(B, N, P), (B, V) tokens or None for all, (B, N) bool as the learned token, (B, E) detectors -> (B, V, W)."""
        positions = self.positions.expand(len(patches), -1, -1)  # (B, N, W)
        angles = self.angles if self.spec.rotary else None  # (N, W/2H)
        if visible is not None:
            patches = gather(patches, visible)  # (B, V, P)
            positions = gather(positions, visible)  # (B, V, W)
            angles = angles[visible][:, None] if angles is not None else None  # (B, 1, V, W/2H)
        embedded = self.embed(patches)  # (B, V, W)
        if hidden is not None:
            embedded = torch.where(hidden[:, :, None], self.hidden_token.to(embedded.dtype), embedded)  # (B, N, W)
        x: Tensor = embedded + positions  # (B, V, W)
        if told is not None:
            x = x + self.tell(told)[:, None]  # (B, V, W)
        for block in self.encoder:
            x = block(x, angles)  # (B, V, W)
        x = self.norm(x)  # (B, V, W)
        return x

    def forward(self, cells: Tensor, order: Tensor, visible: int, told: Tensor | None = None) -> Tensor:
        """(B, r, phi, z), (B, N) order of the tokens, the first `visible` of which are seen, (B, E) -> (B, N, P)."""
        encoded = self.to_decoder(self.encode(cells, order[:, :visible], told))  # (B, V, D)
        hidden = self.mask_token.to(encoded.dtype).expand(len(cells), self.tokens - visible, -1)  # (B, N - V, D)
        shuffled = torch.cat([encoded, hidden], dim=1)  # (B, N, D)
        return self._decode(gather(shuffled, order.argsort(dim=1)), told)  # (B, N, P)

    def restore(self, patches: Tensor, hidden: Tensor | None = None, told: Tensor | None = None) -> Tensor:
        """Corrupted (B, N, P), (B, N) bool as the learned token, (B, E) -> (B, N, P): the encoder sees every token."""
        return self._decode(self.to_decoder(self.encode_patches(patches, None, hidden, told)), told)  # (B, N, P)

    def _decode(self, x: Tensor, told: Tensor | None) -> Tensor:
        x = x + self.decoder_positions  # (B, N, D)
        if told is not None:
            x = x + self.tell_decoder(told)[:, None]  # (B, N, D)
        angles = self.decoder_angles if self.spec.rotary else None  # (N, D/2H)
        for block in self.decoder:
            x = block(x, angles)  # (B, N, D)
        cells_of_patches: Tensor = self.to_cells(self.decoder_norm(x))  # (B, N, P)
        return cells_of_patches

    @torch.no_grad()
    def fit(self, domain: int, empty: Tensor, mean: Tensor) -> None:
        """Take the network values (r, phi, z) of an empty shower and of the mean training shower of a domain."""
        if hasattr(self, "empty"):
            self.empty[domain] = empty
        if hasattr(self, "climatology"):
            self.climatology[domain] = mean

    @torch.no_grad()
    def fit_energy(self, incident_energy: Tensor) -> None:
        """Standardise log E_inc (MeV) over training showers, for the task incident_energy."""
        if hasattr(self, "log_energy"):
            log = incident_energy.double().log()
            self.log_energy.copy_(torch.stack([log.mean(), log.std(correction=0).clamp_min(0.1)]))


def gather(tokens: Tensor, index: Tensor) -> Tensor:
    """(B, N, F), (B, V) -> (B, V, F)."""
    return tokens.gather(1, index[:, :, None].expand(-1, -1, tokens.shape[2]))
