"""Memory of a training step, for any number of classes."""

import re
import sys

import pytest

from tests.helpers import DETECTOR, ROOT, SEGMENTOR


@pytest.fixture
def get_memory(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / 'tools')
    import get_memory

    return get_memory


HEADS = ('model.roi_head.bbox_head', 'model.roi_head.mask_head')


@pytest.mark.parametrize(
    ('config', 'options'),
    [
        (DETECTOR, [f'{head}.num_classes=1' for head in HEADS]),
        (DETECTOR, ['model.roi_head.mask_head=None']),
        (SEGMENTOR, ['model.decode_head.num_classes=2']),
        (
            SEGMENTOR,
            ['model.data_preprocessor.size_divisor=32']
            + ['model.data_preprocessor.size=None'],
        ),
    ],
    ids=['one class', 'boxes only', 'two labels', 'size_divisor'],
)
def test_any_number_of_classes(config, options, get_memory, monkeypatch, capsys):
    arguments = [str(config), '--shape', '64', '96', '--batch', '2']
    arguments += ['--cfg-options', *options]
    monkeypatch.setattr(sys, 'argv', ['get_memory.py', *arguments])
    get_memory.main()
    line = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(rf'{config.stem}, 2 x 64 x 96, \w+: [\d.]+ GiB, .* s', line)
