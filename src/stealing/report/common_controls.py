"""Stored results held against common controls: results of one attack and scene in; the same with other shares out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from stealing.errors import DataError
from stealing.evaluation.statistics import control_accuracy


def check_scene(results: list[dict[str, Any]], head: str) -> None:
    """Refuse results that no frontier can be drawn of.

    Raises:
        DataError: they are of several scenes or protocols, none is undefended, or a share is unknown.
    """
    scenes = {
        (result["protocol_hash"], *sorted((name, of) for name, of in result["data"].items() if name != "asked"))
        for result in results
    }
    if len(scenes) != 1:
        raise DataError(
            "The results of a frontier are of several protocols or data sets: move those of an earlier version "
            "elsewhere, and measure them again."
        )
    if all(result["cell"]["defense"] != "none" for result in results):
        raise DataError("A frontier needs the cell without a defense: measure defense=none too.")
    if any(result["overall"][head]["recovered"] is None for result in results):
        raise DataError("A frontier needs a task on which the target beats all controls: add one to data.tasks.")


def on_common_controls(results: list[dict[str, Any]], head: str = "linear") -> list[dict[str, Any]]:
    """Results of one attack, held against the controls of the one with most images, as runs of a report are.

    Stored cells hold figures alone, so other controls take the place of an attack's own by arithmetic.

    Args:
        results: of one scene, budget and seed; see `points`.
        head: of the accuracies.
    """
    check_scene(results, head)
    most = max(results, key=lambda result: int(result["queries"]["images"]))
    rebased = []
    for result in results:
        figures = result["overall"][head]
        on_test = _Controls.of(result, most, head, figures["informative"], "test")
        on_train = _Controls.of(result, most, head, figures["informative"], "held")
        roles = dict[str, Any]()
        for role, of in figures["roles"].items():
            roles[role] = of
            if of["recovered"] is not None:
                same = _Controls.of(result, most, head, of["tasks"], "test")
                roles[role] = {**of, "recovered": same.rebase(of["recovered"])}
        bounds = [on_test.rebase(bound) for bound in figures["intervals"]["recovered"]]
        changed = {
            **figures,
            "recovered": on_test.rebase(figures["recovered"]),
            "intervals": figures["intervals"] | {"recovered": bounds},
            "roles": roles,
            "held": figures["held"] | {"recovered": on_train.rebase(figures["held"]["recovered"])},
        }
        rebased.append({**result, "overall": {head: changed}})
    return rebased


@dataclass(frozen=True)
class _Controls:
    """Sums over some tasks of a result, by which a share of one control is made that of another.

    Attributes:
        clean: of TA_clean.
        own: of C as the result has it.
        other: of C as it is to be held against.
    """

    clean: float
    own: float
    other: float

    @classmethod
    def of(cls, result: dict[str, Any], other: dict[str, Any], head: str, tasks: Sequence[str], split: str) -> Self:
        """Of accuracies on the test split, or on the held slice of train."""

        def total(source: dict[str, Any], name: str | None) -> float:
            rows = [source["tasks"][task][head] for task in tasks]
            if split == "held":
                return float(sum(row["held"][name or row["control"]["name"]] for row in rows))
            return float(sum(row[name] if name else control_accuracy(row) for row in rows))

        return cls(total(result, "TA_clean"), total(result, None), total(other, None))

    def rebase(self, share: float) -> float:
        """Return (SA - other) / (clean - other) of (SA - own) / (clean - own)."""
        stolen = share * (self.clean - self.own) + self.own
        return (stolen - self.other) / (self.clean - self.other)
