"""Paths and helpers shared by all tests."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
MIM = Path(sys.executable).with_name('mim')
DETECTOR = ROOT / 'configs' / 'mask_rcnn_crossformer_t_fpn_mini_coco.py'
SEGMENTOR = ROOT / 'configs' / 'fpn_crossformer_t_mini_ade20k.py'

ONEDL = bool(list(distributions(name='onedl-mmengine')))


def mim_name(package):
    """Return the name mim uses for a package: OneDL forks use the distribution's."""
    forks = {'mmdet': 'onedl-mmdetection', 'mmsegmentation': 'onedl-mmsegmentation'}
    return forks.get(package, package) if ONEDL else package


def run_block(language, text, folder):
    """Run a code block of a page in a folder, with this environment on PATH."""
    for package in ('mmdet', 'mmsegmentation'):
        text = re.sub(
            rf'(mim (?:train|test|run)) {package}\b', rf'\1 {mim_name(package)}', text
        )
    command = [sys.executable, '-c'] if language == 'python' else ['bash', '-ec']
    path = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
    done = subprocess.run(
        [*command, text],
        cwd=folder,
        env={**os.environ, 'PATH': path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, f'{text}\n{done.stdout}'
    return done.stdout


on_openmmlab = pytest.mark.skipif(ONEDL, reason='the OneDL forks differ: docs/onedl.md')

TORCH_21 = torch.__version__.startswith('2.1.')


def scalars(work_dir):
    """Read the log of the only training in a folder."""
    (log,) = work_dir.glob('*/vis_data/scalars.json')
    return [json.loads(line) for line in log.read_text().splitlines()]


def make_mini(tool, folder):
    """Make a small data set with one of the tools; return its folder."""
    sizes = ['--train', '8', '--val', '4']
    subprocess.run([sys.executable, ROOT / 'tools' / tool, folder, *sizes], check=True)
    return folder
