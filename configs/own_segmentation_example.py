# Semantic FPN on your own images and label maps, which are images with a class index in
# each pixel. Copy this config:
#
#     crossformer-config own_segmentation_example --copy .
#
# and edit the settings from data_root to frozen_stages. docs/own_data.md explains them.
_base_ = ['mmseg::_base_/models/fpn_r50.py', 'mmseg::_base_/default_runtime.py']

data_root = 'my_labels/'
classes = ('background', 'kite', 'ball', 'sign')  # the names of labels 0, 1, 2, ...
void = 255  # the label of pixels that are ignored
image_suffix, label_suffix = '.jpg', '.png'  # the label map of a.jpg is a.png
# Folders of images and label maps, relative to data_root.
train_images, train_labels = 'images/train/', 'labels/train/'
val_images, val_labels = 'images/val/', 'labels/val/'
scale = (1024, 512)  # images are resized to fit into this size, portrait or landscape
crop = (512, 512)  # height and width of the random crops used for training
images = 200  # number of training images
epochs = 100
batch_size = 4  # images per GPU
backbone, channels = 'CrossFormer_S', [96, 192, 384, 768]  # channels of its outputs
weights = 'pretrained/fpn_crossformer_s_80k_ade20k.pth'  # None: from scratch
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
load_from = weights
model = dict(
    data_preprocessor=dict(size=crop, seg_pad_val=void),
    pretrained=None,
    backbone=dict(
        _delete_=True,
        type=backbone,
        group_size=[14, 14, 7, 7],
        crs_interval=[16, 8, 2, 1],
        frozen_stages=frozen_stages,
    ),
    neck=dict(in_channels=channels, norm_cfg=neck_norm),
    decode_head=dict(num_classes=len(classes), ignore_index=void),
)

metainfo = dict(classes=classes)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=scale, ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop, cat_max_ratio=0.75, ignore_index=void),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='BaseSegDataset',
        data_root=data_root,
        data_prefix=dict(img_path=train_images, seg_map_path=train_labels),
        img_suffix=image_suffix,
        seg_map_suffix=label_suffix,
        metainfo=metainfo,
        ignore_index=void,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='BaseSegDataset',
        data_root=data_root,
        data_prefix=dict(img_path=val_images, seg_map_path=val_labels),
        img_suffix=image_suffix,
        seg_map_suffix=label_suffix,
        metainfo=metainfo,
        ignore_index=void,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'], ignore_index=void)
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
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(
        type='LoggerHook',
        interval=max(1, min(50, iterations // 20)),
        log_metric_by_epoch=False,
    ),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='CheckpointHook',
        by_epoch=False,
        interval=evaluate_every,
        max_keep_ckpts=2,
        save_best='mIoU',
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='SegVisualizationHook'),
)
