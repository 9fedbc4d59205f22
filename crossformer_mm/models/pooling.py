"""The neck of the published classifiers."""

from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from .init_cfg import InitCfg


@MODELS.register_module(force=True)
class NormalizedPooling(BaseModule):
    """LayerNorm of each token of the last feature map, then the mean of all tokens.

    A neck for MMPretrain's ``ImageClassifier``.

    Args:
        in_channels (int): Width of the last feature map.
        init_cfg (dict, optional): MMEngine's initialization config. Defaults to None.
    """

    def __init__(self, in_channels: int, init_cfg: InitCfg = None) -> None:
        super().__init__(init_cfg)
        self.norm = nn.LayerNorm(in_channels)

    def forward(self, feats: tuple[Tensor, ...]) -> tuple[Tensor]:
        """``(..., [B, C, H, W])`` to ``([B, C],)``."""
        tokens = feats[-1].flatten(2).transpose(1, 2)
        return (self.norm(tokens).mean(dim=1),)
