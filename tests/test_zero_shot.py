"""The zero-shot head: texts of class names against the features of target and surrogate."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import choose
from test_towers import TINY_CLIP, huggingface, normalised
from torch import Tensor, nn

from stealing.artefacts import key
from stealing.data.images import Images
from stealing.encoders.foreign.load import load_foreign, load_text
from stealing.encoders.foreign.loaded import ForeignTarget
from stealing.errors import CheckpointError, ConfigError
from stealing.evaluation.protocol import Evaluator, HeadInput, Task
from stealing.evaluation.shares import strongest_control
from stealing.evaluation.statistics import HELD, Outcomes, summarise
from stealing.evaluation.texts import ClassTexts, ZeroShotHead, open_texts
from stealing.evaluation.zero_shot import MAJORITY, ZeroShot, class_vectors, zero_shot_predict

NAMES = ["circle", "square", "rain_bow"]
TEMPLATES = ["a photo of a {}.", "{}", "the {}"]
PROTOCOL = "probe=zero_shot"
WORDS = ["[UNK]", "[PAD]", "[BOS]", "[EOS]", "a", "photo", "of", "the", "circle", "square", "rain"]
TINY = {**TINY_CLIP, "text_cfg": {"context_length": 8, "width": 16, "heads": 2, "layers": 1}}
"""A CLIP for open_clip's own tokenizer, whose words TINY_CLIP does not have."""


def save_clip(folder: Path, seed: int = 0) -> tuple[Any, ForeignTarget]:
    """Write a tiny CLIP of open_clip; return the model, and the target that names it."""
    import open_clip

    (folder / "tiny.json").write_text(json.dumps(TINY))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.CLIP(**TINY).eval()
    torch.save(model.state_dict(), folder / "clip.pt")
    return model, ForeignTarget("open_clip", str(folder / "tiny.json"), str(folder / "clip.pt"))


def save_huggingface(kind: str, folder: Path) -> Any:
    """Write a tiny CLIP or SigLIP of transformers with a tokenizer; return the model."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    model, preprocessing, _ = huggingface(kind)
    model.eval().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing))
    words = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[BOS] $A [EOS]", special_tokens=[("[BOS]", 2), ("[EOS]", 3)]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    fast.save_pretrained(folder)
    return model


def vectors_of(target: ForeignTarget) -> Tensor:
    settings = ZeroShot(TEMPLATES)
    tower = load_text(target)
    tokens = tower.tokens(settings.prompts(NAMES))
    return class_vectors(tower.embed(tokens), len(TEMPLATES))


def test_zero_shot_is_what_open_clip_does(tmp_path: Path) -> None:
    import open_clip

    model, target = save_clip(tmp_path)
    names = [name.replace("_", " ") for name in NAMES]
    tokenizer = open_clip.SimpleTokenizer(context_length=8)
    expected = open_clip.build_zero_shot_classifier(model, tokenizer, names, TEMPLATES)
    vectors = vectors_of(target)
    torch.testing.assert_close(vectors, expected.T, rtol=0, atol=1e-5)
    found = load_foreign(target)
    with torch.no_grad():
        features = model.encode_image(normalised(found), normalize=True)
        logits = model.logit_scale.exp() * features @ expected
        ours = F.normalize(found.encoder(IMAGES), dim=1) @ vectors.T
        torch.testing.assert_close(model.logit_scale.exp() * ours, logits, rtol=0, atol=1e-4)
        assert torch.equal(zero_shot_predict(found.encoder(IMAGES), vectors), logits.argmax(1))


IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_zero_shot_is_the_formula_on_the_towers_of_transformers(kind: str, tmp_path: Path) -> None:
    model = save_huggingface(kind, tmp_path)
    target = ForeignTarget("huggingface", str(tmp_path))
    padded = {"circle": [8], "square": [9], "rain bow": [10, 0]}
    before = {"a photo of a {}.": [4, 5, 6, 4], "{}": [], "the {}": [7]}
    rows = []
    for name in padded:
        mean = torch.zeros(24 if kind == "clip" else 32)
        for template in TEMPLATES:
            after = [0] if template.endswith(".") else []
            words = [2, *before[template], *padded[name], *after][:7]
            tokens = [*words, 3]
            tokens += [1] * (8 - len(tokens))
            with torch.no_grad():
                answer = model.get_text_features(input_ids=torch.tensor([tokens]))
            embedding = (answer if torch.is_tensor(answer) else answer.pooler_output)[0]
            mean += embedding / embedding.norm() / len(TEMPLATES)
        rows.append(mean / mean.norm())
    expected = torch.stack(rows)
    vectors = vectors_of(target)
    torch.testing.assert_close(vectors, expected, rtol=0, atol=1e-5)
    with torch.no_grad():
        features = load_foreign(target).encoder(IMAGES)
    cosines = F.cosine_similarity(features[:, None], expected[None], dim=2)
    assert torch.equal(zero_shot_predict(features, vectors), cosines.argmax(1))


def labelled(count: int, classes: int, seed: int) -> Images:
    labels = np.random.default_rng(seed).integers(0, classes, count)
    pixels = np.zeros((count, 3, 2, 2), np.uint8)
    return Images("drawn", pixels, labels, classes, np.arange(count), f"drawn {seed}")


def task_and_head(adapter: nn.Module, tmp_path: Path) -> tuple[Task, Evaluator, ZeroShotHead]:
    task = Task("drawn", "unseen", labelled(50, 3, 1), labelled(40, 3, 2))
    vectors = F.normalize(torch.randn(3, 6, generator=torch.Generator().manual_seed(3)), dim=1)
    from stealing.config import instantiate_node

    evaluator = Evaluator(instantiate_node(choose(PROTOCOL).probe), tmp_path)
    return task, evaluator, ZeroShotHead(ClassTexts("texts", {"drawn": vectors}), adapter)


def test_a_surrogate_that_equals_its_target_behind_its_adapter_predicts_what_it_predicts(
    tmp_path: Path,
) -> None:
    random = torch.Generator().manual_seed(4)
    turn, _ = torch.linalg.qr(torch.randn(6, 6, generator=random))
    adapter = nn.Linear(6, 6, bias=False)
    adapter.weight.data = turn.T
    task, evaluator, head = task_and_head(adapter, tmp_path)
    target = HeadInput("T", *torch.randn(2, 50, 6, generator=random)[:, :50])
    target = replace(target, test_MD=target.test_MD[:40])
    surrogate = HeadInput("S", target.train_ND @ turn.T, target.test_MD @ turn.T)
    inputs = {"TA": target, "SA": surrogate, "pixels": target}
    predicted = head.predictions(task, evaluator, inputs)
    assert predicted.keys() == {"TA", "SA", MAJORITY}
    # Adapters turn features by rows: x @ W.T with W = turn.T undoes x @ turn.T.
    np.testing.assert_array_equal(predicted["SA"].test, predicted["TA"].test)
    np.testing.assert_array_equal(predicted["SA"].held, predicted["TA"].held)
    plain = ZeroShotHead(head.texts, nn.Identity()).predictions(task, evaluator, inputs)
    assert (plain["SA"].test != predicted["TA"].test).any()
    vectors = head.texts.vectors["drawn"]
    cosines = F.cosine_similarity(target.test_MD[:, None], vectors[None], dim=2)
    np.testing.assert_array_equal(predicted["TA"].test, cosines.argmax(1).numpy())
    most = np.bincount(task.train.targets()).argmax()
    assert (predicted[MAJORITY].test == most).all() and len(predicted[MAJORITY].test) == 40
    held = evaluator.rows(task, target).held[1]
    assert len(predicted[MAJORITY].held) == len(predicted["SA"].held) == len(held)


def test_the_control_of_the_head_is_the_most_frequent_class_alone() -> None:
    control = strongest_control({"TA": 0.9, "SA": 0.8, MAJORITY: 0.4})
    assert (control.name, control.next, control.lead) == (MAJORITY, None, None)
    rates = {"TA": 0.9, "TA_clean": 0.9, "SA": 0.8, MAJORITY: 0.4}
    right = Outcomes()
    for name, rate in rates.items():
        right[name] = np.arange(100) < 100 * rate
        right[name + HELD] = right[name]
    figures = summarise([right], resamples=100)
    assert figures["recovered"] == pytest.approx((0.8 - 0.4) / (0.9 - 0.4))
    assert figures["controls"] == {MAJORITY: 0.4}


def test_a_protocol_without_the_head_keeps_its_hash_and_one_with_it_has_another() -> None:
    from stealing.config import instantiate_node

    standard = instantiate_node(choose().probe)
    with_head = instantiate_node(choose(PROTOCOL).probe)
    assert standard.hash == key(
        version=2,
        holdout=0.2,
        linear={
            "penalties": [1.0e-4, 3.162e-4, 1.0e-3, 3.162e-3, 1.0e-2, 3.162e-2, 1.0e-1],
            "tolerance": 1.0e-4,
            "iterations": 1000,
        },
        neighbours=20,
        temperature=0.1,
        resamples=2000,
    )
    other = replace(with_head, zero_shot=ZeroShot(["{}"]))
    assert len({standard.hash, with_head.hash, other.hash}) == 3
    assert replace(with_head, zero_shot=None).hash == standard.hash


def texts(target: ForeignTarget, *overrides: str, classes: int = 3) -> ClassTexts:
    task = Task("scene_kind", "unseen", labelled(50, classes, 1), labelled(40, classes, 2))
    config = choose(
        "experiment=debug",
        f"target={target.family}",
        f"target.name={target.name}",
        *([f"target.weights={target.weights}"] if target.weights else []),
        PROTOCOL,
        *overrides,
    )
    found = open_texts(config, [task])
    assert found is not None
    return found


NAMED = "+data.tasks.scene_kind.classes=[circle,square,rain_bow]"


def test_texts_count_by_tower_tokens_and_templates(tmp_path: Path) -> None:
    _, target = save_clip(tmp_path)
    base = texts(target, NAMED)
    assert base.vectors["scene_kind"].shape == (3, 24)
    assert texts(target, NAMED).identity == base.identity
    # What the tokenizer does not distinguish is one text.
    spaced = "+data.tasks.scene_kind.classes=[circle,Square,'rain bow']"
    assert texts(target, spaced).identity == base.identity
    others = {base.identity}
    others.add(texts(target, NAMED.replace("square", "star")).identity)
    others.add(texts(target, NAMED, "probe.zero_shot.templates=['{}']").identity)
    (tmp_path / "other").mkdir()
    _, other = save_clip(tmp_path / "other", seed=1)
    others.add(texts(other, NAMED).identity)
    assert len(others) == 4
    assert open_texts(choose(), []) is None


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ((), r"has none: set 'data\.tasks\.scene_kind\.classes="),
        (("+data.tasks.scene_kind.classes=[circle]",), "has 1 names, and the task has 3 classes"),
        ((NAMED, "probe.zero_shot.templates=[photo]"), "each with one {} for the class name"),
        ((NAMED, "probe.zero_shot.templates=[]"), "takes one prompt or more"),
    ],
)
def test_a_task_without_names_or_a_prompt_without_a_place_is_one_sentence(
    overrides: tuple[str, ...], reason: str, tmp_path: Path
) -> None:
    _, target = save_clip(tmp_path)
    with pytest.raises(ConfigError, match=reason):
        texts(target, *overrides)


def test_a_target_without_a_text_tower_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a target with a text tower: choose target=open_"):
        texts(ForeignTarget("timm", "test_vit"), NAMED)
    with pytest.raises(ConfigError, match="needs a target with a text tower"):
        open_texts(choose("target=service", PROTOCOL), [])
    save_huggingface("dinov2", tmp_path)
    with pytest.raises(ConfigError, match="has no text tower: name a folder with both towers"):
        texts(ForeignTarget("huggingface", str(tmp_path)), NAMED)


def test_a_text_tower_that_is_incomplete_or_asks_for_the_network_is_one_sentence(
    tmp_path: Path,
) -> None:
    _, target = save_clip(tmp_path)
    path = tmp_path / "clip.pt"
    content = torch.load(path)
    torch.save({**content, "text_projection": content["text_projection"] * torch.nan}, path)
    with pytest.raises(CheckpointError, match=r"text tower of .*clip\.pt has weights .* not fin"):
        load_text(target)
    weights = {name: value for name, value in content.items() if not name.startswith("ln_final")}
    torch.save(weights, path)
    with pytest.raises(CheckpointError, match=r"lacks 'ln_final\.weight'"):
        load_text(target)
    torch.save(content, path)
    for name, reason in {
        "hf_tokenizer_name": r"tokenizer of .* is not in open_clip: set target\.hub=true",
        "hf_model_name": "is a model of transformers, which is not read here",
        "width": "cannot build its text tower",
    }.items():
        config = {**TINY, "text_cfg": {**TINY["text_cfg"], name: "theirs"}}  # type: ignore[dict-item]
        (tmp_path / "tiny.json").write_text(json.dumps(config))
        with pytest.raises(ConfigError, match=reason):
            load_text(target)
    (tmp_path / "tiny.json").write_text(json.dumps(TINY_CLIP))
    torch.save({**content, "token_embedding.weight": content["token_embedding.weight"][:64]}, path)
    with pytest.raises(CheckpointError, match="has the shape"):
        load_text(target)


def test_a_tokenizer_of_another_model_is_one_sentence_and_no_code_of_a_folder_runs(
    tmp_path: Path,
) -> None:
    save_huggingface("clip", tmp_path)
    target = ForeignTarget("huggingface", str(tmp_path))
    tower = load_text(target)
    with pytest.raises(ConfigError, match="has 5 tokens and its tokenizer more"):
        replace(tower, vocabulary=5).tokens(["a circle"])
    code: dict[str, Any] = {
        "auto_map": {"AutoTokenizer": ["evil.Evil", None]},
        "tokenizer_class": "Evil",
    }
    code["pad_token"] = "[PAD]"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(code))
    (tmp_path / "evil.py").write_text("raise SystemExit(7)")
    # transformers takes its own class for this model in place of the one that the folder names.
    words = tower.tokens(["a circle"])
    assert torch.equal(load_text(target).tokens(["a circle"]), words)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot load the tokenizer of"):
        load_text(target)
