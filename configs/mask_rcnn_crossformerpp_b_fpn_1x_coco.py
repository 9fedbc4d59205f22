_base_ = 'mask_rcnn_crossformer_s_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        type='CrossFormerPP_B',
        init_cfg=dict(checkpoint='pretrained/backbone-crossformerpp-b.pth'),
    ),
)
