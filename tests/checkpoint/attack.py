"""Load every file of the corpus through every entry point of the package.

    python -m tests.checkpoint.attack              # all files, then a table
    python -m tests.checkpoint.attack zip tensors  # only these kinds
    python -m tests.checkpoint.attack --fast       # one entry point per file, as in CI

Each attempt runs in its own process, forked from one that has imported everything, with
limits on time and memory. It must end with one printable line, within 10 seconds of CPU
time and 1 GB, without a signal, and without side effects: no marker file, no new file,
no changed class.
"""

import argparse
import contextlib
import io
import json
import os
import resource
import runpy
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.registry import MODELS
from mmengine.runner import CheckpointLoader

from crossformer_mm.checkpoint import reader
from crossformer_mm.checkpoint.load import PretrainedBackbone
from crossformer_mm.checkpoint.reader import CheckpointError
from crossformer_mm.models.archs import ARCHS
from tests.checkpoint.corpus import CASES

SECONDS = 10
BYTES = 2**30
LONGEST_LINE = 1000
TOOL = str(Path(__file__).parents[2] / 'tools' / 'convert_checkpoint.py')
sys.path.insert(0, str(Path(TOOL).parent))  # as Python does for a script
UNTOUCHED = 123.0
WATCHED = (HistoryBuffer, Counter, OrderedDict, torch.Tensor, torch.nn.Parameter)


def init_cfg(source, folder):
    """Load as ``init_cfg`` does; check that a refused file changes no weight."""
    backbone = MODELS.build(dict(type='CrossFormer', arch='tiny'))
    for parameter in backbone.parameters():
        parameter.data.fill_(UNTOUCHED)
    try:
        PretrainedBackbone(source)(backbone)
    except CheckpointError:
        assert all((p == UNTOUCHED).all() for p in backbone.parameters())
        raise


def mmengine(source, folder):
    """Load as ``load_from``, ``--resume`` and ``mim test`` do."""
    with mock.patch('torch.hub.get_dir', lambda: str(folder.parent / 'hub')):
        CheckpointLoader.load_checkpoint(source, map_location='cpu', logger='silent')


def tool(*arguments):
    """Return a function that runs the converter's command."""

    def run(source, folder):
        names = [str(folder / a) if '.' in a else a for a in arguments]
        with mock.patch('sys.argv', [TOOL, source, *names]):
            runpy.run_path(TOOL, run_name='__main__')

    return run


WAYS = {
    'init_cfg': init_cfg,
    'inspect': tool('--inspect'),
    'to pth': tool('new.pth', '--to', 'backbone'),
    'to safetensors': tool('new.safetensors', '--to', 'backbone'),
    'mmengine': mmengine,
}


def fingerprint():
    """Return the process state that a file must not change."""
    HistoryBuffer()  # the first instance registers the statistics
    classes = [sorted((k, id(v)) for k, v in vars(c).items()) for c in WATCHED]
    statistics = sorted(
        (k, id(v)) for k, v in HistoryBuffer._statistics_methods.items()
    )
    defaults = [HistoryBuffer.__init__.__defaults__, torch.save.__defaults__]
    dtypes = [repr(np.dtype(code)) for code in ('f8', 'i8', 'b1')]
    return repr([classes, statistics, defaults, dtypes])


def peak():
    """Return the peak memory of this process in bytes."""
    status = Path('/proc/self/status').read_text()
    return int(status.partition('VmHWM:')[2].split()[0]) * 1024


def child(way, source, folder):
    """Load the file; return the outcome."""
    # This hard limit is a safety net. The measured peak decides.
    size = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 4 * BYTES,) * 2)
    signal.alarm(30 * SECONDS)  # wall-clock time, hence the large margin
    Path('/proc/self/clear_refs').write_text('5')  # reset the peak
    before, memory, start = fingerprint(), peak(), time.perf_counter()
    busy = time.process_time()
    out, message, outcome = io.StringIO(), '', 'loaded'
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
            WAYS[way](source, folder)
    except CheckpointError as error:
        outcome, message = 'refused', str(error)
    except SystemExit as stopped:
        if stopped.code:
            outcome, message = 'refused', str(stopped.code)
    except BaseException:
        outcome, message = 'traceback', traceback.format_exc()
    return dict(
        outcome=outcome,
        message=message,
        out=out.getvalue(),
        seconds=time.perf_counter() - start,
        busy=time.process_time() - busy,
        memory=peak() - memory,
        changed=fingerprint() != before,
    )


def attempt(way, source, folder):
    """Load the file in a separate process; return the outcome."""
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        os.close(reading)
        code = 1
        try:
            torch.set_num_threads(1)
            answer = json.dumps(child(way, source, folder)).encode()
            with os.fdopen(writing, 'wb') as pipe:
                pipe.write(answer)
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, 'rb') as pipe:
        answer = pipe.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status) or not answer:
        signal_number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        return dict(outcome=f'signal {signal_number}')
    return json.loads(answer)


def faults(case, way, result, new_files, extra_bytes):
    """List the faults of an outcome."""
    if result['outcome'] not in ('refused', 'loaded'):
        return [result['outcome'] + ': ' + result.get('message', '')[-600:]]
    found = []
    may_load = case.outcome == 'harmless' or (
        case.outcome == 'unusable' and way in ('mmengine', 'inspect')
    )
    if result['outcome'] == 'loaded' and not may_load:
        found.append('loaded')
    lines = [result['message'], *result['out'].splitlines()]
    if not all(line.isprintable() and len(line) <= LONGEST_LINE for line in lines):
        found.append('a line that is not printable, or endless')
    if result['out'].count('\nfile   ') or result['out'].count('\nkind  ') > 1:
        found.append('forged lines')
    # CPU time, since a busy machine delays the process; the alarm limits the rest.
    if result['busy'] > SECONDS:
        found.append(f'{result["busy"]:.1f} s of work, {result["seconds"]:.1f} s')
    if result['memory'] > BYTES + extra_bytes:
        found.append(f'{result["memory"] / 1e6:.0f} MB')
    if result['changed']:
        found.append('changed a class')
    made = {'new.pth', 'new.safetensors'} if result['outcome'] == 'loaded' else set()
    if new_files - made:
        found.append(f'wrote {sorted(new_files)}')
    return found


def attack(case, ways):
    """Load one file; return the outcome and its faults per entry point."""
    results = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, 'files')
        folder.mkdir()
        path = folder / 'file.pth'
        case.build(path)
        url = path.with_suffix('.url')
        source = url.read_text() if url.exists() else str(path)
        size = path.stat().st_size if path.is_file() else 0
        before = set(os.listdir(folder))
        for way in ways:
            result = attempt(way, source, folder)
            new_files = set(os.listdir(folder)) - before
            found = faults(case, way, result, new_files, 3 * min(size, 2**30))
            results[way] = (result, found)
            for new in new_files:
                (folder / new).unlink()
    return results


def small_variants():
    """Register the variant that the corpus uses; see ``kinds``."""
    common = dict(ARCHS['T'], embed_dims=16, num_heads=(1, 2, 4, 8))
    ARCHS['tiny'] = dict(common, depths=(1, 1, 2, 1))


def main():
    """Load all files and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('kinds', nargs='*', help='such as zip; default: all')
    parser.add_argument('--fast', action='store_true', help='one way for each file')
    args = parser.parse_args()
    small_variants()
    reader.SECONDS = 2  # timeout for servers, shorter than the default
    table, wrong, slowest = defaultdict(Counter), [], []
    for i, case in enumerate(CASES):
        if args.kinds and case.kind not in args.kinds:
            continue
        table[case.kind]['files'] += 1
        # The converter does not accept URLs.
        possible = ('init_cfg', 'mmengine') if case.kind == 'URLs' else tuple(WAYS)
        ways = (possible[i % len(possible)],) if args.fast else possible
        for way, (result, found) in attack(case, ways).items():
            table[case.kind][result['outcome']] += 1
            table[case.kind]['faults'] += bool(found)
            label = f'{case.kind}: {case.name}, {way}'
            wrong += [f'{label}: {fault}' for fault in found]
            slowest.append((result.get('seconds', 0), label))
    print('\n'.join(wrong))
    print(f'{"kind":<20}{"files":>6}{"refused":>9}{"loaded":>8}{"faults":>8}')
    for kind, row in table.items():
        numbers = row['files'], row['refused'], row['loaded'], row['faults']
        print(f'{kind:<20}{numbers[0]:>6}{numbers[1]:>9}{numbers[2]:>8}{numbers[3]:>8}')
    for seconds, label in sorted(slowest, reverse=True)[:5]:
        print(f'{seconds:.1f} s  {label}')
    sys.exit(1 if wrong else 0)


if __name__ == '__main__':
    main()
