"""The closing table: one result.json in, what a person reads out."""

from typing import Any

from rich.console import Console
from rich.table import Table

from stealing.evaluation.protocol import INFORMATIVE


def show(result: dict[str, Any], console: Console) -> None:
    """Print a table of one run, or of the mean over several seeds of it."""
    queries, seeds = result["queries"], result["seeds"]
    title = f"{queries['spent']} images asked of {queries['budget']} allowed, cost {queries['cost']:.2f}"
    table = Table(title=f"{title}; seeds {', '.join(map(str, seeds))}", caption=_caption(result), caption_justify="left")
    for column in ("task", "role", "head", "TA", "SA", "SA/TA", "strongest control", "recovered [95 %]", "agreement"):
        table.add_column(column, justify="left" if column in ("task", "role", "head", "strongest control") else "right")
    for task, heads in result["tasks"].items():
        for head, row in heads.items():
            if head != "role":
                table.add_row(task, heads["role"], head, *_cells(row))
    console.print(table)


def _cells(row: dict[str, Any]) -> list[str]:
    name, best = max(row["controls"].items(), key=lambda item: item[1])
    gap = (row["TA_clean"] or 0.0) - best
    if row["recovered"] is None:
        recovered = "not informative"
    else:
        low, high = row["intervals"]["recovered"]
        recovered = f"{row['recovered']:.2f} [{low:.2f}, {high:.2f}]" + ("" if gap >= INFORMATIVE else " (small gap)")
    agreement = f"{row['agreement']:.3f} of {row['agreement_ceiling']:.3f}"
    return [f"{row['TA']:.3f}", f"{row['SA']:.3f}", f"{row['ratio']:.2f}", f"{best:.3f} {name}", recovered, agreement]


def _caption(result: dict[str, Any]) -> str:
    likeness = ", ".join(f"{name} {value:.3f}" for name, value in result["fidelity"].items())
    return (
        "TA, SA: test accuracy on the target's and the surrogate's features. recovered = (SA - C) / (TA_clean - C), C the\n"
        "strongest control, which asked nothing; 'not informative' where the target hardly beats it. agreement: equal\n"
        f"predictions, of what two heads on the target itself reach. Likeness of features: {likeness}."
    )
