"""Audit an encoder: attacks at a few budgets, then each defense against the best of them; one page with a verdict."""

import shlex
import sys
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from types import NoneType

from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig
from rich.console import Console
from rich.text import Text

from stealing.config import composed, opened, sentence
from stealing.defenses.chain import Chain
from stealing.encoders import load_encoder
from stealing.errors import ConfigError, StealingError
from stealing.pipeline import run
from stealing.plan import Scene, check_inputs, open_scene
from stealing.report.advice import advice
from stealing.report.runs import Setting, settings
from stealing.report.shares import share
from stealing.report.write import write

HEAD = "linear"
"""The classifier by which the verdict is found."""

OWN = ("attack", "defense", "plan", "plan_only", "until", "seed", "budget.images", "budget.evaluation")
"""What an audit sets in each of its runs."""

INTRODUCED = 3
"""Images that an unknown target is asked about before the first attack."""


class Audit:
    """One audit.

    Args:
        config: with the node `audit`.
        overrides: as typed; those of `audit.` are the audit's own, all others are passed to each run.
    """

    def __init__(self, config: DictConfig, overrides: Sequence[str]) -> None:
        self.config, self.audit = config, config.audit
        self.overrides = [word for word in overrides if not word.startswith("audit.")]
        self.folders = list[Path]()
        self.failures = self.measured = 0

    def check(self) -> str:
        """Return what the target will be asked, if that is allowed; check each attack, so that none fails hours later.

        Raises:
            StealingError: it is more than the limits, a choice is the audit's own, or an attack cannot be run. Nothing
                has been asked then.
        """
        budgets, seeds, attacks, queries = (self.audit[name] for name in ("budgets", "seeds", "attacks", "queries"))
        lists = all(isinstance(one, ListConfig) for one in (budgets, seeds, attacks, self.audit.defenses))
        numbers = [*budgets, *seeds, queries] if lists and budgets and seeds and attacks else [None]
        if not all(type(one) is int and one >= 0 for one in numbers) or not all(isinstance(a, str) for a in attacks):
            raise ConfigError(
                "audit.budgets, seeds, attacks, defenses and queries say what is tried with how many images: set them "
                "to [250,1000], [0], [stolen_encoder], [topk] and 30000, for example."
            )
        enough, money, out = self.audit.enough, self.audit.money, self.audit.out
        if type(enough) not in (int, float) or not 0 < enough <= 1 or type(money) not in (int, float, NoneType):
            raise ConfigError("audit.enough is a share above 0, such as 0.5, and audit.money an amount, such as 50.")
        if not isinstance(out, str | None) or Path(out or ".").is_file():
            raise ConfigError(f"audit.out={out} is no folder: name one for the page, such as audit.out=my/audit.")
        own = [word for word in self.overrides if word.split("=")[0].lstrip("+~") in OWN]
        if own:
            raise ConfigError(f"An audit chooses for itself: leave {' '.join(own)} out; see audit. in --cfg job.")
        scene = open_scene(self.config)
        self.measured = INTRODUCED + sum(len(set(digests)) for digests in scene.digests.values())
        attacked = max(budgets) * len(set(seeds))  # each seed asks about images of its own
        asked = attacked + self.measured
        if asked > self.audit.queries:
            raise ConfigError(
                f"The audit asks about {attacked} images to attack and {self.measured} to measure: set "
                f"audit.queries={asked} to allow that, or name smaller audit.budgets and tasks."
            )
        if self.audit.money is not None and not self.config.budget.price:
            raise ConfigError("audit.money limits nothing while images cost nothing: set budget.price= too.")
        cost = asked * self.config.budget.price
        if self.audit.money is not None and cost > self.audit.money:
            raise ConfigError(
                f"{asked} images cost {cost:.2f} at budget.price={self.config.budget.price}: set "
                f"audit.money={cost:.2f} to allow that, or name smaller audit.budgets and tasks."
            )
        self._check_thefts(scene)
        return (
            f"at most {attacked:,} images are asked about to attack and {self.measured:,} to measure, cost {cost:.2f}; "
            "what was bought before costs nothing, and defenses are tried on the same answers."
        )

    def _check_thefts(self, scene: Scene) -> None:
        """Make of each attack all that can be made without asking."""
        defended = [] if self._is_remote else list(self._defenses())
        thefts = [[f"budget.images={budget}"] for budget in self.audit.budgets]
        thefts += [[f"budget.images={max(self.audit.budgets)}", *defense] for defense in defended]
        path = self.config.target.path
        encoder = load_encoder(Path(path))[0].fingerprint if path else None
        for attack, choices in product(self.audit.attacks, thefts):
            theft = [f"attack={attack}", *choices]
            try:
                config, _ = composed("audit", [*self.overrides, *theft, f"budget.evaluation={self.measured}"])
                check_inputs(config, scene)
                chain = Chain(opened(config.defense))
                if encoder is not None:
                    chain.check(encoder)
            except HydraException as error:
                raise ConfigError(f"{' '.join(theft)}: {sentence(error)}") from None
            except StealingError as error:
                raise type(error)(f"{' '.join(theft)}: {error}") from None

    @property
    def _is_remote(self) -> bool:
        """Whether the target's defenses are its own."""
        return self.config.target.remote is not None

    def steal(self, *choices: str) -> None:
        """Run one attack with each seed; if it cannot be tried, say why and go on."""
        for seed in self.audit.seeds:
            named = " ".join([*choices, f"seed={seed}"])
            print(f"audit: {named}", file=sys.stderr, flush=True)
            try:
                limits = (f"seed={seed}", f"budget.evaluation={self.measured}")
                folder = run(*composed("audit", [*self.overrides, *choices, *limits]))
                assert folder is not None
                if folder not in self.folders:  # an attack may be named twice
                    self.folders.append(folder)
            except StealingError as error:
                print(f"{named}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                self.failures += 1

    def thefts(self) -> None:
        """Run all attacks: without a defense first, as that decides which attack meets the defenses."""
        for budget in self.audit.budgets:
            for attack in self.audit.attacks:
                self.steal(f"attack={attack}", f"budget.images={budget}")
        if self._is_remote or not self.folders:
            return
        found = [one for one in settings(self.folders) if share(one, HEAD) is not None]
        if not found:
            return
        most = max(self.audit.budgets)  # at which the defenses are tried
        strongest = max(found, key=lambda one: (one.budget == most, one.chosen_by(HEAD)))
        for defense in self._defenses():
            self.steal(f"attack={strongest.choices['attack']}", f"budget.images={most}", *defense)

    def _defenses(self) -> Iterator[list[str]]:
        """Of each defense at each strength, against each plan, the overrides."""
        for named in self.audit.defenses:
            defense = DictConfig({"name": named}) if isinstance(named, str) else named
            given = {"strengths": [""], "plans": ["once"], **defense} if isinstance(defense, DictConfig) else {}
            lists = [given.get(part) for part in ("strengths", "plans")]
            fit = all(
                isinstance(one, list | ListConfig) and one and all(isinstance(word, str) for word in one)
                for one in lists
            )
            if not fit or given.keys() != {"name", "strengths", "plans"}:
                raise ConfigError(
                    f"audit.defenses holds {named}: write topk, or {{name:topk,strengths:['topk.k=16'],plans:[once]}}."
                )
            for strength, plan in product(given["strengths"], given["plans"]):
                chosen = [f"defense.{part}" for part in strength.split()]
                yield [f"defense={given['name']}", *chosen, f"plan={plan}"]

    def results(self) -> list[Setting]:
        """Return the settings of all attacks.

        Raises:
            ConfigError: none could be tried.
        """
        if not self.folders:
            raise ConfigError("No attack could be tried: mend what is said above, and run the same command again.")
        return settings(self.folders)

    def page_of(self, found: Sequence[Setting]) -> Path:
        """Folder of the page; each encoder has one of its own."""
        result = found[0].runs[0].result
        own = Path(self.config.paths.work) / "audits" / f"{result['choices']['target']}-{result['target'][:8]}"
        return Path(self.audit.out) if self.audit.out else own


def audit(config: DictConfig, overrides: Sequence[str]) -> Path:
    """Run an audit, or finish one that was interrupted; the page's path.

    Args:
        config: composed from `audit.yaml`.
        overrides: as typed.

    Raises:
        StealingError: whatever a user can mend.
    """
    this = Audit(config, overrides)
    print(f"audit: {this.check()}", file=sys.stderr, flush=True)
    this.thefts()
    found = this.results()
    verdict = advice(found, HEAD, config.audit.enough, this.failures)
    console = Console(width=max(100, Console().width))
    for about, text in verdict:
        console.print(Text.assemble((about, "bold"), f" {text}"))
    command = shlex.join(["python", "eval.py", "--config-name", "audit", *overrides])
    page = write(this.folders, this.page_of(found), HEAD, "How stealable is this encoder?", verdict, command)
    console.print(f"Written: {page}", soft_wrap=True)
    return page
