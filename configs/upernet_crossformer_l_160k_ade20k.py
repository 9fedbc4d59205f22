_base_ = 'upernet_crossformer_s_160k_ade20k.py'

model = dict(
    backbone=dict(
        type='CrossFormer_L',
        init_cfg=dict(checkpoint='pretrained/backbone-crossformer-l.pth'),
    ),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
