"""Two processes on a CPU, started as on GPUs."""

import os
import subprocess
import sys

import pytest
import torch

from crossformer_mm.checkpoint.reader import read_checkpoint
from tests.conftest import ROOT, SEGMENTOR

# No noise, and no statistics over the images of one process: a step then is the mean
# gradient of all images.
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


@pytest.mark.slow
def test_two_processes_step_as_one_with_twice_the_batch(mim, mini_ade20k, tmp_path):
    def step(name, batch, *launcher):
        config = tmp_path / f'{name}.py'
        config.write_text(ONE_STEP.format(base=SEGMENTOR, batch=batch))
        work_dir = tmp_path / name
        result = mim(
            *('train', 'mmsegmentation', config, '--work-dir', work_dir, *launcher),
            ade20k_root=mini_ade20k,
        )
        assert result.returncode == 0, result.stdout
        return read_checkpoint(str(work_dir / 'iter_1.pth'))['state_dict']

    one = step('one', 2)
    two = step('two', 1, '--launcher', 'pytorch', '--gpus', '2')
    torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)


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
