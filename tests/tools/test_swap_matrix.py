"""tools/swap_matrix.py: a few families per day, and the resulting table."""

import datetime
import json
import subprocess
import sys

import pytest

from tests.helpers import ROOT, on_openmmlab

TOOL = ROOT / 'tools' / 'swap_matrix.py'
TABLE = ROOT / 'docs' / 'swap_matrix.md'
# All families take an hour; 1/40 of the working ones per day takes half a minute.
DAYS = 40


def families_of_the_day() -> list[str]:
    rows = [line.split(' | ') for line in TABLE.read_text().splitlines()]
    running = [row[0].strip('| ') for row in rows if row[2:6] == ['yes'] * 4]
    return running[datetime.date.today().toordinal() % DAYS :: DAYS]


@on_openmmlab
@pytest.mark.slow
def test_families_of_the_day_and_their_table(tmp_path):
    families = families_of_the_day()
    assert len(families) >= 3
    page = tmp_path / 'page.md'
    page.write_text('before\n<!-- matrix -->\nold\n<!-- end of matrix -->\nafter\n')
    command = [sys.executable, TOOL, '--out', tmp_path / 'out', '--table', page]
    command += ['--backbone', 'CrossFormer_T', '--only', *families]
    subprocess.run(command, check=True)
    rows = (tmp_path / 'out' / 'results.jsonl').read_text().splitlines()
    rows = list(map(json.loads, rows))
    assert sorted(row['family'] for row in rows) == sorted(families)
    for row in rows:
        assert row.get('predict'), row
        assert (tmp_path / 'out' / row['file']).is_file()
    lines = page.read_text().splitlines()
    assert lines[0] == 'before'
    assert lines[-1] == 'after'
    assert 'old' not in lines
    for package in ('mmdet', 'mmseg'):
        count = sum(family.startswith(package) for family in families)
        assert f'{package}: {count} of {count} families.' in lines
    subprocess.run(command, check=True)  # all families are done
    again = (tmp_path / 'out' / 'results.jsonl').read_text().splitlines()
    assert len(again) == len(families)
