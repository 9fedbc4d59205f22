"""The corpus of hostile and broken files; ``attack`` tests all combinations."""

import subprocess
import sys

from tests.checkpoint.corpus import CASES
from tests.helpers import ROOT


def test_each_file_through_one_entry_point():
    command = [
        sys.executable,
        '-W',
        'ignore',
        '-m',
        'tests.checkpoint.attack',
        '--fast',
    ]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    print(result.stdout)
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]
    assert len(CASES) >= 300
