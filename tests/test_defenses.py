"""The laws of every defense, one table; then what is particular to each."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from conftest import ROOT, choose
from torch import Tensor

from stealing.config import instantiate_node, to_dict
from stealing.data.sampling import generator
from stealing.defenses.b4b import B4B, sigma
from stealing.defenses.chain import Chain, QueryBatch
from stealing.defenses.noise import CosineNoise, Noise
from stealing.errors import ConfigError
from stealing.queries.digests import digests
from stealing.targets.local import fingerprint

D = 24


@dataclass(frozen=True)
class Row:
    """A defense at strengths that rise from none.

    Attributes:
        name: of its file.
        setting: that makes it stronger.
        strengths: the first is none, the last the strongest.
        also: other settings.
        width: of the answers, in widths of the features, at the strongest.
        own: whether accounts or earlier questions matter, so that only the account's own order
        counts.
    """

    name: str
    setting: str
    strengths: list[str]
    also: tuple[str, ...] = ()
    width: int = 1
    own: bool = False


LAWS = [
    Row("topk", "topk.k", [str(D), "12", "6", "1"]),
    Row("topk", "topk.k", [str(D), "12", "6", "1"], ("defense.topk.by=magnitude",)),
    Row("rounding", "rounding.decimals", ["null", "2", "1", "0"]),
    Row("noise", "noise.sigma", ["0", "0.1", "1"]),
    Row("noise", "noise.sigma", ["0", "0.1", "1"], ("defense.noise.kind=laplace",)),
    Row("noise", "noise.sigma", ["0", "0.1", "1"], ("defense.noise.fresh=true",), own=True),
    Row("cosine", "cosine.cosine", ["1", "0.9", "0.5"]),
    Row("cosine", "cosine.cosine", ["1", "0.9", "0.5"], ("defense.cosine.fresh=true",), own=True),
    Row("poisoning", "poisoning.epsilon", ["0", "0.1", "0.5", "1"]),
    Row("additive", "additive.epsilon", ["0", "0.1", "0.5", "1"]),
    Row(
        "b4b",
        "b4b.alpha",
        ["1e-6", "1", "1e6"],
        ("defense.transform.kinds=[]", "defense.b4b.beta=0.5", "defense.b4b.planes=8"),
        own=True,
    ),
    Row("transform", "transform.kinds", ["[]", "[affine]"], own=True),
    Row("transform", "transform.kinds", ["[]", "[pad,binary,shuffle]"], width=4, own=True),
    Row("[topk,noise]", "noise.sigma", ["0", "0.1", "1"], (f"defense.topk.k={D}",)),
    Row("[noise,rounding]", "noise.sigma", ["0", "0.1", "1"], ("defense.rounding.decimals=null",)),
]
IDS = [" ".join((row.name, *(each.split(".")[-1] for each in row.also))) for row in LAWS]


def test_every_defense_has_its_row_in_the_table() -> None:
    files = {path.stem for path in (ROOT / "conf" / "defense").glob("*.yaml")}
    assert files - {row.name for row in LAWS} <= {
        "none",
        "unit",
        "guard",
    }  # no strength; laws of their own


def chain(row: Row, strength: str) -> Chain:
    overrides = (f"defense={row.name}", f"defense.{row.setting}={strength}", *row.also)
    return Chain(instantiate_node(choose(*overrides).defense))


def images(count: int, seed: int = 0) -> Tensor:
    return torch.randint(
        0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=generator("images", seed)
    )


def asked(pictures: Tensor, account: str = "attacker/0") -> QueryBatch:
    return QueryBatch(account, digests(pictures), pictures)


def drawn(count: int, seed: int = 0) -> Tensor:
    """Features as rectified networks give them."""
    return torch.randn(count, D, generator=generator("features", seed)).relu()


@pytest.mark.parametrize("row", LAWS, ids=IDS)
def test_no_strength_no_effect_and_more_strength_more_distance(row: Row) -> None:
    features, question = drawn(1000), asked(images(1000))
    assert torch.equal(chain(row, row.strengths[0]).answer(features, question), features)
    if row.width == 1:
        distances = [
            float((chain(row, strength).answer(features, question) - features).norm(dim=1).mean())
            for strength in row.strengths
        ]
        assert distances == sorted(distances) and distances[-1] > 0


@pytest.mark.parametrize("row", LAWS, ids=IDS)
def test_shape_and_type_are_kept_or_declared_and_every_number_is_finite(row: Row) -> None:
    features = drawn(6)
    features[0], features[1], features[2], features[3] = 0, 1e30, 3.0, -1e-30
    for strength in row.strengths[1:]:
        answer = chain(row, strength).answer(features, asked(images(6)))
        assert (
            answer.shape == (6, row.width * D)
            and answer.dtype == torch.float32
            and answer.isfinite().all()
        )


@pytest.mark.parametrize("row", LAWS, ids=IDS)
def test_it_is_deterministic_and_leaves_what_it_was_given_alone(row: Row) -> None:
    features, question = drawn(20), asked(images(20))
    before = features.clone()
    first, second = (chain(row, row.strengths[-1]).answer(features, question) for _ in range(2))
    assert torch.equal(first, second) and torch.equal(features, before)


@pytest.mark.parametrize("row", LAWS, ids=IDS)
def test_an_answer_does_not_depend_on_how_images_were_cut_into_requests(row: Row) -> None:
    features, pictures = drawn(40), images(40)
    whole = chain(row, row.strengths[-1]).answer(features, asked(pictures))
    parts, defense, memory = [], chain(row, row.strengths[-1]), None
    for cut in (slice(0, 1), slice(1, 18), slice(18, 40)):
        part, memory = defense.settle(features[cut], asked(pictures[cut]), memory)
        defense = chain(
            row, row.strengths[-1]
        )  # as after a restart: all that is known is in the memory
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-5, atol=1e-5)
    if not row.own:  # then order does not matter either
        back = (
            chain(row, row.strengths[-1]).answer(features.flip(0), asked(pictures.flip(0))).flip(0)
        )
        torch.testing.assert_close(back, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("row", LAWS, ids=IDS)
def test_accounts_do_not_mix(row: Row) -> None:
    features, pictures = drawn(40), images(40)
    alone, both = chain(row, row.strengths[-1]), chain(row, row.strengths[-1])
    whole = alone.answer(features, asked(pictures))
    memories: dict[str, bytes | None] = {"attacker/0": None, "honest/x": None}
    got = []
    for cut in (slice(0, 20), slice(20, 40)):
        answer, memories["attacker/0"] = both.settle(
            features[cut], asked(pictures[cut]), memories["attacker/0"]
        )
        got.append(answer)
        _, memories["honest/x"] = both.settle(
            drawn(20, 1), asked(images(20, 1), "honest/x"), memories["honest/x"]
        )
    torch.testing.assert_close(torch.cat(got), whole, rtol=1e-5, atol=1e-5)


def test_topk_keeps_the_largest_by_value_or_by_magnitude() -> None:
    features = torch.tensor([[3.0, -5.0, 1.0, 2.0]])
    for by, kept in (("value", [3.0, 0.0, 0.0, 2.0]), ("magnitude", [3.0, -5.0, 0.0, 0.0])):
        defense = Chain(
            instantiate_node(
                choose("defense=topk", "defense.topk.k=2", f"defense.topk.by={by}").defense
            )
        )
        assert defense.answer(features, asked(images(1))).tolist() == [kept]


def test_the_order_of_a_chain_says_whether_lengths_are_taken_off_before_or_after() -> None:
    features, question = torch.tensor([[3.0, 4.4]]), asked(images(1))
    before = Chain(instantiate_node(choose("defense=[unit,rounding]").defense))
    after = Chain(instantiate_node(choose("defense=[rounding,unit]").defense))
    assert before.answer(features, question).tolist() == [[1.0, 1.0]]
    torch.testing.assert_close(after.answer(features, question), torch.tensor([[0.6, 0.8]]))
    assert list(before.defenses) == ["unit", "rounding"]
    named = {
        order: to_dict(choose(f"defense={order}").defense)
        for order in ("[unit,rounding]", "[rounding,unit]")
    }
    assert len({fingerprint(before, settings) for settings in named.values()}) == 2


def test_two_noises_in_a_chain_are_not_the_same_noise() -> None:
    features, question = torch.zeros(40, D) + 1, asked(images(40))
    one = Noise(1.0, "gaussian", False, None).answer(features, question) - features
    other = CosineNoise(0.01, False, None).answer(features, question)
    assert abs(float(torch.cosine_similarity(one, other).mean())) < 0.1


def test_unit_answers_have_length_one_and_a_zero_stays_zero() -> None:
    features = drawn(6)
    features[0], features[1] = 0, 1e30
    answer = Chain(instantiate_node(choose("defense=unit").defense)).answer(
        features, asked(images(6))
    )
    torch.testing.assert_close(answer.norm(dim=1), torch.tensor([0.0, 1, 1, 1, 1, 1]))
    assert answer.dtype == torch.float32


def test_noise_is_at_exactly_the_cosine_and_keeps_the_length() -> None:
    features = drawn(50)
    given = CosineNoise(0.7, False, None).answer(features, asked(images(50)))
    torch.testing.assert_close(torch.cosine_similarity(given, features), torch.full((50,), 0.7))
    torch.testing.assert_close(given.norm(dim=1), features.norm(dim=1))


@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
def test_fresh_noise_is_averaged_away_and_noise_by_content_is_not(kind: str) -> None:
    features, question = drawn(50), asked(images(50))
    left = {}
    for fresh in (True, False):
        defense = Noise(0.5, kind, fresh, None)
        mean = torch.stack([defense.answer(features, question) for _ in range(25)]).mean(0)
        left[fresh] = float((mean - features).std())
    assert left[True] == pytest.approx(0.1, rel=0.1) and left[False] == pytest.approx(0.5, rel=0.1)


def test_noise_by_content_is_the_same_for_several_accounts_so_that_they_cannot_average_it() -> None:
    features, pictures = drawn(5), images(5)
    one, two = (
        Noise(1.0, "gaussian", False, None).answer(features, asked(pictures, f"attacker/{i}"))
        for i in (0, 1)
    )
    assert torch.equal(one, two)


def test_a_secret_changes_the_noise_and_shows_in_the_fingerprint_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def made(secret: str) -> Chain:
        monkeypatch.setenv("A_SECRET", secret)
        return Chain(
            instantiate_node(choose("defense=noise", "defense.noise.secret=A_SECRET").defense)
        )

    features, question = drawn(5), asked(images(5))
    first, second = made("one"), made("two")
    assert not torch.equal(first.answer(features, question), second.answer(features, question))
    assert first.private != second.private and "one" not in str(first.private)
    monkeypatch.delenv("A_SECRET")
    with pytest.raises(ConfigError, match="A_SECRET"):
        instantiate_node(choose("defense=noise", "defense.noise.secret=A_SECRET").defense)


def test_poisoning_turns_the_gradient_of_its_stand_in_further_than_a_random_change_does() -> None:
    from stealing.defenses.poisoning import Poisoning, stand_in

    features, pictures = (
        drawn(12),
        torch.randint(0, 256, (12, 3, 32, 32), dtype=torch.uint8, generator=generator("p")),
    )
    angles = {}
    for steps in (0, 4):
        defense = Poisoning(0.5, steps, None)
        given = defense.answer(features, asked(pictures))
        torch.testing.assert_close((given - features).norm(dim=1), 0.5 * features.norm(dim=1))
        weights = defense.stand_in_weights(D)
        total = 0.0
        for image, true, false in zip(pictures.float() / 255 - 0.5, features, given, strict=True):
            told, pulled = torch.func.vjp(lambda now, image=image: stand_in(image, now, D), weights)
            length = true.norm()
            one, other = (pulled(told - each / length)[0] for each in (true, false))
            total += math.degrees(math.acos(float(torch.cosine_similarity(one, other, dim=0))))
        angles[steps] = total / 12
    assert angles[4] > angles[0] + 5


@pytest.mark.parametrize(
    ("coverage", "expected"),
    [(0.1, 4.62341e-06), (0.3, 1.76828e-04), (0.5, 5.62241e-03), (0.8, 0.999999), (0.9, 5.62341)],
)
def test_the_cost_of_b4b_is_the_papers(coverage: float, expected: float) -> None:
    assert sigma(coverage, lambda_=1e-6, alpha=1, beta=0.8) == pytest.approx(expected, rel=1e-5)


def test_coverage_counts_each_bucket_once_and_grows_with_what_is_seen() -> None:
    features = torch.randn(600, D, generator=generator("coverage"))
    defense = B4B(1e-6, 1.0, 0.8, 8, 3, None)
    first = defense.coverage.after("a", features)
    assert np.all(np.diff(first) >= 0) and first[0] == 1 / 256
    assert np.all(defense.coverage.after("a", features) == first[-1])
    buckets = defense.coverage._buckets(features)
    assert first[-1] == np.mean([len(set(column)) for column in buckets.T]) / 256
    narrow = B4B(1e-6, 1.0, 0.8, 8, 3, None).coverage.after("a", features[:1] + 0.1 * features)
    assert narrow[-1] < first[-1]


def test_two_answers_of_b4b_to_one_image_do_not_give_the_true_one_away() -> None:
    features, pictures = torch.randn(200, D, generator=generator("coverage")), images(200)
    defense = B4B(1e-6, 1.0, 0.2, 8, 3, None)
    first = defense.answer(features, asked(pictures))[:20] - features[:20]
    again = defense.answer(features[:20], asked(pictures[:20])) - features[:20]
    assert float(torch.cosine_similarity(first, again).abs().mean()) < 0.3, (
        "noise of one direction is solved for"
    )
    assert torch.equal(
        defense.answer(features[:20], asked(pictures[:20])) - features[:20], again
    ), "nothing new is seen"


def test_transforms_are_of_each_accounts_own_and_always_the_same() -> None:
    defense = Chain(instantiate_node(choose("defense=transform").defense))
    features, pictures = drawn(5), images(5)
    one, other = (defense.answer(features, asked(pictures, f"attacker/{i}")) for i in (0, 1))
    assert one.shape == (5, 2 * D) and not torch.allclose(one, other)
    assert torch.equal(one, defense.answer(features, asked(pictures)))


def test_settings_that_mean_nothing_are_refused_in_one_sentence() -> None:
    for override in (
        "topk defense.topk.by=size",
        "topk defense.topk.k=0",
        "noise defense.noise.kind=pink",
        "cosine defense.cosine.cosine=0",
        "poisoning defense.poisoning.epsilon=-1",
        "b4b defense.b4b.beta=0",
        "transform defense.transform.kinds=[turn]",
        "noise defense.noise.sigma=-1",
        "b4b defense.b4b.planes=0",
        "b4b defense.b4b.tables=0",
        "rounding defense.rounding.decimals=400",
        "guard defense.guard.threshold=0",
        "guard defense.guard.rate=0",
        "poisoning defense.poisoning.steps=-1",
    ):
        name, setting = override.split()
        with pytest.raises(ConfigError, match=r"^(A |defense).*set.*\.$|choose.*\.$"):
            instantiate_node(choose(f"defense={name}", setting).defense)
