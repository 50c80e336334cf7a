"""Fidelity, kNN, the paper's head, features and controls against formulas and loops."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stealing.data.images import Images
from stealing.data.sampling import generator
from stealing.encoders import build_encoder
from stealing.evaluation import controls
from stealing.evaluation.features import BLOCK, encode, encode_all
from stealing.evaluation.fidelity import cka, fidelity
from stealing.evaluation.knn import knn_predict
from stealing.evaluation.mlp import MLPHeads, MLPSettings, mlp_predict
from stealing.evaluation.probe import LinearProbe, ProbeSettings

ARCH: dict[str, Any] = {
    "_target_": "stealing.encoders.encoder.Encoder",
    "backbone": {
        "_target_": "stealing.encoders.resnet.NarrowResNet",
        "stem": 8,
        "widths": [8],
        "blocks": [1],
    },
    "mean": [0.4, 0.5, 0.6],
    "std": [0.2, 0.3, 0.4],
}


def cosines(first: np.ndarray, second: np.ndarray) -> float:
    lengths = np.sqrt((first**2).sum(1) * (second**2).sum(1))
    return float(((first * second).sum(1) / lengths).mean())


def test_fidelity_equals_its_formulas_on_features_far_from_the_origin() -> None:
    target = torch.randn(300, 7, generator=generator("target")) + 3
    mapped = target + 0.7 * torch.randn(300, 7, generator=generator("mapped")) + torch.arange(7.0)
    own = mapped @ torch.randn(7, 5, generator=generator("own"))
    found = fidelity(target, mapped, own)
    a, b, c = (rows.double().numpy() for rows in (target, mapped, own))
    assert found["cosine"] == pytest.approx(cosines(a, b), abs=1e-5)
    assert found["cosine_centred"] == pytest.approx(cosines(a - a.mean(0), b - b.mean(0)), abs=1e-5)
    pairs = [cosines(a, np.roll(b, shift, axis=0)) for shift in range(1, 300)]
    assert found["cosine_shuffled"] == pytest.approx(np.mean(pairs), abs=0.01), (
        "the mean over different images"
    )
    assert (
        found["cosine"] > found["cosine_shuffled"] + 0.03
        and found["cosine_centred"] < found["cosine"]
    )
    grams = [(rows - rows.mean(0)) @ (rows - rows.mean(0)).T for rows in (a, c)]
    aligned = (grams[0] * grams[1]).sum() / np.sqrt((grams[0] ** 2).sum() * (grams[1] ** 2).sum())
    assert found["cka"] == pytest.approx(aligned, abs=1e-5)
    assert cka(100 * target, own - 40) == pytest.approx(found["cka"], abs=1e-4)


def test_answers_of_another_width_have_no_cosine() -> None:
    features = torch.randn(20, 6, generator=generator("f"))
    assert set(fidelity(features[:, :4], features, features)) == {"cka"}


def test_one_neighbour_in_any_block_and_at_any_temperature_decides_alone() -> None:
    bank = torch.randn(40, 5, generator=generator("bank"))
    labels = torch.arange(40) % 6
    queries = torch.randn(2300, 5, generator=generator("queries"))
    nearest = F.cosine_similarity(queries[:, None], bank[None], dim=2).argmax(1)
    for k, temperature in ((1, 1.0), (1000, 0.02)):
        found = knn_predict(bank, labels, queries, classes=6, k=k, temperature=temperature)
        assert (found == labels[nearest]).float().mean() > 0.995 and found.dtype == torch.int64
    scaled = knn_predict(bank * 7, labels, queries * 0.1, classes=6, k=5, temperature=0.5)
    assert torch.equal(scaled, knn_predict(bank, labels, queries, classes=6, k=5, temperature=0.5))


SETTINGS = MLPSettings(hidden=[12, 8], dropout=0.25, lr=1e-2, epochs=3, batch_size=16)


def test_a_head_drops_its_share_of_the_first_layer_anew_at_each_step_and_scales_the_rest() -> None:
    train = torch.randn(40, 6, generator=generator("train"))
    labels = torch.randint(0, 3, (40,), generator=generator("labels"))
    test = torch.randn(400, 6, generator=generator("test"))
    [found] = mlp_predict([(train, labels)], [test], 3, SETTINGS)
    torch.manual_seed(0)
    layers = [nn.Linear(6, 12), nn.Linear(12, 8), nn.Linear(8, 3)]
    optimizer = torch.optim.Adam(
        [parameter for layer in layers for parameter in layer.parameters()], lr=1e-2
    )

    def logits(rows: Tensor, kept: Tensor) -> Tensor:
        rows = rows / rows.norm(dim=1, keepdim=True)
        first: Tensor = layers[0](rows).relu() * kept
        return layers[2](layers[1](first).relu())  # type: ignore[no-any-return]

    step = 0
    for _ in range(3):
        for at in range(0, 40, 16):
            rows = train[at : at + 16]
            kept = torch.rand(len(rows), 12, generator=generator("mlp dropout", step)) >= 0.25
            optimizer.zero_grad()
            F.cross_entropy(logits(rows, kept / 0.75), labels[at : at + 16]).backward()
            optimizer.step()
            step += 1
    assert torch.equal(found, logits(test, torch.ones(12)).argmax(1))
    assert len(found.unique()) > 1


def test_heads_start_alike_whatever_was_drawn_before_and_leave_the_generator_as_it_was() -> None:
    torch.manual_seed(1)
    first = MLPHeads(2, 6, 3, SETTINGS)
    state = torch.random.get_rng_state()
    second = MLPHeads(1, 6, 3, SETTINGS)
    assert torch.equal(torch.random.get_rng_state(), state)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one[0], one[1]) and torch.equal(one[0], other[0])


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_a_fit_of_a_head_is_this_processs_alone_says_nothing_and_leaves_no_file(
    head: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    launcher = {
        "TORCHELASTIC_RUN_ID": "1",
        "RANK": "1",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "2",
        "GROUP_RANK": "0",
    }
    launcher |= {"LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in launcher.items():  # as torchrun leaves them to each of two processes
        monkeypatch.setenv(name, value)
    train = (torch.randn(12, 4, generator=generator("quiet")), torch.arange(12) % 2)
    if head == "linear":
        LinearProbe(4, 2, ProbeSettings([1e-2], 1e-3, 100)).fit(train, 1e-2)
    else:
        mlp_predict([train], [train[0]], 2, SETTINGS)
    assert list(tmp_path.iterdir()) == []
    shown = capfd.readouterr()
    assert shown.out == "" and "Params" not in shown.err


class Counting(nn.Module):
    """An encoder that notes the batches that it sees, and answers otherwise in training."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3, 1, 1))
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images)
        assert not torch.is_grad_enabled()
        return images.flatten(1)[:, :4].double() + float(self.training)


@pytest.mark.parametrize("training", [True, False])
def test_features_are_computed_in_padded_blocks_in_eval_mode_and_the_mode_stays(
    training: bool,
) -> None:
    pixels = torch.randint(
        0, 256, (2 * BLOCK + 3, 3, 2, 2), dtype=torch.uint8, generator=generator("pixels")
    )
    encoder = Counting().train(training)
    features = encode(encoder, pixels)  # type: ignore[arg-type]
    assert encoder.training is training and features.dtype == torch.float32
    assert [len(block) for block in encoder.seen] == [BLOCK] * 3
    assert encoder.seen[2][3:].eq(0).all()
    torch.testing.assert_close(features, pixels.flatten(1)[:, :4].float() / 255)
    images = Images("x", pixels.numpy(), None, 0, np.arange(len(pixels))[::-1].copy(), "sum")
    assert torch.equal(encode_all(encoder, images), features.flip(0))  # type: ignore[arg-type]


def test_calibration_is_the_plain_mean_over_whole_batches() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (70, 3, 8, 8), dtype=np.uint8)
    pixels[40:] //= 2
    pixels[64:] = 0  # of no whole batch
    images = Images("x", pixels, None, 0, np.arange(70), "sum")
    encoder = controls.untrained(ARCH, 4)
    assert not encoder.training and encoder.fingerprint == build_encoder(ARCH, 4).fingerprint
    first = encoder.backbone.layers[0]
    with torch.inference_mode():
        outputs = first((torch.from_numpy(pixels).float() / 255 - encoder.mean) / encoder.std)
    batches = [outputs[:32], outputs[32:64]]
    after = controls.calibrated(encoder, images, 32)
    norm = after.backbone.layers[1]
    assert not after.training and int(norm.num_batches_tracked) == 2
    means = torch.stack([batch.mean((0, 2, 3)) for batch in batches]).mean(0)
    variances = torch.stack([batch.transpose(0, 1).flatten(1).var(1) for batch in batches]).mean(0)
    torch.testing.assert_close(norm.running_mean, means, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(norm.running_var, variances, atol=1e-5, rtol=1e-4)


def test_pixels_are_all_values_of_each_image_in_order() -> None:
    pixels = np.arange(2 * 3 * 2 * 2, dtype=np.uint8).reshape(2, 3, 2, 2)
    images = Images("x", pixels, None, 0, np.array([1, 0]), "sum")
    torch.testing.assert_close(
        controls.pixels(images), torch.from_numpy(pixels[::-1].reshape(2, 12) / 255).float()
    )
