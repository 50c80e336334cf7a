"""Losses of self-supervised learning against loops written from their formulas."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from test_resume import Interrupted, equal
from test_surrogate import ARCH, ATTACK, FEATURES, IMAGES, stolen
from torch import Tensor, nn

from stealing.attacks.siamese import (
    PredictedCosine,
    barlow,
    infonce,
    infonce_and_distance,
    soft_nn,
    wasserstein,
)
from stealing.attacks.steal import BoughtAnswers, surrogate_module
from stealing.attacks.surrogate import build_loss
from stealing.data.sampling import generator
from stealing.errors import ConfigError
from stealing.training.fit import Settings

Loop = Callable[[Tensor, Tensor], Tensor]
SURROGATE, TARGET = torch.randn(2, 6, 5, generator=generator("losses"))


def contrast(rows: Tensor, similarity: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """-log(exp(positive) / sum(exp(all others))), a mean over the 2B rows."""
    count = len(rows)
    total = rows.new_zeros(())
    for i in range(count):
        positive = (i + count // 2) % count
        others = [similarity(rows[i], rows[j]).exp() for j in range(count) if j != i]
        total = total - (similarity(rows[i], rows[positive]).exp() / sum(others)).log()
    return total / count


def infonce_loop(surrogate: Tensor, target: Tensor, temperature: float) -> Tensor:
    def cosine(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b) / (a @ a).sqrt() / (b @ b).sqrt() / temperature

    return contrast(torch.cat([surrogate, target]), cosine)


def infonce_and_distance_loop(surrogate: Tensor, target: Tensor, weight: float) -> Tensor:
    total = infonce_loop(surrogate, target, 0.07)
    for a, b in zip(surrogate, target, strict=True):
        gap = a / (a @ a).sqrt() - b / (b @ b).sqrt()
        total = total + weight * (gap @ gap).sqrt() / len(surrogate)
    return total


def soft_nn_loop(surrogate: Tensor, target: Tensor, temperature: float) -> Tensor:
    def nearness(a: Tensor, b: Tensor) -> Tensor:
        return -((a - b) ** 2).sum() / temperature

    return contrast(torch.cat([surrogate, target]), nearness)


def wasserstein_loop(surrogate: Tensor, target: Tensor) -> Tensor:
    total = surrogate.new_zeros(())
    for a, b in zip(surrogate, target, strict=True):
        a = torch.stack([max(x, x.new_zeros(())) for x in a])
        b = torch.stack([max(x, x.new_zeros(())) for x in b])
        for end in range(1, len(a) + 1):
            total = total + (a[:end].sum() / a.sum() - b[:end].sum() / b.sum()).abs()
    return total / len(surrogate)


def standardised(column: Tensor) -> Tensor:
    """Over the batch, by the biased variance with BatchNorm's constant."""
    mean = column.sum() / len(column)
    variance = ((column - mean) ** 2).sum() / len(column)
    return (column - mean) / (variance + 1e-5).sqrt()


def barlow_loop(surrogate: Tensor, target: Tensor, off_diagonal: float) -> Tensor:
    total = surrogate.new_zeros(())
    for i in range(surrogate.shape[1]):
        for j in range(surrogate.shape[1]):
            one, other = standardised(surrogate[:, i]), standardised(target[:, j])
            c = (one * other).sum() / len(one)
            total = total + ((1 - c) ** 2 if i == j else off_diagonal * c**2)
    return total


def predicted() -> PredictedCosine:
    loss = build_loss(partial(PredictedCosine, hidden=7), 5, 3)
    assert isinstance(loss, PredictedCosine)
    assert sorted(loss.state_dict()) == ["first.weight", "second.bias", "second.weight"]
    return loss


def predicted_loop(surrogate: Tensor, target: Tensor) -> Tensor:
    loss = predicted().double()
    hidden = surrogate @ loss.first.weight.T
    columns = [standardised(hidden[:, place]).clamp(min=0) for place in range(7)]
    made = torch.stack(columns, 1) @ loss.second.weight.T + loss.second.bias
    total = surrogate.new_zeros(())
    for a, b in zip(made, target, strict=True):
        total = total - (a @ b) / (a @ a).sqrt() / (b @ b).sqrt()
    return total / len(surrogate)


LOSSES: dict[str, tuple[Any, Loop]] = {}
for temperature in (0.07, 0.5):
    LOSSES[f"infonce-{temperature}"] = (
        partial(infonce, temperature=temperature),
        partial(infonce_loop, temperature=temperature),
    )
for weight in (0.5, 5.0):
    LOSSES[f"infonce_and_distance-{weight}"] = (
        partial(infonce_and_distance, temperature=0.07, distance_weight=weight),
        partial(infonce_and_distance_loop, weight=weight),
    )
for temperature in (1.0, 100.0):
    LOSSES[f"soft_nn-{temperature}"] = (
        partial(soft_nn, temperature=temperature),
        partial(soft_nn_loop, temperature=temperature),
    )
for weight in (0.0051, 0.5):
    LOSSES[f"barlow-{weight}"] = (
        partial(barlow, off_diagonal=weight),
        partial(barlow_loop, off_diagonal=weight),
    )
LOSSES["wasserstein"] = (wasserstein, wasserstein_loop)
LOSSES["sym_cosine"] = (predicted(), predicted_loop)

LEAST_WHERE_EQUAL = (
    *("infonce-0.07", "infonce_and_distance-5.0"),
    *("soft_nn-1.0", "wasserstein", "barlow-0.0051"),
)


def value_and_gradient(loss: Loop, surrogate: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    surrogate = surrogate.clone().requires_grad_()
    value = loss(surrogate.clone(), target)
    (gradient,) = torch.autograd.grad(value, surrogate)
    return value.detach(), gradient


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_has_the_value_and_the_gradient_of_its_formula(name: str) -> None:
    loss, loop = LOSSES[name]
    value, gradient = value_and_gradient(loss, SURROGATE, TARGET)
    expected, slope = value_and_gradient(loop, SURROGATE.double(), TARGET.double())
    assert value.dtype == torch.float32 and value.ndim == 0
    torch.testing.assert_close(value.double(), expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(gradient.double(), slope, atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_computes_in_float32_whatever_comes_and_under_autocast(
    name: str, half: torch.dtype
) -> None:
    loss, _ = LOSSES[name]
    surrogate, target = SURROGATE.to(half), TARGET.to(half)
    expected = loss(surrogate.float(), target.float())
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(surrogate, target)
    assert torch.equal(value, expected) and value.dtype == torch.float32


@pytest.mark.parametrize(("loss", "loop"), [(infonce, infonce_loop), (soft_nn, soft_nn_loop)])
def test_a_small_temperature_is_exact_where_exponentials_alone_would_overflow(
    loss: Any, loop: Any
) -> None:
    """float32 ends at exp(88); these rows reach exp(1000) and exp(-20000)."""
    assert not loop(SURROGATE, TARGET, 1e-3).isfinite()
    value, gradient = value_and_gradient(partial(loss, temperature=1e-3), SURROGATE, TARGET)
    expected = loop(SURROGATE.double(), TARGET.double(), 0.05)
    assert value.isfinite() and gradient.isfinite().all()
    larger = loss(SURROGATE, TARGET, temperature=0.05)
    torch.testing.assert_close(larger.double(), expected, atol=1e-4, rtol=1e-4)


def test_a_common_part_of_all_features_does_not_blur_distances() -> None:
    near = soft_nn(SURROGATE, TARGET, temperature=1.0)
    far = soft_nn(SURROGATE + 1000, TARGET + 1000, temperature=1.0)
    torch.testing.assert_close(far, near, atol=2e-3, rtol=2e-3)


def test_equal_features_are_the_least_of_each_loss() -> None:
    for name in LEAST_WHERE_EQUAL:
        loss, _ = LOSSES[name]
        assert loss(TARGET, TARGET) < loss(SURROGATE, TARGET), name
    assert wasserstein(3 * TARGET, TARGET) == pytest.approx(0, abs=1e-6), "lengths do not count"
    one, far = torch.eye(5)[:1], torch.eye(5)[4:]
    assert float(wasserstein(one, far)) == 4, "all mass moves by four positions"


@pytest.mark.parametrize("name", LEAST_WHERE_EQUAL)
def test_rows_of_zeros_have_a_finite_loss_and_gradient(name: str) -> None:
    value, gradient = value_and_gradient(LOSSES[name][0], torch.zeros(6, 5), TARGET)
    assert value.isfinite() and gradient.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_of_one_image_trains_the_surrogate_or_is_refused(name: str) -> None:
    def of_one_image() -> tuple[Tensor, Tensor]:
        return value_and_gradient(LOSSES[name][0], SURROGATE[:1], TARGET[:1])

    if name.startswith(("infonce", "soft_nn")):
        with pytest.raises(ConfigError, match=r"attack\.batch_size=1 .* negatives"):
            of_one_image()
    elif name.startswith("wasserstein"):
        assert of_one_image()[1].abs().max() > 0
    else:
        with pytest.raises(ValueError, match="more than 1 value"):
            of_one_image()


def test_a_loss_with_parameters_is_a_function_of_its_seed_and_a_function_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    first, again = predicted(), predicted()
    other = build_loss(partial(PredictedCosine, hidden=7), 5, 4)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert isinstance(other, nn.Module)
    assert equal(first.state_dict(), again.state_dict())
    assert not equal(first.state_dict(), other.state_dict())
    plain = partial(barlow, off_diagonal=1.0)
    assert build_loss(plain, 5, 3) is plain and build_loss(wasserstein, 5, 3) is wasserstein


WITH_PREDICTOR = ATTACK | {
    "loss": {
        "_target_": "stealing.attacks.siamese.PredictedCosine",
        "_partial_": True,
        "hidden": 8,
    }
}


def test_the_optimizer_trains_encoder_adapter_and_loss_in_this_order() -> None:
    answers = BoughtAnswers(IMAGES, FEATURES, "bank")
    module = surrogate_module(answers, ARCH, WITH_PREDICTOR, 5, 11, Settings())
    [group] = module.configure_optimizers()["optimizer"].param_groups
    parts = (module.encoder, module.adapter, module.loss)
    expected = [parameter for part in parts for parameter in part.parameters()]
    assert [id(one) for one in group["params"]] == [id(one) for one in expected]
    assert "loss.second.bias" in module.state_dict(), "checkpoints hold it"


def test_a_fit_with_a_predictor_resumes_exactly_and_leaves_the_predictor_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(threads=1, channels_last=False, checkpoint_seconds=0)
    call = {"attack": WITH_PREDICTOR, "settings": settings}
    whole, *_ = stolen(tmp_path / "whole", **call)
    forward, count = PredictedCosine.forward, [0]

    def interrupted(self: PredictedCosine, *rows: Tensor) -> Tensor:
        count[0] += 1
        if count[0] == 4:
            raise Interrupted
        return forward(self, *rows)

    monkeypatch.setattr(PredictedCosine, "forward", interrupted)
    with pytest.raises(Interrupted):
        stolen(tmp_path / "cut", **call)
    resumed, _, folder, _ = stolen(tmp_path / "cut", **call)
    assert resumed.fingerprint == whole.fingerprint and count[0] == 4 + 3
    kept = (folder / "encoder.safetensors").read_bytes()
    kept += (folder / "adapter.safetensors").read_bytes()
    assert b"second" not in kept and b"first" not in kept
