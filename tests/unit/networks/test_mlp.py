"""The stacked layers: what they compute, and that they leave their input alone."""

import torch
from torch.autograd import gradcheck, gradgradcheck

from assay.networks.mlp import StackedLinear, Tanh


def test_tanh_is_the_hyperbolic_tangent() -> None:
    x = torch.cat([torch.linspace(-12, 12, 500, dtype=torch.float64), torch.tensor([-1e9, 0.0, 1e9])]).requires_grad_()
    before = x.detach().clone()
    torch.testing.assert_close(Tanh()(x), torch.tanh(x), rtol=1e-9, atol=1e-12)
    assert torch.equal(x.detach(), before)
    some = torch.linspace(-3, 3, 11, dtype=torch.float64, requires_grad=True)
    assert gradcheck(Tanh(), some)
    assert gradgradcheck(Tanh(), some)


def test_each_member_has_its_own_affine_map() -> None:
    layer = StackedLinear(2, 3, 4)
    x = torch.arange(30.0).reshape(2, 5, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(24.0).reshape(2, 3, 4))
        assert layer.bias is not None
        layer.bias.copy_(torch.tensor([[[1.0, 2, 3, 4]], [[5.0, 6, 7, 8]]]))
        for member in range(2):
            assert torch.equal(layer(x)[member], x[member] @ layer.weight[member] + layer.bias[member])
        layer.bias = None
        assert torch.equal(layer(x), x @ layer.weight)
