"""Find the checkpoint to resume an interrupted training from."""

import re
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.runner import CheckpointLoader, IterBasedTrainLoop, Runner

from ..checkpoint import CheckpointError
from ..checkpoint.errors import DamagedError

# MMEngine's default names of checkpoints; the hooks of a config may add others.
TEMPLATES = ('epoch_{}.pth', 'iter_{}.pth')
BY_NAME = (
    'by name: --resume FILE, with MMSegmentation --resume --cfg-options load_from=FILE'
)


def find_start_checkpoint(runner: Runner) -> tuple[str | None, bool]:
    """Choose the checkpoint that a training with ``--resume`` starts from.

    This is the one named on the command line, else the newest in the work folder, else
    the ``load_from`` of the config. The config file is read again, because
    MMSegmentation's train.py passes ``load_from`` as if it came from the command line,
    and MMDetection's drops it.

    Args:
        runner (Runner): With ``resume=True``.

    Returns:
        tuple[str | None, bool]: A checkpoint, if any, and whether to resume it.

    Raises:
        CheckpointError: If there is a checkpoint, but it cannot be resumed.
    """
    path = runner.cfg.filename
    config = Config.fromfile(path) if path and Path(path).is_file() else {}
    in_config = config.get('load_from')
    if runner._load_from not in (None, in_config):
        _check_named(runner._load_from, runner.work_dir)
        return runner._load_from, True
    if newest := newest_checkpoint(runner):
        return newest, True
    source = f'{in_config}, the load_from of {path}' if in_config else 'scratch'
    runner.logger.info(
        f'There is nothing to resume in {runner.work_dir} yet: training starts from '
        f'{source}.'
    )
    return in_config, bool(in_config and config.get('resume'))


def newest_checkpoint(runner: Runner) -> str | None:
    """Find the newest checkpoint of the latest training in a work folder.

    This is the one named in MMEngine's file ``last_checkpoint``. If that file or its
    checkpoint is missing or damaged, it is the checkpoint saved last, by the time and
    iteration stored inside.

    Args:
        runner (Runner): Runner with the work folder and the checkpoint hooks.

    Returns:
        str, optional: Its path; None if nothing has been saved.

    Raises:
        CheckpointError: If none can be resumed, or if an intact one is refused, because
            it may be the newest. The message names each.
    """
    work_dir = Path(runner.work_dir)
    pointer = work_dir / 'last_checkpoint'
    recorded = pointer.read_text(errors='replace').strip() if pointer.is_file() else ''
    if '://' in recorded:
        return recorded  # left to MMEngine
    # The folder may have been moved or copied: prefer the files inside it.
    latest = Path(recorded)
    paths = saved_checkpoints(runner, latest.name)
    if not paths and latest.is_file():
        paths = [latest]
    paths.sort(key=lambda path: (path != latest, path.name != latest.name))

    saved: dict[Path, tuple[str, int, int]] = {}
    problems: dict[Path, CheckpointError] = {}
    for path in paths:
        try:
            meta = read_meta(path)
        except CheckpointError as error:
            problems[path] = error
            continue
        saved[path] = str(meta.get('time', '')), meta['iter'], meta['epoch']
        if path.name == latest.name:
            break
    newest = max(saved, key=lambda path: saved[path], default=None)
    refused = [e for e in problems.values() if not isinstance(e, DamagedError)]
    if refused or newest is None and (problems or recorded):
        lines = [f'Cannot resume the training in {work_dir}:']
        lines += [f'{path} {problem}' for path, problem in problems.items()]
        if not paths:
            lines += [f'last_checkpoint names {recorded}, which is not there.']
        if newest:
            lines += [f'{newest} can be resumed {BY_NAME}.']
        raise CheckpointError(' '.join(lines))
    for path, problem in problems.items():
        runner.logger.warning(f'Passed over: {path} {problem}')
    return str(newest) if newest else None


def saved_checkpoints(runner: Runner, name: str) -> list[Path]:
    """List the checkpoints saved by a runner's hooks, and those called ``name``."""
    work_dir = Path(runner.work_dir)
    hooks = [hook for hook in runner.hooks if isinstance(hook, CheckpointHook)]
    folders = {work_dir} | {
        Path(hook.out_dir, work_dir.name)
        for hook in hooks
        if hook.out_dir not in (None, runner.work_dir)
    }
    templates = {*TEMPLATES, *(hook.filename_tmpl for hook in hooks)}
    # 'epoch_{}.pth' becomes r'epoch_\d+\.pth'.
    numbered = [re.sub(r'\\{.*?}', r'\\d+', re.escape(t)) for t in templates]
    names = re.compile('|'.join([*numbered, re.escape(name)]))
    files = (path for folder in folders for path in folder.glob('*') if path.is_file())
    return sorted(path for path in files if names.fullmatch(path.name))


def read_meta(path: Path) -> dict[str, Any]:
    """Return the 'meta' of a checkpoint, with its epoch and iteration.

    Raises:
        DamagedError: If the file is damaged.
        CheckpointError: If it is refused, or has no training state.
    """
    try:
        content = CheckpointLoader.load_checkpoint(str(path), 'cpu', logger='silent')
    except CheckpointError as error:
        error.args = (str(error).removeprefix(f'{path} '),)
        raise
    meta = content.get('meta', {}) if isinstance(content, dict) else {}
    if not {'epoch', 'iter'} <= meta.keys():
        raise CheckpointError(
            'holds weights, but no state of a training: start from it by --cfg-options '
            'load_from=FILE, without --resume.'
        )
    return meta


def _check_named(path: str, work_dir: str) -> None:
    if '://' in path:
        return  # left to MMEngine
    try:
        read_meta(Path(path).expanduser())
    except CheckpointError as error:
        raise CheckpointError(
            f'Cannot resume {path}: it {error} --resume without a name goes on from '
            f'the newest checkpoint in {work_dir}.'
        ) from error


def warn_if_finished(runner: Runner) -> None:
    """Warn if a resumed training is already finished."""
    loop = runner.train_loop
    unit = 'iter' if isinstance(loop, IterBasedTrainLoop) else 'epoch'
    done, total = getattr(loop, unit), getattr(loop, f'max_{unit}s')
    if done >= total:
        runner.logger.warning(
            f'Nothing is left to train: {done} of {total} {unit}s are done. To train '
            f'longer, set --cfg-options train_cfg.max_{unit}s=N; the learning rate '
            'stays what param_scheduler ended with.'
        )
