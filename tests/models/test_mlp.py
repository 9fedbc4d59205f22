import pytest
import torch
import torch.nn.functional as F

from crossformer_mm.models.mlp import MLP


@pytest.fixture
def mlp():
    torch.manual_seed(0)
    return MLP(4, 8).double()


def test_mlp_is_two_layers_with_gelu_between(mlp):
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


def test_mlp_dropout_drops_in_training_only():
    mlp = MLP(4, 8, drop_rate=0.9)
    x = torch.randn(10, 4)
    assert (mlp(x) == 0).any()
    assert not (mlp.eval()(x) == 0).any()


def test_adapter_around_a_layer_is_called(mlp):
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
