_base_ = '_base_/fpn_crossformer_s_80k_ade20k.py'

model = dict(
    backbone=dict(
        type='CrossFormer_B',
        init_cfg=dict(checkpoint='pretrained/backbone-crossformer-b.pth'),
    ),
)
