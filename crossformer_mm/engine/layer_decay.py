"""Layer-wise learning rate decay, for fine-tuning."""

from typing import Any

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from ..models import CrossFormer


@OPTIM_WRAPPER_CONSTRUCTORS.register_module(force=True)
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Gives each layer of a CrossFormer a lower learning rate than the next one.

    A parameter at depth d of a backbone with N blocks has the learning rate
    ``lr * layer_decay_rate ** (N + 1 - d)``, as in BEiT (arXiv 2106.08254), Swin and
    ConvNeXt. The first embedding has depth 0, the blocks of all stages have depths 1 to
    N, and the embedding between two stages has the depth of the block before it.
    Parameters outside the backbone have the learning rate ``lr``::

        optim_wrapper = dict(
            constructor='LayerDecayOptimWrapperConstructor',
            paramwise_cfg=dict(layer_decay_rate=0.9, norm_decay_mult=0.0))

    Args:
        optim_wrapper_cfg (dict): Config of the optimizer wrapper.
        paramwise_cfg (dict): ``layer_decay_rate`` (float, above 0, at most 1), and
            the keys of MMEngine's ``DefaultOptimWrapperConstructor``, whose factors are
            multiplied with the decay.

    Raises:
        ValueError: If ``layer_decay_rate`` is missing or out of its range.
    """

    def __init__(
        self,
        optim_wrapper_cfg: dict[str, Any],
        paramwise_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(optim_wrapper_cfg, paramwise_cfg)
        rate = self.paramwise_cfg.get('layer_decay_rate')
        if not isinstance(rate, int | float) or not 0 < rate <= 1:
            raise ValueError(
                'paramwise_cfg.layer_decay_rate must be a number above 0 and at most '
                f'1, got {rate!r}.'
            )
        self.rate = rate

    def add_params(
        self,
        params: list[dict[str, Any]],
        module: nn.Module,
        prefix: str = '',
        **kwargs: Any,
    ) -> None:
        """Add all parameters of a module, each in its own group."""
        super().add_params(params, module, prefix=prefix, **kwargs)
        if prefix != '':
            return  # called recursively for a child
        backbones = [m for m in module.modules() if isinstance(m, CrossFormer)]
        if not backbones:
            raise ValueError(
                f'{type(self).__name__} needs a CrossFormer, {type(module).__name__} '
                'has none: remove optim_wrapper.constructor.'
            )
        factors: dict[nn.Parameter, float] = {}
        for backbone in backbones:
            for name, param in backbone.named_parameters():
                depth, layers = backbone.get_layer_depth(name)
                factors[param] = self.rate ** (layers - 1 - depth)
        for group in params:
            factor = factors.get(group['params'][0], 1.0)
            group.setdefault('lr', self.base_lr)
            group['lr'] *= factor
        lowest = min(factors.values())
        print_log(
            f'Learning rates of the backbone: {lowest:.3g} times the base at the first '
            f'embedding, {self.rate:.3g} times at the last block.',
            'current',
        )
