"""A study of generators as a page of Markdown, written from the numbers by rule.

In: the configuration and the records of `generators`. Out: text. No sentence is written that a number did not decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.config import Config, GeneratorStudySpec
from pipeline.config.generator_study import (
    FROZEN,
    OLD_SHOWERS,
    PLATEAU,
    RESAMPLED,
    SCRATCH,
    TUNED,
    ZERO_SHOT,
)
from pipeline.studies.generators import ARMS

Record = Mapping[str, Any]
_ARMS = {
    TUNED: "fine-tuned",
    FROZEN: "blocks frozen",
    ZERO_SHOT: "zero-shot: no step",
    PLATEAU: "from scratch at its plateau",
    SCRATCH: "from scratch at equal steps",
    RESAMPLED: "the N showers resampled",
    OLD_SHOWERS: "the old detector's showers",
    "floor": "Geant4 against Geant4",
}


def summary(config: Config, found: Record) -> str:
    """The whole page."""
    study = config.generator_study
    assert study is not None  # the caller's condition
    parts = [f"# {config.experiment.replace('_', ' ')}", "", study.question, "", _setting(config, study), ""]
    parts += ["## Claims", "", _claims(found["claims"]), "", "## Found", ""]
    parts += [*(f"- {line}" for line in findings(found)), ""]
    for score in found["scores"]:
        parts += [f"## {score.replace('/', ', ')}", "", _table(found, score), ""]
    return "\n".join(parts)


def _setting(config: Config, study: GeneratorStudySpec) -> str:
    evaluation, first = config.evaluation, config.runs[f"old_seed{study.seeds[0]}"]
    assert evaluation is not None  # a generator study has one
    new = config.runs[f"scratch_x1_n{study.showers[0]}_seed{study.seeds[0]}"].training
    model = config.model_of(f"old_seed{study.seeds[0]}").name
    return "\n".join(
        [
            f"{len(study.seeds)} seeds, which share the N showers; a `{model}` trained on {first.training.samples:,} "
            f"showers seen of `{study.old}`, then on N showers of `{study.new}` for {new.samples:,} seen in batches of "
            f"{new.batch_size}; its samples are compared with {evaluation.showers} held-out showers. ± is the spread "
            "over seeds and the metric's own error, in quadrature; smaller is better.",
            f"From scratch at its plateau: the best of {', '.join(f'{k} x' for k in study.plateau)} the samples by the "
            "loss on validation showers. Zero-shot: the old weights, standardised to the N showers. The compute of the "
            "first training is not counted against fine-tuning.",
        ]
    )


def number(record: Record) -> str:
    """Mean and spread."""
    return f"{record['mean']:.3f} ± {record['spread']:.3f}"


def _claims(claims: Sequence[Record]) -> str:
    lines = ["| N | smaller | than | verdict |", "|---|---|---|---|"]
    for claim in claims:
        verdict = "holds" if claim["holds"] else "**does not hold**"
        lines.append(
            f"| {claim['showers']} | {_ARMS[claim['better']]} | {_ARMS[claim['than']]} | {verdict}: "
            f"{number(claim['ours'])} against {number(claim['theirs'])}, difference {claim['difference']:.3f}, margin "
            f"{claim['margin']:.3f} (the summed spreads) |"
        )
    return "\n".join(lines)


def findings(found: Record) -> list[str]:
    """What the numbers say, sentence by sentence."""
    holding = sum(claim["holds"] for claim in found["claims"])
    lines = [f"{holding} of {len(found['claims'])} comparisons hold."]
    lines += [_best(found, n) for n in found["showers"]]
    lines += [_saving(saving) for saving in found["savings"]]
    lines += [f"{score}: not measured, some sample has too few showers for it." for score in found["unmeasured"]]
    return [*lines, _plateau(found["plateaus"])]


def _best(found: Record, n: int) -> str:
    """The smallest value at a number of showers, of networks and of all."""
    score = found["scores"][0]
    own = [c for c in found["cells"] if (c["score"], c["showers"]) == (score, n)]
    network = min((c for c in own if c["arm"] != RESAMPLED), key=lambda c: c["mean"])
    plain = next(c for c in own if c["arm"] == RESAMPLED)
    relation = "above" if network["mean"] > plain["mean"] else "below"
    return (
        f"N = {n}: the best network is {_ARMS[network['arm']]} with {number(network)}, {relation} the {n} showers "
        f"resampled ({number(plain)})."
    )


def _saving(saving: Record) -> str:
    start = f"N = {saving['showers']}: "
    if saving["factor"] is not None:
        return (
            f"{start}fine-tuning reaches what scratch reaches with {saving['factor']:.1f} times the showers "
            f"({saving['low']:.1f} to {saving['high']:.1f} within the spread)."
        )
    if saving.get("more_than"):
        least = f"{saving['more_than']:.0f} times"
        return f"{start}scratch needs more than {least} the showers, as far as its curve goes: {saving['why']}."
    return f"{start}no factor of showers saved, since {saving['why']}."


def _plateau(plateaus: Sequence[Record]) -> str:
    """Whether the longest training was the best: then more might still help."""
    longest = max(int(k) for k in plateaus[0]["losses"])
    at_end = [p for p in plateaus if p["factor"] == longest]
    cases = f"{len(at_end)} of {len(plateaus)} cases"
    text = f"From scratch the longest training ({longest} x) has the smallest validation loss in {cases}"
    return f"{text}, where more steps might still help." if at_end else f"{text}: all reached their plateau."


def _table(found: Record, score: str) -> str:
    """Arms as rows, numbers of showers as columns; what depends on none below."""
    own = {(c["arm"], c["showers"]): c for c in found["cells"] if c["score"] == score}
    lines = [
        "| | " + " | ".join(f"N = {n}" for n in found["showers"]) + " |",
        "|---" * (1 + len(found["showers"])) + "|",
    ]
    lines += [f"| {_ARMS[arm]} | {' | '.join(number(own[arm, n]) for n in found['showers'])} |" for arm in ARMS]
    for constant in (c for c in found["constant"] if c["score"] == score):
        lines.append(f"| {_ARMS[constant['arm']]} | {number(constant)} |" + " |" * (len(found["showers"]) - 1))
    return "\n".join(lines)
