"""Random numbers by key, and the order of batches by seed, epoch and the trainer's counters."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from stealing.data.images import Images
from stealing.data.sampling import (
    BatchIndices,
    BatchRandom,
    ResumableBatchSampler,
    TrainingImages,
    generator,
)

PIXELS = np.random.default_rng(0).integers(0, 256, (23, 3, 2, 2), dtype=np.uint8)
IMAGES = Images("noise", PIXELS, None, 0, np.arange(23)[::-1].copy(), "noise")


def trainer(done: int = 0, accumulate: int = 1, world: int = 1, rank: int = 0) -> Any:
    """Where a fit stands after as many batches."""
    loop = SimpleNamespace(total_batch_idx=done - 1)
    return SimpleNamespace(
        accumulate_grad_batches=accumulate,
        fit_loop=loop,
        world_size=world,
        global_rank=rank,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )


def test_a_generator_is_a_function_of_each_part_of_its_key_and_of_their_types_and_borders() -> None:
    keys: list[tuple[int | str, ...]] = [
        ("a",),
        ("b",),
        (1,),
        ("1",),
        (1, 2),
        (2, 1),
        (12,),
        ("1/int:2",),
        (),
    ]
    first = [torch.rand(3, generator=generator(*key)).tolist() for key in keys]
    assert first == [torch.rand(3, generator=generator(*key)).tolist() for key in keys]
    assert len({tuple(numbers) for numbers in first}) == len(keys)
    assert generator("a").initial_seed() >= 0


def test_dice_of_a_part_show_the_numbers_that_the_whole_batch_would() -> None:
    whole, part = (BatchRandom(generator("dice"), 10, rows) for rows in (slice(None), slice(4, 7)))
    for columns in (3, 1):
        numbers = whole.uniform(columns)
        assert numbers.shape == (10, columns) and numbers.dtype == torch.float32
        assert torch.equal(part.uniform(columns), numbers[4:7])
    draw = BatchIndices(2, 5, 4, 10, torch.arange(3), 9)
    expected = torch.rand(10, 2, generator=generator(9, "views", 2, 5))[4:7]
    assert torch.equal(draw.random(9).uniform(2), expected)


@pytest.mark.parametrize("done", [0, 2, 5, 7, 12])
def test_a_sampler_goes_on_where_the_counters_stand(done: int) -> None:
    epoch, first = divmod(done, 5)
    draws = list(ResumableBatchSampler(trainer(done), 23, 4, 8))
    assert [(draw.epoch, draw.step) for draw in draws] == [
        (epoch, step) for step in range(first, 5)
    ]
    order = torch.randperm(23, generator=generator(8, "order", epoch))
    assert torch.equal(torch.cat([draw.indices for draw in draws]), order[4 * first : 20])
    assert all((draw.first, draw.total) == (0, 4) for draw in draws)


@pytest.mark.parametrize(("accumulate", "length"), [(1, 5), (2, 4), (3, 3), (5, 5)])
def test_an_epoch_holds_whole_batches_and_whole_accumulations_alone(
    accumulate: int, length: int
) -> None:
    draws = ResumableBatchSampler(trainer(accumulate=accumulate), 23, 4, 8)
    assert len(draws) == len(list(draws)) == length


def test_processes_share_each_batch_in_equal_parts() -> None:
    alone = list(ResumableBatchSampler(trainer(), 23, 6, 8))
    parts = [
        list(ResumableBatchSampler(trainer(world=3, rank=rank), 23, 6, 8)) for rank in range(3)
    ]
    for whole, *shares in zip(alone, *parts, strict=True):
        assert torch.equal(torch.cat([share.indices for share in shares]), whole.indices)
        assert [(share.first, share.total, len(share.indices)) for share in shares] == [
            (0, 6, 2),
            (2, 6, 2),
            (4, 6, 2),
        ]


def test_batches_are_the_images_that_were_drawn_and_nothing_is_drawn_before_the_first() -> None:
    module = TrainingImages(IMAGES, 4, 8)
    module.trainer = trainer()
    loader = module.train_dataloader()
    batches = iter(loader)
    module.trainer.fit_loop.total_batch_idx = 2  # Lightning restores its counters only now
    batch = next(batches)
    assert (batch.draw.epoch, batch.draw.step) == (0, 3)
    assert torch.equal(batch.images, torch.from_numpy(PIXELS[::-1].copy())[batch.draw.indices])
    assert len(list(batches)) == 1 and loader.state_dict() == {} and len(loader) == 5
    assert loader.load_state_dict({}) is None
    assert torch.equal(loader.dataset[batch.draw].images, batch.images)
