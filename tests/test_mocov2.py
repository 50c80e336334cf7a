"""MoCo v2 against a loop written from the paper; what queue and momentum encoder must be."""

import copy
import math
from pathlib import Path
from typing import Any

import pair
import pytest
import torch
from conftest import choose, dice
from test_fast_step import Reads
from test_resume import Interrupted, equal
from test_simclr import ARCH, CALL, IMAGES, PIXELS, PLAIN, RECIPE, STEPS, VIEWS, rate
from test_training import trained
from torch import Tensor, nn

from stealing.config import to_dict
from stealing.data import colours
from stealing.data.sampling import BatchIndices, generator
from stealing.data.views import Views
from stealing.encoders import Encoder, build_encoder
from stealing.errors import ConfigError
from stealing.pretraining.mocov2 import MoCoV2Module, contrast_with_queue
from stealing.pretraining.pretrain import pretrain_encoder
from stealing.pretraining.recipe import check_recipe
from stealing.seeds import owner_seed, weights_seed
from stealing.training.fit import Recorder

METHOD = {
    "_target_": "stealing.pretraining.mocov2.MoCoV2Module",
    "_partial_": True,
    "queue": 20,
    "momentum": 0.8,
}
MOCO: dict[str, Any] = RECIPE | {"method": METHOD}


def contrast(queries: Tensor, keys: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Equation 1: -log(exp(own key) / (exp(own key) + sum of exp(keys of the queue)))."""
    total = queries.new_zeros(())
    for query, key in zip(queries, keys, strict=True):
        query = query / (query @ query).sqrt()
        own = (query @ key / temperature).exp()
        others = sum((query @ earlier / temperature).exp() for earlier in queue)
        total = total - (own / (own + others)).log()
    return total / len(queries)


def unit_rows(count: int, width: int, name: str) -> Tensor:
    rows = torch.randn(count, width, generator=generator("moco", name))
    return rows / rows.norm(dim=1, keepdim=True)


KEYS, QUEUE = unit_rows(4, 6, "keys"), unit_rows(9, 6, "queue")
QUERIES = 3 * unit_rows(4, 6, "queries")


@pytest.mark.parametrize("temperature", [0.005, 0.2])
def test_the_contrast_has_the_value_and_the_gradient_of_its_formula(temperature: float) -> None:
    values, gradients = [], []
    for loss, kind in ((contrast_with_queue, torch.float32), (contrast, torch.float64)):
        queries = QUERIES.to(kind).requires_grad_()
        value = loss(queries, KEYS.to(kind), QUEUE.to(kind), temperature=temperature)
        gradients.append(torch.autograd.grad(value, queries)[0].double())
        values.append(value.detach().double())
    torch.testing.assert_close(*values, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)


def test_the_contrast_is_computed_in_float32_under_autocast() -> None:
    expected = contrast_with_queue(QUERIES.bfloat16().float(), KEYS, QUEUE, temperature=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        value = contrast_with_queue(QUERIES.bfloat16(), KEYS, QUEUE, temperature=0.1)
    assert torch.equal(value, expected) and value.dtype == torch.float32


def from_the_paper(size: int, keys: int) -> Encoder:
    """A plain loop with two networks and a list of keys, the newest first."""
    own = owner_seed(3, "control")
    encoder = build_encoder(ARCH, weights_seed(3, "control")).train()
    with torch.random.fork_rng():
        torch.manual_seed(weights_seed(3, "control", "head"))
        head = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 12))
        queue = torch.randn(keys, 12)
    queue = list(queue / queue.norm(dim=1, keepdim=True))
    slow, slow_head = copy.deepcopy(encoder).eval(), copy.deepcopy(head)
    parameters = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.3, momentum=0.9)
    for step in range(STEPS):
        epoch, place = divmod(step, len(IMAGES) // size)
        order = torch.randperm(len(IMAGES), generator=generator(own, "order", epoch))
        rows = order[place * size : (place + 1) * size]
        images = torch.from_numpy(PIXELS[rows.numpy()]).float() / 255
        thrown = dice(size, own, "views", epoch, place)
        first, second = Views(**VIEWS)(images, thrown), Views(**VIEWS)(images, thrown)
        assert not torch.equal(first, second)
        queries = head(encoder(first))
        with torch.no_grad():
            for fast_part, slow_part in ((encoder, slow), (head, slow_head)):
                for name, value in slow_part.state_dict().items():
                    if not name.endswith("num_batches_tracked"):
                        value.copy_(0.8 * value + 0.2 * fast_part.state_dict()[name])
            made = slow_head(slow(second))
            made = made / made.norm(dim=1, keepdim=True)
        optimizer.param_groups[0]["lr"] = 0.3 * rate(step, STEPS, 0.4)
        optimizer.zero_grad()
        contrast(queries, made, torch.stack(queue), 0.3).backward()
        optimizer.step()
        queue = [*made, *queue][:keys]
    return encoder.eval()


@pytest.mark.parametrize("queue", [20, 6])
def test_pretraining_is_the_papers_loop(queue: int, tmp_path: Path) -> None:
    """A queue of two batches and a half, and one that is smaller than a batch."""
    recipe = MOCO | {"method": METHOD | {"queue": queue}}
    settings: dict[str, Any] = {"settings": PLAIN, "recorder": Recorder(), **CALL}
    ours, _, _ = pretrain_encoder(IMAGES, ARCH, recipe, root=tmp_path, **settings)
    expected = from_the_paper(8, queue)
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], tensor, atol=2e-5, rtol=1e-4, msg=name)
    assert ours.state_dict().keys() == expected.state_dict().keys(), "the rest is dropped"


def step_of(module: MoCoV2Module, number: int) -> Tensor:
    """The loss of one step on these images."""
    draw = BatchIndices(0, number, 0, 8, torch.arange(8), 9)
    images = pair.IMAGES.batch(draw.indices.numpy())
    return module.step_loss(images, draw.indices, module.ahead.of_step(draw))


def test_the_newest_keys_come_first_and_the_oldest_fall_out() -> None:
    module = pair.mocov2()
    module.train()
    before = module.queue.clone()
    step_of(module, 0)
    newest = module.queue[:8].clone()
    assert torch.equal(module.queue[8:], before[:12])
    torch.testing.assert_close(newest.norm(dim=1), torch.ones(8))
    step_of(module, 1)
    assert torch.equal(module.queue[8:16], newest) and torch.equal(module.queue[16:], before[:4])


def test_no_gradient_reaches_the_momentum_encoder_and_its_batchnorm_never_trains() -> None:
    module = pair.mocov2()
    module.train()
    step_of(module, 0).backward()
    assert module.encoder.training and module.head.training
    assert not any(part.training for part in module.momentum_encoder.modules())
    slow = list(module.momentum_encoder.parameters())
    assert not any(value.requires_grad for value in slow), "several processes wait for no gradient"
    assert all(value.grad is not None for value in module.encoder.parameters())
    [group] = module.configure_optimizers()["optimizer"].param_groups
    trained_parts = [*module.encoder.parameters(), *module.head.parameters()]
    assert [id(one) for one in group["params"]] == [id(one) for one in trained_parts]
    module.eval()
    assert not module.encoder.training


def test_the_momentum_encoder_starts_as_the_encoder_and_keeps_its_share() -> None:
    module = pair.mocov2()
    fast = nn.Sequential(module.encoder, module.head)
    assert equal(module.momentum_encoder.state_dict(), fast.state_dict())
    with torch.no_grad():
        for value in module.encoder.parameters():
            value.add_(1)
    before = [value.clone() for value in module.momentum_encoder[0].parameters()]
    step_of(module, 0)
    for old, new in zip(before, module.momentum_encoder[0].parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.1)


def test_a_fit_stopped_before_any_step_ends_in_the_bits_of_an_uninterrupted_one(
    tmp_path: Path,
) -> None:
    """Queue and momentum encoder included, and whether a step is taken as a whole or not."""
    whole = trained(pair.mocov2(), tmp_path / "whole", steps=7)
    assert not torch.equal(whole["queue"], pair.mocov2().queue)
    for stop, graph in ((1, False), (4, False), (6, True)):
        folder = tmp_path / str(stop)
        with pytest.raises(Interrupted):
            trained(pair.mocov2(), folder, stop=stop, steps=7, graph=graph)
        assert equal(trained(pair.mocov2(), folder, steps=7), whole), f"before step {stop}"


def test_no_value_is_read_on_the_cpu_in_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(colours, "CHOOSES_ROWS", frozenset())  # as on a GPU
    module = pair.mocov2()
    module.train()
    step_of(module, 0)  # draws the numbers ahead
    with Reads() as reads:
        torch.autograd.backward(step_of(module, 1))
    assert reads.count == 0


@pytest.mark.parametrize(
    ("change", "name"), [({"queue": 0}, "queue=0"), ({"momentum": 1.5}, "momentum=1.5")]
)
def test_numbers_out_of_range_are_refused(change: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        MoCoV2Module(
            pair.encoder(True),
            Views(),
            torch.optim.SGD,
            projection=4,
            temperature=1.0,
            warmup=0.0,
            total_steps=1,
            seed=0,
            head_seed=0,
            **({"queue": 4, "momentum": 0.9} | change),
        )


def test_the_choice_mocov2_composes_and_its_method_takes_it() -> None:
    recipe = to_dict(choose("pretrain=mocov2").pretrain)
    check_recipe(recipe, "pretrain")
    assert recipe["method"]["_target_"].endswith("MoCoV2Module")
    assert math.isclose(recipe["temperature"], 0.1)
