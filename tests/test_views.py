"""Views: each operation against torchvision's, rows independent of each other."""

import pytest
import torch
from conftest import dice
from torchvision.transforms.v2 import functional as reference

from stealing.data.draws import generator
from stealing.data.views import ViewParameters, Views

IMAGES = torch.rand(6, 3, 16, 16, generator=generator("test images"))


def parameters(count: int = 6, **changes: torch.Tensor) -> ViewParameters:
    nothing = ViewParameters(
        torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(count, 1),
        torch.zeros(count, dtype=torch.bool),
        torch.tensor([[1.0, 1.0, 1.0, 0.0]]).repeat(count, 1),
        torch.ones(count, dtype=torch.bool),
        torch.zeros(count, dtype=torch.bool),
    )
    return nothing._replace(**changes)


@pytest.mark.parametrize("factor", [0.6, 1.0, 1.4])
@pytest.mark.parametrize("place", range(3))
def test_brightness_contrast_and_saturation_equal_torchvision(place: int, factor: float) -> None:
    colour = torch.tensor([[1.0, 1.0, 1.0, 0.0]]).repeat(6, 1)
    colour[:, place] = factor
    adjust = (reference.adjust_brightness, reference.adjust_contrast, reference.adjust_saturation)[place]
    torch.testing.assert_close(
        Views().apply(IMAGES, parameters(colour_B4=colour)), adjust(IMAGES, factor), atol=2e-4, rtol=0
    )


@pytest.mark.parametrize("turn", [-0.1, 0.0, 0.05, 0.5])
def test_hue_equals_torchvision(turn: float) -> None:
    colour = torch.tensor([[1.0, 1.0, 1.0, turn]]).repeat(6, 1)
    torch.testing.assert_close(
        Views().apply(IMAGES, parameters(colour_B4=colour)), reference.adjust_hue(IMAGES, turn), atol=1e-4, rtol=0
    )


def test_flip_and_grey_equal_torchvision_on_the_chosen_rows_only() -> None:
    chosen = torch.tensor([True, False] * 3)
    flipped = Views().apply(IMAGES, parameters(flip_B=chosen))
    torch.testing.assert_close(flipped, torch.where(chosen[:, None, None, None], IMAGES.flip(3), IMAGES))
    grey = Views().apply(IMAGES, parameters(grey_B=chosen))
    torch.testing.assert_close(grey[chosen], reference.rgb_to_grayscale(IMAGES[chosen], 3), atol=2e-4, rtol=0)


def test_a_crop_is_torchvisions_resized_crop_where_it_falls_on_pixels() -> None:
    box = torch.tensor([[0.25, 0.5, 0.5, 0.5]]).repeat(6, 1)
    view = Views(crop=(0.2, 1.0)).apply(IMAGES, parameters(box_B4=box))
    expected = reference.resized_crop(IMAGES, 8, 4, 8, 8, [16, 16], antialias=False)
    torch.testing.assert_close(
        view[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], atol=1e-4, rtol=0
    )  # edges see beyond the crop


def test_views_stay_in_range_and_a_row_does_not_see_its_neighbours() -> None:
    views = Views(crop=(0.2, 1.0))
    drawn = views.draw(dice(6, "rows"))
    whole = views.apply(IMAGES, drawn)
    assert whole.min() >= 0 and whole.max() <= 1
    alone = views.apply(IMAGES[2:3], ViewParameters(*(part[2:3] for part in drawn)))
    torch.testing.assert_close(whole[2:3], alone)


def test_draws_follow_the_stated_distribution_and_the_generator_alone() -> None:
    views = Views(crop=(0.2, 1.0))
    drawn, again = views.draw(dice(20000, "many")), views.draw(dice(20000, "many"))
    assert all(torch.equal(a, b) for a, b in zip(drawn, again, strict=True))
    area = drawn.box_B4[:, 2] * drawn.box_B4[:, 3]
    assert area.min() > 0.18 and area.max() <= 1 and abs(float(drawn.flip_B.float().mean()) - 0.5) < 0.02
    assert (
        abs(float(drawn.jittered_B.float().mean()) - 0.8) < 0.02
        and abs(float(drawn.grey_B.float().mean()) - 0.2) < 0.02
    )
    assert (drawn.box_B4[:, :2] >= 0).all() and (drawn.box_B4[:, :2] + drawn.box_B4[:, 2:] <= 1 + 1e-6).all()
    assert drawn.colour_B4[:, :3].min() >= 0.6 and drawn.colour_B4[:, 3].abs().max() <= 0.1
