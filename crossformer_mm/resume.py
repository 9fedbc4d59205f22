"""Where an interrupted training goes on."""

import re
from logging import Logger
from pathlib import Path

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner, find_latest_checkpoint, set_random_seed

from .checkpoint.reader import CheckpointError, read_checkpoint

# Between the seeds of two epochs: more than there are processes, each of which may add
# its rank.
SEEDS_PER_EPOCH = 10_000


def newest_whole_checkpoint(work_dir: str, logger: Logger) -> str | None:
    """Find the newest checkpoint of a training that can be read.

    A newer one that an interruption cut off is passed over with a warning. The files
    are looked at themselves: what MMEngine notes in ``last_checkpoint`` may be cut off
    too, and names another place once the folder has been moved.

    Args:
        work_dir (str): The training's folder.
        logger (Logger): For the warnings.

    Returns:
        str, optional: Its path; None where there is none.
    """
    found = checkpoints(Path(work_dir))
    if not found and (latest := find_latest_checkpoint(work_dir)):
        found = [Path(latest)]  # the hook may be told to save elsewhere
    for path in found:
        try:
            read_checkpoint(str(path))
        except CheckpointError as error:
            logger.warning(f'Passed over: {path} {error}')
        else:
            return str(path)
    return None


def checkpoints(folder: Path) -> list[Path]:
    """List the checkpoints after epochs or iterations, the latest first."""
    names = re.compile(r'(?:epoch|iter)_(\d+)\.pth')
    found = [(names.fullmatch(path.name), path) for path in folder.glob('*.pth')]
    numbered = [(int(match[1]), path) for match, path in found if match]
    return [path for _, path in sorted(numbered, reverse=True)]


@HOOKS.register_module(force=True)
class EpochSeedHook(Hook):
    """Seed the random numbers of each epoch by its number.

    MMEngine seeds once and saves no state of the generators: a training resumed after
    an epoch would drop other paths and flip other images than one that ran through.
    What workers of a data loader draw is beyond reach of this hook.
    """

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed Python, NumPy and torch."""
        seed = (runner.seed + SEEDS_PER_EPOCH * runner.epoch) % 2**32
        diff_rank_seed = runner.cfg.get('randomness', {}).get('diff_rank_seed', False)
        set_random_seed(seed, diff_rank_seed=diff_rank_seed)
