"""Build .venv at the root of the repository, once. Run by `make env`.

Installs the stack pinned in openmmlab.txt and common.txt, and the plugin itself. With
STACK=name it installs name.txt into .venv-name. Python 3.8 can parse this file.

A stamp file in .venv records its state and is completed last. An incomplete or outdated
.venv is rebuilt; one without a stamp was not made here and is never touched.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys

from compile_mmcv import missing_tool
from pins import FOLDER, Pins, compute_capability

ROOT = FOLDER.parent
STACK = os.environ.get('STACK') or 'openmmlab'
VENV = ROOT / ('.venv' if STACK == 'openmmlab' else f'.venv-{STACK}')
PYTHON = VENV / 'bin' / 'python'
CUDA = 12  # GB of disk for the CUDA libraries, packed and unpacked


def main() -> None:
    """Build .venv, unless it is up to date."""
    if not (FOLDER / f'{STACK}.txt').exists():
        stop(f'STACK={STACK}: there is no requirements/{STACK}.txt')
    pins, gpu = Pins(STACK), compute_capability()
    wanted, stamp = describe(pins, gpu), VENV / 'crossformer_mm.stamp'
    state = stamp.read_text() if stamp.exists() else None
    if state == wanted and PYTHON.exists():
        return
    check(pins, gpu)
    if VENV.exists() and state is None:
        stop(f'{VENV} was not made by make env: move it away, or rm -r {VENV}')
    say(f'Building {VENV} by {sys.executable}; times are for 2 cores')
    shutil.rmtree(VENV, ignore_errors=True)
    (VENV / 'tmp').mkdir(parents=True)
    stamp.write_text('')
    install_python(pins)
    install_torch(pins, gpu)
    install_mmcv(pins)
    install_rest(pins)
    verify(pins)
    shutil.rmtree(VENV / 'tmp')
    stamp.write_text(wanted)
    say(f'{VENV} is ready')


def describe(pins: Pins, gpu: str) -> str:
    """Return the content of the stamp of a complete .venv."""
    digest = hashlib.sha256()
    for path in (*pins.files, ROOT / 'setup.py', *sorted(FOLDER.glob('*.py'))):
        digest.update(path.read_bytes())
    python = platform.python_version()
    return f'Python {python}, GPU {gpu or "none"} in {VENV}\n{digest.hexdigest()}\n'


def check(pins: Pins, gpu: str) -> None:
    """Stop unless this Python and this machine meet the requirements."""
    ours = '.'.join(map(str, sys.version_info[:2]))
    if ours not in pins.pythons:
        stop(
            f'{sys.executable} is Python {ours}, one of {", ".join(pins.pythons)} is '
            'needed: install it and run make env PYTHON=/path/to/python'
        )
    if importlib.util.find_spec('ensurepip') is None:
        stop(
            f'{sys.executable} cannot make virtual environments: '
            f'apt-get install python{ours}-venv'
        )
    if pins.version('mmcv') and (missing := missing_tool(pins, gpu)):
        stop(missing)
    # Measured for the CPU: 1.4 GB of .venv and 0.7 GB to compile mmcv.
    check_disk(3 if pins.has_cpu_build(gpu) else CUDA)


def check_disk(needed: int) -> None:
    """Stop unless the disk has enough free space, in GB."""
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < needed:
        stop(
            f'{ROOT} has {free:.1f} GB of free disk space, {needed} GB are needed: '
            'make room or clone the repository to a larger disk'
        )


def install_python(pins: Pins) -> None:
    """Create .venv and install the packages needed by the later steps."""
    say('- Python, pip and setuptools: 10 s')
    run([sys.executable, '-m', 'venv', str(VENV)])
    # mmcv depends on the OpenCV distribution that is installed when it is built.
    tools = ('pip', 'setuptools', 'wheel', 'ninja', 'numpy', 'opencv-python-headless')
    run(pip('-q', *(pins.pin(tool) for tool in tools)))


def install_torch(pins: Pins, gpu: str) -> None:
    """Install the CUDA build of torch if there is a GPU, else the CPU build."""
    version, constraints = pins.version('torch'), [f'-c{path}' for path in pins.files]
    if pins.has_cpu_build(gpu):
        say(f'- torch {version} for CPU, a download of 0.2 GB')
        # PyTorch's index may be unreachable while pip's index has the CPU build.
        if call(pip(*pins.torch(gpu), *constraints, '--retries', '1')) == 0:
            return
        say('  There is no CPU build for this Python. The CUDA build works as well.')
        check_disk(CUDA)
    say(f'- torch {version} for CUDA, a download of 3 GB')
    run(pip(*pins.torch('any'), *constraints))


def install_mmcv(pins: Pins) -> None:
    """Install mmcv with its ops, unless the stack uses mmcv-lite, as MMPretrain's."""
    if mmcv := pins.version('mmcv'):
        say(f'- mmcv {mmcv}, compiled once for this torch: 3 min, longer for a GPU')
        run([str(PYTHON), str(FOLDER / 'compile_mmcv.py')])


def install_rest(pins: Pins) -> None:
    """Install all remaining packages, and the plugin as editable."""
    say('- everything else: 20 s')
    lists = [f'-r{path}' for path in pins.files]
    run(pip('-q', '--no-deps', '--no-build-isolation', *lists, '-e', str(ROOT)))
    # openmim looks for a package's tools only beside its metadata.
    (packages,) = VENV.glob('lib/python*/site-packages')
    (packages / 'crossformer_mm').symlink_to(ROOT / 'crossformer_mm')


def verify(pins: Pins) -> None:
    """Stop unless the packages of the stack can be imported."""
    say('- import of all packages: 10 s')
    modules = pins.note(r'^# Must import: (.+)$')
    run([str(PYTHON), '-W', 'ignore', '-c', f'import {modules}'])


def pip(*arguments: str) -> list[str]:
    """Return the command line of pip install in .venv."""
    # Compiling all modules to bytecode takes as long as the installation itself, and
    # most are never imported. The imports of the last step compile those that are.
    return [str(PYTHON), '-m', 'pip', 'install', '--no-compile', *arguments]


def run(command: list[str]) -> None:
    """Run a step, which prints its own output; stop if it fails."""
    if call(command) != 0:
        stop(f'failed: {" ".join(command)}')


def call(command: list[str]) -> int:
    """Run a command isolated from outside packages, with .venv/tmp as TMPDIR."""
    env = dict(os.environ, TMPDIR=str(VENV / 'tmp'), PIP_DISABLE_PIP_VERSION_CHECK='1')
    # Packages on PYTHONPATH would count as installed.
    env.pop('PYTHONPATH', None)
    # Import everything once so that the bytecode is compiled now, not at first use.
    env.pop('PYTHONDONTWRITEBYTECODE', None)
    return subprocess.call(command, env=env)


def say(line: str) -> None:
    """Print a line and flush, so that it appears at once in a log as well."""
    print(line, flush=True)


def stop(line: str) -> None:
    """Exit with one line that states the problem and the remedy."""
    sys.exit(f'make env: {line}')


if __name__ == '__main__':
    try:
        main()
    except KeyboardInterrupt:
        stop(
            'interrupted; run it again and it starts afresh, with what is in the cache'
        )
