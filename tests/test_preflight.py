"""preflight reports injected faults, and nothing for valid configs."""

import json
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

from crossformer_mm import preflight
from crossformer_mm.preflight.first_step import shrink
from tests.helpers import DETECTOR, ROOT, SEGMENTOR, on_openmmlab

TRAIN, VAL = 'instances_train2017.json', 'instances_val2017.json'


@pytest.fixture
def detector(mini_coco, tmp_path, monkeypatch):
    """Return a valid config of a detector and a copy of its data to modify."""
    root = tmp_path / 'coco'
    shutil.copytree(mini_coco, root)
    monkeypatch.setenv('COCO_ROOT', str(root))
    return Config.fromfile(DETECTOR), root


@pytest.fixture
def segmentor(mini_ade20k, tmp_path, monkeypatch):
    """Return a valid config of a segmentor and a copy of its data to modify."""
    root = tmp_path / 'ade'
    shutil.copytree(mini_ade20k, root)
    monkeypatch.setenv('ADE20K_ROOT', str(root))
    return Config.fromfile(SEGMENTOR), root


def alarms(cfg, *checks):
    """Return the reported failures and warnings."""
    findings = [f for check in checks for f in getattr(preflight, check)(cfg)]
    return [str(f) for f in findings if f.verdict in ('FAIL', 'warn')]


def edit(root, change, name=TRAIN):
    """Change an annotation file."""
    path = root / 'annotations' / name
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def set_first(key, value):
    """Return a function that changes the first annotation."""

    def change(data):
        data['annotations'][0][key] = value

    return change


def first_id(root):
    return json.loads((root / 'annotations' / TRAIN).read_text())['annotations'][0][
        'id'
    ]


# Name: change of the annotation file, expected message.
ANNOTATION_FAULTS = {
    'category': (set_first('category_id', 999), 'category_id is not in categories'),
    'image': (set_first('image_id', 999), 'image_id is not in images'),
    'nan box': (set_first('bbox', [1, 2, float('nan'), 4]), 'not four finite numbers'),
    'empty box': (set_first('bbox', [1, 2, 0, 4]), 'has no area'),
    'outside': (set_first('bbox', [5000, 2, 10, 4]), 'outside of the image'),
    'no mask': (set_first('segmentation', []), 'no segmentation'),
    'polygon': (set_first('segmentation', [[1, 2, 3, 4]]), 'fewer than three points'),
}


@pytest.mark.parametrize('fault', ANNOTATION_FAULTS)
def test_annotation_error_names_file_and_id(detector, fault):
    cfg, root = detector
    change, message = ANNOTATION_FAULTS[fault]
    edit(root, change)
    lines = [line for line in alarms(cfg, 'check_annotations') if message in line]
    assert len(lines) == 1
    assert str(root / 'annotations' / TRAIN) in lines[0]
    assert f'annotation id {first_id(root)}' in lines[0]


def rename_category(data):
    for category in data['categories']:
        category['name'] = category['name'].replace('vase', 'vaze')


def double_id(data):
    data['annotations'][1]['id'] = data['annotations'][0]['id']


def double_image(data):
    data['images'][1]['id'] = data['images'][0]['id']


def wrong_size(data):
    data['images'][0]['width'] += 1


def lost_image(data):
    data['images'][0]['file_name'] = 'lost.jpg'


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            rename_category,
            "no category 'vase', a class of the config  -> it has 'vaze'",
        ),
        (double_id, 'occurs twice'),
        (double_image, 'occurs twice'),
        (wrong_size, 'the file says'),
        (lost_image, 'lost.jpg'),
        (lambda data: data.pop('categories'), "KeyError 'categories'"),
        (lambda data: data['annotations'].clear(), 'no object of the config'),
    ],
)
def test_annotation_file(detector, change, message):
    cfg, root = detector
    edit(root, change)
    lines = [line for line in alarms(cfg, 'check_annotations') if message in line]
    assert lines
    assert TRAIN in lines[0]


def test_annotation_file_with_invalid_json(detector):
    cfg, root = detector
    (root / 'annotations' / TRAIN).write_text('{"images": [')
    assert 'is not in the format of COCO' in alarms(cfg, 'check_annotations')[0]


def test_broken_image(detector):
    cfg, root = detector
    image = min((root / 'train2017').iterdir())
    image.write_bytes(b'')
    (line,) = alarms(cfg, 'check_annotations')
    assert str(image) in line
    assert 'cannot be read' in line


def test_images_in_both_splits(detector):
    cfg, root = detector
    cfg.val_dataloader.dataset.ann_file = cfg.train_dataloader.dataset.ann_file
    cfg.val_dataloader.dataset.data_prefix = dict(img='train2017/')
    edit(root, lambda data: None)
    shutil.copy(root / 'annotations' / TRAIN, root / 'annotations' / 'copy.json')
    cfg.val_dataloader.dataset.ann_file = 'annotations/copy.json'
    assert any('both splits' in x for x in alarms(cfg, 'check_annotations'))


CLASSES = ('stop sign', 'sports ball', 'kite', 'banana', 'vase')
# Name: config options, check, expected message.
DETECTOR_FAULTS = {
    'no folder': (
        {'train_dataloader.dataset.data_root': 'nowhere'},
        'check_files',
        'no nowhere/annotations/instances_train2017.json',
    ),
    'no comma': (
        {'train_dataloader.dataset.metainfo.classes': 'kite'},
        'check_classes',
        "classes = ('kite',)",
    ),
    'num_classes of a box head': (
        {'model.roi_head.bbox_head.num_classes': 80},
        'check_classes',
        'model.roi_head.bbox_head.num_classes is 80, the data has 5 classes',
    ),
    'num_classes of a mask head': (
        {'model.roi_head.mask_head.num_classes': 4},
        'check_classes',
        'model.roi_head.mask_head.num_classes is 4',
    ),
    'other classes in val': (
        {'val_dataloader.dataset.metainfo.classes': CLASSES[:-1] + ('vaze',)},
        'check_classes',
        "differ from those of train: ['vase', 'vaze']",
    ),
    'other order in val': (
        {'val_dataloader.dataset.metainfo.classes': CLASSES[::-1]},
        'check_classes',
        'their order',
    ),
    'a class twice': (
        {'train_dataloader.dataset.metainfo.classes': CLASSES[:-1] + ('kite',)},
        'check_classes',
        'named twice: kite',
    ),
    'metric of other annotations': (
        {'val_evaluator.ann_file': 'other.json'},
        'check_annotations',
        'val_evaluator.ann_file is other.json',
    ),
    'learning rate of SGD': (
        {'optim_wrapper.optimizer.lr': 0.02},
        'check_schedule',
        'lr=0.02 is too high for AdamW',
    ),
    'SGD': (
        {'optim_wrapper.optimizer.type': 'SGD'},
        'check_schedule',
        'CrossFormer was trained with AdamW',
    ),
    'batch': (
        {'processes': 1},
        'check_schedule',
        'for a batch of 16; here it is 2  -> --auto-scale-lr, or lr=8.75e-05',
    ),
    'warm-up': (
        {'param_scheduler': [dict(type='LinearLR', by_epoch=False, begin=0, end=500)]},
        'check_schedule',
        'warm-up of 500 iterations, training of 8',
    ),
    'milestones': (
        {'param_scheduler': [dict(type='MultiStepLR', milestones=[8, 11])]},
        'check_schedule',
        'milestones [8, 11] after the last of 2 epochs',
    ),
    'curve': (
        {'param_scheduler': [dict(type='CosineAnnealingLR', begin=0, end=300)]},
        'check_schedule',
        'ends at 300 epochs, the training at 2',
    ),
    'never validated': (
        {'train_cfg.val_interval': 10},
        'check_schedule',
        'val_interval=10 in a training of 2: never',
    ),
    'BGR': (
        {
            'model.data_preprocessor.bgr_to_rgb': False,
            'model.backbone.init_cfg': dict(type='Pretrained', checkpoint='x.pth'),
        },
        'check_network',
        'data_preprocessor.bgr_to_rgb is False',
    ),
    'mean of 0 to 1': (
        {'model.data_preprocessor.mean': [0.485, 0.456, 0.406]},
        'check_network',
        'is for images from 0 to 1',
    ),
    'no pretrained file': (
        {'model.backbone.init_cfg': dict(type='Pretrained', checkpoint='x.pth')},
        'check_network',
        'Pretrained weights not found: x.pth',
    ),
    'widths': (
        {'model.neck.in_channels': [256, 512, 1024, 2048]},
        'check_network',
        'model.neck.in_channels is [256, 512, 1024, 2048], the backbone returns [64,',
    ),
    'argument of the backbone': (
        {'model.backbone.group_size': [7, 7]},
        'check_network',
        'group_size',
    ),
    'strides': (
        {'model.rpn_head.anchor_generator.strides': [8, 16, 32, 64, 128]},
        'check_step',
        'model.rpn_head, level 0: stride 8, the map has 4',
    ),
    'pipeline': (
        {'train_dataloader.dataset.pipeline': [dict(type='LoadImageFromFile')]},
        'check_step',
        'training step',
    ),
}


def test_classes_in_a_file_of_names(detector, tmp_path):
    cfg, _ = detector
    names = tmp_path / 'names.txt'
    names.write_text('\n'.join(CLASSES))
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset.metainfo.classes = str(names)
    assert not alarms(cfg, 'check_classes')
    names.write_text('\n'.join(CLASSES[:4]))
    assert 'num_classes is 5, the data has 4' in alarms(cfg, 'check_classes')[0]


@pytest.mark.parametrize('fault', DETECTOR_FAULTS)
def test_fault_of_a_detector(detector, fault):
    cfg, _ = detector
    options, check, message = DETECTOR_FAULTS[fault]
    for key, value in options.items():
        place, _, last = key.rpartition('.')
        node = cfg
        for name in filter(None, place.split('.')):
            node = node[name]
        node[last] = value
    assert any(message in line for line in alarms(cfg, check)), alarms(cfg, check)


def test_file_of_another_variant(detector, tmp_path):
    import crossformer_mm

    cfg, _ = detector
    path = tmp_path / 'weights.pth'
    torch.save(crossformer_mm.CrossFormer_S().state_dict(), path)
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(path))
    (line,) = alarms(cfg, 'check_network')
    assert 'it looks like CrossFormer-S' in line


def test_non_finite_loss(detector):
    cfg, _ = detector
    cfg.model.rpn_head.loss_cls.loss_weight = float('inf')
    assert any('not finite' in line for line in alarms(cfg, 'check_step'))


SEGMENTOR_FAULTS = {
    'num_classes': (
        {'model.decode_head.num_classes': 150},
        'check_classes',
        'model.decode_head.num_classes is 150, the data has 8 classes',
    ),
    'ignore_index of a head': (
        {'model.decode_head.ignore_index': 0},
        'check_ignored',
        '0 in model.decode_head, 255 in train data',
    ),
    'ignore_index of the metric': (
        {'val_evaluator.ignore_index': 0},
        'check_ignored',
        '0 in val_evaluator',
    ),
    'value of padding': (
        {'model.data_preprocessor.seg_pad_val': 0},
        'check_ignored',
        '0 in data_preprocessor.seg_pad_val',
    ),
    'suffix': (
        {'train_dataloader.dataset.img_suffix': '.tif'},
        'check_label_maps',
        'no images',
    ),
    'classes of weights': (
        {'model.decode_head.loss_decode.class_weight': [1.0] * 3},
        'check_classes',
        'class_weight has 3 weights, 8 classes',
    ),
}


@pytest.mark.parametrize('fault', SEGMENTOR_FAULTS)
def test_fault_of_a_segmentor(segmentor, fault):
    cfg, _ = segmentor
    options, check, message = SEGMENTOR_FAULTS[fault]
    cfg.merge_from_dict(options)
    assert any(message in line for line in alarms(cfg, check)), alarms(cfg, check)


def plain_dataset(cfg, classes, zero):
    """Make the data set use the labels without ADE20K's settings."""
    dataset = cfg.train_dataloader.dataset
    dataset.type, dataset.metainfo = 'BaseSegDataset', dict(classes=classes)
    dataset.img_suffix, dataset.seg_map_suffix = '.jpg', '.png'
    dataset.reduce_zero_label = zero


@pytest.mark.parametrize(
    ('labels', 'zero', 'message'),
    [
        ([0, 1, 2], False, 'holds [2], beyond the 2 classes'),
        ([0, 1, 9], True, 'holds [8], beyond the 2 classes'),
        ([0, 1], True, 'reduce_zero_label ignores 0'),
        ([0, 1], False, ''),
        ([0, 1, 2], True, ''),
    ],
)
def test_values_of_label_images(segmentor, labels, zero, message):
    cfg, root = segmentor
    plain_dataset(cfg, ('a', 'b'), zero)
    for path in (root / 'annotations' / 'training').iterdir():
        shape = cv2.imread(str(path), cv2.IMREAD_UNCHANGED).shape
        cv2.imwrite(str(path), np.resize(labels, shape).astype(np.uint8))
    lines = [x for x in alarms(cfg, 'check_label_maps') if 'train' in x]
    assert len(lines) == bool(message)
    if message:
        assert message in lines[0]


def test_wrong_size_and_missing_label_image(segmentor):
    cfg, root = segmentor
    first, second, *_ = sorted((root / 'annotations' / 'training').iterdir())
    cv2.imwrite(str(first), np.ones((9, 9), np.uint8))
    second.unlink()
    lines = alarms(cfg, 'check_label_maps')
    assert any(f'{first} is (9, 9)' in line for line in lines)
    assert any(f'no label image {second}' in line for line in lines)


def run_tool(config, *arguments):
    command = [sys.executable, ROOT / 'tools' / 'preflight.py', config, *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize('sound', ['detector', 'segmentor'])
def test_no_alarm_on_the_mini_configs(sound, request):
    request.getfixturevalue(sound)
    # Two epochs of eight images would end during the warm-up.
    longer = ('--cfg-options', 'train_cfg.max_epochs=3', 'param_scheduler.1.end=3')
    arguments = (DETECTOR, *longer) if sound == 'detector' else (SEGMENTOR,)
    result = run_tool(*arguments)
    assert result.returncode == 0, result.stdout
    assert 'FAIL' not in result.stdout
    assert 'warn' not in result.stdout
    assert 'ok    evaluation' in result.stdout


STOCK = (
    'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
    'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
    'mmdet::detr/detr_r50_8xb2-150e_coco.py',
    'mmseg::sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py',
    'mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb4-160k_ade20k-512x512.py',
)


def on_mini_set(base, mini_coco, mini_ade20k):
    """Return a stock config that uses a mini set."""
    cfg = Config.fromstring(f'_base_ = {base!r}', '.py')
    for split in ('train', 'val', 'test'):
        root = mini_coco if base.startswith('mmdet') else mini_ade20k
        cfg[f'{split}_dataloader'].dataset.data_root = f'{root}/'
    for name in ('val_evaluator', 'test_evaluator'):
        if 'ann_file' in cfg[name]:
            cfg[name].ann_file = f'{mini_coco}/annotations/{VAL}'
    return cfg


@on_openmmlab
@pytest.mark.parametrize('base', STOCK)
def test_no_alarm_on_stock_configs(base, mini_coco, mini_ade20k):
    cfg = on_mini_set(base, mini_coco, mini_ade20k)
    names = [check.__name__ for check in preflight.CHECKS]
    names.remove('check_step')  # takes seconds: see docs/own_config.md
    lines = alarms(cfg, *names)
    # These warnings are correct: the mini set is small for the schedule.
    assert [x for x in lines if 'warm-up' not in x and 'milestones' not in x] == []


@pytest.mark.parametrize(
    'path',
    sorted((ROOT / 'configs').glob('*_crossformer_s_*.py')),
    ids=lambda path: path.stem,
)
def test_no_alarm_on_our_configs(path, mini_coco, mini_ade20k, monkeypatch):
    monkeypatch.setenv('COCO_ROOT', str(mini_coco))
    monkeypatch.setenv('ADE20K_ROOT', str(mini_ade20k))
    cfg = Config.fromfile(path)
    names = [check.__name__ for check in preflight.CHECKS]
    names.remove('check_step')
    lines = alarms(cfg, *names)
    known = ('warm-up', 'milestones', 'Pretrained weights not found')
    assert [x for x in lines if not any(part in x for part in known)] == []


def test_no_such_file():
    result = run_tool('nothing.py')
    assert result.returncode == 1
    assert result.stderr.strip() == 'preflight: there is no file nothing.py'


def test_config_without_training(tmp_path):
    (tmp_path / 'part.py').write_text("model = dict(type='RetinaNet')")
    result = run_tool(tmp_path / 'part.py')
    assert result.returncode == 1
    assert 'has no train_dataloader: it trains nothing' in result.stderr


def test_shrink_leaves_the_channels():
    node = dict(scale=(1333, 800), size=[512, 512], num=3, rescale=False)
    shrink(node)
    assert node == dict(scale=(192, 192), size=(192, 192), num=3, rescale=False)
