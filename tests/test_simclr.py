"""SimCLR's training against a loop written from the paper, its monitor, and its artefact's key."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import dice
from torch import Tensor, nn

from stealing.artefacts import key, read_done
from stealing.data.images import Images
from stealing.data.sampling import generator
from stealing.data.views import Views
from stealing.encoders import Encoder, build_encoder, load_encoder
from stealing.evaluation.knn import knn_predict
from stealing.pretraining import monitor as watching
from stealing.pretraining import pretrain
from stealing.pretraining.monitor import KNNMonitor
from stealing.pretraining.simclr import SimCLRModule
from stealing.seeds import owner_seed, weights_seed
from stealing.training.fit import Recorder, Settings

PIXELS = np.random.default_rng(0).integers(0, 256, (26, 3, 8, 8), dtype=np.uint8)
IMAGES = Images("noise", PIXELS, np.arange(26) % 3, 3, np.arange(26), "noise")
ARCH = {
    "_target_": "stealing.encoders.encoder.Encoder",
    "backbone": {
        "_target_": "stealing.encoders.resnet.NarrowResNet",
        "stem": 8,
        "widths": [16],
        "blocks": [1],
    },
    "mean": [0.4, 0.5, 0.6],
    "std": [0.2, 0.3, 0.4],
}
VIEWS = {
    "crop": [0.5, 1.0],
    "flip": 0.5,
    "jitter": [0.4, 0.4, 0.4, 0.1],
    "jitter_probability": 0.8,
    "grey": 0.2,
}
RECIPE: dict[str, Any] = {
    "method": {"_target_": "stealing.pretraining.simclr.SimCLRModule", "_partial_": True},
    "views": {"_target_": "stealing.data.views.Views", **VIEWS},
    "optimizer": {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.3, "momentum": 0.9},
    "projection": 12,
    "temperature": 0.3,
    "warmup": 0.4,
    "batch_size": 8,
}
STEPS = 5
CALL: dict[str, Any] = {
    "owner": "control",
    "name": "t",
    "steps": STEPS,
    "seed": 3,
    "monitored": False,
}
PLAIN = Settings(threads=1, channels_last=False)


def contrast(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Equation 1 of the paper: the mean over 2B rows of -log(exp(positive) / sum(exp(others)))."""
    rows = torch.cat([first, second])
    rows = rows / rows.norm(dim=1, keepdim=True)
    total = torch.zeros(())
    for i in range(len(rows)):
        partner = (i + len(first)) % len(rows)
        similar = torch.stack([rows[i] @ rows[k] / temperature for k in range(len(rows)) if k != i])
        total = total - rows[i] @ rows[partner] / temperature + similar.exp().sum().log()
    return total / len(rows)


def rate(step: int, steps: int, warmup: float) -> float:
    """The share of the learning rate: up in a line, down as half a cosine."""
    rising = max(1, round(steps * warmup))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))


def from_the_paper(recipe: dict[str, Any], seed: int, steps: int) -> Encoder:
    """A plain loop: two fresh views of each image, both with gradient, and one head."""
    own = owner_seed(seed, "control")
    encoder = build_encoder(ARCH, weights_seed(seed, "control")).train()
    with torch.random.fork_rng():
        torch.manual_seed(weights_seed(seed, "control", "head"))
        width = recipe["projection"]
        layers = [
            nn.Linear(16, width, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Linear(width, width),
        ]
    head = nn.Sequential(*layers).train()
    optimizer = torch.optim.SGD([*encoder.parameters(), *head.parameters()], lr=0.3, momentum=0.9)
    views = Views(**VIEWS)
    size = recipe["batch_size"]
    for step in range(steps):
        epoch, place = divmod(step, len(IMAGES) // size)
        order = torch.randperm(len(IMAGES), generator=generator(own, "order", epoch))
        images = (
            torch.from_numpy(PIXELS[order[place * size : (place + 1) * size].numpy()]).float() / 255
        )
        thrown = dice(size, own, "views", epoch, place)
        both = [views(images, thrown), views(images, thrown)]
        assert not torch.equal(*both) and not any(torch.equal(view, images) for view in both)
        projected = head(encoder(torch.cat(both)))
        optimizer.param_groups[0]["lr"] = 0.3 * rate(step, steps, recipe["warmup"])
        optimizer.zero_grad()
        contrast(projected[:size], projected[size:], recipe["temperature"]).backward()
        optimizer.step()
    return encoder.eval()


@pytest.mark.parametrize("change", [{}, {"temperature": 1.0}, {"warmup": 0.8}, {"projection": 6}])
def test_pretraining_is_the_papers_step_on_two_fresh_views_under_the_recipe(
    change: dict[str, Any], tmp_path: Path
) -> None:
    recipe = RECIPE | change
    ours, folder, _ = pretrain.pretrain_encoder(
        IMAGES, ARCH, recipe, root=tmp_path, settings=PLAIN, recorder=Recorder(), **CALL
    )
    expected = from_the_paper(recipe, 3, STEPS)
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], tensor, atol=2e-5, rtol=1e-4, msg=name)
    stored, card = load_encoder(folder / "encoder.safetensors")
    assert stored.fingerprint == ours.fingerprint and not ours.training
    made = {"device": "cpu", "threads": 1, "precision": "32-true", "channels_last": False}
    assert (
        made.items() <= card["provenance"]["made"].items()
        and made.items() <= read_done(folder)["made"].items()
    )  # type: ignore[index]
    assert (
        card["size"] == 8
        and card["provenance"]["recipe"] == recipe
        and card["provenance"]["steps"] == STEPS
    )


def test_a_step_gives_the_encoder_both_views_and_moves_it_through_both() -> None:
    seen: list[Tensor] = []
    encoder = build_encoder(ARCH, 0)
    encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    module = SimCLRModule(
        encoder,
        Views(**VIEWS),
        torch.optim.SGD,
        projection=12,
        temperature=0.3,
        warmup=0,
        total_steps=2,
        seed=1,
        head_seed=2,
    )
    given: list[Tensor] = []
    module.head.register_forward_hook(lambda _, inputs, out: given.append(out.retain_grad() or out))  # type: ignore[func-returns-value]
    indices = torch.arange(8)
    draw = SimpleNamespace(indices=indices, random=lambda seed: dice(8, seed))
    module.log = lambda *_: None  # type: ignore[method-assign, assignment]
    loss = module.training_step(SimpleNamespace(images=torch.from_numpy(PIXELS[:8]), draw=draw), 0)  # type: ignore[arg-type]
    loss.backward()
    first, second = torch.cat(seen).chunk(2)
    raw = torch.from_numpy(PIXELS[:8]).float() / 255
    assert first.shape == raw.shape and float((first - second).abs().mean()) > 0.02
    assert min(float((view - raw).abs().mean()) for view in (first, second)) > 0.02
    assert given[0].grad is not None and given[0].grad.flatten(1).norm(dim=1).gt(1e-5).all(), (
        "of both views"
    )
    torch.testing.assert_close(loss, contrast(*given[0].detach().chunk(2), 0.3))


class Caught(Exception):
    """Ends a fit before it begins."""


def folder_of(monkeypatch: pytest.MonkeyPatch, root: Path, **changes: Any) -> Path:
    """Where the artefact of these inputs lies."""

    def caught(module: Any, batches: Any, folder: Path, **_: Any) -> None:
        raise Caught(str(folder))

    monkeypatch.setattr(pretrain, "fit", caught)
    inputs = {
        "images": IMAGES,
        "arch": ARCH,
        "recipe": RECIPE,
        "settings": PLAIN,
        "recorder": Recorder(),
        **CALL,
    }
    with pytest.raises(Caught) as stopped:
        pretrain.pretrain_encoder(root=root, **(inputs | changes))
    return Path(str(stopped.value))


@pytest.mark.parametrize(
    "change",
    [
        {"images": IMAGES.part(np.arange(25))},
        {"arch": ARCH | {"mean": [0.5, 0.5, 0.6]}},
        {"recipe": RECIPE | {"temperature": 0.31}},
        {"recipe": RECIPE | {"batch_size": 4}},
        {"owner": "target"},
        {"steps": STEPS + 1},
        {"seed": 4},
        {"settings": Settings(threads=1, channels_last=False, precision="bf16-mixed")},
        {"settings": Settings(threads=1, channels_last=False, accumulate=2)},
        {"settings": Settings(threads=1, channels_last=False, clip=1.0)},
    ],
    ids=lambda change: "-".join(change),
)
def test_what_changes_an_encoder_changes_its_folder(
    change: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = folder_of(monkeypatch, tmp_path)
    assert first == folder_of(monkeypatch, tmp_path) and first.parent == tmp_path
    assert first != folder_of(monkeypatch, tmp_path, **change)


def test_an_artefact_of_simclr_keeps_the_key_that_it_had_when_no_recipe_named_a_method(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    named = {name: value for name, value in RECIPE.items() if name != "method"}
    expected = key(
        version=2,
        owner="control",
        steps=STEPS,
        images=IMAGES.checksum,
        arch=ARCH,
        recipe=named,
        seed=3,
        precision="32-true",
        accumulate=1,
        clip=None,
    )
    assert folder_of(monkeypatch, tmp_path).name == expected
    other = RECIPE | {"method": {"_target_": "my.module.Other", "_partial_": True}}
    assert pretrain.recipe_in_key(other) == other


def test_a_finished_encoder_is_loaded_and_a_batch_is_never_larger_than_the_list(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    call = {**CALL, "root": tmp_path, "settings": PLAIN, "recorder": Recorder(), "steps": 1}
    recipe = RECIPE | {"batch_size": 1000}
    first, folder, done = pretrain.pretrain_encoder(IMAGES, ARCH, recipe, **call)
    monkeypatch.setattr(pretrain, "fit", None)
    again, same, facts = pretrain.pretrain_encoder(IMAGES, ARCH, recipe, **call)
    assert folder == same and again.fingerprint == first.fingerprint
    assert facts["seconds"] == done["seconds"] > 0


@pytest.mark.parametrize(("labelled", "monitored"), [(True, True), (True, False), (False, True)])
def test_only_labelled_images_are_monitored_and_only_if_asked(
    labelled: bool, monitored: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def caught(*_: Any, monitors: tuple[Any, ...], **__: Any) -> None:
        raise Caught(str(len(monitors)))

    monkeypatch.setattr(pretrain, "fit", caught)
    images = IMAGES if labelled else Images("noise", PIXELS, None, 0, np.arange(26), "noise")
    call = {
        **CALL,
        "root": tmp_path,
        "settings": PLAIN,
        "recorder": Recorder(),
        "monitored": monitored,
    }
    with pytest.raises(Caught, match="1" if labelled and monitored else "0"):
        pretrain.pretrain_encoder(images, ARCH, RECIPE, **call)


def test_the_monitor_is_knn_of_a_fifth_of_the_slice_against_the_rest_and_touches_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 203)
    pixels = rng.integers(0, 256, (203, 3, 8, 8), dtype=np.uint8) // 2
    pixels[np.arange(203), labels] += 25  # each class is a little stronger in one channel
    images = Images("labelled", pixels, labels, 3, np.arange(203), "labelled")
    module = SimCLRModule(
        build_encoder(ARCH, 0).train(),
        Views(),
        torch.optim.SGD,
        projection=4,
        temperature=1,
        warmup=0,
        total_steps=1,
        seed=0,
        head_seed=0,
    )
    told: dict[str, Any] = {}
    module.log = lambda name, value, **options: told.update({name: (float(value), options)})  # type: ignore[method-assign, assignment]
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    given: list[dict[str, Any]] = []
    monkeypatch.setattr(
        watching, "knn_predict", lambda *rows, **of: (given.append(of), knn_predict(*rows, **of))[1]
    )
    monitor = KNNMonitor(images, 101)
    monitor.on_train_epoch_end(SimpleNamespace(is_global_zero=False), module)  # type: ignore[arg-type]
    assert told == {}, "one process tells"
    monitor.on_train_epoch_end(SimpleNamespace(is_global_zero=True), module)  # type: ignore[arg-type]
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert module.encoder.training
    rows = np.random.default_rng(0).permutation(203)[:101]
    with torch.inference_mode():
        features = module.encoder.eval()(torch.from_numpy(pixels[rows]).float() / 255)
    known = torch.from_numpy(labels[rows])
    guessed = knn_predict(
        features[:80], known[:80], features[80:], classes=3, k=20, temperature=0.1
    )
    accuracy, options = told["pretrain/knn"]
    assert (
        accuracy == pytest.approx(float((guessed == known[80:]).float().mean()))
        and 0 < accuracy < 1
    )
    assert options == {"rank_zero_only": True} and given == [
        {"classes": 3, "k": 20, "temperature": 0.1}
    ]
    assert len(KNNMonitor(images, 5000).slice) == 203
