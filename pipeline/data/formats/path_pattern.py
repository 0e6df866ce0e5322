"""What a raw file's path says of it, by the `path_pattern` of the data set's YAML.

In: a path, and a pattern of plain text and fields in braces, such as `{detector}/{detector}_angle_{angle_deg}.h5`.
Out: the fields as facts, in the units of their names. The pattern may match anywhere in the path, so folders
count; a field named twice must read the same twice. It replaces no attribute: a file that says something else
of itself is refused by `claims`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.config import DatasetSpec
from pipeline.data.formats.reader import FormatError

PARTICLES = {"electron": "e-", "positron": "e+", "photon": "gamma", "pion": "pi+"}
"""Names in words, of paths and of binning files; "pion" is the charged pion of CaloChallenge's data set 1."""

_FIELD = re.compile(r"\{(\w+)\}")
_NUMBER = r"\d+(?:\.\d+)?"
_PARTICLE = "|".join(re.escape(name) for name in ("e-", "e+", "gamma", "pi+", "pi-", *PARTICLES))


def path_facts(path: Path, spec: DatasetSpec) -> dict[str, Any]:
    """The fields that the path names: detector, particle (text), angle_deg, energy_gev (numbers).

    Empty without a pattern. Raises `FormatError` when the path does not fit the pattern.
    """
    if spec.path_pattern is None:
        return {}
    match = _compiled(spec.path_pattern, spec.detector).search(path.as_posix())
    if match is None:
        raise FormatError(
            f"{path}: path: expected one that fits `path_pattern: {spec.path_pattern}`, found {path.name}; "
            "correct the pattern or take the file out of `files:`"
        )
    return {key: _value(key, text) for key, text in match.groupdict().items()}


def _value(key: str, text: str) -> Any:
    if key in ("angle_deg", "energy_gev"):
        return float(text)
    return PARTICLES.get(text, text) if key == "particle" else text


@lru_cache
def _compiled(pattern: str, detector: str) -> re.Pattern[str]:
    """The pattern as a regular expression: a field's first place captures, later ones repeat it.

    A detector is a word of letters, digits and hyphens, or the data set's own name whatever it is made of.
    """
    fields = {
        "detector": rf"(?:{re.escape(detector)}|[A-Za-z0-9-]+)",
        "particle": f"(?:{_PARTICLE})",
        "angle_deg": _NUMBER,
        "energy_gev": _NUMBER,
    }
    expression = ""
    seen: set[str] = set()
    pieces = _FIELD.split(pattern)
    for i, piece in enumerate(pieces):
        if i % 2 == 0:
            expression += re.escape(piece)
        elif piece in seen:
            expression += f"(?P={piece})"
        else:
            last = i == len(pieces) - 2 and not pieces[-1]
            expression += f"(?P<{piece}>{fields[piece]})" + ("(?![A-Za-z0-9])" if last else "")
            seen.add(piece)
    return re.compile(expression)
