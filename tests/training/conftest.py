import pytest
from mmengine.config import Config
from mmengine.registry import RUNNERS, DefaultScope

from tests.conftest import ROOT

MINI = ROOT / 'configs' / 'mask_rcnn_crossformer_t_fpn_mini_coco.py'
SHORT = {
    'train_cfg.max_epochs': 1,
    **dict.fromkeys(['val_dataloader', 'val_evaluator', 'val_cfg']),
    **dict.fromkeys(['test_dataloader', 'test_evaluator', 'test_cfg']),
    'train_dataloader.dataset.pipeline.2.scale': (96, 96),
    'default_hooks.logger.interval': 1,
    'default_hooks.checkpoint.interval': -1,
    'model.backbone.drop_path_rate': 0.2,
    'randomness.deterministic': True,
}


def short_config(work_dir, **options):
    """Configure four iterations of the mini detector.

    Options are keys of the config, with __ for a dot.
    """
    changes = {key.replace('__', '.'): value for key, value in options.items()}
    config = Config.fromfile(MINI)
    config.merge_from_dict(SHORT | changes)
    config.work_dir = str(work_dir)
    config.experiment_name = str(work_dir)  # MMEngine keeps runners by this name
    return config


@pytest.fixture
def short_training(mini_coco, tmp_path, monkeypatch):
    """Train the mini detector for four iterations; return the runner."""
    monkeypatch.setenv('COCO_ROOT', str(mini_coco))
    runs = []

    def train(**options):
        runs.append(options)
        runner = RUNNERS.build(short_config(tmp_path / f'run_{len(runs)}', **options))
        runner.train()
        return runner

    with DefaultScope.overwrite_default_scope('mmdet'):
        yield train
