"""What each defense adds or takes away, number by number, against its formula written out again."""

import hashlib
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from test_defenses import asked, images
from torch import Tensor

from stealing.data.sampling import generator
from stealing.defenses.b4b import B4B, Transform, sigma
from stealing.defenses.chain import QueryBatch
from stealing.defenses.coverage import Coverage
from stealing.defenses.keyed import Secret
from stealing.defenses.noise import CosineNoise, Noise, orthogonal
from stealing.defenses.poisoning import AdditivePoisoning, Poisoning, stand_in
from stealing.errors import ConfigError

D = 6
OPEN = Secret(None)


def drawn(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, D, generator=generator("strengths", seed))


def shares(rows: Tensor, planes: int, tables: int) -> list[float]:
    """Coverage after each image: sides of the planes as tuples, in one set a table."""
    normals = OPEN.generator("planes", D).standard_normal((D, tables * planes))
    seen: list[set[tuple[bool, ...]]] = [set() for _ in range(tables)]
    after = []
    for row in rows.double().numpy():
        for table in range(tables):
            sides = row @ normals[:, table * planes : (table + 1) * planes] > 0
            seen[table].add(tuple(sides))
        after.append(sum(map(len, seen)) / (tables * 2**planes))
    return after


def test_coverage_is_the_share_of_combinations_of_sides_seen_so_far_by_this_account() -> None:
    rows = torch.cat([drawn(40), drawn(20), drawn(30, 1)])
    coverage = Coverage(3, 4, OPEN)
    told = []
    for cut in (slice(0, 1), slice(1, 50), slice(50, 90)):
        told += coverage.after("a", rows[cut]).tolist()
        coverage.after("b", drawn(30, 5))
    assert told == pytest.approx(shares(rows, 3, 4), abs=1e-12)
    assert coverage.after("c", rows[:7]).tolist() == pytest.approx(shares(rows[:7], 3, 4))
    assert coverage.after("b", drawn(30, 5))[-1] == pytest.approx(shares(drawn(30, 5), 3, 4)[-1])


def test_a_memory_of_coverage_replaces_what_was_known_and_holds_a_bit_a_bucket() -> None:
    coverage, other = Coverage(5, 3, OPEN), Coverage(5, 3, OPEN)
    assert coverage.dump("a") == b""
    coverage.after("a", drawn(10))
    memory = coverage.dump("a")
    assert len(memory) == 3 * 2**5 // 8
    other.after("a", drawn(40, 7))
    other.after("b", drawn(4, 8))
    beside = other.dump("b")
    other.load("a", memory)
    assert other.dump("a") == memory and other.dump("b") == beside
    assert other.after("a", drawn(10, 3)).tolist() == coverage.after("a", drawn(10, 3)).tolist()
    other.load("a", None)
    assert other.dump("a") == b"" and other.after("a", drawn(1)).tolist() == [1 / 2**5]
    zero = Coverage(5, 3, OPEN)
    zero.after("a", torch.zeros(1, D))
    bits = np.unpackbits(np.frombuffer(zero.dump("a"), np.uint8)).reshape(3, 2**5)
    assert bits[:, 0].tolist() == [1, 1, 1] and bits.sum() == 3, "on a plane is not above it"


def noise_of_b4b(
    rows: Tensor, question: QueryBatch, deviations: list[float], seen: list[float]
) -> Tensor:
    made = []
    for digest, deviation, share in zip(question.digests, deviations, seen, strict=True):
        draw = OPEN.generator("noise", digest, str(share)).standard_normal(D, np.float32)
        made.append(torch.from_numpy(draw) * deviation)
    return rows + torch.stack(made)


def test_b4b_adds_noise_of_the_papers_deviation_at_the_accounts_coverage() -> None:
    rows, question = drawn(30), asked(images(30))
    seen = shares(rows, 4, 3)
    deviations = [0.01 * (math.exp(math.log(2 / 0.01) * share / 0.5) - 1) for share in seen]
    given = B4B(0.01, 2.0, 0.5, 4, 3, None).answer(rows, question)
    torch.testing.assert_close(given, noise_of_b4b(rows, question, deviations, seen))
    assert max(deviations) > 1


def test_noise_of_b4b_is_never_louder_than_a_million_and_its_deviation_always_a_number() -> None:
    rows, question = drawn(30), asked(images(30))
    seen = shares(rows, 4, 3)
    given = B4B(1e-6, 1e6, 0.001, 4, 3, None).answer(rows, question)
    torch.testing.assert_close(given, noise_of_b4b(rows, question, [1e6] * 30, seen))
    most = sigma(1.0, lambda_=1e-6, alpha=1e6, beta=1e-9)
    assert (
        most == pytest.approx(1e-6 * math.exp(200))
        and sigma(0.0, lambda_=1e-6, alpha=1, beta=1) == 0
    )


@pytest.mark.parametrize(
    "change", ["lambda_=0", "lambda_=2", "beta=0", "planes=0", "tables=0", "beta=-1"]
)
def test_b4b_takes_settings_up_to_their_edge_and_none_beyond(change: str) -> None:
    settings: dict[str, Any] = {
        "lambda_": 1.0,
        "alpha": 1.0,
        "beta": 1e-3,
        "planes": 1,
        "tables": 1,
        "secret": None,
    }
    assert B4B(**settings).answer(drawn(2), asked(images(2))).shape == (2, D)
    name, value = change.split("=")
    with pytest.raises(ConfigError, match=rf"defense\.b4b\.{name}={value} is not .*: set one"):
        B4B(**(settings | {name: int(value)}))


def test_b4b_remembers_its_coverage() -> None:
    one, other = B4B(0.01, 2.0, 0.5, 4, 3, None), B4B(0.01, 2.0, 0.5, 4, 3, None)
    one.answer(drawn(20), asked(images(20)))
    other.load("attacker/0", one.dump("attacker/0"))
    assert other.coverage.dump("attacker/0") == one.coverage.dump("attacker/0") != b""


def account_numbers(account: str, place: int) -> np.random.Generator:
    return OPEN.generator("transform", account, place)


def test_an_affine_transform_has_factors_and_shifts_of_both_signs_within_one() -> None:
    wide, question = torch.zeros(2, 200), asked(images(2))
    wide[1] = 1
    shift, both = Transform(["affine"], None).answer(wide, question)
    factors, shifts = account_numbers("attacker/0", 0).uniform(-1, 1, (2, 200)).astype(np.float32)
    np.testing.assert_allclose(shift.numpy(), shifts)
    np.testing.assert_allclose((both - shift).numpy(), factors, atol=1e-6)
    for numbers in (shift, both - shift):
        assert numbers.min() < -0.9 and numbers.max() > 0.9 and numbers.abs().max() <= 1
        assert abs(float(numbers.mean())) < 0.15
    assert abs(float(torch.corrcoef(torch.stack([shift, both - shift]))[0, 1])) < 0.2


def test_a_transform_appends_fixed_numbers_shuffles_or_takes_sides_by_draws_of_its_own_place() -> (
    None
):
    rows, question = drawn(9), asked(images(9), "attacker/3")
    padded = Transform(["pad"], None).answer(rows, question)
    fixed = account_numbers("attacker/3", 0).standard_normal(D, np.float32)
    assert torch.equal(padded[:, :D], rows) and np.array_equal(
        padded[:, D:].numpy(), np.tile(fixed, (9, 1))
    )
    order = account_numbers("attacker/3", 0).permutation(D)
    assert np.array_equal(
        Transform(["shuffle"], None).answer(rows, question).numpy(), rows.numpy()[:, order]
    )
    assert sorted(order) == list(range(D)) and list(order) != list(range(D))
    planes = account_numbers("attacker/3", 0).standard_normal((D, 2 * D))
    sides = Transform(["binary"], None).answer(rows, question)
    assert np.array_equal(sides.numpy(), (rows.double().numpy() @ planes > 0).astype(np.float32))
    assert Transform(["binary"], None).answer(torch.zeros(1, D), asked(images(1))).eq(0).all()
    twice = Transform(["shuffle", "pad"], None).answer(rows, question)
    second = account_numbers("attacker/3", 1).standard_normal(D, np.float32)
    expected = np.concatenate([rows.numpy()[:, order], np.tile(second, (9, 1))], 1)
    assert np.array_equal(twice.numpy(), expected)


def test_a_key_gives_each_purpose_numbers_of_its_own() -> None:
    purposes: list[tuple[str | bytes | int, ...]] = [
        ("a",),
        ("b",),
        ("a", "b"),
        ("ab",),
        ("a", "bc"),
        ("ab", "c"),
        ("a", 1),
        ("a", 11),
        ("a", 1, 1),
        ("a", ""),
        (b"\x00",),
        (b"\x00\x00",),
        (),
    ]
    numbers = [OPEN.generator(*purpose).standard_normal(500) for purpose in purposes]
    alike = np.abs(np.corrcoef(numbers) - np.eye(len(purposes)))
    assert alike.max() < 0.25
    assert np.array_equal(OPEN.generator("a", 1).random(5), OPEN.generator(b"a", "1").random(5))


def test_a_secret_shows_as_a_short_hash_and_gives_other_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("A_SECRET", "x")
    mine = Secret("A_SECRET")
    assert len(mine.hash) == 16 and mine.hash != OPEN.hash and mine.hash == Secret("A_SECRET").hash
    assert not np.array_equal(mine.generator("a").random(5), OPEN.generator("a").random(5))
    monkeypatch.setenv("A_SECRET", "")
    with pytest.raises(ConfigError, match=r"\$A_SECRET, which is empty"):
        Secret("A_SECRET")


def test_numbers_of_a_key_stay_the_same_as_banks_were_filled_with_them() -> None:
    key = hashlib.blake2b(
        b"a public key: fit for measuring, not for serving", digest_size=32
    ).digest()
    assert OPEN.hash == hashlib.blake2b(b"fingerprint", key=key, digest_size=8).hexdigest()
    text = b"\x05\x00\x00\x00noise" + b"\x01\x00\x00\x00\xff" + b"\x02\x00\x00\x0012"
    seed = int.from_bytes(hashlib.blake2b(text, key=key, digest_size=16).digest(), "little")
    expected = np.random.Generator(np.random.Philox(key=seed)).random(3)
    assert np.array_equal(OPEN.generator("noise", b"\xff", 12).random(3), expected)


SECRETIVE: dict[str, Callable[[str | None], Any]] = {
    "b4b": lambda secret: B4B(1.0, 2.0, 0.01, 3, 2, secret),
    "transform": lambda secret: Transform(["affine"], secret),
    "noise": lambda secret: Noise(1.0, "gaussian", False, secret),
    "cosine": lambda secret: CosineNoise(0.5, False, secret),
    "poisoning": lambda secret: Poisoning(0.5, 1, secret),
    "additive": lambda secret: AdditivePoisoning(0.5, secret),
}


@pytest.mark.parametrize("name", SECRETIVE)
def test_a_secret_is_in_the_fingerprint_and_in_every_number(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, question, given = drawn(4), asked(images(4)), {}
    for value in ("one", "two", ""):
        monkeypatch.setenv("A_SECRET", value)
        defense = SECRETIVE[name]("A_SECRET" if value else None)
        assert defense.private == Secret("A_SECRET" if value else None).hash
        given[value] = defense.answer(rows, question)
    assert all(not given["one"].isclose(given[other]).all(1).any() for other in ("two", ""))


def test_rows_of_noise_are_functions_of_their_own_purpose_with_variance_one() -> None:
    names: list[tuple[str | bytes | int, ...]] = [("n", place) for place in range(40)]
    for draw in (OPEN.normal, OPEN.laplace):
        rows = draw(names, 500)
        assert rows.dtype == torch.float32 and torch.equal(draw(names[7:9], 500), rows[7:9])
        assert float(rows.std()) == pytest.approx(1, abs=0.03) and abs(float(rows.mean())) < 0.03
    tails = OPEN.laplace(names, 500).abs().gt(3).float().mean()
    assert float(tails) == pytest.approx(math.exp(-3 * math.sqrt(2)), rel=0.2), (
        "heavier than a normal one's 0.0027"
    )


@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
def test_noise_is_sigma_times_the_draw_of_its_image_or_of_the_accounts_count(kind: str) -> None:
    rows, question = drawn(5), asked(images(5), "honest/x")
    draw = OPEN.normal if kind == "gaussian" else OPEN.laplace
    by_content = rows + 0.7 * draw([("content", digest) for digest in question.digests], D)
    torch.testing.assert_close(Noise(0.7, kind, False, None).answer(rows, question), by_content)
    fresh = Noise(0.7, kind, True, None)
    for first in (0, 5):
        expected = rows + 0.7 * draw(
            [("fresh", "honest/x", first + place) for place in range(5)], D
        )
        torch.testing.assert_close(fresh.answer(rows, question), expected)
    assert fresh.dump("honest/x") == (10).to_bytes(8, "little") and fresh.dump("new") == bytes(8)
    fresh.load("honest/x", (3).to_bytes(8, "little"))
    expected = rows + 0.7 * draw([("fresh", "honest/x", 3 + place) for place in range(5)], D)
    torch.testing.assert_close(fresh.answer(rows, question), expected)
    fresh.load("honest/x", None)
    assert fresh.dump("honest/x") == bytes(8)
    assert fresh.remembers and not Noise(0.7, kind, False, None).remembers


def test_noise_of_an_angle_turns_in_the_plane_of_its_own_draw() -> None:
    rows, question = drawn(5), asked(images(5))
    for fresh in (False, True):
        names: list[tuple[str | bytes | int, ...]] = [
            ("content of an angle", digest) for digest in question.digests
        ]
        if fresh:
            names = [("fresh of an angle", "attacker/0", place) for place in range(5)]
        across = orthogonal(OPEN.normal(names, D), rows)
        given = CosineNoise(0.6, fresh, None)
        torch.testing.assert_close(given.answer(rows, question), 0.6 * rows + 0.8 * across)
        assert given.remembers == fresh
    for wrong in (0.0, 1.01, -0.5):
        with pytest.raises(ConfigError, match="set one"):
            CosineNoise(wrong, False, None)


def test_orthogonal_is_at_right_angles_as_long_and_on_the_side_of_the_draw() -> None:
    rows, draws = 1e3 * drawn(20), drawn(20, 1)
    across = orthogonal(draws, rows)
    torch.testing.assert_close(across.norm(dim=1), rows.norm(dim=1))
    assert float(torch.cosine_similarity(across, rows).abs().max()) < 1e-5
    assert (across * draws).sum(1).gt(0).all() and orthogonal(draws, torch.zeros(20, D)).eq(0).all()
    unit = rows / rows.norm(dim=1, keepdim=True)
    part = across / rows.norm(dim=1, keepdim=True)
    rebuilt = (draws * unit).sum(1, keepdim=True) * unit + (draws * part).sum(
        1, keepdim=True
    ) * part
    torch.testing.assert_close(rebuilt, draws, atol=1e-4, rtol=1e-4)


def test_additive_poisoning_is_at_right_angles_and_epsilon_answers_long() -> None:
    rows, question = drawn(20), asked(images(20))
    for epsilon in (0.3, 2.0):
        change = AdditivePoisoning(epsilon, None).answer(rows, question) - rows
        torch.testing.assert_close(change.norm(dim=1), epsilon * rows.norm(dim=1))
        assert float(torch.cosine_similarity(change, rows).abs().max()) < 1e-5
        names: list[tuple[str | bytes | int, ...]] = [
            ("additive", digest) for digest in question.digests
        ]
        torch.testing.assert_close(
            change, epsilon * orthogonal(OPEN.normal(names, D), rows), atol=1e-5, rtol=1e-4
        )


def test_a_step_of_poisoning_follows_the_slope_of_the_angle_for_pixels_centred_at_grey() -> None:
    rows = drawn(3)
    pictures = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=generator("p"))
    start = Poisoning(0.5, 0, None).answer(rows, asked(pictures)) - rows
    defense = Poisoning(0.5, 1, None)
    given = defense.answer(rows, asked(pictures))
    weights = defense.stand_in_weights(D)
    for place, image in enumerate(pictures.float() / 255 - 0.5):
        length = rows[place].norm()
        jacobian = torch.func.jacrev(partial(stand_in, image, width=D))(weights)
        residual = stand_in(image, weights, D) - rows[place] / length
        change = (start[place] / length).requires_grad_()
        cosine = torch.cosine_similarity(residual @ jacobian, (residual - change) @ jacobian, dim=0)
        [slope] = torch.autograd.grad(cosine, change)
        climbed = change.detach() - 0.5 * slope / slope.norm()
        expected = rows[place] + 0.5 * length * climbed / climbed.norm()
        torch.testing.assert_close(given[place], expected, atol=1e-4, rtol=1e-4)
