"""The surrogate's training against a plain loop, and its artefact's key."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import dice
from torch import Tensor, nn

from stealing.artefacts import read_done
from stealing.attacks import steal
from stealing.attacks.losses import l2
from stealing.attacks.pairing import RawAndViews, RawOrView, ViewsThenRaw
from stealing.attacks.steal import BoughtAnswers, steal_encoder, steps_of
from stealing.attacks.surrogate import build_adapter
from stealing.data.images import Images
from stealing.data.sampling import BatchRandom, generator
from stealing.data.views import Views
from stealing.encoders import build_encoder
from stealing.encoders.architectures import describe
from stealing.seeds import owner_seed, weights_seed
from stealing.training.fit import Recorder, Settings

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 3, 8, 8), dtype=np.uint8)
IMAGES = Images("noise", PIXELS, None, 0, np.arange(20), "noise")
FEATURES = torch.randn(20, 10, generator=generator("answers"))
ARCH: dict[str, Any] = {
    "_target_": "stealing.encoders.encoder.Encoder",
    "backbone": {"_target_": "pair.Unnormed"},
    "mean": [0.4, 0.5, 0.6],
    "std": [0.2, 0.3, 0.4],
}
VIEWS = {
    "crop": [0.6, 1.0],
    "flip": 0.5,
    "jitter": [0.4, 0.4, 0.4, 0.1],
    "jitter_probability": 0.8,
    "grey": 0.2,
}
ATTACK: dict[str, Any] = {
    "loss": {"_target_": "stealing.attacks.losses.mse", "_partial_": True},
    "pairing": {
        "_target_": "stealing.attacks.pairing.RawOrView",
        "view_weight": 1.0,
        "views": {"_target_": "stealing.data.views.Views", **VIEWS},
    },
    "optimizer": {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.2, "momentum": 0.9},
    "schedule": {
        "_target_": "stealing.training.schedule.warmup_cosine",
        "_partial_": True,
        "warmup": 0.5,
    },
    "ema": None,
    "batch_size": 8,
    "steps": 6,
    "epochs": None,
}
PLAIN = Settings(threads=1, channels_last=False)


def stolen(folder: Path, **changes: Any) -> Any:
    call: dict[str, Any] = {
        "answers": BoughtAnswers(IMAGES, FEATURES, "bank"),
        "arch": ARCH,
        "attack": ATTACK,
        "seed": 5,
    }
    call |= {"start": 11, "root": folder, "settings": PLAIN, "recorder": Recorder()}
    return steal_encoder(**(call | changes))


def by_a_coin(step: int, thrown: BatchRandom) -> Tensor:
    return thrown.uniform(1)[:, 0] < 1 / 2


def plain_loop(
    each_step: Callable[[nn.Module], None] = lambda both: None,
    is_raw: Callable[[int, BatchRandom], Tensor] = by_a_coin,
) -> nn.Module:
    """Six steps of the mean squared error: each image raw or as a view."""
    own = owner_seed(5, "surrogate")
    encoder = build_encoder(ARCH, 11).train()
    with torch.random.fork_rng():
        torch.manual_seed(weights_seed(5, "surrogate", "adapter"))
        both = nn.ModuleDict({"encoder": encoder, "adapter": nn.Linear(24, 10)})
    optimizer = torch.optim.SGD(both.parameters(), lr=0.2, momentum=0.9)
    for step in range(6):
        epoch, place = divmod(step, 2)
        order = torch.randperm(20, generator=generator(own, "order", epoch))[
            place * 8 : place * 8 + 8
        ]
        raw = torch.from_numpy(PIXELS[order.numpy()]).float() / 255
        thrown = dice(8, own, "views", epoch, place)
        chosen = is_raw(step, thrown)
        images = torch.where(chosen[:, None, None, None], raw, Views(**VIEWS)(raw, thrown))
        rising = (step + 1) / 3
        optimizer.param_groups[0]["lr"] = 0.2 * (
            rising if step < 3 else 0.5 * (1 + math.cos(math.pi * (step - 3) / 3))
        )
        optimizer.zero_grad()
        F.mse_loss(both["adapter"](encoder(images)), FEATURES[order]).backward()
        optimizer.step()
        each_step(both)
    return both


def check(encoder: nn.Module, adapter: nn.Module, expected: dict[str, Tensor]) -> None:
    found = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    found |= {f"adapter.{name}": tensor for name, tensor in adapter.state_dict().items()}
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=1e-5, msg=name)


def test_an_attack_is_a_plain_loop_whose_rate_moves_at_each_step_and_whose_adapter_learns(
    tmp_path: Path,
) -> None:
    encoder, adapter, folder, done = stolen(tmp_path)
    check(encoder, adapter, plain_loop().state_dict())
    assert not encoder.training and not adapter.training and done["seconds"] > 0
    made = {"device": "cpu", "threads": 1, "precision": "32-true", "channels_last": False}
    card = json.loads((folder / "encoder.json").read_text())
    assert (
        made.items() <= card["provenance"]["made"].items()
        and made.items() <= read_done(folder)["made"].items()
    )  # type: ignore[index]
    assert (
        card["size"] == 8
        and card["arch"] == describe(ARCH)
        and card["provenance"]["attack"] == ATTACK
    )
    assert {file.name for file in folder.iterdir()} >= {
        "adapter.safetensors",
        "encoder.safetensors",
        "done.json",
    }


def test_a_finished_attack_is_loaded_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, adapter, folder, done = stolen(tmp_path)
    monkeypatch.setattr(steal, "fit", None)
    again, mapped, same, facts = stolen(tmp_path)
    assert again.fingerprint == encoder.fingerprint and folder == same
    assert torch.equal(mapped.weight, adapter.weight) and not mapped.training
    assert facts["seconds"] == done["seconds"]


def test_the_average_of_the_weights_is_what_is_kept_where_the_attack_asks_for_one(
    tmp_path: Path,
) -> None:
    kept: list[dict[str, Tensor]] = []
    plain_loop(
        lambda both: kept.append(
            {name: tensor.clone() for name, tensor in both.state_dict().items()}
        )
    )
    average = kept[0]
    for weights in kept[1:]:
        average = {name: 0.75 * average[name] + 0.25 * weights[name] for name in average}
    encoder, adapter, *_ = stolen(tmp_path, attack=ATTACK | {"ema": 0.75})
    check(encoder, adapter, average)


class Caught(Exception):
    """Ends a fit before it begins."""


def folder_of(monkeypatch: pytest.MonkeyPatch, root: Path, **changes: Any) -> Path:
    """Where the surrogate of these inputs lies."""

    def caught(module: Any, batches: Any, folder: Path, **_: Any) -> None:
        raise Caught(str(folder))

    monkeypatch.setattr(steal, "fit", caught)
    with pytest.raises(Caught) as stopped:
        stolen(root, **changes)
    return Path(str(stopped.value))


@pytest.mark.parametrize(
    "change",
    [
        {"answers": BoughtAnswers(IMAGES, FEATURES, "another bank")},
        {"answers": BoughtAnswers(IMAGES.part(np.arange(19)), FEATURES[:19], "bank")},
        {"arch": ARCH | {"mean": [0.5, 0.5, 0.6]}},
        {"attack": ATTACK | {"ema": 0.9}},
        {
            "attack": ATTACK
            | {
                "loss": {
                    **ATTACK["loss"],
                    "_target_": "stealing.attacks.losses.l2",
                    "reduction": "sum",
                }
            }
        },
        {"attack": ATTACK | {"steps": 7}},
        {"seed": 6},
        {"start": 12},
        {"settings": Settings(threads=1, channels_last=False, precision="bf16-mixed")},
        {"settings": Settings(threads=1, channels_last=False, accumulate=2)},
        {"settings": Settings(threads=1, channels_last=False, clip=1.0)},
    ],
    ids=lambda change: "-".join(change),
)
def test_what_changes_a_surrogate_changes_its_folder(
    change: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = folder_of(monkeypatch, tmp_path)
    assert first == folder_of(monkeypatch, tmp_path) and first.parent == tmp_path
    assert first != folder_of(monkeypatch, tmp_path, **change)


def test_the_code_of_a_surrogate_is_that_of_its_network_its_loss_and_its_answers() -> None:
    other = ATTACK | {
        "loss": {"_target_": "stealing.attacks.losses.l2", "_partial_": True, "reduction": "sum"}
    }
    codes = [
        steal.surrogate_code(ARCH, ATTACK, "a"),
        steal.surrogate_code(ARCH, ATTACK, "b"),
    ]
    codes.append(steal.surrogate_code(ARCH, other, "a"))
    assert len(set(codes)) == 3 and codes[0] == steal.surrogate_code(ARCH, ATTACK, "a")


def test_an_attack_trains_for_its_steps_or_for_its_epochs_over_whole_batches() -> None:
    epochs = {"steps": None, "epochs": 3, "batch_size": 8}
    assert steps_of(ATTACK, 20, PLAIN) == 6
    assert steps_of(epochs, 20, PLAIN) == 3 * 2 and steps_of(epochs, 24, PLAIN) == 3 * 3
    assert steps_of(epochs, 40, Settings(accumulate=2)) == 3 * 2


def test_an_adapter_is_a_function_of_its_seed_and_nothing_at_all_between_equal_widths() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first, again, other = build_adapter(6, 4, 1), build_adapter(6, 4, 1), build_adapter(6, 4, 2)
    assert (
        isinstance(first, nn.Linear)
        and isinstance(again, nn.Linear)
        and isinstance(other, nn.Linear)
    )
    assert torch.equal(first.weight, again.weight) and torch.equal(first.bias, again.bias)
    assert not torch.equal(first.weight, other.weight) and first.weight.shape == (4, 6)
    assert isinstance(build_adapter(6, 6, 1), nn.Identity)
    assert torch.equal(torch.random.get_rng_state(), before), (
        "others' random numbers stay as they were"
    )


class Fixed:
    """Dice that show these numbers."""

    def __init__(self, *numbers: float) -> None:
        self.numbers = torch.tensor(numbers)[:, None]

    def uniform(self, columns: int) -> Tensor:
        assert columns == 1
        return self.numbers


@pytest.mark.parametrize("weight", [0.0, 1.0, 20.0])
def test_an_image_is_raw_with_probability_one_over_one_plus_lambda_exactly(weight: float) -> None:
    share = 1 / (1 + weight)
    images, rows = torch.rand(3, 3, 4, 4), torch.tensor([5, 6, 7])
    pairing = RawOrView(lambda images, dice: images + 1, weight)  # type: ignore[arg-type]
    given = Fixed(share - 1e-4, share + 1e-4, 0.0)
    [(one, mixed, asked)] = pairing(images, rows, given)  # type: ignore[arg-type]
    assert one == 1 and torch.equal(asked, rows) and pairing.passes == 1
    torch.testing.assert_close(mixed, images + torch.tensor([0.0, 1.0, 0.0])[:, None, None, None])


def test_numbers_below_the_share_are_raw_and_the_share_itself_is_not() -> None:
    pairing = RawOrView(lambda images, dice: images + 1, 1.0)  # type: ignore[arg-type]
    [(_, mixed, _)] = pairing(torch.zeros(1, 3, 2, 2), torch.arange(1), Fixed(0.5))  # type: ignore[arg-type]
    assert mixed.eq(1).all()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_raw_images_weigh_one_and_fresh_views_share_lambda(count: int) -> None:
    images, rows = torch.rand(4, 3, 8, 8, generator=generator("images")), torch.arange(4)
    pairing = RawAndViews(Views(**VIEWS), 20, count)
    pairs = list(pairing(images, rows, dice(4, 0)))
    assert len(pairs) == pairing.passes == 1 + count
    assert [pair[0] for pair in pairs] == pytest.approx([1, *[20 / max(1, count)] * count])
    assert torch.equal(pairs[0][1], images) and all(torch.equal(pair[2], rows) for pair in pairs)
    seen = [pair[1] for pair in pairs]
    assert all(not torch.equal(a, b) for number, a in enumerate(seen) for b in seen[number + 1 :])


def test_views_come_first_and_raw_images_from_their_share_of_the_steps_on() -> None:
    images, rows = torch.zeros(4, 3, 2, 2), torch.arange(4)
    for share, count in ((0.0, 0), (0.3, 3), (0.5, 5), (1.0, 10)):
        pairing = ViewsThenRaw(lambda images, dice: images + 1, share)  # type: ignore[arg-type]
        seen = []
        for step in range(10):
            # float32, as the module notes it
            done = torch.tensor(step / 10)
            [(weight, shown, asked)] = pairing.of_progress(images, rows, dice(4, step), done)
            assert weight == 1 and torch.equal(asked, rows)
            seen.append(float(shown.mean()))
        assert seen == [1.0] * count + [0.0] * (10 - count)


def test_a_surrogate_of_views_then_raw_is_a_plain_loop_of_views_then_of_raw_images(
    tmp_path: Path,
) -> None:
    # 4 of 6 steps: neither number is half, nor a batch's place in its epoch
    changed = {"_target_": "stealing.attacks.pairing.ViewsThenRaw", "share": 0.6}
    changed["views"] = ATTACK["pairing"]["views"]
    encoder, adapter, _, _ = stolen(tmp_path, attack=ATTACK | {"pairing": changed})
    expected = plain_loop(is_raw=lambda step, thrown: torch.full((8,), step >= 4))
    check(encoder, adapter, expected.state_dict())


def test_a_row_of_length_zero_has_a_finite_distance_and_gradient() -> None:
    rows = torch.zeros(2, 3, requires_grad=True)
    l2(rows, torch.ones(2, 3), reduction="mean").backward()
    assert rows.grad is not None and rows.grad.isfinite().all()
