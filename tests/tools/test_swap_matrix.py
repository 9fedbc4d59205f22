"""tools/swap_matrix.py: one family a day, and the table it makes."""

import datetime
import json
import subprocess
import sys

import pytest

from tests.helpers import ROOT, on_openmmlab

TOOL = ROOT / 'tools' / 'swap_matrix.py'
# All of them would take an hour: these, one a day, take seconds.
FAMILIES = ('mmseg/fcn', 'mmdet/yolox', 'mmseg/upernet', 'mmdet/retinanet')
FAMILIES += ('mmseg/deeplabv3plus', 'mmdet/ssd', 'mmseg/segformer', 'mmdet/detr')


@on_openmmlab
@pytest.mark.slow
def test_family_of_the_day_and_its_table(tmp_path):
    family = FAMILIES[datetime.date.today().toordinal() % len(FAMILIES)]
    page = tmp_path / 'page.md'
    page.write_text('before\n<!-- matrix -->\nold\n<!-- end of matrix -->\nafter\n')
    command = [sys.executable, TOOL, '--out', tmp_path / 'out', '--table', page]
    command += ['--backbone', 'CrossFormer_T', '--only', family]
    subprocess.run(command, check=True)
    (row,) = (tmp_path / 'out' / 'results.jsonl').read_text().splitlines()
    row = json.loads(row)
    assert row['family'] == family
    assert row.get('predict'), row
    assert (tmp_path / 'out' / row['file']).is_file()
    lines = page.read_text().splitlines()
    assert lines[0] == 'before'
    assert lines[-1] == 'after'
    assert 'old' not in lines
    assert f'{family.partition("/")[0]}: 1 of 1 families.' in lines
    subprocess.run(command, check=True)  # nothing is left to run
    assert len((tmp_path / 'out' / 'results.jsonl').read_text().splitlines()) == 1
