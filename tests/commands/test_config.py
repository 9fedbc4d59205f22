"""The command crossformer-config."""

import sys
from pathlib import Path

import pytest
from mmengine.config import Config

from crossformer_mm.commands import config

NAME = 'mask_rcnn_crossformer_s_fpn_1x_coco'


@pytest.fixture
def command(monkeypatch, capsys):
    """Return a function that calls the command and returns its output."""

    def call(*arguments):
        monkeypatch.setattr(sys, 'argv', ['crossformer-config', *map(str, arguments)])
        config.main()
        return capsys.readouterr().out.strip()

    return call


def test_list(command):
    lines = command().splitlines()
    assert len(lines) == len(config.config_names()) + 1
    assert f'{NAME}  box AP 45.4, mask AP 41.4' in [
        ' '.join(line.split()).replace(' box', '  box') for line in lines
    ]


@pytest.mark.parametrize('name', [NAME, f'{NAME}.py'])
def test_path(command, name):
    path = command(name)
    assert Config.fromfile(path).model.backbone.type == 'CrossFormer_S'


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('mask_rcnn_crosformer_s_fpn_1x_coco', f'\n  {NAME}'),
        ('maskrcnn', f'\n  {NAME}'),
        ('zzz', 'without a name lists all'),
        ('_base_/runtime', 'there is no config'),
    ],
)
def test_unknown_name(command, name, message):
    with pytest.raises(SystemExit) as error:
        command(name)
    assert repr(name) in str(error.value)
    assert message in str(error.value)


def test_copy_is_one_file_that_equals_the_original(command, tmp_path):
    copy = command(NAME, '--copy', tmp_path / 'new')
    assert [path.name for path in (tmp_path / 'new').iterdir()] == [f'{NAME}.py']
    original = Config.fromfile(command(NAME)).to_dict()
    # A variable of the base configs that the copy does not need.
    assert original.pop('backbone')['type'] == 'CrossFormer_S'
    assert Config.fromfile(copy).to_dict() == original
    with pytest.raises(SystemExit, match='exists already'):
        command(NAME, '--copy', tmp_path / 'new')


@pytest.mark.parametrize(
    ('name', 'variable'),
    [
        (NAME, 'COCO_ROOT'),
        ('mask_rcnn_crossformer_s_fpn_3x_coco', 'COCO_ROOT'),
        ('fpn_crossformer_t_mini_ade20k', 'ADE20K_ROOT'),
    ],
)
def test_copy_keeps_the_data_root_variable(
    command, name, variable, monkeypatch, tmp_path
):
    monkeypatch.setenv(variable, '/when/copied')
    copy = command(name, '--copy', tmp_path)
    assert '/when/copied' not in Path(copy).read_text()
    monkeypatch.setenv(variable, '/when/used')
    used = Config.fromfile(copy)
    original = Config.fromfile(command(name).splitlines()[-1]).to_dict()
    original.pop('backbone')
    assert used.to_dict() == original
    assert '/when/used' in str(used.train_dataloader)
    monkeypatch.delenv(variable)
    assert used.data_root != Config.fromfile(copy).data_root


@pytest.mark.parametrize('name', ['own_coco_example', 'own_segmentation_example'])
def test_examples_for_own_data_are_copied_verbatim(command, name, tmp_path):
    copy = Path(command(name, '--copy', tmp_path))
    assert copy.read_text() == Path(command(name)).read_text()
    assert copy.read_text().count("weights = 'pretrained/") == 1


def test_copy_into_a_file_is_one_message(command, tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(SystemExit, match='cannot be written'):
        command(NAME, '--copy', tmp_path / 'file')
