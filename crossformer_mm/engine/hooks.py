"""Hooks for the training loop."""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner, set_random_seed

# Difference between the seeds of two epochs: larger than the number of processes, each
# of which may add its rank.
SEEDS_PER_EPOCH = 10_000


@HOOKS.register_module(force=True)
class EpochSeedHook(Hook):
    """Seed the random number generators in each epoch.

    MMEngine seeds once and does not save the state of the generators: a resumed
    training would drop other paths and flip other images than an uninterrupted one.
    Workers of a data loader have their own generators, which this hook cannot seed.
    """

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed Python, NumPy and torch."""
        seed = (runner.seed + SEEDS_PER_EPOCH * runner.epoch) % 2**32
        diff_rank_seed = runner.cfg.get('randomness', {}).get('diff_rank_seed', False)
        set_random_seed(seed, diff_rank_seed=diff_rank_seed)
