"""Sdist and wheel are complete and work outside of the checkout."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

from tests.helpers import MIM, ROOT, mim_name, on_openmmlab

NAME = 'mask_rcnn_crossformer_s_fpn_1x_coco'
COMMANDS = sorted(path.stem for path in (ROOT / 'tools').glob('*.py'))


def run(command, **options):
    return subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


@pytest.fixture(scope='module')
def sdist(tmp_path_factory):
    """Build an sdist as on Windows, where Git checks out symlinks as text files."""
    checkout = tmp_path_factory.mktemp('checkout')
    command = ['git', '-C', ROOT, 'ls-files', '-z', '-co', '--exclude-standard']
    for name in subprocess.check_output(command, text=True).rstrip('\0').split('\0'):
        source, copy = ROOT / name, checkout / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            copy.write_text(os.readlink(source))
        elif source.exists():
            shutil.copy(source, copy)
    code = "from setuptools import build_meta; build_meta.build_sdist('dist')"
    built = run([sys.executable, '-c', code], cwd=checkout)
    assert built.returncode == 0, built.stdout
    (path,) = checkout.glob('dist/*.tar.gz')
    return path


@pytest.fixture(scope='module')
def wheel(sdist, tmp_path_factory):
    folder = tmp_path_factory.mktemp('wheel')
    options = ['--no-deps', '--no-build-isolation', '-w', folder]
    built = run([sys.executable, '-m', 'pip', 'wheel', *options, sdist])
    assert built.returncode == 0, built.stdout
    (path,) = folder.glob('*.whl')
    return path


@pytest.fixture
def here(tmp_path):
    """Return a function that runs a command in another folder."""
    env = {**os.environ, 'PATH': f'{MIM.parent}{os.pathsep}{os.environ["PATH"]}'}
    env.pop('PYTHONPATH', None)
    return lambda *command: run(command, cwd=tmp_path, env=env)


def test_command_of_this_environment(here, tmp_path):
    """Run the command as found on PATH, in a new process."""
    copied = here('crossformer-config', NAME, '--copy', 'mine')
    assert copied.stdout == f'mine/{NAME}.py\n'
    assert (tmp_path / 'mine' / f'{NAME}.py').is_file()


@on_openmmlab
@pytest.mark.slow
def test_mim_runs_a_tool_of_this_environment(here):
    shown = here(MIM, 'run', 'crossformer_mm', 'get_flops', '--no-such-option')
    assert 'usage: get_flops.py' in shown.stdout
    ran = here(MIM, 'run', 'crossformer_mm', 'check_env')
    assert ran.returncode == 0, ran.stdout


@pytest.fixture(scope='module')
def outside(wheel, tmp_path_factory):
    """Install only the wheel; return a function that runs a command, and the folder."""
    folder = tmp_path_factory.mktemp('installed')
    installed = run(
        [sys.executable, '-m', 'pip', 'install', '--no-deps', '-t', folder, wheel]
    )
    assert installed.returncode == 0, installed.stdout
    elsewhere = tmp_path_factory.mktemp('elsewhere')
    path = os.pathsep.join([str(folder / 'bin'), os.environ['PATH']])
    env = {**os.environ, 'PYTHONPATH': str(folder), 'PATH': path}
    return lambda *command: run(command, cwd=elsewhere, env=env), folder


@pytest.mark.slow
def test_content(sdist, wheel):
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
    assert all(member.isfile() or member.isdir() for member in members)
    assert any(member.name.endswith('/LICENSE') for member in members)
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert not archive.testzip()
        lists = archive.read('crossformer_mm/.mim/requirements/openmmlab.txt')
    assert lists == (ROOT / 'requirements' / 'openmmlab.txt').read_bytes()
    shipped = {
        str(path.relative_to(ROOT))
        for folder in ('configs', 'tools')
        for pattern in ('**/*.py', '**/*.yml', '**/*.html')
        for path in (ROOT / folder).glob(pattern)
    }
    assert len(shipped) > 50
    assert {f'crossformer_mm/.mim/{name}' for name in shipped} <= names
    assert 'crossformer_mm/.mim/model-index.yml' in names


@pytest.mark.slow
def test_configs_are_found_from_any_folder(outside):
    call, folder = outside
    found = call('crossformer-config', NAME)
    path = found.stdout.strip()
    assert path == str(folder / 'crossformer_mm/.mim/configs' / f'{NAME}.py')
    # mim finds the config and the plugin; only the data is missing.
    trained = call(MIM, 'train', mim_name('mmdet'), path)
    assert 'Data not found: data/coco/annotations' in trained.stdout
    assert NAME in call('crossformer-config').stdout


@on_openmmlab
@pytest.mark.slow
@pytest.mark.parametrize('tool', COMMANDS)
def test_mim_runs_every_tool(outside, tool):
    call, _ = outside
    # mim handles --help itself and refuses it for packages outside OpenMMLab.
    result = call(MIM, 'run', 'crossformer_mm', tool, '--no-such-option')
    assert f'usage: {tool}.py' in result.stdout


@pytest.mark.slow
def test_tools_run_without_mim(outside):
    call, _ = outside
    listed = call(sys.executable, '-m', 'crossformer_mm').stdout
    assert listed.startswith('usage: python -m crossformer_mm TOOL ...\n')
    assert set(COMMANDS) <= set(listed.split('TOOL: ')[1].strip().split(', '))
    result = call(sys.executable, '-m', 'crossformer_mm', 'visualize', '--help')
    assert 'usage: visualize.py' in result.stdout


@on_openmmlab
@pytest.mark.slow
def test_mim_searches_the_index(outside):
    call, _ = outside
    result = call(MIM, 'search', 'crossformer_mm', '--config', NAME)
    assert result.returncode == 0, result.stdout
    assert '45.4' in result.stdout
