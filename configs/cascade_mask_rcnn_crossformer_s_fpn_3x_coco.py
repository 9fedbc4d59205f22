_base_ = [
    '_base_/runtime_mmdet.py',
    '_base_/cascade_mask_rcnn_crossformer_s_fpn.py',
    '_base_/coco_instance_3x.py',
]
