"""The checkpoint that --resume continues from, after random histories of a folder.

The real runner starts, kills and resumes trainings of a tiny network. In between, the
folder is moved or copied and its files are truncated, altered or removed. The oracle
records what was saved and damaged; of the folder it only checks which files exist.
"""

import itertools
import logging
import shutil
import tempfile
import time
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, MODELS
from torch.utils.data import Dataset

from crossformer_mm import CheckedRunner
from crossformer_mm.checkpoint import CheckpointError
from tests.helpers import ONEDL  # it unpickles foreign objects without a check

CONFIG = """
load_from = {load_from!r}
default_scope = 'mmengine'
model = dict(type='Counter')
train_dataloader = dict(
    dataset=dict(type='ThreeSamples'),
    sampler=dict(type={sampler!r}, shuffle=False),
)
train_cfg = {train_cfg}
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))
default_hooks = dict(checkpoint=dict(type='CheckpointHook', **{by_epoch}))
custom_hooks = [dict(type='CheckpointHook', **{by_iter}), dict(type='Watch', **{watch})]
"""
EPOCHS, ITERATIONS = 4, 12


@MODELS.register_module()
class Counter(BaseModel):
    """Counts the iterations it was trained for."""

    def __init__(self):
        super().__init__()
        self.count = torch.nn.Parameter(torch.zeros(()))

    def train_step(self, data, optim_wrapper):
        self.count.data += 1
        return {}

    def forward(self, *args):
        raise NotImplementedError


@DATASETS.register_module()
class ThreeSamples(Dataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        return index


class KilledError(Exception):
    """Raised in place of a kill signal."""


@HOOKS.register_module()
class Watch(Hook):
    """Kills the training after some iterations; records the state at its start."""

    priority = 'HIGHEST'

    def __init__(self, iterations, foreign):
        self.iterations, self.foreign = iterations, foreign
        self.start = None

    def before_train(self, runner):
        self.start = runner.iter, runner.model.count.item(), content(runner.work_dir)

    def before_train_iter(self, runner, **_):
        if self.iterations == 0:
            raise KilledError
        self.iterations -= 1

    def before_save_checkpoint(self, runner, checkpoint):
        if self.foreign:
            checkpoint['meta']['price'] = Decimal('9.99')


@dataclass
class Saved:
    """The oracle's record of a checkpoint."""

    iteration: int
    epoch: int
    count: float
    order: int
    foreign: bool
    cut: bool = False


class RecordingRunner(CheckedRunner):
    def save_checkpoint(self, out_dir, filename, *args, meta, **kwargs):
        super().save_checkpoint(out_dir, filename, *args, meta=meta, **kwargs)
        self.record(filename, meta, self.model.count.item())


def content(folder):
    paths = [path for path in Path(folder).glob('*') if path.is_file()]
    return {path.name: path.read_bytes() for path in paths if path.suffix == '.pth'}


class Folder:
    """A work folder and the oracle's record of it."""

    def __init__(self, root):
        self.root, self.names = root, itertools.count()
        self.path = self.root / 'run'
        self.path.mkdir()
        self.saved, self.noted, self.order = {}, '', itertools.count()
        self.weights = root / 'weights.pth'
        torch.save({'state_dict': {'count': torch.tensor(100.0)}}, self.weights)

    def files(self):
        return {n: s for n, s in self.saved.items() if (self.path / n).exists()}

    def oracle(self, load_from):
        """Return the checkpoint to resume, 'stop' for an error, or ``load_from``."""
        there = self.files()
        noted = there.get(self.noted)
        if noted and not noted.cut:
            return 'stop' if noted.foreign else self.noted
        whole = {name: s for name, s in there.items() if not s.cut}
        if any(s.foreign for s in whole.values()):
            return 'stop'
        if whole:
            return max(whole, key=lambda name: whole[name].order)
        if there or self.noted:
            return 'stop'
        return load_from

    def train(self, run):
        """Run a training; check where it starts."""
        before = content(self.path)
        resumed = expected = None
        if run.resume:
            expected = self.oracle(run.load_from and str(self.weights))
            if run.named and (names := sorted(self.files())):
                expected = names[run.named % len(names)]
                there = self.saved[expected]
                resumed = str(self.path / expected)
                expected = 'stop' if there.cut or there.foreign else expected
        runner = self.build(run, resumed)
        try:
            runner.train()
            stopped = False
        except KilledError:
            stopped = False
        except CheckpointError as error:
            stopped = str(error)
        finally:
            for handler in runner.logger.handlers:
                handler.close()
            runner.logger.handlers.clear()
        if expected == 'stop':
            assert stopped, 'trains'
            assert content(self.path) == before
            broken = [n for n, s in self.files().items() if s.cut or s.foreign]
            assert resumed or all(name in stopped for name in broken)
            return
        assert not stopped, stopped
        iteration, count, began_with = next(
            hook.start for hook in runner.hooks if isinstance(hook, Watch)
        )
        assert began_with == before
        if expected in self.start_of:
            start = self.start_of[expected]
            assert (iteration, count) == (start.iteration, start.count)
        else:
            loaded = run.load_from if not run.resume else expected
            assert (iteration, count) == (0, 100.0 if loaded else 0.0)

    def build(self, run, resumed):
        path = self.root / 'config.py'
        every = dict(save_last=False, max_keep_ckpts=run.keep)
        path.write_text(
            CONFIG.format(
                load_from=str(self.weights) if run.load_from else None,
                # With a finite sampler, MMEngine's iteration loop sleeps 2 s per epoch.
                sampler='DefaultSampler' if run.by_epoch else 'InfiniteSampler',
                train_cfg=dict(by_epoch=True, max_epochs=EPOCHS)
                if run.by_epoch
                else dict(by_epoch=False, max_iters=ITERATIONS),
                by_epoch=dict(every, interval=1 if run.by_epoch else -1),
                by_iter=dict(every, by_epoch=False, interval=run.interval),
                watch=dict(iterations=run.killed_after, foreign=run.foreign),
            )
        )
        config = Config.fromfile(path)
        config.work_dir, config.resume = str(self.path), run.resume
        if run.resume and run.drops_load_from:
            config.load_from = None
        config.load_from = resumed or config.load_from
        self.start_of = dict(self.saved)
        runner = RecordingRunner.from_cfg(config)

        def record(name, meta, count):
            self.noted, order = name, next(self.order)
            self.saved[name] = Saved(
                meta['iter'], meta['epoch'], count, order, run.foreign and not ONEDL
            )

        runner.record = record
        return runner

    def apply(self, fault):
        newest = max(self.files().items(), key=lambda item: item[1].order, default=None)
        note = self.path / 'last_checkpoint'
        if fault in ('cut', 'empty', 'scratched', 'removed') and newest:
            name, saved = newest
            path = self.path / name
            data = path.read_bytes()
            saved.cut = True
            if fault == 'removed':
                path.unlink()
            elif fault == 'scratched':
                path.write_bytes(data.replace(b'state_dict', b'state_dirt'))
            else:
                path.write_bytes(data[: len(data) // 2 if fault == 'cut' else 0])
        elif fault == 'note lost':
            note.unlink(missing_ok=True)
            self.noted = ''
        elif fault in ('note cut', 'note empty') and note.exists():
            note.write_text('' if fault == 'note empty' else note.read_text()[:-9])
            self.noted = note.read_text()
        elif fault in ('moved', 'copied'):
            old, self.path = self.path, self.root / f'run{next(self.names)}'
            shutil.copytree(old, self.path)
            if fault == 'moved':
                shutil.rmtree(old)
            else:
                for path in old.glob('*.pth'):  # the original changes later
                    torch.save({}, path)
        elif fault == 'a stranger':
            for name in ('teacher.pth', 'best_mAP_epoch_9.pth', 'epoch_9-0a1b.pth'):
                shutil.copy(self.weights, self.path / name)


@dataclass
class Run:
    resume: bool
    by_epoch: bool
    interval: int
    keep: int
    killed_after: int
    foreign: bool
    load_from: bool
    drops_load_from: bool
    named: int


rarely = st.sampled_from([False, False, False, True])
runs = st.builds(
    Run,
    resume=st.booleans(),
    by_epoch=st.booleans(),
    interval=st.sampled_from([-1, 2, 4]),
    keep=st.sampled_from([-1, 1, 2]),
    killed_after=st.integers(0, ITERATIONS + 1),
    foreign=rarely,
    load_from=rarely,
    drops_load_from=st.booleans(),
    named=st.sampled_from([0, 0, 0, 1, 2]),
)
FAULTS = (
    *('cut', 'empty', 'scratched', 'removed', 'note lost', 'note cut', 'note empty'),
    *('moved', 'copied', 'a stranger'),
)
histories = st.lists(
    st.tuples(runs, st.lists(st.sampled_from(FAULTS), max_size=2)),
    min_size=1,
    max_size=4,
)


def run(**changes):
    """Return an epoch-based training that runs to its end."""
    usual = dict(resume=False, by_epoch=True, interval=-1, keep=-1, foreign=False)
    usual |= dict(load_from=False, drops_load_from=False, named=0)
    return Run(**usual | dict(killed_after=ITERATIONS + 1) | changes)


KILLED = dict(killed_after=7)  # in the third epoch
# After each history, its first training runs once more with resume=True.
FOREIGN_OBJECTS = [(run(foreign=True, **KILLED), [])]
STARTED_AGAIN = [(run(), []), (run(killed_after=4), [])]
BY_EPOCH_AND_BY_ITERATION = [(run(interval=2, **KILLED), ['note lost'])]
LOAD_FROM_DROPPED = [(run(load_from=True, drops_load_from=True, killed_after=0), [])]
LOAD_FROM_AND_NEWER = [(run(load_from=True, **KILLED), [])]
DONE = [(run(), [])]


@pytest.fixture(scope='module')
def quick():
    """Skip slow, unrelated work, and give each training its own timestamp."""
    seconds = itertools.count()
    clock = SimpleNamespace(
        time=time.time,
        localtime=lambda *_: next(seconds),
        strftime=lambda _, second: f'20261125_{second:09}',
    )
    logging.disable(logging.WARNING)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('mmengine.runner.runner.collect_env', dict)
        # It would time two layers at each start, which takes longer than the training.
        patch.setattr('crossformer_mm.engine.runner.is_faster_accelerated', bool)
        patch.setattr('mmengine.runner.runner.time', clock)
        patch.setattr(Config, 'pretty_text', 'model = dict()')
        yield
    logging.disable(logging.NOTSET)


@pytest.mark.usefixtures('quick')
@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(histories)
@example(FOREIGN_OBJECTS)
@example(STARTED_AGAIN)
@example(BY_EPOCH_AND_BY_ITERATION)
@example(LOAD_FROM_DROPPED)
@example(LOAD_FROM_AND_NEWER)
@example(DONE)
def test_resume_matches_the_oracle(history):
    with tempfile.TemporaryDirectory() as root:
        folder = Folder(Path(root))
        for run, faults in history:
            folder.train(run)
            for fault in faults:
                folder.apply(fault)
        last = history[0][0]
        last.resume, last.named = True, 0
        folder.train(last)
