"""torch.compile, torch.export and ONNX export with dynamic sizes."""

import onnxruntime
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.export import Dim

from crossformer_mm import CrossFormer

# Multiples of 32 and others; wide and tall; groups with and without padding.
SIZES = [(224, 224), (96, 160), (160, 96), (131, 97), (224, 320)]


def tiny(lda_mode, stages=2):
    torch.manual_seed(0)
    arch = dict(
        embed_dims=32,
        depths=(2, 1)[:stages],
        num_heads=(2, 4)[:stages],
        drop_path_rate=0.0,
        group_size=(4, 4)[:stages],
        crs_interval=(4, 2)[:stages],
    )
    return CrossFormer(arch, lda_mode=lda_mode, out_indices=range(stages))


@pytest.mark.parametrize(('lda_mode', 'train'), [('interval', True), ('group', False)])
def test_compiles_twice_for_all_sizes(lda_mode, train):
    """Check for two graphs without breaks: the first size, and dynamic sizes."""
    model = tiny(lda_mode).train(train)
    torch._dynamo.reset()
    graphs = CompileCounterWithBackend('aot_eager')
    compiled = torch.compile(model, backend=graphs, fullgraph=True)
    for size in SIZES:
        images = torch.rand(1, 3, *size)
        with torch.set_grad_enabled(train):
            outs, expected = compiled(images), model(images)
        for out, expected_out in zip(outs, expected):
            torch.testing.assert_close(out, expected_out)
        if train:
            grads, expected_grads = (
                torch.autograd.grad(
                    sum(x.square().sum() for x in maps), list(model.parameters())
                )
                for maps in (outs, expected)
            )
            for grad, expected_grad in zip(grads, expected_grads):
                torch.testing.assert_close(grad, expected_grad)
    assert graphs.frame_count == 2


def test_compiles_with_autocast():
    model = tiny('interval')
    torch._dynamo.reset()
    compiled = torch.compile(model, backend='aot_eager', fullgraph=True)
    images = torch.rand(1, 3, 131, 97)
    with torch.autocast('cpu', torch.bfloat16):
        outs, expected = compiled(images), model(images)
    for out, expected_out in zip(outs, expected):
        torch.testing.assert_close(out, expected_out, rtol=0.05, atol=0.05)
    sum(out.float().square().mean() for out in outs).backward()
    assert all(param.grad.isfinite().all() for param in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(
    'dynamic',
    [
        False,
        pytest.param(
            None,
            marks=pytest.mark.xfail(
                strict=True,
                reason='inductor fails on symbolic strides: pytorch/pytorch#185510',
            ),
        ),
    ],
)
def test_compiles_in_default_mode(dynamic):
    model = tiny('interval', stages=1)
    torch._dynamo.reset()
    compiled = torch.compile(model, dynamic=dynamic)
    weight = model.patch_embed.norm.weight
    for size in SIZES[1:4]:
        images = torch.rand(1, 3, *size)
        outs, expected = compiled(images), model(images)
        torch.testing.assert_close(outs[0], expected[0], rtol=1e-4, atol=1e-5)
        grad, expected_grad = (
            torch.autograd.grad(maps[0].square().mean(), weight)[0]
            for maps in (outs, expected)
        )
        torch.testing.assert_close(grad, expected_grad, rtol=1e-3, atol=1e-6)


def dynamic_shapes():
    side = dict(min=5, max=64)  # larger than a group of the last stage
    return {0: Dim('batch', max=64), 2: 32 * Dim('h', **side), 3: 32 * Dim('w', **side)}


@pytest.mark.parametrize('lda_mode', ['interval', 'group'])
def test_exports_with_dynamic_sizes(lda_mode):
    model = tiny(lda_mode).eval()
    example = torch.rand(2, 3, 160, 192)
    exported = torch.export.export(
        model, (example,), dynamic_shapes=(dynamic_shapes(),)
    ).module()
    for shape in [(1, 3, 160, 160), (2, 3, 256, 192), (3, 3, 224, 448)]:
        images = torch.rand(shape)
        for out, expected in zip(exported(images), model(images)):
            torch.testing.assert_close(out, expected)


@pytest.mark.slow
@pytest.mark.parametrize('lda_mode', ['interval', 'group'])
def test_onnx_with_dynamic_sizes(lda_mode, tmp_path):
    model = tiny(lda_mode, stages=1).eval()
    file = tmp_path / 'backbone.onnx'
    torch.onnx.export(
        model,
        (torch.rand(2, 3, 160, 192),),
        file,
        dynamo=True,
        dynamic_shapes=(dynamic_shapes(),),
        input_names=['images'],
    )
    session = onnxruntime.InferenceSession(file)
    for shape in [(1, 3, 160, 160), (2, 3, 256, 192), (3, 3, 224, 448)]:
        images = torch.rand(shape)
        (out,) = session.run(None, dict(images=images.numpy()))
        with torch.no_grad():
            (expected,) = model(images)
        torch.testing.assert_close(
            torch.from_numpy(out), expected, rtol=1e-4, atol=1e-4
        )
