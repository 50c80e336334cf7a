"""What a theft costs beside the training of its target: run groups in; two tables out."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from stealing.report.published import RECIPES
from stealing.report.runs import RunGroup, varied_choices
from stealing.report.tables import Table

UNKNOWN = "-"

PARTS = ("surrogate", "control")
"""Networks that each run trains."""

STEPS = {"target": ("pretrain",), "surrogate": ("query", "steal"), "control": ("control",)}
"""Steps whose time counts for each network; the surrogate's time includes its queries."""

HOUR = 3600


def nominal_queries(groups: Sequence[RunGroup]) -> Table:
    """Return one row a run group: images, the queries that the ledger billed, and a recipe's.

    Publications mostly name the number of images, as if each were one query.
    """
    varied = varied_choices(groups) or ["attack"]
    records = []
    for group in groups:
        queries = group.joined["queries"]
        record = dict(zip(varied, group.options(varied), strict=True))
        record["budget"] = f"{group.budget:,}"
        record["nominal: images"] = f"{queries['images']:,}"
        record["images held"] = f"{queries.get('held', queries['images']):,}"
        record["true: billed answers"] = f"{queries['spent']:,}"
        record["queries an image"] = f"{queries['spent'] / max(1, queries['images']):.1f}"
        # An option may stand with the settings in which it differs from others.
        recipe = RECIPES.get(group.choices["attack"].split()[0])
        record["published recipe, nominal and true"] = UNKNOWN
        if recipe is not None:
            record["published recipe, nominal and true"] = f"{recipe[0]:,}; {recipe[1]:,}"
        records.append(record)
    return Table.of_records(records, key_columns=len(varied) + 1)


def compute(groups: Sequence[RunGroup]) -> Table:
    """Return one row a network that was trained: what it took, as a mean over seeds.

    The training of the target comes first, then of each run group the surrogate, with the time of
    its queries, and the control.
    """
    records = []
    targets = set[str]()
    for group in groups:
        facts = [facts_of(run.result, "target") for run in group.runs]
        target = str(group.joined["target"])
        # The same encoder stands in the table once.
        if target not in targets and facts[0] is not None:
            targets.add(target)
            records.append(record_of("training of the target", facts, None))
        for part in PARTS:
            facts = [facts_of(run.result, part) for run in group.runs]
            words = "theft" if part == "surrogate" else "its control"
            queries = group.joined["queries"] if part == "surrogate" else None
            records.append(record_of(f"{words}: {group.name}", facts, queries))
    return Table.of_records(records)


def share_of_training(groups: Sequence[RunGroup]) -> list[str]:
    """Return a sentence for each run group: the theft's cost as a share of its target's training.

    Groups whose target's training is unknown are left out.
    """
    sentences = []
    for group in groups:
        theft = _means([facts_of(run.result, "surrogate") for run in group.runs])
        target = _means([facts_of(run.result, "target") for run in group.runs])
        if not theft.get("cpu_seconds") or not target.get("cpu_seconds"):
            continue
        part = theft["cpu_seconds"] / target["cpu_seconds"]
        words = f"{group.name}: {part:.1%} of the CPU time of its target's training"
        if theft.get("forward") and target.get("forward"):
            words += f", {theft['forward'] / target['forward']:.1%} of its images"
        sentences.append(f"{words}.")
    return sentences


def facts_of(result: Mapping[str, Any], part: str) -> dict[str, Any] | None:
    """Return what a network of a run took; None for a target whose training is not known.

    Args:
        result: `result.json`, or a seed of a claim.
        part: `target`, `surrogate` or `control`.
    """
    told = result.get("compute") or {}
    facts: dict[str, Any] = dict(told.get(part) or {})
    if part == "target" and not facts:
        return None
    if part != "target":
        # A network may be of another run, and its time is then that of the fit all the same.
        for name in ("seconds", "cpu_seconds"):
            taken = result.get(name, {})
            facts[name] = sum(taken.get(step, 0.0) for step in STEPS[part])
    if part == "surrogate" and "forward" not in facts:
        # Results of earlier versions say what went forward; all of it went backward.
        facts["forward"] = facts["backward"] = result["training"]["images"]
    made = (result.get("made") or {}).get(part) or {}
    facts["gpus"] = made.get("processes", 1) if made.get("device") == "gpu" else 0
    return facts


def _means(facts: Iterable[dict[str, Any] | None]) -> dict[str, float]:
    """Return the mean over seeds of each figure that all of them have."""
    known = [one for one in facts if one is not None]
    means = dict[str, float]()
    for name in known[0] if known else ():
        values = [one.get(name) for one in known]
        if all(value is not None for value in values):
            means[name] = fmean(float(value) for value in values if value is not None)
    return means


def record_of(
    name: str, facts: Sequence[dict[str, Any] | None], queries: Mapping[str, Any] | None
) -> dict[str, str]:
    """Return the row of a network.

    Args:
        name: what it was trained for.
        facts: of each seed; see `facts_of`.
        queries: `spent` and `images` of a theft; None for a network that asks nothing.
    """
    means = _means(facts)
    hours = means.get("seconds", 0.0) / HOUR
    return {
        "what": name,
        "queries": f"{queries['spent']:,}" if queries else UNKNOWN,
        "images with an answer": f"{queries['images']:,}" if queries else UNKNOWN,
        "images forward": _count(means.get("forward")),
        "images backward": _count(means.get("backward")),
        "seconds": _count(means.get("seconds")),
        "CPU hours": f"{means.get('cpu_seconds', 0.0) / HOUR:.3f}",
        "GPU hours": f"{hours * means.get('gpus', 0):.3f}",
        "memory, GiB": f"{means['memory_gib']:.1f}" if "memory_gib" in means else UNKNOWN,
    }


def _count(number: float | None) -> str:
    return UNKNOWN if number is None else f"{number:,.0f}"
