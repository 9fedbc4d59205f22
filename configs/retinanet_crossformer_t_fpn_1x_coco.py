# An extension to this network: no results are published.
_base_ = 'retinanet_crossformer_s_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        type='CrossFormer_T',
        init_cfg=dict(checkpoint='pretrained/backbone-crossformer-t.pth'),
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
