"""Audit an encoder: attacks, then each defense against the best attack; one page with a verdict."""

import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig
from rich.text import Text

from stealing.config import compose_config, instantiate_node
from stealing.console import TextConsole
from stealing.defenses.chain import Chain
from stealing.errors import ConfigError, StealingError
from stealing.pipeline import run
from stealing.preflight import RunData, check_inputs, measured, open_run_data
from stealing.report.advice import advice
from stealing.report.runs import RunGroup, group_runs
from stealing.report.shares import share
from stealing.report.wording import verdict_sections
from stealing.report.write import write_groups
from stealing.settings.constructors import check_constructors
from stealing.settings.overrides import explain_hydra_error
from stealing.targets.open import is_local, load_local
from stealing.text import printable

HEAD = "linear"
"""The head whose figures decide the verdict."""

OWN = (
    "attack",
    "defense",
    "plan",
    "plan_only",
    "until",
    "seed",
    "budget.images",
    "budget.evaluation",
)
"""Settings that an audit chooses for each of its runs."""

FIRST_CONTACT = 3
"""Queries of the sanity check that comes before the first attack on a remote target."""


@dataclass(frozen=True)
class AuditQueries:
    """Most queries of an audit.

    Attributes:
        attack: queries of all attacks.
        evaluation: queries of the evaluation, and of the first contact with a service.
        price: of one query.
    """

    attack: int
    evaluation: int
    price: float

    @property
    def total(self) -> int:
        """Return the number of all queries."""
        return self.attack + self.evaluation

    @property
    def cost(self) -> float:
        """Return the price of all queries."""
        return self.total * self.price

    def __str__(self) -> str:
        """Return one sentence."""
        return (
            f"the attacks send at most {self.attack:,} queries and the evaluation "
            f"{self.evaluation:,}, cost {self.cost:.2f}; answers that were bought before cost "
            "nothing, and defenses are tried on the same answers."
        )


@dataclass
class Attempts:
    """What was tried so far.

    Attributes:
        folders: of all finished runs.
        failures: how many runs ended in an error.
    """

    folders: list[Path] = field(default_factory=list)
    failures: int = 0


@dataclass(frozen=True)
class Audit:
    """One audit.

    Attributes:
        config: with the node `audit`.
        overrides: as typed; those of `audit.` are the audit's own, all others go to each run.
    """

    config: DictConfig
    overrides: Sequence[str]

    @property
    def choices(self) -> Any:
        """Return the node `audit`."""
        return self.config.audit

    @property
    def run_overrides(self) -> list[str]:
        """Return the overrides of each run."""
        return [word for word in self.overrides if not word.startswith("audit.")]

    @property
    def is_remote(self) -> bool:
        """Return True if the target's defense belongs to its service."""
        return self.config.target.remote is not None

    def check(self) -> AuditQueries:
        """Check the limits and each attack, so that none fails hours later; send no query.

        Returns:
            What the target will be asked.

        Raises:
            StealingError: the audit exceeds a limit, sets what the audit chooses itself, or has an
                attack that cannot be run.
        """
        self._check_overrides()
        data = open_run_data(self.config)
        queries = AuditQueries(
            # Each seed sends images of its own. A smaller budget's images are among those of a
            # larger one.
            attack=max(self.choices.budgets) * len(set(self.choices.seeds)),
            evaluation=FIRST_CONTACT + measured(self.config, data),
            price=self.config.budget.price,
        )
        self._check_limits(queries)
        self._check_attacks(data, queries)
        return queries

    def _check_overrides(self) -> None:
        out = self.choices.out
        if Path(out or ".").is_file():
            raise ConfigError(
                f"audit.out={out} is not a folder: name one for the page, such as "
                "audit.out=my/audit."
            )
        own = [word for word in self.run_overrides if word.split("=")[0].lstrip("+~") in OWN]
        if own:
            raise ConfigError(
                f"An audit chooses this itself: leave {' '.join(own)} out; see audit. in --cfg job."
            )

    def _check_limits(self, queries: AuditQueries) -> None:
        if queries.total > self.choices.queries:
            raise ConfigError(
                f"The attacks of this audit send {queries.attack} queries and its evaluation "
                f"{queries.evaluation}: set audit.queries={queries.total} to allow that, or choose "
                "smaller audit.budgets and tasks."
            )
        money = self.choices.money
        if money is None:
            return
        if not queries.price:
            raise ConfigError(
                "audit.money limits nothing if images cost nothing: set budget.price= too."
            )
        if queries.cost > money:
            raise ConfigError(
                f"{queries.total} images cost {queries.cost:.2f} at budget.price={queries.price}: "
                f"set audit.money={queries.cost:.2f} to allow that, or name smaller audit.budgets "
                "and tasks."
            )

    def _check_attacks(self, data: RunData, queries: AuditQueries) -> None:
        """Open of each attack all that can be opened without a query."""
        variants = [[f"budget.images={budget}"] for budget in self.choices.budgets]
        if not self.is_remote:
            largest = f"budget.images={max(self.choices.budgets)}"
            variants += [[largest, *defense] for defense in self._defenses()]
        encoder = load_local(self.config).encoder.fingerprint if is_local(self.config) else None
        for attack, variant in product(self.choices.attacks, variants):
            overrides = [f"attack={attack}", *variant]
            try:
                config, _ = self._compose(overrides, queries)
                check_constructors(config)
                check_inputs(config, data)
                defense = Chain(instantiate_node(config.defense))
                if encoder is not None:
                    defense.check(encoder)
            except HydraException as error:
                reason = explain_hydra_error(error, "audit")
                raise ConfigError(f"{' '.join(overrides)}: {reason}") from None
            except StealingError as error:
                raise type(error)(f"{' '.join(overrides)}: {error}") from None

    def _compose(
        self, overrides: Sequence[str], queries: AuditQueries
    ) -> tuple[DictConfig, dict[str, str]]:
        """Return the configuration and the choices of one run."""
        limit = f"budget.evaluation={queries.evaluation}"
        return compose_config("audit", [*self.run_overrides, *overrides, limit])

    def _defenses(self) -> Iterator[list[str]]:
        """Give the overrides of each defense, at each strength and against each query plan."""
        for entry in self.choices.defenses:
            name, strengths, plans = _read_defense(entry)
            for strength, plan in product(strengths, plans):
                settings = [f"defense.{part}" for part in strength.split()]
                yield [f"defense={name}", *settings, f"plan={plan}"]

    def run_attacks(self, queries: AuditQueries) -> Attempts:
        """Run all attacks. A run that fails is named on the standard error, and counted.

        The attacks without a defense come first: they decide which attack meets the defenses.
        """
        attempts = Attempts()
        for budget in self.choices.budgets:
            for attack in self.choices.attacks:
                self._attack(attempts, queries, [f"attack={attack}", f"budget.images={budget}"])
        if self.is_remote or not attempts.folders:
            return attempts
        groups = group_runs(attempts.folders)
        comparable = [group for group in groups if share(group, HEAD) is not None]
        if not comparable:
            return attempts
        largest = max(self.choices.budgets)  # the budget at which the defenses are tried
        strongest = max(
            comparable, key=lambda group: (group.budget == largest, group.chosen_by(HEAD))
        )
        attack = [f"attack={strongest.choices['attack']}", f"budget.images={largest}"]
        for defense in self._defenses():
            self._attack(attempts, queries, [*attack, *defense])
        return attempts

    def _attack(self, attempts: Attempts, queries: AuditQueries, overrides: Sequence[str]) -> None:
        """Run one attack with each seed, and add it to the attempts."""
        for seed in self.choices.seeds:
            seeded = [*overrides, f"seed={seed}"]
            name = " ".join(seeded)
            print(printable(f"audit: {name}"), file=sys.stderr, flush=True)
            try:
                folder = run(*self._compose(seeded, queries))
            except StealingError as error:
                reason = printable(f"{name}: {type(error).__name__}: {error}")
                print(reason, file=sys.stderr, flush=True)
                attempts.failures += 1
                continue
            assert folder is not None
            if folder not in attempts.folders:  # an attack may be named twice
                attempts.folders.append(folder)

    def page_of(self, groups: Sequence[RunGroup]) -> Path:
        """Return the folder of the page; each encoder has one of its own."""
        if self.choices.out:
            return Path(self.choices.out)
        result = groups[0].runs[0].result
        option = result["choices"]["target"].replace("/", ".")
        return Path(self.config.paths.work) / "audits" / f"{option}-{result['target'][:8]}"


def _read_defense(entry: Any) -> tuple[str, Sequence[str], Sequence[str]]:
    """Return name, strengths and query plans of one entry of `audit.defenses`.

    Raises:
        ConfigError: the entry is neither a name nor such a mapping.
    """
    if isinstance(entry, str):
        return entry, [""], ["once"]
    if isinstance(entry, DictConfig):
        parts = {"strengths": [""], "plans": ["once"], **entry}
        lists = (parts["strengths"], parts["plans"])
        if parts.keys() == {"name", "strengths", "plans"} and all(map(_is_words, lists)):
            return parts["name"], *lists
    raise ConfigError(
        f"audit.defenses holds {entry}: write topk, or "
        "{name:topk,strengths:['topk.k=16'],plans:[once]}."
    )


def _is_words(value: Any) -> bool:
    """Return True for a list of texts that is not empty."""
    if not isinstance(value, list | ListConfig) or not value:
        return False
    return all(isinstance(word, str) for word in value)


def audit(config: DictConfig, overrides: Sequence[str]) -> Path:
    """Run an audit, or finish one that was interrupted.

    Args:
        config: composed from `audit.yaml`.
        overrides: as typed.

    Returns:
        The path of its page.

    Raises:
        StealingError: the message says what to type.
    """
    plan = Audit(config, overrides)
    queries = plan.check()
    print(f"audit: {queries}", file=sys.stderr, flush=True)
    attempts = plan.run_attacks(queries)
    if not attempts.folders:
        raise ConfigError(
            "No attack could be run: correct what the lines above say, and run the same command "
            "again."
        )
    groups = group_runs(attempts.folders)
    verdict = advice(groups, HEAD, config.audit.enough, attempts.failures)
    console = TextConsole(100)
    for topic, text in verdict_sections(verdict).items():
        console.print(Text.assemble((printable(topic), "bold"), f" {printable(text)}"))
    command = shlex.join(["python", "eval.py", "--config-name", "audit", *overrides])
    title = "How easy is this encoder to steal?"
    folder = plan.page_of(groups)
    page = write_groups(groups, attempts.folders, folder, HEAD, title, verdict, command)
    console.print(f"Written: {page}", soft_wrap=True)
    return page
