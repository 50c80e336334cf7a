"""What a theft got of what an encoder is worth, as it is told."""

from dataclasses import dataclass

from stealing.report.frontier import percent
from stealing.report.runs import Setting


@dataclass(frozen=True)
class Share:
    """What a thief got of what the encoder is worth beyond the best control, with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def percent(self) -> int:
        """As it is told: nothing is zero."""
        return percent(self.value)

    def reaches(self, enough: float) -> bool:
        """Whether a theft succeeded, by figures as they are told."""
        return self.percent >= percent(enough)

    def __str__(self) -> str:
        if self.value < 0.005:  # a surrogate that is worse than what a thief has anyway
            return f"nothing [at most {self.high:.0%}]" if self.high >= 0.005 else "nothing"
        return f"{self.value:.0%} [{max(self.low, 0):.0%} to {self.high:.0%}]"


def share(setting: Setting, head: str) -> Share | None:
    """Of a setting, or None where no task of it is informative."""
    row = setting.overall(head)
    for name in ("recovered", "offered"):
        if row.get(name) is not None:
            low, high = row["intervals"][name]
            return Share(row[name], low, high)
    return None
