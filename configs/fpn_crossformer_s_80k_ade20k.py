_base_ = [
    '_base_/runtime.py',
    '_base_/fpn_crossformer_s.py',
    '_base_/ade20k_multiples_of_32.py',
    '_base_/schedule_fpn_80k.py',
    'mmseg::_base_/default_runtime.py',
]

# As published for S and L; the other networks keep the usual groups.
model = dict(backbone=dict(group_size=[14, 14, 7, 7], crs_interval=[16, 8, 2, 1]))
