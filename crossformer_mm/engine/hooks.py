"""Hooks for the training loop."""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner, set_random_seed

# The distance of the seeds of two epochs: more than there are processes, each of which
# may add its rank.
SEEDS_PER_EPOCH = 10_000


@HOOKS.register_module(force=True)
class EpochSeedHook(Hook):
    """Seed the random numbers of each epoch by its number.

    MMEngine seeds once and saves no state of the generators: a training resumed after
    an epoch would drop other paths and flip other images than one that ran through.
    Workers of a data loader have generators of their own, which this hook cannot seed.
    """

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed Python, NumPy and torch."""
        seed = (runner.seed + SEEDS_PER_EPOCH * runner.epoch) % 2**32
        diff_rank_seed = runner.cfg.get('randomness', {}).get('diff_rank_seed', False)
        set_random_seed(seed, diff_rank_seed=diff_rank_seed)
