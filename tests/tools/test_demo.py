"""tools/demo.py: the inferencers of MMDetection and MMSegmentation on a folder."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from pycocotools import mask as coco_mask

from tests.helpers import DETECTOR, ROOT, SEGMENTOR

TOOL = ROOT / 'tools' / 'demo.py'


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """Return a folder with two images, a broken image and a text file."""
    folder = tmp_path_factory.mktemp('images')
    noise = np.random.default_rng(0)
    for name, size in (('first.png', (70, 90, 3)), ('zweites Bild.jpg', (120, 60, 3))):
        cv2.imwrite(str(folder / name), noise.integers(0, 255, size, dtype=np.uint8))
    (folder / 'broken.jpg').write_bytes(b'no image')
    (folder / 'notes.txt').write_text('no image either')
    return folder


def checkpoint(config, folder, classes):
    """Save an untrained network as MMEngine does."""
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    if cfg.default_scope == 'mmdet':
        from mmdet.registry import MODELS
    else:
        from mmseg.registry import MODELS
    torch.manual_seed(0)
    meta = dict(dataset_meta=dict(classes=classes, palette=[[9, 9, 9]] * len(classes)))
    weights = MODELS.build(cfg.model).state_dict()
    torch.save(dict(meta=meta, state_dict=weights), folder / 'start.pth')
    return folder / 'start.pth'


def demo(*arguments, **roots):
    command = [sys.executable, TOOL, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=roots or None)


@pytest.mark.slow
def test_detector(images, mini_coco, tmp_path):
    classes = Config.fromfile(DETECTOR).classes
    weights = checkpoint(DETECTOR, tmp_path, classes)
    run = demo(
        *(images, '--config', DETECTOR, '--checkpoint', weights),
        *('--out', tmp_path / 'out'),
        COCO_ROOT=str(mini_coco),
    )
    assert run.returncode == 0, run.stderr
    assert 'left out, cannot be read' in run.stdout and 'broken.jpg' in run.stdout
    assert {p.name for p in (tmp_path / 'out' / 'vis').iterdir()} == {
        'first.png',
        'zweites Bild.jpg',
    }
    for name, size in (('first', [70, 90]), ('zweites Bild', [120, 60])):
        found = json.loads((tmp_path / 'out' / 'preds' / f'{name}.json').read_text())
        assert len(found['labels']) == len(found['scores']) == len(found['bboxes'])
        assert all(label < len(classes) for label in found['labels'])
        assert found['masks']
        for mask in found['masks']:
            assert mask['size'] == size and coco_mask.decode(mask).shape == tuple(size)


@pytest.mark.slow
def test_segmentor(images, mini_ade20k, tmp_path):
    classes = [f'class {i}' for i in range(150)]
    weights = checkpoint(SEGMENTOR, tmp_path, classes)
    run = demo(
        *(images, '--config', SEGMENTOR, '--checkpoint', weights),
        *('--out', tmp_path / 'out'),
        ADE20K_ROOT=str(mini_ade20k),
    )
    assert run.returncode == 0, run.stderr
    for name, size in (('first', (70, 90)), ('zweites Bild', (120, 60))):
        found = json.loads((tmp_path / 'out' / 'preds' / f'{name}.json').read_text())
        labels = cv2.imread(str(tmp_path / 'out' / found['label_map']), -1)
        assert labels.shape == size
        assert sum(found['share'].values()) == pytest.approx(1, abs=1e-4)
        most = next(iter(found['share']))
        assert most == classes[np.bincount(labels.ravel()).argmax()]
    # Output files are named after their images.
    assert {str(p.relative_to(tmp_path / 'out')) for p in out_files(tmp_path)} == {
        *('preds/first.json', 'preds/first.png', 'vis/first.png'),
        *('preds/zweites Bild.json', 'preds/zweites Bild.png'),
        'vis/zweites Bild.jpg',
    }


def out_files(folder):
    return [path for path in (folder / 'out').rglob('*') if path.is_file()]


@pytest.mark.slow
def test_checkpoint_of_another_network_is_an_error(images, mini_coco, tmp_path):
    other = ROOT / 'configs' / 'retinanet_crossformer_t_fpn_1x_coco.py'
    weights = checkpoint(DETECTOR, tmp_path, ['a', 'b', 'c', 'd', 'e'])
    run = demo(
        *(images, '--config', other, '--checkpoint', weights),
        *('--out', tmp_path / 'out'),
        COCO_ROOT=str(mini_coco),
    )
    assert run.returncode == 1
    assert f'demo: {weights} does not fit the RetinaNet: ' in run.stderr
    assert ' missing (' in run.stderr and ' unknown (roi_head.' in run.stderr
    assert not (tmp_path / 'out').exists()


def test_invalid_arguments(images, tmp_path):
    weights = tmp_path / 'weights.pth'
    weights.touch()
    files = ('--config', DETECTOR, '--checkpoint', weights)
    run = demo(tmp_path / 'nowhere', *files)
    assert run.returncode == 1 and 'nowhere is missing' in run.stderr
    run = demo(images / 'notes.txt', *files)
    assert run.returncode == 1 and 'holds no image that can be read' in run.stderr
    run = demo(images, *files, '--out', images)
    assert run.returncode == 1 and 'holds something already' in run.stderr
    assert len(list(images.iterdir())) == 4
