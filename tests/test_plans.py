"""Query plans at a door that records its queries: images, accounts, and how answers combine."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stealing.attacks.query_plan import Plan, plan_context
from stealing.attacks.recovery import completed, remapped, standardised
from stealing.data.images import Images
from stealing.data.sampling import BatchRandom, generator
from stealing.errors import ConfigError, Refused, TargetError

PIXELS = np.random.default_rng(0).integers(0, 250, (12, 3, 4, 4), dtype=np.uint8)
IMAGES = torch.from_numpy(PIXELS)
LIST = Images("noise", PIXELS, None, 0, np.arange(12), "noise")


def lighter(images: Tensor, dice: BatchRandom) -> Tensor:
    """A view that ends between two values of a pixel, nearer to the next."""
    return images + 0.6 / 255


def shaken(images: Tensor, dice: BatchRandom) -> Tensor:
    """A view that shows its dice."""
    return dice.uniform(1)[:, :, None, None].expand_as(images)


ONCE = Plan(repeats=1, near=0, views=lighter, accounts=1, shared=0, rank=None, standardise=False)  # type: ignore[arg-type]


@dataclass
class Door:
    """Answers with the image's first pixels, changed by account and repeat; it refuses some.

    Attributes:
        refused: accounts that get nothing.
        stops: by (account, view), how many of the images are answered.
        gaps: by account, places of images that get no answer.
        cut: least number that is let through; others are zero.
    """

    refused: tuple[str, ...] = ()
    stops: dict[tuple[str, str, int], int] = field(default_factory=dict)
    gaps: dict[str, list[int]] = field(default_factory=dict)
    remembers: bool = False
    cut: float = 0.0
    asked: list[tuple[Tensor, str, str, str, int]] = field(default_factory=list)

    def ask_what_is_answered(
        self, images_uint8: Tensor, account: str, purpose: str, *, view: str, repeat: int
    ) -> tuple[Tensor, Tensor]:
        self.asked.append((images_uint8, account, purpose, view, repeat))
        there = torch.ones(len(images_uint8), dtype=torch.bool)
        there[self.stops.get((account, view, repeat), len(there)) :] = False
        there[self.gaps.get(account, [])] = False
        if account in self.refused or not there.any():
            raise Refused("no more")
        features = images_uint8.flatten(1)[:, :5].float()
        number = int(account.removeprefix("attacker/").split("/")[0])
        told = (1 + number) * features + 100 * number + 10 * repeat
        return told.where(told >= self.cut, 0.0)[there], there


def raw(count: int = 12) -> Tensor:
    return IMAGES.flatten(1)[:count, :5].float()


def asked(how: Plan, door: Door, scene: str = "") -> tuple[Tensor, Tensor]:
    return how.ask(door, IMAGES, scene, 7)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "least"), [("repeats", 1), ("near", 0), ("accounts", 1), ("shared", 0), ("rank", 1)]
)
def test_a_number_below_its_least_is_refused_with_the_override_and_the_least_is_taken(
    name: str, least: int
) -> None:
    assert getattr(replace(ONCE, **{name: least}), name) == least
    with pytest.raises(ConfigError, match=rf"plan\.{name}={least - 1} .* from {least} to"):
        replace(ONCE, **{name: least - 1})


@pytest.mark.parametrize(
    ("changes", "grows"),
    [
        ({}, True),
        ({"shared": 3, "rank": 2}, True),
        ({"repeats": 2}, False),
        ({"near": 1}, False),
        ({"accounts": 2}, False),
    ],
)
def test_a_plan_grows_only_where_each_image_is_one_question_of_one_account(
    changes: dict[str, int], grows: bool
) -> None:
    assert replace(ONCE, **changes).grows is grows


@pytest.mark.parametrize(
    ("changes", "budget", "images"),
    [
        ({}, 9, 9),
        ({}, 1, 1),
        ({"repeats": 3}, 11, 3),
        ({"repeats": 2, "near": 2}, 12, 2),
        ({"accounts": 3, "shared": 4}, 20, 12),
        ({"accounts": 3, "shared": 4}, 12, 4),
        ({"accounts": 3, "shared": 4}, 11, None),
        ({"repeats": 3}, 2, None),
    ],
)
def test_a_budget_pays_for_every_copy_and_for_shared_images_of_each_account(
    changes: dict[str, int], budget: int, images: int | None
) -> None:
    how = replace(ONCE, **changes)
    if images is None:
        with pytest.raises(ConfigError, match=rf"budget\.images={budget} "):
            how.images(budget)
    else:
        assert how.images(budget) == images


def test_one_answer_is_the_mean_over_repeats_and_near_copies_of_an_image() -> None:
    door = Door()
    features, answered = asked(replace(ONCE, repeats=2, near=2), door)
    named = [(account, purpose, view, repeat) for _, account, purpose, view, repeat in door.asked]
    assert named == [
        ("attacker/0", "attack", view, repeat)
        for view in ("raw", "near/1", "near/2")
        for repeat in range(2)
    ]
    assert answered.all() and answered.dtype == torch.bool
    torch.testing.assert_close(
        features, raw() + 2 / 3 + 5
    )  # two of three are lighter by one, half have ten more


def test_near_copies_are_rounded_to_pixels_and_drawn_anew_for_each_copy_account_and_seed() -> None:
    door = Door()
    asked(replace(ONCE, near=1), door)
    sent = [images for images, *_ in door.asked]
    assert (
        torch.equal(sent[0], IMAGES)
        and torch.equal(sent[1], IMAGES + 1)
        and sent[1].dtype == torch.uint8
    )
    door, how = Door(), replace(ONCE, near=2, accounts=2, views=shaken)
    asked(how, door)
    how.ask(door, IMAGES, "", 8)  # type: ignore[arg-type]
    copies = [
        tuple(images[:, 0, 0, 0].tolist()) for images, _, _, view, _ in door.asked if view != "raw"
    ]
    assert len(copies) == len(set(copies)) == 8
    expected = (
        (BatchRandom(generator("near", 7, 1, "attacker/0"), 6, slice(None)).uniform(1) * 255)
        .round()[:, 0]
        .tolist()
    )
    assert list(copies[0]) == expected


def test_images_are_dealt_in_parts_and_all_accounts_ask_about_the_shared_ones() -> None:
    door = Door()
    asked(replace(ONCE, accounts=3, shared=3), door, "/scene")
    sent = [images for images, *_ in door.asked]
    assert [account for _, account, *_ in door.asked] == [
        f"attacker/{number}/scene" for number in range(3)
    ]
    assert all(torch.equal(images[:3], IMAGES[:3]) for images in sent)
    assert torch.equal(torch.cat([images[3:] for images in sent]), IMAGES[3:])
    assert [len(images) for images in sent] == [6, 6, 6]


def test_shared_images_keep_the_first_accounts_answers_and_the_others_are_mapped_to_its() -> None:
    features, answered = asked(replace(ONCE, accounts=2, shared=8), Door())
    assert answered.all()
    assert torch.equal(features[:10], raw()[:10]), "the first account's own answers, bit for bit"
    mapped = remapped(2 * raw()[10:] + 100, 2 * raw()[:8] + 100, raw()[:8])
    torch.testing.assert_close(features[10:], mapped)
    torch.testing.assert_close(features[10:], raw()[10:], atol=15.0, rtol=0)
    apart, _ = asked(replace(ONCE, accounts=2, shared=0), Door())
    torch.testing.assert_close(apart, torch.cat([raw()[:6], 2 * raw()[6:] + 100]))


def test_an_account_that_is_refused_leaves_its_images_out_and_the_others_go_on() -> None:
    how = replace(ONCE, accounts=3)
    features, answered = asked(how, Door(refused=("attacker/0",)))
    assert answered.tolist() == [False] * 4 + [True] * 8
    torch.testing.assert_close(features, torch.cat([2 * raw()[4:8] + 100, 3 * raw()[8:] + 200]))
    with pytest.raises(Refused, match="no more"):
        asked(how, Door(refused=tuple(f"attacker/{number}" for number in range(3))))


def test_what_the_second_account_was_told_of_the_shared_images_counts_where_the_first_was_not() -> (
    None
):
    door = Door(stops={("attacker/0", "raw", 0): 6})
    features, answered = asked(replace(ONCE, accounts=2, shared=8), door)
    assert answered.tolist() == [True] * 8 + [False] * 2 + [True] * 2
    both = remapped(2 * raw() + 100, 2 * raw()[:6] + 100, raw()[:6])
    assert torch.equal(features[:6], raw()[:6])
    torch.testing.assert_close(features[6:], both[[6, 7, 10, 11]])


def test_accounts_are_mapped_by_the_same_images_whichever_of_them_the_second_has_no_answer_to() -> (
    None
):
    door = Door(gaps={"attacker/1": [0, 1, 4]})
    features, answered = asked(replace(ONCE, accounts=2, shared=8), door)
    assert answered.all(), "the first account has the answers"
    both = [2, 3, 5, 6, 7]
    expected = remapped(2 * raw()[10:] + 100, 2 * raw()[both] + 100, raw()[both])
    torch.testing.assert_close(features[10:], expected)


def test_an_account_that_is_stopped_between_copies_keeps_the_means_of_what_it_was_told() -> None:
    door = Door(stops={("attacker/0", "raw", 1): 4, ("attacker/0", "raw", 2): 0})
    features, answered = asked(replace(ONCE, repeats=4), door)
    assert answered.all() and len(door.asked) == 3, "it asks no more"
    torch.testing.assert_close(features, raw() + torch.tensor([5.0] * 4 + [0.0] * 8)[:, None])


def test_truncated_answers_are_completed_and_standardised_if_the_plan_says_so() -> None:
    cut = raw().where(raw() >= 100, 0.0)
    assert torch.equal(asked(ONCE, Door(cut=100))[0], cut)
    told, _ = asked(replace(ONCE, rank=2), Door(cut=100))
    torch.testing.assert_close(told, completed(cut, 2))
    assert not torch.equal(told, cut)
    both, _ = asked(replace(ONCE, rank=2, standardise=True), Door(cut=100))
    torch.testing.assert_close(both, standardised(completed(cut, 2)))


def test_an_attack_goes_on_with_exactly_as_many_images_as_a_batch_and_ends_with_fewer() -> None:
    door = Door(stops={("attacker/0", "raw", 0): 5})
    images, features = ONCE.carry_out(door, LIST, "", 0, 5)  # type: ignore[arg-type]
    assert images.rows.tolist() == list(range(5)) and torch.equal(features, raw(5))
    assert images.checksum != LIST.checksum
    with pytest.raises(TargetError, match=r"answered 5 images .* attack\.batch_size=6"):
        ONCE.carry_out(door, LIST, "", 0, 6)  # type: ignore[arg-type]
    whole, features = ONCE.carry_out(Door(), LIST, "", 0, 12)  # type: ignore[arg-type]
    assert whole is LIST and torch.equal(features, raw())


def test_an_attacker_has_a_scene_of_its_own_only_where_the_target_remembers() -> None:
    scenes = [plan_context(Door(remembers=True), seed=seed, images=4) for seed in (0, 0, 1)]  # type: ignore[arg-type]
    assert scenes[0] == scenes[1] != scenes[2] and scenes[0].startswith("/")
    assert plan_context(Door(remembers=False), seed=0, images=4) == ""  # type: ignore[arg-type]


def test_a_completion_lies_between_the_least_of_all_and_the_least_that_was_kept_of_its_row() -> (
    None
):
    left = torch.rand(60, 2, generator=generator("left")) + 0.2
    whole = left @ torch.randn(2, 12, generator=generator("right")) + torch.randn(
        60, 12, generator=generator("noise")
    )
    top = whole.topk(5, dim=1)
    cut = torch.zeros_like(whole).scatter(1, top.indices, top.values)
    filled, known = completed(cut, 2), cut != 0
    assert torch.equal(filled[known], cut[known])
    ceiling = top.values[:, -1:].expand_as(cut)
    floor = cut.min()
    assert (filled <= ceiling)[~known].all() and (filled >= torch.minimum(floor, ceiling))[
        ~known
    ].all()
    assert (filled == ceiling)[~known].any() and (filled == floor)[~known].any(), (
        "both bounds are reached"
    )


@pytest.mark.parametrize("rank", [1, 3])
def test_a_completion_is_thirty_rounds_of_a_fit_of_its_rank_to_the_centred_answers(
    rank: int,
) -> None:
    whole = torch.randn(40, 3, generator=generator("l")) @ torch.randn(
        3, 10, generator=generator("r")
    )
    cut = whole.masked_fill(torch.rand(40, 10, generator=generator("cut")) < 0.3, 0.0)
    cut[7] = 0  # nothing is known of this row
    known = cut.numpy() != 0
    ceiling = np.array([[min([x for x in row if x != 0], default=0.0)] for row in cut.tolist()])
    least = float(cut.min())
    filled = np.where(known, cut.numpy(), (ceiling + least) / 2)
    for _ in range(30):
        mean = filled.mean(0)
        left, values, right = np.linalg.svd(filled - mean, full_matrices=False)
        values[rank:] = 0
        fitted = left * values @ right + mean
        filled = np.where(known, cut.numpy(), np.minimum(np.maximum(fitted, least), ceiling))
    np.testing.assert_allclose(completed(cut, rank).numpy(), filled, atol=1e-3)


def moments(features: Tensor) -> tuple[Any, ...]:
    return (
        features.amin(0),
        features.std(0, correction=0),
        (features - features.mean(0)).pow(3).mean(0),
    )


def test_standardised_features_start_at_zero_have_unit_deviation_and_a_long_tail_upwards() -> None:
    features = (
        torch.rand(200, 4, generator=generator("x")).pow(3) * torch.tensor([1.0, -2.0, 30.0, -1e-3])
        + 5
    )
    least, deviation, skew = moments(standardised(features))
    assert least.eq(0).all() and skew.gt(0.2).all()
    torch.testing.assert_close(deviation, torch.ones(4), atol=1e-3, rtol=0)
    small = features - 5
    torch.testing.assert_close(standardised(small * 1e-7), standardised(small), atol=1e-3, rtol=0)


def test_features_that_are_zero_throughout_stay_zero_and_spoil_no_other() -> None:
    features = torch.rand(30, 3, generator=generator("zeros"))
    silent = torch.cat([features, torch.zeros(30, 1)], 1)
    assert (
        torch.equal(standardised(silent)[:, :3], standardised(features))
        and standardised(silent)[:, 3].eq(0).all()
    )
    mine = torch.rand(30, 2, generator=generator("mine"))
    torch.testing.assert_close(
        remapped(silent, silent[:9], mine[:9]), remapped(features, features[:9], mine[:9])
    )


def test_a_map_between_accounts_is_the_ridge_of_standardised_answers() -> None:
    theirs = torch.randn(30, 3, generator=generator("theirs")) * torch.tensor([1.0, 10.0, 0.1]) + 4
    mine = torch.randn(30, 2, generator=generator("mine"))
    shared = theirs[:9]
    inputs = ((shared - shared.mean(0)) / shared.std(0)).double()
    ridge = inputs.T @ inputs + 1e-3 * 9 * torch.eye(3).double()
    slope = ridge.inverse() @ inputs.T @ (mine[:9] - mine[:9].mean(0)).double()
    expected = ((theirs - shared.mean(0)) / shared.std(0)).double() @ slope + mine[:9].mean(0)
    torch.testing.assert_close(
        remapped(theirs, shared, mine[:9]), expected.float(), atol=1e-4, rtol=1e-4
    )
