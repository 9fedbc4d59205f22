"""``init_cfg=dict(type='Pretrained', ...)`` loads a file completely or not at all."""

import logging

import pytest
import torch
from mmengine.model import PretrainedInit
from mmengine.registry import MODELS
from safetensors.torch import save_file

from crossformer_mm.checkpoint import CheckpointError, load
from tests.checkpoint import kinds


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'file.pth'


@pytest.fixture
def log(monkeypatch):
    """Collect the level and message of each log line."""
    lines = []
    monkeypatch.setattr(
        load, 'print_log', lambda text, _, level: lines.append((level, text))
    )
    return lines


def backbone(path, variant='tiny', out_indices=(0, 1, 2, 3), **kwargs):
    """Build a backbone with random weights and an ``init_cfg``."""
    init_cfg = dict(type='Pretrained', checkpoint=str(path), **kwargs)
    return MODELS.build(
        dict(
            type='CrossFormer',
            arch=variant,
            out_indices=out_indices,
            init_cfg=init_cfg,
        )
    )


def assert_loaded(model, variant='tiny'):
    expected = kinds.backbone_weights(variant)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def assert_unchanged_by(model, error):
    """Check that loading fails without changing a weight; return the error."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=error) as raised:
        model.init_weights()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    return str(raised.value)


@pytest.mark.parametrize('make', kinds.KINDS)
def test_every_kind_loads_unconverted(make, path, log):
    make(path, 'tiny')
    model = backbone(path)
    model.init_weights()
    assert_loaded(model)
    count = len(model.state_dict())
    line = f'Loaded {path}, CrossFormer-tiny: {count} tensors, the whole backbone'
    assert log == [(logging.INFO, line)]


def test_pretrained_is_applied_last_in_a_list(path):
    kinds.classifier(path, 'tiny')
    file = dict(type='Pretrained', checkpoint=str(path))
    constant = dict(type='Constant', layer=['Linear', 'LayerNorm'], val=7, bias=7)
    init_cfg = [file, constant]
    model = MODELS.build(dict(type='CrossFormer', arch='tiny', init_cfg=init_cfg))
    model.init_weights()
    assert_loaded(model)


@pytest.mark.parametrize(
    'name',
    [
        'Pretrained',
        'mmengine.Pretrained',
        'mmengine.model.weight_init.PretrainedInit',  # in a dumped config
        PretrainedInit,  # in a pure-Python config
        'PretrainedBackbone',
    ],
)
def test_every_type_name(name, path):
    kinds.classifier(path, 'deep')
    init_cfg = dict(type=name, checkpoint=str(path), map_location='cpu')
    model = MODELS.build(dict(type='CrossFormer', arch='tiny', init_cfg=init_cfg))
    assert_unchanged_by(model, 'does not fit')


def test_init_cfg_set_after_building(path):
    kinds.classifier(path, 'deep')
    model = MODELS.build(dict(type='CrossFormer', arch='tiny'))
    model.init_cfg = dict(type='Pretrained', checkpoint=str(path))
    assert_unchanged_by(model, 'does not fit')


@pytest.mark.parametrize('prefix', ['backbone.', 'backbone'])
def test_prefix(prefix, path):
    kinds.detector(path, 'tiny')
    model = backbone(path, prefix=prefix)
    model.init_weights()
    assert_loaded(model)
    message = assert_unchanged_by(backbone(path, prefix='neck.'), "prefix='neck.'")
    assert message.endswith("take prefix='backbone.'.")


def test_prefix_of_a_file_without_one(path):
    kinds.classifier(path, 'tiny')
    assert_unchanged_by(
        backbone(path, prefix='backbone.'),
        "no CrossFormer under prefix='backbone.': take no prefix",
    )


def test_missing_file_error_links_the_published_file(tmp_path):
    message = assert_unchanged_by(
        backbone(tmp_path / 'nowhere.pth', 'S'), 'Pretrained weights not found: '
    )
    assert f'{tmp_path}/nowhere.pth' in message
    assert '/1RAkigsgr33va0RZ85S2Shs2BhXYcS6U8' in message


def test_checkpoint_of_another_variant_is_an_error(path):
    kinds.classifier(path, 'deep')
    message = assert_unchanged_by(backbone(path), 'looks like CrossFormer-deep')
    assert message.startswith(f'{path} does not fit the backbone, CrossFormer: ')
    # The file has all weights of the smaller network, and others that it lacks.
    assert '52 unknown (layers.2.blocks.2.norm1.weight, ' in message
    assert_unchanged_by(backbone(path, 'T'), 'looks like CrossFormer-deep')


def test_missing_weight_is_an_error(path):
    weights = kinds.classifier_weights('tiny')
    del weights['layers.2.blocks.0.attn.qkv.bias']
    torch.save({'model': weights}, path)
    name = 'layers.2.blocks.0.attn.qkv.bias'
    assert_unchanged_by(backbone(path), rf'CrossFormer-tiny; 1 missing \({name}\)')


def test_partial_loading_with_strict_false(path, log):
    kinds.classifier(path, 'tiny')
    model = backbone(path, 'deep', strict=False)
    before = model.layers[2].blocks[2].mlp.fc1.weight.clone()
    model.init_weights()
    expected = kinds.backbone_weights('tiny')
    for name, tensor in expected.items():
        assert torch.equal(model.state_dict()[name], tensor), name
    assert torch.equal(model.layers[2].blocks[2].mlp.fc1.weight, before)
    needed = len(model.state_dict())
    ((level, line),) = log
    assert level == logging.WARNING
    assert f'{len(expected)} of {needed} tensors of the backbone; ' in line
    assert '52 missing (layers.2.blocks.2.norm1.weight' in line


def test_partial_loading_without_a_match_is_an_error(path):
    weights = kinds.classifier_weights('tiny')
    torch.save({name: tensor[..., None] for name, tensor in weights.items()}, path)
    assert_unchanged_by(backbone(path, strict=False), 'does not fit')


@pytest.mark.parametrize('out_indices', [(0,), (1, 2), (0, 1, 2, 3)])
def test_weights_of_unbuilt_stages_are_ignored(out_indices, path):
    kinds.classifier(path, 'tiny')
    model = backbone(path, out_indices=out_indices)
    model.init_weights()
    assert_loaded(model)
    kinds.classifier(path, 'T')
    assert_unchanged_by(backbone(path, out_indices=out_indices), 'CrossFormer-T')


def test_file_with_fewer_stages_is_an_error(path):
    small = MODELS.build(dict(type='CrossFormer', arch='tiny', out_indices=(0, 1)))
    torch.save(small.state_dict(), path)
    assert_unchanged_by(backbone(path), r'missing \(layers.1.downsample')


@pytest.mark.parametrize(
    ('change', 'error'),
    [
        (
            lambda t: t.long(),
            r'no floating point numbers \(patch_embed.norm.bias',
        ),
        (lambda t: t.half() / 0, 'NaN or Inf'),
        (lambda t: t.bfloat16() * float('nan'), 'NaN or Inf'),
        (lambda t: t / 0, r'1 weights with NaN or Inf \(patch_embed.norm.bias\)'),
        (lambda t: t * float('nan'), 'NaN or Inf'),
        (lambda t: t.to_sparse(), 'it has a sparse tensor'),
        (lambda t: t.to('meta'), 'it has a meta tensor'),
        (lambda t: t[:-1], 'mismatched'),
        (lambda t: None, 'missing'),
    ],
)
def test_unusable_weights_are_an_error(change, error, path):
    weights = kinds.classifier_weights('tiny')
    weights['patch_embed.norm.bias'] = change(weights['patch_embed.norm.bias'])
    torch.save({'model': weights}, path)
    assert_unchanged_by(backbone(path), error)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize('save', [torch.save, save_file])
def test_other_precisions_become_float32(dtype, save, path, log):
    weights = {k: t.to(dtype) for k, t in kinds.backbone_weights('tiny').items()}
    save(weights, path)
    model = backbone(path)
    model.init_weights()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[name].float()), name
    ((level, line),) = log
    assert level == logging.INFO
    name = str(dtype).removeprefix('torch.')
    assert line.endswith(f'the whole backbone, {len(weights)} of them {name}')


def test_mismatch_stops_training_before_the_first_iteration(path, tmp_path):
    kinds.classifier(path, 'deep')
    init_cfg = dict(type='Pretrained', checkpoint=str(path))
    training = kinds.runner(tmp_path / 'work', kinds.Detector('tiny', init_cfg))
    with pytest.raises(CheckpointError, match='looks like CrossFormer-deep'):
        training.train()
    assert training.iter == 0


def test_published_file_in_a_published_backbone(path):
    kinds.first_release(path, 'S')
    init_cfg = dict(type='Pretrained', checkpoint=str(path))
    model = MODELS.build(dict(type='CrossFormer_S', init_cfg=init_cfg))
    model.init_weights()
    assert_loaded(model, 'S')
