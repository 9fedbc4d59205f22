"""Legitimate files of all versions load with the same content."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader

from crossformer_mm.checkpoint.reader import read_checkpoint
from tests.checkpoint import honest

# Files that ``honest`` wrote with the versions in their names.
ARCHIVES = sorted(Path(__file__).parents[1].joinpath('data', 'honest').glob('*.zip'))


def assert_same(found, expected, where=''):
    """Compare values and types."""
    if isinstance(expected, torch.Tensor):
        assert type(found) is type(expected), where
        assert found.dtype == expected.dtype, where
        assert found.requires_grad == expected.requires_grad, where
        assert found.stride() == expected.stride(), where
        assert torch.equal(found, expected), where
    elif isinstance(expected, np.ndarray | np.generic):
        assert type(found) is type(expected), where
        # NumPy restores arrays in native byte order.
        assert found.dtype == expected.dtype.newbyteorder('='), where
        assert np.array_equal(found, expected), where
    elif isinstance(expected, HistoryBuffer):
        assert type(found) is HistoryBuffer
        assert_same(found.data, expected.data, where)
    elif isinstance(expected, dict):
        assert list(found) == list(expected), where
        for key in expected:
            assert_same(found[key], expected[key], f'{where}/{key}')
    elif type(expected) in (list, tuple):
        assert type(found) is type(expected), where
        assert len(found) == len(expected), where
        for i, item in enumerate(expected):
            assert_same(found[i], item, f'{where}/{i}')
    else:
        assert type(found) is type(expected), where
        assert found == expected, where


def check_all(folder):
    """Read each file with `read_checkpoint` and with MMEngine."""
    paths = sorted(folder.glob('*.pth'))
    assert len(paths) >= len(honest.CONTENTS)
    for path in paths:
        expected = honest.CONTENTS[path.name.partition('.')[0]]()
        assert_same(read_checkpoint(str(path)), expected, path.name)
        if '.gpu' not in path.name:
            loaded = CheckpointLoader.load_checkpoint(str(path), logger='silent')
            assert_same(loaded, expected, path.name)


def test_files_of_this_torch(tmp_path):
    honest.write_all(tmp_path)
    check_all(tmp_path)


@pytest.mark.parametrize('archive', ARCHIVES, ids=lambda path: path.stem)
def test_files_of_other_versions(archive, tmp_path):
    with zipfile.ZipFile(archive) as files:
        files.extractall(tmp_path)
    check_all(tmp_path)


def test_tied_weights_stay_tied(tmp_path):
    torch.save(honest.tied(), tmp_path / 'a.pth')
    found = read_checkpoint(str(tmp_path / 'a.pth'))
    found['encoder'][1] = 5
    assert (found['row'] == 5).all()


@pytest.mark.parametrize('dtype', ['uint16', 'float8_e4m3fn'])
def test_newer_dtypes(dtype, tmp_path):
    if not hasattr(torch, 'uint16'):
        pytest.skip('this torch saves none of them')
    tensor = torch.ones(3).to(getattr(torch, dtype))
    torch.save(tensor, tmp_path / 'a.pth')
    found = read_checkpoint(str(tmp_path / 'a.pth'))
    assert found.dtype == tensor.dtype
    assert found.float().tolist() == [1, 1, 1]
