"""Every config parses, builds and says what was published."""

import pytest
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config

from tests.conftest import ROOT

CONFIGS = sorted((ROOT / 'configs').glob('*.py'))
PUBLISHED_MILLIONS = {'mask_rcnn_crossformer_s_fpn_1x_coco': 50.2}


@pytest.fixture(scope='module', autouse=True)
def mmdet_modules():
    register_all_modules()


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_builds(path):
    cfg = Config.fromfile(path)
    assert cfg.custom_imports['imports'] == ['crossformer_mm']
    model = MODELS.build(cfg.model)
    if path.stem in PUBLISHED_MILLIONS:
        millions = sum(p.numel() for p in model.parameters()) / 1e6
        assert round(millions, 1) == PUBLISHED_MILLIONS[path.stem]


def test_mask_rcnn_is_trained_as_published():
    cfg = Config.fromfile(ROOT / 'configs' / 'mask_rcnn_crossformer_s_fpn_1x_coco.py')
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == (
        'AdamW',
        1e-4,
        1e-4,
    )
    assert 'clip_grad' not in cfg.optim_wrapper
    warm_up, steps = cfg.param_scheduler
    assert (warm_up.start_factor, warm_up.end, warm_up.by_epoch) == (0.001, 500, False)
    assert (steps.milestones, steps.gamma) == ([8, 11], 0.1)
    assert cfg.train_cfg.max_epochs == 12
    assert cfg.train_dataloader.batch_size == 2
    assert cfg.train_pipeline[2].scale == (1333, 800)
    assert cfg.model.data_preprocessor.pad_size_divisor == 32
    assert cfg.model.neck.num_outs == 5
    assert cfg.train_dataloader.dataset.data_root == 'data/coco'


def test_coco_root_points_all_data_elsewhere(monkeypatch):
    monkeypatch.setenv('COCO_ROOT', '/somewhere')
    for name in ('mask_rcnn_crossformer_s_fpn_1x', 'mask_rcnn_crossformer_t_fpn_mini'):
        cfg = Config.fromfile(ROOT / 'configs' / f'{name}_coco.py')
        for split in ('train', 'val', 'test'):
            assert cfg[f'{split}_dataloader'].dataset.data_root == '/somewhere'
        for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
            assert evaluator.ann_file == (
                '/somewhere/annotations/instances_val2017.json'
            )
