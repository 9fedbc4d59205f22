"""An MLP computed in pieces, compared with the plain MLP."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from crossformer_mm.models.mlp import MLP
from crossformer_mm.ops import two_layers as function
from crossformer_mm.ops.two_layers import PIECE_NUMBERS


@pytest.fixture
def mlp():
    torch.manual_seed(0)
    return MLP(4, 8).double()


def gradients(mlp, call):
    x = torch.linspace(-2, 2, 2 * 5 * 7 * 4, dtype=torch.double).reshape(2, 5, 7, 4)
    x.requires_grad_()
    out = call(x)
    weight = torch.linspace(0, 1, out.numel(), dtype=out.dtype).view_as(out)
    return out, torch.autograd.grad((out * weight).sum(), [x, *mlp.parameters()])


@pytest.mark.parametrize('limit', [2**20, 8 * 16, 1])  # whole, 16 tokens, one each
def test_pieces_give_the_same_values_and_gradients(mlp, limit, monkeypatch):
    monkeypatch.setitem(PIECE_NUMBERS, 'cpu', limit)
    expected = gradients(mlp, lambda x: mlp.fc2(mlp.act(mlp.fc1(x))))
    torch.testing.assert_close(gradients(mlp, mlp), expected)
    with torch.no_grad():
        out = function(mlp.fc1, mlp._act_and_fc2, torch.ones(3, 4).double(), 8)
    torch.testing.assert_close(
        out, mlp.fc2(mlp.act(mlp.fc1(torch.ones(3, 4).double())))
    )


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('hook', ['forward', 'forward_pre', 'full_backward'])
def test_hooks_see_the_whole_map_once(mlp, training, hook, monkeypatch):
    monkeypatch.setitem(PIECE_NUMBERS, 'cpu', 8)
    seen = []
    for layer in (mlp.fc1, mlp.act, mlp.fc2):
        register = getattr(layer, f'register_{hook}_hook')
        register(lambda layer, tensors, *_: seen.append(tensors[0].shape[:-1]))
    mlp.train(training)(torch.rand(2, 3, 4).double().requires_grad_()).sum().backward()
    assert seen == [(2, 3)] * 3


def test_hidden_layer_is_computed_in_pieces(mlp, monkeypatch):
    monkeypatch.setitem(PIECE_NUMBERS, 'cpu', 8 * 10)
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            if function is torch.ops.aten.gelu.default:
                largest = max(largest, out.numel())
            return out

    with torch.no_grad(), Watch():
        mlp(torch.rand(100, 4).double())
    assert largest == 8 * 10
