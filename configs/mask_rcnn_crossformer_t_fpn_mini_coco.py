# Mask R-CNN from scratch on the data set of tools/make_mini_coco.py, in minutes on
# a CPU.
_base_ = 'mask_rcnn_crossformer_s_fpn_1x_coco.py'

# In the order of their COCO ids, by which CocoDataset numbers labels.
classes = ('stop sign', 'sports ball', 'kite', 'banana', 'vase')

# Training from scratch needs normalization after the backbone, as in mmdet's
# configs/scratch. Class-agnostic box regression learns from every object, GIoU loss
# converges faster than L1, and narrow heads with few proposals save most of the time.
norm_cfg = dict(type='GN', num_groups=32)
model = dict(
    backbone=dict(type='CrossFormer_T', init_cfg=None, drop_path_rate=0.0),
    neck=dict(in_channels=[64, 128, 256, 512], out_channels=128, norm_cfg=norm_cfg),
    rpn_head=dict(
        in_channels=128,
        feat_channels=128,
        reg_decoded_bbox=True,
        loss_bbox=dict(type='GIoULoss', loss_weight=4.0),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=128, roi_layer=dict(sampling_ratio=1)),
        bbox_head=dict(
            in_channels=128,
            fc_out_channels=512,
            num_classes=len(classes),
            reg_class_agnostic=True,
            reg_decoded_bbox=True,
            loss_bbox=dict(type='GIoULoss', loss_weight=10.0),
        ),
        mask_roi_extractor=dict(out_channels=128, roi_layer=dict(sampling_ratio=1)),
        mask_head=dict(
            num_convs=1,
            in_channels=128,
            conv_out_channels=128,
            num_classes=len(classes),
            norm_cfg=norm_cfg,
        ),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=250),
        rcnn=dict(sampler=dict(num=48, pos_fraction=0.5)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=250, max_per_img=100), rcnn=dict(max_per_img=20)),
)

data_root = '{{$COCO_ROOT:data/mini_coco}}'
metainfo = dict(classes=classes)
scale = (160, 160)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
# Loading is cheap: a worker process would only compete with the network for a core.
in_process = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(
    batch_size=2,
    **in_process,
    dataset=dict(data_root=data_root, metainfo=metainfo, pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=4,
    **in_process,
    dataset=dict(data_root=data_root, metainfo=metainfo, pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + '/annotations/instances_val2017.json')
test_evaluator = val_evaluator

train_cfg = dict(max_epochs=2, val_interval=2)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=10),
    dict(
        type='CosineAnnealingLR',
        by_epoch=True,
        begin=0,
        end=2,
        convert_to_iter_based=True,
    ),
]
optim_wrapper = dict(
    optimizer=dict(lr=7e-4, weight_decay=0.05), clip_grad=dict(max_norm=10)
)
default_hooks = dict(
    logger=dict(interval=5),
    # Keep two: the older one is removed before the newer one is written.
    checkpoint=dict(max_keep_ckpts=2),
    visualization=dict(draw=True, interval=4),  # in vis_data/vis_image
)
randomness = dict(seed=0)
