"""The guard against a computation of its own: its signals by plain loops, its score, each policy,
its memory."""

import hashlib
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from test_defenses import asked, images
from torch import Tensor

from stealing.data.sampling import generator
from stealing.defenses.guard import Guard, HonestTraffic, Watch, Watched
from stealing.defenses.keyed import Secret
from stealing.errors import ConfigError, Refused
from stealing.numbers import LEAST

D = 6
SIZES = [10.0, 40.0, 80.0]
CENTRE = [[0.01, 1.0, 0.1], [0.02, 1.1, 0.2], [0.03, 1.3, 0.4]]
SPREAD = [[0.01, 0.5, 0.3], [0.005, 0.25, 0.2], [0.004, 0.2, 0.1]]
WHITEN = torch.randn(D, D, generator=generator("whiten"))
MEAN = torch.randn(D, generator=generator("mean"))


def traffic(count: int, seed: int = 0) -> Tensor:
    """Images of which some are near copies of others."""
    rows = torch.randn(count, D, generator=generator("traffic", seed))
    return rows.repeat_interleave(3, 0)[:count] + 0.01 * rows


def covered(rows: NDArray[np.float64]) -> float:
    """Share of the 4,096 combinations of sides that were seen, over 20 tables of 12 planes."""
    planes = Secret(None).generator("planes", D).standard_normal((D, 20 * 12))
    shares = []
    for table in range(20):
        sides = rows @ planes[:, 12 * table : 12 * table + 12] > 0
        shares.append(len({tuple(row) for row in sides}) / 4096)
    return float(np.mean(shares))


def squared(row: NDArray[np.float64]) -> float:
    """Mean squared distance a dimension of one image from the honest mean, in honest units."""
    moved = np.clip(row - MEAN.double().numpy(), -1e6, 1e6)
    return float(np.mean((moved @ WHITEN.double().numpy()) ** 2))


def copies(rows: NDArray[np.float64], closeness: float) -> int:
    """Images with a near copy among the 128 before them."""
    projection = Secret(None).generator("projections", D).standard_normal((D, 32), np.float32)
    points = np.clip(rows - MEAN.double().numpy(), -1e6, 1e6) @ projection.astype(np.float64)
    found = 0
    for place, point in enumerate(points):
        before = points[max(0, place - 128) : place]
        cosines = [
            point @ other / np.linalg.norm(point) / np.linalg.norm(other) for other in before
        ]
        found += any(cosine > closeness for cosine in cosines)
    return found


def by_hand(rows: Tensor, closeness: float = 0.95) -> list[float]:
    """The three signals of an account that asked about these images."""
    plain = rows.double().numpy()
    distance = sum(squared(row) for row in plain) / len(plain)
    return [covered(plain), distance, copies(plain, closeness) / len(plain)]


def watch(window: int = 10_000, closeness: float = 0.95) -> Watch:
    return Watch(MEAN, WHITEN, closeness, window, Secret(None))


def requests(rows: Tensor, size: int) -> list[Tensor]:
    return list(rows.split(size))


@pytest.mark.parametrize("size", [7, 300])
def test_the_signals_are_coverage_mean_distance_and_share_of_near_copies(size: int) -> None:
    rows, seen = traffic(300), watch()
    rows[17] = 1e30
    for number, part in enumerate(requests(rows, size)):
        if number % 3 == 0:
            seen.see("another", traffic(20, 9))
        signals = seen.see("x", part)
    assert signals.tolist() == pytest.approx(by_hand(rows), rel=1e-4)
    assert by_hand(rows)[2] > 0.5


@pytest.mark.parametrize("size", [1, 50, 400])
def test_the_last_128_images_are_compared_and_no_older_one(size: int) -> None:
    rows = torch.randn(400, D, generator=generator("kept"))
    rows[200] = rows[72]  # 128 before: compared
    rows[330] = rows[201]  # 129 before: not
    rows[399] = rows[398]
    seen = watch(closeness=0.9999)
    for part in requests(rows, size):
        signals = seen.see("x", part)
    assert round(signals[2] * 400) == 2


def test_near_copies_are_those_above_the_closeness_and_an_image_is_no_copy_of_itself() -> None:
    rows = traffic(60)
    for closeness in (0.5, 0.95, 0.99):
        signals = watch(closeness=closeness).see("x", rows)
        assert signals[2] == copies(rows.double().numpy(), closeness) / 60
    assert watch(closeness=-2.0).see("x", rows)[2] == 59 / 60, "the first image has none before it"


def test_a_window_ends_with_the_request_after_its_last_image_and_all_but_the_wait_begins_anew() -> (
    None
):
    rows, seen = traffic(160), watch(window=60)
    seen.see("x", rows[:59])
    assert seen.see("x", rows[59:60]).tolist() == pytest.approx(by_hand(rows[:60]), rel=1e-4)
    seen.accounts["x"].free_at = 7.0
    assert seen.see("x", rows[60:100]).tolist() == pytest.approx(by_hand(rows[60:100]), rel=1e-4)
    assert seen.accounts["x"].images == 40 and seen.accounts["x"].free_at == 7.0
    assert seen.see("x", rows[100:160]).tolist() == pytest.approx(by_hand(rows[60:160]), rel=1e-4)


def test_signals_are_judged_by_honest_ones_after_as_many_images_log_linearly_between_sizes() -> (
    None
):
    above = HonestTraffic(np.array(SIZES), np.array(CENTRE), np.array(SPREAD)).deviations
    signals = np.array([0.05, 2.0, 0.7])
    for images_, before, after, share in (
        (20, 0, 1, 0.5),
        (40, 1, 1, 0.0),
        (3, 0, 0, 0.0),
        (0, 0, 0, 0.0),
        (200, 2, 2, 0.0),
        (60, 1, 2, np.log(1.5) / np.log(2)),
    ):
        centre = (1 - share) * np.array(CENTRE[before]) + share * np.array(CENTRE[after])
        spread = (1 - share) * np.array(SPREAD[before]) + share * np.array(SPREAD[after])
        np.testing.assert_allclose(above(images_, signals), (signals - centre) / spread, rtol=1e-12)


@pytest.fixture
def reference(tmp_path: Path) -> str:
    kept = {"mean": MEAN, "whiten": WHITEN, "sizes": torch.tensor(SIZES, dtype=torch.float64)}
    kept |= {
        "centre": torch.tensor(CENTRE, dtype=torch.float64),
        "spread": torch.tensor(SPREAD, dtype=torch.float64),
    }
    save_file(kept, tmp_path / "honest.safetensors", {"encoder": "e"})
    return str(tmp_path / "honest.safetensors")


def guard(reference: str, policy: str = "degrade", **settings: Any) -> Guard:
    terms = {
        "threshold": LEAST,
        "patience": 10,
        "rate": 4.0,
        "sigma": 0.3,
        "closeness": 0.95,
        "secret": None,
    }
    return Guard(reference, policy=policy, **(terms | settings))


def score(rows: Tensor) -> float:
    """Of an account after these images, of which there are as many as in a size of the
    reference."""
    row = SIZES.index(float(len(rows)))
    above = [(s - c) / d for s, c, d in zip(by_hand(rows), CENTRE[row], SPREAD[row], strict=True)]
    return max(above)


@pytest.mark.parametrize("largest", [0, 1, 2])
def test_the_score_is_the_greatest_of_the_three_and_suspicion_begins_at_the_threshold(
    largest: int, reference: str, tmp_path: Path
) -> None:
    kept = {"mean": MEAN, "whiten": WHITEN, "sizes": torch.tensor(SIZES, dtype=torch.float64)}
    spread = torch.full((3, 3), 1e3, dtype=torch.float64)
    spread[:, largest] = 1e-3
    save_file(
        kept | {"centre": torch.zeros(3, 3, dtype=torch.float64), "spread": spread},
        reference,
        {"encoder": "e"},
    )
    rows, question = traffic(10), asked(images(10))
    expected = by_hand(rows)[largest] / 1e-3
    for threshold, suspected in ((0.999 * expected, True), (1.001 * expected, False)):
        chain = guard(reference, threshold=threshold)
        assert torch.equal(chain.answer(rows, question), rows), (
            "a request is judged by those before it"
        )
        assert torch.equal(chain.answer(rows, question), rows) != suspected
    exact = guard(reference)
    exact.answer(rows, question)
    chain = guard(reference, threshold=exact._scores["attacker/0"])
    chain.answer(rows, question)
    assert not torch.equal(chain.answer(rows, question), rows), "at the threshold itself"


def test_an_account_is_judged_from_its_patienth_image_on_and_not_before(reference: str) -> None:
    rows, question = traffic(10), asked(images(10))
    for patience, suspected in ((10, True), (11, False)):
        chain = guard(reference, patience=patience)
        chain.answer(rows, question)
        assert torch.equal(chain.answer(rows, question), rows) != suspected
    assert score(rows) > LEAST


def test_degraded_answers_carry_noise_of_sigma_by_content(reference: str) -> None:
    rows, question = traffic(10), asked(images(10))
    for sigma in (0.0, 0.3, 2.0):
        chain = guard(reference, sigma=sigma)
        chain.answer(rows, question)
        noise = Secret(None).normal([("guard", digest) for digest in question.digests], D)
        torch.testing.assert_close(chain.answer(rows, question), rows + sigma * noise)


def test_a_slowed_account_waits_for_its_images_at_the_rate_and_a_new_window_does_not_free_it(
    reference: str,
) -> None:
    question = replace(asked(images(40)), seconds=100.0)
    chain = guard(reference, "slow")
    chain.answer(traffic(40), question)
    assert torch.equal(chain.answer(traffic(40), question), traffic(40)), (
        "80 images: the window is full"
    )
    assert chain.watch.accounts["attacker/0"].free_at == 110.0
    with pytest.raises(Refused, match=r"gets 4 images a second: wait 2\.5 seconds") as waits:
        chain.answer(traffic(40), replace(question, seconds=107.5))
    assert waits.value.retry_after == 2.5
    chain.answer(traffic(40), replace(question, seconds=110.0))  # the first of a new window
    assert chain.watch.accounts["attacker/0"].images == 40
    with pytest.raises(Refused) as again:
        chain.answer(traffic(40), replace(question, seconds=110.0))
    assert again.value.retry_after == 10.0
    for policy in ("degrade", "stop"):
        other = guard(reference, policy)
        other.answer(traffic(40), question)
        assert other.watch.accounts["attacker/0"].free_at == 0.0


def test_until_a_new_window_has_some_patience_the_last_score_stands(reference: str) -> None:
    chain = guard(reference, patience=20, sigma=1.0)
    for count in (40, 40):
        chain.answer(traffic(count), asked(images(count)))
    before = chain._scores["attacker/0"]
    chain.answer(traffic(19, 5), asked(images(19)))
    assert chain._scores["attacker/0"] == before
    chain.answer(traffic(1, 6), asked(images(1)))
    assert chain._scores["attacker/0"] != before


def test_a_memory_holds_every_number_of_an_account_and_loading_it_replaces_what_was_known(
    reference: str,
) -> None:
    chain = guard(reference)
    chain.answer(traffic(33), asked(images(33)))
    recent = traffic(9)[:, :1].half().expand(9, 32).contiguous()
    chain.watch.accounts["attacker/0"] = Watched(17, 3.25, 5, recent, 11.5)
    chain._scores["attacker/0"] = 2.75
    seen, memory = chain.watch.coverage.dump("attacker/0"), chain.dump("attacker/0")
    for other in (guard(reference), chain):
        other.answer(traffic(20, 3), asked(images(20), "honest/x"))
        beside = other.dump("honest/x")
        other.answer(traffic(20, 4), asked(images(20)))
        other.load("attacker/0", memory)
        known = other.watch.accounts["attacker/0"]
        assert (known.images, known.distance, known.near, known.free_at) == (17, 3.25, 5, 11.5)
        assert torch.equal(known.recent_MR, recent) and known.recent_MR.dtype == torch.float16
        assert (
            other._scores["attacker/0"] == 2.75 and other.watch.coverage.dump("attacker/0") == seen
        )
        assert other.dump("attacker/0") == memory and other.dump("honest/x") == beside
        other.load("attacker/0", None)
        assert "attacker/0" not in other.watch.accounts and "attacker/0" not in other._scores
        assert other.watch.coverage.dump("attacker/0") == b"" and other.dump("honest/x") == beside
        other.answer(traffic(3), asked(images(3)))
        other.load("attacker/0", other.dump("attacker/0"))
        assert other._scores["attacker/0"] == 0.0, "not judged yet"
    assert set(np.load(io.BytesIO(memory))) == {"numbers", "recent", "coverage"}, (
        "arrays alone, no pickle"
    )


def test_secret_and_reference_are_in_the_fingerprint(
    reference: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET", "one")
    digest = hashlib.blake2b(Path(reference).read_bytes(), digest_size=8).hexdigest()
    assert guard(reference).private == Secret(None).hash + digest
    guard(reference).check("e")
    with pytest.raises(ConfigError, match="reference is of encoder e, and this one is f"):
        guard(reference).check("f")
    privates = [guard(reference).private, guard(reference, secret="A_SECRET").private]
    kept = {"mean": MEAN + 1, "whiten": WHITEN, "sizes": torch.tensor(SIZES, dtype=torch.float64)}
    kept |= {
        "centre": torch.tensor(CENTRE, dtype=torch.float64),
        "spread": torch.tensor(SPREAD, dtype=torch.float64),
    }
    save_file(kept, reference, {"encoder": "e"})
    assert len({*privates, guard(reference).private}) == 3


@pytest.mark.parametrize(
    "wrong", [{"threshold": 0.0}, {"rate": 0.0}, {"sigma": -0.1}, {"threshold": -1.0}]
)
def test_a_threshold_a_rate_or_a_deviation_that_means_nothing_is_refused(
    wrong: dict[str, float], reference: str
) -> None:
    with pytest.raises(ConfigError, match="set one"):
        guard(reference, **wrong)
