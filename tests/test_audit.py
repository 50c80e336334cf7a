"""The verdict in words, by hand; an audit from the command to its page; an encoder judged alone."""

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
from stealing.config import compose_config
from stealing.errors import StealingError
from stealing.report.advice import advice
from stealing.report.run_files import FinishedRun
from stealing.report.runs import RunGroup
from stealing.report.wording import verdict_sections
from stealing.report.words import option_glossary

TASKS = ("scene_texture", "plain_texture", "scene_kind", "plain_kind")
SMALL = [f"data.tasks.{task}.{split}.count=300" for task in TASKS for split in ("train", "test")]
TINY = (
    "target=zoo",
    "trainer.threads=1",
    "data.queries.count=1000",
    "control.batch_size=64",
    *SMALL,
)


TODO = "What to do."

TRAINED = {
    "steps": 1200,
    "batch_size": 128,
    "images": 153600,
    "preset_steps": 1200,
    "levelled": True,
    "last_change": -0.01,
}


def setting(
    budget: int,
    recovered: float | None,
    defense: str = "none",
    loss: float = 0.0,
    plan: str = "once",
    held: float | None = None,
) -> RunGroup:
    """An attack that was trained to its end, by its figures; `held` is recovered on held rows."""
    row: dict[str, Any] = {
        "SA": 0.5,
        "honest_loss": loss,
        "recovered": recovered,
        "offered": recovered,
        "informative": [],
        "held": {"recovered": recovered if held is None else held},
    }
    row["intervals"] = {"honest_loss": [loss - 0.005, loss + 0.005]}
    own: dict[str, Any] = {
        "tasks": [],
        "recovered": recovered,
        "offered": recovered,
        "intervals": {},
    }
    if recovered is not None:
        own["tasks"] = ["a"]
        own["intervals"] = {
            name: [recovered - 0.05, recovered + 0.05] for name in ("recovered", "offered")
        }
        row["informative"] = ["a"]
        row["intervals"] |= own["intervals"]
    row["roles"] = {"own": own}
    task = {
        "TA_clean": 0.6,
        "TA": 0.6 - loss,
        "controls": {"pixels": 0.1},
        "agreement": 0.4,
        "agreement_ceiling": 0.7,
    }
    task |= {
        "recovered": recovered,
        "control": {"name": "pixels"},
        "held": {"TA_clean": 0.12, "TA": 0.12 - loss, "pixels": 0.1},
    }
    joined = {
        "overall": {"linear": row},
        "tasks": {"a": {"role": "own", "linear": task}},
        "defense": {
            "settings": {defense: {"_target_": "x", "k": 3, "secret": None}}
            if defense != "none"
            else {}
        },
        "seeds": [0],
        "training": [TRAINED],
        "honest_user": 200,
        "queries": {
            "budget": budget,
            "spent": budget,
            "cost": budget / 100,
            "evaluation": 5000,
            "evaluation_cost": 50.0,
        },
    }
    choices = {
        "data": "x",
        "target": "x",
        "attack": "stolen_encoder",
        "defense": defense,
        "plan": plan,
    }
    return RunGroup(f"{defense} {plan} {budget}", choices, joined, [FinishedRun(Path("r"), {}, {})])


def said(*found: RunGroup, **options: Any) -> dict[str, str]:
    return verdict_sections(advice(found, "linear", 0.5, **options))


def test_a_verdict_names_each_price_the_cheapest_attack_and_what_may_be_lost() -> None:
    told = said(setting(250, 0.3), setting(1000, 0.6), setting(2500, 0.9))
    easy = told["Easy to steal."]
    assert "recovered 90% [85% to 95%] of the encoder's value with 2,500 queries for 25.00." in easy
    assert "With 250 queries for 2.50, the best attack recovered 30% [25% to 35%]." in easy
    assert "With 1,000 queries for 10.00, the best attack recovered 60% [55% to 65%]." in easy
    assert "Shares are of own tasks." in easy
    paid = "used 2,500 queries for 25.00 to attack, and 5,000 more for 50.00 to measure."
    assert paid in told["The best attack."]
    assert (
        "agree on 40% of test images; two on the target, trained on different samples, agree on 70%"
        in easy
    )
    cheapest = "took 1,000 queries for 10.00 and recovered 60% [55% to 65%]. It was StolenEncoder"
    assert cheapest in told["The cheapest attack."]
    assert "(plan: One query an image)" in told["The cheapest attack."]
    assert "Limit each account to 250 images. This keeps these attacks below 50%" in told[TODO]
    assert "that were measured here sent at most 200 each" in told[TODO]
    assert "was run once" in told["How sure that is."] and len(told) == 6
    costly = said(setting(250, 0.6))[TODO]
    assert "250 images, the fewest tried, are already enough for 50%" in costly


def test_a_defense_is_recommended_only_if_it_is_useful_against_the_strongest_plan() -> None:
    bare = setting(1000, 0.9)
    useful = said(bare, setting(1000, 0.4, "good", 0.002), setting(1000, 0.1, "dear", 0.05))
    assert "Switch on good. It has the best trade" in useful[TODO]
    assert "it is worth its cost" in useful[TODO]
    assert "good: defense=good with k=3" in useful["Settings."]
    beaten = said(
        bare, setting(1000, 0.4, "good", 0.002), setting(1000, 0.85, "good", 0.002, "sybil")
    )
    assert "None of the 1 takes at least 20 percentage points" in beaten[TODO]
    assert "(plan: Several accounts and a map) recovered 85%" in beaten[TODO]
    naive = "Do not rely on good alone. An attacker who does not adapt recovered 40%"
    assert (
        naive in beaten[TODO]
        and "works around it (plan: Several accounts and a map)" in beaten[TODO]
    )
    assert "It can be switched on at next to no cost" in beaten[TODO]
    assert "Do not rely" not in useful[TODO] and "can be switched on" not in useful[TODO]
    assert "Switch" not in beaten[TODO]
    dear = said(bare, setting(1000, 0.1, "dear", 0.05))
    assert "No defense that was tried is worth its cost." in dear[TODO]
    assert (
        "got 5.0 [4.5 to 5.5] fewer of 100 test images right than the 60 without it: 10% of the"
        in dear[TODO]
    )


def test_held_rows_choose_what_a_verdict_speaks_of_and_test_images_say_how_good_it_is() -> None:
    bare = setting(1000, 0.9)
    lucky = setting(1000, 0.3, "lucky", 0.002, held=0.5)
    steady = setting(1000, 0.6, "steady", 0.002, held=0.4)
    assert "Switch on steady." in said(bare, lucky, steady)[TODO]
    luckier = setting(1000, 0.3, "lucky", 0.002, held=0.85)
    dear = said(bare, luckier, setting(1000, 0.5, "dear", 0.05))[TODO]
    assert "dear is not worth its cost." in dear, "though on the test images lucky would be"
    assert "No defense that was tried" not in dear and "recovered 50%" in dear
    weak = said(bare, luckier, setting(1000, 0.8, "weak", 0.002))[TODO]
    assert "Do not rely on a defense that was tried." in weak and "None of the" not in weak
    assert "by held rows of the training images, is weak." in weak
    told = said(setting(250, 0.6, held=0.4), setting(1000, 0.45, held=0.55), setting(2500, 0.9))
    assert "took 1,000 queries for 10.00 and recovered 45%" in told["The cheapest attack."]
    none = said(setting(250, 0.6, held=0.4))["The cheapest attack."]
    assert "No attack that was tried recovered 50%" in none


def test_what_is_not_shown_is_not_claimed() -> None:
    bare = setting(1000, 0.9)
    # At most 1.3 points: too few test images.
    small = said(bare, setting(1000, 0.4, "good", 0.008))[TODO]
    assert "good may be worth its cost, but this audit does not show it." in small
    assert "More test images would decide whether it costs" in small and "Switch on" not in small
    vague = setting(1000, 0.4, "good", 0.002)
    # It may take nothing.
    vague.joined["overall"]["linear"]["intervals"]["recovered"] = [-0.2, 0.95]
    told = said(bare, vague)[TODO]
    assert "More test images would decide whether it takes anything" in told
    weak = said(setting(1000, 0.1), setting(1000, -0.3, "good", 0.002))[TODO]
    assert "None of the 1 takes at least 20 percentage" in weak
    assert "nothing, 10 percentage" in weak
    assert (
        "got as many of 100 test images right as the 60 without it."
        in said(bare, setting(1000, 0.4, "good", -0.01))[TODO]
    )


def test_a_useful_defense_that_some_plan_answers_is_recommended_and_not_belittled() -> None:
    told = said(
        setting(1000, 0.95),
        setting(1000, 0.4, "good", 0.002),
        setting(1000, 0.65, "good", 0.002, "sybil"),
    )
    assert "Switch on good." in told[TODO]
    assert "Do not rely" not in told[TODO]


def test_what_customers_lose_is_set_beside_the_worth_of_the_same_tasks_alone() -> None:
    dear = setting(1000, 0.1, "dear", 0.05)
    dear.joined["tasks"]["b"] = dear.joined["tasks"]["a"]
    dear.joined["overall"]["linear"]["informative"] = ["a"]
    assert "right than the 60 without it." in said(setting(1000, 0.9), dear)[TODO]


def test_a_chain_names_the_strengths_of_those_that_have_any_and_no_secret() -> None:
    chain = setting(1000, 0.4, "unit+topk", 0.002)
    chain.joined["defense"]["settings"] = {
        "unit": {"_target_": "x"},
        "topk": {"_target_": "x", "k": 3, "secret": "S"},
    }
    told = said(setting(1000, 0.9), chain)
    assert "Switch on Unit length + Top-k." in told[TODO]
    assert "Unit length + Top-k: defense=unit+topk with k=3;" in told["Settings."]
    words = option_glossary([chain])
    assert words["unit"] == "Unit length. Each answer is scaled to length 1."
    assert words["topk"].endswith("Here: k=3.")


def test_what_is_told_as_enough_is_enough() -> None:
    told = said(setting(1000, 0.497))
    assert "50% [45% to 55%]" in told["Easy to steal."]
    assert "recovered 50%" in told["The cheapest attack."]
    assert "1,000 images, the fewest tried, are already enough for 50%" in told[TODO]


def test_a_defense_whose_seeds_no_attack_without_one_has_is_named_and_not_judged() -> None:
    bare, ended, other = (
        setting(1000, 0.9),
        setting(1000, 0.4, "good", 0.002),
        setting(1000, 0.1, "half", 0.002),
    )
    other.joined["seeds"] = [0, 1]
    other.runs.append(other.runs[0])
    told = said(bare, ended, other)
    assert "Switch on good." in told[TODO]
    assert "Not judged: half against One query an image because no" in told[TODO]
    stronger = setting(1000, 0.6, "good", 0.002, "sybil")
    stronger.joined["seeds"] = [0, 1]
    told = said(bare, ended, stronger, other)
    both = "Not judged: good against Several accounts and a map, half against One query an image"
    assert both in told[TODO] and "Switch on" not in told[TODO], "not by a weaker plan"
    assert said(bare, other)[TODO].startswith("Run the command again. Not judged: half")
    assert "Each attack was run with 1 to 2 seeds" in told["How sure that is."]


def test_what_a_plan_gains_without_a_defense_is_not_held_against_the_defense() -> None:
    defended = setting(1000, 0.75, "good", 0.002, "standardising")
    assert "10 percentage points less than without it" in said(setting(1000, 0.85), defended)[TODO]
    both = said(setting(1000, 0.85), setting(1000, 0.97, plan="standardising"), defended)
    assert "22 percentage points less than without it" in both[TODO]
    assert "97% [92% to 102%] of the encoder's value with 1,000" in both["Easy to steal."]
    idle = said(
        setting(1000, 0.5),
        setting(1000, 0.8, plan="standardising"),
        setting(1000, 0.5, "idle", 0.0),
        setting(1000, 0.8, "idle", 0.0, "standardising"),
    )
    assert "Do not rely on idle" not in idle[TODO] and "can be switched on" not in idle[TODO]


def test_budgets_at_which_no_task_could_tell_are_named() -> None:
    told = said(setting(250, 0.3), setting(1000, None))
    assert "Attacks with 1,000 images are left out" in told["How sure that is."]


def test_where_no_task_can_tell_nothing_is_claimed() -> None:
    told = said(setting(250, None), failures=2)
    assert (
        list(told) == ["Not decided.", "How sure that is.", "Settings."]
        and "2 attacks could not be tried" in told["How sure that is."]
    )


@pytest.mark.parametrize(
    ("limit", "sentence"),
    [
        ("audit.queries=100", "set audit.queries="),
        ("audit.money=1", "set audit.money="),
        ("audit.seeds=[]", "set it to"),
        ("seed=1", "leave seed=1 out"),
        ("audit.queries=3500 audit.seeds=[0,1]", "set audit.queries=4403"),
        ("audit.money=1 budget.price=0", "set budget.price= too"),
        ("audit.budgets=[]", "set it to"),
        ("audit.queries=null", "set it to"),
        ("audit.attacks=[]", "set it to"),
        ("audit.defenses=[tpk]", "tpk"),
        ("audit.budgets=250", "set it to"),
        ("audit.defenses=topk", "set it to"),
        ("defense=topk", "leave defense=topk out"),
        ("audit.enough=50%", "set it to a number above 0"),
        ("audit.money=50EUR", "a number from 0 to 1e+09, or null"),
        ("audit.budgets=[-5]", "set it to"),
        ("audit.budgets=[true]", "set it to"),
        ("audit.attacks=[1]", "set it to"),
        ("audit.enough=true", "set it to a number above 0"),
        ("audit.out=2026", "audit.out=2026 does not fit"),
        ("audit.out=README.md", "audit.out=README.md is not a folder"),
        ("audit.defenses=[{name:topk,strengths:[16]}]", "audit.defenses holds"),
        ("audit.defenses=[{name:topk,plans:[1]}]", "audit.defenses holds"),
        ("audit.defenses=[{name:topk,plans:[]}]", "audit.defenses holds"),
        ("audit.defenses=[{name:topk,strength:['topk.k=4']}]", "audit.defenses holds"),
        ("audit.defenses=[{plans:[once]}]", "audit.defenses holds"),
        ("audit.budgets=[100]", "is more than the 100 images"),
        ("audit.defenses=[1]", "audit.defenses holds 1: write"),
        ("audit.budgets=[250,5000]", "more than the 1000 query images: set"),
        ("audit.defenses=[{name:topk,strengths:'topk.k=4'}]", "audit.defenses holds"),
        ("audit.defenses=[{name:topk,strengths:['topk.k=0']}]", "k=0"),
        (
            "audit.budgets=[256] audit.defenses=[{name:b4b,plans:[sybil]}]",
            "attack=stolen_encoder budget.images=256 defense=b4b plan=sybil: budget",
        ),
        ("audit.attacks=[stolen_encoder_paper]", "for steps or for epochs"),
    ],
)
def test_an_audit_refuses_what_is_beyond_its_limits_or_means_nothing_before_it_asks(
    limit: str, sentence: str, tmp_path: Path
) -> None:
    words = [*TINY, f"paths.work={tmp_path}", "budget.price=0.01", *limit.split()]
    inside = initialize_config_dir(str(ROOT / "conf"), version_base="1.3")
    with inside, pytest.raises(StealingError, match=re.escape(sentence)):
        Audit(compose_config("audit", words)[0], words).check()
    assert not (tmp_path / "ledger.sqlite").exists()


def test_a_guard_of_another_encoder_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    other = [
        f"target.path={save_trivial(tmp_path, size=32)}",
        "trust=[serving]",
        "audit.defenses=[guard]",
        f"paths.work={tmp_path}",
    ]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        words = [*TINY[1:], *other]
        with pytest.raises(
            StealingError, match=r"reference is of encoder aeacbb56.*detection\.py --encoder"
        ):
            Audit(compose_config("audit", words)[0], words).check()
    assert not (tmp_path / "ledger.sqlite").exists()


def test_the_next_attack_that_a_page_proposes_is_one_that_an_audit_accepts(tmp_path: Path) -> None:
    told = said(setting(1000, 0.6))["Settings."]
    proposed = re.findall(r"audit\.\w+=\[[\d,]+\]", told)
    assert len(proposed) == 2
    words = [*TINY, f"paths.work={tmp_path}", *proposed]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        assert "the evaluation" in str(Audit(compose_config("audit", words)[0], words).check())


def test_an_audit_that_is_refused_is_one_line(command: Command, tmp_path: Path) -> None:
    done = command("eval.py", "--config-name", "audit", *TINY, "audit.queries=100")
    assert (
        done.returncode == 1
        and "set audit.queries=" in done.stderr
        and len(done.stderr.splitlines()) == 1
    )
    assert not (tmp_path / "work" / "ledger.sqlite").exists()


def test_any_encoder_is_judged_alone_and_through_the_door(command: Command, tmp_path: Path) -> None:
    done = command("eval.py", *TINY, "tasks=[scene_texture,plain_kind]", "budget.price=0.5")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (
        list(told["tasks"]) == ["scene_texture", "plain_kind"]
        and told["queries"]["evaluation"] == 1200
    )
    assert told["queries"]["evaluation_cost"] == 600
    row = told["tasks"]["plain_kind"]["linear"]
    assert row["interval"][0] < row["accuracy"] < row["interval"][1] and row["accuracy"] > 0.25
    worse = command("eval.py", *TINY, "tasks=[plain_kind]", "defense=topk", "defense.topk.k=1")
    assert json.loads(worse.stdout)["tasks"]["plain_kind"]["linear"]["accuracy"] < row["accuracy"]
    one = command("eval.py", *TINY, "tasks=[scene_texture,plain_kind]", "heads=knn")
    assert set(json.loads(one.stdout)["tasks"]["plain_kind"]) == {"role", "knn"}
    headless = command("eval.py", *TINY, "heads=mlp")
    assert (
        headless.returncode == 1
        and "heads=mlp is not a head of this protocol: choose some of linear, knn"
        in headless.stderr
    )
    assert len(list((tmp_path / "work" / "judged").iterdir())) == 3, (
        "fewer heads do not take the place of more"
    )
    wrong = command("eval.py", *TINY, "tasks=[cats]")
    assert wrong.returncode == 1 and "tasks=cats is not a task of this data set" in wrong.stderr
    nothing = command("eval.py")
    assert nothing.returncode == 1 and "run=" in nothing.stderr and "target.path=" in nothing.stderr


@pytest.mark.slow
def test_an_endpoint_is_judged_like_the_encoder_behind_it(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = json.loads(command("eval.py", *TINY, "tasks=[plain_kind]").stdout)
    with served(
        tmp_path, encoder=Path("assets/cifar10_narrow/encoder.safetensors").resolve()
    ) as service:
        choices = (
            *TINY,
            "target=service",
            f"target.remote.url={service.url}",
            "tasks=[plain_kind]",
        )
        done = command("eval.py", *choices, STEALING_KEY=service.key)
        assert done.returncode == 0, done.stderr
        assert service.billed() == 600
    assert json.loads(done.stdout)["tasks"] == here["tasks"]


@pytest.mark.slow
def test_an_audit_ends_in_a_page_with_a_verdict(
    command: Command, browser: Any, tmp_path: Path
) -> None:
    line = [
        "eval.py",
        "--config-name",
        "audit",
        *TINY,
        "audit.budgets=[128,256]",
        "attack.steps=40",
    ]
    defenses = (
        # None once more.
        "none,{name:topk,strengths:['topk.k=64','topk.k=4'],plans:[completion]},{name:rounding},"
        # Hundreds: every answer is the same, and there is nothing to train on.
        "{name:rounding,strengths:['rounding.decimals=-2']}"
    )
    line += ["attack.batch_size=64", f"audit.defenses=[{defenses}]"]
    done = command(*line)
    assert done.returncode == 0, done.stderr
    page = tmp_path / "work" / "audits" / "zoo-aeacbb56" / "index.html"
    tab = look(browser, page, tmp_path / "shots")
    look(browser, page, tmp_path / "shots", width=390)
    tab.reload()
    first_fold = tab.evaluate("document.querySelector('details').getBoundingClientRect().top")
    assert first_fold < 5 * 800, "an owner reads fewer than five screens"
    words = tab.inner_text("main")
    parts = ("Price of the cheapest success", "Best defense", "What to do", "How sure that is")
    assert all(part in words for part in parts)
    assert "nothing here shows that the encoder is safe" in words, "40 steps are no full attack"
    assert "1 attack could not be tried" in words
    assert "one and the same vector for all 256 images" in done.stderr
    assert {"topk k=4", "topk k=64", "rounding"} <= {
        cell.text_content() for cell in tab.query_selector_all("tbody th")
    }
    again = command(*line)
    assert (
        "steal: step" not in again.stderr
        and again.stdout.splitlines()[-1] == done.stdout.splitlines()[-1]
    )


@pytest.mark.slow
def test_an_endpoint_is_audited_by_what_it_offers_and_bills_what_was_announced(
    command: Command, tmp_path: Path
) -> None:
    with served(
        tmp_path, encoder=Path("assets/cifar10_narrow/encoder.safetensors").resolve()
    ) as service:
        line = [
            "eval.py",
            "--config-name",
            "audit",
            *TINY,
            "target=service",
            f"target.remote.url={service.url}",
        ]
        line += [
            "audit.budgets=[64,128]",
            "attack.steps=30",
            "attack.batch_size=64",
            "budget.price=0.01",
        ]
        done = command(*line, STEALING_KEY=service.key)
        assert done.returncode == 0, done.stderr
        assert (
            "the attacks send at most 128 queries and the evaluation 2,403, cost 25.31"
            in done.stderr
        )
        assert service.billed() == 128 + 2403
    told = " ".join(done.stdout.split())
    unfinished = (
        "At least partly stolen.",
        "Not decided: attacks were cut short.",
    )  # which, the processor decides
    assert any(title in told for title in unfinished), "30 steps are no full attack"
    assert "How sure that is." in told and "defense that was tried" not in told
    assert "128 queries for 1.28" in told and "2,403 more for 24.03 to measure" in told
    assert "All shares are of what the service offers (offered)" in told
    assert "Each defense" not in told, "no defense is known"
