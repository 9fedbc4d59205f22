"""Read the ``init_cfg`` of a backbone."""

from typing import Any

from mmengine.model import PretrainedInit
from mmengine.registry import WEIGHT_INITIALIZERS

InitCfg = dict[str, Any] | list[dict[str, Any]] | str | None


def as_list(init_cfg: InitCfg) -> list[dict[str, Any]]:
    """Return the entries of an ``init_cfg``; a path is read as one entry."""
    if isinstance(init_cfg, str):
        init_cfg = dict(type='Pretrained', checkpoint=init_cfg)
    return [init_cfg] if isinstance(init_cfg, dict) else list(init_cfg or ())


def is_pretrained(entry: dict[str, Any]) -> bool:
    """Return whether an entry is MMEngine's Pretrained, by class or name."""
    kind = entry.get('type')
    if isinstance(kind, str):  # a dumped config has the dotted path
        kind = WEIGHT_INITIALIZERS.get(kind)
    return kind is PretrainedInit


def with_whole_backbone(init_cfg: InitCfg) -> list[dict[str, Any]]:
    """Make Pretrained entries strict, by ``checkpoint.PretrainedBackbone``."""
    entries = as_list(init_cfg)
    pretrained = [entry for entry in entries if is_pretrained(entry)]
    others = [entry for entry in entries if not is_pretrained(entry)]
    # MMEngine runs Pretrained entries last, but does not recognize this name.
    return others + [dict(entry, type='PretrainedBackbone') for entry in pretrained]
