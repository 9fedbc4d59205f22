"""Read the ``init_cfg`` of a backbone."""

from typing import Any

from mmengine.model import PretrainedInit
from mmengine.registry import WEIGHT_INITIALIZERS

InitCfg = dict[str, Any] | list[dict[str, Any]] | str | None
Entries = list[dict[str, Any]]


def as_list(init_cfg: InitCfg) -> Entries:
    """Return the entries of an ``init_cfg``; a path is read as one entry."""
    if isinstance(init_cfg, str):
        init_cfg = dict(type='Pretrained', checkpoint=init_cfg)
    return [init_cfg] if isinstance(init_cfg, dict) else list(init_cfg or ())


def split_init_cfg(init_cfg: InitCfg) -> tuple[Entries, Entries]:
    """Return the entries of MMEngine's Pretrained, by class or name, and the others."""
    pretrained: Entries = []
    others: Entries = []
    for entry in as_list(init_cfg):
        kind = entry.get('type')
        if isinstance(kind, str):  # a dumped config has the dotted path
            kind = WEIGHT_INITIALIZERS.get(kind)
        (pretrained if kind is PretrainedInit else others).append(entry)
    return pretrained, others
