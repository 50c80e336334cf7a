"""What is made again and what is only said: other code, other threads, another device."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from conftest import DEBUG, Command, stored

from stealing.artefacts import write_done
from stealing.training.conditions import made_with, making, of_card
from stealing.training.fit import Settings

LOSS = "import torch.nn.functional as F\n\n\ndef f(surrogate_BD, target_BD):\n    return {}\n"
MSE = "F.mse_loss(surrogate_BD, target_BD)"


def results(work: Path) -> dict[int, dict[str, Any]]:
    """Each run's result, by seed."""
    found = [json.loads(path.read_text()) for path in work.glob("runs/*/result.json")]
    return {result["seed"]: result for result in found}


def written(work: Path, pattern: str) -> dict[str, int]:
    """When each weight file was written."""
    return {str(path): path.stat().st_mtime_ns for path in work.glob(pattern)}


@pytest.mark.slow
def test_an_edited_loss_makes_the_surrogate_again_and_asks_nothing_again(
    command: Command, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    (tmp_path / "my_edited_loss.py").write_text(LOSS.format(MSE))
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    node = "attack.loss={_target_: my_edited_loss.f, _partial_: true}"
    line = ("train.py", *DEBUG, "~attack.loss", f"+{node}", "trust=[my_edited_loss]")

    first = command(*line, PYTHONPATH=path)
    assert first.returncode == 0, first.stderr
    before, targets, asked = (
        written(work, "surrogates/*/adapter.*"),
        written(work, "targets/*/*.*"),
        stored(work),
    )
    old = results(work)[0]

    (tmp_path / "my_edited_loss.py").write_text("# Half of it.\n" + LOSS.format(MSE))
    same = command(*line, PYTHONPATH=path)
    assert (same.returncode, same.stdout) == (0, first.stdout) and "other code" not in same.stderr
    assert written(work, "surrogates/*/adapter.*") == before, "a comment is no other code"

    (tmp_path / "my_edited_loss.py").write_text(LOSS.format(f"-0.5 * {MSE}"))
    again = command(*line, PYTHONPATH=path)
    assert again.returncode == 0, again.stderr
    told = [row for row in again.stderr.splitlines() if "other code" in row]
    assert sorted(row.split("/")[-2] for row in told) == ["runs", "surrogates"], (
        "one line each, and no control"
    )
    assert written(work, "targets/*/*.*") == targets and stored(work) == asked
    assert (
        len(written(work, "surrogates/*/adapter.*")) == 1
        and written(work, "surrogates/*/adapter.*") != before
    )
    new = results(work)[0]
    assert new["group"] == old["group"] and new["code"] != old["code"]
    assert new["fidelity"] != old["fidelity"]
    assert command(*line, PYTHONPATH=path).stdout == again.stdout


@pytest.mark.slow
def test_one_work_folder_serves_one_thread_and_two_and_each_result_names_what_made_its_parts(
    command: Command, tmp_path: Path
) -> None:
    one = command("train.py", *DEBUG)
    two = command("train.py", *DEBUG, "trainer.threads=2", "seed=1")
    assert (one.returncode, two.returncode) == (0, 0), one.stderr + two.stderr
    found = results(tmp_path / "work")
    threads = {
        seed: {name: made["threads"] for name, made in found[seed]["made"].items()}
        for seed in found
    }
    assert threads[0] == {"target": 1, "surrogate": 1, "control": 1, "run": 1}
    assert threads[1] == {"target": 1, "surrogate": 2, "control": 2, "run": 2}
    [told] = [row for row in two.stderr.splitlines() if "this command asks for" in row]
    assert (
        "/targets/" in told
        and "it was made with threads=1, and this command asks for threads=2" in told
    )
    assert "Made on 1 and 2 threads" in two.stdout, (
        "the table over both seeds says that it mixes them"
    )

    # The finished run keeps its figures, and says what the command asked for.
    again = command("train.py", *DEBUG, "trainer.threads=2")
    assert again.stdout.split("Written")[0] == one.stdout.split("Written")[0]
    [told] = [row for row in again.stderr.splitlines() if "this command asks for" in row]
    assert "target, surrogate, control, run was made with threads=1" in told

    # A run that other code judged is judged again, from parts that are finished.
    [folder] = (tmp_path / "work" / "runs").glob("*-s0-*/")
    done = json.loads((folder / "done.json").read_text())
    done.pop("checksum")
    (folder / "done.json").write_text(json.dumps(done | {"code": "another"}))
    (folder / "result.json").write_text("{}")
    before = written(tmp_path / "work", "surrogates/*/*.safetensors")
    judged = command("train.py", *DEBUG)
    assert [row for row in judged.stderr.splitlines() if "was judged by other code" in row] != []
    assert results(tmp_path / "work")[0]["tasks"] == found[0]["tasks"]
    assert written(tmp_path / "work", "surrogates/*/*.safetensors") == before


def left(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")


PARTS = ("last.ckpt", "last.prev", "curve-000/metrics.csv", "encoder.safetensors", "wandb-steal.id")


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("code", ["old", "new", None])
def test_what_other_code_left_is_removed_and_what_todays_code_left_stays(
    finished: bool, code: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(threads=1)
    left(tmp_path, *PARTS, "wandb/offline-run/curve")
    if code is not None:
        (tmp_path / "code").write_text(code)
    if finished:
        write_done(tmp_path, **({"code": code} if code else {}), made=made_with(settings))
    with making(tmp_path, "new", settings) as done:
        assert (done is not None) == (finished and code == "new")
        stayed = {name for name in PARTS if (tmp_path / name).exists()}
        assert stayed == (set(PARTS) if code == "new" else set())
    assert (tmp_path / "wandb/offline-run/curve").exists(), "curves that nobody uploaded yet"
    told = capsys.readouterr().err.splitlines()
    assert len(told) == (0 if code == "new" else 1)
    assert all("by other code than today's" in line for line in told)
    with making(tmp_path, "new", settings):
        assert capsys.readouterr().err == "", "it is said once"


def test_a_fresh_folder_is_made_without_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with making(tmp_path / "a", "new", Settings()) as done:
        assert done is None
    assert capsys.readouterr().err == ""


OTHERS: list[dict[str, Any]] = [
    {"threads": 3},
    {"channels_last": False},
    {"accelerator": "gpu"},
    {"devices": 2},
]


@pytest.mark.parametrize("other", [*OTHERS, {"compile": True}])
def test_another_device_layout_or_number_is_told_in_one_line_and_the_artefact_is_used(
    other: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_done(tmp_path, code="new", made=made_with(Settings()))
    with making(tmp_path, "new", Settings(**other)) as done:
        assert done is not None
    [told] = capsys.readouterr().err.splitlines()
    assert "this command asks for" in told and "STEALING_WORK" in told
    with making(tmp_path, "new", Settings(checkpoint_seconds=1.0)):
        assert capsys.readouterr().err == ""


def test_a_card_says_what_its_encoder_was_made_with_as_far_as_it_goes() -> None:
    old = {
        "provenance": {
            "hardware": {"cpu": "x", "threads": 2, "gpu": None},
            "versions": {"torch": "2.15.0"},
        }
    }
    assert of_card(old) == {"processor": "x", "threads": 2, "torch": "2.15.0"}
    made = made_with(Settings())
    assert of_card({"provenance": {"made": made}}) == made
    assert of_card({}) is None
