"""Unusual images and annotations in mmdet's own pipeline."""

import json

import numpy as np
import pytest
from mmdet.registry import DATASETS
from mmengine.registry import init_default_scope
from PIL import Image
from torch.utils.data import DataLoader

from tests.helpers import DETECTOR, scalars
from tests.training.helpers import short_config

KITE = 38  # one of the mini config's classes
COLOR = (200, 60, 30)


def draw(mode, width=90, height=60):
    """Draw a bright rectangle on noise."""
    pixels = np.random.default_rng(0).integers(0, 99, (height, width, 3), np.uint8)
    pixels[height // 4 : height // 2, width // 4 : width // 2] = COLOR
    return Image.fromarray(pixels).convert(mode)


def save_rotated(path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees for display
    draw('RGB').save(path, exif=exif)


def save_cut_off(path):
    draw('RGB', 640, 480).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


READABLE = {
    'gray.jpg': lambda path: draw('L').save(path),
    'alpha.png': lambda path: draw('RGBA').save(path),
    'palette.png': lambda path: draw('P').save(path),
    'cmyk.jpg': lambda path: draw('CMYK').save(path),
    'sixteen_bit.png': lambda path: draw('I').convert('I;16').save(path),
    'rotated.jpg': save_rotated,
    'banner.png': lambda path: draw('RGB', 8000, 60).save(path),
    'Drachen über 東京 №1.png': lambda path: draw('RGB').save(path),
}
# The annotations of a rotated image refer to the displayed image.
SIZES = {'rotated.jpg': (60, 90), 'banner.png': (8000, 60), 'dot.png': (1, 1)}
WITHOUT_OBJECTS = 'nothing.png'
UNREADABLE = {
    'cut_off.jpg': (save_cut_off, 'failed to load image.*cut_off.jpg'),
    'empty.jpg': (lambda path: path.touch(), 'empty.jpg|!buf.empty'),
    'text.jpg': (lambda path: path.write_text('no image'), 'failed to load image'),
    'missing.jpg': (lambda path: None, 'No such file.*missing.jpg'),
}


def annotations(width, height):
    """List a valid object, and annotations that are dropped in training."""
    box = [width // 4, height // 4, width // 4, height // 4]
    left, top, w, h = box
    right, bottom = left + w, top + h
    outline = [left, top, right, top, right, bottom, left, bottom]
    good = dict(category_id=KITE, bbox=box, area=w * h, segmentation=[outline])
    runs = dict(size=[height, width], counts=[0, height * width])
    whole = dict(bbox=[0, 0, width, height], area=height * width, segmentation=runs)
    return [
        good | dict(iscrowd=0),
        good | dict(iscrowd=0, bbox=[left, top, 0, h], area=0),
        good | dict(iscrowd=0, bbox=[width + 9, top, w, h]),  # outside
        good | dict(iscrowd=0, category_id=999),
        whole | dict(iscrowd=1, category_id=KITE),
    ]


def write_set(root, names):
    """Write a data set of the given images in COCO's layout."""
    content = dict(images=[], annotations=[], categories=[])
    content['categories'] = [
        dict(id=i, name=name)
        for i, name in zip(
            (13, 37, KITE, 52, 86),
            ('stop sign', 'sports ball', 'kite', 'banana', 'vase'),
        )
    ]
    for split in ('train2017', 'val2017'):
        (root / split).mkdir(parents=True)
    (root / 'annotations').mkdir()
    for i, (name, save) in enumerate(names.items()):
        for split in ('train2017', 'val2017'):
            save(root / split / name)
        width, height = SIZES.get(name, (90, 60))
        content['images'].append(dict(id=i, file_name=name, width=width, height=height))
        entries = [] if name == WITHOUT_OBJECTS else annotations(width, height)
        for entry in entries:
            number = len(content['annotations'])
            content['annotations'].append(entry | dict(id=number, image_id=i))
    for split in ('train2017', 'val2017'):
        path = root / 'annotations' / f'instances_{split}.json'
        path.write_text(json.dumps(content))


@pytest.mark.slow
def test_training_and_evaluation_on_unusual_images(mim, tmp_path):
    root = tmp_path / 'coco'
    names = READABLE | {
        'dot.png': lambda path: draw('RGB', 1, 1).save(path),
        WITHOUT_OBJECTS: lambda path: draw('RGB').save(path),
    }
    write_set(root, names)
    work_dir = tmp_path / 'run'
    result = mim(
        *('train', 'mmdet', DETECTOR, '--work-dir', work_dir, '--cfg-options'),
        *('train_cfg.max_epochs=1', 'default_hooks.logger.interval=1'),
        'model.test_cfg.rcnn.score_thr=0.0',
        coco_root=root,
    )
    assert result.returncode == 0, result.stdout
    *steps, evaluation = scalars(work_dir)
    # Batches of two, without the dot and the image without objects.
    assert len(steps) == -(-len(READABLE) // 2)
    assert all(np.isfinite(step['loss']) for step in steps)
    assert 'coco/bbox_mAP' in evaluation
    assert f'[{-(-len(names) // 4)}/' in result.stdout


@pytest.mark.parametrize('name', READABLE)
def test_invalid_annotations_are_dropped(tmp_path, monkeypatch, name):
    write_set(tmp_path, {name: READABLE[name]})
    (sample,) = load(tmp_path, monkeypatch, workers=0)
    assert sample['inputs'].shape[0] == 3
    instances = sample['data_samples'].gt_instances
    assert instances.labels.tolist() == [2]  # only the kite
    assert len(sample['data_samples'].ignored_instances) == 1  # the crowd
    # The channel order is correct and the rectangle is inside its box.
    if name in ('alpha.png', 'Drachen über 東京 №1.png'):
        left, top, right, bottom = instances.bboxes.tensor[0].int().tolist()
        inside = sample['inputs'][:, top + 2 : bottom - 2, left + 2 : right - 2]
        color = inside.float().mean((1, 2)).round().int().tolist()
        assert np.abs(np.subtract(color, COLOR[::-1])).max() < 3  # BGR


@pytest.mark.parametrize('name', UNREADABLE)
def test_unreadable_image_error_names_the_file(tmp_path, monkeypatch, name):
    save, message = UNREADABLE[name]
    write_set(tmp_path, {name: save})
    with pytest.raises(Exception, match=message):
        list(load(tmp_path, monkeypatch, workers=1))


def load(root, monkeypatch, workers):
    """Load the training set of the mini config."""
    monkeypatch.setenv('COCO_ROOT', str(root))
    init_default_scope('mmdet')
    config = short_config(DETECTOR, root)
    dataset = config.train_dataloader.dataset
    dataset.pipeline[3].prob = 0.0
    return DataLoader(
        DATASETS.build(dataset),
        batch_size=None,
        num_workers=workers,
        timeout=60 if workers else 0,
    )
