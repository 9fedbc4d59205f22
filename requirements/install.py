"""Build .venv at the root of the repository, once: `make env` runs this.

Installs the stack pinned in openmmlab.txt and common.txt, what the tests need, and the
plugin itself. With STACK=name in the environment it is name.txt, and .venv-name.
Uses the standard library alone, and nothing that Python 3.8 cannot parse: whoever has
the wrong Python gets a line that says so instead of a syntax error.

A stamp in .venv tells its state. It is empty from the first moment on, and written in
full as the last act: a .venv left half-built by an interruption is built anew, and one
that somebody made by hand is never touched.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STACK = os.environ.get('STACK') or 'openmmlab'
VENV = ROOT / ('.venv' if STACK == 'openmmlab' else f'.venv-{STACK}')
PINS = ROOT / 'requirements' / f'{STACK}.txt'
COMMON_PINS = ROOT / 'requirements' / 'common.txt'
TEST_PINS = ROOT / 'requirements' / 'tests.txt'
GIGABYTE = 1e9


def main(pins: Path = PINS) -> None:
    """Build .venv from the versions in ``pins``, unless it stands already."""
    if not pins.exists():
        stop(f'STACK={STACK}: there is no {pins}')
    driver = nvidia_driver()
    frame, content = describe(pins, driver)
    stamp = VENV / 'crossformer_mm.stamp'
    state = stamp.read_text() if stamp.exists() else None
    if state == frame + content and venv_python().exists():
        return

    check_python(pins)
    if mmcv_with_ops(pins):
        check_compiler(pins, driver)
    check_disk(pins, driver)
    if VENV.exists() and state is None:
        stop(f'{VENV} was not made by make env: move it away, or rm -r {VENV}')

    build = 'CPU' if cpu_index(pins) and not driver else 'CUDA'
    say(f'Building {VENV} ({build} build of torch)')
    # What stands in the same frame is brought up to date; anything else is built anew.
    if not (state and state.startswith(frame) and venv_python().exists()):
        shutil.rmtree(VENV, ignore_errors=True)
    VENV.mkdir(exist_ok=True)
    stamp.write_text('')
    (VENV / 'tmp').mkdir(exist_ok=True)
    run([sys.executable, '-m', 'venv', str(VENV)], 'Python')
    install_build_tools(pins)
    install_torch(pins, driver)
    if mmcv_with_ops(pins):
        install_mmcv(pins, driver)
    install_rest(pins)
    verify(pins)
    shutil.rmtree(VENV / 'tmp')
    stamp.write_text(frame + content)
    say(f'{VENV} is ready')


def describe(pins: Path, driver: str | None) -> tuple[str, str]:
    """Tell what .venv should be.

    Returns:
        The frame, which nothing but a new .venv can change, and the digest of what is
        installed into it.
    """
    # torch is part of the frame, since mmcv is compiled for it.
    python, torch = platform.python_version(), pinned(pins, 'torch')
    frame = f'Python {python}, torch {torch}, driver {driver} in {VENV}\n'
    digest = hashlib.sha256()
    for path in (pins, COMMON_PINS, TEST_PINS, ROOT / 'setup.py', Path(__file__)):
        digest.update(path.read_bytes())
    return frame, digest.hexdigest() + '\n'


# What the machine must have


def nvidia_driver() -> str | None:
    """Ask nvidia-smi for the first GPU's compute capability, such as '9.0'."""
    query = ['nvidia-smi', '--query-gpu=compute_cap', '--format=csv,noheader']
    try:
        answer = subprocess.run(query, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.split('\n')[0].strip() or None


def check_python(pins: Path) -> None:
    """Stop unless this Python is a tried one and can build a .venv and extensions."""
    tried = note(pins, r'^# Python: (.+)$').split(', ')
    ours = '{}.{}'.format(*sys.version_info[:2])
    if ours not in tried:
        wanted = ' or '.join(tried)
        stop(
            f'{sys.executable} is Python {ours}, Python {wanted} is needed: '
            'install one and run make env PYTHON=/path/to/python'
        )
    if importlib.util.find_spec('ensurepip') is None:
        stop(
            f'{sys.executable} cannot make virtual environments: '
            f'apt-get install python{ours}-venv'
        )
    header = Path(sysconfig.get_paths()['include'], 'Python.h')
    if not header.exists():
        stop(
            f'{header} is missing, mmcv is compiled with it: '
            f'apt-get install python{ours}-dev'
        )


def check_compiler(pins: Path, driver: str | None) -> None:
    """Stop unless mmcv's ops can be compiled here, for the GPU too if there is one."""
    compiler = os.environ.get('CXX', 'c++').split()[0]
    if shutil.which(compiler) is None:
        stop(
            f'The C++ compiler {compiler} is missing, mmcv is compiled with it: '
            'apt-get install g++'
        )
    if driver is None:
        return
    wanted = note(pins, r'^torch==.*# CUDA (\d+)')
    nvcc = find_nvcc()
    if nvcc is None:
        stop(
            f'There is an NVIDIA driver but no nvcc, mmcv is compiled with it: install '
            f'the CUDA toolkit {wanted} and put its bin folder on PATH'
        )
    answer = subprocess.run([nvcc, '--version'], capture_output=True, text=True)
    found = re.search(r'release (\d+)', answer.stdout)
    if found is None or found[1] != wanted:
        stop(
            f'{nvcc} is of CUDA {found[1] if found else "unknown"}, torch is built '
            f'for CUDA {wanted}: install that toolkit and set CUDA_HOME to its folder'
        )


def find_nvcc() -> str | None:
    """Find nvcc where torch's extension builder looks for it, in the same order."""
    home = os.environ.get('CUDA_HOME') or os.environ.get('CUDA_PATH')
    if home:
        return shutil.which('nvcc', path=str(Path(home, 'bin')))
    return shutil.which('nvcc') or shutil.which('nvcc', path='/usr/local/cuda/bin')


def check_disk(pins: Path, driver: str | None) -> None:
    """Stop if .venv and the compilation would fill the disk."""
    # Measured for the CPU: 1.4 GB of .venv and 0.2 GB to compile mmcv. Estimated for
    # CUDA, whose libraries are 3 GB to download and 5 GB unpacked.
    needed = 3 if cpu_index(pins) and not driver else 14
    free = shutil.disk_usage(ROOT).free / GIGABYTE
    if free < needed:
        stop(
            f'{ROOT} has {free:.1f} GB of free disk space, {needed} GB are needed: '
            'make room or clone the repository to a larger disk'
        )


# What goes into .venv


def install_build_tools(pins: Path) -> None:
    """Install what torch and mmcv are installed with."""
    # pip first and alone: the steps after it count on what the pinned one can do.
    pip_install('pip', *constraints(pins), title='pip, pinned')
    # OpenCV belongs here: mmcv requires the one it meets while it is built.
    tools = ['setuptools', 'wheel', 'ninja', 'opencv-python-headless']
    pip_install(*tools, *constraints(pins), title='build tools')


def install_torch(pins: Path, driver: str | None) -> None:
    """Install the CUDA build of torch where there is a driver, else the CPU build."""
    version, index = pinned(pins, 'torch'), cpu_index(pins)
    if driver or not index:
        # ==: would be content with a CPU build that a local folder offers.
        torch = f'torch==={version}'
        pip_install(torch, *constraints(pins), title='torch for CUDA, 3 GB')
        return
    torch = f'torch=={version}+cpu'
    # PyPI has no CPU build. pip may be set up to find one elsewhere, on a machine from
    # which PyTorch's own index is out of reach, so it is asked without that first.
    known = subprocess.run(
        [*pip('install'), '-qqq', '--dry-run', '--no-deps', torch],
        env=environment(),
    )
    extra = [] if known.returncode == 0 else ['--extra-index-url', index]
    pip_install(torch, *constraints(pins), *extra, title='torch for CPU, 0.2 GB')


def cpu_index(pins: Path) -> str | None:
    """Tell where the CPU build of torch is; None where the stack takes none."""
    found = re.search(r'^torch==.*CPU on (\S+)', pins.read_text(), re.MULTILINE)
    return found and found[1]


def mmcv_with_ops(pins: Path) -> str | None:
    """Tell what the stack calls mmcv; None where it takes one without compiled ops."""
    found = re.search(r'^((?:onedl-)?mmcv)==', pins.read_text(), re.MULTILINE)
    return found and found[1]


def install_mmcv(pins: Path, driver: str | None) -> None:
    """Install mmcv with its ops, from the wheel that an earlier run kept if any."""
    name = mmcv_with_ops(pins)
    mmcv = f'{name}=={pinned(pins, name)}'
    folder = wheel_folder(
        mmcv=mmcv.replace('==', '-'),
        torch=pinned(pins, 'torch'),
        device=f'cuda-{driver}' if driver else 'cpu',
    )
    if not list(folder.glob('*.whl')):
        wheel = compile_mmcv(mmcv, driver)
        keep(wheel, folder)
    (wheel,) = folder.glob('*.whl')
    pip_install('--no-deps', wheel, title=f'mmcv from {folder}')


def wheel_folder(mmcv: str, torch: str, device: str) -> Path:
    """Name the folder that keeps the wheel of mmcv, for all clones on this machine.

    pip keeps wheels it has built as well, but is blind to the torch they were built
    for, so it may hand out one that does not load.
    """
    answer = subprocess.run(
        pip('cache', 'dir'), env=environment(), capture_output=True, text=True
    )
    # pip's cache may be switched off.
    cache = Path(answer.stdout.strip()) if answer.returncode == 0 else ROOT / '.cache'
    tag = f'cp{sys.version_info[0]}{sys.version_info[1]}-{platform.machine()}'
    return cache / 'crossformer_mm' / f'{mmcv}-torch-{torch}-{device}-{tag}'


def keep(wheel: Path, folder: Path) -> None:
    """Copy a wheel into the folder; it appears there in one piece or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f'{wheel.name}.{os.getpid()}.part'
    shutil.copyfile(wheel, part)
    part.replace(folder / wheel.name)


def compile_mmcv(mmcv: str, driver: str | None) -> Path:
    """Compile the ops of mmcv, such as 'mmcv==2.1.0', and return the wheel."""
    cores = len(os.sched_getaffinity(0))
    say(
        f'Compiling {mmcv} for this torch on {cores} cores: about 80 files and '
        '12 minutes on 2 cores, several times that for a GPU. Kept for next time.'
    )
    log = VENV / 'mmcv-build.log'
    target = VENV / 'tmp' / 'wheels'
    command = [*pip('wheel'), '-v', '--no-deps', '--no-build-isolation']
    # No cache, or pip may take a wheel it has built for another torch.
    command += ['--no-cache-dir', '--no-binary', mmcv.partition('==')[0]]
    command += [mmcv, '-w', str(target)]
    switches = {'MMCV_WITH_OPS': '1', 'MAX_JOBS': str(cores)}
    switches['FORCE_CUDA'] = '1' if driver else '0'
    if follow(command, {**environment(), **switches}, log) != 0:
        stop_with(log, 'mmcv did not compile')
    (wheel,) = target.glob('*.whl')
    return wheel


def follow(command: list[str], env: dict[str, str], log: Path) -> int:
    """Run a compilation by ninja, show how far it is, and log all it prints."""
    progress = Progress()
    # In a session of its own, so that an interruption can end the compilers with it.
    process = subprocess.Popen(
        command,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors='replace',
        start_new_session=True,
    )
    with process, log.open('w') as file:
        try:
            for line in process.stdout:
                file.write(line)
                step = re.match(r'\s*\[(\d+)/(\d+)\] ', line)
                if step:
                    progress.show(int(step[1]), int(step[2]))
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            raise
        finally:
            progress.end()
    return process.returncode


class Progress:
    """One moving line on a terminal; elsewhere a line for every tenth of the way."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.state = 'compiling'
        self.tenths = -1
        self.over = threading.Event()
        self.clock = threading.Thread(target=self.tick, daemon=True)
        self.terminal = sys.stdout.isatty()
        if self.terminal:
            self.clock.start()

    def tick(self) -> None:
        """Redraw the moving line every second: a file takes up to a minute."""
        while not self.over.wait(1):
            print(f'\r{self.line()}', end='', flush=True)

    def show(self, done: int, total: int) -> None:
        """Tell that ``done`` of ``total`` files are compiled."""
        self.state = f'{done} of {total} files'
        if not self.terminal and done * 10 // total > self.tenths:
            self.tenths = done * 10 // total
            say(self.line())

    def line(self) -> str:
        """Return the line as of now."""
        minutes, seconds = divmod(int(time.monotonic() - self.start), 60)
        return f'  {self.state}, {minutes} min {seconds:02} s'

    def end(self) -> None:
        """Leave the moving line."""
        self.over.set()
        if self.terminal:
            self.clock.join()
            say(f'\r{self.line()}')


def install_rest(pins: Path) -> None:
    """Install everything else, and the plugin itself, editable."""
    lists = (f'-r{path}' for path in (pins, COMMON_PINS, TEST_PINS))
    pip_install('--no-deps', *lists, title='everything else')
    way = ['--no-deps', '--no-build-isolation']
    if 'openmim==' in pins.read_text():
        # The old way (setup.py develop): openmim finds a package's tools beside the
        # location its metadata give, which the modern way points elsewhere.
        way.append('--no-use-pep517')
    pip_install(*way, '-e', ROOT, title='crossformer_mm, editable')


def verify(pins: Path) -> None:
    """Stop unless what the stack is for loads."""
    check = f'import {note(pins, r"^# Must import: (.+)$")}'
    run([str(venv_python()), '-W', 'ignore', '-c', check], 'first import of it all')


# How it is done


def pip_install(*arguments: str | Path, title: str) -> None:
    """Run pip install in .venv, quietly."""
    # Compiling every module to bytecode takes as long as the installation itself, and
    # most are never imported; the last step compiles those that are.
    command = [*pip('install'), '-qq', '--no-compile', *map(str, arguments)]
    run(command, title)


def pip(command: str, *arguments: str) -> list[str]:
    """Return the command line of .venv's pip."""
    return [str(venv_python()), '-m', 'pip', command, *arguments]


def run(command: list[str], title: str) -> None:
    """Run a step; on failure stop and say which it was."""
    say(f'- {title}')
    log = VENV / 'install.log'
    with log.open('w') as file:
        code = subprocess.run(
            command, env=environment(), stdout=file, stderr=subprocess.STDOUT
        ).returncode
    if code != 0:
        stop_with(log, f'{" ".join(command)} failed')


def environment() -> dict[str, str]:
    """Return the environment of all steps: nothing is seen or written elsewhere."""
    env = dict(os.environ, TMPDIR=str(VENV / 'tmp'), PIP_DISABLE_PIP_VERSION_CHECK='1')
    # Packages lying there would count as installed.
    env.pop('PYTHONPATH', None)
    # The first import of it all leaves the bytecode that every later start is spared.
    env.pop('PYTHONDONTWRITEBYTECODE', None)
    # torch looks for ninja there.
    env['PATH'] = f'{VENV / "bin"}{os.pathsep}{os.environ.get("PATH", "")}'
    return env


def venv_python() -> Path:
    """Return .venv's Python."""
    return VENV / 'bin' / 'python'


def pinned(pins: Path, name: str) -> str:
    """Return the version that the pin file gives a package."""
    return note(pins, rf'^{re.escape(name)}==([^\s;]+)')


def constraints(pins: Path) -> list[str]:
    """Return pip's options that hold it to the pinned versions."""
    return [f'-c{pins}', f'-c{COMMON_PINS}']


def note(pins: Path, pattern: str) -> str:
    """Return what ``pattern`` captures in the pin files."""
    text = pins.read_text() + COMMON_PINS.read_text()
    found = re.search(pattern, text, re.MULTILINE)
    if found is None:
        stop(f'{pins} has no line that matches {pattern}: restore it')
    return found[1]


def say(line: str) -> None:
    """Print a line at once, in a log as well."""
    print(line, flush=True)


def stop(line: str) -> None:
    """End with one line on what is wrong and what to do."""
    sys.exit(f'make env: {line}')


def stop_with(log: Path, line: str) -> None:
    """End with what a log tells of the failure and where to find the rest."""
    lines = log.read_text(errors='replace').splitlines()
    # What broke a compilation stands far above the end, which is all tidying up.
    telling = [text for text in lines if re.search(r'error\b', text, re.IGNORECASE)]
    tail = '\n'.join(text[:200] for text in (telling or lines)[-20:])
    stop(f'{line}. From {log}:\n{tail}')


def interrupted(*_: object) -> None:
    """End in good order when told to."""
    stop('interrupted; run it again and it starts afresh, with what is in the cache')


if __name__ == '__main__':
    signal.signal(signal.SIGINT, interrupted)
    signal.signal(signal.SIGTERM, interrupted)
    main()
