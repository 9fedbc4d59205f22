# Semantic FPN from scratch on the data set of tools/make_mini_ade20k.py, in minutes on
# a CPU.
_base_ = 'fpn_crossformer_t_80k_ade20k.py'

# In the order of their ADE20K labels.
classes = ('sky', 'floor', 'curtain', 'signboard', 'ball', 'food', 'vase', 'flag')
size = (160, 160)
model = dict(
    data_preprocessor=dict(size=size),
    backbone=dict(init_cfg=None, drop_path_rate=0.0),
    decode_head=dict(num_classes=len(classes)),
)

data_root = '{{$ADE20K_ROOT:data/mini_ade20k}}'
metainfo = dict(classes=classes)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='Resize', scale=size),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=size, keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
# Loading is cheap: a worker process would only compete with the network for a core.
in_process = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(
    **in_process,
    dataset=dict(data_root=data_root, metainfo=metainfo, pipeline=train_pipeline),
)
val_dataloader = dict(
    **in_process,
    dataset=dict(data_root=data_root, metainfo=metainfo, pipeline=test_pipeline),
)
test_dataloader = val_dataloader

train_cfg = dict(max_iters=200, val_interval=100)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=10),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=10, end=200),
]
optim_wrapper = dict(
    optimizer=dict(lr=7e-4, weight_decay=0.05),
    clip_grad=dict(_delete_=True, max_norm=10),
)
default_hooks = dict(
    logger=dict(interval=10),
    # Keep two: the older one is removed before the newer one is written.
    checkpoint=dict(interval=100, max_keep_ckpts=2),
    visualization=dict(draw=True, interval=4),  # in vis_data/vis_image
)
randomness = dict(seed=0)
