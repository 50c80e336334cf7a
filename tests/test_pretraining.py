"""NT-Xent against a loop written from the paper's formula."""

import math

import pytest
import torch

from stealing.data.sampling import generator
from stealing.pretraining.simclr import nt_xent


def from_the_formula(first: torch.Tensor, second: torch.Tensor, temperature: float) -> float:
    z = [*first.tolist(), *second.tolist()]
    count = len(z)

    def similarity(a: list[float], b: list[float]) -> float:
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b)) / temperature

    total = 0.0
    for i in range(count):
        j = (i + count // 2) % count
        others = sum(math.exp(similarity(z[i], z[k])) for k in range(count) if k != i)
        total -= math.log(math.exp(similarity(z[i], z[j])) / others)
    return total / count


@pytest.mark.parametrize("temperature", [0.1, 0.2, 1.0])
@pytest.mark.parametrize("batch", [2, 5])
def test_nt_xent_equals_the_formula(batch: int, temperature: float) -> None:
    first, second = torch.randn(2, batch, 7, generator=generator(batch)).double()
    value = nt_xent(first, second, temperature=temperature)
    assert float(value) == pytest.approx(from_the_formula(first, second, temperature), rel=1e-5)


def test_nt_xent_of_equal_far_apart_pairs_is_zero_and_of_one_point_is_log_of_the_others() -> None:
    apart = torch.eye(4)
    assert float(nt_xent(apart, apart, temperature=0.01)) == pytest.approx(0, abs=1e-6)
    assert float(nt_xent(torch.ones(4, 3), torch.ones(4, 3), temperature=0.5)) == pytest.approx(
        math.log(7), rel=1e-6
    )


def test_nt_xent_ignores_the_length_of_projections_and_survives_a_tiny_temperature() -> None:
    first, second = torch.randn(2, 6, 4, generator=generator("scale"))
    torch.testing.assert_close(
        nt_xent(first * 100, second, temperature=0.2), nt_xent(first, second, temperature=0.2)
    )
    assert nt_xent(first, second, temperature=1e-4).isfinite()


def test_nt_xent_is_float32_also_under_autocast() -> None:
    first, second = torch.randn(2, 16, 32, generator=generator("autocast"))
    expected = nt_xent(first, second, temperature=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        value = nt_xent(first, second, temperature=0.1)
    assert value.dtype == torch.float32
    assert float(value) == pytest.approx(float(expected), rel=1e-6)
