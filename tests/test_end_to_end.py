"""Training, testing and resuming with mim.

The plots are tested in tests/test_own_data.py.
"""

import json

import pytest
import torch

from tests.helpers import DETECTOR, ROOT, SEGMENTOR, scalars

FULL = ROOT / 'configs' / 'mask_rcnn_crossformer_s_fpn_1x_coco.py'
ONE_EPOCH = ('--cfg-options', 'train_cfg.max_epochs=1')


def metrics(work_dir):
    """Return the metrics of the newest test."""
    files = [p for p in work_dir.glob('*/*.json') if p.stem == p.parent.name]
    return json.loads(max(files).read_text())


@pytest.mark.slow
def test_train_test_and_resume(mim, mini_coco, tmp_path):
    work_dir = tmp_path / 'run'
    place = ('--work-dir', work_dir)
    trained = mim('train', 'mmdet', DETECTOR, *place, *ONE_EPOCH, coco_root=mini_coco)
    assert trained.returncode == 0, trained.stdout
    checkpoint = work_dir / 'epoch_1.pth'
    assert checkpoint.is_file()
    assert list(work_dir.glob('*/vis_data/vis_image/val_img_*.png'))

    pickle = work_dir / 'predictions.pkl'
    tested = mim(
        *('test', 'mmdet', DETECTOR, '--checkpoint', checkpoint),
        *('--out', pickle, *place),
        coco_root=mini_coco,
    )
    assert tested.returncode == 0, tested.stdout
    assert {'coco/bbox_mAP', 'coco/segm_mAP_50'} <= metrics(work_dir).keys()

    resumed = mim(
        *('train', 'mmdet', DETECTOR, *place, '--resume'),
        *('--cfg-options', 'train_cfg.max_epochs=2'),
        coco_root=mini_coco,
    )
    assert resumed.returncode == 0, resumed.stdout
    assert 'resumed epoch: 1' in resumed.stdout
    assert (work_dir / 'epoch_2.pth').is_file()


@pytest.mark.slow
def test_full_size_config_runs_on_the_mini_set(mim, mini_coco, tmp_path):
    trained = mim(
        *('train', 'mmdet', FULL, *ONE_EPOCH),
        *('model.backbone.init_cfg=None', 'train_dataloader.dataset.indices=2'),
        'val_dataloader.dataset.indices=1',
        # A quarter of the pixels of the published scale.
        *(
            f'{split}_dataloader.dataset.pipeline.{i}.scale=(667,400)'
            for split, i in (('train', 2), ('val', 1))
        ),
        # After one iteration no score exceeds the default threshold.
        'model.test_cfg.rcnn.score_thr=0.0',
        coco_root=mini_coco,
    )
    assert trained.returncode == 0, trained.stdout
    work_dir = tmp_path / 'work_dirs' / FULL.stem
    assert (work_dir / 'epoch_1.pth').is_file()
    assert any('coco/bbox_mAP' in record for record in scalars(work_dir))


@pytest.mark.slow
def test_segmentor_train_and_test(mim, mini_ade20k, tmp_path):
    work_dir = tmp_path / 'run'
    place = ('--work-dir', work_dir)
    trained = mim(
        *('train', 'mmsegmentation', SEGMENTOR, *place),
        *('--cfg-options', 'train_cfg.max_iters=4', 'train_cfg.val_interval=4'),
        'default_hooks.checkpoint.interval=4',
        ade20k_root=mini_ade20k,
    )
    assert trained.returncode == 0, trained.stdout
    assert 'CrossFormer_T is trained from scratch' in trained.stdout
    checkpoint = work_dir / 'iter_4.pth'
    assert list(work_dir.glob('*/vis_data/vis_image/val_*.png'))

    predictions = work_dir / 'predictions'
    test = ('test', 'mmsegmentation', SEGMENTOR, '--checkpoint', checkpoint, *place)
    one_image = ('--cfg-options', 'test_dataloader.dataset.indices=1')
    scales = (
        f'tta_pipeline.1.transforms.0.{i}.scale=({64 + 32 * i},96)' for i in range(6)
    )
    several = mim(*test, '--tta', *one_image, *scales, ade20k_root=mini_ade20k)
    assert several.returncode == 0, several.stdout
    tested = mim(*test, '--out', predictions, ade20k_root=mini_ade20k)
    assert tested.returncode == 0, tested.stdout
    assert {'mIoU', 'mAcc', 'aAcc'} <= metrics(work_dir).keys()


@pytest.mark.parametrize('command', ['train', 'test'])
def test_missing_data_is_one_clear_message(mim, mini_coco, tmp_path, command):
    checkpoint = tmp_path / 'weights.pth'
    torch.save({'state_dict': {}}, checkpoint)
    given = ('--checkpoint', checkpoint) if command == 'test' else ()
    result = mim(command, 'mmdet', DETECTOR, *given, coco_root=tmp_path / 'nowhere')
    assert result.returncode != 0
    path = tmp_path / 'nowhere' / 'annotations'
    assert f'Data not found: {path}' in result.stdout
    assert 'make_mini_coco.py' in result.stdout
    assert 'pycocotools' not in result.stdout


def test_missing_pretrained_weights_are_one_clear_message(mim, mini_coco):
    result = mim('train', 'mmdet', FULL, coco_root=mini_coco)
    assert result.returncode != 0
    assert 'Pretrained weights not found: pretrained/' in result.stdout
    assert '/1RAkigsgr33va0RZ85S2Shs2BhXYcS6U8' in result.stdout
    assert 'model.backbone.init_cfg=None' in result.stdout


def test_missing_ade20k_is_one_clear_message(mim, tmp_path):
    result = mim('train', 'mmsegmentation', SEGMENTOR, ade20k_root=tmp_path / 'nowhere')
    assert result.returncode != 0
    path = tmp_path / 'nowhere' / 'images' / 'training'
    assert f'Data not found: {path}' in result.stdout
    assert 'make_mini_ade20k.py' in result.stdout
