"""No code of a file is executed, and any damage is one clear error."""

import io
import os
import pickle
import sys
import tarfile
import zipfile

import pytest
import torch
from mmengine.logging import HistoryBuffer

from crossformer_mm.checkpoint.reader import CheckpointError, read_checkpoint
from tests.checkpoint import kinds


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'file.pth'


# Hostile files


class Calls:
    """Is pickled as a call of a function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def named(name, module):
    """Return a function that is pickled as ``module.name``."""

    def function():
        """Never called."""

    function.__module__, function.__qualname__ = module, name
    function.__name__ = name
    return function


def save(content, path):
    """Save with torch.save, without checking that the names exist."""

    class Pickler(pickle._Pickler):
        def save_global(self, obj, name=None):
            if isinstance(obj, type(named)) and obj.__doc__ == 'Never called.':
                self.write(f'c{obj.__module__}\n{obj.__qualname__}\n'.encode())
                self.memoize(obj)
            else:
                super().save_global(obj, name)

        dispatch = dict(pickle._Pickler.dispatch)
        dispatch[type(named)] = save_global

    class Module:
        pass

    Module.Pickler = Pickler
    torch.save(content, path, pickle_module=Module)


def hostile_objects(mark):
    """Return objects by name; unpickling most of them creates the file ``mark``."""
    touch = f'open({str(mark)!r}, "w")'
    return {
        'posix.system': Calls(os.system, f'touch {mark}'),
        'os.system': Calls(named('system', 'os'), f'touch {mark}'),
        'eval': Calls(eval, touch),
        'exec': Calls(exec, touch),
        'io.open': Calls(open, str(mark), 'w'),
        'subprocess.Popen': Calls(named('Popen', 'subprocess'), ['touch', str(mark)]),
        'yacs.config.load_cfg': Calls(named('load_cfg', 'yacs.config'), touch),
        'yacs.config.os.system': Calls(
            named('os.system', 'yacs.config'), f'touch {mark}'
        ),
        'mmengine.logging.history_buffer.np.load': Calls(
            named('np.load', 'mmengine.logging.history_buffer'), str(mark)
        ),
        'numpy.core.multiarray.fromfile': Calls(
            named('fromfile', 'numpy.core.multiarray'), str(mark)
        ),
        'torch.load': Calls(named('load', 'torch'), str(mark)),
        'torch.hub.load': Calls(named('load', 'torch.hub'), 'repo', 'model'),
        'getattr': Calls(getattr, HistoryBuffer, '__init__'),
    }


HOSTILE = list(hostile_objects('mark'))


@pytest.mark.parametrize('name', HOSTILE)
@pytest.mark.parametrize('place', ['top', 'model', 'config'])
def test_refusal_names_the_called_function(name, place, path):
    mark = path.with_name('mark')
    hostile = hostile_objects(mark)[name]
    content = {'model': kinds.classifier_weights('tiny'), **kinds.original_entries()}
    if place == 'top':
        content = hostile
    elif place == 'model':
        content['model']['norm.bias'] = hostile
    else:
        content['config']['MODEL'] = dict(TYPE=[hostile])
    save(content, path)
    with pytest.raises(CheckpointError) as raised:
        read_checkpoint(str(path))
    assert name in str(raised.value)
    assert 'is refused' in str(raised.value)
    assert not mark.exists()


def test_hostile_files_run_code_without_protection(tmp_path):
    """Check that the attacks work with an unrestricted unpickler."""
    marks = []
    for i, name in enumerate(('posix.system', 'os.system', 'eval', 'exec', 'io.open')):
        mark = tmp_path / f'mark{i}'
        save(hostile_objects(mark)[name], tmp_path / 'file.pth')
        torch.load(tmp_path / 'file.pth', weights_only=False)
        marks.append(mark.exists())
    assert all(marks)


def test_yacs_is_optional(path, monkeypatch):
    kinds.classifier(path, 'tiny')
    monkeypatch.setitem(sys.modules, 'yacs', None)
    monkeypatch.setitem(sys.modules, 'yacs.config', None)
    config = read_checkpoint(str(path))['config']
    assert config['MODEL']['TYPE'] == 'cross-scale'


# Damaged and other files


def make_empty(path):
    path.write_bytes(b'')


def make_cut(path):
    kinds.classifier(path, 'tiny')
    path.write_bytes(path.read_bytes()[:-1000])


def make_web_page(path):
    path.write_text('\n<!DOCTYPE html><html><title>Google Drive</title></html>')


def make_flipped(path):
    kinds.classifier(path, 'tiny')
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda info: info.file_size)
    content[largest.header_offset + largest.file_size // 2] ^= 1
    path.write_bytes(content)


def make_pickle(path):
    path.write_bytes(pickle.dumps({'a': 1}))


def make_old_pickle(path):
    path.write_bytes(pickle.dumps({'a': 1}, protocol=2))


def make_tar(path):
    with tarfile.open(path, 'w') as archive:
        archive.addfile(tarfile.TarInfo('pickle'), io.BytesIO())


def make_text(path):
    path.write_text('version https://git-lfs.github.com/spec/v1')


def make_whole_model(path):
    torch.save(torch.nn.Linear(1, 1), path)


def make_cut_safetensors(path):
    kinds.safetensors(path, 'tiny')
    path.write_bytes(path.read_bytes()[:-1000])


def make_folder(path):
    path.mkdir()


def make_nothing(path):
    pass


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (make_empty, 'is empty'),
        (make_cut, 'is cut off or damaged'),
        (make_web_page, 'is a web page'),
        (make_flipped, 'is damaged in file/data/'),
        (make_pickle, 'is no checkpoint, or damaged'),
        (make_old_pickle, 'is no checkpoint, or damaged'),
        (make_tar, 'is a tar archive'),
        (make_text, 'is no checkpoint, or damaged'),
        (make_whole_model, 'is refused: it asks for torch.nn.modules.linear.Linear'),
        (make_cut_safetensors, 'is damaged, get it again'),
        (make_folder, 'cannot be read: .*Is a directory'),
        (make_nothing, 'cannot be read: .*No such file'),
    ],
)
def test_damaged_and_other_files(make, message, path):
    make(path)
    with pytest.raises(CheckpointError, match=message) as raised:
        read_checkpoint(str(path))
    assert '\n' not in str(raised.value)
    # torch's own message advises weights_only=False, which is unsafe.
    assert 'weights_only' not in str(raised.value)


def test_safetensors_is_optional(path, monkeypatch):
    kinds.safetensors(path, 'tiny')
    monkeypatch.setitem(sys.modules, 'safetensors.torch', None)
    with pytest.raises(CheckpointError, match='pip install safetensors'):
        read_checkpoint(str(path))


# Over the network


def test_urls(server, path):
    kinds.classifier(path, 'tiny')
    content = read_checkpoint(f'{server}/file.pth')
    expected = kinds.classifier_weights('tiny')
    assert all(torch.equal(content['model'][name], expected[name]) for name in expected)
    with pytest.raises(CheckpointError, match='cannot be read: HTTP Error 404'):
        read_checkpoint(f'{server}/other.pth')
    with pytest.raises(CheckpointError, match='cannot be read: .*refused'):
        read_checkpoint('http://127.0.0.1:1/file.pth')
    with pytest.raises(CheckpointError, match="no file client for 'other'"):
        read_checkpoint('other://file.pth')
