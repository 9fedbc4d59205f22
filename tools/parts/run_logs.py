"""Read MMEngine's logs of a training and a test."""

import argparse
import json
from pathlib import Path
from typing import Any

from mmengine.config import Config

from .output import fail

Record = dict[str, Any]


def run_parser(documentation: str) -> argparse.ArgumentParser:
    """Return a parser for WORK_DIR and CONFIG with a tool's docstring as its help."""
    parser = argparse.ArgumentParser(
        description=documentation,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'work_dir', metavar='WORK_DIR', type=Path, help='where the training wrote'
    )
    parser.add_argument(
        'config', metavar='CONFIG', type=Path, help='the config that was tested'
    )
    return parser


def read_training(work_dir: Path) -> tuple[list[Record], list[Record]]:
    """Return the steps and evaluations of the newest training, with all resumed parts.

    The step of an evaluation may be an epoch; here it is replaced by the iteration of
    the last training record before it.
    """
    training: list[Record] = []
    evaluations: list[Record] = []
    for path in sorted(work_dir.glob('*/vis_data/scalars.json'), reverse=True):
        steps, values = read_scalars(path)
        # Drop records of the previous part from where this part resumed: the training
        # may have continued for some iterations after its last checkpoint.
        end = training[0]['step'] if training else float('inf')
        training = [record for record in steps if record['step'] < end] + training
        evaluations = [r for r in values if r['step'] < end] + evaluations
        if training and not is_resumed(path.with_name('config.py')):
            break
    if not training:
        fail(
            f'{work_dir} holds no training (no */vis_data/scalars.json with a loss): '
            'give the --work-dir of a finished `mim train`'
        )
    return training, evaluations


def read_scalars(path: Path) -> tuple[list[Record], list[Record]]:
    """Return the steps and evaluations in one log file."""
    training: list[Record] = []
    evaluations: list[Record] = []
    for record in map(json.loads, path.read_text().splitlines()):
        if 'loss' in record:
            training.append(record)
        elif training:
            evaluations.append({**record, 'step': training[-1]['step']})
    return training, evaluations


def is_resumed(config: Path) -> bool:
    """Return whether the training with this config resumed another one."""
    if not config.is_file():
        return False
    return bool(Config.fromfile(config, import_custom_modules=False).get('resume'))


def find_test(
    work_dir: Path, config: Path, project: str, predictions: Path
) -> tuple[Path, Record]:
    """Find the newest test and its metrics.

    Args:
        work_dir: The folder of the training and the test.
        config: The config that was tested.
        project: The name of its project for mim.
        predictions: The file or folder that the test should have written with
            ``--out``.

    Returns:
        The test's folder and its metrics.
    """
    if not config.is_file():
        fail(f'{config} is missing: name the config that was tested')
    runs = [p.parent for p in work_dir.glob('*/*.json') if p.stem == p.parent.name]
    missing = [f'no {predictions}'] if not predictions.exists() else []
    missing += ['no test result (TIME/TIME.json)'] if not runs else []
    if missing:
        fail(
            f'{work_dir} holds {" and ".join(missing)}: run first `mim test {project} '
            f'{config} --checkpoint FILE --work-dir {work_dir} --out {predictions}`'
        )
    newest = max(runs)
    return newest, json.loads((newest / f'{newest.name}.json').read_text())
