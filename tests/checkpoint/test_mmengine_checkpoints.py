"""MMEngine reads its checkpoints safely, with any torch and NumPy."""

import io
import sys
import zipfile
from collections import OrderedDict
from fractions import Fraction

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from torch import nn

from crossformer_mm.checkpoint.load import trusted_by_the_user
from crossformer_mm.checkpoint.reader import CheckpointError, read_checkpoint
from tests.checkpoint import kinds
from tests.checkpoint.test_reader import hostile_objects, save

# torch has a user-defined allowlist since this version.
with_safe_globals = pytest.mark.skipif(
    not hasattr(torch.serialization, 'safe_globals'), reason='torch < 2.5'
)


def load(path):
    """Load as ``--resume``, ``load_from`` and ``mim test`` do."""
    return CheckpointLoader.load_checkpoint(str(path), map_location='cpu')


def history():
    return HistoryBuffer([3.0, 1.0], [1, 1])


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


def test_allowlist_of_torch_load_is_unchanged(tmp_path):
    """Check that importing the package does not weaken ``torch.load``."""
    torch.save({'history': history()}, tmp_path / 'ours.pth')
    assert load(tmp_path / 'ours.pth')['history'].max() == 3
    ours = [
        item
        for item in trusted_by_the_user().values()
        if (getattr(item, '__module__', None) or '').startswith('crossformer_mm')
    ]
    assert not ours
    with pytest.raises(Exception, match='Weights only load failed'):
        torch.load(tmp_path / 'ours.pth', weights_only=True)


@with_safe_globals
def test_safe_globals_of_the_user(tmp_path):
    """Classes that the user allows are read; allowing getattr does not weaken ours."""
    own = Fraction(1, 3)
    torch.save({'history': history()}, tmp_path / 'log.pth')
    save({'x': hostile_objects(tmp_path / 'mark')['getattr']}, tmp_path / 'bad.pth')
    torch.save({'a': own}, tmp_path / 'own.pth')
    with pytest.raises(
        CheckpointError, match=r'own.pth is refused: .*add_safe_globals'
    ):
        load(tmp_path / 'own.pth')
    usual = [HistoryBuffer, getattr, np.ndarray, np.dtype, type(np.dtype('f8'))]
    usual += [np.empty(0).__reduce__()[0], np.float64().__reduce__()[0]]
    with torch.serialization.safe_globals([*usual, Fraction]):
        assert load(tmp_path / 'log.pth')['history'].max() == 3
        with pytest.raises(CheckpointError, match='it asks for getattr'):
            load(tmp_path / 'bad.pth')
        assert load(tmp_path / 'own.pth') == {'a': own}
        # `init_cfg` and the converter ignore the user's allowlist.
        with pytest.raises(CheckpointError, match='fractions.Fraction'):
            read_checkpoint(str(tmp_path / 'own.pth'))


def test_module_versions_are_kept(tmp_path):
    """Modules such as MMCV's deformable convolutions use them to rename weights."""
    weights = nn.BatchNorm2d(3).state_dict()
    weights.get = weights.items = torch.Size
    torch.save(weights, tmp_path / 'a.pth')
    loaded = load(tmp_path / 'a.pth')
    assert type(loaded) is OrderedDict
    assert vars(loaded) == {'_metadata': weights._metadata}


@pytest.mark.parametrize(
    'map_location',
    ['cpu', torch.device('cpu'), {'cuda:0': 'cpu'}, lambda storage, _: storage, None],
)
def test_map_location(map_location, tmp_path):
    torch.save({'x': torch.arange(3)}, tmp_path / 'a.pth')
    loaded = CheckpointLoader.load_checkpoint(
        str(tmp_path / 'a.pth'), map_location=map_location
    )
    assert loaded['x'].tolist() == [0, 1, 2]


def test_history_buffer_round_trip(tmp_path):
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
    """Files of NumPy 1 and 2 differ only in these module names."""
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


@pytest.mark.parametrize('name', list(hostile_objects('mark')))
def test_files_that_run_code_are_refused(name, tmp_path):
    mark = tmp_path / 'mark'
    content = {'state_dict': {}, 'message_hub': {'x': hostile_objects(mark)[name]}}
    save(content, tmp_path / 'file.pth')
    with pytest.raises(CheckpointError, match=rf'it asks for (builtins\.|_)?{name}'):
        load(tmp_path / 'file.pth')
    assert not mark.exists()


@pytest.mark.parametrize(
    'changes',
    [
        dict(statistics_methods={'mean': HistoryBuffer.min}),
        dict(statistics_methods={'other': HistoryBuffer.min}),
        dict(_statistics_methods={'mean': HistoryBuffer.mean}),
        dict(mean=HistoryBuffer.min),
        dict(_log_history=[1.0]),
        dict(_log_history=np.ones((1, 2))),
        dict(_log_history=np.ones(3)),
        dict(_log_history=np.array(['a', 'b'])),
        dict(_log_history=np.array([{}, {}])),
        dict(max_length='1'),
    ],
)
def test_modified_history_buffers_are_refused(changes, tmp_path, monkeypatch):
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
    with pytest.raises(CheckpointError, match='a HistoryBuffer as MMEngine|type O8'):
        load(tmp_path / 'file.pth')
    assert history().statistics('mean') == 2
    assert set(HistoryBuffer._statistics_methods) == {'min', 'max', 'current', 'mean'}


def test_statistic_registered_by_the_user(tmp_path, monkeypatch):
    monkeypatch.setattr(
        HistoryBuffer, '_statistics_methods', {**HistoryBuffer._statistics_methods}
    )

    def median(self):
        return float(np.median(self._log_history))

    median.__qualname__ = 'median'
    monkeypatch.setattr(sys.modules[__name__], 'median', median, raising=False)
    HistoryBuffer.register_statistics(median)
    torch.save({'history': history()}, tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match='it asks for .*median'):
        load(tmp_path / 'a.pth')
    if hasattr(torch.serialization, 'safe_globals'):
        with torch.serialization.safe_globals([median]):
            loaded = load(tmp_path / 'a.pth')['history']
        assert loaded.statistics('median') == 2


def test_truncated_download_error_names_the_file(tmp_path, monkeypatch, server):
    """torch's downloader caches files, even truncated ones."""
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    torch.save({'x': torch.arange(3)}, tmp_path / 'a.pth')
    kept = tmp_path / 'hub' / 'checkpoints' / 'a.pth'
    assert load(f'{server}/a.pth')['x'].tolist() == [0, 1, 2]
    kept.write_bytes(kept.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=f'cut off .*: rm {kept}$'):
        load(f'{server}/a.pth')
    kept.unlink()
    assert load(f'{server}/a.pth')['x'].tolist() == [0, 1, 2]
    with pytest.raises(CheckpointError, match='HTTP Error 404'):
        load(f'{server}/other.pth')
    assert list(kept.parent.iterdir()) == [kept]
