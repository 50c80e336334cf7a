"""Probes, neighbours, fidelity and intervals against their definitions."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import choose
from torch import Tensor, nn

from stealing.config import opened, plain
from stealing.data.draws import generator
from stealing.data.images import Images
from stealing.encoders import build_encoder
from stealing.evaluation import controls
from stealing.evaluation.fidelity import cka, fidelity
from stealing.evaluation.knn import knn_predict
from stealing.evaluation.mlp import MLPHeads, MLPSettings, mlp_predict
from stealing.evaluation.probe import LinearProbe, ProbeSettings, _fitted, probe_predict
from stealing.evaluation.protocol import CONTROLS, Job, Judge, Task
from stealing.evaluation.statistics import overall, paired, summarise


def clusters(count: int, spread: float, key: str) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.randint(0, 4, (count,), generator=generator(key, "labels"))
    return torch.eye(4, 6)[labels] * 3 + spread * torch.randn(count, 6, generator=generator(key)), labels


def test_the_probe_stops_where_the_gradient_of_each_penalised_loss_is_zero() -> None:
    features, labels = clusters(300, 1.5, "probe")
    probe = _fitted((features, labels), 4, [1e-3, 1e-1], 200)
    probe.training_step((features, labels), 0).backward()
    assert probe.weight.grad is not None and probe.weight.grad.abs().max() < 1e-3
    assert probe.weight[1].norm() < probe.weight[0].norm()


def test_penalties_fitted_together_end_where_each_ends_alone() -> None:
    train = clusters(300, 1.5, "probe")
    both, alone = _fitted(train, 4, [1e-2, 1e-1], 200), _fitted(train, 4, [1e-1], 200)
    torch.testing.assert_close(both.weight[1], alone.weight[0], atol=2e-3, rtol=1e-2)


def test_the_probe_does_not_care_for_the_scale_or_shift_of_features() -> None:
    (train, labels), (test, _) = clusters(400, 1.0, "a"), clusters(200, 1.0, "b")
    settings, scale = ProbeSettings([1e-3, 1e-2], 0.2, 100), torch.tensor([1e-3, 1.0, 5.0, 10.0, 100.0, 1e3])
    first = probe_predict((train, labels), test, 4, settings)
    second = probe_predict((train * scale + 7, labels), test * scale + 7, 4, settings)
    assert (first == second).float().mean() > 0.99
    assert (first == clusters(200, 1.0, "b")[1]).float().mean() > 0.9


def test_the_probe_of_wide_features_keeps_its_penalties_with_the_module() -> None:
    assert LinearProbe(5, 3, [0.1, 0.2], 10).state_dict()["penalties"].tolist() == pytest.approx([0.1, 0.2])


def test_knn_equals_a_loop_over_neighbours() -> None:
    (bank, labels), (queries, _) = clusters(60, 2.0, "bank"), clusters(25, 2.0, "queries")
    found = knn_predict(bank, labels, queries, classes=4, k=7, temperature=0.3)
    for query, prediction in zip(queries, found, strict=True):
        similar = torch.nn.functional.cosine_similarity(query[None], bank)
        votes = [0.0] * 4
        for place in similar.argsort(descending=True)[:7]:
            votes[int(labels[place])] += float((similar[place] / 0.3).exp())
        assert int(prediction) == int(np.argmax(votes))


def test_likeness_is_one_for_a_rotation_only_in_cka_and_the_shuffled_cosine_exposes_a_common_direction() -> None:
    features = torch.randn(500, 6, generator=generator("f")) + 5
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=generator("r")))[0]
    turned = fidelity(features, features @ rotation, features @ rotation)
    assert turned["cka"] == pytest.approx(1, abs=1e-4) and turned["cosine_centred"] < 0.9
    same = fidelity(features, features, features)
    assert same["cosine"] == pytest.approx(1) and same["cosine_shuffled"] > 0.9
    assert cka(features, torch.randn(500, 6, generator=generator("other"))) < 0.1


def rights(seed: int = 0, **rates: float) -> dict[str, np.ndarray]:
    """Nested outcomes: who is right at a lower rate is right on a subset of the images."""
    u = np.random.default_rng(seed).random(4000)
    names = {"TA": 0.7, "TA_clean": 0.7, "SA": 0.65, **dict.fromkeys(CONTROLS, 0.4), "ssl_on_queries": 0.5, **rates}
    return {name: u < rate for name, rate in names.items()}


def test_recovered_is_the_share_of_the_gap_above_the_strongest_control() -> None:
    figures = summarise([rights()], resamples=300)
    strongest = figures["controls"]["ssl_on_queries"]  # type: ignore[index]
    expected = (figures["SA"] - strongest) / (figures["TA_clean"] - strongest)  # type: ignore[operator]
    assert figures["recovered"] == pytest.approx(expected) and figures["ratio"] == pytest.approx(
        figures["SA"] / figures["TA"]
    )  # type: ignore[operator]
    low, high = figures["intervals"]["recovered"]  # type: ignore[index]
    assert low < expected < high and high - low < 0.15


def test_pairing_narrows_the_interval_and_a_gap_too_small_gives_none() -> None:
    assert summarise([rights(pixels=0.66)], resamples=50)["recovered"] is None
    assert "recovered" not in summarise([rights(pixels=0.66)], resamples=50)["intervals"]  # type: ignore[operator]
    unpaired = {**rights(), "SA": rights(1)["SA"]}

    def width(table: dict[str, np.ndarray]) -> float:
        low, high = summarise([table], resamples=300)["intervals"]["recovered"]  # type: ignore[index]
        return float(high - low)

    assert width(rights()) < 0.6 * width(unpaired)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    held = 0
    for seed in range(60):
        low, high = summarise([rights(seed)], resamples=200)["intervals"]["SA"]  # type: ignore[index]
        held += low <= 0.65 <= high
    assert held >= 51  # of 57 expected


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
def test_few_seeds_find_no_difference_where_there_is_none(seeds: int) -> None:
    """Two settings whose accuracies vary with the seed alone; a bootstrap over two seeds was wrong in 42 of 100."""
    rng, found, held, runs = np.random.default_rng(seeds), 0, 0, 200
    for _ in range(runs):
        hardness = rng.random(500)
        pair = [
            [{"a/linear/SA": hardness < rng.normal(0.6, 0.03 if seeds > 1 else 0)} for _ in range(seeds)]
            for _ in range(2)
        ]
        for side in pair:
            for right in side:
                right["a/linear/SA"] ^= rng.random(500) < 0.1
        _, (low, high), p = paired(pair[0], pair[1], "linear", resamples=60)
        found, held = found + (p < 0.05), held + (low <= 0 <= high)
    assert found <= 0.1 * runs and held >= 0.9 * runs


def test_a_difference_that_many_seeds_share_is_found() -> None:
    rng = np.random.default_rng(0)
    pair = [[{"a/linear/SA": rng.random(2000) < rng.normal(mean, 0.01)} for _ in range(5)] for mean in (0.65, 0.6)]
    difference, (low, high), p = paired(pair[0], pair[1], "linear", resamples=100)
    assert p < 0.01 and 0 < low < difference < high
    assert paired(pair[0], pair[0], "linear", resamples=50) == (0.0, (0.0, 0.0), 1.0)


def test_intervals_over_seeds_hold_the_truth_about_as_often_as_they_say() -> None:
    rng, held = np.random.default_rng(0), 0
    for number in range(60):
        several = [rights(100 * number + seed, SA=rng.normal(0.65, 0.02)) for seed in range(3)]
        low, high = summarise(several, resamples=60)["intervals"]["SA"]  # type: ignore[index]
        held += low <= 0.65 <= high
    assert held >= 53  # of 57 expected


@pytest.mark.parametrize("others", [0.4, 0.3])
def test_controls_that_are_equally_good_do_not_push_what_is_recovered_under_its_truth(others: float) -> None:
    """Of four tasks: with the largest control taken anew in each resample, the truth lay above in half of all draws.

    That the luck of equal controls is estimated, not known, leaves 12 of 100 here in place of 2.5.
    """
    rng, above, below, truth = np.random.default_rng(0), 0, 0, (0.45 - 0.4) / (0.7 - 0.4)
    rates = {"TA": 0.7, "TA_clean": 0.7, "SA": 0.45, **dict.fromkeys(CONTROLS, others), "pixels": 0.4}
    for _ in range(200):
        table = {f"{task}/linear/{name}": rng.random(1000) < rate for task in "abcd" for name, rate in rates.items()}
        low, high = overall([table], resamples=200)["linear"]["intervals"]["recovered"]
        above, below = above + (truth > high), below + (truth < low)
    assert above <= 40 and below <= 12


def test_seeds_are_the_outer_level() -> None:
    apart = [rights(0, SA=0.55), rights(0, SA=0.69)]
    low, high = summarise(apart, resamples=400)["intervals"]["recovered"]  # type: ignore[index]
    assert low < 0.35 and high > 0.85 and summarise(apart, resamples=50)["SA"] == pytest.approx(0.62, abs=0.02)


def test_calibration_changes_the_statistics_of_batchnorm_and_nothing_else() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 3, 8, 8), dtype=np.uint8)
    images = Images("x", pixels, None, 0, np.arange(64), "sum")
    before = build_encoder(plain(choose().arch), 0)
    after = controls.calibrated(build_encoder(plain(choose().arch), 0), images, 32)
    for (name, old), new in zip(before.state_dict().items(), after.state_dict().values(), strict=True):
        assert torch.equal(old, new) != ("running" in name or "tracked" in name), name
    first = before.backbone.layers[0]((torch.from_numpy(pixels).float() / 255 - before.mean) / before.std)
    torch.testing.assert_close(after.backbone.layers[1].running_mean, first.mean((0, 2, 3)), atol=1e-5, rtol=1e-4)


def test_pixels_are_the_images() -> None:
    images = Images("x", np.full((2, 3, 4, 4), 51, np.uint8), None, 0, np.arange(2), "sum")
    assert controls.pixels(images).shape == (2, 48) and controls.pixels(images).unique().item() == pytest.approx(0.2)


def test_a_perfect_copy_agrees_exactly_as_often_as_the_target_with_itself(tmp_path: Path) -> None:
    (train, labels), (test, truth) = clusters(200, 2.5, "train"), clusters(300, 2.5, "test")
    parts = [
        Images(name, np.zeros((len(y), 3, 8, 8), np.uint8), y.numpy(), 4, np.arange(len(y)), name)
        for name, y in (("train", labels), ("test", truth))
    ]
    task, judge = Task("t", "own", *parts), Judge(opened(choose().probe), tmp_path)
    jobs = {str(number): Job("target", train, test, sample=number) for number in range(2)}
    found = judge.predictions(task, jobs | {"copy": Job("copy", train.clone(), test.clone(), sample=1)})
    target, copy = [found["0"], found["1"]], found["copy"]
    for head in ("linear", "knn"):
        ceiling = (target[0][head] == target[1][head]).mean()
        assert (target[0][head] == copy[head]).mean() == ceiling
        assert 0.5 < ceiling < 1


def head_data(seed: int, width: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    rows = torch.randn(40, width, generator=generator("mlp", seed))
    return rows, (rows[:, :3].argmax(1)), torch.randn(30, width, generator=generator("mlp test", seed))


def test_the_papers_head_is_adam_on_an_unshuffled_mlp_of_normalised_features() -> None:
    train, labels, test = head_data(0)
    settings = MLPSettings(hidden=[16, 8], dropout=0.0, lr=1e-2, epochs=5, batch_size=16)
    [found] = mlp_predict([train], [labels], [test], 3, settings)
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-2)
    unit, tested = (rows / rows.norm(dim=1, keepdim=True) for rows in (train, test))
    for _ in range(5):
        for at in range(0, 40, 16):
            optimizer.zero_grad()
            F.cross_entropy(plain(unit[at : at + 16]), labels[at : at + 16]).backward()
            optimizer.step()
    assert torch.equal(found, plain(tested).argmax(1))


def test_heads_trained_side_by_side_are_those_trained_alone() -> None:
    settings = MLPSettings(hidden=[16, 8], dropout=0.5, lr=1e-2, epochs=20, batch_size=16)
    data = [head_data(seed) for seed in range(3)]
    trains, labels, tests = (list(column) for column in zip(*data, strict=True))
    beside = mlp_predict(trains, labels, tests, 3, settings)
    for number in range(3):
        [alone] = mlp_predict([trains[number]], [labels[number]], [tests[number]], 3, settings)
        assert torch.equal(alone, beside[number])
        accuracy = mlp_predict([trains[number]], [labels[number]], [trains[number]], 3, settings)[0] == labels[number]
        assert accuracy.float().mean() > 0.6, "it has learned"


def test_dropout_drops_half_of_the_first_layer_in_training_alone() -> None:
    heads = MLPHeads(1, 6, 3, MLPSettings(hidden=[64, 8], dropout=0.5, lr=1e-2, epochs=1, batch_size=16))
    rows = head_data(0)[0][None]
    assert torch.equal(heads(rows), heads(rows, torch.ones(40, 64)))
    assert not torch.equal(heads(rows), heads(rows, torch.zeros(40, 64)))


def test_the_paper_probe_adds_its_head_and_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    images = Images("x", np.zeros((40, 3, 1, 1), np.uint8), head_data(0)[1].numpy(), 3, np.arange(40), "sum")
    task, (train, _, test) = Task("t", "own", images, images), head_data(0)
    protocols = [opened(choose("probe=paper", "probe.mlp.epochs=2").probe), opened(choose().probe)]
    jobs = {"TA": Job("it", train, test)}
    both, one = (Judge(p, tmp_path / p.hash).predictions(task, jobs)["TA"] for p in protocols)
    assert set(both) == {"linear", "knn", "mlp"} and set(one) == {"linear", "knn"}
    assert all((both[head] == one[head]).all() for head in one)
    assert protocols[0].hash != protocols[1].hash
