"""Trainings that are killed and resumed end with the same weights."""

import os
import random
import signal
import subprocess
import time
from contextlib import suppress

import pytest
import torch

from crossformer_mm.checkpoint.reader import read_checkpoint
from tests.helpers import DETECTOR, MIM, mim_name

# CROSSFORMER_KILLS=20 for a long run.
KILLS = int(os.environ.get('CROSSFORMER_KILLS', 2))
EPOCHS = 1 + KILLS
OPTIONS = (
    '--cfg-options',
    f'train_cfg.max_epochs={EPOCHS}',
    *('val_dataloader=None', 'val_evaluator=None', 'val_cfg=None'),
    'train_dataloader.dataset.pipeline.2.scale=(96, 96)',
    # A small network: its checkpoints are read and written quickly.
    *('model.backbone.type=CrossFormer', 'model.backbone.drop_path_rate=0.1'),
    *('model.backbone.arch.embed_dims=32', 'model.backbone.arch.depths=[1,1,2,1]'),
    *(
        'model.backbone.arch.num_heads=[1,2,4,8]',
        'model.neck.in_channels=[32,64,128,256]',
    ),
    *('randomness.seed=0', 'randomness.deterministic=True'),
)


class Training:
    """A training of the mini detector in its own folder."""

    def __init__(self, work_dir, coco_root):
        self.work_dir = work_dir
        self.log = work_dir.with_suffix('.log')
        self.environ = {**os.environ, 'COCO_ROOT': str(coco_root)}

    def start(self, *options):
        return subprocess.Popen(
            [MIM, 'train', mim_name('mmdet'), DETECTOR, '--work-dir', self.work_dir]
            + [*options, *OPTIONS],
            env=self.environ,
            stdout=self.log.open('w'),
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that killpg reaches all its processes
        )

    def finish(self, *options):
        assert self.start(*options).wait() == 0, self.log.read_text()
        return self.log.read_text()

    def saved(self):
        return {path.name for path in self.work_dir.glob('*.pth')}

    def is_writing(self, since):
        with suppress(FileNotFoundError):  # renamed meanwhile
            for part in self.work_dir.glob('*.part'):
                state = part.stat()
                return state.st_mtime > since and state.st_size > 0
        return False

    def final(self):
        return read_checkpoint(str(self.work_dir / f'epoch_{EPOCHS}.pth'))


def kill_while_writing(training, process):
    """Wait for a new checkpoint, then kill while the next one is written."""
    before, start = training.saved(), time.time()
    while training.saved() <= before or not training.is_writing(since=start):
        assert process.poll() is None, training.log.read_text()
        time.sleep(0.001)
    kill(process)
    assert list(training.work_dir.glob('*.part'))


def kill_at_a_random_iteration(training, process):
    """Wait for the first iteration, then kill after a random time."""
    while 'Checkpoints will be saved to' not in training.log.read_text():
        assert process.poll() is None, training.log.read_text()
        time.sleep(0.1)
    time.sleep(random.uniform(0, 3))
    kill(process)


def kill(process):
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_killed_trainings_end_with_the_same_weights(mini_coco, tmp_path):
    whole = Training(tmp_path / 'whole', mini_coco)
    whole.finish()

    killed = Training(tmp_path / 'killed', mini_coco)
    for i in range(KILLS):
        kill_somewhere = (kill_while_writing, kill_at_a_random_iteration)
        kill_somewhere[i % 2](killed, killed.start('--resume'))
        print(f'kill {i + 1}: {sorted(killed.saved())} of {EPOCHS} epochs')
        for name in killed.saved():
            read_checkpoint(str(killed.work_dir / name))
    assert 'resumed epoch: ' in killed.finish('--resume')

    assert killed.final()['meta']['iter'] == whole.final()['meta']['iter']
    weights, expected = (run.final()['state_dict'] for run in (killed, whole))
    torch.testing.assert_close(weights, expected, rtol=0, atol=0)
    states = (run.final()['optimizer']['state'] for run in (killed, whole))
    torch.testing.assert_close(*states, rtol=0, atol=0)
