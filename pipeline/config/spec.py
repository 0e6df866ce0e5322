"""The base of every configuration record: frozen, no unknown keys, and with a stable digest."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict


class Spec(BaseModel):
    """A frozen record of the configuration; an unknown key is an error, never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def digest(self, exclude: set[str] | None = None) -> str:
        """16 hex digits over the record's content, independent of key order and formatting."""
        return digest_of(self.model_dump(mode="json", exclude=exclude))


def digest_of(content: Any) -> str:
    """16 hex digits of the BLAKE2b hash of any JSON-able content, independent of key order."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
