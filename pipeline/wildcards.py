"""Functions of a rule's wildcards that are called for every raw file.

Snakemake reads the signature of such a function two or three times a job, 20 µs each, which with thousands of files is
a tenth of the time until it says that nothing is to be done. In: a function of the wildcards alone. Out: the same
function with its signature at hand (PEP 362).
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, Signature
from typing import Any

_OF_WILDCARDS = Signature([Parameter("wildcards", Parameter.POSITIONAL_OR_KEYWORD)])


def of_wildcards(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The same function, of which nobody has to find out again that it takes the wildcards and nothing else."""
    function.__signature__ = _OF_WILDCARDS  # type: ignore[attr-defined]
    return function
