"""Training: the runner, its checks, hooks, an optimizer constructor.

``runner``       MMEngine's runner, with the checks and with atomic checkpoints
``checks``       checks of the data and weights that a training starts from
``resume``       the checkpoint that an interrupted training is resumed from
``hooks``        seeds by epoch
``layer_decay``  learning rates that decay from the head to the image
``onedl``        configs that inherit from ``mmseg::`` where mmseg is the OneDL fork
"""

from .hooks import EpochSeedHook
from .layer_decay import LayerDecayOptimWrapperConstructor
from .runner import CheckedRunner

__all__ = ['CheckedRunner', 'EpochSeedHook', 'LayerDecayOptimWrapperConstructor']
