"""What the fuzz tests share: how many inputs they try, and how documents and bytes are damaged.

The gate tries a few inputs, the same every time. By hand, ten thousand new ones in all take some
minutes, and a
failure prints its input, made as small as Hypothesis can. The plugin of schemathesis would hide it:

    STEALING_FUZZ=400 .venv/bin/python -m pytest --timeout=0 -p no:schemathesis tests/test_fuzz_*.py
"""

import copy
import json
import os
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

BY_HAND = "STEALING_FUZZ" in os.environ

INPUTS = int(os.environ.get("STEALING_FUZZ", "30"))
"""Inputs of each fuzz test."""

FUZZ = settings(
    max_examples=INPUTS,
    deadline=None,
    database=None,
    derandomize=not BY_HAND,
    phases=[Phase.explicit, Phase.generate, *([Phase.shrink] if BY_HAND else [])],
    suppress_health_check=list(HealthCheck),
)

CANARY = "canary.hubconf.sing"
DEVICE = {"_target_": "pathlib.Path", "_args_": [os.devnull]}
PAYLOADS: list[dict[str, Any]] = [
    {"_target_": CANARY},
    {"_target_": "hydra.utils.call", "_args_": [{"_target_": CANARY}]},
    {"_target_": "hydra.utils.instantiate", "config": {"_target_": CANARY}},
    {
        "_target_": "stealing.config.instantiate_node",
        "_args_": [{"_target_": CANARY}],
        "_recursive_": False,
    },
    {"_target_": "importlib.import_module", "name": "canary.hubconf"},
    {
        "_target_": "torch.hub.load",
        "repo_or_dir": str(Path(__file__).parent / "canary"),
        "model": "sing",
        "source": "local",
    },
    {"_target_": "os.system", "command": "true"},
    {"_target_": "subprocess.run", "args": ["true"]},
    {"_target_": "builtins.exec", "_args_": [f"import {CANARY.rpartition('.')[0]}"]},
    {"_target_": "builtins.open", "file": os.devnull, "mode": "w"},
    {"_target_": "pathlib.Path.write_text", "_args_": [DEVICE, "x"]},
    {"_target_": "logging.FileHandler", "filename": os.devnull},
]
"""Nodes that would run code if something instantiated them; each does a deed that `watched`
notices, and no harm."""

VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    2,
    64,
    2**31,
    2**64,
    0.5,
    -0.5,
    1e-320,
    1e308,
    1.5,
    "",
    " ",
    "a",
    "0",
    "nan",
    "\x00",
    "ééé",
    "\ud800",
    "x" * 5000,
    "../../..",
    "/dev/null",
    "${seed}",
    "${oc.env:FUZZ_SECRET}",
    "${",
    "{}",
    "$x$",
    "\x1b[31m",
    "=1",
    [],
    {},
    [[]],
    [1],
    [None],
    ["a"],
    {"a": 1},
    {"": None},
    [1e308, -1e308],
    [[1, 2], [3]],
    [1] * 65,
    [2**31 - 1] * 4,
    [2**31 - 1] * 40 + [0],
]
"""What may stand in the place of a value."""

TEXTS = [
    "NaN",
    "-Infinity",
    "1e999",
    "-0.0",
    "1" * 5000,
    "[" * 20_000 + "]" * 20_000,
    "[" * 20_000,
    '{"a":' * 3000 + "1",
    "[" + "[]," * 30_000 + "[]]",
    '["' + "x" * 100_000 + '"' + ',""' * 2000 + "]",
    '"\\ud800"',
    '"\\u0000"',
    "'a'",
    "nul",
    "",
    "1,",
    "/**/",
    "\ufeff",
    "0x10",
    "1_0",
    '1, "size": 2',
    f'1, "_target_": "{CANARY}"',
]
"""JSON, or nearly, that Python's own writer never makes."""

TENSORS: list[dict[str, Any]] = [
    {"shape": [1] * 65, "data": [1]},
    {"shape": [0] * 65, "data": []},
    {"shape": [2**31 - 1] * 40 + [0], "data": []},
    {"shape": [2001], "data": ["x" * 100_000, *[""] * 2000]},
    {"shape": [2**22], "data": [[]] * 2**22},
    {"shape": [2, 2**22], "data": [[0] * 2**21] * 2},
    {"data": [1e308, 2**70, -1]},
    {"name": "\ud800"},
    {"datatype": "\ud800"},
    {"parameters": {"binary_data_size": 2**63}},
]
"""Tensors of the Open Inference Protocol, in part, that cost more than they look like."""

TOKENS = [
    b"",
    b"\x00",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"NaN",
    b"1e999",
    b"null",
    b'"',
    b"{}",
    b"[" * 500,
    b"]",
    b"}",
    b"-1",
    b"99999999999999999999",
    b"\r\n\r\n",
    b"\n",
    b":",
    b",",
    b"\x7f\xf0\x00\x00",
    b"\x00\x00\xc0\x7f",
    b"_target_",
]
"""Bytes that may come to stand anywhere."""


@st.composite
def documents(draw: st.DrawFn, document: Any, texts: list[str] = TEXTS) -> bytes:
    """JSON of the document with one to three places replaced, dropped, renamed or added."""
    tree = copy.deepcopy([document])
    marks = [f"\ue000{number}" for number in range(len(texts))]
    values = st.sampled_from([*PAYLOADS, *VALUES, *marks])
    for _ in range(draw(st.integers(1, 3))):
        holder = draw(st.sampled_from(_holders(tree)))
        names = list(holder) if isinstance(holder, dict) else list(range(min(len(holder), 12)))
        name = draw(st.sampled_from(names))
        deed = draw(st.sampled_from(["replace", "replace", "replace", "drop", "rename", "add"]))
        if deed == "replace" or holder is tree:
            holder[name] = copy.deepcopy(draw(values))
        elif deed == "drop":
            del holder[name]
        elif isinstance(holder, list):
            holder.insert(name, copy.deepcopy(draw(values)))
        elif deed == "rename":
            holder[draw(st.sampled_from(["", "a", f"{name} ", "_target_", "<<", "\ud800"]))] = (
                holder.pop(name)
            )
        else:
            holder[draw(st.sampled_from(["", "a", "_target_", "_args_", "size"]))] = copy.deepcopy(
                draw(values)
            )
    text = json.dumps(tree[0])
    for mark, raw in zip(marks, texts, strict=True):
        text = text.replace(json.dumps(mark), raw)
    return text.encode()


def _holders(tree: Any) -> list[Any]:
    """Every mapping and list that holds something."""
    parts = list(tree.values()) if isinstance(tree, dict) else tree[:12]
    below = [holder for part in parts if isinstance(part, dict | list) for holder in _holders(part)]
    return [tree, *below] if tree else []


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """The bytes with one to four places cut, overwritten or grown."""
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(content)))
        end = place + draw(st.sampled_from([0, 1, 1, 2, 4, 8, len(content)]))
        content = (
            content[:place] + draw(st.sampled_from(TOKENS) | st.binary(max_size=4)) + content[end:]
        )
    return content


Wired = tuple[dict[str, str], bytes]
"""Headers and body of a request or an answer."""

LENGTH = "inference-header-content-length"
"""Header that says where JSON ends and binary tensors begin."""


def json_of(message: Wired) -> Any:
    """What the JSON of a message says."""
    headers, body = message
    return json.loads(body[: int(headers.get(LENGTH, len(body)))])


def with_json(message: Wired, text: bytes) -> Wired:
    """The message with this text in the place of its JSON."""
    headers, body = message
    if LENGTH not in headers:
        return headers, text
    return headers | {LENGTH: str(len(text))}, text + body[int(headers[LENGTH]) :]


def costly(message: Wired, parts: list[dict[str, Any]]) -> list[Wired]:
    """The message with each of `TENSORS` in its tensor or, where it has none, each of these parts
    in its JSON."""
    document = json_of(message)
    place = next((name for name in ("inputs", "outputs") if name in document), None)
    if place is None:
        changed = [document | part for part in parts]
    else:
        changed = [document | {place: [document[place][0] | part]} for part in TENSORS]
    return [
        with_json(message, json.dumps(each, separators=(",", ":")).encode()) for each in changed
    ]
