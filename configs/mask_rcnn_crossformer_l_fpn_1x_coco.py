# An extension to this network: no results are published.
_base_ = 'mask_rcnn_crossformer_s_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        type='CrossFormer_L',
        init_cfg=dict(checkpoint='pretrained/backbone-crossformer-l.pth'),
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
