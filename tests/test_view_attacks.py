"""Published attacks on views: six steps of their presets against plain loops."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import choose, dice
from test_asked_views import STRONG, Door, bought, features_of
from test_surrogate import ARCH, PLAIN
from test_view_losses import nt_xent_loop, rda_loop
from torch import Tensor, nn

from stealing.attacks.steal import BoughtAnswers, steal_encoder
from stealing.attacks.surrogate import build_adapter
from stealing.attacks.view_plan import ViewPlan
from stealing.config import to_dict
from stealing.data.sampling import generator
from stealing.data.views import Views
from stealing.encoders import build_encoder
from stealing.seeds import owner_seed, weights_seed
from stealing.training.fit import Recorder

PLAN = ViewPlan(2, STRONG)
OWN = owner_seed(5, "surrogate")


def through_the_framework(name: str, folder: Path) -> nn.ModuleDict:
    images, features = bought(PLAN, Door())
    attack = to_dict(choose(f"attack={name}").attack) | {"batch_size": 4, "epochs": 2}
    call: dict[str, Any] = {
        "answers": BoughtAnswers(images, features, "bank", views=PLAN.asked_views(images, 7)),
        "arch": ARCH,
        "attack": attack,
        "seed": 5,
        "start": 11,
        "root": folder,
        "settings": PLAIN,
        "recorder": Recorder(),
    }
    encoder, adapter, *_ = steal_encoder(**call)
    return nn.ModuleDict({"encoder": encoder, "adapter": adapter})


def network() -> nn.ModuleDict:
    adapter = build_adapter(24, 5, weights_seed(5, "surrogate", "adapter"))
    return nn.ModuleDict({"encoder": build_encoder(ARCH, 11).train(), "adapter": adapter})


def features(both: nn.ModuleDict, images: Tensor) -> Tensor:
    given: Tensor = both["adapter"](both["encoder"](images))
    return given.double()


def cont_steal_step(
    both: nn.ModuleDict, raw: Tensor, sent: Tensor, epoch: int, place: int
) -> Tensor:
    """The view of this epoch goes to the target and to the surrogate: Cont-Steal at 49233dd."""
    view = sent[:, epoch]
    return nt_xent_loop(features(both, view.float() / 255), features_of(view).double(), 0.5)


def rda_step(both: nn.ModuleDict, raw: Tensor, sent: Tensor, epoch: int, place: int) -> Tensor:
    """Five views in one pass, the mean of five losses against prototypes: RDA at 85e285b."""
    views = Views(
        crop=(0.75, 0.75),
        flip=0.5,
        jitter=(0.4, 0.4, 0.4, 0.2),
        jitter_probability=0.8,
        grey=0.2,
        widest=1.0,
        blur=0.1,
        solarise=0.1,
    )
    random = dice(4, OWN, "views", epoch, place)
    seen = features(both, torch.cat([views(raw, random) for _ in range(5)]))
    answers = torch.stack([features_of(image) for image in sent]).double()
    return torch.stack([rda_loop(part, answers, 0.07) for part in seen.split(4)]).mean()


@pytest.mark.parametrize(
    ("name", "step_loss", "settings"),
    [
        ("cont_steal_paper", cont_steal_step, {"lr": 3e-4}),
        ("rda_paper", rda_step, {"lr": 1e-3, "weight_decay": 1e-4}),
    ],
)
def test_a_published_recipe_on_views_equals_a_plain_loop(
    name: str, step_loss: Any, settings: dict[str, float], tmp_path: Path
) -> None:
    door = Door()
    images, _ = bought(PLAN, door)
    [sent] = door.asked
    raw = images.batch(slice(None)).float() / 255
    both = network()
    optimizer = torch.optim.Adam(both.parameters(), **settings)  # type: ignore[arg-type]
    for step in range(6):
        epoch, place = divmod(step, 3)
        order = torch.randperm(12, generator=generator(OWN, "order", epoch))
        rows = order[place * 4 : place * 4 + 4]
        shown = sent.view(12, 2, *sent.shape[1:])[rows]
        optimizer.zero_grad()
        step_loss(both, raw[rows], shown, epoch, place).backward()
        optimizer.step()
    ours = through_the_framework(name, tmp_path).state_dict()
    start = network().state_dict()
    for key, expected in both.state_dict().items():
        distance = float((ours[key] - expected).abs().max())
        moved = float((start[key] - expected).abs().max())
        assert distance <= 0.01 * moved, key
