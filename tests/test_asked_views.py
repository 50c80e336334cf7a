"""Queries of views: what is sent, counted and kept, and what a surrogate sees of it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import choose, dice
from test_surrogate import ARCH, ATTACK, PLAIN, VIEWS
from torch import Tensor

from stealing.attacks.checks import check_attack
from stealing.attacks.pairing import AllAsked, AskedInTurn
from stealing.attacks.steal import BoughtAnswers, steal_encoder
from stealing.attacks.surrogate import SurrogateModule
from stealing.attacks.view_plan import BLOCK, ViewPlan
from stealing.config import instantiate_node, to_dict
from stealing.data.asked_views import AskedBatch, AskedViews, draw_views
from stealing.data.images import Images
from stealing.data.sampling import BatchIndices
from stealing.data.views import Views, quantised
from stealing.encoders import build_encoder
from stealing.errors import BudgetExceeded, ConfigError, Refused, TargetError
from stealing.preflight import images_of
from stealing.queries.digests import digests, digests_of
from stealing.queries.door import Budget, MeteredTarget
from stealing.queries.opening import open_ledger
from stealing.training.fit import Recorder
from stealing.training.schedule import constant

SIZE = 8
PIXELS = np.random.default_rng(0).integers(0, 256, (12, 3, SIZE, SIZE), dtype=np.uint8)
IMAGES = Images("noise", PIXELS, None, 0, np.arange(12), "noise")
STRONG = Views(crop=(0.3, 1.0), **{name: VIEWS[name] for name in ("flip", "jitter", "grey")})
PLAN = ViewPlan(3, STRONG)


def features_of(images_uint8: Tensor) -> Tensor:
    """A feature for each of five pixels; other views have other features."""
    return images_uint8.flatten(1)[:, 40:45].float()


class Door:
    """Answers until the account has `stops` answers, and writes down what came."""

    def __init__(self, stops: int = 10**9) -> None:
        self.left = stops
        self.asked = list[Tensor]()

    def ask_what_is_answered(
        self, images_uint8: Tensor, account: str, purpose: str, *, view: str
    ) -> tuple[Tensor, Tensor]:
        assert (account, purpose, view) == ("attacker/0/scene", "attack", "view")
        self.asked.append(images_uint8)
        answered = torch.arange(len(images_uint8)) < self.left
        self.left -= int(answered.sum())
        if not answered.any():
            raise Refused("no more")
        return features_of(images_uint8[answered]), answered


def bought(plan: ViewPlan, door: Any, count: int = 12, least: int = 1) -> tuple[Images, Tensor]:
    return plan.carry_out(door, IMAGES.part(np.arange(count)), "/scene", 7, least)


def test_a_view_is_a_function_of_seed_image_and_number_alone() -> None:
    whole = draw_views(STRONG, digests_of(IMAGES), 4, SIZE, 7).parameters
    turned = draw_views(STRONG, digests_of(IMAGES)[5:2:-1], 2, SIZE, 7).parameters
    other = draw_views(STRONG, digests_of(IMAGES), 4, SIZE, 8).parameters
    for part, fewer in zip(whole, turned, strict=True):
        assert torch.equal(part[[5, 4, 3], :2], fewer)
    assert not torch.equal(whole.colour_B4, other.colour_B4)
    assert len(whole.colour_B4.flatten(0, 1).unique(dim=0)) == 12 * 4, "no two are the same"


def test_views_are_sent_image_by_image_and_quantised_and_each_keeps_its_answer() -> None:
    door = Door()
    images, features = bought(PLAN, door)
    [sent] = door.asked
    assert sent.dtype == torch.uint8 and sent.shape == (36, 3, SIZE, SIZE)
    assert torch.equal(features, features_of(sent).view(12, 3, 5)) and len(images) == 12
    asked = PLAN.asked_views(images, 7)
    raw = images.batch(slice(None)).float() / 255
    for number in range(3):
        again = asked.pixels(raw, torch.arange(12), torch.full((12,), number))
        assert torch.equal(again, sent.view(12, 3, 3, SIZE, SIZE)[:, number])
    assert len(set(digests(sent))) == 36


def test_a_smaller_budget_and_smaller_blocks_send_the_same_pixels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, part, blocks = Door(), Door(), Door()
    bought(PLAN, whole)
    bought(PLAN, part, 5)
    assert torch.equal(part.asked[0], whole.asked[0][:15]), "image by image, with all views"
    monkeypatch.setattr("stealing.attacks.view_plan.BLOCK", 2 * 3 * 3 * SIZE**2)
    _, features = bought(PLAN, blocks)
    assert [len(sent) for sent in blocks.asked] == [6] * 6 and BLOCK > 0
    assert torch.equal(torch.cat(blocks.asked), whole.asked[0])
    assert torch.equal(features, features_of(whole.asked[0]).view(12, 3, 5))


@pytest.mark.parametrize("at_once", [2, 12])
def test_an_account_that_is_stopped_keeps_the_images_whose_views_are_all_answered(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stealing.attacks.view_plan.BLOCK", at_once * 3 * 3 * SIZE**2)
    images, features = bought(PLAN, Door(stops=14))
    assert images.rows.tolist() == [0, 1, 2, 3] and features.shape == (4, 3, 5)
    assert len(bought(PLAN, Door(stops=14), least=4)[0]) == 4, "as many as a batch has are enough"
    with pytest.raises(TargetError, match=r"views of 4 images .* attack\.batch_size=5"):
        bought(PLAN, Door(stops=14), least=5)
    with pytest.raises(Refused):
        bought(PLAN, Door(stops=0))


@pytest.mark.parametrize(("budget", "images"), [(3, 1), (11, 3), (12, 4)])
def test_a_budget_is_images_times_views_and_is_never_exceeded(budget: int, images: int) -> None:
    assert PLAN.images(budget) == images and PLAN.grows
    with pytest.raises(ConfigError, match=r"budget\.images=2 is not enough for plan\.count=3"):
        PLAN.images(2)
    with pytest.raises(ConfigError, match=r"plan\.count=0"):
        ViewPlan(0, STRONG)


class Pixels:
    """A target whose features are pixels."""

    fingerprint, defense_fingerprint, codec, version = "pixels", "none", "", None
    size, images_a_request, in_flight, deadline = SIZE, 5, 2, 60.0
    is_known = True

    def __init__(self) -> None:
        from stealing.queries.pace import Pace

        self.pace = Pace()
        self.sent = 0

    def answer(self, images_uint8: Tensor, account: str, idempotency: str = "") -> Tensor:
        self.sent += len(images_uint8)
        return features_of(images_uint8)


def test_a_plan_of_views_without_their_number_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match="plan.count is null: set it, or attack.epochs"):
        instantiate_node(choose("plan=fresh_views", "attack=stolen_encoder").plan)


def test_each_view_is_charged_and_banked_once_and_a_larger_budget_pays_for_the_rest(
    tmp_path: Path,
) -> None:
    target = Pixels()
    ledger = open_ledger(str(tmp_path / "ledger.sqlite"), tmp_path)

    def run(budget: int, images: int) -> MeteredTarget:
        door = MeteredTarget(target, ledger, tmp_path / "banks", Budget(budget, 0))
        PLAN.carry_out(door, IMAGES.part(np.arange(images)), "", 7, 1)
        return door

    assert (run(14, 4).spent("attack"), target.sent) == (12, 12)
    assert (run(14, 4).spent("attack"), target.sent) == (12, 12), "from the bank"
    assert (run(36, 12).spent("attack"), target.sent) == (36, 36)
    with pytest.raises(BudgetExceeded):
        run(35, 12)
    assert target.sent == 36
    ledger.close()


def batch(asked: AskedViews | None, views: int, turn: int) -> AskedBatch:
    places = torch.tensor([4, 0, 9])
    return AskedBatch(
        torch.from_numpy(PIXELS[places]).float() / 255,
        rows=places[:, None] * views + torch.arange(views),
        turns=torch.full((3,), turn),
        places=places,
        asked=asked,
    )


def test_a_surrogate_sees_the_asked_view_another_one_or_several_against_all_answers() -> None:
    here = batch(PLAN.asked_views(IMAGES, 7), 3, 2)
    [(one, same, rows)] = AskedInTurn(None).of_views(here, dice(3, 1))
    door = Door()
    bought(PLAN, door)
    assert one == 1 and rows.tolist() == [14, 2, 29]
    assert torch.equal(quantised(same), door.asked[0][rows]), "what the target saw"
    [(_, another, rows)] = AskedInTurn(STRONG).of_views(here, dice(3, 1))
    assert rows.tolist() == [14, 2, 29] and torch.equal(another, STRONG(here.images, dice(3, 1)))
    [(_, several, rows)] = AllAsked(STRONG, 2).of_views(here, dice(3, 1))
    random = dice(3, 1)
    assert torch.equal(several[:3], STRONG(here.images, random))
    assert torch.equal(several[3:], STRONG(here.images, random))
    assert rows.tolist() == [[12, 13, 14], [0, 1, 2], [27, 28, 29]]
    [(_, raw, rows)] = AskedInTurn(None).of_views(batch(None, 1, 0), dice(3, 1))
    assert torch.equal(raw, here.images) and rows.tolist() == [4, 0, 9], "a plan of raw images"


def test_the_view_of_an_epoch_is_the_next_one_and_begins_again_after_the_last() -> None:
    module = SurrogateModule.__new__(SurrogateModule)
    torch.nn.Module.__init__(module)
    module.views_an_image = 3
    places = torch.tensor([4, 0])
    rows = [
        module.addresses(BatchIndices(epoch, 0, 0, 2, places, 1)).tolist() for epoch in range(4)
    ]
    assert rows == [[12, 0], [13, 1], [14, 2], [12, 0]]


def test_views_of_one_pass_are_compared_one_after_the_other_and_their_losses_averaged() -> None:
    images, features = bought(PLAN, Door())
    encoder = build_encoder(ARCH, 1)

    def loss(surrogate_BD: Tensor, answers_BVD: Tensor) -> Tensor:
        return (surrogate_BD[:, None, :5] - answers_BVD).square().max()

    module = SurrogateModule(
        encoder,
        torch.nn.Identity(),
        features,
        loss=loss,
        pairing=AllAsked(STRONG, 2),
        optimizer=torch.optim.SGD,
        schedule=constant,
        total_steps=1,
        seed=0,
        asked=PLAN.asked_views(images, 7),
    )
    places = torch.tensor([4, 0, 9])
    pixels = images.batch(places.numpy())
    value = module.step_loss(pixels, places * 3, dice(3, 1))
    random = dice(3, 1)
    parts = [encoder(STRONG(pixels.float() / 255, random)) for _ in range(2)]
    expected = sum(loss(part, features[places]) for part in parts) / 2
    torch.testing.assert_close(value, expected)


IN_TURN = {"_target_": "stealing.attacks.pairing.AskedInTurn", "views": None}
ALL = {
    "_target_": "stealing.attacks.pairing.AllAsked",
    "count": 2,
    "views": {"_target_": "stealing.data.views.Views", **VIEWS},
}


def test_an_attack_on_views_is_checked_with_its_plan_before_anything_is_bought() -> None:
    check_attack(ATTACK | {"pairing": IN_TURN}, SIZE, PLAN)
    with pytest.raises(ConfigError, match=r"RawOrView compares .* 3 views .* choose plan=once"):
        check_attack(ATTACK, SIZE, PLAN)
    check_attack(ATTACK, SIZE, ViewPlan(1, STRONG))
    with pytest.raises(ConfigError, match=r"attack\.loss=.*mse does not work"):
        check_attack(ATTACK | {"pairing": ALL}, SIZE, ViewPlan(1, STRONG))
    with pytest.raises(ConfigError, match=r"attack\.batch_size=2 or more"):
        check_attack(to_dict(choose("attack=rda", "attack.batch_size=1").attack), SIZE, PLAN)
    with pytest.raises(ConfigError, match=r"attack\.batch_size=2 or more"):
        check_attack(to_dict(choose("attack=best", "attack.batch_size=1").attack), SIZE)


def stolen(folder: Path, pairing: dict[str, Any], loss: str, stop: int = 0) -> Any:
    """Train on three views of each image; `stop` ends the first try after so many steps."""
    images, features = bought(PLAN, Door())
    attack = ATTACK | {"pairing": pairing, "batch_size": 4, "steps": 7}
    attack["loss"] = {"_target_": loss, "_partial_": True, "temperature": 0.2}
    call: dict[str, Any] = {
        "answers": BoughtAnswers(images, features, "bank", views=PLAN.asked_views(images, 7)),
        "arch": ARCH,
        "attack": attack,
        "seed": 5,
        "start": 11,
        "root": folder,
        "settings": replace(PLAIN, checkpoint_seconds=0.0),
        "recorder": Recorder(),
    }
    return steal_encoder(**call)[0]


@pytest.mark.parametrize(
    ("pairing", "loss"),
    [
        (IN_TURN, "stealing.attacks.contrastive.cont_steal"),
        (ALL, "stealing.attacks.prototypes.discriminate_and_align"),
    ],
)
def test_a_fit_on_views_that_was_stopped_in_mid_epoch_ends_in_the_same_bits(
    pairing: dict[str, Any], loss: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = stolen(tmp_path / "whole", pairing, loss)
    step = SurrogateModule.training_step
    taken = list[int]()

    def stopping(self: SurrogateModule, *arguments: Any) -> Tensor:
        if len(taken) == 5:
            raise KeyboardInterrupt
        taken.append(1)
        return step(self, *arguments)

    monkeypatch.setattr(SurrogateModule, "training_step", stopping)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        stolen(tmp_path / "stopped", pairing, loss)
    monkeypatch.setattr(SurrogateModule, "training_step", step)
    again = stolen(tmp_path / "stopped", pairing, loss)
    assert again.fingerprint == whole.fingerprint


def test_presets_on_views_choose_their_plan_and_the_command_line_another() -> None:
    for name, budget, images in (
        ("cont_steal", 500, 500),
        ("rda", 500, 50),
        ("rda_paper", 25_000, 2500),
        ("cont_steal_paper", 250_000, 2500),
    ):
        config = choose(f"attack={name}", f"budget.images={budget}")
        assert images_of(config) == images, name
        check_attack(to_dict(config.attack), SIZE, instantiate_node(config.plan))
        least = int(config.attack.batch_size)
        assert images >= least, f"{name} has a batch at its least budget"
    assert images_of(choose("attack=rda", "plan=once", "budget.images=70")) == 70
    fair = to_dict(choose("attack=stolen_encoder").attack)
    for name in ("cont_steal", "rda"):
        attack = to_dict(choose(f"attack={name}").attack)
        # its rate, decay and views are those of its own trials
        tuned = {part: fair["optimizer"][part] for part in ("lr", "weight_decay")}
        assert attack["optimizer"] | tuned == fair["optimizer"], name
        for part in ("schedule", "steps", "epochs", "ema"):
            assert attack[part] == fair[part], f"{name}: {part}"


def test_a_plan_of_fewer_images_than_a_batch_is_refused_before_anything_is_bought() -> None:
    from stealing.preflight import RunData, check_inputs

    config = choose("experiment=debug", "attack=cont_steal_paper", "budget.images=2500")
    data = RunData(IMAGES, replace(IMAGES, rows=np.arange(12).repeat(30)), [], {})
    with pytest.raises(ConfigError, match=r"attack\.batch_size=32 is more than the 25 images"):
        check_inputs(config, data)
