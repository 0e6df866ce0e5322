"""What a check found: ok, something to think of, or something that will not work, with its remedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One line of `caloforge doctor`."""

    level: Level
    what: str
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.level:4}  {self.what}: {self.text}" + (f"; {self.remedy}" if self.remedy else "")


def ok(what: str, text: str) -> Finding:
    """All is well."""
    return Finding("ok", what, text)


def warn(what: str, text: str, remedy: str) -> Finding:
    """It will work, but perhaps not as meant."""
    return Finding("warn", what, text, remedy)


def fail(what: str, text: str, remedy: str) -> Finding:
    """It will not work."""
    return Finding("fail", what, text, remedy)
