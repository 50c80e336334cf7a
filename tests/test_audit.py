"""The verdict in words, by hand; an audit from the command to its page; and any encoder judged alone."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from browsing import look
from conftest import ROOT, Command
from hydra import initialize_config_dir
from serving import save_trivial, served

from stealing.audit import Audit
from stealing.config import composed
from stealing.errors import StealingError
from stealing.report.advice import advice
from stealing.report.runs import Setting
from stealing.report.seeds import FinishedRun
from stealing.report.words import glossary

TASKS = ("scene_texture", "plain_texture", "scene_kind", "plain_kind")
SMALL = [f"data.tasks.{task}.{split}.count=300" for task in TASKS for split in ("train", "test")]
TINY = ("target=zoo", "trainer.threads=1", "data.queries.count=1000", "control.batch_size=64", *SMALL)


DEFENSES = "Defenses, against attacks with 1,000 images."

TRAINED = {
    "steps": 1200, "batch_size": 128, "images": 153600, "preset_steps": 1200, "levelled": True, "last_change": -0.01
}  # fmt: skip


def setting(
    budget: int, recovered: float | None, defense: str = "none", loss: float = 0.0, plan: str = "once"
) -> Setting:
    """An attack that was trained to its end, by its figures."""
    row: dict[str, Any] = {
        "SA": 0.5,
        "honest_loss": loss,
        "recovered": recovered,
        "offered": recovered,
        "informative": [],
        "held": {"recovered": recovered},
    }
    row["intervals"] = {"honest_loss": [loss - 0.005, loss + 0.005]}
    own: dict[str, Any] = {"tasks": [], "recovered": recovered, "offered": recovered, "intervals": {}}
    if recovered is not None:
        own["tasks"] = ["a"]
        own["intervals"] = {name: [recovered - 0.05, recovered + 0.05] for name in ("recovered", "offered")}
        row["informative"] = ["a"]
        row["intervals"] |= own["intervals"]
    row["roles"] = {"own": own}
    task = {"TA_clean": 0.6, "TA": 0.6 - loss, "controls": {"pixels": 0.1}, "agreement": 0.4, "agreement_ceiling": 0.7}
    task |= {"recovered": recovered, "control": {"name": "pixels"}, "held": {"TA_clean": 0.12, "pixels": 0.1}}
    joined = {
        "overall": {"linear": row},
        "tasks": {"a": {"role": "own", "linear": task}},
        "defense": {"settings": {defense: {"_target_": "x", "k": 3, "secret": None}} if defense != "none" else {}},
        "seeds": [0],
        "training": [TRAINED],
        "honest_user": 200,
        "queries": {
            "budget": budget, "spent": budget, "cost": budget / 100, "evaluation": 5000, "evaluation_cost": 50.0
        },
    }  # fmt: skip
    choices = {"data": "x", "target": "x", "attack": "stolen_encoder", "defense": defense, "plan": plan}
    return Setting(f"{defense} {plan} {budget}", choices, joined, [FinishedRun(Path("r"), {}, {})])


def said(*found: Setting, **options: Any) -> dict[str, str]:
    return dict(advice(found, "linear", 0.5, **options))


def test_a_verdict_names_each_price_the_cheapest_theft_and_what_may_be_lost() -> None:
    told = said(setting(250, 0.3), setting(1000, 0.6), setting(2500, 0.9))
    easy = told["Easy to steal."]
    assert "30% [25% to 35%] with 250 queries for 2.50; 60%" in easy
    assert "90% [85% to 95%] with 2,500 queries for 25.00, of own tasks." in easy
    assert "2,500 queries for 25.00 to attack, 5,000 more for 50.00 to measure." in easy
    assert "agree on 40% of test images, two on the target, trained on different samples, on 70%" in easy
    assert "stolen_encoder with 1,000 queries for 10.00 (train a surrogate" in told["The cheapest attack."]
    assert "once, from one account): it recovers 60%" in told["The cheapest attack."]
    assert "250 images for each account keeps these attacks below 50%" in told["What would lower the risk."]
    assert "that were measured here asked about at most 200 each" in told["What would lower the risk."]
    assert "was run once" in told["How sure that is."] and len(told) == 5
    costly = said(setting(250, 0.6))["What would lower the risk."]
    assert "250, the fewest tried, are already enough for 50%" in costly


def test_a_defense_is_recommended_only_if_it_is_useful_against_the_strongest_plan() -> None:
    bare = setting(1000, 0.9)
    useful = said(bare, setting(1000, 0.4, "good", 0.002), setting(1000, 0.1, "dear", 0.05))
    assert "good at k=3 has the best trade and is worth its cost" in useful[DEFENSES]
    assert "Switch on good." in useful["What would lower the risk."]
    beaten = said(bare, setting(1000, 0.4, "good", 0.002), setting(1000, 0.85, "good", 0.002, "sybil"))
    assert "None of the 1 tried takes at least 20 percentage points" in beaten[DEFENSES]
    assert "(ask from several accounts, and learn" in beaten[DEFENSES]
    assert "Beware of good at k=3: an attacker that does not adapt recovers 40%" in beaten[DEFENSES]
    assert "good can be switched on at next to no cost" in beaten["What would lower the risk."]
    assert "Beware" not in useful[DEFENSES] and "switched on" not in useful["What would lower the risk."]
    assert "Switch" not in beaten["What would lower the risk."]
    dear = said(bare, setting(1000, 0.1, "dear", 0.05))
    assert "None is worth its cost by our bar" in dear[DEFENSES]
    assert (
        "get 5.0 [4.5 to 5.5] fewer of 100 test images right than the 60 without it: 10% of that value."
        in dear[DEFENSES]
    )


def test_what_is_not_shown_is_not_claimed() -> None:
    bare = setting(1000, 0.9)
    small = said(bare, setting(1000, 0.4, "good", 0.008))[DEFENSES]  # at most 1.3 points: too few test pictures
    assert (
        "None is shown to be worth its cost, but good at k=3 may be: more test images would decide whether it costs"
        in small
    )
    vague = setting(1000, 0.4, "good", 0.002)
    vague.joined["overall"]["linear"]["intervals"]["recovered"] = [-0.2, 0.95]  # it may take nothing
    assert "more test images would decide whether it takes anything" in said(bare, vague)[DEFENSES]
    weak = said(setting(1000, 0.1), setting(1000, -0.3, "good", 0.002))
    assert (
        "None of the 1 tried takes at least 20 percentage" in weak[DEFENSES]
        and "nothing, 10 percentage" in weak[DEFENSES]
    )
    assert (
        "get as many of 100 test images right as the 60 without it."
        in said(bare, setting(1000, 0.4, "good", -0.01))[DEFENSES]
    )


def test_a_useful_defense_that_some_plan_answers_is_recommended_and_not_belittled() -> None:
    told = said(setting(1000, 0.95), setting(1000, 0.4, "good", 0.002), setting(1000, 0.65, "good", 0.002, "sybil"))
    assert "Switch on good." in told["What would lower the risk."]
    assert "little protection" not in told["What would lower the risk."]


def test_what_customers_lose_is_set_beside_the_worth_of_the_same_tasks_alone() -> None:
    dear = setting(1000, 0.1, "dear", 0.05)
    dear.joined["tasks"]["b"] = dear.joined["tasks"]["a"]
    dear.joined["overall"]["linear"]["informative"] = ["a"]
    assert "right than the 60 without it." in said(setting(1000, 0.9), dear)[DEFENSES]


def test_a_chain_names_the_strengths_of_those_that_have_any_and_no_secret() -> None:
    chain = setting(1000, 0.4, "unit+topk", 0.002)
    chain.joined["defense"]["settings"] = {"unit": {"_target_": "x"}, "topk": {"_target_": "x", "k": 3, "secret": "S"}}
    assert "are 0) at k=3 has the best trade" in said(setting(1000, 0.9), chain)[DEFENSES]
    assert glossary([chain])["unit"] == "answers are scaled to length 1." and "Here: k=3." in glossary([chain])["topk"]


def test_what_is_told_as_enough_is_enough() -> None:
    told = said(setting(1000, 0.497))
    assert "50% [45% to 55%]" in told["Easy to steal."] and "it recovers 50%" in told["The cheapest attack."]
    assert "1,000, the fewest tried, are already enough for 50%" in told["What would lower the risk."]


def test_a_defense_whose_seeds_no_theft_without_one_has_is_named_and_not_judged() -> None:
    bare, ended, other = setting(1000, 0.9), setting(1000, 0.4, "good", 0.002), setting(1000, 0.1, "half", 0.002)
    other.joined["seeds"] = [0, 1]
    other.runs.append(other.runs[0])
    told = said(bare, ended, other)
    assert (
        "good at k=3 has the best trade" in told[DEFENSES] and "Not judged: half against once, as no" in told[DEFENSES]
    )
    stronger = setting(1000, 0.6, "good", 0.002, "sybil")
    stronger.joined["seeds"] = [0, 1]
    told = said(bare, ended, stronger, other)
    assert told[DEFENSES].startswith("Not judged: good against sybil, half against once"), "not by a weaker plan"
    assert said(bare, other)[DEFENSES].startswith("Not judged: half")
    assert "Each attack was run with 1 to 2 seeds" in told["How sure that is."]


def test_what_a_plan_gains_without_a_defense_is_not_held_against_the_defense() -> None:
    defended = setting(1000, 0.75, "good", 0.002, "standardising")
    assert "10 percentage points less than without it" in said(setting(1000, 0.85), defended)[DEFENSES]
    both = said(setting(1000, 0.85), setting(1000, 0.97, plan="standardising"), defended)
    assert "22 percentage points less than without it" in both[DEFENSES]
    assert "97% [92% to 102%] with 1,000 queries" in both["Easy to steal."]
    idle = said(
        setting(1000, 0.5), setting(1000, 0.8, plan="standardising"),
        setting(1000, 0.5, "idle", 0.0), setting(1000, 0.8, "idle", 0.0, "standardising"),
    )  # fmt: skip
    assert "Beware" not in idle[DEFENSES] and "idle can be" not in idle["What would lower the risk."]


def test_budgets_at_which_no_task_could_tell_are_named() -> None:
    told = said(setting(250, 0.3), setting(1000, None))
    assert "Attacks with 1,000 images are left out" in told["How sure that is."]


def test_where_no_task_can_tell_nothing_is_claimed() -> None:
    told = said(setting(250, None), failures=2)
    assert (
        list(told) == ["Not decided.", "How sure that is."]
        and "2 attacks could not be tried" in told["How sure that is."]
    )


@pytest.mark.parametrize(
    ("limit", "sentence"),
    [
        ("audit.queries=100", "set audit.queries="), ("audit.money=1", "set audit.money="),
        ("audit.seeds=[]", "set them to"), ("seed=1", "leave seed=1 out"),
        ("audit.queries=3500 audit.seeds=[0,1]", "set audit.queries=4403"),
        ("audit.money=1 budget.price=0", "set budget.price= too"),
        ("audit.budgets=[]", "set them to"), ("audit.queries=null", "set them to"), ("audit.attacks=[]", "set them to"),
        ("audit.defenses=[tpk]", "tpk"), ("audit.budgets=250", "set them to"), ("audit.defenses=topk", "set them to"),
        ("defense=topk", "leave defense=topk out"),
        ("audit.enough=50%", "is a share above 0"), ("audit.money=50EUR", "an amount, such as 50"),
        ("audit.budgets=[-5]", "set them to"), ("audit.budgets=[true]", "set them to"),
        ("audit.attacks=[1]", "set them to"),
        ("audit.enough=true", "is a share above 0"), ("audit.out=2026", "audit.out=2026 is no folder"),
        ("audit.out=README.md", "audit.out=README.md is no folder"),
        ("audit.defenses=[{name:topk,strengths:[16]}]", "audit.defenses holds"),
        ("audit.defenses=[{name:topk,plans:[1]}]", "audit.defenses holds"),
        ("audit.defenses=[{name:topk,plans:[]}]", "audit.defenses holds"),
        ("audit.defenses=[{name:topk,strength:['topk.k=4']}]", "audit.defenses holds"),
        ("audit.defenses=[{plans:[once]}]", "audit.defenses holds"),
        ("audit.budgets=[100]", "is more than the 100 images"), ("audit.defenses=[1]", "audit.defenses holds 1: write"),
        ("audit.budgets=[250,5000]", "more than the 1000 query images: lower"),
        ("audit.defenses=[{name:topk,strengths:'topk.k=4'}]", "audit.defenses holds"),
        ("audit.defenses=[{name:topk,strengths:['topk.k=0']}]", "k=0"),
        ("audit.budgets=[256] audit.defenses=[{name:b4b,plans:[sybil]}]",
         "attack=stolen_encoder budget.images=256 defense=b4b plan=sybil: budget"),
        ("audit.attacks=[stolen_encoder_paper]", "for steps or for epochs"),
    ],
)  # fmt: skip
def test_an_audit_refuses_what_is_beyond_its_limits_or_means_nothing_before_it_asks(
    limit: str, sentence: str, tmp_path: Path
) -> None:
    words = [*TINY, f"paths.work={tmp_path}", "budget.price=0.01", *limit.split()]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config, _ = composed("audit", words)
        with pytest.raises(StealingError, match=re.escape(sentence)):
            Audit(config, words).check()
    assert not (tmp_path / "ledger.sqlite").exists()


def test_a_guard_of_another_encoder_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    other = [f"target.path={save_trivial(tmp_path, size=32)}", "audit.defenses=[guard]", f"paths.work={tmp_path}"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        words = [*TINY[1:], *other]
        with pytest.raises(StealingError, match=r"reference is of encoder aeacbb56.*detection\.py --encoder"):
            Audit(composed("audit", words)[0], words).check()
    assert not (tmp_path / "ledger.sqlite").exists()


def test_the_next_theft_that_a_page_proposes_is_one_that_an_audit_accepts(tmp_path: Path) -> None:
    proposed = re.findall(r"audit\.\w+=\[[\d,]+\]", said(setting(1000, 0.6))["What would lower the risk."])
    assert len(proposed) == 2
    words = [*TINY, f"paths.work={tmp_path}", *proposed]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        assert "to measure" in Audit(composed("audit", words)[0], words).check()


def test_an_audit_that_is_refused_is_one_line(command: Command, tmp_path: Path) -> None:
    done = command("eval.py", "--config-name", "audit", *TINY, "audit.queries=100")
    assert done.returncode == 1 and "set audit.queries=" in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "work" / "ledger.sqlite").exists()


def test_any_encoder_is_judged_alone_and_through_the_door(command: Command, tmp_path: Path) -> None:
    done = command("eval.py", *TINY, "tasks=[scene_texture,plain_kind]", "budget.price=0.5")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert list(told["tasks"]) == ["scene_texture", "plain_kind"] and told["queries"]["evaluation"] == 1200
    assert told["queries"]["evaluation_cost"] == 600
    row = told["tasks"]["plain_kind"]["linear"]
    assert row["interval"][0] < row["accuracy"] < row["interval"][1] and row["accuracy"] > 0.25
    worse = command("eval.py", *TINY, "tasks=[plain_kind]", "defense=topk", "defense.topk.k=1")
    assert json.loads(worse.stdout)["tasks"]["plain_kind"]["linear"]["accuracy"] < row["accuracy"]
    one = command("eval.py", *TINY, "tasks=[scene_texture,plain_kind]", "heads=knn")
    assert set(json.loads(one.stdout)["tasks"]["plain_kind"]) == {"role", "knn"}
    headless = command("eval.py", *TINY, "heads=mlp")
    assert headless.returncode == 1 and "heads=mlp is none of this protocol's, linear, knn" in headless.stderr
    assert len(list((tmp_path / "work" / "judged").iterdir())) == 3, "fewer heads do not take the place of more"
    wrong = command("eval.py", *TINY, "tasks=[cats]")
    assert wrong.returncode == 1 and "tasks=cats is none of this data set's" in wrong.stderr
    nothing = command("eval.py")
    assert nothing.returncode == 1 and "run=" in nothing.stderr and "target.path=" in nothing.stderr


@pytest.mark.slow
def test_an_endpoint_is_judged_like_the_encoder_behind_it(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = json.loads(command("eval.py", *TINY, "tasks=[plain_kind]").stdout)
    with served(tmp_path, encoder=Path("assets/cifar10_narrow/encoder.safetensors").resolve()) as service:
        choices = (*TINY, "target=service", f"target.remote.url={service.url}", "tasks=[plain_kind]")
        done = command("eval.py", *choices, STEALING_KEY=service.key)
        assert done.returncode == 0, done.stderr
        assert service.billed() == 600
    assert json.loads(done.stdout)["tasks"] == here["tasks"]


@pytest.mark.slow
def test_an_audit_ends_in_a_page_with_a_verdict(command: Command, browser: Any, tmp_path: Path) -> None:
    line = ["eval.py", "--config-name", "audit", *TINY, "audit.budgets=[128,256]", "attack.steps=40"]
    defenses = (
        "none,{name:topk,strengths:['topk.k=64','topk.k=4'],plans:[completion]},{name:rounding},"  # none once more
        "{name:noise,strengths:['noise.sigma=1e38']}"  # no number is left to train on
    )
    line += ["attack.batch_size=64", f"audit.defenses=[{defenses}]"]
    done = command(*line)
    assert done.returncode == 0, done.stderr
    page = tmp_path / "work" / "audits" / "zoo-aeacbb56" / "index.html"
    tab = look(browser, page, tmp_path / "shots")
    look(browser, page, tmp_path / "shots", width=390)
    words = tab.query_selector("#verdict").inner_text()
    parts = ("The cheapest attack.", "Defenses, against", "What would lower the risk.", "How sure")
    assert all(part in words for part in parts)
    assert "nothing here shows that the encoder is safe" in words, "40 steps are no full attack"
    assert "1 attacks could not be tried" in words and "no longer a number" in done.stderr
    assert {"topk k=4", "topk k=64", "rounding"} <= {cell.inner_text() for cell in tab.query_selector_all("tbody th")}
    again = command(*line)
    assert "steal: step" not in again.stderr and again.stdout.splitlines()[-1] == done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_an_endpoint_is_audited_by_what_it_offers_and_bills_what_was_announced(
    command: Command, tmp_path: Path
) -> None:
    with served(tmp_path, encoder=Path("assets/cifar10_narrow/encoder.safetensors").resolve()) as service:
        line = ["eval.py", "--config-name", "audit", *TINY, "target=service", f"target.remote.url={service.url}"]
        line += ["audit.budgets=[64,128]", "attack.steps=30", "attack.batch_size=64", "budget.price=0.01"]
        done = command(*line, STEALING_KEY=service.key)
        assert done.returncode == 0, done.stderr
        assert "at most 128 images are asked about to attack and 2,403 to measure, cost 25.31" in done.stderr
        assert service.billed() == 128 + 2403
    told = " ".join(done.stdout.split())
    assert "At least partly stolen." in told, "30 steps are no full attack"
    assert "How sure that is." in told and "Defenses, against" not in told
    assert "with 128 queries for 1.28" in told and "2,403 more for 24.03 to measure" in told
    assert "offered, of what the service offers" in told
    assert "Each defense" not in told, "nobody knows of one"
