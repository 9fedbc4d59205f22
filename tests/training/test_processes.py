"""Distributed training in two processes on a CPU."""

import os
import subprocess
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import RUNNERS, DefaultScope

from crossformer_mm.checkpoint.reader import read_checkpoint
from tests.helpers import DETECTOR, ROOT, SEGMENTOR

# Without randomness and batch statistics, a step is the mean gradient of all images.
ONE_STEP = """
_base_ = '{base}'
norm_cfg = dict(_delete_=True, type='GN', num_groups=32)
model = dict(decode_head=dict(norm_cfg=norm_cfg, dropout_ratio=0.0))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='Resize', scale=(96, 96)),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(batch_size={batch}, dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(
    _delete_=True, type='OptimWrapper', optimizer=dict(type='SGD', lr=1.0)
)
param_scheduler = None
train_cfg = dict(max_iters=1)
default_hooks = dict(checkpoint=dict(interval=1))
val_dataloader = val_evaluator = val_cfg = None
"""


@pytest.fixture
def weights_after(mim):
    """Train with a config; return the weights of its last checkpoint.

    With launcher options mim starts two processes, else this process trains.
    """

    def train(package, config, *launcher, **roots):
        work_dir = config.with_suffix('')
        if launcher:
            result = mim(
                *('train', package, config, '--work-dir', work_dir), *launcher, **roots
            )
            assert result.returncode == 0, result.stdout
        else:
            cfg = Config.fromfile(config)
            cfg.work_dir = cfg.experiment_name = cfg.visualizer.name = str(work_dir)
            with DefaultScope.overwrite_default_scope(cfg.default_scope):
                RUNNERS.build(cfg).train()
        (checkpoint,) = work_dir.glob('*_1.pth')
        return read_checkpoint(str(checkpoint))['state_dict']

    return train


TWO = ('--launcher', 'pytorch', '--gpus', '2')


@pytest.mark.slow
def test_two_processes_match_one_with_twice_the_batch(
    weights_after, mini_ade20k, tmp_path, monkeypatch
):
    monkeypatch.setenv('ADE20K_ROOT', str(mini_ade20k))

    def step(name, batch, *launcher):
        config = tmp_path / f'{name}.py'
        config.write_text(ONE_STEP.format(base=SEGMENTOR, batch=batch))
        return weights_after(
            'mmsegmentation', config, *launcher, ade20k_root=mini_ade20k
        )

    one, two = step('one', 2), step('two', 1, *TWO)
    torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_two_detector_processes_match_one(
    weights_after, mini_coco, tmp_path, monkeypatch
):
    """Use the same image twice and all samples: a detector normalizes its losses by the
    number of samples in a process, which are drawn at random."""
    monkeypatch.setenv('COCO_ROOT', str(mini_coco))

    def step(name, batch, *launcher):
        config = Config.fromfile(DETECTOR)
        image = config.train_dataloader.dataset
        image.indices, image.pipeline[3].prob = 1, 0.0
        for part in ('rpn', 'rcnn'):
            config.model.train_cfg[part].sampler.num = 100_000
        config.model.backbone.drop_path_rate = 0.0
        twice = dict(type='RepeatDataset', times=2, dataset=image)
        config.train_dataloader.batch_size = batch
        config.train_dataloader.dataset = twice
        config.optim_wrapper = dict(
            type='OptimWrapper', optimizer=dict(type='SGD', lr=1.0)
        )
        config.param_scheduler = None
        config.train_cfg = dict(by_epoch=True, max_epochs=1, val_interval=9)
        config.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1)
        config.dump(tmp_path / f'{name}.py')
        return weights_after(
            'mmdet', tmp_path / f'{name}.py', *launcher, coco_root=mini_coco
        )

    one, two = step('one', 2), step('two', 1, *TWO)
    # At a learning rate of 1, weights move by the full gradients, which are summed in
    # another order: a difference of 1.3e-5 was seen on one processor.
    torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_two_processes_train_the_detector_with_frozen_stages(mini_coco, tmp_path):
    script = ROOT / 'tests' / 'training' / 'frozen_stages_in_processes.py'
    done = subprocess.run(
        [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node=2', script],
        cwd=tmp_path,
        env={**os.environ, 'COCO_ROOT': str(mini_coco), 'PYTHONPATH': str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    for frozen_stages in range(5):
        assert f'frozen_stages={frozen_stages}: the same weights' in done.stdout
