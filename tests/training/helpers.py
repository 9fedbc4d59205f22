"""Short trainings with the mini configs."""

from mmengine.config import Config

from tests.helpers import DETECTOR, SEGMENTOR

COMMON = {
    **dict.fromkeys(['val_dataloader', 'val_evaluator', 'val_cfg']),
    **dict.fromkeys(['test_dataloader', 'test_evaluator', 'test_cfg']),
    'train_dataloader.dataset.pipeline.2.scale': (96, 96),
    'default_hooks.logger.interval': 1,
    'default_hooks.checkpoint.interval': -1,
    'default_hooks.checkpoint.save_last': False,
    'model.backbone.drop_path_rate': 0.2,
    'randomness.deterministic': True,
}
# Four iterations each.
SHORT = {
    DETECTOR: COMMON | {'train_cfg.max_epochs': 1},
    SEGMENTOR: COMMON
    | {
        'train_cfg.max_iters': 4,
        'train_dataloader.batch_size': 2,
        'train_dataloader.dataset.pipeline.2.scale': (64, 64),
    },
}


def short_config(path, work_dir, **options):
    """Shorten a mini config to a few iterations.

    Options are config keys with __ instead of dots.
    """
    changes = {key.replace('__', '.'): value for key, value in options.items()}
    config = Config.fromfile(path)
    config.merge_from_dict(SHORT[path] | changes)
    config.work_dir = str(work_dir)
    # MMEngine caches runners and visualizers by name.
    config.experiment_name = config.visualizer.name = str(work_dir)
    return config
