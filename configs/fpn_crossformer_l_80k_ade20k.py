_base_ = 'fpn_crossformer_s_80k_ade20k.py'

model = dict(
    backbone=dict(
        type='CrossFormer_L',
        init_cfg=dict(checkpoint='pretrained/backbone-crossformer-l.pth'),
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
