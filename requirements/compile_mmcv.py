"""Compile mmcv with its ops for the torch of this Python, and install it.

    python requirements/compile_mmcv.py

Needs torch, OpenCV, setuptools < 82, wheel, ninja and a C++ compiler; with an NVIDIA
GPU also the CUDA toolkit that torch is built for. The wheel is kept in pip's cache and
reused by all environments with the same Python and torch.
"""

from __future__ import annotations

import logging
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from tempfile import TemporaryDirectory

from pins import Pins, compute_capability, installed_stack

# Replaces Python's own flags, which include -g: debug information takes a third of the
# time. A precompiled header is only used with exactly the flags it was compiled with.
FLAGS = '-Wsign-compare -DNDEBUG -g0 -fwrapv -O3 -Wall'
HEADER = """
#ifdef __clang__
#error "clang rejects an unsuitable precompiled header, gcc ignores it"
#else
#include <torch/types.h>
#endif
"""
# mmcv's setup.py reads its version from locals() after exec(). Since Python 3.13 this
# requires exec() to be called with the frame's own namespace.
EXEC_AS_BEFORE = """
import builtins, sys
run = builtins.exec
def exec_in_frame(code, *scopes, **options):
    frame = sys._getframe(1)
    return run(code, *scopes or (frame.f_globals, frame.f_locals), **options)
builtins.exec = exec_in_frame
"""


def main() -> None:
    """Install the wheel; compile it first unless an earlier run has stored it."""
    logging.disable(logging.WARNING)  # torch warns of an unused CUDA toolkit
    pins = Pins(os.environ.get('STACK') or installed_stack())
    gpu = compute_capability()
    if missing := missing_tool(pins, gpu):
        sys.exit(missing)
    folder = kept_wheels(pins, gpu)
    if list(folder.glob('*.whl')):
        print(f'  kept by an earlier run in {folder}')
    else:
        with TemporaryDirectory() as workshop:
            store_wheel(compile_wheel(pins, gpu, Path(workshop)), folder)
    (wheel,) = folder.glob('*.whl')
    install = [*pip('install'), '-q', '--no-deps', '--force-reinstall', str(wheel)]
    sys.exit(subprocess.call(install))


def missing_tool(pins: Pins, gpu: str) -> str:
    """Return which tool for compiling mmcv is missing and how to get it, or ''.

    Args:
        pins (Pins): The stack.
        gpu (str): The compute capability of a GPU to compile for, if any.
    """
    header = Path(sysconfig.get_paths()['include'], 'Python.h')
    if not header.exists():
        version = '{}.{}'.format(*sys.version_info[:2])
        return (
            f'{header} is missing, mmcv is compiled with it: '
            f'apt-get install python{version}-dev'
        )
    if shutil.which(compiler()) is None:
        return (
            f'The C++ compiler {compiler()} is missing, mmcv is compiled with it: '
            'apt-get install g++'
        )
    if not gpu:
        return ''
    wanted = pins.note(r'^torch==.*# CUDA (\d+)')
    # The search path of torch's extension builder.
    home = os.environ.get('CUDA_HOME') or os.environ.get('CUDA_PATH')
    folders = f'{home}/bin' if home else f'{os.environ["PATH"]}:/usr/local/cuda/bin'
    nvcc = shutil.which('nvcc', path=folders)
    if nvcc is None:
        return (
            f'There is an NVIDIA driver but no nvcc, mmcv is compiled with it: install '
            f'the CUDA toolkit {wanted} and put its bin folder on PATH'
        )
    answer = subprocess.run([nvcc, '--version'], capture_output=True, text=True)
    found = re.search(r'release (\d+)', answer.stdout)
    if found is None or found[1] != wanted:
        return (
            f'{nvcc} is of CUDA {found[1] if found else "unknown"}, torch is built '
            f'for CUDA {wanted}: install that toolkit and set CUDA_HOME to its folder'
        )
    return ''


def compiler() -> str:
    """Return the C++ compiler used by torch's extension builder."""
    return os.environ.get('CXX', 'c++').split()[0]


def kept_wheels(pins: Pins, gpu: str) -> Path:
    """Return the folder of the mmcv wheel for this Python, torch and device.

    pip also caches the wheels it builds, but ignores which torch a wheel was built for,
    so it may install one that cannot be imported.
    """
    import torch

    answer = subprocess.run(pip('cache', 'dir'), capture_output=True, text=True)
    # pip's cache may be disabled.
    cache = answer.stdout.strip() or Path(sys.prefix, 'cache')
    mmcv, device = pins.pin('mmcv').replace('==', '-'), f'cuda-{gpu}' if gpu else 'cpu'
    python = f'{sys.implementation.cache_tag}-{platform.machine()}'
    name = f'{mmcv}-torch-{torch.__version__}-{device}-{python}'
    return Path(cache, 'crossformer_mm', name)


def store_wheel(wheel: Path, folder: Path) -> None:
    """Copy a wheel into the folder, atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f'{wheel.name}.{os.getpid()}.part'
    shutil.copyfile(wheel, part)
    part.replace(folder / wheel.name)


def compile_wheel(pins: Pins, gpu: str, workshop: Path) -> Path:
    """Compile mmcv with its ops in a folder and return the wheel."""
    cores = str(len(os.sched_getaffinity(0)))
    env = {**os.environ, 'MMCV_WITH_OPS': '1', 'FORCE_CUDA': '1' if gpu else '0'}
    env['MAX_JOBS'] = cores
    env['PATH'] = f'{sys.prefix}/bin:{env["PATH"]}'  # torch looks for ninja there
    if precompile(workshop / 'torch.hpp'):
        env['CFLAGS'] = f'{FLAGS} -include {workshop}/torch.hpp'
    if sys.version_info >= (3, 13):
        (workshop / 'sitecustomize.py').write_text(EXEC_AS_BEFORE)
        env['PYTHONPATH'] = str(workshop)
    # Without --no-cache-dir, pip might use a wheel built for another torch.
    command = [*pip('wheel'), '-v', '--no-deps', '--no-build-isolation']
    command += ['--no-cache-dir', '--no-binary', pins.distribution('mmcv')]
    command += [pins.pin('mmcv'), '-w', str(workshop)]
    log = Path(sys.prefix, 'mmcv-build.log')
    pipe = {'stdout': subprocess.PIPE, 'stderr': subprocess.STDOUT}
    with (
        log.open('w') as file,
        subprocess.Popen(
            command, env=env, text=True, errors='replace', **pipe
        ) as process,
    ):
        for line in process.stdout:
            file.write(line)
            # Print only ninja's counter, not the command after it.
            if step := re.match(r'\s*(\[\d+/\d+\]) ', line):
                end = '\r' if sys.stdout.isatty() else '\n'
                print(f'  {step[1]}', end=end, flush=True)
    if process.returncode:
        lines = log.read_text().splitlines()
        # The compiler's errors are far above the end of the log, which is cleanup.
        telling = [text[:200] for text in lines if re.search(r'error\b', text, re.I)]
        tail = '\n'.join((telling or lines)[-20:])
        sys.exit(f'mmcv did not compile. From {log}:\n{tail}')
    (wheel,) = workshop.glob('*.whl')
    return wheel


def precompile(header: Path) -> bool:
    """Precompile torch's header, which dominates the compile time of mmcv's files.

    Returns:
        Whether that succeeded; mmcv also compiles without it.
    """
    import torch
    from torch.utils.cpp_extension import include_paths

    header.write_text(HEADER)
    # -std and -fPIC are those of mmcv's setup.py and setuptools.
    command = [compiler(), *FLAGS.split(), '-fPIC', '-std=c++17']
    command += [f'-I{path}' for path in include_paths()]
    if not torch.compiled_with_cxx11_abi():  # up to torch 2.6 on PyPI
        command.append('-D_GLIBCXX_USE_CXX11_ABI=0')
    command += ['-x', 'c++-header', str(header), '-o', f'{header}.gch']
    return subprocess.run(command, capture_output=True).returncode == 0


def pip(*arguments: str) -> list[str]:
    """Return the command line of this Python's pip."""
    return [sys.executable, '-m', 'pip', *arguments]


if __name__ == '__main__':
    main()
