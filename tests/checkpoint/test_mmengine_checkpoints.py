"""What MMEngine saves, it reads again: on any torch and numpy, and safely."""

import io
import zipfile
from pickle import UnpicklingError

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader

from crossformer_mm.checkpoint.allowed import RestoredHistory, get_statistic
from crossformer_mm.checkpoint.reader import read_checkpoint
from tests.checkpoint import kinds
from tests.checkpoint.test_reader import hostile_objects, save
from tests.conftest import ONEDL, on_openmmlab


def load(path):
    """Load as ``--resume``, ``load_from`` and ``mim test`` do."""
    return CheckpointLoader.load_checkpoint(str(path), map_location='cpu')


def history():
    return HistoryBuffer([3.0, 1.0], [1, 1])


@pytest.fixture
def weights_only(monkeypatch):
    """The fork of MMEngine unpickles freely what is refused, unless torch forbids."""
    if ONEDL:
        monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1')


def test_resume(tmp_path):
    first = kinds.runner(tmp_path / 'work', kinds.Detector('tiny'))
    first.train()
    second = kinds.runner(
        tmp_path / 'work', kinds.Detector('tiny'), epochs=2, resume=True
    )
    second.train()
    assert (second.epoch, second.iter) == (2, 4)
    losses = second.message_hub.get_scalar('train/loss')
    assert type(losses) is HistoryBuffer
    assert len(losses.data[0]) == 4


@pytest.mark.usefixtures('weights_only')
def test_reading_a_published_file_allows_nothing_and_forbids_nothing(tmp_path):
    kinds.classifier(tmp_path / 'published.pth', 'tiny')
    torch.save({'history': history()}, tmp_path / 'ours.pth')
    read_checkpoint(str(tmp_path / 'published.pth'))
    assert load(tmp_path / 'ours.pth')['history'].max() == 3
    if torch.__version__ >= '2.6':
        with pytest.raises(UnpicklingError, match='yacs.config.CfgNode'):
            load(tmp_path / 'published.pth')


def test_history_is_a_real_one_again_and_saved_as_such(tmp_path):
    torch.save({'history': history()}, tmp_path / 'a.pth')
    loaded = load(tmp_path / 'a.pth')['history']
    assert type(loaded) is HistoryBuffer
    assert (loaded.min(), loaded.statistics('mean')) == (1, 2)
    torch.save({'history': loaded}, tmp_path / 'b.pth')
    for path in (tmp_path / 'a.pth', tmp_path / 'b.pth'):
        with zipfile.ZipFile(path) as archive:
            (pickled,) = (n for n in archive.namelist() if n.endswith('data.pkl'))
            names = archive.read(pickled)
        assert b'mmengine.logging.history_buffer\nHistoryBuffer\n' in names
        assert b'crossformer_mm' not in names


@pytest.mark.parametrize('package', ['core', '_core'])
def test_numpy_1_and_2(package, tmp_path):
    """A file of the other numpy differs in nothing but these names."""
    content = dict(history=history(), score=np.float64(0.5), array=np.arange(3))
    torch.save(content, tmp_path / 'ours.pth')
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(tmp_path / 'ours.pth') as ours,
        zipfile.ZipFile(buffer, 'w') as theirs,
    ):
        for info in ours.infolist():
            data = ours.read(info)
            for name in (b'numpy.core.', b'numpy._core.'):
                data = data.replace(name, f'numpy.{package}.'.encode())
            theirs.writestr(info.filename, data)
    (tmp_path / 'theirs.pth').write_bytes(buffer.getvalue())
    loaded = load(tmp_path / 'theirs.pth')
    assert loaded['score'] == 0.5
    assert loaded['array'].tolist() == [0, 1, 2]
    assert loaded['history'].max() == 3


@pytest.mark.usefixtures('weights_only')
@pytest.mark.parametrize('name', list(hostile_objects('mark')))
def test_a_file_that_would_run_code_is_refused(name, tmp_path):
    if ONEDL and name == 'getattr':
        pytest.skip('the fork allows it itself')
    mark = tmp_path / 'mark'
    content = {'state_dict': {}, 'message_hub': {'x': hostile_objects(mark)[name]}}
    save(content, tmp_path / 'file.pth')
    with pytest.raises(Exception, match=rf'Refused|GLOBAL (builtins\.)?{name}'):
        load(tmp_path / 'file.pth')
    assert not mark.exists()


@on_openmmlab  # the fork allows the class itself
@pytest.mark.usefixtures('weights_only')
@pytest.mark.parametrize(
    'changes',
    [
        dict(statistics_methods={'mean': HistoryBuffer.min}),
        dict(statistics_methods={'other': HistoryBuffer.min}),
        dict(statistics_methods={'mean': torch._utils._rebuild_tensor_v2}),
        dict(_statistics_methods={'mean': HistoryBuffer.mean}),
        dict(mean=HistoryBuffer.min),
        dict(_log_history=[1.0]),
        dict(_log_history=np.array([{}, {}])),
        dict(max_length='1'),
    ],
)
def test_a_history_that_would_change_all_others_is_refused(
    changes, tmp_path, monkeypatch
):
    state = {
        'max_length': 1000000,
        '_log_history': np.ones(2),
        '_count_history': np.ones(2),
        'statistics_methods': {'mean': HistoryBuffer.mean},
    }
    for changed in (state, {**state, **changes}):
        with monkeypatch.context() as patch:
            patch.setattr(HistoryBuffer, '__getstate__', lambda _, s=changed: s)
            torch.save({'history': history()}, tmp_path / 'file.pth')
        if changed is state:
            assert load(tmp_path / 'file.pth')['history'].mean() == 1
    with pytest.raises(Exception, match='Refused: a History|ObjectDType'):
        load(tmp_path / 'file.pth')
    assert history().statistics('mean') == 2
    assert set(HistoryBuffer._statistics_methods) == {'min', 'max', 'current', 'mean'}


@pytest.mark.parametrize(
    ('owner', 'name'),
    [
        (RestoredHistory, '__init__'),
        (RestoredHistory, '__globals__'),
        (torch, 'load'),
        (HistoryBuffer.mean, '__globals__'),
    ],
)
def test_getattr_gives_the_statistics_alone(owner, name):
    with pytest.raises(Exception, match='Refused: it asks for getattr'):
        get_statistic(owner, name)
    assert get_statistic(RestoredHistory, 'mean') is HistoryBuffer.mean
