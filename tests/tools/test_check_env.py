"""tools/check_env.py in this environment and in broken ones."""

import importlib.util
import os
import subprocess
import sys

import pytest

from tests.helpers import ONEDL, ROOT, on_openmmlab

DOCTOR = ROOT / 'tools' / 'check_env.py'
PARTS = [
    'Python',
    'setuptools',
    'numpy',
    'OpenCV',
    'torch',
    'CUDA',
    'mmengine',
    'mmcv',
    'mmcv._ext',
    'mmdet',
    'mmsegmentation',
    'mmseg',
    'pycocotools',
    'openmim',
    'plugin in mmdet',
    'plugin in mmseg',
]


def examine(*flags, path=''):
    """Run check_env; return its exit code and {part: line}."""
    result = subprocess.run(
        [sys.executable, *flags, str(DOCTOR)],
        env={**os.environ, 'PYTHONPATH': str(path)},
        capture_output=True,
        text=True,
    )
    assert not result.stderr
    lines = result.stdout.splitlines()[1:]
    # Columns are separated by two or more spaces.
    return result.returncode, {line[9:].split('  ')[0]: line for line in lines}


def test_help_checks_nothing():
    shown = subprocess.run(
        [sys.executable, str(DOCTOR), '--help'], capture_output=True, text=True
    )
    assert shown.returncode == 0
    assert shown.stdout.startswith('usage:') and 'mmengine' not in shown.stdout


def fake_distribution(folder, name, version):
    info = folder / f'{name}-{version}.dist-info'
    info.mkdir()
    (info / 'METADATA').write_text(
        f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n'
    )


@pytest.fixture
def doctor():
    spec = importlib.util.spec_from_file_location('check_env', DOCTOR)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_this_environment_is_healthy():
    code, lines = examine()
    assert list(lines) == PARTS
    assert not [line for line in lines.values() if not line.startswith('ok ')]
    assert code == 0
    wanted = 'onedl-mmcv' if ONEDL else '<2.2.0'
    assert wanted in lines['mmdet'] and wanted in lines['mmsegmentation']


def test_empty_environment_gets_a_line_per_part():
    code, lines = examine('-I', '-S')
    assert code == 1
    assert list(lines) == PARTS
    for part, package in [('numpy', 'numpy'), ('openmim', 'openmim')]:
        assert lines[part].startswith('FAIL')
        assert f'pip install --no-deps {package}==' in lines[part]
    assert 'pip install torch==2.13.0' in lines['torch']
    assert 'requirements/compile_mmcv.py' in lines['mmcv']


@on_openmmlab  # the forks' mmcv has another name
def test_several_broken_parts(tmp_path):
    (tmp_path / 'mmcv').mkdir()
    (tmp_path / 'mmcv' / '__init__.py').write_text("__version__ = '2.2.0'\n")
    fake_distribution(tmp_path, 'mmcv', '2.2.0')
    (tmp_path / 'pkg_resources.py').write_text(
        "raise ModuleNotFoundError('gone', name='pkg_resources')\n"
    )
    code, lines = examine(path=tmp_path)
    assert code == 1
    assert list(lines) == PARTS
    assert lines['mmcv'].startswith('warn') and '2.2.0' in lines['mmcv']
    assert lines['mmcv._ext'].startswith('FAIL')
    assert 'requirements/compile_mmcv.py' in lines['mmcv._ext']
    for part in ('mmdet', 'mmsegmentation'):
        # From the error messages of mmdet and mmseg.
        assert lines[part].startswith('FAIL') and 'incompatible' in lines[part]
    assert lines['setuptools'].startswith('FAIL')
    assert (
        f'{sys.executable} -m pip install --no-deps setuptools=='
        in (lines['setuptools'])
    )
    assert lines['torch'].startswith('ok')


@pytest.mark.parametrize(('version', 'warned'), [('2.9.1', True), ('2.12.0', False)])
def test_torch_with_an_unsafe_reader(version, warned, tmp_path):
    fake_distribution(tmp_path, 'torch', version)
    _, lines = examine(path=tmp_path)
    assert lines['torch'].startswith('warn')
    assert ('CVE-2026-24747' in lines['torch']) == warned


def test_broken_numpy_is_reported(doctor, tmp_path):
    (tmp_path / 'numpy.py').write_text("raise ImportError('libopenblas is missing')\n")
    code, lines = examine(path=tmp_path)
    assert code == 1
    assert list(lines) == PARTS
    assert lines['numpy'].startswith('FAIL')
    assert 'libopenblas is missing' in lines['numpy']
    assert f'pip install --no-deps {doctor.PINS.pin("numpy")}' in lines['numpy']


def test_mmseg_word_segmenter(doctor, tmp_path, monkeypatch):
    assert doctor.check_mmseg_namesake().verdict == 'ok'
    fake_distribution(tmp_path, 'mmseg', '1.0.0')
    monkeypatch.syspath_prepend(tmp_path)
    check = doctor.check_mmseg_namesake()
    assert check.verdict == 'FAIL'
    assert 'uninstall -y mmseg &&' in check.fix
    assert ('onedl-' if ONEDL else ' ') + 'mmsegmentation==1.' in check.fix


def test_untested_version_is_a_warning(doctor, tmp_path, monkeypatch):
    fake_distribution(tmp_path, 'numpy', '9.9.9')
    monkeypatch.syspath_prepend(tmp_path)
    check = doctor.check_package('numpy', 'numpy')
    assert (check.verdict, check.found) == ('warn', '9.9.9')
    assert doctor.PINS.pin('numpy') in check.fix


def test_missing_dependency_is_named(doctor, tmp_path, monkeypatch):
    (tmp_path / 'needs_ftfy.py').write_text(
        "raise ModuleNotFoundError('no ftfy', name='ftfy')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    check = doctor.check_package('mmsegmentation', 'needs_ftfy')
    assert check.verdict == 'FAIL'
    assert check.fix.endswith(doctor.PINS.pin('ftfy'))


def test_driver_unusable_by_torch_is_a_warning(doctor, monkeypatch):
    monkeypatch.setattr(doctor, 'compute_capability', lambda: '9.0')
    monkeypatch.setattr('torch.version.cuda', None)
    check = doctor.check_cuda()
    assert check.verdict == 'warn'
    assert 'pip install' in check.fix and '+cpu' not in check.fix


def test_unregistered_plugin_fails(doctor, monkeypatch):
    from mmdet.registry import MODELS

    assert doctor.check_plugin('mmdet', 'mmdet').verdict == 'ok'
    monkeypatch.setattr(MODELS, 'get', lambda name: None)
    check = doctor.check_plugin('mmdet', 'mmdet')
    assert (check.verdict, check.found) == ('FAIL', 'LookupError: not registered')
    assert str(ROOT) in check.fix
