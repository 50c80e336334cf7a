"""Overrides of every kind, as a person or a script may type them: choices, or one sentence."""

import json
from pathlib import Path

import pytest
from conftest import ROOT, choose, leaves
from deeds import SECRET, tried
from fuzzing import FUZZ
from hydra import initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig

from stealing.commands import one_line_errors
from stealing.config import compose_config, to_dict
from stealing.errors import StealingError

KNOWN = sorted(
    {".".join(place) for place in leaves(to_dict(choose("target=service", "defense=[topk,guard]")))}
)
GROUPS = sorted(path.name for path in (ROOT / "conf").iterdir() if path.is_dir())
OPTIONS = sorted(path.stem for path in (ROOT / "conf").glob("*/*.yaml"))

WORDS = [
    "",
    "0",
    "1",
    "-1",
    "2",
    "128.5",
    "nan",
    "inf",
    "-inf",
    "1e23",
    "1e-400",
    str(2**64),
    "9" * 400,
    "true",
    "null",
    "a",
    "~",
    "???",
    "[]",
    "{}",
    "[1,2]",
    "{a:1}",
    "{a:1",
    "[1",
    "'",
    '"',
    "'a'",
    '"a',
    "a b",
    " ",
    "\\",
    "a\\",
    "$",
    "${",
    "${}",
    "${seed}",
    "${nothing}",
    "${oc.env:FUZZ_SECRET}",
    "${oc.env:NO_SUCH_VARIABLE}",
    "${cores_each:x}",
    "${no.resolver:1}",
    "${.}",
    "${..}",
    "${paths}",
    "a=b",
    "=",
    ":",
    ",",
    "a,b",
    "#",
    "%",
    "@",
    "é",
    "\u202e",
    "\x00",
    "\x1b[31m",
    "\n",
    "\ud800",
    "x" * 3000,
    "(" * 300,
    "[" * 300,
    "../../etc",
    "work/epoch=9-step=100.safetensors",
    "/dev/null",
    "os.system",
    "range(1,3)",
    "choice(1,2)",
    "glob(*)",
    "interval(0,1)",
    "sort(3,1)",
    "int(a)",
    "str(1)",
]
PREFIXES = ["", "", "", "", "+", "++", "~", "--", "+a.", "/", " "]
HABITS = [
    "trainer.max_epochs",
    "trainer.strategy",
    "ckpt_path",
    "callbacks",
    "_target_",
    "attack._target_",
    "hydra.run.dir",
    "hydra/launcher",
    "hydra.sweep.dir",
    "hydra/job_logging",
    "data.tasks.mine",
    "target.remote.wire.body.model",
    "defense.topk.k",
    "defaults",
    "",
    ".",
    "a..b",
    "a.b.c.d",
    "0",
    "seed.a",
    "data@other",
    "arch@",
    "é",
    "sead",
]


@st.composite
def overrides(draw: st.DrawFn) -> str:
    """A word of a command line."""
    name = draw(st.sampled_from(KNOWN) | st.sampled_from(GROUPS) | st.sampled_from(HABITS))
    sign = draw(st.sampled_from(["=", "=", "=", "=", "", "==", "@x="]))
    value = draw(st.sampled_from(WORDS) | st.sampled_from(OPTIONS) | st.text(max_size=8))
    return draw(st.sampled_from(PREFIXES)) + name + sign + value


@pytest.mark.parametrize("name", ["train", "eval", "audit"])
def test_any_overrides_make_choices_or_one_sentence(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUZZ_SECRET", SECRET)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    target = [] if name == "train" else [f"target.path={ROOT / 'pyproject.toml'}"]

    def compose(words: list[str]) -> DictConfig:
        """What the command would run; a refusal of Hydra's as the command words it."""
        try:
            with one_line_errors():
                return compose_config(name, [*target, *words])[0]
        except SystemExit as end:
            kind, _, refusal = str(end.code).partition(": ")
            assert kind != "UnexpectedError"
            raise StealingError(refusal) from None

    @FUZZ
    @given(
        st.lists(overrides(), min_size=1, max_size=3)
        | st.lists(st.text(max_size=20), min_size=1, max_size=2)
    )
    def typed(words: list[str]) -> None:
        config = tried(lambda: compose(words))
        if config is not None:
            json.dumps(to_dict(config))

    with initialize_config_dir(str(Path(ROOT) / "conf"), version_base="1.3"):
        assert tried(lambda: compose([])) is not None
        typed()
