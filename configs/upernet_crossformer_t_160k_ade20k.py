# An extension to this network: no results are published.
_base_ = 'upernet_crossformer_s_160k_ade20k.py'

model = dict(
    backbone=dict(
        type='CrossFormer_T',
        init_cfg=dict(checkpoint='pretrained/backbone-crossformer-t.pth'),
    ),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)
