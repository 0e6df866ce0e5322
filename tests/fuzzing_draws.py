"""What the targets of `fuzzing.py` draw: odd values, their places in a document, and documents that were changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import Any

from hypothesis import strategies as st

Draw = Callable[[Any], Any]
NUMBERS = st.sampled_from([0, -1, 1, 2**31, 2**63, -(2**63), 1e308, -0.0, 1e-320, float("nan"), float("inf")])
ODD: Any = st.one_of(
    st.none(),
    st.booleans(),
    NUMBERS,
    st.text(max_size=8),
    st.sampled_from(["../../x", "/etc/passwd", "$HOME", "~root", "*", "\x00", "a" * 300, "!!python/none"]),
    st.lists(st.integers(-2, 2), max_size=3),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
)


class WrongAcceptance(AssertionError):
    """Something was read that must not be."""


def sections(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The places of all values, dictionaries and lists included."""
    found = [path] if path else []
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        found += sections(value, (*path, key))
    return found


def at(content: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        content = content[key]
    return content


def mutated(text: bytes, draw: Draw, but: Collection[str] = ()) -> bytes:
    """JSON with an odd value at some place, or broken; values below the keys `but` are left alone."""
    how = draw(st.sampled_from(["value", "missing", "cut", "bytes"]))
    if how == "cut":
        return text[: draw(st.integers(0, len(text) - 1))]
    if how == "bytes":
        broken = bytearray(text)
        broken[draw(st.integers(0, len(text) - 1))] = draw(st.integers(0, 255))
        return bytes(broken)
    content = json.loads(text)
    path = draw(st.sampled_from([place for place in sections(content) if place[0] not in but]))
    if how == "value":
        at(content, path[:-1])[path[-1]] = draw(ODD)
    else:
        del at(content, path[:-1])[path[-1]]
    return json.dumps(content).encode()
