"""What is cached under which key, and how the linear probe chooses: on made-up features."""

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stealing.data.images import Images
from stealing.data.sampling import generator
from stealing.evaluation import probe, protocol
from stealing.evaluation.knn import knn_predict
from stealing.evaluation.mlp import MLPSettings, mlp_predict
from stealing.evaluation.probe import LinearProbe, ProbeSettings, probe_predict
from stealing.evaluation.protocol import Evaluator, HeadInput, Protocol, Task
from stealing.evaluation.rows import Rows

MLP = MLPSettings(hidden=[6, 4], dropout=0.5, lr=1e-2, epochs=1, batch_size=8)
PROTOCOL = Protocol(0.25, ProbeSettings([1e-3, 1e-2], 1e-4, 50), 5, 0.1, MLP, 100)
LABELS = np.arange(40) % 3
FEATURES = torch.randn(40, 6, generator=generator("train")) + 2 * torch.eye(3, 6)[LABELS]
TEST = torch.randn(15, 6, generator=generator("test"))


def images(name: str, count: int = 40) -> Images:
    return Images("x", np.zeros((count, 3, 1, 1), np.uint8), LABELS, 3, np.arange(count), name)


TASK = Task("t", "own", images("train"), images("test", 15))
JOB = HeadInput("encoder", FEATURES, TEST)


def counted(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Callable[..., list[str]]:
    """A function that asks a judge, and names the heads that it had to train."""
    trained: list[str] = []

    def linear(rows: Rows, test_MD: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        trained.append("linear")
        return torch.zeros(len(rows.held[1])).long(), torch.zeros(len(test_MD)).long()

    def knn(bank: Tensor, labels: Tensor, queries: Tensor, **_: Any) -> Tensor:
        trained.append("knn")
        return torch.zeros(len(queries)).long()

    def mlp(trains: list[Any], tests: list[Tensor], *_: Any) -> list[Tensor]:
        trained.append("mlp")
        return [torch.zeros(len(test)).long() for test in tests]

    for name, head in (("probe_predict", linear), ("knn_predict", knn), ("mlp_predict", mlp)):
        monkeypatch.setattr(protocol, name, head)

    def ask(settings: Protocol = PROTOCOL, task: Task = TASK, job: HeadInput = JOB) -> list[str]:
        trained.clear()
        Evaluator(settings, cache).predictions(task, {"it": job})
        return sorted(set(trained))

    return ask


ALL = ["knn", "linear", "mlp"]


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({}, []),
        ({"job": replace(JOB, identity="another")}, ALL),
        ({"job": replace(JOB, sample=0)}, ALL),
        ({"task": replace(TASK, train=images("other train"))}, ALL),
        ({"task": replace(TASK, test=images("other test", 15))}, ALL),
        ({"task": replace(TASK, name="renamed", role="unseen")}, []),
        ({"settings": replace(PROTOCOL, resamples=7)}, []),
        ({"settings": replace(PROTOCOL, holdout=0.5)}, ALL),
        (
            {
                "settings": replace(
                    PROTOCOL, linear=replace(PROTOCOL.linear, penalties=[1e-3, 1e-1])
                )
            },
            ["linear"],
        ),
        (
            {"settings": replace(PROTOCOL, linear=replace(PROTOCOL.linear, tolerance=1e-3))},
            ["linear"],
        ),
        (
            {"settings": replace(PROTOCOL, linear=replace(PROTOCOL.linear, iterations=51))},
            ["linear"],
        ),
        ({"settings": replace(PROTOCOL, neighbours=6)}, ["knn"]),
        ({"settings": replace(PROTOCOL, temperature=0.2)}, ["knn"]),
        ({"settings": replace(PROTOCOL, mlp=replace(MLP, epochs=2))}, ["mlp"]),
        ({"settings": replace(PROTOCOL, mlp=None)}, []),
    ],
    ids=str,
)
def test_predictions_are_remembered_until_what_decides_them_changes(
    change: dict[str, Any], again: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ask = counted(monkeypatch, tmp_path)
    assert ask() == ALL and ask() == []
    assert ask(**change) == again
    assert ask(**change) == ask() == [], "both are remembered beside each other"


def test_features_are_remembered_by_encoder_and_images(tmp_path: Path) -> None:
    judge, computed = Evaluator(PROTOCOL, tmp_path), []

    def compute(asked: Images) -> Tensor:
        computed.append(asked.checksum)
        return torch.full((len(asked), 2), float(len(computed)))

    first = judge.features("a", images("one"), compute)
    assert torch.equal(judge.features("a", images("one"), compute), first) and first.shape == (
        40,
        2,
    )
    assert float(judge.features("a", images("two"), compute)[0, 0]) == 2.0
    assert float(judge.features("b", images("one"), compute)[0, 0]) == 3.0
    assert torch.equal(Evaluator(PROTOCOL, tmp_path).features("a", images("one"), compute), first)
    assert computed == ["one", "two", "one"]


def test_each_head_is_fitted_on_train_and_told_apart_by_job_and_head(tmp_path: Path) -> None:
    wide = HeadInput(
        "wide",
        torch.cat([FEATURES, FEATURES[:, :1]], 1),
        torch.cat([TEST, TEST[:, :1]], 1),
        sample=1,
    )
    jobs = {"a": JOB, "b": replace(JOB, identity="b", sample=2), "wide": wide}
    judge = Evaluator(PROTOCOL, tmp_path)
    found = judge.predictions(TASK, jobs)
    for name, job in jobs.items():
        rows = Rows.split(job.train_ND, torch.from_numpy(LABELS), 0.25, job.sample)
        linear = probe_predict(rows, job.test_MD, 3, PROTOCOL.linear)
        options: dict[str, Any] = {"classes": 3, "k": 5, "temperature": 0.1}
        knn = [
            knn_predict(*of, at, **options)
            for of, at in ((rows.fit, rows.held[0]), (rows.all, job.test_MD))
        ]
        mlp = [
            mlp_predict([of], [at], 3, MLP)[0]
            for of, at in ((rows.fit, rows.held[0]), (rows.all, job.test_MD))
        ]
        for head, (held, test) in {"linear": linear, "knn": knn, "mlp": mlp}.items():
            assert found[name][head].held.tolist() == held.tolist(), (name, head)
            assert found[name][head].test.tolist() == test.tolist(), (name, head)
    few = judge.predictions(TASK, jobs, ["knn"])
    assert {name: set(heads) for name, heads in few.items()} == {name: {"knn"} for name in jobs}
    assert set(Evaluator(replace(PROTOCOL, mlp=None), tmp_path).predictions(TASK, jobs)["a"]) == {
        "linear",
        "knn",
    }


def test_a_protocol_is_named_by_every_setting() -> None:
    changes: list[dict[str, Any]] = [
        {"holdout": 0.3},
        {"neighbours": 4},
        {"temperature": 0.2},
        {"mlp": None},
    ]
    changes += [{"resamples": 5}, {"linear": replace(PROTOCOL.linear, penalties=[1.0])}]
    names = {replace(PROTOCOL, **change).hash for change in changes} | {PROTOCOL.hash}
    assert len(names) == len(changes) + 1 and replace(PROTOCOL).hash == PROTOCOL.hash


@pytest.mark.parametrize(
    ("right", "chosen"),
    [
        ({1e-3: 0.5, 1e-2: 0.75, 1e-1: 0.25}, 1e-2),
        ({1e-3: 0.9, 1e-2: 0.75, 1e-1: 0.25}, 1e-3),
        ({1e-3: 0.5, 1e-2: 0.75, 1e-1: 0.75}, 1e-1),
        ({1e-3: 0.0, 1e-2: 0.0, 1e-1: 0.0}, 1e-1),
    ],
)
def test_the_penalty_that_is_best_on_the_held_rows_is_refitted_on_all_from_where_it_ended(
    right: dict[float, float], chosen: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fits and predictions are stubs: the table says how accurate a penalty is on the held rows."""
    fits: list[tuple[float, int, float]] = []

    def fit(self: LinearProbe, train: tuple[Tensor, Tensor], penalty: float) -> None:
        fits.append((penalty, len(train[1]), float(self.bias.detach()[0])))
        with torch.no_grad():
            self.bias.fill_(penalty)

    labels = torch.ones(100, dtype=torch.long)

    def predict(self: LinearProbe, features: Tensor) -> Tensor:
        share = right[round(float(self.bias.detach()[0]), 4)]
        return (torch.arange(len(features)) < round(share * len(features))).long()

    monkeypatch.setattr(LinearProbe, "fit", fit)
    monkeypatch.setattr(probe, "_predict", predict)
    rows = Rows.split(torch.randn(100, 3, generator=generator("rows")), labels, 0.2)
    held, test = probe_predict(
        rows, torch.zeros(10, 3), 2, ProbeSettings([1e-3, 1e-1, 1e-2], 1e-4, 10)
    )
    assert [(penalty, count) for penalty, count, _ in fits] == [
        (1e-1, 80),
        (1e-2, 80),
        (1e-3, 80),
        (chosen, 100),
    ]
    assert fits[3][2] == pytest.approx(chosen), "from the weights that it ended with"
    assert len(held) == 20 and int(held.sum()) == round(right[chosen] * 20)
    assert int(test.sum()) == round(right[chosen] * 10)


SETTINGS = ProbeSettings([1e-3], 1e-5, 200)


def test_the_test_split_is_standardised_by_trains_statistics() -> None:
    labels = torch.arange(200) % 2
    train = (labels * 2.0 - 1)[:, None] + 0.3 * torch.randn(200, 1, generator=generator("line"))
    test = torch.linspace(5, 6, 10)[:, None]  # all on one side
    _, found = probe_predict(Rows.split(train + 7, labels, 0.2), test + 7, 2, SETTINGS)
    assert found.tolist() == [1] * 10


def test_a_class_that_is_frequent_is_predicted_where_features_say_nothing() -> None:
    labels = (torch.arange(400) % 10 == 0).long()
    train = torch.randn(400, 2, generator=generator("nothing"))
    held, test = probe_predict(Rows.split(train, labels, 0.2), 0.1 * train[:50], 2, SETTINGS)
    assert test.eq(0).all() and held.eq(0).float().mean() > 0.9


def test_a_feature_that_is_constant_in_train_says_nothing_and_breaks_nothing() -> None:
    labels = torch.arange(60) % 2
    train = torch.cat([(labels * 2.0 - 1)[:, None], torch.full((60, 1), 3.0)], 1)
    _, test = probe_predict(
        Rows.split(train, labels, 0.2), torch.tensor([[1.0, 3.0], [-1.0, 3.0]]), 2, SETTINGS
    )
    assert test.tolist() == [1, 0]


def test_rows_go_to_a_device_whole() -> None:
    rows = Rows.split(torch.ones(10, 3), torch.zeros(10, dtype=torch.int64), 0.2)
    # a device that every machine has beside its processor
    moved = rows.to("meta")
    parts = {field.name: getattr(moved, field.name) for field in fields(moved)}
    assert {name: part.device.type for name, part in parts.items()} == dict.fromkeys(parts, "meta")
    assert rows.features.device.type == "cpu", "the rows themselves stay where they are"


def test_a_bootstrap_sample_draws_each_part_from_itself_with_its_labels() -> None:
    features = torch.arange(50.0)[:, None]
    labels = torch.arange(50)
    whole = Rows.split(features, labels, 0.3)
    parts = [set(part[1].tolist()) for part in (whole.fit, whole.held)]
    assert len(parts[1]) == 15 and torch.equal(whole.all[1], labels)
    samples = [Rows.split(features, labels, 0.3, sample) for sample in (0, 1)]
    for rows in samples:
        assert torch.equal(rows.features[:, 0].long(), rows.labels)
        for part, allowed in ((rows.fit, parts[0]), (rows.held, parts[1])):
            drawn = part[1].tolist()
            assert set(drawn) < allowed and len(drawn) == len(allowed) > len(
                set(drawn)
            ) > 0.4 * len(allowed)
    assert not torch.equal(samples[0].labels, samples[1].labels)
    assert len(Rows.split(features, labels, 1e-6).held[1]) == 1
    scaled = whole.scaled(torch.tensor([1.0]), torch.tensor([2.0]))
    assert torch.equal(scaled.features, (features - 1) / 2) and torch.equal(
        scaled.is_held, whole.is_held
    )
