import copy

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS

from crossformer_mm.models import CrossFormer
from crossformer_mm.models.archs import ARCHS
from tests import reference

TINY = dict(embed_dims=32, depths=(2, 2, 3, 1), num_heads=(1, 2, 4, 8))
GROUP_SIZE, INTERVAL = [7, 7, 7, 7], [8, 4, 2, 1]


def tiny(arch=TINY, **kwargs):
    """Build a small network with random weights, including norms and biases."""
    torch.manual_seed(0)
    model = CrossFormer(arch=arch, **kwargs)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.mark.parametrize('lda_mode', ['interval', 'group'])
@pytest.mark.parametrize(
    'batch, height, width',
    [
        (1, 224, 224),  # the paper's size
        (2, 160, 96),  # multiples of 32, groups with padding
        (1, 250, 187),  # not multiples of 32
        (2, 33, 47),  # maps down to 2 x 2 tokens
        (1, 32, 32),  # smallest unpadded input: a single token in the last map
        (1, 32, 260),  # wide
        (1, 301, 34),  # tall
        (3, 64, 64),  # maps as small as the group
    ],
)
def test_equals_slow_reference(lda_mode, batch, height, width):
    model = tiny(lda_mode=lda_mode, with_acl=True).eval()
    images = torch.randn(batch, 3, height, width)
    with torch.no_grad():
        outputs = model(images)
        expected = reference.backbone(model, images, GROUP_SIZE, INTERVAL, lda_mode)
    for i, (output, slow) in enumerate(zip(outputs, expected)):
        stride = 4 * 2**i
        assert output.shape == (
            batch,
            32 * 2**i,
            int(np.ceil(height / stride)),
            int(np.ceil(width / stride)),
        )
        assert output.isfinite().all()
        # mmcv's RoIAlign assumes contiguous NCHW and would read wrong values.
        assert output.is_contiguous()
        torch.testing.assert_close(output, slow, rtol=1e-4, atol=1e-4)


def test_adaptive_interval():
    """A window of G x G groups covers a map of any size."""
    images = torch.randn(1, 3, 160, 256)
    model = tiny(lda_mode='group', adaptive_interval=True).eval()
    # Maps of 40 x 64, 20 x 32, 10 x 16 and 5 x 8 tokens: I = ceil(longer side / 7).
    intervals = [10, 5, 3, 2]
    with torch.no_grad():
        outputs = model(images)
        expected = reference.backbone(model, images, GROUP_SIZE, intervals, 'group')
    for output, slow in zip(outputs, expected):
        torch.testing.assert_close(output, slow, rtol=1e-4, atol=1e-4)


def test_modes_differ_on_large_maps_only():
    interval, group = (tiny(lda_mode=mode).eval() for mode in ('interval', 'group'))
    with torch.no_grad():
        small = torch.randn(1, 3, 224, 224)
        for a, b in zip(interval(small), group(small)):
            torch.testing.assert_close(a, b)
        large = torch.randn(1, 3, 320, 320)
        assert not torch.allclose(interval(large)[0], group(large)[0])


def test_forward_leaves_module_unchanged():
    """A small image between two identical runs does not change the result."""
    model = CrossFormer('S').eval()
    state = copy.deepcopy(model.state_dict())
    image = torch.randn(1, 3, 224, 320)
    with torch.no_grad():
        before = model(image)
        model(torch.randn(1, 3, 64, 64))
        after = model(image)
    for a, b in zip(before, after):
        assert torch.equal(a, b)
    assert model.state_dict().keys() == state.keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])


def test_images_of_a_batch_are_independent():
    model = tiny(lda_mode='group').double().eval()
    images = torch.randn(3, 3, 100, 132).double()
    with torch.no_grad():
        together = model(images)
        for i in range(3):
            for all_outputs, output in zip(together, model(images[i : i + 1])):
                torch.testing.assert_close(all_outputs[i : i + 1], output)


@pytest.mark.parametrize('lda_mode', ['interval', 'group'])
@pytest.mark.parametrize('size', [(224, 224), (90, 141)])
def test_every_parameter_gets_a_gradient(lda_mode, size):
    model = CrossFormer('ppS', lda_mode=lda_mode, drop_path_rate=0.0)
    model.train()
    sum(out.pow(2).mean() for out in model(torch.randn(1, 3, *size))).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize('lda_mode', ['interval', 'group'])
def test_gradcheck(lda_mode):
    """Compare analytic and numeric gradients of weights, with padded groups."""
    torch.manual_seed(0)
    # The first map is 10 x 9 tokens: 3 x 3 groups and interval 2 need padding.
    model = CrossFormer(
        dict(embed_dims=64, depths=(2,), num_heads=(2,)),
        group_size=[3],
        crs_interval=[2],
        lda_mode=lda_mode,
        merge_sizes=[],
        out_indices=[0],
        patch_sizes=[4],
    ).double()
    names = [
        'layers.0.blocks.1.attn.pos.pos_proj.weight',
        'layers.0.blocks.1.attn.pos.pos3.2.weight',
        'layers.0.blocks.0.attn.qkv.bias',
    ]
    parameters = dict(model.named_parameters())
    images = torch.randn(1, 3, 40, 36, dtype=torch.double)

    def loss(*tensors):
        (out,) = torch.func.functional_call(model, dict(zip(names, tensors)), images)
        return out.mul(torch.linspace(0, 1, out.numel()).double().view_as(out)).sum()

    tensors = [parameters[name].detach().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(loss, tensors, atol=1e-4)


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(arch='M'), "arch='M'.*T, S, B, L, ppS, ppB, ppL, ppH"),
        (dict(arch=3), 'arch must be'),
        (dict(arch=dict(embed_dims=64, depths=(2, 2))), 'num_heads'),
        (dict(arch=dict(TINY, width=3)), 'width'),
        (dict(arch=dict(TINY, num_heads=(3, 3, 3, 3))), r'num_heads\[0\]=3.*32'),
        (dict(arch=dict(TINY, num_heads=(1, 2))), 'num_heads must have 4'),
        (dict(arch=dict(TINY, embed_dims=8)), 'embed_dims'),
        (dict(arch=dict(TINY, depths=(2, 0, 2, 2))), 'depths'),
        (dict(group_size=[7, 7, 7]), 'group_size must have 4.*got 3'),
        (dict(group_size=7), 'group_size'),
        (dict(crs_interval=[8, 4, 2, 0]), 'crs_interval'),
        (dict(lda_mode='global'), "lda_mode.*interval.*group.*'global'"),
        (dict(adaptive_interval=True), 'adaptive_interval=True.*interval'),
        (dict(position_bias='rope'), "position_bias.*'rope'"),
        (dict(patch_sizes=[4, 7]), r'patch_sizes.*\[4, 7\]'),
        (dict(patch_sizes=[4] * 7), 'patch_sizes.*share'),
        (dict(merge_sizes=[[2, 4]]), 'merge_sizes must have 3'),
        (dict(merge_sizes=[[2], [3], [2]]), r'merge_sizes.*\[3\]'),
        (dict(out_indices=[4]), 'out_indices.*4'),
        (dict(out_indices=[]), 'out_indices'),
        (dict(frozen_stages=5), 'frozen_stages.*5'),
        (dict(drop_path_rate=1.5), 'drop_path_rate.*1.5'),
        (dict(drop_rate=-0.1), 'drop_rate.*-0.1'),
        (dict(attn_drop_rate='x'), "attn_drop_rate.*'x'"),
        (dict(mlp_ratio=0), 'mlp_ratio.*0'),
        (dict(in_channels=0), 'in_channels.*0'),
    ],
)
def test_invalid_argument_errors(kwargs, message):
    with pytest.raises(ValueError, match=message):
        CrossFormer(**kwargs)


@pytest.mark.parametrize(
    'old, new',
    [
        (dict(in_chans=1), dict(in_channels=1)),
        (dict(patch_size=[4, 8]), dict(patch_sizes=[4, 8])),
        (dict(merge_size=[[2]] * 3), dict(merge_sizes=[[2]] * 3)),
        (dict(use_checkpoint=True), dict(with_cp=True)),
        (dict(pretrained=None), dict()),
    ],
)
def test_original_argument_names(old, new):
    assert str(CrossFormer('T', **old)) == str(CrossFormer('T', **new))


def test_path_as_init_cfg():
    expected = dict(type='Pretrained', checkpoint='x.pth')
    for name in ('pretrained', 'init_cfg'):
        assert CrossFormer('T', **{name: 'x.pth'}).init_cfg == [expected]


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(img_size=224), 'no argument img_size: any size'),
        (dict(num_classes=80), 'num_classes.*head'),
        (dict(embed_dim=96), 'embed_dim: take arch=dict'),
        (dict(ape=True), "ape: take position_bias='ape'"),
        (dict(patch_size=[4], patch_sizes=[4]), 'older name of patch_sizes'),
    ],
)
def test_unsupported_argument_errors(kwargs, message):
    with pytest.raises(ValueError, match=message):
        CrossFormer('T', **kwargs)


@pytest.mark.parametrize(
    'shape, message',
    [
        ((1, 1, 64, 64), r'in_channels=3.*\[1, 1, 64, 64\]'),
        ((3, 64, 64), r'\[3, 64, 64\]'),
        ((0, 3, 64, 64), r'no image.*\[0, 3, 64, 64\]'),
        ((1, 3, 64, 0), 'no image'),
    ],
)
def test_invalid_input_errors(shape, message):
    with pytest.raises(ValueError, match=message):
        tiny()(torch.randn(shape))


@pytest.mark.parametrize('lda_mode', ['interval', 'group'])
@pytest.mark.parametrize('size', [(24, 100), (61, 31), (1, 1)])
def test_short_sides_are_padded_to_32(lda_mode, size):
    model = tiny(lda_mode=lda_mode).eval()
    images = torch.randn(2, 3, *size)
    height, width = size
    padded = torch.zeros(2, 3, max(height, 32), max(width, 32))
    padded[:, :, :height, :width] = images
    with torch.no_grad():
        for i, (out, whole) in enumerate(zip(model(images), model(padded))):
            rows, cols = (-(-side // (4 * 2**i)) for side in size)
            assert torch.equal(out, whole[:, :, :rows, :cols])
            assert out.shape[2:] == (rows, cols) and out.is_contiguous()


@pytest.mark.parametrize('out_indices', [(0,), (1, 3), (2,), (0, 1, 2, 3)])
def test_out_indices(out_indices):
    model = tiny(out_indices=out_indices)
    images = torch.randn(2, 3, 64, 96)
    outputs = model(images)
    assert [out.shape[1] for out in outputs] == [32 * 2**i for i in out_indices]
    sum(out.sum() for out in outputs).backward()
    unused = [name for name, p in model.named_parameters() if p.grad is None]
    assert unused == []


@pytest.mark.parametrize('frozen_stages', [-1, 0, 1, 2, 3, 4])
def test_frozen_stages(frozen_stages):
    model = tiny(frozen_stages=frozen_stages, drop_path_rate=0.5)
    model.train()
    frozen = ['patch_embed', *(f'layers.{i}' for i in range(frozen_stages))]
    frozen = tuple(frozen) if frozen_stages >= 0 else ()
    for name, module in model.named_modules():
        if name:
            assert module.training != name.startswith(frozen), name
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad != name.startswith(frozen), name


def test_with_cp_gives_the_same_gradients():
    images = torch.randn(2, 3, 80, 96)
    plain, recomputed = tiny(drop_path_rate=0.3), tiny(drop_path_rate=0.3, with_cp=True)
    for model in (plain, recomputed):
        torch.manual_seed(1)
        sum(out.pow(2).mean() for out in model(images)).backward()
    for (name, a), b in zip(plain.named_parameters(), recomputed.parameters()):
        torch.testing.assert_close(a.grad, b.grad, msg=name)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('lda_mode', ['interval', 'group'])
def test_autocast_is_finite_and_close(lda_mode, dtype):
    model = tiny(lda_mode=lda_mode)
    images = torch.randn(2, 3, 75, 99)  # some groups contain only padding
    expected = model(images)
    with torch.autocast('cpu', dtype):
        outs = model(images)
    for out, expected_out in zip(outs, expected):
        difference = (out.float() - expected_out).square().mean().sqrt()
        assert difference < 0.05 * expected_out.std()
    sum(out.float().square().mean() for out in outs).backward()
    assert all(param.grad.isfinite().all() for param in model.parameters())


def test_drop_path_grows_linearly_over_all_blocks():
    model = CrossFormer('S')
    rates = [
        block.drop_path.drop_prob for stage in model.layers for block in stage.blocks
    ]
    assert rates == pytest.approx(np.linspace(0, 0.2, 12))


def test_init():
    model = MODELS.build(dict(type='CrossFormer_T'))
    model.init_weights()
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            assert module.bias is None or not module.bias.any()
            if module.weight.numel() > 10000:
                assert module.weight.std().item() == pytest.approx(0.02, rel=0.05)
        elif isinstance(module, torch.nn.LayerNorm):
            assert (module.weight == 1).all()
            assert not module.bias.any()


@pytest.mark.parametrize('position_bias', ['dpb', 'none'])
def test_position_bias(position_bias):
    model = tiny(position_bias=position_bias).eval()
    assert model(torch.randn(1, 3, 64, 64))[3].isfinite().all()
    has_bias = any('.pos.' in name for name, _ in model.named_parameters())
    assert has_bias == (position_bias != 'none')


def test_single_scale_embedding():
    """The paper's ablation: kernel size 4, then 2."""
    model = CrossFormer('S', patch_sizes=[4], merge_sizes=[[2]] * 3)
    assert [len(stage.downsample.reductions) for stage in model.layers[:3]] == [1] * 3
    assert [out.shape[1] for out in model(torch.randn(1, 3, 64, 64))] == [
        ARCHS['S']['embed_dims'] * 2**i for i in range(4)
    ]
