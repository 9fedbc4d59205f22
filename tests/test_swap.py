"""crossformer-config swap: its rules, the written text and the command."""

import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config, ConfigDict
from mmengine.registry import RUNNERS, DefaultScope

from crossformer_mm.swap import rules
from crossformer_mm.swap.rules import Outputs, backbone_config, translate
from crossformer_mm.swap.write_config import Change, config_text
from tests.helpers import ROOT, on_openmmlab

COMMAND = Path(sys.executable).with_name('crossformer-config')
OLD, NEW = [256, 512, 1024, 2048], [96, 192, 384, 768]


@pytest.mark.parametrize(
    ('strides', 'indices', 'differ'),
    [
        ([4, 8, 16, 32], None, False),
        ([8, 16, 32], (1, 2, 3), False),
        ([32], (3,), False),
        ([4, 8, 8, 8], None, True),  # dilated: by position
        ([16, 16, 16, 16], None, True),  # a plain transformer
        ([8, 16, 100], (1, 2, 3), True),  # an unknown stride: the last outputs
    ],
)
def test_output_indices(strides, indices, differ):
    given, note = backbone_config('CrossFormer_S', Outputs([1] * 4, strides))
    assert given.get('out_indices') == indices
    assert ('those of the stock backbone' in note) == differ


@pytest.mark.parametrize(
    ('name', 'file'),
    [
        ('CrossFormer_T', 'crossformer-t'),
        ('CrossFormerPP_B', 'crossformerpp-b'),
        ('CrossFormer_S2', 'crossformerpp-s'),
    ],
)
def test_pretrained_file_as_in_our_configs(name, file):
    given, _ = backbone_config(name, Outputs(OLD, [4, 8, 16, 32]))
    wanted = dict(type='Pretrained', checkpoint=f'pretrained/backbone-{file}.pth')
    assert given['init_cfg'] == wanted


@pytest.mark.parametrize(
    ('value', 'index', 'wanted'),
    [
        (OLD, None, NEW),
        (tuple(OLD), None, tuple(NEW)),
        (OLD[::-1], None, NEW[::-1]),  # YOLOv3's neck
        ([256, 2048], [0, 3], [96, 768]),
        ([256, 2048], None, [96, 768]),
        (1024, 2, 384),
        (2048, None, 768),
        (2048, -1, 768),
        (512, None, 512),  # not a width of the last output
        (512, 3, 512),  # not the width of that output
        ([256, 100], None, [256, 100]),
        (None, None, None),
    ],
)
def test_widths(value, index, wanted):
    assert translate(value, index, OLD, NEW) == wanted


def changes(**settings):
    """Return the changes of a swap, by their path in the config."""
    model = dict(
        type='RetinaNet',
        backbone=dict(
            type='ResNet', depth=18, out_indices=(0, 1, 2, 3), norm_eval=False
        ),
    )
    cfg = Config(
        dict(default_scope='mmdet', model=model | settings.pop('model', {}), **settings)
    )
    return {c.path: c.value for c in rules.changes(cfg, 'CrossFormer_S')}


def test_neck_changes_and_heads_after_it_do_not():
    found = changes(
        model=dict(
            neck=dict(type='FPN', in_channels=[64, 128, 256, 512], out_channels=64),
            bbox_head=dict(in_channels=512),
        )
    )
    assert found['model', 'neck', 'in_channels'] == NEW
    assert ('model', 'bbox_head', 'in_channels') not in found


def test_first_of_several_necks_changes():
    found = changes(
        model=dict(neck=[dict(in_channels=[64, 512]), dict(in_channels=512)])
    )
    assert found['model', 'neck', 0, 'in_channels'] == [96, 768]
    assert ('model', 'neck', 1, 'in_channels') not in found


def test_heads_without_a_neck():
    found = changes(
        model=dict(
            decode_head=[
                dict(in_channels=512, c1_in_channels=64, channels=512),
                dict(in_channels=256, in_index=2),
            ],
            auxiliary_head=dict(kernel=dict(in_channels=128, in_index=1)),
        )
    )
    assert found['model', 'decode_head', 0, 'in_channels'] == 768
    assert found['model', 'decode_head', 0, 'c1_in_channels'] == 96
    assert found['model', 'decode_head', 1, 'in_channels'] == 384
    assert found['model', 'auxiliary_head', 'kernel', 'in_channels'] == 192


def test_head_without_convolutions_and_head_after_a_jpu():
    head = dict(in_channels=512, in_index=3, channels=512, num_convs=0)
    found = changes(model=dict(decode_head=head))
    assert found['model', 'decode_head', 'channels'] == 768
    neck = dict(type='JPU', in_channels=(128, 256, 512))
    aux = dict(in_channels=256, in_index=2)
    found = changes(
        model=dict(neck=neck, decode_head=dict(in_channels=512), auxiliary_head=aux)
    )
    assert found['model', 'neck', 'in_channels'] == (192, 384, 768)
    assert found['model', 'auxiliary_head', 'in_channels'] == 384
    assert ('model', 'decode_head', 'in_channels') not in found


def test_pyramid_of_a_plain_transformer():
    neck = dict(type='MultiLevelNeck', out_channels=99, scales=[4, 2, 1, 0.5])
    found = changes(model=dict(neck=neck, decode_head=dict(in_channels=[99] * 4)))
    assert found['model', 'neck'] is None
    assert found['model', 'decode_head', 'in_channels'] == NEW


@pytest.mark.parametrize(
    ('preprocessor', 'differs'),
    [
        (dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]), True),
        (dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0]), True),
        (dict(pad_size_divisor=32), True),
        (rules.normalized(), False),
    ],
)
def test_normalization(preprocessor, differs):
    found = changes(model=dict(data_preprocessor=preprocessor))
    assert (('model', 'data_preprocessor') in found) == differs
    if differs:
        assert found['model', 'data_preprocessor'] == rules.normalized()


def test_adamw_replaces_sgd_only():
    sgd = dict(optimizer=dict(type='SGD', lr=0.02), clip_grad=dict(max_norm=35))
    found = changes(optim_wrapper=sgd, auto_scale_lr=dict(base_batch_size=64))
    wanted = dict(_delete_=True, type='AdamW', lr=1e-4, weight_decay=1e-4)
    assert found['optim_wrapper', 'optimizer'] == wanted
    assert found['auto_scale_lr',] == dict(base_batch_size=16)
    found = changes(optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.004)))
    assert not any(path[0] == 'optim_wrapper' for path in found)


def test_layer_decay_is_translated():
    wrapper = dict(
        optimizer=dict(type='AdamW'),
        constructor='LearningRateDecayOptimizerConstructor',
        paramwise_cfg=dict(decay_rate=0.7, decay_type='layer_wise', num_layers=6),
    )
    found = changes(optim_wrapper=wrapper)
    ours = 'LayerDecayOptimWrapperConstructor'
    assert found['optim_wrapper', 'constructor'] == ours
    decay = dict(_delete_=True, layer_decay_rate=0.7)
    assert found['optim_wrapper', 'paramwise_cfg'] == decay


def test_pretrained_load_from_and_imports():
    found = changes(
        model=dict(pretrained='open-mmlab://resnet50_v1c'),
        load_from='coco.pth',
        custom_imports=dict(imports=['mine']),
    )
    assert found['model', 'pretrained'] is None
    assert found['load_from',] is None
    assert found['custom_imports',]['imports'] == ['mine', 'crossformer_mm']
    assert found['runner_type',] == 'CheckedRunner'


@pytest.mark.parametrize(
    ('model', 'message'),
    [
        (
            dict(type='SoftTeacher', detector=dict(type='x')),
            'SoftTeacher has no backbone',
        ),
        (dict(type='VoteNet', pts_backbone={}), 'VoteNet has no backbone'),
        (
            dict(type='A', backbone=dict(type='BiSeNetV1')),
            'BiSeNetV1 has several',
        ),
        (
            dict(type='A', backbone=dict(type='Nothing')),
            'its own backbone, Nothing',
        ),
    ],
)
def test_unsupported_models_are_refused(model, message):
    cfg = Config(dict(default_scope='mmseg', model=model))
    with pytest.raises(rules.SwapError, match=message):
        rules.changes(cfg, 'CrossFormer_S')


def test_text_is_formatted_like_ruff(tmp_path):
    long = dict(type='x' * 40, names=[f'name {i}' for i in range(20)])
    text = config_text(
        'mmdet::a.py',
        [
            Change(('runner_type',), 'CheckedRunner'),
            Change(('model', 'pretrained'), None),
            Change(('model', 'backbone'), long, 'words ' * 40),
            Change(('model', 'neck', 'in_channels'), (1,)),
            Change(('model', 'neck', 0, 'in_channels'), list(range(90))),
        ],
    )
    path = tmp_path / 'config.py'
    path.write_text(text)
    ruff = Path(sys.executable).with_name('ruff')
    config = ('--config', ROOT / 'pyproject.toml')
    subprocess.run([ruff, 'format', '--check', *config, path], check=True)


def run(*arguments, folder):
    command = [COMMAND, 'swap', *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_command_errors_write_no_file(tmp_path):
    backbone = ('--backbone', 'CrossFormer_S', '--out')
    (tmp_path / 'old.py').write_text('')
    (tmp_path / 'empty.py').write_text('')
    for arguments, message in [
        (('nothing.py', *backbone, 'new.py'), 'nothing.py: there is no such file'),
        (('empty.py', *backbone, 'old.py'), 'old.py exists already'),
        (('empty.py', *backbone, 'new.py'), 'it has no model'),
        (('mmdet::no/such.py', *backbone, 'new.py'), 'it cannot be read'),
        (('mmdet::gn+ws/any.py', *backbone, 'new.py'), 'give the path of the file'),
    ]:
        result = run(*arguments, folder=tmp_path)
        assert result.returncode == 1
        (line,) = result.stderr.splitlines()
        assert line.startswith('crossformer-config: ')
        assert message in line
    assert {path.name for path in tmp_path.iterdir()} == {'old.py', 'empty.py'}


# One of each kind: boxes, anchor-free masks, segmentation.
FAMILIES = {
    'mmdet': (
        'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
        'mmdet::rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py',
    ),
    'mmsegmentation': (
        'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py',
    ),
}


@on_openmmlab
@pytest.mark.slow
@pytest.mark.parametrize(
    ('package', 'base'), [(p, base) for p, bases in FAMILIES.items() for base in bases]
)
def test_swapped_config_trains(package, base, mim, mini_coco, mini_ade20k, tmp_path):
    swapped = tmp_path / 'swapped.py'
    result = run(
        base, '--backbone', 'CrossFormer_T', '--out', 'swapped.py', folder=tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == 'swapped.py\n'
    ruff = Path(sys.executable).with_name('ruff')
    config = ('--config', ROOT / 'pyproject.toml')
    subprocess.run([ruff, 'format', '--check', *config, swapped], check=True)

    cfg = Config.fromfile(swapped)
    cfg.model.backbone.init_cfg = None
    root = mini_coco if package == 'mmdet' else mini_ade20k
    make_short(cfg, root)
    if base.startswith('mmdet::retinanet'):  # once with mim
        cfg.dump(tmp_path / 'small.py')
        small = ('train', package, tmp_path / 'small.py')
        trained = mim(*small, '--work-dir', tmp_path / 'run')
        assert trained.returncode == 0, trained.stdout
    else:
        cfg.work_dir = cfg.experiment_name = cfg.visualizer.name = str(tmp_path / 'run')
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            RUNNERS.build(cfg).train()
    assert list((tmp_path / 'run').glob('*_1.pth'))


def make_short(cfg, root):
    """Shorten a config to an epoch of two images, or to one iteration."""
    from crossformer_mm.preflight.first_step import shrink
    from crossformer_mm.swap.dry_run import make_small

    shrink(cfg._cfg_dict)
    make_small(cfg, 192)
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
        loader.pop('batch_sampler', None)
        loader.dataset.update(data_root=f'{root}/', indices=2)
        cfg[f'{split}_dataloader'] = loader
    for name in ('val_evaluator', 'test_evaluator'):
        if 'ann_file' in cfg[name]:
            cfg[name].ann_file = f'{root}/annotations/instances_val2017.json'
    # Without mosaics, which cache many images, and their second stage.
    mixes = ('CachedMosaic', 'CachedMixUp')
    dataset = cfg.train_dataloader.dataset
    dataset.pipeline = [t for t in dataset.pipeline if t.type not in mixes]
    if cfg.default_scope == 'mmdet':
        cfg.train_cfg = ConfigDict(type='EpochBasedTrainLoop', max_epochs=1)
        cfg.default_hooks.checkpoint = ConfigDict(type='CheckpointHook', interval=1)
    else:
        cfg.train_cfg.update(max_iters=1, val_interval=1)
        cfg.default_hooks.checkpoint.interval = 1
