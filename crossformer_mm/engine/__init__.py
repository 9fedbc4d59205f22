"""Training: the runner, its checks, hooks, an optimizer constructor.

``runner``       MMEngine's runner, with the checks and with atomic checkpoints
``checks``       checks of data and weights before a training
``resume``       finds the checkpoint to resume an interrupted training from
``hooks``        seeds the random numbers of each epoch
``layer_decay``  layer-wise learning rate decay
``onedl``        lets configs inherit from ``mmseg::`` with the OneDL fork of mmseg
"""

from .hooks import EpochSeedHook
from .layer_decay import LayerDecayOptimWrapperConstructor
from .runner import CheckedRunner

__all__ = ['CheckedRunner', 'EpochSeedHook', 'LayerDecayOptimWrapperConstructor']
