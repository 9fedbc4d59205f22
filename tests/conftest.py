import importlib.util
import os
import subprocess

import pytest
import torch

from tests.helpers import MIM, TORCH_21, make_mini, mim_name

# Parts of test ids to skip with `make test STACK=torch21`, and the reasons.
NOT_IN_TORCH_21 = {
    'test_memory.py': 'its profiler tells no time of an allocation',
    'test_get_flops.py': 'its counter knows no parts of a network',
    'test_no_gpu_synchronization': 'its fake CUDA tensors need a driver',
    'test_real_tensors_after_fake_tensors': 'its fake tensors take no generator',
}

# Classification has its own environment: make test-cls.
collect_ignore = [] if importlib.util.find_spec('mmpretrain') else ['classification']
if TORCH_21:  # neither compiles nor exports with dynamic sizes
    collect_ignore.append('models/test_compile_and_export.py')


def pytest_collection_modifyitems(items):
    """Skip tests that torch 2.1 does not support."""
    for item in items if TORCH_21 else ():
        reasons = [why for part, why in NOT_IN_TORCH_21.items() if part in item.nodeid]
        given = item.callspec.params if hasattr(item, 'callspec') else {}
        if any(value in (torch.float16, 'float16') for value in given.values()):
            reasons.append('it multiplies no float16 on a CPU')
        if reasons:
            item.add_marker(pytest.mark.skip(reason=f'torch 2.1: {reasons[0]}'))


@pytest.fixture(scope='session')
def mini_coco(tmp_path_factory):
    """Return a small data set in COCO's layout."""
    return make_mini('make_mini_coco.py', tmp_path_factory.mktemp('data') / 'coco')


@pytest.fixture(scope='session')
def mini_ade20k(tmp_path_factory):
    """Return a small data set in ADE20K's layout."""
    return make_mini('make_mini_ade20k.py', tmp_path_factory.mktemp('data') / 'ade20k')


@pytest.fixture
def mim(tmp_path):
    """Run mim in an empty folder; return the finished process.

    ``coco_root=`` and ``ade20k_root=`` set COCO_ROOT and ADE20K_ROOT.
    """

    def run(*arguments, **roots):
        variables = {name.upper(): str(folder) for name, folder in roots.items()}
        return subprocess.run(
            [MIM, *(mim_name(str(argument)) for argument in arguments)],
            cwd=tmp_path,
            env={**os.environ, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return run
