"""Output files are written completely or not at all."""

import pytest

from tests.helpers import ROOT


@pytest.fixture
def output(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / 'tools')
    from parts import output

    return output


def test_error_keeps_the_old_file_only(output, tmp_path):
    file = tmp_path / 'table.csv'
    file.write_text('old')
    with pytest.raises(ValueError), output.complete(file) as part:
        part.write_text('ne')
        raise ValueError
    assert file.read_text() == 'old'
    assert list(tmp_path.iterdir()) == [file]


def test_file_and_its_data_file_are_moved(output, tmp_path):
    with output.complete(tmp_path / 'new' / 'model.onnx') as part:
        part.write_text('graph')
        part.with_name('model.onnx.data').write_text('weights')
    names = [path.name for path in (tmp_path / 'new').iterdir()]
    assert sorted(names) == ['model.onnx', 'model.onnx.data']


def test_unwritable_file_is_one_message(output, tmp_path):
    (tmp_path / 'file').touch()
    with (
        pytest.raises(SystemExit, match='table.csv cannot be written'),
        output.complete(tmp_path / 'file' / 'table.csv'),
    ):
        pass
