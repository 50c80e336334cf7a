"""A leaderboard: claims that do not verify are refused; what it shows follows from the runs."""

import json
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, Command, choose
from hydra import initialize_config_dir
from made_up import finished_run

from stealing.artefacts import read_sealed, write_sealed
from stealing.config import compose_config, to_dict
from stealing.errors import DamageError, DataError
from stealing.evaluation.statistics import paired_difference
from stealing.report.claim_checks import read_claim
from stealing.report.claim_command import command_of_runs
from stealing.report.claim_figures import packed
from stealing.report.claim_files import write_claims
from stealing.report.leaderboard import Board, Entry
from stealing.report.leaderboard_tables import markdown, write_board
from stealing.report.published import PUBLISHED, UNKNOWN
from stealing.report.run_files import FinishedRun
from stealing.saved.files import write_choices

ROLES = {"x": "own", "y": "unseen"}
STRONG = {"x": (0.8, 0.7, 0.4), "y": (0.9, 0.7, 0.3)}
WEAK = {"x": (0.8, 0.5, 0.4), "y": (0.9, 0.5, 0.3)}
Runs = Callable[..., list[FinishedRun]]


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    def made(attack: str, accuracies: Any, seeds: int = 3, **more: Any) -> list[FinishedRun]:
        finished = []
        for seed in range(seeds):
            settings = {"attack": attack, "roles": ROLES, "seed": seed, **more}
            folder = finished_run(tmp_path / "runs", f"g-{attack}", accuracies, **settings)
            finished.append(FinishedRun.read(folder))
        return finished

    return made


@pytest.fixture
def board(tmp_path: Path, runs: Runs) -> Path:
    runs("strong", STRONG)
    runs("weak", WEAK)
    write_claims([tmp_path / "runs"], tmp_path / "board")
    return tmp_path / "board"


def changed(path: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """Change a claim, and give it a checksum that is right."""
    claim = read_sealed(path)
    change(claim)
    write_sealed(path, claim)
    return path


def seed_of(claim: dict[str, Any]) -> Any:
    return claim["seeds"]["1"]


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a billed answer above the budget": (
        lambda claim: seed_of(claim)["queries"].update(spent=101),
        "billed for 101 answers of 100 allowed",
    ),
    "another budget of a seed": (
        lambda claim: seed_of(claim)["queries"].update(budget=99),
        "a budget of 99 and not 100",
    ),
    "a figure": (
        lambda claim: claim["figures"]["linear"]["SA"]["own"].update(mean=0.99),
        "figures do not follow",
    ),
    "an interval": (
        lambda claim: claim["figures"]["linear"]["recovered"]["all"]["interval"].reverse(),
        "figures do not follow",
    ),
    "the ledger": (lambda claim: claim["ledger"].update(cost=1.0), "summary of its ledger"),
    "SA of a seed": (
        lambda claim: seed_of(claim)["tasks"]["x"]["linear"].update(SA=0.71),
        "SA of x/linear does not follow from the answers of seed 1",
    ),
    "a share of a seed": (
        lambda claim: seed_of(claim)["tasks"]["x"]["linear"].update(recovered=0.9),
        "recovered of x/linear does not follow",
    ),
    "a weaker control": (
        lambda claim: seed_of(claim)["tasks"]["x"]["linear"]["held"].update(pixels=0.6),
        "control of x/linear is not the strongest",
    ),
    "answers of fewer images": (
        lambda claim: seed_of(claim)["right"].update({"x/linear": packed(np.ones(9, bool))}),
        "not of as many images",
    ),
    "no base64": (
        lambda claim: seed_of(claim)["right"].update({"x/linear": "..."}),
        "not of as many images",
    ),
    "another schema": (lambda claim: claim.update(schema=2), "not a claim of schema 1"),
    "a missing part": (lambda claim: seed_of(claim).pop("tasks"), "not a claim of schema 1"),
    "a task without answers": (
        lambda claim: seed_of(claim)["right"].pop("x/linear"),
        "not a claim of schema 1",
    ),
    "a text for a number": (
        lambda claim: seed_of(claim)["tasks"]["x"]["linear"].update(TA="0.8"),
        "not a claim of schema 1",
    ),
    "no seeds": (lambda claim: claim.update(seeds={}), "not a claim of schema 1"),
    "a path for an attack": (lambda claim: claim.update(attack="../x"), "not a claim of schema 1"),
    "a pool that is no number": (
        lambda claim: claim["settings"]["attack"].update(pool="all"),
        "not a claim of schema 1",
    ),
    "another attack": (lambda claim: claim.update(attack="best"), "rename it to best_b100.json"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_claim_that_does_not_verify_is_refused_in_one_sentence(name: str, board: Path) -> None:
    change, words = CHANGES[name]
    path = board / "strong_b100.json"
    read_claim(path)
    changed(path, change)
    with pytest.raises(DataError, match=words) as refused:
        write_board(board)
    message = str(refused.value)
    assert str(path) in message and message.endswith(".") and "\n" not in message
    assert not (board / "table.md").exists()


def test_a_claim_has_a_checksum_of_itself(board: Path) -> None:
    path = board / "weak_b100.json"
    content = path.read_text()
    path.write_text(content.replace('"budget": 100', '"budget": 200', 1))
    with pytest.raises(DamageError, match="checksum"):
        read_claim(path)
    claim = json.loads(content)
    del claim["checksum"]
    path.write_text(json.dumps(claim))
    with pytest.raises(DataError, match="has no checksum"):
        read_claim(path)


@pytest.mark.parametrize(
    ("part", "value", "words"),
    [
        ("protocol_hash", "q", "judged by another protocol"),
        ("target", "u", "of another target"),
        ("data", {"queries": "two"}, "of other images"),
    ],
)
def test_a_claim_of_another_board_is_refused(
    part: str, value: Any, words: str, board: Path, runs: Runs, tmp_path: Path
) -> None:
    runs("third", WEAK)
    write_claims([tmp_path / "runs"], board)
    changed(board / "weak_b100.json", lambda claim: claim.update({part: value}))
    with pytest.raises(DataError, match=words) as refused:
        Board.read(board)
    assert "weak_b100.json" in str(refused.value)


def test_cpu_and_gpu_stand_on_no_board_and_an_empty_folder_is_none(
    board: Path, tmp_path: Path
) -> None:
    def on_gpu(claim: dict[str, Any]) -> None:
        for seed in claim["seeds"].values():
            seed["hardware"]["gpu"] = "g"

    changed(board / "weak_b100.json", on_gpu)
    with pytest.raises(DataError, match="never mixes a device"):
        Board.read(board)
    with pytest.raises(DataError, match="holds no claim"):
        Board.read(tmp_path)


def test_the_best_attack_is_tested_against_each_other_as_a_report_tests_them(
    board: Path, runs: Runs
) -> None:
    shown = Board.read(board)
    [test] = shown.tests(shown.entries, "linear")
    assert (test.first, test.second, test.seeds) == ("strong", "weak", 3)
    first = [FinishedRun.read(run.folder).right for run in runs("again", STRONG)]
    second = [run.right for run in runs("other", WEAK)]
    difference, interval, p = paired_difference(first, second, "linear", resamples=2000)
    assert test.difference == pytest.approx(difference)
    assert test.interval == pytest.approx(interval, abs=0.002)
    assert test.p == pytest.approx(p, abs=0.01) and test.adjusted == test.p


def test_a_board_shows_each_attack_by_role_with_what_it_was_measured_against(board: Path) -> None:
    text = markdown(Board.read(board))
    # (1.4 - 0.7) / (1.7 - 0.7), and the same of x and of y alone.
    assert "0.70 [" in text and "0.75 [" in text and "0.67 [" in text
    assert "### Attacks at equal queries, 100 (linear)" in text
    assert "equal images" not in text, "one budget is no comparison at equal images"
    assert "untrained; 100 images" in text
    assert text.count(UNKNOWN) == 2
    assert "Shares under the head linear are of the tasks: x, y." in text


def test_an_attack_that_asks_about_fewer_images_has_the_control_of_the_others(
    board: Path, runs: Runs, tmp_path: Path
) -> None:
    """Its own control was trained on fewer images, and is weaker."""
    easy = {"x": (0.8, 0.5, 0.2), "y": (0.9, 0.5, 0.2)}
    runs("views", easy, asked=10)
    write_claims([tmp_path / "runs"], board)
    shown = Board.read(board)
    views = of_attack(shown, "views")
    figures = shown.figures(views, shown.entries, "linear")
    assert figures is not None and figures.lender.images == 100
    assert figures.recovered["all"]["mean"] == pytest.approx((1.0 - 0.7) / (1.7 - 0.7))
    alone = shown.figures(views, [views], "linear")
    assert alone is not None
    assert alone.recovered["all"]["mean"] == pytest.approx((1.0 - 0.4) / (1.7 - 0.4))
    # What a claim says of itself is beyond its own control.
    own = views.claim["figures"]["linear"]["recovered"]["all"]["mean"]
    assert own == pytest.approx(alone.recovered["all"]["mean"])


def of_attack(board: Board, attack: str) -> Entry:
    [entry] = [entry for entry in board.entries if entry.attack == attack]
    return entry


def test_attacks_of_one_kind_share_the_control_of_the_one_with_most_seeds(
    board: Path, runs: Runs, tmp_path: Path
) -> None:
    """Controls of several processors differ; what attacks recovered is compared, not these."""
    unlucky = {"x": (0.8, 0.7, 0.5), "y": (0.9, 0.7, 0.4)}
    runs("elsewhere", unlucky, seeds=2)
    runs("wide", unlucky, seeds=2)
    write_claims([tmp_path / "runs"], board)
    changed(board / "wide_b100.json", lambda claim: claim["settings"].update(arch="wide"))
    shown = Board.read(board)
    lenders = {}
    for entry in shown.entries:
        figures = shown.figures(entry, shown.entries, "linear")
        assert figures is not None
        lenders[entry.attack] = figures.lender.attack
    assert lenders == {"strong": "strong", "weak": "strong", "elsewhere": "strong", "wide": "wide"}


def test_of_equally_many_seeds_the_strongest_control_is_shared(
    board: Path, runs: Runs, tmp_path: Path
) -> None:
    lucky = {"x": (0.8, 0.7, 0.5), "y": (0.9, 0.7, 0.4)}
    runs("elsewhere", lucky)
    write_claims([tmp_path / "runs"], board)
    shown = Board.read(board)
    for entry in shown.entries:
        figures = shown.figures(entry, shown.entries, "linear")
        assert figures is not None and figures.lender.attack == "elsewhere"


def test_an_attack_of_more_steps_keeps_its_own_control(
    board: Path, runs: Runs, tmp_path: Path
) -> None:
    runs("longer", STRONG, seeds=2)
    write_claims([tmp_path / "runs"], board)

    def train_twice(claim: dict[str, Any]) -> None:
        for seed in claim["seeds"].values():
            seed["training"]["images"] *= 2

    changed(board / "longer_b100.json", train_twice)
    shown = Board.read(board)
    longer = of_attack(shown, "longer")
    figures = shown.figures(longer, shown.entries, "linear")
    assert figures is not None and figures.lender is longer


def test_an_attack_with_a_pool_keeps_its_own_control_and_takes_no_task_from_the_others(
    board: Path, runs: Runs, tmp_path: Path
) -> None:
    """SimCLR on its pool is so strong that y is not informative for it."""
    runs("pooled", {"x": (0.8, 0.75, 0.6), "y": (0.9, 0.88, 0.85)})
    write_claims([tmp_path / "runs"], board)

    def with_pool(claim: dict[str, Any]) -> None:
        claim["settings"]["attack"]["pool"] = 900
        for seed in claim["seeds"].values():
            seed["queries"]["held"] = 1000

    changed(board / "pooled_b100.json", with_pool)
    shown = Board.read(board)
    assert shown.tasks == {"linear": ["x", "y"]}
    pooled = of_attack(shown, "pooled")
    figures = shown.figures(pooled, shown.entries, "linear")
    assert figures is not None and figures.lender is pooled
    assert figures.recovered["all"]["mean"] == pytest.approx((1.63 - 1.45) / (1.7 - 1.45))
    text = markdown(shown)
    assert "untrained; 1,000 images" in text and "untrained; 100 images" in text


def test_equal_images_are_another_comparison_than_equal_queries(
    board: Path, runs: Runs, tmp_path: Path
) -> None:
    """An attack of ten views with 1,000 queries asks about the 100 images of the others."""
    runs("views", WEAK)
    write_claims([tmp_path / "runs"], board)

    def with_more(claim: dict[str, Any]) -> None:
        claim["budget"] = 1000
        for seed in claim["seeds"].values():
            seed["queries"].update(budget=1000, spent=1000)
        claim["ledger"]["spent"] = [1000] * 3

    path = changed(board / "views_b100.json", with_more)
    path.rename(board / "views_b1000.json")
    text = markdown(Board.read(board))
    _, _, equal = text.partition("### Attacks at equal images, 100 (linear)")
    rows = equal.partition("###")[0]
    assert "| views | 0, 1, 2 | 1,000 | 100 |" in rows and "| weak | 0, 1, 2 | 100 | 100 |" in rows
    for queries in ("100", "1,000"):
        section = text.partition(f"### Attacks at equal queries, {queries} (linear)")[2]
        assert ("| views |" in section.partition("###")[0]) == (queries == "1,000")


def test_a_published_figure_stands_beside_ours_with_its_source(runs: Runs, tmp_path: Path) -> None:
    known = PUBLISHED["infonce"]
    tasks = {known.task: (0.8, 0.7, 0.4), "y": (0.9, 0.7, 0.3)}
    runs("infonce", tasks, roles={known.task: "own", "y": "unseen"})
    write_claims([tmp_path / "runs"], tmp_path / "board")
    text = markdown(Board.read(tmp_path / "board"))
    [row] = [line for line in text.splitlines() if line.startswith("| infonce | 0.652 of 0.904")]
    assert "0.700 of 0.800, 100 queries" in row and "+4.8" in row and known.cause in row


def test_runs_of_one_attack_and_budget_with_two_settings_are_not_one_claim(
    runs: Runs, tmp_path: Path
) -> None:
    runs("x", STRONG)
    finished_run(tmp_path / "runs", "other", STRONG, attack="x", roles=ROLES)
    with pytest.raises(DataError, match="one attack and one budget"):
        write_claims([tmp_path / "runs"], tmp_path / "board")
    assert not (tmp_path / "board").exists()


@pytest.mark.parametrize(
    "overrides",
    [
        ("attack=stolen_encoder", "budget=b500"),
        ("attack=rda", "plan.count=4", "attack.pairing.count=2", "budget.images=300"),
        ("attack=conventional", "attack.steps=7", "attack.optimizer.lr=1e-3", "selection=herding"),
        ("attack=cont_steal_paper", "arch=resnet18_cont_steal", "attack.epochs=3"),
    ],
)
def test_the_command_of_a_claim_makes_its_runs_again(
    overrides: tuple[str, ...], tmp_path: Path
) -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config, choices = compose_config("train", ["logger=csv", *overrides])
    shown = {"defense": "none", "start": config.start, "selection": config.selection}
    write_choices(tmp_path, config, {**choices, **shown})
    python, script, multirun, *words = shlex.split(command_of_runs(tmp_path, [2, 0]))
    assert (python, script, multirun, words[-1]) == ("python", "train.py", "-m", "seed=0,2")
    again = choose(*words[:-1])
    for part in ("attack", "plan", "arch", "control", "budget", "data", "probe"):
        assert to_dict(again[part]) == to_dict(config[part]), part
    assert again.selection == config.selection


@pytest.mark.parametrize("words", [("leaderboard",), ("claim",)])
def test_both_commands_say_what_is_wrong_in_one_sentence(
    words: tuple[str, ...], command: Command, board: Path, tmp_path: Path
) -> None:
    def said(*more: str) -> subprocess.CompletedProcess[str]:
        return command("-m", "stealing.report", *words, *more)

    nothing = said(str(tmp_path / "nothing"))
    assert nothing.returncode == 1
    assert "Traceback" not in nothing.stderr and nothing.stderr.count("\n") == 1
    if words == ("claim",):
        done = said(str(tmp_path / "runs"), "--out", str(tmp_path / "more"))
        assert {path.name for path in (tmp_path / "more").iterdir()} == {
            path.name for path in board.glob("*.json")
        }
    else:
        done = said(str(board))
        assert (board / "table.md").exists()
    assert done.returncode == 0, done.stderr
