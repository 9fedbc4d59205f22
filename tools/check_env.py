"""Check the installed packages and print how to repair them.

    python tools/check_env.py

Prints one line per part: verdict, version found, version wanted and the command that
fixes it. 'warn' means that training works but this version is untested. The exit code
is 1 if any line says FAIL. Needs only the standard library.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import platform
import shlex
import sys
import warnings
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]  # the repository, or .mim in a wheel
sys.path.insert(0, str(ROOT / 'requirements'))
from pins import Pins, compute_capability, installed, installed_stack  # noqa: E402

PINS = Pins(installed_stack())
Test = Callable[[], object]  # raises an error if a part does not work
PIP = f'{shlex.quote(sys.executable)} -m pip'


class Check(NamedTuple):
    """The result of checking one part."""

    part: str
    found: str
    wanted: str
    verdict: str = 'ok'
    fix: str = ''

    def __str__(self) -> str:
        fix = f'  -> {self.fix}' if self.fix else ''
        part = f'{self.verdict:<7}  {self.part:<15}'
        return f'{part}  {self.found:<24}  {self.wanted}{fix}'


def main() -> int:
    """Run all checks and return the exit code."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    warnings.simplefilter('ignore')
    print(Check('part', 'found', 'wanted', 'verdict', 'fix with'))
    ops = {'torch': install('torch'), 'mmcv._ext': install('mmcv')}
    verdicts = []
    # Printed one by one, since a broken extension may crash Python.
    for check in (
        check_python,
        partial(check_package, 'setuptools', 'pkg_resources'),  # removed in 82
        partial(check_package, 'numpy', 'numpy', convert_array),
        check_opencv,
        partial(check_package, 'torch', 'torch'),  # any build
        check_cuda,
        partial(check_package, 'mmengine', 'mmengine'),
        partial(check_package, 'mmcv', 'mmcv'),
        partial(examine, 'mmcv._ext', ops, 'loads', 'compiled for this torch'),
        partial(check_package, 'mmdet', 'mmdet'),
        partial(check_package, 'mmsegmentation', 'mmseg'),
        check_mmseg_namesake,
        partial(check_package, 'pycocotools', 'pycocotools.mask'),
        partial(check_package, 'openmim', 'mim.cli'),
        partial(check_plugin, 'mmdet', 'mmdet'),
        partial(check_plugin, 'mmseg', 'mmsegmentation'),
    ):
        print(result := check(), flush=True)
        verdicts.append(result.verdict)
    return int('FAIL' in verdicts)


def check_python() -> Check:
    """Check whether the stack is tested on this version of Python."""
    version, tried = platform.python_version(), PINS.pythons
    check = Check('Python', version, ', '.join(tried))
    warn = check._replace(verdict='warn', fix=f'make env PYTHON=python{tried[0]}')
    return check if version.rpartition('.')[0] in tried else warn


def check_package(package: str, module: str, test: Test = bool) -> Check:
    """Import and test a package and compare its version with the pin."""
    found, pin = installed(PINS.distribution(package)), PINS.version(package)
    fix, wanted = install(package), pin + remark(package)
    check = examine(package, {module: fix}, found or 'no metadata', wanted, test)
    # '+cpu' names the build, not a version.
    if check.verdict == 'ok' and found.partition('+')[0] != pin:
        return check._replace(verdict='warn' if found else 'FAIL', fix=fix)
    return check


def convert_array() -> None:
    """Convert a numpy array to a tensor, if torch is installed."""
    with contextlib.suppress(ImportError):
        importlib.import_module('torch').from_numpy(sys.modules['numpy'].zeros(1))


def check_opencv() -> Check:
    """Check OpenCV: either distribution will do, but opencv-python needs libGL."""
    headless = 'opencv-python-headless'
    fix = f'{PIP} uninstall -y opencv-python && {install(headless)} --force-reinstall'
    found = installed(headless) or installed('opencv-python')
    return examine('OpenCV', {'cv2': fix}, found, 'any that loads')


def check_cuda() -> Check:
    """Check that torch can use CUDA if there is an NVIDIA driver."""
    driver = compute_capability()
    wanted = 'usable' if driver else 'no need, no driver'
    check = examine('CUDA', {'torch': install('torch')}, 'CPU build of torch', wanted)
    if check.verdict == 'FAIL':
        return check
    torch = sys.modules['torch']
    build, usable = torch.version.cuda, torch.cuda.is_available()
    if build:
        check = check._replace(found=f'{build}, {"" if usable else "not "}usable')
    if usable or not driver:
        return check
    fix = f'update the NVIDIA driver for CUDA {build}' if build else install('torch')
    return check._replace(verdict='warn', fix=fix)  # training on the CPU works, slowly


def check_mmseg_namesake() -> Check:
    """Check for PyPI's mmseg, a word segmenter that overwrites mmsegmentation."""
    if not installed('mmseg'):
        return Check('mmseg', 'not there', 'not there')
    fix = f'{PIP} uninstall -y mmseg && {install("mmsegmentation")} --force-reinstall'
    return Check('mmseg', 'a word segmenter', 'not there', 'FAIL', fix)


def check_plugin(host: str, package: str) -> Check:
    """Check that mmdet's or mmseg's registry has the plugin's backbones."""
    registry = f'{host}.registry'
    modules = {registry: install(package), 'crossformer_mm': install('crossformer-mm')}

    def look_up() -> None:
        if sys.modules[registry].MODELS.get('CrossFormer_S') is None:
            raise LookupError('not registered')

    return examine(f'plugin in {host}', modules, 'there', 'CrossFormer_S', look_up)


def examine(
    part: str, modules: dict[str, str], found: str, wanted: str, test: Test = bool
) -> Check:
    """Import modules, given with the commands that fix them, silently and test them."""
    silence = io.StringIO()
    try:
        with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
            for module in modules:
                importlib.import_module(module)
            test()
    except Exception as error:
        found = f'{type(error).__name__}: {(str(error).strip() or "-").splitlines()[0]}'
        # The cause may be another package that is missing.
        missing = (getattr(error, 'name', '') or '-').partition('.')[0]
        fix = install(missing) if PINS.version(missing) else modules[module]
        return Check(part, found, wanted, 'FAIL', fix)
    return Check(part, found, wanted)


def remark(package: str) -> str:
    """Return a remark on an installed package, or an empty string."""
    dist = next(iter(metadata.distributions(name=PINS.distribution(package))), None)
    if dist is None:
        return ''
    if package == 'torch' and [*map(int, dist.version.split('.')[:2])] < [2, 10]:
        # The plugin's own checkpoint reader does not call torch.load.
        return '; before 2.10 torch.load is open to CVE-2026-24747'
    for line in dist.requires or ():
        if 'mmcv' in line:
            return f', takes {line.partition(";")[0]}'
    return ''


def install(package: str) -> str:
    """Return the command that installs the pinned version of a package."""
    if package == 'torch':
        return f'{PIP} install {" ".join(PINS.torch(compute_capability()))}'
    if package == 'mmcv':
        tools = ' '.join(PINS.pin(tool) for tool in ('setuptools', 'wheel', 'ninja'))
        script = shlex.quote(str(ROOT / 'requirements' / 'compile_mmcv.py'))
        return f'{PIP} install {tools} && {shlex.quote(sys.executable)} {script}'
    if package == 'crossformer-mm' and (ROOT / 'setup.py').exists():
        return f'{PIP} install --no-deps -e {shlex.quote(str(ROOT))}'  # this checkout
    # The pins are complete, and dependencies of some packages conflict with them.
    pinned = PINS.pin(package) if PINS.version(package) else package
    return f'{PIP} install --no-deps {pinned}'


if __name__ == '__main__':
    sys.exit(main())
