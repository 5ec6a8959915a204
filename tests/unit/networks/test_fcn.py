"""Fully convolutional networks: sizes, receptive fields and upsampling."""

import pytest
import torch

from assay.detectors.training.loop import member_streams
from assay.networks.fcn import FullyConvolutional, blocks_for, field_of, upsampled
from assay.networks.mlp import initialise


def network(shape: tuple[int, int], channels: tuple[int, ...] = (3,), members: int = 2) -> FullyConvolutional:
    made = FullyConvolutional(members, shape, channels)
    initialise(made, member_streams(0, members))
    return made.double().eval()


def test_with_128_channels_it_is_the_network_of_the_thesis() -> None:
    made = FullyConvolutional(1, (28, 28), (128, 128))
    assert made(torch.zeros(1, 2, 784)).shape == (1, 2, 7, 7)
    without_scale_and_shift = 413_441 - 256
    assert sum(parameter.numel() for parameter in made.parameters()) == without_scale_and_shift
    assert (made.field.size, made.field.jump) == (16, 4)


@pytest.mark.parametrize(("side", "blocks", "size", "jump"), [(8, 1, 6, 2), (28, 2, 16, 4), (64, 3, 36, 8)])
def test_an_output_sees_exactly_its_receptive_field(side: int, blocks: int, size: int, jump: int) -> None:
    made, field = network((side, side)), field_of(blocks)
    assert blocks_for((side, side)) == blocks
    assert (field.size, field.jump) == (size, jump)
    torch.manual_seed(0)
    u = side // jump // 2
    seen = torch.zeros(side, side, dtype=torch.bool)
    for _ in range(30):  # a maximum passes on one gradient of four
        image = torch.rand(2, 1, side * side, dtype=torch.float64, requires_grad=True)
        made(image)[:, 0, u, u].sum().backward()
        seen |= image.grad.reshape(2, side, side).abs().sum(dim=0) > 0
    lines = torch.nonzero(seen.any(dim=1)).flatten()
    first = round(field.start + jump * u - (size - 1) / 2)
    assert lines.min() >= max(first, 0)
    assert lines.max() <= min(first + size - 1, side - 1)
    assert lines.max() - lines.min() + 1 >= min(0.8 * size, side - first)


def test_depth_follows_the_smaller_side() -> None:
    assert [blocks_for((side, 300)) for side in (1, 15, 16, 28, 55, 56, 128, 167, 168, 224)] == [
        *(1, 1, 2, 2, 2),
        *(3, 3, 3, 4, 4),
    ]
    assert (field_of(3).size, field_of(4).size, field_of(4).jump) == (36, 76, 16)


@pytest.mark.parametrize("shape", [(5, 7), (1, 5), (30, 17), (56, 61)])
def test_sides_need_not_be_multiples(shape: tuple[int, int]) -> None:
    made = network(shape)
    jump = made.field.jump
    maps = made(torch.rand(2, 3, shape[0] * shape[1], dtype=torch.float64))
    assert maps.shape == (2, 3, -(-shape[0] // jump), -(-shape[1] // jump))
    assert upsampled(maps[0], made.field, shape, 1.2).shape == (3, *shape)


def test_an_output_is_spread_by_a_gaussian_around_the_centre_of_its_field() -> None:
    field, std = field_of(2), 1.5
    maps = torch.zeros(1, 7, 7, dtype=torch.float64)
    maps[0, 2, 5] = 3.0
    spread = upsampled(maps, field, (28, 28), std)[0]
    down, right = torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij")
    squared = (down - (1.5 + 4 * 2)) ** 2 + (right - (1.5 + 4 * 5)) ** 2
    expected = 3.0 * torch.exp(-squared.double() / (2 * std**2)) / (2 * torch.pi * std**2)
    near = squared.sqrt() < 7
    torch.testing.assert_close(spread[near], expected[near])
    assert spread[~near].max() < 1e-4
    assert float(spread.sum()) == pytest.approx(3.0, rel=1e-3)
