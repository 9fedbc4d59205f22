"""Complete networks in ONNX, compared with PyTorch and run without it."""

import json
import os
import re
import subprocess
import sys

import cv2
import numpy as np
import onnx
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from pycocotools import mask as coco_mask

from crossformer_mm import CrossFormer
from tests.helpers import DETECTOR, ROOT, SEGMENTOR, TORCH_21

pytestmark = pytest.mark.skipif(TORCH_21, reason='torch 2.1 does not export so')
# Small networks: the export time grows with each block.
BACKBONE = """
backbone = dict(
    _delete_=True,
    type='CrossFormer',
    arch=dict(embed_dims=32, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8)),
    group_size=[7, 7, 7, 7],
    crs_interval=[8, 4, 2, 1],
)
neck = dict(in_channels=[32, 64, 128, 256])
"""
ONE_STAGE = """
custom_imports = dict(imports=['crossformer_mm'], allow_failed_imports=False)
bbox_head = dict(num_classes=5)
"""
# The second block of a stage attends at long distance.
WITH_LDA = BACKBONE.replace('depths=(1, 1, 1, 1)', 'depths=(1, 1, 2, 1)')
CONFIGS = {
    'mask_rcnn': f"""_base_ = '{DETECTOR}'{BACKBONE}
model = dict(backbone=backbone, neck=neck)""",
    'fpn': f"""_base_ = '{SEGMENTOR}'{WITH_LDA}
model = dict(backbone=backbone, neck=neck)""",
    'retinanet': f"""_base_ = '{ROOT}/configs/retinanet_crossformer_s_fpn_1x_coco.py'
{BACKBONE}
model = dict(backbone=backbone, neck=neck, bbox_head=dict(stacked_convs=1))""",
    'fcos': f"""_base_ = ['mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py']
{ONE_STAGE}{BACKBONE}
model = dict(backbone=backbone, neck=neck)""",
    'atss': f"""_base_ = ['mmdet::atss/atss_r50_fpn_1x_coco.py']
{ONE_STAGE}{BACKBONE}
model = dict(backbone=backbone, neck=neck)""",
    'cascade': f"""
_base_ = '{ROOT}/configs/cascade_mask_rcnn_crossformer_s_fpn_3x_coco.py'
{BACKBONE}
model = dict(backbone=backbone, neck=neck)""",
    'upernet': f"""_base_ = '{ROOT}/configs/upernet_crossformer_s_160k_ade20k.py'
{BACKBONE}
widths = [32, 64, 128, 256]
model = dict(
    backbone=backbone,
    decode_head=dict(in_channels=widths, channels=64),
    auxiliary_head=dict(in_channels=128),
)""",
}


def tool(name, *arguments, **variables):
    command = [sys.executable, ROOT / 'tools' / f'{name}.py', *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **variables}
    )


def make_network(name, folder):
    """Write a config and a checkpoint of its untrained network."""
    config = folder / f'{name}.py'
    config.write_text(CONFIGS[name])
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    for part, module in model.named_modules():
        # Make results vary and scores exceed the threshold.
        one_by_one = isinstance(module, torch.nn.Conv2d) and module.kernel_size == (
            1,
            1,
        )
        if part.endswith('fc_cls') or one_by_one:
            torch.nn.init.normal_(module.weight, std=0.2)
            # With a bias of 0, masks would be exactly 0.5 where maps are 0.
            if module.bias is not None:
                torch.nn.init.normal_(module.bias, std=0.2)
    torch.save(dict(meta={}, state_dict=model.state_dict()), folder / f'{name}.pth')
    return config, folder / f'{name}.pth', folder / f'{name}.onnx'


def check_agreement(text, ties=0):
    """Check the printed comparisons; return their number.

    Ties are allowed to differ: overlapping boxes with equal scores, and pixels at the
    threshold.
    """
    lines = [line for line in text.splitlines() if re.match(r'\d+ x \d+: ', line)]
    for line in lines:
        if labels := re.search(r'([\d.]+)% of the labels', line):
            assert float(labels[1]) >= 99.99, line
            continue
        _, missing, extra = map(
            int, re.search(r'(\d+) boxes match, (\d+) .* and (\d+)', line).groups()
        )
        assert missing == extra <= ties, line
        apart = re.search(r'IoU ([\d.]+), scores ([\d.e+-]+) apart', line)
        assert float(apart[1]) > 0.99 and float(apart[2]) < 1e-3, line
        if masks := re.search(r'masks ([\d.]+) .* within ([\d.e+-]+) of', line):
            assert float(masks[1]) > 0.99 or float(masks[2]) < 0.01, line
    return len(lines)


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp('images')
    noise = np.random.default_rng(0)
    for name, size in (('first.png', (70, 90, 3)), ('second.jpg', (121, 64, 3))):
        cv2.imwrite(str(folder / name), noise.integers(0, 255, size, dtype=np.uint8))
    (folder / 'broken.jpg').write_bytes(b'no image')
    return folder


@pytest.fixture
def parts_on_path(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / 'tools')


@pytest.mark.slow
def test_detector(images, tmp_path):
    config, weights, out = make_network('mask_rcnn', tmp_path)
    run = tool('export_onnx', config, weights, out)
    assert run.returncode == 0, run.stderr
    assert check_agreement(run.stdout) == 3
    model = onnx.load(out)
    assert {node.domain for node in model.graph.node} == {''}
    assert not model.functions
    sides = model.graph.input[0].type.tensor_type.shape.dim
    assert sides[2].dim_param and sides[3].dim_param, 'height and width are static'
    run = tool('onnx_agreement', config, weights, out, '--sizes', 1, '--longest', 200)
    assert run.returncode == 0, run.stderr
    assert check_agreement(run.stdout) == 1

    folder = tmp_path / 'out'
    run = tool('run_onnx', images, '--model', out, '--out', folder, '--score', 0)
    assert run.returncode == 0, run.stderr
    assert 'left out, cannot be read' in run.stdout
    assert {p.name for p in (folder / 'vis').iterdir()} == {'first.jpg', 'second.jpg'}
    for name, size in (('first', [70, 90]), ('second', [121, 64])):
        found = json.loads((folder / 'preds' / f'{name}.json').read_text())
        assert found['masks'] and len(found['masks']) == len(found['bboxes'])
        for mask in found['masks']:
            mask = coco_mask.decode(coco_mask.frPyObjects(mask, *size))
            assert mask.shape == tuple(size)


@pytest.mark.slow
def test_one_stage_detector(tmp_path):
    """One size is 64 x 96, where the highest level has one pixel."""
    run = tool('export_onnx', *make_network('retinanet', tmp_path))
    assert run.returncode == 0, run.stderr
    assert check_agreement(run.stdout) == 3


def test_boxes_and_masks_in_the_original_image(parts_on_path):
    from mmdet.structures import DetDataSample

    from evaluate_onnx import instances

    sample = DetDataSample(metainfo=dict(ori_shape=(40, 60), scale_factor=(2.0, 0.5)))
    mask = torch.zeros(1, 28, 28)
    mask[:, :, :14] = 1  # the left half
    found = [
        torch.tensor([[20.0, 5.0, 100.0, 15.0]]),
        torch.ones(1),
        torch.zeros(1),
        mask,
    ]
    result = instances(found, sample)
    assert result.bboxes.tolist() == [[10, 10, 50, 30]]
    expected = torch.zeros(1, 40, 60, dtype=torch.bool)
    expected[:, 10:30, 10:30] = True
    assert torch.equal(result.masks, expected)
    none = [torch.zeros(0, 4), torch.zeros(0), torch.zeros(0), torch.zeros(0, 28, 28)]
    assert instances(none, sample).masks.shape == (0, 40, 60)


@pytest.mark.slow
def test_segmentor(images, mim, mini_ade20k, tmp_path):
    config, weights, out = make_network('fpn', tmp_path)
    run = tool('export_onnx', config, weights, out, '--scores')
    assert run.returncode == 0, run.stderr
    assert check_agreement(run.stdout) == 3
    shown = mim(
        'test',
        'mmsegmentation',
        config,
        '--checkpoint',
        weights,
        ade20k_root=mini_ade20k,
    ).stdout
    data = dict(ADE20K_ROOT=str(mini_ade20k))
    run = tool('evaluate_onnx', config, out, '--work-dir', tmp_path / 'w', **data)
    assert run.returncode == 0, run.stderr
    expected, found = (
        float(re.findall(r'mIoU: ([\d.]+)', text)[-1]) for text in (shown, run.stdout)
    )
    assert found == pytest.approx(expected, abs=0.05) and found > 0
    sides = onnx.load(out).graph.input[0].type.tensor_type.shape.dim
    assert [bool(side.dim_param) for side in sides] == [True, False, True, True]
    folder = tmp_path / 'out'
    run = tool('run_onnx', images, '--model', out, '--out', folder)
    assert run.returncode == 0, run.stderr
    found = json.loads((folder / 'preds' / 'second.json').read_text())
    assert found['label_map'] == 'preds/second.png'
    assert cv2.imread(str(folder / found['label_map']), -1).shape == (121, 64)
    assert sum(found['share'].values()) == pytest.approx(1, abs=1e-4)


@pytest.mark.skipif('EXPORT_ALL' not in os.environ, reason='EXPORT_ALL=1 runs it')
@pytest.mark.parametrize('name', CONFIGS)
def test_agrees_at_50_sizes(name, tmp_path):
    config, weights, out = make_network(name, tmp_path)
    run = tool('export_onnx', config, weights, out)
    assert run.returncode == 0, run.stderr + run.stdout
    run = tool('onnx_agreement', config, weights, out)
    print(run.stdout)
    assert check_agreement(run.stdout, ties=4) == 50, run.stderr


@pytest.mark.parametrize('lda_mode', ['interval', 'group'])
@pytest.mark.parametrize('size', [(224, 224), (97, 131), (64, 70), (40, 333)])
def test_exported_attention_is_the_same_at_any_size(lda_mode, size, parts_on_path):
    from parts.onnx_networks import at_any_size

    arch = dict(embed_dims=32, depths=(2, 2, 2), num_heads=(1, 2, 4))
    groups = dict(group_size=(7, 7, 7), crs_interval=(8, 4, 2))
    torch.manual_seed(0)
    model = CrossFormer(arch, lda_mode=lda_mode, out_indices=(0, 1, 2), **groups).eval()
    images = torch.rand(2, 3, *size)
    with torch.no_grad():
        expected = model(images)
        with at_any_size():
            found = model(images)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize('parts', [1, 2, 3, (6, 4)])
def test_exported_pooling_is_the_same(parts, parts_on_path):
    from parts.onnx_networks import at_any_size

    x = torch.rand(2, 3, 7, 5)
    expected = torch.nn.AdaptiveAvgPool2d(parts)(x)
    with at_any_size():
        torch.testing.assert_close(torch.nn.AdaptiveAvgPool2d(parts)(x), expected)


def test_masks_are_pasted_as_by_mmdet(parts_on_path):
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

    from run_onnx import paste_mask

    masks = torch.rand(20, 28, 28)
    corners = torch.rand(20, 2) * 40 - 5
    boxes = torch.cat([corners, corners + 3 + torch.rand(20, 2) * 30], 1)
    pasted, _ = _do_paste_mask(masks[:, None], boxes, 50, 61, skip_empty=False)
    for mask, box, expected in zip(masks.numpy(), boxes.numpy(), pasted.numpy()):
        differs = paste_mask(mask, box, 50, 61) != (expected >= 0.5)
        assert abs(expected[differs] - 0.5).max(initial=0) < 1e-4  # rounding


def test_uncovered_head_is_an_error(parts_on_path):
    from mmengine.hub import get_config

    from parts.onnx_networks import NotCovered, whole_network

    init_default_scope('mmdet')
    model = MODELS.build(get_config('mmdet::gfl/gfl_r50_fpn_1x_coco.py').model)
    with pytest.raises(NotCovered, match='GFLHead is not covered: covered are'):
        whole_network(model, with_scores=False)


def test_run_onnx_needs_no_torch():
    code = (
        "import runpy, sys; sys.modules['torch'] = sys.modules['mmengine'] = None; "
        f'runpy.run_path({str(ROOT / "tools" / "run_onnx.py")!r})'
    )
    subprocess.run([sys.executable, '-c', code], check=True)


def test_invalid_arguments(images, tmp_path):
    weights = tmp_path / 'weights.pth'
    weights.touch()
    out = tmp_path / 'out.onnx'
    run = tool('export_onnx', DETECTOR, tmp_path / 'nowhere.pth', out)
    assert run.returncode == 1 and 'nowhere.pth is missing' in run.stderr
    run = tool('export_onnx', DETECTOR, weights, weights)
    assert run.returncode == 1 and 'is there already' in run.stderr
    run = tool('run_onnx', images, '--model', weights, '--out', tmp_path / 'demo')
    assert run.returncode == 1 and 'cannot be loaded' in run.stderr
    assert not out.exists() and not (tmp_path / 'demo').exists()
