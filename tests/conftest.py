import importlib.util
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


def called(package):
    """Name a package as mim wants it: the OneDL forks by their distributions."""
    forks = {'mmdet': 'onedl-mmdetection', 'mmsegmentation': 'onedl-mmsegmentation'}
    return forks.get(package, package) if ONEDL else package


def run_block(language, text, folder):
    """Run a block of a page in a folder, as a user of this environment does."""
    for package in ('mmdet', 'mmsegmentation'):
        text = re.sub(
            rf'(mim (?:train|test|run)) {package}\b', rf'\1 {called(package)}', text
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
# Parts of the names of tests, and why `make test STACK=torch21` skips them.
NOT_IN_TORCH_21 = {
    'test_memory.py': 'its profiler tells no time of an allocation',
    'test_get_flops.py': 'its counter knows no parts of a network',
}

# Classification has an environment of its own: make test-cls.
collect_ignore = [] if importlib.util.find_spec('mmpretrain') else ['classification']
if TORCH_21:  # it neither compiles nor exports at sizes that change
    collect_ignore.append('models/test_compile_and_export.py')


def pytest_collection_modifyitems(items):
    """Skip what torch 2.1 cannot do."""
    for item in items if TORCH_21 else ():
        reasons = [why for part, why in NOT_IN_TORCH_21.items() if part in item.nodeid]
        given = item.callspec.params if hasattr(item, 'callspec') else {}
        if any(value is torch.float16 for value in given.values()):
            reasons.append('it multiplies no float16 on a CPU')
        if reasons:
            item.add_marker(pytest.mark.skip(reason=f'torch 2.1: {reasons[0]}'))


def scalars(work_dir):
    """Read what the one training in a folder logged."""
    (log,) = work_dir.glob('*/vis_data/scalars.json')
    return [json.loads(line) for line in log.read_text().splitlines()]


def make_mini(tool, folder):
    """Make a few images with one of the tools; return the folder."""
    sizes = ['--train', '8', '--val', '4']
    subprocess.run([sys.executable, ROOT / 'tools' / tool, folder, *sizes], check=True)
    return folder


@pytest.fixture(scope='session')
def mini_coco(tmp_path_factory):
    """A few images in COCO's layout."""
    return make_mini('make_mini_coco.py', tmp_path_factory.mktemp('data') / 'coco')


@pytest.fixture(scope='session')
def mini_ade20k(tmp_path_factory):
    """A few images in ADE20K's layout."""
    return make_mini('make_mini_ade20k.py', tmp_path_factory.mktemp('data') / 'ade20k')


@pytest.fixture
def mim(tmp_path):
    """Run mim as a user does, in an empty folder; return the finished process.

    ``coco_root=`` and ``ade20k_root=`` set the variables of these names.
    """

    def run(*arguments, **roots):
        variables = {name.upper(): str(folder) for name, folder in roots.items()}
        return subprocess.run(
            [MIM, *(called(str(argument)) for argument in arguments)],
            cwd=tmp_path,
            env={**os.environ, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return run
