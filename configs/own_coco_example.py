# Mask R-CNN on your own data in COCO's format. Copy this config:
#
#     crossformer-config own_coco_example --copy .
#
# and edit the settings from data_root to frozen_stages. docs/own_data.md explains them.
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    'mmdet::_base_/default_runtime.py',
]

data_root = 'my_data/'
# The names in `categories` of the annotation file, in the order of their ids.
classes = ('stop sign', 'sports ball', 'kite', 'banana', 'vase')
# Image folders and annotation files, relative to data_root.
train_images, train_file = 'train2017/', 'annotations/instances_train2017.json'
val_images, val_file = 'val2017/', 'annotations/instances_val2017.json'
masks = True  # False: train boxes only, for annotations without masks
scale = (640, 480)  # images are resized to fit into this size, portrait or landscape
images = 200  # number of training images
epochs = 36
batch_size = 2  # images per GPU
backbone, channels = 'CrossFormer_S', [96, 192, 384, 768]  # channels of its outputs
weights = 'pretrained/mask_rcnn_crossformer_s_fpn_1x_coco.pth'  # None: from scratch
frozen_stages = -1  # none; 2: the first two stages, for fewer than 100 images

# The settings below are derived from those above. The learning rate is 1e-4 for
# fine-tuning with a batch of 16; with AdamW it scales with the square root of the batch
# size. Training from scratch is faster with a higher rate and group norm in the neck.
batch = batch_size * int('{{$WORLD_SIZE:1}}')  # set by --launcher pytorch
iterations = max(10, epochs * images // batch)
evaluate_every = min(iterations, max(50, iterations // 10))
warm_up = min(500, iterations // 10)
lr = (1e-4 if weights else 6e-4) * (batch / 16) ** 0.5
neck_norm = None if weights else dict(type='GN', num_groups=32)

custom_imports = dict(imports=['crossformer_mm'], allow_failed_imports=False)
runner_type = 'CheckedRunner'
custom_hooks = [dict(type='NumClassCheckHook')]
load_from = weights
# Without a mask head, the checkpoint's mask weights cannot be loaded.
strict = masks
model = dict(
    backbone=dict(
        _delete_=True,
        type=backbone,
        group_size=[7, 7, 7, 7],
        crs_interval=[8, 4, 2, 1],
        frozen_stages=frozen_stages,
    ),
    neck=dict(in_channels=channels, norm_cfg=neck_norm),
    roi_head=dict(
        bbox_head=dict(num_classes=len(classes)),
        mask_head=dict(num_classes=len(classes)),
    ),
)
if not masks:
    model['roi_head'].update(mask_roi_extractor=None, mask_head=None)

metainfo = dict(classes=classes)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=masks),
    dict(type='RandomResize', scale=scale, ratio_range=(0.8, 1.25), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=masks),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    batch_sampler=dict(type='AspectRatioBatchSampler'),
    dataset=dict(
        type='CocoDataset',
        data_root=data_root,
        ann_file=train_file,
        data_prefix=dict(img=train_images),
        metainfo=metainfo,
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CocoDataset',
        data_root=data_root,
        ann_file=val_file,
        data_prefix=dict(img=val_images),
        metainfo=metainfo,
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type='CocoMetric',
    ann_file=data_root + val_file,
    metric=['bbox', 'segm'] if masks else ['bbox'],
)
test_evaluator = val_evaluator

train_cfg = dict(
    type='IterBasedTrainLoop', max_iters=iterations, val_interval=evaluate_every
)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=warm_up),
    dict(
        type='CosineAnnealingLR',
        by_epoch=False,
        begin=warm_up,
        end=iterations,
        T_max=iterations - warm_up,
    ),
]
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='LayerDecayOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=lr, weight_decay=0.05),
    # The earlier a pretrained layer, the lower its learning rate.
    paramwise_cfg=dict(layer_decay_rate=0.9 if weights else 1.0, norm_decay_mult=0.0),
    clip_grad=dict(max_norm=10),
)
log_processor = dict(by_epoch=False)
default_hooks = dict(
    logger=dict(interval=max(1, min(50, iterations // 20))),
    checkpoint=dict(
        by_epoch=False,
        interval=evaluate_every,
        max_keep_ckpts=2,
        save_best='coco/bbox_mAP',
    ),
)
