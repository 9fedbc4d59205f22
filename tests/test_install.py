"""requirements/install.py, without installing anything."""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from tests.conftest import ONEDL, ROOT

INSTALL = ROOT / 'requirements' / 'install.py'


@pytest.fixture
def install(monkeypatch, tmp_path):
    """The module, its repository moved to an empty folder."""
    spec = importlib.util.spec_from_file_location('install', INSTALL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / 'setup.py').touch()
    monkeypatch.setattr(module, 'ROOT', tmp_path)
    monkeypatch.setattr(module, 'VENV', tmp_path / '.venv')
    return module


@pytest.fixture
def steps(install, monkeypatch):
    """Every step by name, recorded instead of run."""
    done = []

    def record(name):
        def step(*_):
            done.append(name)
            python = install.venv_python()
            python.parent.mkdir(exist_ok=True)
            python.touch()

        return step

    for name in [
        'run',
        'install_build_tools',
        'install_torch',
        'install_mmcv',
        'install_rest',
        'verify',
    ]:
        monkeypatch.setattr(install, name, record(name))
    return done


def one_line(stopped):
    """Return the line that install.py ended with."""
    line = str(stopped.value)
    assert line.startswith('make env: ') and '\n' not in line
    return line


# Early stops


@pytest.mark.parametrize('version', [(3, 9, 2), (3, 12, 1)])
def test_wrong_python(install, monkeypatch, version):
    monkeypatch.setattr(install.sys, 'version_info', version)
    with pytest.raises(SystemExit) as stopped:
        install.check_python(install.PINS)
    line = one_line(stopped)
    assert '{}.{}'.format(*version) in line
    assert '3.10 or 3.11' in line and 'PYTHON=' in line


def test_python_without_venv_or_headers(install, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr(install.sysconfig, 'get_paths', lambda: {'include': tmp_path})
        with pytest.raises(SystemExit) as stopped:
            install.check_python(install.PINS)
        assert 'Python.h' in one_line(stopped) and '-dev' in one_line(stopped)
    monkeypatch.setattr(install.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(SystemExit) as stopped:
        install.check_python(install.PINS)
    assert '-venv' in one_line(stopped)


def test_too_little_disk(install, monkeypatch):
    usage = SimpleNamespace(free=1.5e9)
    monkeypatch.setattr(install.shutil, 'disk_usage', lambda path: usage)
    with pytest.raises(SystemExit) as stopped:
        install.check_disk(install.PINS, driver=None)
    assert '1.5 GB' in one_line(stopped)


def run_copy(folder, **env):
    """Run a copy of the real thing in a folder, with a bare environment."""
    shutil.copytree(ROOT / 'requirements', folder / 'requirements')
    shutil.copy(ROOT / 'setup.py', folder)
    result = subprocess.run(
        [sys.executable, str(folder / 'requirements' / 'install.py')],
        env=env,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert not result.stdout and not (folder / '.venv').exists()
    (line,) = result.stderr.splitlines()
    return line


def machine(folder, **programs):
    """A folder for PATH: a C++ compiler and programs that print what is given."""
    folder.mkdir()
    (folder / 'c++').symlink_to(shutil.which('c++'))
    for name, output in programs.items():
        program = folder / name.replace('_', '-')
        program.write_text(f'#!/bin/sh\necho "{output}"\n')
        program.chmod(0o755)
    return str(folder)


def test_no_compiler(tmp_path):
    line = run_copy(tmp_path / 'repo', PATH=str(tmp_path))
    assert 'c++' in line and 'apt-get install g++' in line


def test_driver_without_nvcc(tmp_path):
    path = machine(tmp_path / 'bin', nvidia_smi='9.0')
    line = run_copy(tmp_path / 'repo', PATH=path, CUDA_HOME=str(tmp_path))
    assert 'nvcc' in line and 'CUDA toolkit 13' in line


def test_nvcc_of_another_cuda(tmp_path):
    path = machine(tmp_path / 'bin', nvidia_smi='9.0', nvcc='Cuda, release 12.4, V1')
    line = run_copy(tmp_path / 'repo', PATH=path)
    assert 'CUDA 12' in line and 'CUDA 13' in line


def test_a_broken_nvidia_smi_is_no_driver(install, tmp_path, monkeypatch):
    path = machine(tmp_path / 'bin', nvidia_smi='9.0')
    monkeypatch.setenv('PATH', path)
    assert install.nvidia_driver() == '9.0'
    Path(path, 'nvidia-smi').write_text('#!/bin/sh\nexit 9\n')
    assert install.nvidia_driver() is None


# The stamp


def test_second_run_does_nothing(install, steps):
    install.main()
    assert steps == [
        'run',
        'install_build_tools',
        'install_torch',
        'install_mmcv',
        'install_rest',
        'verify',
    ]
    steps.clear()
    install.main()
    assert steps == []


def test_other_pins_bring_the_same_venv_up_to_date(install, steps, tmp_path):
    install.main()
    (install.VENV / 'mark').touch()
    pins = tmp_path / 'pins.txt'
    pins.write_text(install.PINS.read_text().replace('mim==', 'mim==1'))
    install.main(pins)
    assert steps.count('install_rest') == 2
    assert (install.VENV / 'mark').exists()


@pytest.mark.parametrize('change', ['interrupted', 'driver', 'torch', 'python gone'])
def test_anything_else_builds_it_anew(install, steps, monkeypatch, change):
    pins = install.PINS
    install.main()
    (install.VENV / 'mark').touch()
    if change == 'interrupted':

        def die(pins):
            raise SystemExit

        with monkeypatch.context() as patch:
            patch.setattr(install, 'install_rest', die)
            (install.ROOT / 'setup.py').write_text('# changed')
            with pytest.raises(SystemExit):
                install.main()
        assert (install.VENV / 'mark').exists()
    elif change == 'driver':
        monkeypatch.setattr(install, 'nvidia_driver', lambda: '9.0')
        monkeypatch.setattr(install, 'check_compiler', lambda *_: None)
        monkeypatch.setattr(install, 'check_disk', lambda *_: None)
    elif change == 'torch':
        pins = install.ROOT / 'pins.txt'
        pins.write_text(install.PINS.read_text().replace('torch==2.', 'torch==3.'))
    else:
        install.venv_python().unlink()
    install.main(pins)
    assert not (install.VENV / 'mark').exists()
    assert steps.count('verify') == 2


def test_a_venv_made_by_hand_is_left_alone(install, steps):
    install.VENV.mkdir()
    with pytest.raises(SystemExit) as stopped:
        install.main()
    assert 'was not made by make env' in one_line(stopped)
    assert steps == []


# mmcv


@pytest.fixture
def wheels(install, monkeypatch, tmp_path):
    """A pip cache of its own, and pip installations that are only recorded."""
    install.VENV.mkdir()
    monkeypatch.setenv('PIP_CACHE_DIR', str(tmp_path / 'cache'))
    monkeypatch.setattr(install, 'venv_python', lambda: Path(sys.executable))
    installed = []
    monkeypatch.setattr(
        install, 'pip_install', lambda *arguments, title: installed.append(arguments)
    )
    return installed


def test_mmcv_is_compiled_once_per_torch_and_device(
    install, wheels, monkeypatch, tmp_path
):
    compiled = []

    def compile_mmcv(mmcv, driver):
        compiled.append((mmcv, driver))
        wheel = tmp_path / f'{mmcv.replace("==", "-")}-cp311-cp311-linux_x86_64.whl'
        wheel.write_text(str(driver))
        return wheel

    monkeypatch.setattr(install, 'compile_mmcv', compile_mmcv)
    pins = tmp_path / 'pins.txt'
    pins.write_text('torch==2.13.0\nmmcv==2.1.0\n')
    for driver in (None, None, '9.0'):
        install.install_mmcv(pins, driver)
        assert wheels[-1][-1].read_text() == str(driver)
        assert tmp_path / 'cache' in wheels[-1][-1].parents
    assert compiled == [('mmcv==2.1.0', None), ('mmcv==2.1.0', '9.0')]
    pins.write_text('torch==2.14.0\nmmcv==2.1.0\n')
    install.install_mmcv(pins, None)
    assert len(compiled) == 3
    assert not list((tmp_path / 'cache').rglob('*.part'))


def test_wheels_stay_in_the_repository_when_pip_has_no_cache(
    install, wheels, monkeypatch
):
    monkeypatch.setenv('PIP_NO_CACHE_DIR', '1')
    folder = install.wheel_folder(mmcv='mmcv-2.1.0', torch='2.13.0', device='cpu')
    assert install.ROOT / '.cache' in folder.parents


def test_progress_in_a_log_is_a_line_every_tenth(install, capsys, tmp_path):
    ninja = "for i in range(1, 41): print(f'  [{i}/40] c++ -c x.cpp\\nwarning')"
    log = tmp_path / 'log'
    assert install.follow([sys.executable, '-c', ninja], dict(os.environ), log) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 11
    assert lines[0].startswith('  1 of 40 files, 0 min')
    assert lines[-1].startswith('  40 of 40 files')
    assert log.read_text().count('warning') == 40


def test_progress_on_a_terminal_is_one_line_that_never_stands_still(
    install, capsys, monkeypatch
):
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: True)
    progress = install.Progress()
    progress.show(1, 77)
    time.sleep(2.5)
    progress.end()
    out = capsys.readouterr().out
    assert out.count('\r') == 3 and out.count('\n') == 1
    assert '1 of 77 files, 0 min 01 s' in out and '0 min 02 s' in out


def test_an_interruption_ends_the_compilers(install, monkeypatch, tmp_path):
    def interrupt(self, done, total):
        raise SystemExit

    monkeypatch.setattr(install.Progress, 'show', interrupt)
    # A shell that starts a compiler of its own, as ninja does.
    ninja = 'sleep 600 & echo "[$!/999999] c++"; wait'
    log = tmp_path / 'log'
    with pytest.raises(SystemExit):
        install.follow(['sh', '-c', ninja], dict(os.environ), log)
    compiler = int(re.search(r'\d+', log.read_text())[0])
    assert gone(compiler)


def gone(pid):
    for _ in range(100):
        try:
            # Without an init process nobody collects it once its parent is gone.
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.1)
    return False


def test_a_failed_compilation_shows_its_last_lines(install, wheels, monkeypatch):
    fails = [sys.executable, '-c', "print('x.cpp:1: error: no such op'); exit(1)"]
    monkeypatch.setattr(install, 'pip', lambda *_: fails)
    with pytest.raises(SystemExit) as stopped:
        install.compile_mmcv('mmcv==2.1.0', None)
    assert 'mmcv-build.log' in str(stopped.value)
    assert 'no such op' in str(stopped.value)
    assert 'no such op' in (install.VENV / 'mmcv-build.log').read_text()


# The pins


def pins_of(path):
    lines = [re.sub(r'\s+#.*', '', line) for line in path.read_text().splitlines()]
    return [line for line in lines if line and not line.startswith('#')]


def test_every_version_is_pinned_exactly(install):
    for path in (install.PINS, install.TEST_PINS):
        for line in pins_of(path):
            assert re.fullmatch(r"[a-z\d-]+==[\d.]+(; python_version < '3.11')?", line)


def test_versions_come_from_the_pin_file(install, tmp_path):
    pins = tmp_path / 'pins.txt'
    pins.write_text('torch==1.2.3  # CUDA 99 on PyPI\nmmcv==4.5.6; a marker\n')
    assert install.pinned(pins, 'torch') == '1.2.3'
    assert install.pinned(pins, 'mmcv') == '4.5.6'
    with pytest.raises(SystemExit) as stopped:
        install.pinned(pins, 'mmdet')
    assert str(pins) in one_line(stopped)


def test_this_environment_is_as_pinned(install):
    for line in pins_of(install.PINS) + pins_of(install.TEST_PINS):
        name, version = re.match('(.+?)==([^;]+)', line).groups()
        if 'python_version' in line and sys.version_info >= (3, 11):
            continue
        installed = importlib.metadata.version(name)
        assert installed.partition('+')[0] == version, name


def test_pip_check_names_only_what_is_left_out_knowingly():
    result = subprocess.run(
        [sys.executable, '-m', 'pip', 'check'], capture_output=True, text=True
    )
    wanted = {
        'mmengine 0.10.7 requires opencv-python, which is not installed.',
        'openmim 0.3.9 requires opendatalab, which is not installed.',
    }
    if ONEDL:
        wanted = {
            f'{package} requires opencv-python, which is not installed.'
            for package in (
                'imaug 0.4.3',
                'onedl-mmcv 2.3.6',
                'onedl-mmsegmentation 1.4.2',
            )
        } | {
            'onedl-mim 0.5.1 requires opendatalab, which is not installed.',
            'onedl-mim 0.5.1 has requirement pandas==2.2.3, but you have pandas 2.3.3.',
            'onedl-mim 0.5.1 has requirement setuptools>=80.0, but you have setuptools '
            '79.0.1.',
            'imaug 0.4.3 requires imagecorruptions-imaug, which is not installed.',
            'imaug 0.4.3 has requirement opencv-python-headless<4.13, but you have '
            'opencv-python-headless 4.14.0.94.',
            # The plugin asks for what pip cannot know the fork to be.
            'crossformer-mm 0.1.0 requires mmengine, which is not installed.',
        }
    assert set(result.stdout.splitlines()) == wanted
