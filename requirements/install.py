"""Build .venv at the root of the repository, once: `make env` runs this.

Installs the stack pinned in openmmlab.txt and common.txt, and the plugin itself; with
STACK=name it is name.txt, and .venv-name. Python 3.8 can parse it, as pins.py.

A stamp in .venv tells its state; it is written in full as the last act. A .venv left
half-built or of other versions is built anew, one made by hand is never touched.
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
CUDA = 12  # GB of disk: CUDA's libraries, packed and unpacked


def main() -> None:
    """Build .venv, unless it stands already."""
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
    """Return what .venv is made of, for its stamp."""
    digest = hashlib.sha256()
    for path in (*pins.files, ROOT / 'setup.py', *sorted(FOLDER.glob('*.py'))):
        digest.update(path.read_bytes())
    python = platform.python_version()
    return f'Python {python}, GPU {gpu or "none"} in {VENV}\n{digest.hexdigest()}\n'


def check(pins: Pins, gpu: str) -> None:
    """Stop unless this Python and this machine are fit for it."""
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
    """Stop if .venv and what it is built from, in GB, would fill the disk."""
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < needed:
        stop(
            f'{ROOT} has {free:.1f} GB of free disk space, {needed} GB are needed: '
            'make room or clone the repository to a larger disk'
        )


def install_python(pins: Pins) -> None:
    """Make .venv and install what the later steps install with."""
    say('- Python, pip and setuptools: 10 s')
    run([sys.executable, '-m', 'venv', str(VENV)])
    # OpenCV belongs here: mmcv requires the one it meets while it is built.
    tools = ('pip', 'setuptools', 'wheel', 'ninja', 'numpy', 'opencv-python-headless')
    run(pip('-q', *(pins.pin(tool) for tool in tools)))


def install_torch(pins: Pins, gpu: str) -> None:
    """Install the CUDA build of torch where there is a GPU, else the CPU build."""
    version, constraints = pins.version('torch'), [f'-c{path}' for path in pins.files]
    if pins.has_cpu_build(gpu):
        say(f'- torch {version} for CPU, a download of 0.2 GB')
        # PyTorch's own index may be out of reach, and the CPU build in another place.
        if call(pip(*pins.torch(gpu), *constraints, '--retries', '1')) == 0:
            return
        say('  It is not to be had here for this Python. The CUDA build works as well.')
        check_disk(CUDA)
    say(f'- torch {version} for CUDA, a download of 3 GB')
    run(pip(*pins.torch('any'), *constraints))


def install_mmcv(pins: Pins) -> None:
    """Install mmcv with its ops; MMPretrain has enough with mmcv-lite."""
    if mmcv := pins.version('mmcv'):
        say(f'- mmcv {mmcv}, compiled once for this torch: 3 min, longer for a GPU')
        run([str(PYTHON), str(FOLDER / 'compile_mmcv.py')])


def install_rest(pins: Pins) -> None:
    """Install everything else, and the plugin itself, editable."""
    say('- everything else: 20 s')
    lists = [f'-r{path}' for path in pins.files]
    run(pip('-q', '--no-deps', '--no-build-isolation', *lists, '-e', str(ROOT)))
    # openmim looks for a package's tools beside its metadata only.
    (packages,) = VENV.glob('lib/python*/site-packages')
    (packages / 'crossformer_mm').symlink_to(ROOT / 'crossformer_mm')


def verify(pins: Pins) -> None:
    """Stop unless what the stack is for loads."""
    say('- first import of it all: 10 s')
    modules = pins.note(r'^# Must import: (.+)$')
    run([str(PYTHON), '-W', 'ignore', '-c', f'import {modules}'])


def pip(*arguments: str) -> list[str]:
    """Return the command line of pip install in .venv."""
    # Compiling every module to bytecode takes as long as the installation itself, and
    # most are never imported; the last step compiles those that are.
    return [str(PYTHON), '-m', 'pip', 'install', '--no-compile', *arguments]


def run(command: list[str]) -> None:
    """Run a step, which prints for itself; stop if it fails."""
    if call(command) != 0:
        stop(f'failed: {" ".join(command)}')


def call(command: list[str]) -> int:
    """Run a command in which nothing is seen or written elsewhere."""
    env = dict(os.environ, TMPDIR=str(VENV / 'tmp'), PIP_DISABLE_PIP_VERSION_CHECK='1')
    # Packages lying there would count as installed.
    env.pop('PYTHONPATH', None)
    # The first import of it all leaves the bytecode that every later start is spared.
    env.pop('PYTHONDONTWRITEBYTECODE', None)
    return subprocess.call(command, env=env)


def say(line: str) -> None:
    """Print a line at once, in a log as well."""
    print(line, flush=True)


def stop(line: str) -> None:
    """End with one line on what is wrong and what to do."""
    sys.exit(f'make env: {line}')


if __name__ == '__main__':
    try:
        main()
    except KeyboardInterrupt:
        stop(
            'interrupted; run it again and it starts afresh, with what is in the cache'
        )
