# CrossFormer-S for detection and segmentation.
backbone = dict(
    type='CrossFormer_S',
    group_size=[7, 7, 7, 7],
    crs_interval=[8, 4, 2, 1],
    init_cfg=dict(
        type='Pretrained', checkpoint='pretrained/backbone-crossformer-s.pth'
    ),
)
