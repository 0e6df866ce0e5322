"""A study as a page of Markdown: what was asked, with what, and what was found, written from the numbers by rule.

In: the configuration and the records of `verdicts`. Out: text. No sentence is written that a number did not decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.config import Config
from pipeline.config.study import BASELINES, SCRATCH, TUNED, WITH_CELL_SUM, StudySpec, TaskSpec

Record = Mapping[str, Any]
_ARMS = {
    "pretrained": "pre-trained, frozen",
    "shuffled": "pre-trained on permuted cells, frozen",
    "random": "random, frozen",
    "scratch": "trained from scratch on the labels",
    "fine_tuned": "pre-trained, fine-tuned on the labels",
    "zero_shot": "pre-trained, head from the other data set's labels",
    "cell_sum": "line in ln E_vis",
    "corrected_sum": "line in ln E_vis and the visible share of a mean shower",
    "features": "hand-made features, linear",
    "boosted_features": "hand-made features, boosted trees",
}
_RULES = {"summed_spreads": "the summed spreads", "larger_spread": "the larger spread"}


def summary(config: Config, metrics: Record) -> str:
    """The whole page."""
    study = config.study
    assert study is not None  # the rule's condition
    parts = [f"# {config.experiment.replace('_', ' ')}", "", study.question, "", _setting(config, study), ""]
    if metrics["claims"]:
        parts += ["## Claims", "", _claims(study, metrics["claims"]), ""]
    parts += ["## Found", "", *(f"- {line}" for line in findings(study, metrics)), ""]
    for name, task in study.tasks.items():
        parts += [f"## {name}: {described(task)}", "", _table(study, metrics["cells"], name), ""]
    return "\n".join(parts)


def described(task: TaskSpec) -> str:
    """A task in words."""
    limits = [f"the first {task.layers} layers behind the recipe"] if task.layers else []
    limits += [f"{task.dead:.0%} of the blocks dead"] if task.dead else []
    return f"incident energy from {' with '.join(limits) or 'the whole shower'}"


def arm_name(arm: str) -> str:
    """An arm as a reader sees it."""
    plain = arm.removesuffix(WITH_CELL_SUM)
    return _ARMS.get(plain, plain) + (", with ln E_vis" if plain != arm else "")


def percent(mean: float, spread: float) -> str:
    """Mean and spread of a relative error in %, with the digits that the spread allows."""
    digits = 2 if spread < 0.001 else 1
    return f"{100 * mean:.{digits}f} ± {100 * spread:.{digits}f}"


def _with_spread(cell: Record) -> str:
    """Mean and spread in %; of a single value the mean alone."""
    return percent(cell["mean"], cell["spread"]) if cell["n"] > 1 else f"{100 * cell['mean']:.1f}"


def _setting(config: Config, study: StudySpec) -> str:
    runs = [config.runs[name] for name in study.encoders()]
    samples = sorted({run.training.samples for run in runs})
    data = sorted({d for run in runs for d in run.data})
    recipe = config.preprocessing[runs[0].recipe]
    mesh = recipe.mesh_after(config.raw_mesh(study.data)).cells
    lines = [
        f"{len(study.seeds)} encoder seeds x {study.subsets} subsets of labelled showers; ridge, rates and steps are "
        f"chosen on {study.validation} validation showers, errors are the RMS of (predicted - true) / true in % on "
        f"{study.test} test showers of `{study.data}`; ± is the standard deviation over seeds and subsets.",
        f"Encoders: {len(runs)} runs of {' or '.join(f'{n:,}' for n in samples)} showers seen, data "
        f"{', '.join(f'`{d}`' for d in data)}, mesh {' x '.join(map(str, mesh))} behind the recipe.",
    ]
    if study.from_labels:
        spec = study.from_labels
        rates = ", ".join(f"{rate:g}" for rate in spec.rates)
        lines.append(
            f"Trained on labels: {spec.steps} steps at each of the rates {rates}; rate and step by validation."
        )
    return "\n".join(lines)


# ---------------------------------------------------------------------------------------- sentences


def verdict(study: StudySpec, claim: Record) -> str:
    """Whether a claim holds, with its numbers."""
    rule = _RULES[claim["rule"]] if claim["factor"] == 1 else f"{claim['factor']:g} x {_RULES[claim['rule']]}"
    sides = [_with_spread(claim[side]) for side in ("ours", "theirs")]
    pair = claim["paired"]
    return (
        f"{'holds' if claim['holds'] else '**does not hold**'}: {sides[0]} against {sides[1]}, difference "
        f"{100 * claim['difference']:.1f}, margin {100 * claim['margin']:.1f} ({rule}); subset by subset "
        f"{_with_spread(pair)}"
    )


def _claims(study: StudySpec, claims: Sequence[Record]) -> str:
    head = ["| task | labels | smaller error | than | verdict |", "|---|---|---|---|---|"]
    return "\n".join(
        head
        + [
            f"| {c['task']} | {c['labels']} | {_named(study, c['better'])} | {_named(study, c['than'])} | "
            f"{verdict(study, c)} |"
            for c in claims
        ]
    )


def _named(study: StudySpec, name: str) -> str:
    point, slash, arm = name.rpartition("/")
    return f"{arm_name(arm)} ({study.label_of(point)})" if slash else arm_name(arm)


def findings(study: StudySpec, metrics: Record) -> list[str]:
    """What the numbers say, sentence by sentence."""
    return [
        *_claim_count(metrics),
        *_gain_sentences(study, metrics),
        *_ranking_sentences(study, metrics),
        *_power_laws(metrics),
        *_best_baseline(study, metrics),
        *_plateaus(study, metrics),
    ]


def _claim_count(metrics: Record) -> list[str]:
    claims = metrics["claims"]
    if not claims:
        return []
    holding = sum(claim["holds"] for claim in claims)
    return [f"{holding} of {len(claims)} comparisons named in the configuration hold."]


def _gain_sentences(study: StudySpec, metrics: Record) -> list[str]:
    """True minus shuffled at each task: the number of settings in which it is more than its spread over seeds."""
    found = []
    for task in study.tasks:
        own = [g for g in metrics["gains"] if g["task"] == task and g["mean"] is not None]
        if not own:
            continue
        clear = [g for g in own if g["mean"] > g["seed_spread"]]
        against = [g for g in own if -g["mean"] > g["seed_spread"]]
        largest = max(own, key=lambda g: g["mean"])
        where = f" at {study.label_of(largest['point'])}" if len(study.points) > 1 else ""
        text = (
            f"{task}: shuffled minus true pre-training is positive by more than its spread over seeds "
            f"in {len(clear)} of {len(own)} settings"
        )
        text += f", and negative by more than it in {len(against)}" if against else ""
        largest_text = percent(largest["mean"], largest["seed_spread"])
        found.append(f"{text}; the largest is {largest_text} points ({largest['labels']} labels{where}).")
    return found


def _ranking_sentences(study: StudySpec, metrics: Record) -> list[str]:
    found = []
    for rank in metrics["ranking"]:
        best, worst = rank["best"], rank["worst"]
        start = f"{rank['task']}, {rank['labels']} labels: "
        if len(rank["equal"]) == rank["points"] - 1:
            spread = f"{100 * best['mean']:.1f} to {100 * worst['mean']:.1f}"
            found.append(f"{start}no point can be told from the best one by the spread over seeds ({spread}).")
            continue
        equal = ", ".join(study.label_of(point) for point in rank["equal"])
        tied = f" (not told apart from it: {equal})" if equal else ""
        found.append(
            f"{start}best at {study.label_of(best['point'])} with {percent(best['mean'], best['seed_spread'])}{tied}, "
            f"worst at {study.label_of(worst['point'])} with {percent(worst['mean'], worst['seed_spread'])}."
        )
    return found


def _power_laws(metrics: Record) -> list[str]:
    found = []
    for law in metrics["power_laws"]:
        terms = [f"{name}^({e['mean']:+.3f} ± {e['spread']:.3f})" for name, e in law["exponents"].items()]
        clear = [name for name, e in law["exponents"].items() if e["mean"] < -2 * e["spread"]]
        verdict = f"falls with {' and '.join(clear)} beyond twice the spread" if clear else "does not clearly fall"
        found.append(
            f"{law['task']}, {law['labels']} labels: error ~ {' '.join(terms)} over {law['seeds']} seeds: it {verdict}."
        )
    return found


def _best_baseline(study: StudySpec, metrics: Record) -> list[str]:
    """At each task and number of labels, the best arm of all, and the best one without pre-training."""
    found = []
    for task in study.tasks:
        for n in study.labels:
            own = [c for c in metrics["cells"] if (c["task"], c["labels"]) == (task, n)]
            plain = [c for c in own if c["arm"].removesuffix(WITH_CELL_SUM) in (*BASELINES, SCRATCH, "random")]
            if not own or not plain:
                continue
            best, other = (min(some, key=lambda c: c["mean"]) for some in (own, plain))
            with_other = f"; without pre-training: {_told(study, other)}" if other is not best else ""
            found.append(f"{task}, {n} labels: smallest error {_told(study, best)}{with_other}.")
    return found


def _told(study: StudySpec, cell: Record) -> str:
    where = f" ({study.label_of(cell['point'])})" if cell["point"] and len(study.points) > 1 else ""
    return f"{_with_spread(cell)} by {arm_name(cell['arm'])}{where}"


def _plateaus(study: StudySpec, metrics: Record) -> list[str]:
    return [
        f"{cell['task']}, {cell['labels']} labels, {arm_name(cell['arm'])}: in {1 - cell['plateau']:.0%} of "
        f"{cell['n']} trainings the best step lies in the last tenth, so that more steps might still help."
        for cell in metrics["cells"]
        if cell["arm"] in (SCRATCH, TUNED) and cell.get("plateau", 1) < 1
    ]


# ------------------------------------------------------------------------------------------- tables


def _table(study: StudySpec, cells: Sequence[Record], task: str) -> str:
    """Arms (and points) as rows, numbers of labels as columns."""
    own = {(c["point"], c["arm"], c["labels"]): c for c in cells if c["task"] == task}
    lines = [f"| encoder | {study.axis or 'point'} | " + " | ".join(f"{n} labels" for n in study.labels) + " |"]
    lines.append("|---" * (2 + len(study.labels)) + "|")
    for point, arm in dict.fromkeys((c["point"], c["arm"]) for c in cells if c["task"] == task):
        numbers = [own.get((point, arm, n)) for n in study.labels]
        shown = [_with_spread(c) if c else "" for c in numbers]
        lines.append(f"| {arm_name(arm)} | {study.label_of(point) if point else ''} | {' | '.join(shown)} |")
    return "\n".join(lines)
