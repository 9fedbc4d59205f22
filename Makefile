# The first Python here that works and fits; PYTHON=/path/to/python overrides it.
fits = import sys; sys.exit(sys.version_info[:2] not in ((3, 10), (3, 11)))
PYTHON ?= $(shell for python in python3.11 python3.10 python3; do \
	$$python -c '$(fits)' 2>/dev/null && break; done; echo $$python)
# STACK=onedl takes the OneDL forks instead, in an environment of their own.
export STACK ?= openmmlab
BIN := $(if $(filter openmmlab,$(STACK)),.venv,.venv-$(STACK))/bin
CONFIG := configs/mask_rcnn_crossformer_t_fpn_mini_coco.py
WORK_DIR := work_dirs/quickstart
SEG_CONFIG := configs/fpn_crossformer_t_mini_ade20k.py
SEG_WORK_DIR := work_dirs/quickstart-seg

.PHONY: help env env-cls test test-cls quickstart quickstart-seg tour lint

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 24

env:  ## build .venv, once: a pinned OpenMMLab stack and the plugin
	@$(PYTHON) requirements/install.py

env-cls:  ## build .venv-mmpretrain, once: for classification
	@$(MAKE) --no-print-directory env STACK=mmpretrain

test: env  ## all tests but those of classification
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test-cls: env-cls  ## the tests of classification
	.venv-mmpretrain/bin/python -m pytest tests/classification

quickstart: env data/mini_coco  ## mini data, training, evaluation, pictures
	$(BIN)/mim train mmdet $(CONFIG) --work-dir $(WORK_DIR)
	$(BIN)/mim test mmdet $(CONFIG) --work-dir $(WORK_DIR) \
		--checkpoint $$(cat $(WORK_DIR)/last_checkpoint) \
		--out $(WORK_DIR)/predictions.pkl
	$(BIN)/python tools/plot_run.py $(WORK_DIR) $(CONFIG)

tour: quickstart  ## quickstart, then predictions and attention in pictures
	rm -rf $(WORK_DIR)/demo
	$(BIN)/python tools/demo.py data/mini_coco/val2017 --config $(CONFIG) \
		--checkpoint $$(cat $(WORK_DIR)/last_checkpoint) --out $(WORK_DIR)/demo
	$(BIN)/python tools/visualize.py \
		data/mini_coco/val2017/$$(ls data/mini_coco/val2017 | head -n 1) \
		--config $(CONFIG) --checkpoint $$(cat $(WORK_DIR)/last_checkpoint) \
		--stage 3 --out $(WORK_DIR)/attention

data/mini_coco: | env
	$(BIN)/python tools/make_mini_coco.py $@

quickstart-seg: env data/mini_ade20k  ## the same with a segmentor
	$(BIN)/mim train mmsegmentation $(SEG_CONFIG) --work-dir $(SEG_WORK_DIR)
	$(BIN)/mim test mmsegmentation $(SEG_CONFIG) --work-dir $(SEG_WORK_DIR) \
		--checkpoint $$(cat $(SEG_WORK_DIR)/last_checkpoint) \
		--out $(SEG_WORK_DIR)/predictions
	$(BIN)/python tools/plot_seg_run.py $(SEG_WORK_DIR) $(SEG_CONFIG)

data/mini_ade20k: | env
	$(BIN)/python tools/make_mini_ade20k.py $@

lint: env  ## ruff, as pre-commit runs it
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
