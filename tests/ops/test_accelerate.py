"""Linear layers exchanged for oneDNN ones: same values, only if allowed."""

import logging
import time

import pytest
import torch
from mmengine.runner import Runner
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from crossformer_mm import CrossFormer_S
from crossformer_mm.engine import runner as runner_module
from crossformer_mm.ops import accelerate_cpu, is_faster_accelerated
from crossformer_mm.ops.accelerate import OneDNNLinear


def operations(function):
    names = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            names.append(function.overloadpacket.__name__)
            return function(*args, **(kwargs or {}))

    with Watch(), torch.no_grad():
        function()
    return names


def check_same(plain, fast, x):
    x = x.requires_grad_()
    results = []
    for layer in (plain, fast):
        out = layer(x)
        weight = torch.linspace(0, 1, out.numel(), dtype=out.dtype).view_as(out)
        grads = torch.autograd.grad((out * weight).sum(), [x, *layer.parameters()])
        results.append([out, *grads])
    for ours, expected in zip(*results):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('shape', [(24,), (3, 24), (3, 5, 7, 24), (0, 24)])
def test_linear(dtype, bias, shape):
    torch.manual_seed(0)
    plain = nn.Linear(24, 40, bias).to(dtype)
    fast = accelerate_cpu(nn.Linear(24, 40, bias).to(dtype))
    fast.load_state_dict(plain.state_dict())
    assert type(fast) is OneDNNLinear
    check_same(plain, fast, torch.randn(*shape, dtype=dtype))
    convolved = 'convolution' in operations(lambda: fast(torch.randn(3, 24).to(dtype)))
    assert convolved == (dtype == torch.float32)


def test_exchange_is_reversible_and_keeps_parameters_and_hooks():
    model = CrossFormer_S()
    classes = [type(module) for module in model.modules()]
    names, first = list(model.state_dict()), next(model.parameters())
    calls = []
    model.layers[0].blocks[0].mlp.fc1.register_forward_hook(lambda *_: calls.append(1))
    fast = accelerate_cpu(model)
    assert fast is model and list(model.state_dict()) == names
    assert next(model.parameters()) is first
    kinds = [type(module) for module in model.modules()]
    assert kinds.count(OneDNNLinear) == classes.count(nn.Linear)
    model(torch.rand(1, 3, 64, 64))
    assert calls == [1]
    accelerate_cpu(model, False)
    assert [type(module) for module in model.modules()] == classes


@torch.no_grad()
def test_network_in_float32_and_under_autocast():
    torch.manual_seed(0)
    model, x = CrossFormer_S().eval(), torch.rand(1, 3, 100, 132)
    expected = model(x)
    accelerate_cpu(model)
    for out, same in zip(model(x), expected):
        torch.testing.assert_close(out, same, rtol=1e-3, atol=1e-4)
    with torch.autocast('cpu', torch.bfloat16):
        assert 'addmm' in operations(lambda: model.layers[0].blocks[0].mlp(x[..., :96]))


@pytest.mark.parametrize(('plain', 'onednn', 'faster'), [(1, 3, False), (3, 1, True)])
def test_faster_layer_is_measured(plain, onednn, faster, monkeypatch):
    """The forward of each layer sleeps for a different time."""
    forward = {nn.Linear: nn.Linear.forward, OneDNNLinear: OneDNNLinear.forward}
    for layer, milliseconds in ((nn.Linear, plain), (OneDNNLinear, onednn)):

        def call(self, x, layer=layer, seconds=milliseconds / 100):
            time.sleep(seconds)
            return forward[layer](self, x)

        monkeypatch.setattr(layer, 'forward', call)
    assert is_faster_accelerated() == faster


@pytest.mark.parametrize('faster', [True, False])
@pytest.mark.parametrize('deterministic', [True, False])
def test_runner_exchanges_layers_if_faster(
    faster, deterministic, monkeypatch, tmp_path, caplog
):
    monkeypatch.setattr(runner_module, 'is_faster_accelerated', lambda: faster)
    network = nn.Sequential(nn.Linear(2, 2))
    runner = runner_module.CheckedRunner(
        model=network,
        work_dir=str(tmp_path),
        experiment_name=f'{faster}-{deterministic}',
        randomness=dict(seed=0, deterministic=deterministic),
    )
    assert isinstance(runner, Runner)
    kind = OneDNNLinear if faster and not deterministic else nn.Linear
    assert type(network[0]) is kind
    runner.logger.handlers.clear()
    torch.use_deterministic_algorithms(False)
    logging.shutdown()
