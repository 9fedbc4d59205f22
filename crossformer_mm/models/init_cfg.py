"""What an ``init_cfg`` of a backbone says."""

from typing import Any

from mmengine.model import PretrainedInit

InitCfg = dict[str, Any] | list[dict[str, Any]] | str | None

# What MMEngine's own loading is called in an init_cfg; the last in a dumped config.
PRETRAINED = (
    'Pretrained',
    'mmengine.Pretrained',
    PretrainedInit,
    'mmengine.model.weight_init.PretrainedInit',
)


def read_init_cfg(init_cfg: InitCfg) -> dict[str, Any] | list[dict[str, Any]] | None:
    """Return an ``init_cfg`` of MMEngine, given one or the path of a checkpoint."""
    if isinstance(init_cfg, str):
        return dict(type='Pretrained', checkpoint=init_cfg)
    return init_cfg


def with_whole_backbone(init_cfg: InitCfg) -> list[dict[str, Any]]:
    """Let Pretrained entries load whole files by ``checkpoint.PretrainedBackbone``."""
    entries = [init_cfg] if isinstance(init_cfg, dict) else init_cfg or []
    pretrained = [entry for entry in entries if entry['type'] in PRETRAINED]
    others = [entry for entry in entries if entry not in pretrained]
    # MMEngine puts only those that it knows last by itself.
    return others + [dict(entry, type='PretrainedBackbone') for entry in pretrained]
