"""Short trainings with each of the common options."""

import copy
from pathlib import Path

import pytest
import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.optim.optimizer import amp_optimizer_wrapper
from torch import nn

from tests.helpers import SEGMENTOR, scalars

pytestmark = pytest.mark.slow


def logged(runner, name):
    """Return a logged value of every iteration."""
    records = scalars(Path(runner.work_dir))
    return torch.tensor([record[name] for record in records])


@pytest.fixture(scope='module')
def plain(short_training):
    """Train a segmentor without any of these options."""
    kinds = ('LocalVisBackend', 'TensorboardVisBackend')
    backends = [dict(type=kind) for kind in kinds]
    return short_training(SEGMENTOR, visualizer__vis_backends=backends)


def test_logged_values(plain):
    assert len(logged(plain, 'loss')) == 4
    assert logged(plain, 'loss').isfinite().all()
    assert (logged(plain, 'grad_norm') > 0).all()
    assert (logged(plain, 'lr').diff() > 0).all()  # warm-up
    # For TensorBoard.
    assert list(Path(plain.log_dir, 'vis_data').glob('events.out.tfevents.*'))


def test_recomputing_blocks_gives_the_same_losses(short_training, plain):
    recomputed = short_training(SEGMENTOR, model__backbone__with_cp=True)
    losses = [logged(runner, 'loss') for runner in (recomputed, plain)]
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-4)


def test_same_seed_gives_the_same_losses(short_training, plain):
    assert plain.cfg.randomness == dict(seed=0, deterministic=True)
    again = short_training(SEGMENTOR)
    assert torch.equal(logged(again, 'loss'), logged(plain, 'loss'))
    assert torch.equal(logged(again, 'grad_norm'), logged(plain, 'grad_norm'))


def test_subset_of_output_stages(short_training):
    runner = short_training(
        SEGMENTOR,
        model__backbone__out_indices=(1, 2),
        model__neck__in_channels=[128, 256],
        model__neck__num_outs=2,
        model__decode_head__in_channels=[256, 256],
        model__decode_head__in_index=[0, 1],
        model__decode_head__feature_strides=[8, 16],
    )
    assert logged(runner, 'loss').isfinite().all()
    # Stages after the last output are not built.
    assert len(runner.model.backbone.layers) == 3
    parameters = list(runner.model.parameters())
    assert len(runner.optim_wrapper.optimizer.state) == len(parameters)


def test_sync_batch_norm_is_batch_norm_in_one_process(plain):
    assert plain.cfg.norm_cfg.type == 'SyncBN'
    kinds = {type(part) for part in plain.model.decode_head.modules()}
    assert not any(issubclass(kind, nn.SyncBatchNorm) for kind in kinds)
    assert any(issubclass(kind, nn.modules.batchnorm._BatchNorm) for kind in kinds)


def test_moving_average(short_training):
    hook = dict(type='EMAHook', momentum=0.5)
    runner = short_training(SEGMENTOR, custom_hooks=[hook])
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, EMAHook))
    average = dict(hook.ema_model.module.backbone.named_parameters())
    for name, parameter in runner.model.backbone.named_parameters():
        assert average[name].isfinite().all()
        assert not torch.equal(average[name], parameter), name


def test_accumulated_gradients(short_training):
    runner = short_training(SEGMENTOR, optim_wrapper__accumulative_counts=2)
    states = runner.optim_wrapper.optimizer.state.values()
    assert {int(state['step']) for state in states} == {2}  # of four iterations


def test_mixed_precision(short_training, plain, monkeypatch):
    # MMEngine refuses it without a GPU, although its autocast supports the CPU. A
    # detector would fail: mmcv's NMS has no bfloat16 on the CPU.
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    mixed = short_training(
        SEGMENTOR,
        train_cfg__max_iters=1,  # takes ten seconds on a CPU without AVX-512
        optim_wrapper__type='AmpOptimWrapper',
        optim_wrapper__dtype='bfloat16',
    )
    losses = [logged(runner, 'loss')[:1] for runner in (mixed, plain)]
    assert not torch.equal(*losses)
    torch.testing.assert_close(*losses, rtol=0.05, atol=0.05)


def test_detector_with_frozen_stages(short_training):
    start = {}

    class KeepStart(Hook):
        def before_train(self, runner):
            start.update(copy.deepcopy(runner.model.backbone.state_dict()))

    runner = short_training(model__backbone__frozen_stages=2, hooks=[KeepStart()])
    frozen = ('patch_embed', 'layers.0', 'layers.1')
    for name, weight in runner.model.backbone.state_dict().items():
        assert torch.equal(weight, start[name]) == name.startswith(frozen), name
