"""Confetti: synthetic anomalies of images, by blurred squares at random places."""

from __future__ import annotations

import math

import torch
from torch import Tensor

SQUARES = 4  # places for squares, of which the first one is always used
DRAWS, COLOUR_DRAWS = 6 * SQUARES, 8 * SQUARES
_SHARES = (1 / 28, 1 / 4)  # of the smaller side of the image
_VISIBLE = 0.15  # of the range of pixels
_TURN = math.pi / 4
_EDGE = 2.0  # pixels, of which a blurred edge is wide


def confetti(images: Tensor, draws: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return images with one to four blurred squares of one colour each, which are rotated by up to 45 degrees.

    Sides are uniform between 1/28 and 1/4 of the image's smaller side (1 to 7 pixels at 28, 8 to 56 at 224), but at
    least a pixel; centres, angles and values (one, or those of red, green and blue) are uniform. Where all values of a
    square are within 15 % of the range of what it covers, and it is hardly visible, they are inverted: moved by half of
    the range. Edges fall off linearly over two pixels.

    The same images and draws give the same confetti: the function itself draws nothing.

    Ruff (2021), section 3.1.2, which describes it in a sentence. Differs from the released code: the number of squares
    is at most four, and each is blended in and not added, so that images stay within the range of the others.

    Parameters
    ----------
    images : Tensor, shape (..., h, w) or (..., colours, h, w)
        With one colour (grey) or three; of three colours with their dimension.
    draws : Tensor, shape (..., DRAWS), or (..., COLOUR_DRAWS) for three colours
        Standard normal numbers.
    low, high : Tensor
        The range of grey values; broadcastable to ``images``.
    """
    if images.ndim == draws.ndim + 1:
        return confetti(images.unsqueeze(-3), draws, low, high).squeeze(-3)
    height, width = images.shape[-2:]
    side = min(height, width)
    uniform = torch.special.ndtr(draws).unflatten(-1, (SQUARES, -1))[..., None, None]  # (..., SQUARES, 6 or 8, 1, 1)
    down = torch.arange(height, dtype=images.dtype, device=images.device)[:, None]
    right = torch.arange(width, dtype=images.dtype, device=images.device)
    changed, span = images, high - low
    for square in range(SQUARES):
        drawn = uniform[..., square, :, :, :]
        y, x, size, turn, _, use, *_ = drawn.unsqueeze(-3).unbind(dim=-4)
        value = torch.cat([drawn[..., 4:5, :, :], drawn[..., 6:, :, :]], dim=-3)
        size = (side * (_SHARES[0] + (_SHARES[1] - _SHARES[0]) * size)).clamp(min=1.0)
        angle = _TURN * (2 * turn - 1)
        dy, dx = down - (y * height - 0.5), right - (x * width - 0.5)
        along, across = angle.cos() * dx + angle.sin() * dy, angle.cos() * dy - angle.sin() * dx
        mask = _inside(along, size) * _inside(across, size)
        if square:
            mask = mask * (use < 0.5)
        covered = (mask * changed).sum(dim=(-2, -1), keepdim=True) / mask.sum(dim=(-2, -1), keepdim=True).clamp(
            min=1e-6
        )
        grey = low + span * value
        inverted = torch.where(grey - low < span / 2, grey + span / 2, grey - span / 2)
        hidden = ((grey - covered).abs() < _VISIBLE * span).all(dim=-3, keepdim=True)
        grey = torch.where(hidden, inverted, grey)
        changed = changed + mask * (grey - changed)
    return changed


def _inside(distance: Tensor, size: Tensor) -> Tensor:
    """Return 1 within half a side, 0 beyond the blurred edge, and what is between on the edge."""
    return ((size / 2 - distance.abs()) / _EDGE + 0.5).clamp(0, 1)
