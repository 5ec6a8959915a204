"""Adam's steps: those of torch's optimiser, to the bit, and for each member its own."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from assay.detectors.training.updates import Rate, Schedule, Step, Update

CPU = torch.device("cpu")
SHAPES = ((3, 5, 7), (3, 1, 7), (3, 64, 33), (3, 2, 3, 3))


def new(seed: int = 0) -> list[nn.Parameter]:
    rng = np.random.default_rng(seed)
    return [nn.Parameter(torch.tensor(rng.normal(size=shape), dtype=torch.float32)) for shape in SHAPES]


def drawn(steps: int) -> list[list[Tensor]]:
    """Gradients of any size; those of the third parameter do not lie in order."""
    found = [[value.detach() * 10.0 ** (step % 5 - 3) for value in new(step + 1)] for step in range(steps)]
    for gradients in found:
        gradients[2] = gradients[2].transpose(1, 2).contiguous().transpose(1, 2)
    return found


def update_of(parameters: list[nn.Parameter], rate: Rate, decay: Rate, members: int = 3) -> Update:
    schedule = Schedule(epochs=1, batch_size=1, learning_rate=rate, weight_decay=decay)
    return Update(Step(lambda: torch.zeros(0), parameters), schedule, members, CPU)


@pytest.mark.parametrize("decay", [0.0, 1e-2])
def test_it_does_what_torchs_adam_does(decay: float) -> None:
    """The same bits as the fused kernel by way of the optimiser; up to rounding what the plain one gives."""
    ours, fused, plain = new(), new(), new()
    update = update_of(ours, 1e-2, decay)
    others = [
        torch.optim.Adam(fused, lr=1e-2, weight_decay=decay, fused=True),
        torch.optim.Adam(plain, lr=1e-2, weight_decay=decay, foreach=False, fused=False),
    ]
    for step, gradients in enumerate(drawn(20)):
        update.rate = 1e-2 / (step + 1)
        update.apply(gradients)
        for optimiser in others:
            optimiser.param_groups[0]["lr"] = update.rate
        for values in (fused, plain):
            for value, gradient in zip(values, gradients, strict=True):
                value.grad = gradient.contiguous()
        for optimiser in others:
            optimiser.step()
    for mine, theirs, simple, start in zip(ours, fused, plain, new(), strict=True):
        assert torch.equal(mine, theirs)
        torch.testing.assert_close(mine, simple, rtol=1e-5, atol=1e-6)
        assert not torch.allclose(mine, start, atol=1e-3)


@pytest.mark.parametrize("decay", [1e-2, (1e-2, 1e-1, 0.0)])
def test_a_parameter_that_no_gradient_reaches_stays(decay: Rate) -> None:
    parameters = new()
    update = update_of(parameters, (1e-2, 1e-3, 3e-3), decay)
    for first, *others in drawn(3):
        update.apply([first, None, *others[1:]])
    changed = [not torch.equal(now, before) for now, before in zip(parameters, new(), strict=True)]
    assert changed == [True, False, True, True]


def test_each_member_has_its_own_rate_and_decay() -> None:
    rates, decays = (1e-2, 3e-3, 1e-3), (0.0, 1e-2, 1e-1)
    together = new()
    update = update_of(together, rates, decays)
    alone = [[nn.Parameter(value[s : s + 1].detach().clone()) for value in new()] for s in range(3)]
    single = [update_of(alone[s], rates[s], decays[s], members=1) for s in range(3)]
    for gradients in drawn(10):
        given = [gradient.clone() for gradient in gradients]
        update.apply(gradients)
        assert all(torch.equal(now, before) for now, before in zip(gradients, given, strict=True))
        for s in range(3):
            single[s].apply([gradient[s : s + 1] for gradient in gradients])
    for s in range(3):
        for mine, own in zip(together, alone[s], strict=True):
            torch.testing.assert_close(mine[s], own[0], rtol=1e-4, atol=1e-6)


def test_training_does_not_load_the_compiler() -> None:
    """Importing it takes a second, which a small training does not."""
    code = """
import sys
import numpy as np
from assay.detectors.methods.deep_svdd import DeepSVDD
DeepSVDD(epochs=1, pretrain_epochs=1, members=1, device="cpu").fit(np.eye(30, 4, dtype=np.float32))
assert "torch._dynamo" not in sys.modules
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
