"""Losses of attacks on views against loops that are written from their formulas."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from stealing.attacks.contrastive import cont_steal
from stealing.attacks.prototypes import discriminate_and_align, prototypes
from stealing.attacks.siamese import infonce
from stealing.data.sampling import generator
from stealing.errors import ConfigError

Loss = Callable[..., Tensor]


def unit(row: Tensor) -> Tensor:
    return row / sum(x * x for x in row) ** 0.5


def dot(a: Tensor, b: Tensor) -> Tensor:
    return sum((x * y for x, y in zip(a, b, strict=True)), torch.zeros((), dtype=torch.float64))


def log_sum(terms: list[Tensor]) -> Tensor:
    """log of the sum of e to the terms; e^1000 is no number."""
    most = max(float(term.detach()) for term in terms)
    return most + torch.log(sum((term - most).exp() for term in terms))  # type: ignore[arg-type]


def cont_steal_loop(surrogate: Tensor, target: Tensor, temperature: float) -> Tensor:
    s = [unit(row) for row in surrogate]
    t = [unit(row) for row in target]
    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(s)):
        negatives = [dot(t[i], s[j]) / temperature for j in range(len(s)) if j != i]
        negatives += [dot(s[i], s[j]) / temperature for j in range(len(s)) if j != i]
        total = total - (dot(t[i], s[i]) / temperature - log_sum(negatives))
    return total / len(s)


def nt_xent_loop(surrogate: Tensor, target: Tensor, temperature: float) -> Tensor:
    rows = [unit(row) for row in [*target, *surrogate]]
    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(rows)):
        other = (i + len(target)) % len(rows)
        terms = [dot(rows[i], rows[j]) / temperature for j in range(len(rows)) if j != i]
        total = total - (dot(rows[i], rows[other]) / temperature - log_sum(terms))
    return total / len(rows)


def rda_loop(surrogate: Tensor, answers: Tensor, temperature: float) -> Tensor:
    x = [unit(row) for row in surrogate]
    y = [sum(unit(view) for view in views) / len(views) for views in answers]
    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(x)):
        negatives = [dot(x[i], y[j]) / temperature for j in range(len(x)) if j != i]  # type: ignore[arg-type]
        negatives += [dot(x[i], x[j]) / temperature for j in range(len(x)) if j != i]
        own = dot(x[i], y[i])  # type: ignore[arg-type]
        apart = -(own / temperature - log_sum(negatives))
        distance = sum((a - b) ** 2 for a, b in zip(x[i], y[i], strict=True))  # type: ignore[arg-type]
        cosine = dot(x[i], unit(y[i]))  # type: ignore[arg-type]
        total = total + apart - torch.log((1 + cosine) / distance)
    return total / len(x)


LOSSES: dict[str, tuple[Loss, Loss, tuple[int, ...]]] = {
    "cont_steal": (cont_steal, cont_steal_loop, ()),
    "infonce": (infonce, nt_xent_loop, ()),
    "discriminate_and_align": (discriminate_and_align, rda_loop, (3,)),
}


def numbers(views: tuple[int, ...], key: str) -> tuple[Tensor, Tensor]:
    random = generator("view losses", key)
    return torch.randn(4, 5, generator=random), torch.randn(4, *views, 5, generator=random)


def gradient(loss: Loss, surrogate: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    surrogate = surrogate.clone().requires_grad_()
    value = loss(surrogate, target)
    value.backward()
    assert surrogate.grad is not None
    return value.detach(), surrogate.grad


@pytest.mark.parametrize("temperature", [0.5, 0.07, 1e-3])
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_and_its_gradient_are_those_of_its_formula(name: str, temperature: float) -> None:
    loss, loop, views = LOSSES[name]
    surrogate, target = numbers(views, name)
    value, slope = gradient(partial(loss, temperature=temperature), surrogate, target)
    expected, steepness = gradient(
        partial(loop, temperature=temperature), surrogate.double(), target.double()
    )
    assert value.dtype == torch.float32 and value.ndim == 0
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-5)
    scale = float(steepness.abs().max())
    torch.testing.assert_close(slope.double(), steepness, rtol=1e-4, atol=1e-4 * scale)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_takes_sixteen_bits_and_computes_in_thirty_two(name: str) -> None:
    loss, _, views = LOSSES[name]
    surrogate, target = numbers(views, name)
    half, answers = surrogate.bfloat16(), target.half()
    expected = loss(half.float(), answers.float(), temperature=0.07)
    assert torch.equal(loss(half, answers, temperature=0.07), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss(half, answers, temperature=0.07), expected)


def test_a_prototype_is_the_mean_of_directions_and_shorter_if_they_differ() -> None:
    answers = torch.tensor([[[2.0, 0.0], [0.0, 3.0]], [[5.0, 0.0], [1.0, 0.0]]])
    assert prototypes(answers).tolist() == [[0.5, 0.5], [1.0, 0.0]]
    torch.testing.assert_close(prototypes(answers[:, 0] * 2), torch.tensor([[1.0, 0.0]] * 2))


def test_a_feature_on_its_prototype_has_a_finite_loss_and_gradient() -> None:
    rows = torch.eye(3, 4)
    loss = partial(discriminate_and_align, temperature=0.07)
    value, slope = gradient(loss, rows, rows)
    assert value.isfinite() and slope.isfinite().all()
    value, slope = gradient(loss, -rows, rows)
    assert value.isfinite() and slope.isfinite().all()


def test_the_positive_pair_is_outside_the_terms_that_cont_steal_divides_by() -> None:
    """Two images at right angles: two negatives of similarity 0 each."""
    rows = torch.eye(2)
    assert float(cont_steal(rows, rows, temperature=0.1)) == pytest.approx(math.log(2) - 10)
    with pytest.raises(ConfigError, match=r"attack\.batch_size=2"):
        cont_steal(rows[:1], rows[:1], temperature=0.1)
