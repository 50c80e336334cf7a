"""What a page says of an attack: no more than it shows, and never 'safe' too soon."""

import base64
import re
from collections.abc import Iterable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from made_up import TRAINED, finished_run

from stealing.report.advice import advice
from stealing.report.audited import audited
from stealing.report.budgets import budgets
from stealing.report.comparisons import clearly_best
from stealing.report.defenses import cheapest
from stealing.report.figures import accuracies, defended, defenses, headline
from stealing.report.frontier import draw, markdown
from stealing.report.runs import RunGroup, group_runs
from stealing.report.selection import with_defense, without_defense
from stealing.report.shares import share
from stealing.report.summary import by_task, overview, tasks_left_out, tidy
from stealing.report.verdict import Verdict
from stealing.report.wording import verdict_sections
from stealing.report.write import about, overview_caption, write

WEAK = {"a": (0.6, 0.33, 0.3)}  # recovers a tenth
STRONG = {"a": (0.6, 0.5, 0.3)}  # two thirds
ROLES = {"a": "own", "b": "query_domain", "c": "unseen"}
MIXED = {"a": (0.6, 0.5, 0.3), "b": (0.6, 0.4, 0.3), "c": (0.5, 0.4, 0.48)}

HARMED = {**MIXED, "a": (0.6, 0.38, 0.3), "b": (0.6, 0.33, 0.3)}
HURT = {**MIXED, "a": (0.6, 0.33, 0.3), "b": (0.6, 0.31, 0.3)}  # more than HARMED

SHORT = {**TRAINED, "steps": 6, "preset_steps": 1200}
"""An attack of six steps, whose schedule fell to zero by its end."""


def of(
    setting: RunGroup, budget: int | None = None, honest: int | None = None, **training: Any
) -> RunGroup:
    """The setting with another training, budget or number of images that honest users need."""
    joined = {**setting.joined, "training": [{**TRAINED, **training} for _ in setting.runs]}
    if honest is not None:
        joined["honest_user"] = honest
    name = setting.name
    if budget is not None:
        joined["queries"] = {**joined["queries"], "budget": budget, "spent": budget}
        name += f" {budget}"
    return replace(setting, joined=joined, name=name)


def verdict_on(found: Iterable[RunGroup]) -> Verdict:
    return advice(list(found), "linear", 0.5)


def said(found: Iterable[RunGroup]) -> dict[str, str]:
    return verdict_sections(verdict_on(found))


def test_no_encoder_is_called_safe_on_an_attack_that_was_cut_short(tmp_path: Path) -> None:
    [weak] = group_runs([finished_run(tmp_path, "g", WEAK)])
    assert "Hardly stolen here." in said([weak])
    for training in (
        SHORT,
        {"levelled": False, "last_change": -0.3},
        {"levelled": False, "last_change": None},
    ):
        told = said([of(weak, **training)])
        assert "Not decided: attacks were cut short." in told and "Hardly stolen here." not in told
        assert "nothing here shows that the encoder is safe" in told["How sure that is."]
    longer = replace(of(weak, **SHORT), name="another attack")
    assert "Not decided: attacks were cut short." in said([weak, longer]), (
        "nor if only another attack was"
    )


def test_what_a_short_attack_did_recover_counts(tmp_path: Path) -> None:
    [strong, some] = group_runs(
        [
            finished_run(tmp_path, "g1", STRONG),
            finished_run(tmp_path, "g2", {"a": (0.6, 0.4, 0.3)}, attack="y"),
        ]
    )
    assert "Easy to steal." in said([of(strong, **SHORT)])
    assert "At least partly stolen." in said([of(some, **SHORT)]) and "Partly stolen." in said(
        [some]
    )


def test_a_verdict_names_the_attacks_compute_and_whether_its_loss_had_levelled_off(
    tmp_path: Path,
) -> None:
    [weak] = group_runs([finished_run(tmp_path, "g", WEAK)])
    facts = {"steps": 1200, "batch_size": 128, "images": 153600, "preset_steps": 1200}
    full = said([of(weak, **facts)])
    trained = full["The best attack."]
    assert "1,200 steps of 128 images and pushed 153,600 images through the surrogate" in trained
    assert "Its loss had levelled off: it changed by +0.0%" in trained
    assert "longer attacks" not in full["What to do."] and "attack.steps" not in full["Settings."]
    falling = said([of(weak, **facts, levelled=False, last_change=-0.124)])["The best attack."]
    assert "Its loss had not levelled off: it changed by -12.4%" in falling
    short = said([of(weak, **{**SHORT, "levelled": False, "last_change": None})])
    assert (
        "Its preset trains for 1,200 steps. Too few steps were logged" in short["The best attack."]
    )
    assert "Repeat the audit with longer attacks." in short["What to do."]
    assert "attack.steps=1200 or more" in short["Settings."]


def test_a_limit_is_proposed_only_if_it_lets_honest_users_work(tmp_path: Path) -> None:
    [weak] = group_runs([finished_run(tmp_path, "g", WEAK)])
    proposed = said([of(weak, 250, honest=250)])["What to do."]
    assert "Limit each account to 250 images. This keeps these attacks below 50%" in proposed
    denied = said([of(weak, 250, honest=251)])["What to do."]
    assert (
        "Limit each account" not in denied
        and "without stopping honest users" in denied
        and "here sent 251" in denied
    )


def test_no_limit_is_proposed_that_only_short_attacks_kept(tmp_path: Path) -> None:
    [weak] = group_runs([finished_run(tmp_path, "g", WEAK)])
    cut = said([of(weak, 250, honest=1, **SHORT)])["What to do."]
    assert "Limit each account" not in cut and "were not trained to their end" in cut
    mixed = said(
        [of(weak, 250, honest=1), of(weak, 500, honest=1, **SHORT), of(weak, 1000, honest=1)]
    )
    assert "Limit each account to 250 images" in mixed["What to do."], (
        "none beyond the short attack"
    )


def test_no_defense_is_recommended_by_an_attack_that_was_cut_short(tmp_path: Path) -> None:
    bare = finished_run(tmp_path, "g1", STRONG)
    [good, none] = sorted(
        group_runs([bare, finished_run(tmp_path, "g2", WEAK, defense="topk")]),
        key=lambda one: not one.defended,
    )
    assert "Switch on Top-k" in said([none, good])["What to do."]
    told = said([none, of(good, **SHORT)])
    assert "Switch on" not in told["What to do."]
    decides = "Longer attacks would decide whether it takes as much"
    assert decides in told["What to do."]
    assert "Attacks on Top-k were not trained to their end." in told["What to do."]


def test_bold_is_only_what_a_paired_interval_puts_above_all_others(tmp_path: Path) -> None:
    def seeds(group: str, sa: float, attack: str, count: int = 2) -> list[Path]:
        return [
            finished_run(tmp_path, group, {"a": (0.6, sa, 0.3)}, attack=attack, seed=seed)
            for seed in range(count)
        ]

    best, close, far = seeds("g1", 0.5, "x"), seeds("g2", 0.499, "y"), seeds("g3", 0.4, "z")
    sheet = overview(group_runs([*best, *far]), "linear")
    assert sheet.best == {(0, sheet.columns.index("SA"))}, "and no share is ever bold"
    for folders in ([*best, *close, *far], best, [best[0], far[0]], [best[0], *far]):
        found = group_runs(folders)
        assert overview(found, "linear").best == set() == by_task(found, "linear").best
        assert clearly_best(found, "linear") is None
    assert clearly_best(group_runs([*best, *close]), "linear") is None, (
        "one image of a thousand is chance"
    )


def test_where_no_task_is_informative_nothing_is_said_of_the_tasks_that_are(tmp_path: Path) -> None:
    [blind] = group_runs([finished_run(tmp_path, "g", {"a": (0.6, 0.5, 0.62)})])
    told = said([blind])
    assert list(told) == ["Not decided.", "How sure that is.", "Settings."]
    assert "a: the target loses to the untrained surrogate by 2.0 points" in told["Not decided."]
    assert "None of the 1 tasks is informative" in told["How sure that is."]
    assert "10 points ahead" not in told["How sure that is."] and "0 of 1" not in " ".join(
        told.values()
    )


def test_no_choice_of_a_report_hangs_on_the_test_split(tmp_path: Path) -> None:
    """The test split is another each time, by lot; what is chosen is the same."""
    weak = {**MIXED, "a": (0.6, 0.48, 0.3)}
    attacks: dict[str, dict[str, Any]] = {
        "weak": {"attack": "weak", "accuracies": weak, "price": 0.01},
        "strong": {"attack": "strong", "accuracies": MIXED, "price": 0.02},
        # On the held rows topk takes enough at both strengths, and less dear at the second.
        "topk4": {"defense": "topk", "strength": 4, "loss": 0.03, "accuracies": HARMED},
        "topk16": {"defense": "topk", "strength": 16, "loss": 0.004, "accuracies": HARMED},
        "twice": {"defense": "topk", "strength": 16, "loss": 0.004, "accuracies": HURT},
        "b4b1": {"defense": "b4b", "strength": 1, "loss": 0.0, "accuracies": weak},
        "b4b2": {"defense": "b4b", "strength": 2, "loss": 0.0, "accuracies": MIXED},
    }
    attacks["twice"]["plan"] = "completion"
    chosen = []
    seen = set()
    for lot in (None, 1, 2, 3, 4):
        folders = []
        for name, choices in attacks.items():
            given = {"attack": "strong", "roles": ROLES, "test": lot, **choices}
            folders.append(finished_run(tmp_path / str(lot), name, **given))
        found = group_runs(folders)
        rows = [
            row for one in found for row in (one.joined["tasks"][task]["linear"] for task in MIXED)
        ]
        seen.add(found[0].overall("linear")["SA"])
        verdict = advice(found, "linear", 0.4)
        assert verdict.attacks and verdict.attacks.cheapest
        assert verdict.defenses and verdict.defenses.best
        points, _ = defended(found, "linear")
        shares = {group.name: known for group in found if (known := share(group, "linear"))}
        judged, _ = audited(with_defense(found), without_defense(found), shares, "linear")
        names = {str(known): name for name, known in shares.items()}
        chosen.append(
            {
                "headline": headline(found, "linear").name,
                "strongest": max(found, key=lambda one: one.chosen_by("linear")).name,
                "informative": [one.overall("linear")["informative"] for one in found],
                "control": [(row["control"]["name"], row["control"]["lead"]) for row in rows],
                "left out": {row[0] for row in tasks_left_out(found, "linear").rows},
                "cheapest attack": verdict.attacks.cheapest.cost,
                "best defense": (verdict.defenses.best.name, verdict.defenses.best.plan),
                "strengths": sorted((one.name, one.plan) for one in cheapest(points)),
                "worst task": [one.worst[0] for one in points],
                "naive": [names[str(one.naive_undefended)] for one in judged],
            }
        )
    assert len(seen) == 5, "the test split is another each time"
    assert all(one == chosen[0] for one in chosen[1:])
    first = chosen[0]
    assert first["headline"].startswith("strong") and first["left out"] == {"c"}
    assert first["cheapest attack"] == pytest.approx(1.0), "of the weak attack"
    assert first["best defense"] == ("Top-k, strength 1", "One query an image"), "k=16"
    assert first["strengths"] == [
        ("b4b k=1", "strong, once"),
        ("none", "strong, once"),
        ("topk k=16", "strong, once"),
    ]


def test_shares_stand_by_role_and_the_pooled_one_says_that_it_is_pooled(tmp_path: Path) -> None:
    found = group_runs([finished_run(tmp_path, "g", MIXED, roles=ROLES)])
    sheet = overview(found, "linear")
    row = dict(zip(sheet.columns, sheet.rows[0], strict=True))
    assert row["recovered, own"].startswith("0.67 [") and row["recovered, query_domain"].startswith(
        "0.33 ["
    )
    assert row["recovered, unseen"] == "left out" and row["recovered, pooled"].startswith("0.50 [")
    assert "recovered" not in sheet.columns
    easy = said(found)["Easy to steal."]
    assert "pooled over own and query_domain tasks" in easy
    assert "own 67% [" in easy and "query_domain 33% [" in easy and "unseen not known" in easy
    assert budgets(found, "linear").caption.startswith(
        "The recovered share is pooled over own and query_domain tasks."
    )
    [alone] = group_runs([finished_run(tmp_path, "h", STRONG)])
    assert [name for name in overview([alone], "linear").columns if "recovered" in name] == [
        "recovered, own"
    ]


def test_a_frontier_stands_by_role_too_and_promises_only_what_it_draws(tmp_path: Path) -> None:
    weaker = {**MIXED, "a": (0.6, 0.35, 0.3)}
    found = group_runs(
        [
            finished_run(tmp_path, "g1", MIXED, roles=ROLES),
            finished_run(tmp_path, "g2", weaker, roles=ROLES, defense="topk"),
        ]
    )
    points, _ = defended(found, "linear")
    assert {point.defense: point.roles["own"] for point in points} == pytest.approx(
        {"none": 2 / 3, "topk": 1 / 6}
    )
    table = markdown(points).splitlines()
    assert (
        "| recovered, own | recovered, query_domain | recovered, unseen "
        "| recovered, pooled [95 %], by |" in table[0]
    )
    assert "| 0.17 | 0.33 | left out |" in table[-1]
    assert draw(points).axes[0].get_ylabel().endswith("pooled over own and query_domain tasks")
    caption = defenses(found, "linear").caption
    assert "Shaded: " in caption and "Beside a point" not in caption, (
        "no defense here has a strength"
    )


def test_tasks_that_are_left_out_are_named_on_the_page_with_the_reason(tmp_path: Path) -> None:
    folder = finished_run(tmp_path / "runs", "g", MIXED, roles=ROLES)
    [row] = tasks_left_out(group_runs([folder]), "linear").rows
    why = (
        "the target is 2.0 points ahead of the untrained surrogate on the held rows, and 5 are "
        "needed (+2.0 on the test split)"
    )
    assert row == ["c", "unseen", why, "all"]
    page = write([folder], tmp_path / "out", "linear").read_text()
    assert "Which tasks are left out, and why?" in page and why.replace(
        "+", "&#43;"
    ) in page.replace("+", "&#43;")
    narrow = group_runs(
        [finished_run(tmp_path, "h", {"a": (0.6, 0.5, 0.3), "b": (0.5, 0.45, 0.42)})]
    )
    [[_, _, why, _]] = tasks_left_out(narrow, "linear").rows
    assert why.endswith(
        "8.0 points ahead of the untrained surrogate on the held rows, "
        "and figures over tasks need 10"
    )


def test_a_remote_target_is_told_by_what_it_offers_and_by_what_measuring_cost(
    tmp_path: Path,
) -> None:
    folder = finished_run(tmp_path / "runs", "g", MIXED, roles=ROLES, remote=True, price=0.02)
    found = group_runs([folder])
    sheet = overview(found, "linear")
    row = dict(zip(sheet.columns, sheet.rows[0], strict=True))
    assert (row["queries to attack"], row["queries to measure"]) == ("100", "453")
    assert (row["cost of attack"], row["cost of measuring"]) == ("2.00", "9.06")
    assert row["offered, pooled"].startswith("0.50 [") and not any(
        "recovered" in name for name in sheet.columns
    )
    tasks = by_task(found, "linear")
    assert tasks.columns[-1] == "offered" and tasks.rows[0][-1].startswith("0.67 [")
    [told, *_] = tidy(found).to_pylist()
    assert (
        told["recovered"] is None
        and told["offered"] == pytest.approx(2 / 3)
        and told["evaluation_cost"] == 9.06
    )
    verdict = said(found)
    paid = "100 queries for 2.00 to attack, and 453 more for 9.06 to measure."
    assert paid in verdict["The best attack."]
    assert "of the value that the service offers with 100 queries" in verdict["Easy to steal."]
    assert "unknown too" in verdict["How sure that is."]
    assert "TA_clean" in verdict["How sure that is."]
    notes = " ".join(about(found, "linear"))
    assert (
        "100 queries, cost 2.00; measuring it took 453 more, cost 9.06" in notes
        and "offered, the share of" in notes
    )
    picture = budgets(found, "linear")
    assert (
        "share of what the service offers" in picture.caption
        and "recovered" not in picture.alternative
    )
    assert "TA_clean" not in accuracies(found[0], "linear").alternative
    page = write([folder], tmp_path / "out", "linear", verdict=verdict_on(found)).read_text()
    assert "queries to measure" in page and "offered, own" in page


def test_the_tidy_table_says_which_control_is_c_and_by_how_much_it_leads(tmp_path: Path) -> None:
    [row] = tidy(group_runs([finished_run(tmp_path, "g", STRONG)])).to_pylist()
    assert (
        row["strongest_control"] == "untrained"
        and row["control_lead"] == 0
        and row["role"] == "own"
    )


def test_captions_say_what_is_bold(tmp_path: Path) -> None:
    caption = overview_caption(group_runs([finished_run(tmp_path, "g", STRONG)]))
    assert "paired 95 % interval" in caption and "nothing is bold" in caption


class Reader(HTMLParser):
    """What a page shows before a fold is opened: words, words in pictures, links, their places."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.folds = 0
        self.open_words = list[str]()
        self.links = set[str]()
        self.places = set[str]()
        self.hidden = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        self.folds += tag == "details"
        self.hidden += tag == "style"
        self.places.add(told.get("id") or "")
        if (told.get("href") or "").startswith("#"):
            self.links.add(str(told["href"])[1:])
        if tag == "img" and not self.folds:
            self.open_words.append(str(told["alt"]))
            picture = base64.b64decode(str(told["src"]).split(",")[1]).decode()
            self.open_words += re.findall(r"<!-- (.*?) -->", picture)

    def handle_endtag(self, tag: str) -> None:
        self.folds -= tag == "details"
        self.hidden -= tag == "style"

    def handle_data(self, data: str) -> None:
        if not self.folds and not self.hidden:
            self.open_words.append(data)


def test_an_audits_page_shows_no_option_before_a_fold_is_opened(tmp_path: Path) -> None:
    folders = [
        finished_run(tmp_path / "runs", "g1", STRONG, attack="stolen_encoder", price=0.01),
        finished_run(tmp_path / "runs", "g2", STRONG, attack="conventional", price=0.01),
        finished_run(tmp_path / "runs", "g3", WEAK, attack="stolen_encoder", defense="topk"),
        finished_run(
            tmp_path / "runs", "g4", STRONG, attack="stolen_encoder", defense="b4b", plan="sybil"
        ),
    ]
    verdict = verdict_on(group_runs(folders))
    html = write(
        folders, tmp_path / "out", "linear", verdict=verdict, command="python eval.py a=b"
    ).read_text()
    read = Reader(html)
    words = " ".join(read.open_words)
    assert "Top-k" in words and "StolenEncoder" in words and "Several accounts and a map" in words
    for option in ("stolen_encoder", "conventional", "topk", "b4b", "sybil", "eval.py"):
        assert re.search(rf"\b{option}\b", words) is None, option
        assert option in html, "it stands in the folded part"
    assert re.search(r"\w=\w", words) is None, "no parameter either"
    assert read.links and read.links <= read.places, "each word that is linked is explained"
    for part in ("Recovered at the largest budget", "Price of the cheapest success", "1.00"):
        assert part in words
    assert "Best defense" in words and "How sure that is" in words


def test_the_headline_is_one_plain_sentence(tmp_path: Path) -> None:
    found = group_runs([finished_run(tmp_path, "g", STRONG, price=0.01)])
    headline = (
        "The best attack recovered 67% [61% to 72%] of the encoder's value "
        "with 100 queries for 1.00."
    )
    assert said(found)["Easy to steal."].startswith(headline)


def test_an_attack_that_failed_is_no_proof_of_safety_on_the_page_either(tmp_path: Path) -> None:
    folder = finished_run(tmp_path / "runs", "g", WEAK)
    [weak] = group_runs([folder])
    short = verdict_on([of(weak, **SHORT)])
    page = write([folder], tmp_path / "out", "linear", verdict=short).read_text()
    assert "That is no proof of safety: attacks were cut short." in page
    full = write([folder], tmp_path / "out", "linear", verdict=verdict_on([weak])).read_text()
    assert "no proof of safety" not in full and "Hardly stolen here." in full
