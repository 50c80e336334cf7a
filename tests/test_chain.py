"""Poisoning against its maximisation written out, truncation against sorting and rounding, and what
a chain keeps."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_defenses import asked, images
from test_strengths import OPEN, D, drawn
from torch import Tensor

from stealing.data.sampling import generator
from stealing.defenses import chain as chains
from stealing.defenses.chain import Chain, QueryBatch, StatefulDefense, cost
from stealing.defenses.noise import orthogonal
from stealing.defenses.poisoning import AdditivePoisoning, Poisoning
from stealing.defenses.truncation import Rounding, TopK, Unit
from stealing.errors import ConfigError, Refused


def stand_in(image: Tensor, weights: list[Tensor]) -> Tensor:
    """The small network that poisoning takes for the attacker's."""
    hidden = F.conv2d(image[None], weights[0], stride=2, padding=1).clamp(min=0)
    hidden = F.conv2d(hidden, weights[1], stride=2, padding=1).clamp(min=0)
    pooled = hidden.view(16, 2, 4, 2, 4).mean((2, 4)).flatten()
    return weights[2] @ pooled


def poisoned(image: Tensor, answer: Tensor, start: Tensor, epsilon: float, steps: int) -> Tensor:
    """The same maximisation with the Jacobian written out, in float64."""
    draws, weights = OPEN.generator("stand-in", D), []
    for shape, fan_in in (((8, 3, 3, 3), 27), ((16, 8, 3, 3), 72), ((D, 64), 64)):
        weights.append(torch.from_numpy(draws.standard_normal(shape) * math.sqrt(2 / fan_in)))
    parts = torch.autograd.functional.jacobian(
        lambda *now: stand_in(image, list(now)), tuple(weights)
    )
    jacobian = torch.cat([part.reshape(D, -1) for part in parts], 1)
    length = answer.norm()
    residual = stand_in(image, weights) - answer / length
    true = jacobian.T @ residual
    true = true / true.norm()
    change = epsilon * start
    for _ in range(steps):
        given = jacobian.T @ (residual - change)
        ahead = given / given.norm()
        uphill = jacobian @ (true - (true @ ahead) * ahead)
        change = change + epsilon * uphill / uphill.norm()
        change = epsilon * change / change.norm()
    return answer + length * change


@pytest.mark.parametrize("size", [32, 48])
def test_poisoning_is_the_stated_maximisation_of_the_angle_on_centred_images(size: int) -> None:
    rows = 5 * drawn(3)
    pixels = torch.randint(
        0, 256, (3, 3, size, size), dtype=torch.uint8, generator=generator("pixels")
    )
    question = asked(pixels)
    starts = orthogonal(OPEN.normal([("start", digest) for digest in question.digests], D), rows)
    starts = starts / rows.norm(dim=1, keepdim=True)
    small = pixels.double() / 255 - 0.5
    if size != 32:
        small = F.interpolate(small, (32, 32), mode="bilinear", antialias=True)
    for steps in (0, 1, 3):
        given = Poisoning(0.4, steps, None).answer(rows, question)
        for row in range(3):
            expected = poisoned(small[row], rows[row].double(), starts[row].double(), 0.4, steps)
            torch.testing.assert_close(given[row].double(), expected, rtol=1e-3, atol=2e-3)
    with pytest.raises(ConfigError, match="steps=-1"):
        Poisoning(0.4, -1, None)
    for kind in (lambda: Poisoning(-0.1, 1, None), lambda: AdditivePoisoning(-0.1, None)):
        with pytest.raises(ConfigError, match=r"epsilon=-0\.1"):
            kind()


def test_truncation_keeps_the_k_largest_rounds_to_the_nearest_and_scales_to_one() -> None:
    rows = drawn(20)
    for k in range(1, D + 2):
        for by in ("value", "magnitude"):
            given = TopK(k, by).answer(rows, asked(images(20)))
            for row, kept in zip(rows.numpy(), given.numpy(), strict=True):
                order = np.argsort(-(row if by == "value" else abs(row)))[:k]
                expected = np.zeros(D, np.float32)
                expected[order] = row[order]
                assert np.array_equal(kept, expected)
    for decimals in (-2, -1, 0, 1, 3):
        given = Rounding(decimals).answer(77 * rows, asked(images(20)))
        np.testing.assert_array_equal(
            given.numpy(), np.round(77 * rows.double().numpy(), decimals).astype(np.float32)
        )
    for decimals in (30, -30):
        Rounding(decimals)
        with pytest.raises(ConfigError, match="from -30 to 30"):
            Rounding(decimals + decimals // 30)
    lengths = rows.norm(dim=1, keepdim=True)
    torch.testing.assert_close(Unit().answer(rows, asked(images(20))) * lengths, rows)


class Counting(StatefulDefense):
    """Adds how often the account asked; refuses the fourth question."""

    def __init__(self, private: str, remembers: bool = True, step: int = 1) -> None:
        self.private = private
        self.remembers = remembers
        self.step = step
        self.seen: dict[str, int] = {}

    def answer(self, features_BD: Tensor, asked: QueryBatch) -> Tensor:
        self.seen[asked.account] += self.step
        if self.seen[asked.account] > 3 * self.step:
            raise Refused("Enough.")
        return 2 * features_BD + self.seen[asked.account]

    def load(self, account: str, memory: bytes | None) -> None:
        self.seen[account] = int(memory or 0)

    def dump(self, account: str) -> bytes:
        return str(self.seen[account]).encode()

    def check(self, encoder: str) -> None:
        raise ConfigError(f"{encoder} is not {self.private}")


def test_a_chain_asks_each_in_turn_and_keeps_a_memory_for_each_that_has_one() -> None:
    chain = Chain({"one": Counting("p"), "unit": Unit(), "ten": Counting("q", step=10)})
    assert chain.remembers and chain.private == {"one": "p", "ten": "q"}
    rows, question = torch.tensor([[3.0, 4.0]]), asked(images(1))
    memory: bytes | None = None
    for turn in (1, 2, 3):
        first = torch.tensor([6.0 + turn, 8.0 + turn])
        given, memory = chain.settle(rows, question, memory)
        torch.testing.assert_close(given[0], 2 * first / first.norm() + 10 * turn)
    with pytest.raises(Refused):
        chain.settle(rows, question, memory)
    again, _ = chain.settle(rows, question, None)
    assert torch.equal(again, Chain(chain.defenses).settle(rows, question, b"")[0])
    grown = Chain({"one": Counting("p"), "new": Counting("r")})
    grown.load("attacker/0", memory)
    assert grown.defenses["one"].seen == {"attacker/0": 3} and grown.defenses["new"].seen == {
        "attacker/0": 0
    }
    with pytest.raises(ConfigError, match="e is not p"):
        chain.check("e")
    Chain({"unit": Unit()}).check("e")


def test_a_chain_that_remembers_nothing_has_no_memory() -> None:
    for chain in (Chain({}), Chain({"unit": Unit()}), Chain({"c": Counting("p", remembers=False)})):
        assert not chain.remembers and chain.dump("attacker/0") == b""
    assert Chain({"unit": Unit()}).private == {}
    assert Chain({}).settle(drawn(2), asked(images(2)), None)[1] == b""


def test_the_cost_of_a_chain_is_its_fastest_repeat_an_image_and_what_it_has_to_keep(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([0.0, 5.0, 10.0, 12.0, 20.0, 29.0, 30.0, 33.0, 40.0, 43.0, 50.0, 51.0])
    monkeypatch.setattr(chains.time, "perf_counter", lambda: next(clock))
    told = cost(Chain({"one": Counting("p")}), drawn(4), asked(images(4)))
    assert told == {"milliseconds": 500.0, "bytes": float(len(b'{"one": "MQ=="}'))}
    assert next(clock) == 50.0, "five repeats unless told otherwise"
