"""The weights that a training starts from, and the log lines about them."""

import itertools
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.fileio import LocalBackend, register_backend
from mmengine.registry import RUNNERS
from torch import nn

from crossformer_mm import CheckedRunner
from crossformer_mm.checkpoint import CheckpointError
from tests.checkpoint import kinds

pytestmark = pytest.mark.usefixtures('small_variants')


class Detector(kinds.Detector):
    """A detector with one output per class, and any additional parts."""

    def __init__(self, init_cfg=None, classes=1, variant='tiny', **parts):
        super().__init__(variant, init_cfg)
        self.bbox_head = nn.Linear(1, classes)
        for name, part in parts.items():
            setattr(self, name, part)


def pretrained(path):
    return dict(type='Pretrained', checkpoint=str(path))


@pytest.fixture
def runner(tmp_path):
    numbers = itertools.count()

    def make(model, **kwargs):
        name = f'{tmp_path} {next(numbers)}'  # MMEngine caches loggers by name
        options = dict(kind=CheckedRunner, experiment_name=name) | kwargs
        return kinds.runner(tmp_path / 'run', model, **options)

    return make


@pytest.fixture
def saved(tmp_path):
    """Save random weights of a network; return them and the file."""

    def save(model):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_()
        path = tmp_path / 'saved.pth'
        torch.save(dict(state_dict=model.state_dict()), path)
        return model.state_dict(), path

    return save


def log(runner):
    return Path(runner.log_dir, f'{runner.timestamp}.log').read_text()


class StartError(Exception):
    """Raised in place of the first iteration."""


def start(runner):
    """Train up to the first iteration; return the weights there."""

    def stop(*_, **__):
        raise StartError

    runner.model.train_step = stop
    with pytest.raises(StartError):
        runner.train()
    return runner.model.state_dict()


def test_resuming_needs_no_pretrained_file(runner, tmp_path):
    path = tmp_path / 'pretrained.pth'
    torch.save(kinds.backbone_weights('tiny'), path)

    def detector():
        teacher = Detector()  # uses MMEngine's own loader
        teacher.init_cfg = pretrained(path)
        return Detector(pretrained(path), teacher=teacher)

    runner(detector()).train()
    path.unlink()
    resumed = runner(detector(), resume=True, epochs=2)
    resumed.train()
    assert resumed.iter == 4
    assert 'from scratch' not in log(resumed)


def test_resuming_a_finished_training(runner):
    runner(Detector()).train()
    before = (Path(runner(Detector()).work_dir) / 'epoch_1.pth').read_bytes()
    resumed = runner(Detector(), resume=True)
    resumed.train()
    assert 'Nothing is left to train: 1 of 1 epochs are done' in log(resumed)
    assert 'train_cfg.max_epochs=N' in log(resumed)
    assert (Path(resumed.work_dir) / 'epoch_1.pth').read_bytes() == before


def test_from_scratch(runner):
    training = runner(Detector())
    start(training)
    assert 'CrossFormer is trained from scratch' in log(training)


@pytest.mark.parametrize('way', ['load_from', 'init_cfg', 'dumped init_cfg'])
@pytest.mark.parametrize('backbone', ['missing', None])
def test_weights_of_a_complete_network(way, backbone, runner, saved, tmp_path):
    weights, path = saved(Detector())
    own = backbone and pretrained(tmp_path / 'nowhere.pth')
    model = Detector(own)
    if way == 'load_from':
        training = runner(model, load_from=str(path))
    else:
        model.init_cfg = pretrained(path)
        if way == 'dumped init_cfg':
            model.init_cfg['type'] = 'mmengine.model.weight_init.PretrainedInit'
        training = runner(model)
    loaded = start(training)
    for name, weight in weights.items():
        assert torch.equal(loaded[name], weight), name
    assert 'from scratch' not in log(training)
    assert str(path) in log(training)
    if own:
        assert 'nowhere.pth is missing and not needed beside ' in log(training)


def test_head_weights_need_the_backbone_file(runner, saved, tmp_path):
    _, path = saved(nn.Linear(1, 1))
    model = Detector(pretrained(tmp_path / 'nowhere.pth'))
    with pytest.raises(CheckpointError, match='saved.pth holds no CrossFormer'):
        runner(model, load_from=str(path), cfg=dict(strict=False)).train()


# Locations of checkpoints


@register_backend('mapped')
class Mapped(LocalBackend):
    """Writes the files of ``far/`` to another folder."""

    def __init__(self, place):
        self.place = place

    def put(self, obj, filepath):
        super().put(obj, str(filepath).replace('far/', f'{self.place}/'))


def test_no_temporary_files_are_left(runner, tmp_path):
    training = runner(Detector())
    training.train()
    best = dict(filename='best.pth', file_client_args=None, backend_args=None)
    training.save_checkpoint(training.work_dir, **best)  # as for save_best
    far = dict(backend='mapped', place=str(tmp_path / 'there'))
    training.save_checkpoint('far/', 'far.pth', backend_args=far)
    names = {path.name for path in tmp_path.rglob('*') if path.is_file()}
    assert {'epoch_1.pth', 'best.pth', 'far.pth'} <= names
    assert not [name for name in names if name.endswith('.part')]


@pytest.mark.parametrize('note', [True, False])
@pytest.mark.parametrize('renamed', [True, False])
def test_resume_with_custom_out_dir_and_file_names(note, renamed, runner, tmp_path):
    def hooks(name='snapshot_{:03d}.pth'):
        elsewhere = tmp_path / 'elsewhere'
        hook = dict(type='CheckpointHook', out_dir=str(elsewhere), filename_tmpl=name)
        return dict(checkpoint=hook)

    training = runner(Detector(), default_hooks=hooks())
    training.train()
    assert (tmp_path / 'elsewhere' / 'run' / 'snapshot_001.pth').is_file()
    if not note:
        (tmp_path / 'run' / 'last_checkpoint').unlink()
    later = hooks('epoch_{}.pth') if note and renamed else hooks()
    resumed = runner(Detector(), default_hooks=later, resume=True, epochs=2)
    resumed.train()
    assert resumed.iter == 4 and 'resumed epoch: 1' in log(resumed)


# Checkpoints of other networks


def test_checkpoint_of_another_network_is_an_error(runner, saved):
    _, path = saved(Detector(mask_head=nn.Linear(1, 1)))
    other = Detector(rpn_head=nn.Linear(2, 2))
    with pytest.raises(CheckpointError) as stopped:
        runner(other, load_from=str(path)).train()
    assert str(stopped.value).startswith(f'{path} does not fit the Detector: ')
    assert '2 missing (rpn_head.weight, rpn_head.bias)' in str(stopped.value)
    assert '2 unknown (mask_head.weight, mask_head.bias)' in str(stopped.value)
    training = runner(other, load_from=str(path), cfg=dict(strict=False))
    start(training)
    assert 'Left as they were: rpn_head\n' in log(training)


def test_classifier_checkpoint_in_a_detector_is_an_error(runner, tmp_path):
    torch.save({'model': kinds.classifier_weights('tiny')}, tmp_path / 'c.pth')
    with pytest.raises(CheckpointError, match='1 unknown .model.'):
        runner(Detector(), load_from=str(tmp_path / 'c.pth')).train()


def test_fine_tuning_with_another_number_of_classes(runner, saved):
    weights, path = saved(Detector(classes=7))
    training = runner(Detector(classes=3), load_from=str(path))
    loaded = start(training)
    assert torch.equal(
        loaded['backbone.patch_embed.norm.bias'],
        weights['backbone.patch_embed.norm.bias'],
    )
    assert 'bbox_head.weight [7, 1], not [3, 1]' in log(training)
    assert 'Left as they were: bbox_head\n' in log(training)


def test_resuming_with_another_number_of_classes_is_an_error(runner):
    runner(Detector(classes=7)).train()
    with pytest.raises(CheckpointError, match='2 mismatched .bbox_head.weight'):
        runner(Detector(classes=3), resume=True, epochs=2).train()


@pytest.mark.parametrize('strict', [True, False])
def test_testing_mismatched_weights_needs_strict_false(strict, runner, saved):
    _, path = saved(Detector(classes=7))
    evaluated = dict(
        test_dataloader=dict(
            dataset=[], sampler=dict(type='DefaultSampler', round_up=False)
        ),
        test_cfg=dict(),
        test_evaluator=[],
    )
    cfg = {} if strict else dict(strict=False)
    testing = runner(Detector(), load_from=str(path), cfg=cfg, **evaluated)
    if strict:
        with pytest.raises(CheckpointError, match='2 mismatched'):
            testing.test()
    else:
        testing.test()
        assert 'Left as they were: bbox_head\n' in log(testing)


def test_complete_loading_is_logged(runner, saved):
    weights, path = saved(Detector())
    weights['backbone.layers.0.blocks.0.attn.biases'] = torch.zeros(1)  # old buffer
    torch.save(dict(state_dict=weights), path)
    training = runner(Detector(), load_from=str(path))
    start(training)
    assert f'Loaded {path}: the whole Detector' in log(training)


# Pure-Python configs

PURE_PYTHON = """
from mmengine.dataset import DefaultSampler
from mmengine.model.weight_init import PretrainedInit
from mmengine.optim import OptimWrapper
from torch.optim import AdamW

from crossformer_mm import {runner}, EpochSeedHook
from tests.checkpoint.kinds import Detector
from tests.engine.test_runner import Images

default_scope = 'mmengine'
custom_imports = dict(imports=['crossformer_mm'], allow_failed_imports=False)
runner_type = {runner_type}
model = dict(
    type=Detector,
    variant='tiny',
    init_cfg=dict(type=PretrainedInit, checkpoint={checkpoint!r}),
)
train_dataloader = dict(
    dataset=dict(type=Images), sampler=dict(type=DefaultSampler, shuffle=False)
)
train_cfg = dict(by_epoch=True, max_epochs=1)
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=AdamW, lr=1e-3))
custom_hooks = [dict(type=EpochSeedHook)]
work_dir = {work_dir!r}
"""


class Images(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        return dict(images=torch.zeros(3, 32, 32))


@pytest.mark.parametrize('runner_type', ['CheckedRunner', "'CheckedRunner'"])
def test_pure_python_config_and_its_dump_are_strict(runner_type, tmp_path):
    path, work_dir = tmp_path / 'pretrained.pth', tmp_path / 'run'
    (tmp_path / 'config.py').write_text(
        PURE_PYTHON.format(
            runner='CheckedRunner',
            runner_type=runner_type,
            checkpoint=str(path),
            work_dir=str(work_dir),
        )
    )
    for config in (tmp_path / 'config.py', work_dir / 'config.py'):
        for variant in ('tiny', 'deep'):
            kinds.classifier(path, variant)
            cfg = Config.fromfile(config)
            cfg.experiment_name = f'{tmp_path} {config} {variant}'
            training = RUNNERS.build(cfg)
            assert type(training) is CheckedRunner
            if variant == 'tiny':
                loaded = start(training)
                for name, weight in kinds.backbone_weights('tiny').items():
                    assert torch.equal(loaded[f'backbone.{name}'], weight), name
            else:
                with pytest.raises(CheckpointError, match='CrossFormer-deep'):
                    training.train()
    assert "type='mmengine.model.weight_init.PretrainedInit'" in config.read_text()
