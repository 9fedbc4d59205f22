"""The scripts in requirements/, without installing anything."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.helpers import ONEDL, ROOT, TORCH_21

REQUIREMENTS = ROOT / 'requirements'


@pytest.fixture
def install(monkeypatch, tmp_path):
    """Return the installer as a module that works on an empty folder."""
    monkeypatch.syspath_prepend(REQUIREMENTS)
    import install

    (tmp_path / 'setup.py').touch()
    venv = tmp_path / '.venv'
    monkeypatch.setattr(install, 'ROOT', tmp_path)
    monkeypatch.setattr(install, 'VENV', venv)
    monkeypatch.setattr(install, 'PYTHON', venv / 'bin' / 'python')
    monkeypatch.setattr(install, 'STACK', 'openmmlab')
    return install


@pytest.fixture
def compile_mmcv(monkeypatch):
    """Return requirements/compile_mmcv.py as a module."""
    monkeypatch.syspath_prepend(REQUIREMENTS)
    import compile_mmcv

    return compile_mmcv


@pytest.fixture
def pins(compile_mmcv):
    return compile_mmcv.Pins('openmmlab')


@pytest.fixture
def steps(install, monkeypatch):
    """Replace every step by one that only records its name; return the names."""
    done = []
    names = [name for name in vars(install) if name.startswith('install_')]
    for name in (*names, 'verify'):

        def step(*_, name=name):
            done.append(name)
            install.PYTHON.parent.mkdir(exist_ok=True)
            install.PYTHON.touch()

        monkeypatch.setattr(install, name, step)
    return done


def one_line(stopped):
    """Return the one-line error of the installer."""
    line = str(stopped.value)
    assert line.startswith('make env: ') and '\n' not in line
    return line


# Early stops


@pytest.mark.parametrize('version', [(3, 9, 2), (3, 14, 0)])
def test_wrong_python(install, pins, monkeypatch, version):
    monkeypatch.setattr(install.sys, 'version_info', version)
    with pytest.raises(SystemExit) as stopped:
        install.check(pins, gpu='')
    line = one_line(stopped)
    assert '{}.{}'.format(*version) in line
    assert '3.13, 3.12, 3.11, 3.10' in line and 'PYTHON=' in line


def test_python_without_venv(install, pins, monkeypatch):
    monkeypatch.setattr(install.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(SystemExit) as stopped:
        install.check(pins, gpu='')
    assert '-venv' in one_line(stopped)


def test_python_without_headers(install, pins, monkeypatch, tmp_path):
    monkeypatch.setattr('sysconfig.get_paths', lambda: {'include': tmp_path})
    with pytest.raises(SystemExit) as stopped:
        install.check(pins, gpu='')
    assert 'Python.h' in one_line(stopped) and '-dev' in one_line(stopped)


def test_too_little_disk(install, pins, monkeypatch):
    usage = SimpleNamespace(free=1.5e9)
    monkeypatch.setattr(install.shutil, 'disk_usage', lambda path: usage)
    with pytest.raises(SystemExit) as stopped:
        install.check(pins, gpu='')
    assert '1.5 GB' in one_line(stopped) and '3 GB' in one_line(stopped)


def run_copy(folder, **env):
    """Run a copy of the installer with these variables only; return its error."""
    shutil.copytree(REQUIREMENTS, folder / 'requirements')
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
    """Make a folder for PATH with a C++ compiler and programs that print a text."""
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


def test_broken_nvidia_smi_counts_as_no_driver(install, tmp_path, monkeypatch):
    path = machine(tmp_path / 'bin', nvidia_smi='9.0')
    monkeypatch.setenv('PATH', path)
    assert install.compute_capability() == '9.0'
    Path(path, 'nvidia-smi').write_text('#!/bin/sh\nexit 9\n')
    assert install.compute_capability() == ''


# The stamp file


def test_second_run_does_nothing(install, steps):
    install.main()
    assert steps == [
        'install_python',
        'install_torch',
        'install_mmcv',
        'install_rest',
        'verify',
    ]
    steps.clear()
    install.main()
    assert steps == []


@pytest.mark.parametrize('change', ['interrupted', 'driver', 'pins', 'python gone'])
def test_changed_or_incomplete_environment_is_rebuilt(
    install, steps, monkeypatch, change
):
    if change == 'interrupted':

        def die(pins):
            raise SystemExit

        with monkeypatch.context() as patch:
            patch.setattr(install, 'verify', die)
            with pytest.raises(SystemExit):
                install.main()
    else:
        install.main()
    (install.VENV / 'mark').touch()
    if change == 'driver':
        monkeypatch.setattr(install, 'compute_capability', lambda: '9.0')
        monkeypatch.setattr(install, 'check', lambda *_: None)
    elif change == 'pins':
        (install.ROOT / 'setup.py').write_text('# changed')
    elif change == 'python gone':
        install.PYTHON.unlink()
    install.main()
    assert not (install.VENV / 'mark').exists()
    assert steps[-1] == 'verify'


def test_foreign_venv_is_not_changed(install, steps):
    install.VENV.mkdir()
    with pytest.raises(SystemExit) as stopped:
        install.main()
    assert 'was not made by make env' in one_line(stopped)
    assert steps == []


# The steps


@pytest.mark.parametrize('had', [True, False])
def test_cuda_build_replaces_an_unavailable_cpu_build(install, pins, monkeypatch, had):
    calls = []

    def call(command):
        calls.append(' '.join(command))
        return int('+cpu' in calls[-1] and not had)

    monkeypatch.setattr(install, 'call', call)
    install.install_torch(pins, gpu='')
    assert ' torch==2.13.0+cpu --extra-index-url https://' in calls[0]
    assert len(calls) == (1 if had else 2)
    assert had or ' torch===2.13.0 ' in calls[1]


def test_failed_step_error_names_the_command(install, monkeypatch):
    monkeypatch.setattr(install, 'PYTHON', sys.executable)
    install.VENV.mkdir()
    with pytest.raises(SystemExit) as stopped:
        install.run([sys.executable, '-c', 'raise SystemExit(3)'])
    assert 'failed: ' in one_line(stopped) and 'SystemExit(3)' in one_line(stopped)


# mmcv


def test_mmcv_is_compiled_once_per_torch_and_device(
    compile_mmcv, monkeypatch, tmp_path
):
    compiled, installed = [], []

    def compile_wheel(pins, gpu, workshop):
        compiled.append(gpu)
        wheel = workshop / 'mmcv-2.1.0-cp311-cp311-linux_x86_64.whl'
        wheel.write_text(gpu)
        return wheel

    def call(command):
        installed.append(Path(command[-1]))
        return 0

    monkeypatch.setenv('PIP_CACHE_DIR', str(tmp_path / 'cache'))
    monkeypatch.setattr(compile_mmcv, 'compile_wheel', compile_wheel)
    monkeypatch.setattr(compile_mmcv, 'missing_tool', lambda *_: '')
    monkeypatch.setattr(compile_mmcv.subprocess, 'call', call)
    for gpu, torch in (('', '2.13.0'), ('', '2.13.0'), ('9.0', '2.13.0'), ('', '2.14')):
        monkeypatch.setitem(
            sys.modules, 'torch', types.SimpleNamespace(__version__=torch)
        )
        monkeypatch.setattr(compile_mmcv, 'compute_capability', lambda gpu=gpu: gpu)
        with pytest.raises(SystemExit, match='0'):
            compile_mmcv.main()
        assert installed[-1].read_text() == gpu
        assert tmp_path / 'cache' in installed[-1].parents
    assert compiled == ['', '9.0', '']
    assert not list((tmp_path / 'cache').rglob('*.part'))


def test_wheels_are_kept_in_the_environment_without_a_pip_cache(
    compile_mmcv, pins, monkeypatch
):
    monkeypatch.setenv('PIP_NO_CACHE_DIR', '1')
    folder = compile_mmcv.kept_wheels(pins, gpu='')
    assert Path(sys.prefix, 'cache') in folder.parents


@pytest.fixture
def build(compile_mmcv, pins, monkeypatch, tmp_path):
    """Return a function that calls compile_wheel with a script in place of pip."""

    def run(script):
        monkeypatch.setattr(compile_mmcv, 'precompile', lambda header: True)
        monkeypatch.setattr(compile_mmcv.sys, 'prefix', str(tmp_path))
        monkeypatch.setattr(
            compile_mmcv, 'pip', lambda *_: [sys.executable, '-c', script]
        )
        return compile_mmcv.compile_wheel(pins, '', tmp_path)

    return run


def test_progress_shows_the_ninja_counter(build, tmp_path, capsys):
    script = (
        "import os; print(os.environ['CFLAGS'])\n"
        "for i in range(1, 4): print(f'  [{i}/3] c++ -c x.cpp\\nwarning')\n"
        f"open('{tmp_path}/mmcv.whl', 'w')"
    )
    assert build(script) == tmp_path / 'mmcv.whl'
    assert capsys.readouterr().out == '  [1/3]\n  [2/3]\n  [3/3]\n'
    log = (tmp_path / 'mmcv-build.log').read_text()
    assert log.count('warning') == 3 and f'-include {tmp_path}/torch.hpp' in log


def test_failed_compilation_shows_the_last_log_lines(build, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        build("print('x.cpp:1: error: no such op'); exit(1)")
    assert 'mmcv-build.log' in str(stopped.value)
    assert 'no such op' in str(stopped.value)


def test_no_precompiled_header_without_gcc(compile_mmcv, monkeypatch, tmp_path):
    clang = tmp_path / 'clang++'
    clang.write_text('#!/bin/sh\nexec c++ -D__clang__ "$@"\n')
    clang.chmod(0o755)
    monkeypatch.setenv('CXX', str(clang))
    assert not compile_mmcv.precompile(tmp_path / 'torch.hpp')


def test_old_setup_py_finds_its_version(compile_mmcv, tmp_path):
    """Run the workaround for Python 3.13 in sitecustomize, as in the pip build."""
    (tmp_path / 'sitecustomize.py').write_text(compile_mmcv.EXEC_AS_BEFORE)
    script = """
def get_version():
    exec(compile("__version__ = '2.1.0'", 'version.py', 'exec'))
    return locals()['__version__']
print(get_version())
"""
    found = subprocess.run(
        [sys.executable, '-c', script],
        env={**os.environ, 'PYTHONPATH': str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert found.stdout == '2.1.0\n', found.stderr


# The pins


def pins_of(path):
    lines = [re.sub(r'\s+#.*', '', line) for line in path.read_text().splitlines()]
    return [line for line in lines if line and not line.startswith('#')]


def test_every_version_is_pinned_exactly():
    marker = r"(; python_version (<|>=) '3.11')?"
    for path in REQUIREMENTS.glob('*.txt'):
        for line in pins_of(path):
            assert re.fullmatch(rf'[a-z\d-]+==[\d.]+{marker}', line)


def test_setup_py_lists_the_python_versions_of_the_stack(pins):
    minors = re.findall(r'for n in \(([\d, ]+)\)', (ROOT / 'setup.py').read_text())
    named = [f'3.{minor}' for minor in minors[0].split(', ')]
    assert named == pins.pythons[::-1]


def test_this_environment_matches_the_pins(pins):
    from packaging.requirements import Requirement

    here = type(pins)(installed_stack(pins))
    lists = [*here.files, REQUIREMENTS / 'tests.txt']
    for line in [line for path in lists for line in pins_of(path)]:
        wanted = Requirement(line)
        if wanted.marker is None or wanted.marker.evaluate():
            found = importlib.metadata.version(wanted.name)
            assert wanted.specifier.contains(found.partition('+')[0]), line


def installed_stack(pins):
    return sys.modules[type(pins).__module__].installed_stack()


def test_pip_check_reports_only_known_exceptions():
    result = subprocess.run(
        [sys.executable, '-m', 'pip', 'check'], capture_output=True, text=True
    )
    wanted = {
        'mmengine 0.10.7 requires opencv-python, which is not installed.',
        'openmim 0.3.9 requires opendatalab, which is not installed.',
    }
    if TORCH_21:  # the export tests are skipped there
        wanted.add(
            'ml-dtypes 0.6.0 has requirement numpy>=2.0.0, but you have numpy 1.26.4.'
        )
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
            # pip does not know that onedl-mmengine provides mmengine.
            'crossformer-mm 0.1.0 requires mmengine, which is not installed.',
        }
    assert set(result.stdout.splitlines()) == wanted
