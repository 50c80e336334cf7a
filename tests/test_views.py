"""Views: each operation against torchvision's, parameters against the stated distributions."""

import math

import numpy as np
import pytest
import torch
from conftest import dice
from PIL import Image, ImageOps
from scipy.ndimage import gaussian_filter
from scipy.stats import kstest
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as reference

from stealing.data import colours
from stealing.data.sampling import BatchRandom, generator
from stealing.data.views import ViewParameters, Views, quantised

IMAGES = torch.rand(6, 3, 16, 16, generator=generator("test images"))


def parameters(count: int = 6, **changes: torch.Tensor) -> ViewParameters:
    nothing = ViewParameters(
        torch.tensor([[0, 0, 16, 16]]).repeat(count, 1),
        torch.zeros(count, dtype=torch.bool),
        torch.tensor([[1.0, 1.0, 1.0, 0.0]]).repeat(count, 1),
        torch.ones(count, dtype=torch.bool),
        torch.zeros(count, dtype=torch.bool),
        torch.zeros(count),
        torch.zeros(count, dtype=torch.bool),
    )
    return nothing._replace(**changes)


@pytest.mark.parametrize("factor", [0.6, 1.0, 1.4])
@pytest.mark.parametrize("place", range(3))
def test_brightness_contrast_and_saturation_equal_torchvision(place: int, factor: float) -> None:
    colour = torch.tensor([[1.0, 1.0, 1.0, 0.0]]).repeat(6, 1)
    colour[:, place] = factor
    adjust = (reference.adjust_brightness, reference.adjust_contrast, reference.adjust_saturation)[
        place
    ]
    torch.testing.assert_close(
        Views().apply(IMAGES, parameters(colour_B4=colour)),
        adjust(IMAGES, factor),
        atol=2e-4,
        rtol=0,
    )


@pytest.mark.parametrize(
    "colour",
    [
        (1.9, 0.4, 1.0, 0.0),  # brightness leaves the range and contrast would bring it back
        (1.0, 1.9, 0.4, 0.0),  # contrast leaves it, saturation would bring it back
        (0.5, 1.8, 1.9, 0.2),
        (1.6, 1.6, 0.2, -0.4),
    ],
)
def test_each_colour_operation_ends_in_range_before_the_next_as_in_torchvision(
    colour: tuple[float, float, float, float],
) -> None:
    expected = reference.adjust_brightness(IMAGES, colour[0])
    expected = reference.adjust_contrast(expected, colour[1])
    expected = reference.adjust_saturation(expected, colour[2])
    expected = reference.adjust_hue(expected, colour[3])
    jittered = Views().apply(IMAGES, parameters(colour_B4=torch.tensor([colour]).repeat(6, 1)))
    torch.testing.assert_close(jittered, expected, atol=1e-3, rtol=0)


def test_colours_change_on_the_chosen_rows_only() -> None:
    chosen = torch.tensor([True, False] * 3)
    colour = torch.tensor([[0.7, 1.2, 1.3, 0.1]]).repeat(6, 1)
    view = Views().apply(IMAGES, parameters(colour_B4=colour, jittered_B=chosen))
    assert torch.equal(view[~chosen], IMAGES[~chosen])
    assert (view[chosen] - IMAGES[chosen]).abs().amax((1, 2, 3)).min() > 0.1


def plain_jitter(images: torch.Tensor, colour: torch.Tensor) -> torch.Tensor:
    """The same operations as one writes them first: a new tensor each, cases by `where`."""
    brightness, contrast, saturation, hue = colour[:, :, None, None, None].unbind(1)
    images = (images * brightness).clamp(0, 1)
    mean = plain_grey(images).mean((2, 3), keepdim=True)
    images = (images * contrast + mean * (1 - contrast)).clamp(0, 1)
    images = (images * saturation + plain_grey(images) * (1 - saturation)).clamp(0, 1)
    value = images.amax(1)
    chroma = value - images.amin(1)
    safe = torch.where(chroma > 0, chroma, torch.ones_like(chroma))
    red, green, blue = images.unbind(1)
    or_blue = torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe)
    sector = torch.where(value == red, (green - blue) / safe, or_blue) + 6 * hue[:, 0]
    k = (torch.tensor([5.0, 3.0, 1.0])[:, None, None] + sector[:, None]) % 6
    return value[:, None] - chroma[:, None] * torch.minimum(k, 4 - k).clamp(0, 1)


def plain_grey(images: torch.Tensor) -> torch.Tensor:
    return (images * torch.tensor([0.2989, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)


@pytest.mark.parametrize("devices", [{"cpu"}, set()], ids=["rows", "as_on_a_gpu"])
@pytest.mark.parametrize(
    ("count", "size", "strength"), [(64, 32, 0.1), (64, 32, 1.0), (2, 200, 0.4)]
)
def test_views_have_the_bits_of_the_plain_operations(
    count: int, size: int, strength: float, devices: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stored figures rest on them: an image that is sent is found by its pixels."""
    monkeypatch.setattr(colours, "CHOOSES_ROWS", devices)
    source = generator("bits", size)
    images = torch.randint(0, 256, (count, 3, size, size), generator=source) / 255
    images[:, :, : size // 2] = (4 * images[:, :, : size // 2]).floor() / 4  # equal channels
    views = Views(jitter=(strength,) * 4, jitter_probability=0.5)
    for _ in range(6):
        drawn = views.draw(BatchRandom(source, count, slice(None)), size, size)
        expected = torch.where(drawn.flip_B[:, None, None, None], images.flip(3), images)
        jittered = plain_jitter(expected, drawn.colour_B4)
        expected = torch.where(drawn.jittered_B[:, None, None, None], jittered, expected)
        expected = torch.where(drawn.grey_B[:, None, None, None], plain_grey(expected), expected)
        assert torch.equal(views.apply(images, drawn), expected)


@pytest.mark.parametrize("turn", [-0.1, 0.0, 0.05, 0.5])
def test_hue_equals_torchvision(turn: float) -> None:
    colour = torch.tensor([[1.0, 1.0, 1.0, turn]]).repeat(6, 1)
    torch.testing.assert_close(
        Views().apply(IMAGES, parameters(colour_B4=colour)),
        reference.adjust_hue(IMAGES, turn),
        atol=1e-4,
        rtol=0,
    )


def test_flip_and_grey_equal_torchvision_on_the_chosen_rows_only() -> None:
    chosen = torch.tensor([True, False] * 3)
    flipped = Views().apply(IMAGES, parameters(flip_B=chosen))
    torch.testing.assert_close(
        flipped, torch.where(chosen[:, None, None, None], IMAGES.flip(3), IMAGES)
    )
    grey = Views().apply(IMAGES, parameters(grey_B=chosen))
    torch.testing.assert_close(
        grey[chosen], reference.rgb_to_grayscale(IMAGES[chosen], 3), atol=2e-4, rtol=0
    )


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (12, 20)])
def test_a_crop_equals_torchvisions_resized_crop_on_every_pixel(
    height: int, width: int, antialias: bool
) -> None:
    images = torch.rand(40, 3, height, width, generator=generator("crops"))
    views = Views(crop=(0.1, 1.0), jitter_probability=0, grey=0)
    drawn = views.draw(dice(40, "boxes"), height, width)
    assert 10 <= int(drawn.flip_B.sum()) <= 30
    expected = []
    for image, box, flipped in zip(
        images, drawn.box_B4.tolist(), drawn.flip_B.tolist(), strict=True
    ):
        left, top, across, down = box
        crop = reference.resized_crop(
            image, top, left, down, across, [height, width], antialias=antialias
        )
        expected.append(crop.flip(2) if flipped else crop)
    torch.testing.assert_close(views.apply(images, drawn), torch.stack(expected), atol=1e-5, rtol=0)


def test_views_stay_in_range_and_a_row_does_not_see_its_neighbours() -> None:
    views = Views(crop=(0.2, 1.0))
    drawn = views.draw(dice(6, "rows"), 16, 16)
    whole = views.apply(IMAGES, drawn)
    assert whole.min() >= 0 and whole.max() <= 1
    alone = views.apply(IMAGES[2:3], ViewParameters(*(part[2:3] for part in drawn)))
    torch.testing.assert_close(whole[2:3], alone)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (12, 20)])
def test_views_of_a_batch_are_drawn_for_its_own_height_and_width(height: int, width: int) -> None:
    images = torch.rand(6, 3, height, width, generator=generator("sizes"))
    views = Views(crop=(0.2, 0.9))
    drawn = views.draw(dice(6, "sizes"), height, width)
    assert torch.equal(views(images, dice(6, "sizes")), views.apply(images, drawn))
    assert int(drawn.box_B4[:, 2:].max()) > 6, "wider than the batch is long"


def test_autocast_changes_no_view() -> None:
    images = torch.rand(32, 3, 32, 32, generator=generator("autocast"))
    views = Views(crop=(0.2, 1.0))
    expected = views(images, dice(32, "autocast"))
    with torch.autocast("cpu", torch.bfloat16):
        view = views(images, dice(32, "autocast"))
    assert view.dtype == torch.float32
    torch.testing.assert_close(view, expected, atol=1e-6, rtol=0)


def test_draws_are_a_function_of_the_dice_and_a_share_of_the_rows_gets_its_own() -> None:
    views = Views(crop=(0.2, 1.0), blur=0.5, solarise=0.5)
    drawn = views.draw(dice(64, "many"), 32, 32)
    again = views.draw(dice(64, "many"), 32, 32)
    share = views.draw(BatchRandom(generator("many"), 64, slice(16, 48)), 32, 32)
    other = views.draw(dice(64, "others"), 32, 32)
    for name in ViewParameters._fields:
        assert torch.equal(getattr(drawn, name), getattr(again, name)), name
        assert torch.equal(getattr(drawn, name)[16:48], getattr(share, name)), name
        assert not torch.equal(getattr(drawn, name), getattr(other, name)), name


def torchvisions(crop: tuple[float, float], height: int, width: int, count: int) -> torch.Tensor:
    """Boxes (count, 4) as ours, left, top, width, height, by torchvision's own method."""
    image = torch.zeros(3, height, width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        drawn = [
            RandomResizedCrop.get_params(image, list(crop), [3 / 4, 4 / 3]) for _ in range(count)
        ]
    top, left, down, across = torch.tensor(drawn).unbind(1)
    return torch.stack([left, top, across, down], 1)


def described(box: torch.Tensor, height: int, width: int) -> dict[str, torch.Tensor]:
    left, top, across, down = box.double().unbind(1)
    return {
        "left": left,
        "top": top,
        "right": width - left - across,
        "bottom": height - top - down,
        "width": across,
        "height": down,
        "area": across * down,
        "ratio": across / down,
    }


@pytest.mark.parametrize(
    ("crop", "height", "width"),
    [
        ((0.2, 1.0), 32, 32),
        ((0.6, 1.0), 32, 32),
        ((0.08, 1.0), 96, 96),
        ((0.9, 1.0), 7, 7),  # some boxes never fit
        ((0.5, 1.0), 12, 30),
        ((0.5, 1.0), 30, 12),
    ],
)
def test_crops_have_the_distribution_of_random_resized_crop(
    crop: tuple[float, float], height: int, width: int
) -> None:
    expected = described(torchvisions(crop, height, width, 4000), height, width)
    boxes = Views(crop=crop).draw(dice(100_000, "crops"), height, width).box_B4
    assert boxes.dtype == torch.int64  # whole pixels
    drawn = described(boxes, height, width)
    area = height * width
    assert float(drawn["area"].mean()) / area == pytest.approx(
        float(expected["area"].mean()) / area, abs=0.01
    )
    full = float((drawn["width"] == width).double().mean())
    assert full == pytest.approx(float((expected["width"] == width).double().mean()), abs=0.02)
    for name, values in drawn.items():
        distance = kstest(values.numpy(), expected[name].numpy()).statistic
        assert distance < 0.03, name  # 0.031 is the 0.1 % point of equal distributions
    assert min(float(drawn[name].min()) for name in ("left", "top", "right", "bottom")) == 0


@pytest.mark.parametrize(
    ("crop", "area", "full"), [((0.2, 1.0), 0.550, 0.039), ((0.6, 1.0), 0.756, 0.092)]
)
def test_crops_of_32_pixels_keep_the_share_of_the_area_that_torchvisions_keep(
    crop: tuple[float, float], area: float, full: float
) -> None:
    """Figures: 20,000 draws of torchvision's `get_params`; clamped boxes give 0.593 and 0.786."""
    box = Views(crop=crop).draw(dice(100_000, "area"), 32, 32).box_B4
    assert float((box[:, 2] * box[:, 3]).double().mean()) / 1024 == pytest.approx(area, abs=0.003)
    assert float((box[:, 2] == 32).double().mean()) == pytest.approx(full, abs=0.005)


COUNT = 40_000
JITTER = (0.4, 0.3, 0.2, 0.1)


def many() -> ViewParameters:
    views = Views(crop=(0.2, 1.0), flip=0.5, jitter=JITTER, jitter_probability=0.8, grey=0.2)
    return views.draw(dice(COUNT, "independent"), 32, 32)


@pytest.mark.parametrize("place", range(4))
def test_colour_factors_are_uniform_around_no_change(place: int) -> None:
    values = many().colour_B4[:, place].double().numpy()
    middle = (1, 1, 1, 0)[place]
    strength = JITTER[place]
    assert kstest(
        values, "uniform", args=(middle - strength, 2 * strength)
    ).statistic < 1.95 / math.sqrt(COUNT)


@pytest.mark.parametrize(
    ("name", "probability"), [("flip_B", 0.5), ("jittered_B", 0.8), ("grey_B", 0.2)]
)
def test_flip_jitter_and_grey_have_their_probabilities(name: str, probability: float) -> None:
    share = float(getattr(many(), name).double().mean())
    assert share == pytest.approx(
        probability, abs=3.3 * math.sqrt(probability * (1 - probability) / COUNT)
    )


def test_all_parameters_of_a_view_are_independent_of_each_other() -> None:
    drawn = many()
    left, top, across, down = drawn.box_B4.double().unbind(1)
    columns = [
        (left + 0.5) / (33 - across),  # the place within the room that the size leaves
        (top + 0.5) / (33 - down),
        across * down,
        (across / down).log(),
        drawn.flip_B.double(),
        drawn.jittered_B.double(),
        drawn.grey_B.double(),
        *drawn.colour_B4.double().unbind(1),
    ]
    values = torch.stack(columns)
    distances = (values - values.mean(1, keepdim=True)).abs()
    for rows in (
        values,
        torch.cat([values[:3], distances[4:]]),
    ):  # ratios are rarer far out for a large area
        correlation = torch.corrcoef(rows).fill_diagonal_(0)
        assert correlation.abs().max() < 4.5 / math.sqrt(COUNT)


def test_rows_are_drawn_independently_of_each_other() -> None:
    drawn = many()
    columns = torch.cat([drawn.box_B4.double(), drawn.colour_B4.double()], 1).T
    for column in columns:
        neighbours = torch.corrcoef(torch.stack([column[:-1], column[1:]]))[0, 1]
        assert abs(float(neighbours)) < 4.5 / math.sqrt(COUNT)


def test_a_blur_equals_scipys_and_an_unblurred_view_keeps_its_bits() -> None:
    views = Views(blur=0.5)
    sigma = torch.tensor([0.1, 0.5, 1.0, 2.0, 0.0, 1.5])
    seen = views.apply(IMAGES, parameters(sigma_B=sigma, jittered_B=torch.zeros(6).bool()))
    for image, blurred, width in zip(IMAGES, seen, sigma.tolist(), strict=True):
        if width == 0:
            assert torch.equal(image, blurred)
            continue
        expected = gaussian_filter(
            image.double().numpy(), (0, width, width), mode="nearest", radius=(0, 6, 6)
        )
        torch.testing.assert_close(blurred.double(), torch.from_numpy(expected), atol=1e-6, rtol=0)


def test_a_solarised_view_equals_pils() -> None:
    values = torch.arange(256).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    chosen = parameters(1, solarised_B=torch.ones(1).bool(), jittered_B=torch.zeros(1).bool())
    seen = quantised(Views(solarise=0.1).apply(values.float() / 255, chosen))
    pixels = np.asarray(ImageOps.solarize(Image.fromarray(values[0, 0].byte().numpy())))
    assert seen[0, 0].tolist() == pixels.tolist()


def test_square_crops_blurs_and_solarisation_have_their_distributions() -> None:
    views = Views(crop=(0.9, 0.9), widest=1.0, blur=0.1, solarise=0.2)
    drawn = views.draw(dice(20_000, "strong"), 32, 32)
    assert drawn.box_B4[:, 2:].unique().tolist() == [30], "the square root of 0.9, of 32 pixels"
    blurred = drawn.sigma_B > 0
    assert float(blurred.float().mean()) == pytest.approx(0.1, abs=0.01)
    assert kstest(drawn.sigma_B[blurred].numpy(), "uniform", (0.1, 1.9)).pvalue > 1e-3
    assert float(drawn.solarised_B.float().mean()) == pytest.approx(0.2, abs=0.01)
    plain = Views(crop=(0.9, 0.9)).draw(dice(20_000, "strong"), 32, 32)
    assert torch.equal(plain.colour_B4, drawn.colour_B4), "without them, no number more is drawn"
    assert not plain.sigma_B.any() and not plain.solarised_B.any()
