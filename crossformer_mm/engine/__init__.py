"""Train: the runner, what it checks first, hooks, the optimizer constructor.

``runner``       MMEngine's runner with the checks
``checks``       the data sets and the weights that a training starts from
``resume``       the checkpoint that an interrupted training goes on from
``hooks``        seeds by epoch
``layer_decay``  learning rates that decay from the head towards the image
``onedl``        configs that inherit from ``mmseg::`` where mmseg is the OneDL fork
"""

from .hooks import EpochSeedHook
from .layer_decay import LayerDecayOptimWrapperConstructor
from .runner import CheckedRunner

__all__ = ['CheckedRunner', 'EpochSeedHook', 'LayerDecayOptimWrapperConstructor']
