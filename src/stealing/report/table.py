"""The closing table: one result.json in, what a person reads out."""

from typing import Any

from rich.console import Console
from rich.table import Table

from stealing.evaluation.protocol import INFORMATIVE

SHORT = {"untrained": "untrained", "untrained_calibrated": "calibrated", "pixels": "pixels", "ssl_on_queries": "SimCLR"}


def show(result: dict[str, Any], console: Console) -> None:
    """Print a table of one run, or of the mean over several seeds of it."""
    queries, seeds = result["queries"], result["seeds"]
    title = f"{queries['spent']} images asked of {queries['budget']} allowed, cost {queries['cost']:.2f}"
    table = Table(
        title=f"{title}; seeds {', '.join(map(str, seeds))}", caption=_caption(result), caption_justify="left"
    )
    defended = _defended(result)
    last = "honest loss [95 %]" if defended else "agree (max)"
    for column in ("task (role)", "head", "TA", "SA", "SA/TA", "control C", "recovered [95 %]", last):
        table.add_column(column, no_wrap=column != "task (role)", overflow="fold")  # a long name folds, a figure stays
    for task, heads in result["tasks"].items():
        for head in heads:
            if head != "role":
                table.add_row(f"{task} ({heads['role']})", head, *_cells(heads[head], defended))
    console.print(table)


def _defended(result: dict[str, Any]) -> bool:
    return result["defense"] is not None and result["defense"]["name"] != "none"


def _cells(row: dict[str, Any], defended: bool) -> list[str]:
    name, best = max(row["controls"].items(), key=lambda item: item[1])
    gap = (row["TA_clean"] or 0.0) - best
    if row["TA_clean"] is None:
        recovered = "TA_clean unknown"
    elif row["recovered"] is None:
        recovered = "not informative"
    else:
        low, high = row["intervals"]["recovered"]
        recovered = f"{row['recovered']:.2f} [{low:.2f}, {high:.2f}]" + ("" if gap >= INFORMATIVE else " *")
    last = f"{row['agreement']:.2f} ({row['agreement_ceiling']:.2f})"
    if defended:
        low, high = (100 * bound for bound in row["intervals"]["honest_loss"])
        last = f"{100 * row['honest_loss']:+.1f} [{low:+.1f}, {high:+.1f}]"
    return [
        f"{row['TA']:.3f}",
        f"{row['SA']:.3f}",
        f"{row['ratio']:.2f}",
        f"{best:.3f} {SHORT[name]}",
        recovered,
        last,
    ]


def _caption(result: dict[str, Any]) -> str:
    likeness = ", ".join(f"{name} {value:.3f}" for name, value in result["fidelity"].items())
    if _defended(result):
        last = (
            "0.10. honest loss: TA_clean - TA in points, what customers lose by the defense "
            f"{result['defense']['name']}.\nFeatures: {likeness}."
        )
    else:
        last = (
            "0.10. agree: equal predictions of two heads, each trained on its own bootstrap sample, one on the target\n"
            f"and one on the surrogate (max: both on the target). Features: {likeness}."
        )
    return (
        "TA, SA: test accuracy on the target's and the surrogate's features. recovered = (SA - C) / (TA_clean - C),\n"
        "where the control C asked nothing: the best of raw pixels, the untrained surrogate (also with calibrated\n"
        "BatchNorm) and SimCLR on the query images. 'not informative': the target hardly beats C; *: by less than\n"
        + last
    )
