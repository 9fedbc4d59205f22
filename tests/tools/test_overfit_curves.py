"""tools/overfit_curves.py: one model for a few iterations, and its plot."""

import csv
import subprocess
import sys

import cv2
import pytest

from tests.helpers import ROOT, on_openmmlab

TOOL = ROOT / 'tools' / 'overfit_curves.py'


@on_openmmlab
@pytest.mark.slow
def test_loss_falls_and_is_drawn(mini_ade20k, tmp_path):
    command = [sys.executable, TOOL, '--ade20k', mini_ade20k, '--out', tmp_path]
    command += ['--only', 'SegFormer head', '--iterations', '8']
    first = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    with (tmp_path / 'segformer_head.csv').open(newline='') as file:
        losses = [float(loss) for _, loss in csv.reader(file)]
    assert len(losses) == 8
    assert losses[-1] < 0.9 * losses[0]
    picture = tmp_path / 'overfit.png'
    assert cv2.imread(str(picture)).std() > 1
    picture.unlink()
    # With existing losses, the tool only redraws the plot.
    again = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert again.splitlines()[-2:] == first.splitlines()[-2:]
    assert picture.exists()
