_base_ = '_base_/fpn_crossformer_s_80k_ade20k.py'

# As published, for S and L only.
model = dict(backbone=dict(group_size=[14, 14, 7, 7], crs_interval=[16, 8, 2, 1]))
