_base_ = [
    '_base_/runtime_mmdet.py',
    '_base_/retinanet_crossformer_s_fpn.py',
    '_base_/coco_detection.py',
    '_base_/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
]
