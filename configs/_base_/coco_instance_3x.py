# COCO 2017 for 36 epochs with a short side of 640 to 800 pixels: MMDetection's 3x, in
# which an epoch is three passes over the data.
_base_ = 'mmdet::common/ms_3x_coco-instance.py'

data_root = '{{$COCO_ROOT:data/coco}}'
train_dataloader = dict(dataset=dict(dataset=dict(data_root=data_root)))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = dict(
    ann_file=data_root + '/annotations/instances_val2017.json',
    metric=['bbox', 'segm'],
)
test_evaluator = val_evaluator

optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=0.0001, weight_decay=0.0001)
)
