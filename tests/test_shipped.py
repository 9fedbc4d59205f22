"""The command crossformer-config."""

import sys

import pytest
from mmengine.config import Config

from crossformer_mm import shipped

NAME = 'mask_rcnn_crossformer_s_fpn_1x_coco'


@pytest.fixture
def command(monkeypatch, capsys):
    """Call the command; return what it prints."""

    def call(*arguments):
        monkeypatch.setattr(sys, 'argv', ['crossformer-config', *map(str, arguments)])
        shipped.main()
        return capsys.readouterr().out.strip()

    return call


def test_list(command):
    lines = command().splitlines()
    assert len(lines) == len(shipped.config_names()) + 1
    assert f'{NAME}  box AP 45.4, mask AP 41.4' in [
        ' '.join(line.split()).replace(' box', '  box') for line in lines
    ]


@pytest.mark.parametrize('name', [NAME, f'{NAME}.py'])
def test_path(command, name):
    path = command(name)
    assert Config.fromfile(path).model.backbone.type == 'CrossFormer_S'


@pytest.mark.parametrize(
    ('name', 'told'),
    [
        ('mask_rcnn_crosformer_s_fpn_1x_coco', f'\n  {NAME}'),
        ('zzz', 'without a name lists all'),
        ('_base_/runtime', 'there is no config'),
    ],
)
def test_unknown_name(command, name, told):
    with pytest.raises(SystemExit) as error:
        command(name)
    assert repr(name) in str(error.value)
    assert told in str(error.value)


def test_copy_is_one_file_that_equals_the_original(command, tmp_path):
    copy = command(NAME, '--copy', tmp_path / 'new')
    assert [path.name for path in (tmp_path / 'new').iterdir()] == [f'{NAME}.py']
    original = Config.fromfile(command(NAME))
    assert Config.fromfile(copy).to_dict() == original.to_dict()
    with pytest.raises(SystemExit, match='is there already'):
        command(NAME, '--copy', tmp_path / 'new')


def test_copy_into_a_file_is_one_message(command, tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(SystemExit, match='cannot be written'):
        command(NAME, '--copy', tmp_path / 'file')
