"""Confetti: blurred squares on grey images."""

import torch

from assay.detectors.training.confetti import COLOUR_DRAWS, DRAWS, confetti

LOW, HIGH = torch.tensor(0.0), torch.tensor(1.0)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, DRAWS, generator=torch.Generator().manual_seed(seed))


def test_the_draws_alone_decide() -> None:
    images = torch.rand(2, 40, 28, 28, generator=torch.Generator().manual_seed(1))
    before = images.clone()
    made = confetti(images, drawn(2, 40), LOW, HIGH)
    assert torch.equal(images, before)
    assert torch.equal(made, confetti(images, drawn(2, 40), LOW, HIGH))
    assert torch.equal(made[:, :7], confetti(images[:, :7], drawn(2, 40)[:, :7], LOW, HIGH))
    assert not torch.equal(made, confetti(images, drawn(2, 40, seed=2), LOW, HIGH))


def test_a_part_of_each_image_changes_visibly_and_stays_in_the_range() -> None:
    for level in (0.0, 0.4, 1.0):
        images = torch.full((500, 28, 28), level)
        changed = (confetti(images, drawn(500), LOW, HIGH) - images).abs()
        inside = changed.flatten(1)
        assert (inside.max(dim=1).values > 0.05).float().mean() > 0.98  # squares of a pixel at a corner are faint
        assert 0.01 < (inside > 0.01).float().mean() < 0.2
        assert (inside > 0.01).float().mean(dim=1).max() < 0.45
        assert (images + (confetti(images, drawn(500), LOW, HIGH) - images)).min() >= -1e-6
        assert confetti(images, drawn(500), LOW, HIGH).max() <= 1 + 1e-6


def test_what_would_be_hardly_visible_is_inverted() -> None:
    draws = torch.zeros(1, DRAWS)  # the middle of everything: one square of grey .5 in the centre
    draws[0, 5::6] = 3.0
    images = torch.full((1, 28, 28), 0.45)
    made = confetti(images, draws, LOW, HIGH)
    centre = float(made[0, 14, 14])
    assert abs(centre - 0.0) < 1e-6
    assert float(confetti(torch.zeros(1, 28, 28), draws, LOW, HIGH)[0, 14, 14]) == 0.5
    assert torch.equal(made[0, :8], images[0, :8])


def test_sizes_follow_the_image() -> None:
    def share(side: int) -> float:
        images = torch.zeros(300, side, side)
        return float((confetti(images, drawn(300), LOW, HIGH) > 0.01).float().mean())

    assert abs(share(56) - share(112)) < 0.02  # edges are two pixels wide at any size


def test_confetti_in_colour_have_one_colour_each_and_are_visible() -> None:
    draws = torch.randn((300, COLOUR_DRAWS), generator=torch.Generator().manual_seed(1))
    images = torch.full((300, 3, 28, 28), 0.4)
    made = confetti(images, draws, LOW, HIGH)
    assert made.shape == images.shape
    strength = (made - images).abs().amax(dim=1).flatten(1).amax(dim=1)
    assert (strength > 0.05).float().mean() > 0.98
    assert ((made[:, 0] - made[:, 1]).abs().flatten(1).amax(dim=1) > 0.05).float().mean() > 0.8
    grey = confetti(images[:, :1], draws[:, :DRAWS], LOW, HIGH)
    assert torch.equal(grey.squeeze(1), confetti(images[:, 0], draws[:, :DRAWS], LOW, HIGH))
