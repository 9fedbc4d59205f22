import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MIM = Path(sys.executable).with_name('mim')


@pytest.fixture(scope='session')
def mini_coco(tmp_path_factory):
    """Make a few images in COCO's layout; return the folder."""
    folder = tmp_path_factory.mktemp('data') / 'mini_coco'
    tool = ROOT / 'tools' / 'make_mini_coco.py'
    sizes = ['--train', '8', '--val', '4']
    subprocess.run([sys.executable, tool, folder, *sizes], check=True)
    return folder


@pytest.fixture
def mim(tmp_path):
    """Run mim as a user does, in an empty folder; return the finished process."""

    def run(*arguments, coco_root):
        return subprocess.run(
            [MIM, *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, 'COCO_ROOT': str(coco_root)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return run
