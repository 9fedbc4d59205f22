import pytest
import torch
import torch.nn.functional as F
from crossformer_mm.models.convolution import Linear
from crossformer_mm.models.layers import MLP
from torch.utils._python_dispatch import TorchDispatchMode

from crossformer_mm.models import layers


@pytest.fixture
def mlp():
    torch.manual_seed(0)
    return MLP(4, 8).double()


def test_mlp_is_two_layers_with_gelu_between(mlp, monkeypatch):
    monkeypatch.setattr(layers, 'BLOCK_TOKENS', 7)  # leaves a remainder of 30 tokens
    x = torch.randn(2, 3, 5, 4, dtype=torch.double)
    expected = F.gelu(x @ mlp.fc1.weight.T + mlp.fc1.bias) @ mlp.fc2.weight.T
    expected += mlp.fc2.bias
    torch.testing.assert_close(mlp(x), expected)
    with torch.no_grad():
        torch.testing.assert_close(mlp(x), expected)


def test_mlp_gradients(mlp):
    x = torch.randn(2, 3, 4, dtype=torch.double, requires_grad=True)
    names = [name for name, _ in mlp.named_parameters()]

    def run(x, *params):
        return torch.func.functional_call(mlp, dict(zip(names, params)), x)

    params = [param.detach().requires_grad_() for param in mlp.parameters()]
    assert torch.autograd.gradcheck(run, (x, *params))


def test_mlp_dropout_drops_in_training_alone():
    mlp = MLP(4, 8, drop_rate=0.9)
    x = torch.randn(10, 4)
    assert (mlp(x) == 0).any()
    assert not (mlp.eval()(x) == 0).any()


def test_an_adapter_around_a_layer_is_called(mlp):
    class Twice(torch.nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return 2 * self.layer(x)

    x = torch.randn(10, 4, dtype=torch.double)
    expected = 2 * mlp(x)
    mlp.fc2 = Twice(mlp.fc2)
    torch.testing.assert_close(mlp(x), expected)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_a_linear_layer_by_convolution(dtype):
    torch.manual_seed(0)
    layer = Linear(24, 40).to(dtype)
    x = torch.randn(3, 5, 7, 24, dtype=dtype, requires_grad=True)
    leaves = [x, *layer.parameters()]
    weight = torch.randn(3, 5, 7, 40, dtype=dtype)
    for part in (slice(None), slice(1, 2)):
        ours, expected = layer(x[:, part]), F.linear(x[:, part], *leaves[1:])
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
        assert ours.is_contiguous()
        grads, expected_grads = (
            torch.autograd.grad((y * weight[:, part]).sum(), leaves)
            for y in (ours, expected)
        )
        torch.testing.assert_close(grads, expected_grads, rtol=1e-4, atol=1e-4)


def test_a_convolution_where_it_is_faster():
    x = torch.randn(4, 5)
    called = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            called.append(function.overloadpacket.__name__)
            return function(*args, **(kwargs or {}))

    with Watch(), torch.no_grad():
        Linear(5, 6)(x)
    assert 'convolution' in called and 'addmm' not in called


def test_a_map_in_another_layout():
    layer, x = Linear(24, 40), torch.randn(2, 24, 5, 7).permute(0, 2, 3, 1)
    assert not x.is_contiguous() and layer(x).is_contiguous()
    torch.testing.assert_close(layer(x), layer(x.contiguous()))
