"""The benchmark's calculations, and one run of it."""

import csv
import os
import re
import subprocess
import sys

import pytest
import rich.console

from tests.helpers import ROOT

TOOLS = ROOT / 'tools'


@pytest.fixture(autouse=True)
def tools_on_path(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)


def rows():
    """Yield two repeats and an outlier; B takes twice A's time and half its memory."""
    common = dict(device='cpu', dtype='float32', batch='1', with_cp='True', compile='')
    yield common | dict(task='matmul', gflops='100')
    for name, factor in (('A', 1), ('B', 2)):
        for side in (100, 200):
            size = common | dict(network=name, height=str(side), width='100')
            yield size | dict(task='count', gmacs='10')
            for noise in (1.0, 1.0, 9.0):
                seconds = factor * noise * side / 100
                yield size | dict(
                    task='eval',
                    seconds=str(seconds),
                    peak_mib=str(noise * (100 + side**2 / 100) / factor),
                    idle_mib=str(noise * 100 / factor),
                )


@pytest.fixture
def measurements():
    from benchmark import COLUMNS

    return [dict.fromkeys(COLUMNS, '') | row for row in rows()]


def test_table_holds_medians_and_ratios_to_the_first(measurements):
    from parts.benchmark_report import table

    console = rich.console.Console(width=200)
    with console.capture() as capture:
        console.print(table(measurements))
    text = capture.get()
    assert 'cpu, float32, batch 1, with_cp; 100 GFLOP/s' in text
    lines = [line.split() for line in text.splitlines() if ' eval ' in line]
    cells = [[cell for cell in line if cell != '│'] for line in lines]
    task, height, _, width, *numbers = cells[1]
    # 20 GFLOP in 2 s are 10 GFLOP/s, 10% of the peak.
    assert numbers == ['B', '2000', '2.00', '100', '0.50', '0.50', '10%']
    assert len(cells) == 4


def test_exponent_excludes_idle_memory(measurements):
    from parts.benchmark_report import draw, exponent

    assert exponent([1, 2, 4], [3, 6, 12]) == pytest.approx(1)
    assert exponent([1, 2, 4], [3, 12, 48]) == pytest.approx(2)
    axes = draw(measurements).axes
    labels = [[text.get_text() for text in ax.get_legend().get_texts()] for ax in axes]
    assert labels[0] == ['A: exponent 1.00', 'B: exponent 1.00']
    assert labels[1] == ['A: exponent 2.00', 'B: exponent 2.00']


@pytest.mark.parametrize('limit', [0, 1, 2, 3, 7, 8, 100])
def test_largest_batch(limit):
    from parts.benchmark_gpu import largest

    assert largest(lambda batch: batch <= limit) == limit


def test_gpu_part_without_a_gpu(monkeypatch, tmp_path, capsys):
    """Run all but the search for the largest batch, on the CPU at small sizes."""
    from parts import benchmark_gpu

    monkeypatch.setattr(benchmark_gpu, 'SHAPES', [(64, 96)])
    monkeypatch.setattr(benchmark_gpu, 'BATCHES', [1, 2])
    monkeypatch.setattr(benchmark_gpu, 'GROUPS', benchmark_gpu.GROUPS[:1])
    monkeypatch.setattr(benchmark_gpu, 'SECONDS', 0.01)
    benchmark_gpu.run(tmp_path, 'cpu')
    printed = capsys.readouterr().out
    errors = [float(x) for x in re.findall(r'(\d\.\de-\d+)', printed)]
    assert max(errors[:3]) < 1e-5 and max(errors) < 0.02  # float32, bfloat16
    with (tmp_path / 'benchmark_gpu.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 2 * 2 * 2 * 2
    assert all(float(row['ms']) > 0 for row in rows)


def test_gpu_part_needs_no_mmdet_nor_mmcv():
    code = (
        'import sys\n'
        'for name in ("mmcv", "mmdet", "mmseg"):\n'
        '    sys.modules[name] = None  # an import of it raises ImportError\n'
        'import benchmark\n'
        'from parts import benchmark_gpu\n'
    )
    env = os.environ | dict(PYTHONPATH=f'{TOOLS}{os.pathsep}{ROOT}')
    subprocess.run([sys.executable, '-c', code], check=True, env=env)


@pytest.mark.slow
def test_one_run(tmp_path):
    command = [sys.executable, TOOLS / 'benchmark.py', '--repeats', '1', '--tasks']
    command += ['train', '--networks', 'CrossFormer-S group', '--shapes', '64x64']
    command += ['--with-cp', '--out', tmp_path]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    assert 'CrossFormer-S group' in output.stdout
    with (tmp_path / 'benchmark.csv').open() as file:
        count, matmul, train = csv.DictReader(file)
    assert float(count['gmacs']) > 0.3
    assert float(matmul['gflops']) > 1
    assert float(train['seconds']) > 0
    assert float(train['peak_mib']) > float(train['idle_mib'])
    assert (tmp_path / 'benchmark.png').stat().st_size > 10_000

    again = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    assert again.returncode == 1
    assert 'is there already' in again.stderr
