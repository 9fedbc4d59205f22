# Semantic FPN on CrossFormer-S with the group sizes of most models.
_base_ = [
    'runtime.py',
    'fpn_crossformer_s.py',
    'ade20k_multiples_of_32.py',
    'schedule_fpn_80k.py',
    'mmseg::_base_/default_runtime.py',
]
