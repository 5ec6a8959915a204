"""Deep SVDD in plain torch, straight from the thesis (Ruff 2021, section 2.2 and appendix C): a check on ours.

It shares nothing with the product: torch's own layers, initialisation and optimiser. Appendix C asks for what it
does: an encoder without bias terms, with batch normalisation and leaky ReLU, pre-trained as half of an autoencoder
with a sigmoid at the end; batches of 128; Adam at 1e-4 for 50 epochs and a tenth of that afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Rows = NDArray[np.float32]

PRETRAIN_EPOCHS, EPOCHS, STEP, BATCH = 100, 150, 50, 128
WARM_UP = 10


def plain_svdd_scores(train: Rows, test: Rows, widths: Sequence[int], *, nu: float | None, seed: int) -> Rows:
    """Train on rows (n, d) and return the squared distances to the centre of test rows, of shape (m,).

    Parameters
    ----------
    widths : sequence of int
        Of the encoder's layers, the code's last.
    nu : float or None
        With a soft boundary of that nu; None: the one-class objective.
    """
    x = torch.from_numpy(train)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encode = _layers([x.shape[1], *widths])
        decode = nn.Sequential(_layers([*widths[::-1], x.shape[1]]), nn.Sigmoid())
        _loop(
            [encode, decode], x, lambda rows, _: (decode(encode(rows)) - rows).square().sum(1).mean(), PRETRAIN_EPOCHS
        )
        with torch.no_grad():
            center = encode.eval()(x).mean(0)
            center[center.abs() < 0.1] = torch.where(center < 0, -0.1, 0.1)[center.abs() < 0.1]
        _loop([encode], x, _Objective(encode, center, nu), EPOCHS)
    with torch.no_grad():
        scores: Rows = (encode.eval()(torch.from_numpy(test)) - center).square().sum(1).numpy()
    return scores


class _Objective:
    """Equation 2.11 of the thesis, or 2.10 with the radius set to a quantile after a warm-up."""

    def __init__(self, encode: nn.Module, center: Tensor, nu: float | None) -> None:
        self.encode, self.center, self.nu = encode, center, nu
        self.radius = torch.zeros(())

    def __call__(self, rows: Tensor, epoch: int) -> Tensor:
        distances: Tensor = (self.encode(rows) - self.center).square().sum(1)
        if self.nu is None:
            return distances.mean()
        loss = self.radius.square() + (distances - self.radius.square()).clamp(min=0).mean() / self.nu
        if epoch >= WARM_UP:
            self.radius = torch.quantile(distances.detach().sqrt(), 1 - self.nu)
        return loss


def _layers(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [nn.Linear(n_in, n_out, bias=False), nn.BatchNorm1d(n_out, eps=1e-4, affine=False), nn.LeakyReLU()]
    return nn.Sequential(*layers[:-2])


def _loop(modules: Sequence[nn.Module], x: Tensor, loss: Callable[[Tensor, int], Tensor], epochs: int) -> None:
    optimiser = torch.optim.Adam([p for module in modules for p in module.parameters()], lr=1e-4, weight_decay=0.5e-6)
    rate = torch.optim.lr_scheduler.MultiStepLR(optimiser, [STEP], 0.1)
    for module in modules:
        module.train()
    for epoch in range(epochs):
        for batch in torch.randperm(len(x)).split(BATCH):  # type: ignore[no-untyped-call]
            if len(batch) == BATCH:
                optimiser.zero_grad()
                loss(x[batch], epoch).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
        rate.step()
