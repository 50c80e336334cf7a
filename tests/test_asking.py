"""Query plans: every query counts, accounts are separate, and what each plan recovers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import choose
from serving import Trivial, noise
from torch import Tensor

from stealing.attacks.query_plan import Plan, plan_context
from stealing.attacks.recovery import completed, remapped, standardised
from stealing.config import instantiate_node, to_dict
from stealing.data.images import Images
from stealing.data.sampling import generator
from stealing.defenses.chain import Chain, QueryBatch, StatefulDefense
from stealing.encoders import Encoder
from stealing.errors import ConfigError, Refused, TargetError
from stealing.evaluate import ask_about_task
from stealing.evaluation.protocol import Task
from stealing.queries.door import Budget, MeteredTarget
from stealing.queries.ledger import Ledger
from stealing.targets.local import LocalTarget, fingerprint

IMAGES = noise(120)


def door(folder: Path, *overrides: str, chain: Any = None, images: int = 1000) -> MeteredTarget:
    config = choose(*overrides).defense
    defense = chain or Chain(instantiate_node(config))
    encoder = Encoder(Trivial(16), [0.5] * 3, [0.25] * 3)
    target = LocalTarget(encoder, defense, fingerprint(defense, to_dict(config)) + str(chain), 8)
    return MeteredTarget(
        target, Ledger(str(folder / "ledger.sqlite")), folder / "banks", Budget(images, images)
    )


def plan(*overrides: str) -> Plan:
    made: Plan = instantiate_node(choose(*overrides).plan)
    return made


def truth(images: Tensor = IMAGES) -> Tensor:
    with torch.inference_mode():
        return Encoder(Trivial(16), [0.5] * 3, [0.25] * 3)(images.float() / 255)


def told(meter: MeteredTarget, how: Plan, count: int = 120) -> Tensor:
    features, answered = how.ask(
        meter, IMAGES[:count], plan_context(meter, seed=0, images=0 if how.grows else count), 0
    )
    assert answered.all()
    return features


def error(features: Tensor) -> float:
    return float((features - truth()[: len(features)]).square().mean().sqrt())


@pytest.mark.parametrize(
    ("overrides", "images"),
    [
        (["plan=once"], 120),
        (["plan=repeating"], 30),
        (["plan=averaging"], 30),
        (["plan=completion"], 120),
        (["plan=sybil", "plan.shared=20"], 100),
        (["plan=sybil", "plan.accounts=4", "plan.shared=10", "plan.repeats=1"], 90),
    ],
)
def test_a_plan_asks_about_as_many_images_as_its_budget_pays_for(
    overrides: list[str], images: int, tmp_path: Path
) -> None:
    how, meter = plan(*overrides), door(tmp_path, images=120)
    assert how.images(120) == images
    told(meter, how, images)
    assert meter.spent("attack") == meter.sent == 120
    with pytest.raises(ConfigError, match=r"budget\.images=1 "):
        plan("plan=sybil").images(1)


def test_repeated_questions_average_fresh_noise_away_and_not_noise_by_content(
    tmp_path: Path,
) -> None:
    fresh = door(
        tmp_path,
        "defense=noise",
        "defense.noise.sigma=0.5",
        "defense.noise.fresh=true",
        images=2000,
    )
    keyed = door(tmp_path, "defense=noise", "defense.noise.sigma=0.5")
    once, often = plan("plan=once"), plan("plan=repeating", "plan.repeats=8")
    assert error(told(fresh, often)) < 0.5 * error(told(fresh, once))
    assert torch.allclose(told(keyed, often), told(keyed, once), atol=1e-5)


def test_near_copies_average_noise_by_content_and_rounding_away(tmp_path: Path) -> None:
    still = ("plan.views.crop=[1,1]", "plan.views.flip=0")
    near = plan("plan=averaging", "plan.near=15", *still)
    for overrides in (
        ("defense=noise", "defense.noise.sigma=1"),
        ("defense=rounding", "defense.rounding.decimals=0"),
    ):
        meter = door(tmp_path, *overrides, images=4000)
        assert error(told(meter, near)) < 0.75 * error(told(meter, plan("plan=once")))


def test_completion_wins_back_what_was_cut_off_features_of_low_rank() -> None:
    left, right = (
        torch.rand(400, 4, generator=generator("left")),
        torch.rand(4, 40, generator=generator("right")),
    )
    whole = left @ right
    cut = torch.zeros_like(whole).scatter(1, (top := whole.topk(20, dim=1)).indices, top.values)
    filled = completed(cut, 4)
    assert torch.equal(filled[cut != 0], cut[cut != 0])
    assert float((filled - whole).norm()) < 0.2 * float((cut - whole).norm())


def test_a_map_learned_on_shared_images_undoes_what_two_accounts_were_told_differently(
    tmp_path: Path,
) -> None:
    meter = door(tmp_path, "defense=transform", "defense.transform.kinds=[affine,shuffle]")
    mapped = told(
        meter, plan("plan=sybil", "plan.accounts=3", "plan.shared=40", "plan.standardise=false")
    )
    alone = door(
        tmp_path / "alone", "defense=transform", "defense.transform.kinds=[affine,shuffle]"
    )
    first = told(alone, plan("plan=once"))  # everything as the first account sees it
    assert float((mapped - first).norm()) < 0.05 * float(first.norm())
    mixed = told(
        meter, plan("plan=sybil", "plan.accounts=3", "plan.shared=0", "plan.standardise=false")
    )
    assert float((mixed - first).norm()) > 0.5 * float(first.norm())
    exact = remapped(first, first[:40], 2 * first[:40] + 1)
    assert float((exact - 2 * first - 1).norm()) < 0.05 * float(first.norm())


def test_a_feature_that_is_silent_on_the_shared_images_spoils_no_other_answer() -> None:
    mine = torch.rand(200, 8, generator=generator("mine"))
    theirs = mine @ torch.rand(8, 8, generator=generator("theirs"))
    silent = torch.full((200, 1), 0.7)
    silent[150:] = 5.0
    more = torch.cat([theirs, silent], 1)
    torch.testing.assert_close(
        remapped(more, more[:40], mine[:40]), remapped(theirs, theirs[:40], mine[:40])
    )


@pytest.mark.parametrize("how", ["plan=sybil", "plan=averaging"])
def test_what_an_attacker_gets_does_not_depend_on_smaller_attacks_before_it(
    how: str, tmp_path: Path
) -> None:
    defense = ("defense=b4b", "defense.b4b.beta=0.05")
    changes = ("plan.shared=5",) if how == "plan=sybil" else ("plan.near=1",)
    alone, after = (door(tmp_path / name, *defense) for name in ("alone", "after"))
    told(after, plan(how, *changes), 60)
    assert torch.equal(told(after, plan(how, *changes)), told(alone, plan(how, *changes)))


def test_standardised_answers_are_the_same_whatever_affine_map_an_account_was_given(
    tmp_path: Path,
) -> None:
    clean = torch.relu(torch.randn(200, 16, generator=generator("standardised")))
    clean[:, 3] = 0.7
    drawn = torch.rand(2, 16, generator=generator("affine")) * 2 - 1
    found = standardised(clean * drawn[0] + drawn[1])
    torch.testing.assert_close(found, standardised(clean), atol=1e-3, rtol=1e-3)
    alike = torch.corrcoef(torch.stack([found[:, 0], clean[:, 0]]))[0, 1]
    assert alike > 0.999 and found[:, 3].eq(0).all() and found.amin() == 0
    meter = door(tmp_path, "defense=transform", "defense.transform.kinds=[affine]")
    bare = standardised(truth())
    assert (
        float((told(meter, plan("plan=standardising")) - bare).norm(dim=0).lt(1e-2).float().mean())
        > 0.8
    )


class Thrice(StatefulDefense):
    """Answers each account three times, then never again."""

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}

    def answer(self, features_BD: Tensor, asked: QueryBatch) -> Tensor:
        if self.seen[asked.account] >= 3:
            raise Refused("This account has asked enough.")
        self.seen[asked.account] += 1
        return features_BD + self.seen[asked.account]

    def load(self, account: str, memory: bytes | None) -> None:
        self.seen[account] = int(memory or 0)

    def dump(self, account: str) -> bytes:
        return str(self.seen[account]).encode()


def test_who_is_stopped_keeps_what_was_answered_and_is_not_charged_for_the_rest(
    tmp_path: Path,
) -> None:
    meter = door(tmp_path, chain=Chain({"thrice": Thrice()}))
    meter._target.images_a_request = 20
    features, answered = plan("plan=once").ask(meter, IMAGES, "", 0)
    assert answered.tolist() == [True] * 60 + [False] * 60 and len(features) == 60
    expected = truth()[:60] + torch.arange(1, 4).repeat_interleave(20)[:, None]
    torch.testing.assert_close(features, expected)
    assert meter.spent("attack") == meter._ledger.spent(meter.fingerprint, "attack") == 60
    for how in (
        "plan=averaging",
        "plan=repeating",
    ):  # stopped before the first copies: the raw answers are kept
        again, there = plan(how).ask(meter, IMAGES, "", 0)
        assert torch.equal(again, features) and torch.equal(there, answered)
    features, answered = plan("plan=sybil", "plan.shared=0").ask(meter, IMAGES, "/two", 0)
    assert answered.sum() == 120, "two accounts get twice as much"
    with pytest.raises(Refused):
        meter.ask(noise(140)[130:], "attacker/0", "attack")


def test_an_honest_customer_who_is_stopped_has_zeros_from_there_on(tmp_path: Path) -> None:
    meter = door(tmp_path, chain=Chain({"thrice": Thrice()}))
    meter._target.images_a_request = 20
    labels = np.zeros(120, np.int64)

    def part(rows: slice) -> Images:
        return Images("noise", IMAGES.numpy(), labels, 1, np.arange(120)[rows], f"noise{rows}")

    train, test = ask_about_task(
        meter, Task("shop", "unseen", part(slice(80)), part(slice(80, 120)))
    )
    assert train[:60].abs().amin(1).gt(0).all() and train[60:].eq(0).all(), (
        "answered three times, then never again"
    )
    assert test.shape == (40, 16) and test.eq(0).all()


def test_an_account_that_is_refused_from_the_start_costs_the_others_nothing(tmp_path: Path) -> None:
    meter = door(tmp_path, chain=Chain({"thrice": Thrice()}))
    meter._target.images_a_request = 20
    meter.ask(noise(180)[120:], "attacker/0/x", "attack")  # all that the first account gets
    features, answered = plan("plan=sybil", "plan.shared=0", "plan.standardise=false").ask(
        meter, IMAGES, "/x", 0
    )
    assert answered.tolist() == [False] * 60 + [True] * 60 and len(features) == 60
    with pytest.raises(Refused):
        plan("plan=once").ask(meter, IMAGES, "/x", 0)


@pytest.mark.parametrize("wrong", ["repeats=0", "near=-1", "accounts=0", "shared=-1", "rank=0"])
def test_a_plan_that_means_nothing_is_one_sentence(wrong: str) -> None:
    with pytest.raises(ConfigError, match=rf"plan\.{wrong} is not a whole number from \d to"):
        plan(f"plan.{wrong}")


def test_too_little_to_train_on_is_one_sentence(tmp_path: Path) -> None:
    meter = door(tmp_path, chain=Chain({"thrice": Thrice()}))
    meter._target.images_a_request = 20
    images = Images("x", IMAGES.numpy(), None, 0, np.arange(120), "sum")
    kept, features = plan("plan=once").carry_out(meter, images, "", 0, 60)
    assert len(kept) == len(features) == 60
    with pytest.raises(
        TargetError, match=r"answered 60 images before it stopped.*attack\.batch_size"
    ):
        plan("plan=once").carry_out(meter, images, "", 0, 61)
