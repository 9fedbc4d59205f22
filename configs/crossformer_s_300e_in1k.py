_base_ = '_base_/classifier_crossformer_s.py'
