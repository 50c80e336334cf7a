"""The pairing of IPES against a loop over pixels, and its laws."""

import pytest
import torch
from conftest import ROOT, choose, dice

from stealing.attacks.perturbing import ViewAndPerturbed
from stealing.config import instantiate_node
from stealing.data.sampling import generator
from stealing.data.views import Views
from stealing.errors import ConfigError

IMAGES = torch.rand(5, 3, 8, 8, generator=generator("ipes"))
ROWS = torch.tensor([4, 9, 0, 2, 7])


@pytest.mark.parametrize("cells", [1, 4, 8])
def test_half_of_the_samples_are_views_and_half_are_the_image_with_noise_in_squares(
    cells: int,
) -> None:
    views = Views(crop=(0.5, 1.0))
    pairing = ViewAndPerturbed(views, 0.25, cells)
    [(weight, samples, rows)] = pairing(IMAGES, ROWS, dice(5, 3))
    assert weight == 1 and torch.equal(rows, ROWS)
    assert len(samples) == pairing.passes * len(ROWS)
    thrown = dice(5, 3)
    assert torch.equal(samples[:5], views(IMAGES, thrown))
    numbers = thrown.uniform(3 * cells**2)
    side = 8 // cells
    for image in range(5):
        for channel in range(3):
            for y in range(8):
                for x in range(8):
                    place = (channel * cells + y // side) * cells + x // side
                    noise = 0.25 * (2 * float(numbers[image, place]) - 1)
                    expected = float(IMAGES[image, channel, y, x]) + noise
                    found = float(samples[5 + image, channel, y, x])
                    assert found == pytest.approx(min(1, max(0, expected)), abs=1e-6)


def test_noise_stays_within_its_radius_fills_it_and_is_other_noise_for_each_image() -> None:
    grey = torch.full((400, 3, 4, 4), 0.5)
    [(_, samples, _)] = ViewAndPerturbed(Views(), 0.1, 2)(grey, torch.arange(400), dice(400, 1))
    change = samples[400:] - grey
    assert float(change.abs().max()) == pytest.approx(0.1, abs=1e-3)
    assert float(change.mean()) == pytest.approx(0, abs=0.005)
    assert float(change.std()) == pytest.approx(0.2 / 12**0.5, rel=0.05), "uniform"
    assert len(change.flatten(1).unique(dim=0)) == 400


def test_without_a_radius_the_raw_image_is_seen_and_images_may_have_any_shape() -> None:
    wide = torch.rand(2, 3, 5, 9, generator=generator("wide"))
    [(_, samples, _)] = ViewAndPerturbed(Views(), 0.0, 4)(wide, torch.arange(2), dice(2, 1))
    assert torch.equal(samples[2:], wide)


@pytest.mark.parametrize(
    ("radius", "cells", "setting"),
    [(1.1, 4, "radius"), (-0.1, 4, "radius"), (0.1, 0, "cells"), (0.1, 65, "cells")],
)
def test_a_number_out_of_range_is_one_sentence(radius: float, cells: int, setting: str) -> None:
    with pytest.raises(ConfigError, match=rf"attack\.pairing\.{setting}"):
        ViewAndPerturbed(Views(), radius, cells)


def test_the_preset_asks_once_and_pushes_as_many_images_as_stolen_encoder() -> None:
    config = choose("attack=ipes")
    other = choose("attack=stolen_encoder")
    assert config.plan == other.plan, "one query an image"
    pushed = list[int]()
    for attack in (config.attack, other.attack):
        passes = instantiate_node(attack.pairing).passes
        pushed.append(attack.steps * attack.batch_size * passes)
    assert pushed[0] == pushed[1]
    header = (ROOT / "conf" / "attack" / "ipes.yaml").read_text()
    assert "Our reading" in header
