_base_ = 'upernet_crossformer_s_160k_ade20k.py'

model = dict(
    backbone=dict(
        type='CrossFormer_B',
        init_cfg=dict(checkpoint='pretrained/backbone-crossformer-b.pth'),
    ),
)
