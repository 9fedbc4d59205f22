_base_ = '_base_/fpn_crossformer_s_80k_ade20k.py'

model = dict(
    backbone=dict(
        type='CrossFormerPP_S',
        init_cfg=dict(checkpoint='pretrained/backbone-crossformerpp-s.pth'),
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
