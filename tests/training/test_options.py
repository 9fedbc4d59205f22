"""A real, short training with each of the usual options."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.optim.optimizer import amp_optimizer_wrapper
from torch import nn


def losses(runner):
    """Read the losses from the log, four of them."""
    log = Path(runner.log_dir, 'vis_data', 'scalars.json').read_text().splitlines()
    values = [json.loads(line)['loss'] for line in log]
    assert len(values) == 4
    return torch.tensor(values)


def weights(runner):
    return runner.model.backbone.state_dict()


@pytest.mark.slow
def test_options_of_the_same_numbers(short_training):
    plain = short_training()
    assert losses(plain).isfinite().all()

    again = short_training()
    assert torch.equal(losses(again), losses(plain))
    torch.testing.assert_close(weights(again), weights(plain), rtol=0, atol=0)

    recomputed = short_training(model__backbone__with_cp=True)
    torch.testing.assert_close(losses(recomputed), losses(plain), rtol=1e-4, atol=1e-4)

    # One process: SyncBN becomes the BatchNorm it equals there.
    norms = [
        short_training(model__neck__norm_cfg=dict(_delete_=True, type=name))
        for name in ('SyncBN', 'BN')
    ]
    assert any(isinstance(part, nn.BatchNorm2d) for part in norms[1].model.modules())
    torch.testing.assert_close(*map(losses, norms), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_ema(short_training):
    runner = short_training(custom_hooks=[dict(type='EMAHook', momentum=0.5)])
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, EMAHook))
    average = hook.ema_model.module.backbone.state_dict()
    # After training the two are swapped: the average is what is used and saved.
    differences = [
        (average[name] - weight).abs().max() for name, weight in weights(runner).items()
    ]
    assert all(difference.isfinite() for difference in differences)
    assert max(differences) > 1e-5


@pytest.mark.slow
def test_accumulated_gradients(short_training):
    runner = short_training(optim_wrapper__accumulative_counts=2)
    states = runner.optim_wrapper.optimizer.state.values()
    assert {int(state['step']) for state in states} == {2}  # of four iterations


@pytest.mark.slow
def test_frozen_stages_stay_as_they_are(short_training):
    slow, fast = (
        weights(
            short_training(
                model__backbone__frozen_stages=2, optim_wrapper__optimizer__lr=rate
            )
        )
        for rate in (1e-4, 1e-3)
    )
    frozen = ('patch_embed', 'layers.0', 'layers.1')
    for name, weight in slow.items():
        assert torch.equal(weight, fast[name]) == name.startswith(frozen), name


@pytest.mark.slow
def test_mixed_precision(short_training, monkeypatch):
    # MMEngine refuses it without a GPU, though its autocast knows the CPU.
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    full = short_training()
    mixed = short_training(
        optim_wrapper__type='AmpOptimWrapper', optim_wrapper__dtype='bfloat16'
    )
    assert losses(mixed).isfinite().all()
    assert not torch.equal(losses(mixed), losses(full))
    torch.testing.assert_close(losses(mixed), losses(full), rtol=0.05, atol=0.05)
