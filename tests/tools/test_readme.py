"""tools/README.md lists all commands."""

import re
import subprocess
import sys

import pytest

from tests.helpers import ROOT

TOOLS = ROOT / 'tools'
COMMANDS = sorted(path.name for path in TOOLS.glob('*.py'))


def test_lists_every_command_and_nothing_else():
    listed = re.findall(r'^\| `(.*?)` \|', (TOOLS / 'README.md').read_text(), re.M)
    assert listed == COMMANDS


def test_python_m_lists_every_command():
    command = [sys.executable, '-m', 'crossformer_mm']
    listed = subprocess.run(command, stderr=subprocess.PIPE, text=True).stderr
    names = listed.split('TOOL: ')[1].strip().split(', ')
    assert [f'{name}.py' for name in names] == COMMANDS


@pytest.mark.parametrize('name', COMMANDS)
def test_commands_import_no_other_command(name):
    source = (TOOLS / name).read_text()
    others = '|'.join(other.removesuffix('.py') for other in COMMANDS)
    assert not re.search(rf'^\s*(from|import) ({others})\b', source, re.M)


def test_segmentation_plots_need_neither_mmdet_nor_pycocotools():
    code = (
        'import runpy, sys\n'
        'for name in ("mmdet", "pycocotools"):\n'
        '    sys.modules[name] = None  # an import of it raises ImportError\n'
        f'sys.path.insert(0, {str(TOOLS)!r})\n'
        'runpy.run_path(sys.path[0] + "/plot_seg_run.py")\n'
    )
    subprocess.run([sys.executable, '-c', code], check=True)
