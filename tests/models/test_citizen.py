"""Common operations on PyTorch modules work on the backbone.

mmdet's Swin is tested for comparison; its known failures are in SWIN_FAILS.
"""

import copy
import io
import pickle
import threading
import warnings

import onnxruntime
import pytest
import torch
from mmengine.registry import MODELS
from torch import nn
from torch.nn.utils import prune, spectral_norm, weight_norm

from crossformer_mm import CrossFormer
from crossformer_mm.ops import accelerate_cpu
from tests.helpers import TORCH_21

KINDS = ['interval', 'group', 'accelerated', 'swin']
SIZES = [(64, 96), (67, 99)]
SWIN_FAILS = {
    'test_modules_in_other_dtypes[swin-bfloat16]': 'its drop path makes float32',
    'test_modules_in_other_dtypes[swin-float16]': 'its drop path makes float32',
    'test_trace_at_other_sizes[swin]': 'sizes are constants of the trace',
    'test_activation_checkpointing[swin-reentrant]': 'no gradient arrives',
    'test_empty_batch_is_an_error[swin]': 'a reshape fails',
}


@pytest.fixture(params=KINDS)
def kind(request):
    if request.param == 'swin':
        pytest.importorskip('mmdet.models')
        if reason := SWIN_FAILS.get(request.node.name):
            request.applymarker(pytest.mark.xfail(strict=True, reason=reason))
    return request.param


@pytest.fixture
def make(kind):
    """Return a function that builds the network, always with the same weights."""

    def build(with_cp=False):
        torch.manual_seed(0)
        sizes = dict(depths=(2, 2, 4, 1), num_heads=(2, 4, 4, 8))
        if kind == 'swin':
            swin = dict(type='mmdet.SwinTransformer', embed_dims=32, drop_path_rate=0.0)
            return MODELS.build(swin | sizes | dict(with_cp=with_cp))
        arch = dict(embed_dims=32, drop_path_rate=0.0, with_acl=True, **sizes)
        mode = 'group' if kind == 'group' else 'interval'
        model = CrossFormer(arch, lda_mode=mode, with_cp=with_cp)
        return accelerate_cpu(model) if kind == 'accelerated' else model

    return build


def in_mode(model, training):
    model.train(training)  # Swin's train() returns None
    return model


def evaluating(model):
    return in_mode(model, False)


def images(size=SIZES[0], batch=2):
    return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(1))


def loss(outs):
    outs = [out.float() if out.dtype.itemsize < 4 else out for out in outs]
    return sum(out.square().mean() for out in outs)


def train(model, steps=1, size=SIZES[0]):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss(in_mode(model, True)(images(size)))
        value.backward()
        optimizer.step()
    return value


def assert_equal_outputs(a, b, **tolerances):
    for out, expected in zip(a, b, strict=True):
        torch.testing.assert_close(out, expected, **tolerances)


def test_evaluate_in_inference_mode_then_train(make):
    model = evaluating(make())
    with torch.inference_mode():
        model(images())
    assert train(model).isfinite()


@pytest.mark.parametrize('training', [True, False])
def test_hooks_on_every_leaf(make, training):
    model = in_mode(make(), training)
    calls = {}
    for name, module in model.named_modules():
        if not list(module.children()):
            calls[name] = 0

            def count(*_, name=name):
                calls[name] += 1

            module.register_forward_hook(count)
    model(images())
    # A dropout layer may be used twice or, as an identity, never.
    idle = [n for n, c in calls.items() if c == 0 and 'drop' not in n]
    assert idle == []
    assert [n for n, c in calls.items() if c > 1 and 'drop' not in n] == []


def test_backward_hooks_and_grad_cam(make):
    model = evaluating(make())
    seen = {}
    layer = dict(model.named_modules())[
        next(n for n, _ in model.named_modules() if n.endswith('norm2'))
    ]
    layer.register_full_backward_hook(lambda m, i, o: seen.update(grad=o[0]))
    layer.register_forward_hook(lambda m, i, o: seen.update(out=o))
    loss(model(images())).backward()
    assert seen['grad'].shape == seen['out'].shape and seen['grad'].abs().sum() > 0


def pruned(model):
    layers = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    prune.global_unstructured(
        [(layer, 'weight') for layer in layers], prune.L1Unstructured, amount=0.3
    )
    return model


def test_pruned_networks_train_and_load(make):
    model = pruned(make())
    train(model, steps=2)
    other = pruned(make())
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert_equal_outputs(evaluating(other)(images()), evaluating(model)(images()))
    for module in model.modules():
        if hasattr(module, 'weight_mask'):
            assert not module.weight[module.weight_mask == 0].any()


def last_linear(model):
    """Return the last layer of an MLP, which an optimized path must not bypass."""
    linears = [m for m in model.modules() if isinstance(m, nn.Linear)]
    return next(m for m in linears if m.in_features == 4 * m.out_features)


@pytest.mark.filterwarnings('ignore:.*weight_norm:FutureWarning')
def test_weight_norm(make):
    model = make()
    expected = evaluating(model)(images())
    layer = weight_norm(last_linear(model))
    assert_equal_outputs(model(images()), expected)
    train(model)
    assert layer.weight_g.grad.any() and layer.weight_v.grad.any()


@pytest.mark.filterwarnings('ignore:.*spectral_norm:FutureWarning')
def test_spectral_norm(make):
    model = make()
    layer = spectral_norm(last_linear(model), n_power_iterations=1)
    before = layer.weight_u.clone()
    outs = in_mode(model, True)(images())
    once = layer.weight_u.clone()
    assert not torch.equal(once, before)
    loss(outs).backward()
    # One power iteration per forward pass, none in the backward pass.
    assert torch.equal(layer.weight_u, once)
    assert layer.weight_orig.grad.any()


@pytest.mark.filterwarnings('ignore')
def test_dynamic_quantization_takes_every_linear(make, kind):
    model = evaluating(make())
    if kind == 'accelerated':
        accelerate_cpu(model, False)
    linears = [n for n, m in model.named_modules() if type(m) is nn.Linear]
    quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    modules = dict(quantized.named_modules())
    assert all('quantized' in type(modules[name]).__module__ for name in linears)
    with torch.no_grad():
        for out, expected in zip(quantized(images()), model(images())):
            assert (out - expected).std() < 0.1 * expected.std()


@pytest.mark.parametrize('with_cp', [True, False])
@pytest.mark.parametrize('training', [True, False])
def test_meta_device(make, training, with_cp):
    if TORCH_21 and with_cp:
        pytest.skip('torch 2.1 recomputes nothing on the meta device')
    model = in_mode(make(with_cp).to('meta'), training)
    outs = model(images().to('meta'))
    assert [o.shape[2] for o in outs] == [16, 8, 4, 2]
    if training:
        loss(outs).backward()


def test_double_backward(make):
    """Compare the gradient of a gradient penalty with finite differences."""
    model = evaluating(make().double())
    x = images(batch=1).double().requires_grad_()

    def penalty():
        (grad,) = torch.autograd.grad(loss(model(x)), x, create_graph=True)
        return grad.square().sum() * 1e3

    params = [p for n, p in model.named_parameters() if 'qkv.weight' in n][:2]
    grads = torch.autograd.grad(penalty(), params)
    step = 1e-6
    for param, grad in zip(params, grads):
        direction = torch.randn_like(param)
        with torch.no_grad():
            param += step * direction
        above = penalty().item()
        with torch.no_grad():
            param -= 2 * step * direction
        below = penalty().item()
        with torch.no_grad():
            param += step * direction
        slope = (above - below) / (2 * step)
        assert (grad * direction).sum().item() == pytest.approx(slope, rel=1e-3)


def functional_loss(model):
    def run(params, x):
        return loss(torch.func.functional_call(model, params, (x,)))

    return run, {n: p.detach() for n, p in model.named_parameters()}


@pytest.mark.parametrize('training', [True, False])
def test_functional_gradients(make, training):
    model = in_mode(make(), training)
    run, params = functional_loss(model)
    grads = torch.func.grad(run)(params, images())
    loss(model(images())).backward()
    for name, param in model.named_parameters():
        torch.testing.assert_close(grads[name], param.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize('training', [True, False])
def test_vmap_of_gradients(make, training):
    run, params = functional_loss(in_mode(make(), training))
    each = torch.func.vmap(torch.func.grad(run), (None, 0))(params, images()[:, None])
    for i in range(2):
        alone = torch.func.grad(run)(params, images()[i : i + 1])
        for name, grad in alone.items():
            torch.testing.assert_close(each[name][i], grad, rtol=1e-3, atol=1e-6)


def test_forward_mode(make):
    run, params = functional_loss(evaluating(make()))
    tangents = {n: torch.randn_like(p) for n, p in params.items()}
    _, slope = torch.func.jvp(
        lambda params: run(params, images()), (params,), (tangents,)
    )
    grads = torch.func.grad(run)(params, images())
    expected = sum((grads[n] * tangents[n]).sum() for n in params)
    torch.testing.assert_close(slope, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.filterwarnings('ignore')
def test_trace_at_other_sizes(make):
    model = make()
    # In training mode, including the tracer's check.
    traced = torch.jit.trace(model, images())
    model.eval()
    traced = torch.jit.trace(model, images())
    for size in ((64, 96), (67, 99), (224, 224), (300, 180)):
        with torch.no_grad():
            assert_equal_outputs(
                traced(images(size)), model(images(size)), rtol=1e-4, atol=1e-4
            )
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    with torch.no_grad():
        assert_equal_outputs(torch.jit.load(file)(images()), model(images()))


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('opset', [11, 17])
@pytest.mark.parametrize('dynamic', [False, True])
def test_legacy_onnx_exporter(make, opset, dynamic):
    model = evaluating(make())
    file = io.BytesIO()
    axes = {'x': {0: 'batch', 2: 'height', 3: 'width'}} if dynamic else {}
    torch.onnx.export(
        model,
        (images(),),
        file,
        **({} if TORCH_21 else dict(dynamo=False)),
        opset_version=opset,
        input_names=['x'],
        dynamic_axes=axes,
    )
    session = onnxruntime.InferenceSession(file.getvalue())
    for size in ((64, 96), (96, 128), (224, 160))[: 3 if dynamic else 1]:
        outs = session.run(None, dict(x=images(size).numpy()))
        with torch.no_grad():
            expected = model(images(size))
        assert_equal_outputs(
            [torch.from_numpy(o) for o in outs], expected, rtol=1e-3, atol=1e-3
        )


def test_real_tensors_after_fake_tensors(make):
    from torch._subclasses.fake_tensor import FakeTensorMode

    model = evaluating(make())
    for _ in range(2):
        with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
            outs = model(mode.from_tensor(images()))
            assert [o.shape[2] for o in outs] == [16, 8, 4, 2]
    assert train(model).isfinite()


@pytest.mark.skipif(torch.version.cuda is None, reason='no CUDA build of torch')
@pytest.mark.parametrize('training', [True, False])
def test_no_gpu_synchronization(make, training):
    """Reading the data of a fake CUDA tensor, or mixing devices, raises an error."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    model = in_mode(make(), training)
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with FakeTensorMode():
        fakes = {
            name: torch.empty(
                m.shape, dtype=m.dtype, device='cuda', requires_grad=m.requires_grad
            )
            for name, m in state.items()
        }
        # Forward only: the backward pass would need a driver.
        x = torch.rand(2, 3, *SIZES[1], device='cuda')
        outs = torch.func.functional_call(model, fakes, (x,))
        assert all(out.device.type == 'cuda' for out in outs)


@pytest.mark.parametrize(
    'copied', [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))]
)
def test_copies(make, copied):
    model = evaluating(make())
    with torch.no_grad():
        expected = model(images())
        assert_equal_outputs(copied(model)(images()), expected)


def test_averaged_model(make):
    model = make()
    average = torch.optim.swa_utils.AveragedModel(model)
    train(model)
    average.update_parameters(model)
    with torch.no_grad():
        assert_equal_outputs(evaluating(average)(images()), evaluating(model)(images()))


class LowRank(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.down = nn.Linear(layer.in_features, 2, bias=False)
        self.up = nn.Linear(2, layer.out_features, bias=False)
        nn.init.constant_(self.up.weight, 0.1)

    def forward(self, x):
        return self.layer(x) + self.up(self.down(x))


def test_adapters_around_linear_layers(make):
    model = make()
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, LowRank(child))
    train(model)
    idle = [
        n
        for n, p in model.named_parameters()
        if ('.down.' in n or '.up.' in n) and (p.grad is None or not p.grad.any())
    ]
    assert idle == []


def test_data_parallel_and_functional_call(make):
    model = evaluating(make())
    with torch.no_grad():
        expected = model(images())
        assert_equal_outputs(nn.DataParallel(model)(images()), expected)
        zeros = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
        outs = torch.func.functional_call(model, zeros, (images(),))
        assert not any(out.any() for out in outs)


def test_channels_last_input(make):
    model = evaluating(make())
    with torch.no_grad():
        expected = model(images())
        outs = model(images().to(memory_format=torch.channels_last))
        assert_equal_outputs(outs, expected, rtol=1e-4, atol=1e-4)
        model.to(memory_format=torch.channels_last)
        assert_equal_outputs(model(images()), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16', 'float64'])
def test_modules_in_other_dtypes(make, dtype):
    dtype = getattr(torch, dtype)
    model = evaluating(make())
    with torch.no_grad():
        expected = model(images())
    in_mode(model, True).to(dtype)
    outs = model(images().to(dtype))
    for out, same in zip(outs, expected):
        assert out.dtype == dtype
        assert (out.float() - same).std() < 0.05 * same.std()
    loss(outs).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_gradients_of_the_input(make):
    model = evaluating(make()).requires_grad_(False)
    x = images().requires_grad_()
    loss(model(x)).backward()
    assert x.grad.isfinite().all() and x.grad.any()


def test_threads(make):
    model = evaluating(make())
    sizes = [(64, 96), (96, 64), (67, 99), (128, 64)]
    with torch.no_grad():
        expected = [model(images(size)) for size in sizes]
    results = [None] * len(sizes)

    def work(i):
        with torch.no_grad():
            results[i] = model(images(sizes[i]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(sizes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for outs, same in zip(results, expected):
        assert_equal_outputs(outs, same, rtol=1e-4, atol=1e-5)


def gradients(model, run):
    model.zero_grad()
    loss(run()).backward()
    return [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize('reentrant', [True, False], ids=['reentrant', 'not'])
def test_activation_checkpointing(make, reentrant):
    model = in_mode(make(), True)
    expected = gradients(model, lambda: model(images()))
    x = images().requires_grad_()
    grads = gradients(
        model,
        lambda: torch.utils.checkpoint.checkpoint(model, x, use_reentrant=reentrant),
    )
    torch.testing.assert_close(grads, expected)


def test_saved_tensors_on_the_cpu_and_anomaly_mode(make):
    model = in_mode(make(), True)
    expected = gradients(model, lambda: model(images()))
    with torch.autograd.graph.save_on_cpu():
        torch.testing.assert_close(gradients(model, lambda: model(images())), expected)
    with warnings.catch_warnings(), torch.autograd.detect_anomaly():
        warnings.simplefilter('ignore')
        torch.testing.assert_close(gradients(model, lambda: model(images())), expected)


def test_empty_batch_is_an_error(make):
    with pytest.raises(ValueError, match=r'no image.*\[0, 3, 64, 96\]'):
        make()(images(batch=0))
