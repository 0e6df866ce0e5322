"""The reference of all configuration keys, made from the specs themselves: explanations and config/README.md."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.config import Config, ConfigError

_HEAD = """# Configuration

One YAML file is one experiment. `caloforge config check FILE` validates it with all errors at once,
`caloforge config explain KEY` explains a key, `caloforge config schema` prints the JSON schema.
This page is made by `caloforge config reference`; `<name>` stands for a name of your choice.

| file | what it is |
|---|---|
| `config.yaml` | the demo: real Geant4 showers, minutes on two cores |
| `test.yaml` | the whole pipeline on parametric showers, for tests |
| `experiments/full.yaml` | both detectors on the full mesh, for a GPU |
| `experiments/front.yaml` | the families of generators on the same Geant4 showers: quality against time |
| `experiments/data_efficiency.yaml` | few labels, with a pre-trained encoder and without; more in docs/studies.md |
| `experiments/perturbations.yaml` | what each metric sees of known faults; trains nothing |

| key | type | default | meaning |
|---|---|---|---|
"""


def as_markdown() -> str:
    """The reference table of all keys."""
    rows = [f"| `{key}` | {kind} | {default} | {meaning} |" for key, kind, default, meaning in _keys()]
    return _HEAD + "\n".join(rows) + "\n"


def explain(key: str) -> str:
    """The keys at or below `key`; ConfigError when there is none.

    Names of your own and choices (a step, a model) may be named or left out: `preprocessing.log`, `runs.mine.model`.
    """
    wanted = [part for part in key.split(".") if part]
    keys = list(_keys())
    found = [row for row in keys if _is_below(row[0].split("."), wanted)]
    found = found or [row for row in keys if _is_below(row[0].split("."), wanted, own_names=True)]
    lines = [
        f"{name}: {kind}" + (f" (default {default})" if default else "") + (f"\n    {meaning}" if meaning else "")
        for name, kind, default, meaning in found
    ]
    if not lines:
        raise ConfigError(
            f"explain {key}: expected a key of the configuration, got none like it; "
            "`caloforge config explain` lists all"
        )
    return "\n".join(lines)


def _is_below(parts: list[str], wanted: list[str], own_names: bool = False) -> bool:
    """Whether the key of these parts is the wanted one or below it; parts in <> may be named or skipped."""
    if not wanted or not parts:
        return not wanted
    named = parts[0] in (wanted[0], f"<{wanted[0]}>") or (own_names and len(wanted) > 1 and parts[0] == "<name>")
    if named and _is_below(parts[1:], wanted[1:], own_names):
        return True
    return parts[0].startswith("<") and _is_below(parts[1:], wanted, own_names)


def _keys() -> Iterator[tuple[str, str, str, str]]:
    schema = Config.model_json_schema()
    yield from _properties(schema, schema, "")


def _properties(schema: dict[str, Any], root: dict[str, Any], prefix: str) -> Iterator[tuple[str, str, str, str]]:
    required = set(schema.get("required", ()))
    for name, entry in schema.get("properties", {}).items():
        if name == "version" or name.endswith("_version") or entry.get("type") == "null":
            continue
        key = f"{prefix}{name}"
        target, kind = _resolved(entry, root)
        default = "required" if name in required else _shown(entry.get("default"))
        yield key, kind, default, (entry.get("description") or _first_line(target)).replace("|", "or")
        yield from _below(target, root, key)


def _below(target: dict[str, Any], root: dict[str, Any], key: str) -> Iterator[tuple[str, str, str, str]]:
    if "properties" in target:
        yield from _properties(target, root, f"{key}.")
    elif isinstance(target.get("additionalProperties"), dict):
        inner, kind = _resolved(target["additionalProperties"], root)
        yield f"{key}.<name>", kind, "", _first_line(inner)
        steps = inner.get("properties", {}).get("steps", {})
        if "items" in steps:  # a recipe is written as the list of its steps
            yield from _variants(steps["items"], root, f"{key}.<name>.")
        else:
            yield from _below(inner, root, f"{key}.<name>")
    elif "discriminator" in target:
        yield from _variants(target, root, f"{key}.")
    elif "discriminator" in target.get("items", {}):
        yield from _variants(target["items"], root, f"{key}.")
    elif "oneOf" in target:  # told apart by their keys, as samples are
        for variant in target["oneOf"]:
            inner, kind = _resolved(variant, root)
            yield key, f"one {kind}", "", _first_line(inner)
            yield from _properties(inner, root, f"{key}.")


def _variants(union: dict[str, Any], root: dict[str, Any], prefix: str) -> Iterator[tuple[str, str, str, str]]:
    for name, reference in union["discriminator"]["mapping"].items():
        target = root["$defs"][reference.rpartition("/")[2]]
        yield f"{prefix}<{name}>", "choice", "", _first_line(target)
        fields = {k: v for k, v in target["properties"].items() if k != "name"}
        yield from _properties({**target, "properties": fields}, root, f"{prefix}<{name}>.")


def _resolved(entry: dict[str, Any], root: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The schema that an entry stands for (through $ref and optional), and its type in words."""
    options = [o for o in entry.get("anyOf", [entry]) if o.get("type") != "null"]
    target = options[0]
    if "$ref" in target:
        target = root["$defs"][target["$ref"].rpartition("/")[2]]
    if "enum" in target:
        return target, ", ".join(map(str, target["enum"]))
    if "const" in target:
        return target, str(target["const"])
    return target, str(target.get("type", "choice")).replace("object", "section")


def _shown(default: Any) -> str:
    if default is None or isinstance(default, dict):
        return ""
    text = str(default)
    return f"`{text}`" if len(text) < 60 else "all"


def _first_line(schema: dict[str, Any]) -> str:
    return str(schema.get("description", "")).split("\n\n")[0].replace("\n", " ").replace("|", "or")
