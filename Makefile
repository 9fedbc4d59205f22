# STACK=onedl or STACK=torch21 selects other releases, in a separate environment.
export STACK ?= openmmlab
VENV := $(if $(filter openmmlab,$(STACK)),.venv,.venv-$(STACK))
BIN := $(VENV)/bin
# The newest installed Python that the stack is tested on, else one that install.py
# rejects. PYTHON=/path/to/python overrides it.
PYTHON ?= $(shell for version in $$(sed -n 's/^\# Python: //p' requirements/$(STACK).txt) 3; \
	do python$$version -c '' 2>/dev/null && break; done; echo python$$version)
# mim with only progress and results printed.
MIM := $(BIN)/python tools/quiet.py $(BIN)/mim
CONFIG := configs/mask_rcnn_crossformer_t_fpn_mini_coco.py
WORK_DIR := work_dirs/quickstart
SEG_CONFIG := configs/fpn_crossformer_t_mini_ade20k.py
SEG_WORK_DIR := work_dirs/quickstart-seg
DOCS_IMAGE := data/mini_coco/val2017/000000000246.jpg
# Plots of measurements in the documentation. Remove a folder to measure again.
MEASURED := work_dirs/scaling/benchmark.png work_dirs/long_run/long_run.png \
	work_dirs/ablation/ablation.png work_dirs/overfit/overfit.png

.PHONY: help env env-cls test test-cls quickstart quickstart-seg tour docs-images lint

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 24

env:  ## build .venv, once: a pinned OpenMMLab stack and the plugin
	@$(PYTHON) requirements/install.py

env-cls:  ## build .venv-mmpretrain, once: for classification
	@$(MAKE) --no-print-directory env STACK=mmpretrain

$(VENV)/tests: requirements/tests.txt | env
	$(BIN)/python -m pip install -q --no-deps --no-compile -r $<
	@touch $@

test: $(VENV)/tests  ## all tests but those of classification
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal $(TESTS)

# The CUDA build of torch in this environment supports fake CUDA tensors without a GPU.
test-cls: FAKE_CUDA := test_no_gpu_synchronization
test-cls:  ## the tests of classification, and one with fake CUDA tensors
	@$(MAKE) --no-print-directory STACK=mmpretrain \
		TESTS='tests/classification tests/models/test_citizen.py::$(FAKE_CUDA)' test

quickstart: env data/mini_coco  ## mini data, training, evaluation, pictures
	@echo 'Training Mask R-CNN: 2 min on 2 cores'
	@$(MIM) train mmdet $(CONFIG) --work-dir $(WORK_DIR)
	@echo 'Testing it: 20 s'
	@$(MIM) test mmdet $(CONFIG) --work-dir $(WORK_DIR) \
		--checkpoint $$(cat $(WORK_DIR)/last_checkpoint) \
		--out $(WORK_DIR)/predictions.pkl
	@$(BIN)/python tools/plot_run.py $(WORK_DIR) $(CONFIG)
	@echo 'next      make tour'

tour: $(WORK_DIR)/predictions.png  ## after it: predictions and attention in pictures
	rm -rf $(WORK_DIR)/demo
	$(BIN)/python tools/demo.py data/mini_coco/val2017 --config $(CONFIG) \
		--checkpoint $$(cat $(WORK_DIR)/last_checkpoint) --out $(WORK_DIR)/demo
	$(BIN)/python tools/visualize.py \
		data/mini_coco/val2017/$$(ls data/mini_coco/val2017 | head -n 1) \
		--config $(CONFIG) --checkpoint $$(cat $(WORK_DIR)/last_checkpoint) \
		--stage 3 --out $(WORK_DIR)/attention

$(WORK_DIR)/predictions.png:
	@$(MAKE) --no-print-directory quickstart

data/mini_coco: | env
	@echo 'Drawing a small data set: 20 s'
	@$(BIN)/python tools/make_mini_coco.py $@

quickstart-seg: env data/mini_ade20k  ## the same with a segmentor
	@echo 'Training Semantic FPN: 4 min on 2 cores'
	@$(MIM) train mmsegmentation $(SEG_CONFIG) --work-dir $(SEG_WORK_DIR)
	@echo 'Testing it: 20 s'
	@$(MIM) test mmsegmentation $(SEG_CONFIG) --work-dir $(SEG_WORK_DIR) \
		--checkpoint $$(cat $(SEG_WORK_DIR)/last_checkpoint) \
		--out $(SEG_WORK_DIR)/predictions
	@$(BIN)/python tools/plot_seg_run.py $(SEG_WORK_DIR) $(SEG_CONFIG)

data/mini_ade20k: | env
	@echo 'Drawing a small data set: 20 s'
	@$(BIN)/python tools/make_mini_ade20k.py $@

docs-images: $(VENV)/tests $(WORK_DIR)/predictions.png $(MEASURED)  ## the pictures of docs/, anew
	for mode in interval group; do $(BIN)/python tools/visualize.py $(DOCS_IMAGE) \
		--config $(CONFIG) --checkpoint $$(cat $(WORK_DIR)/last_checkpoint) \
		--stage 3 --block 8 --pixel 280 104 --out work_dirs/docs/$$mode \
		--cfg-options model.backbone.lda_mode=$$mode || exit; done
	cd work_dirs/docs && cp group/groups.png ../../docs/images/groups_of_lda_group.png
	cd work_dirs/docs/interval && cp groups.png attention.png embedding.png \
		position_bias.png features.png ../../../docs/images
	$(BIN)/python docs/images/attention_page.py work_dirs/docs/interval/attention.html
	cp work_dirs/scaling/benchmark.png docs/images/scaling.png
	cp $(filter-out %/benchmark.png,$(MEASURED)) docs/images
	@echo 'Not made here, since their data is not: comparison_bccd.png and'
	@echo 'comparison_nuclei.png, by the commands of docs/comparison.md'

work_dirs/scaling/benchmark.png:
	@echo 'Timing both modes: nothing else should run meanwhile'
	$(BIN)/python tools/benchmark.py --repeats 1 --out $(@D)/interval \
		--networks "CrossFormer-S interval" \
		--shapes 256x256 512x512 768x768 1024x1024 1536x1536
	$(BIN)/python tools/benchmark.py --repeats 1 --out $(@D)/group \
		--networks "CrossFormer-S group" \
		--shapes 256x256 512x512 768x768 1024x1024 1536x1536 2048x2048
	(cat $(@D)/group/benchmark.csv; tail -n +2 $(@D)/interval/benchmark.csv) \
		> $(@D)/benchmark.csv
	$(BIN)/python tools/benchmark_report.py $(@D)/benchmark.csv

work_dirs/long_run/long_run.png: | data/mini_coco
	@echo 'Training for 2,000 iterations: 20 min on 2 cores'
	$(BIN)/python tests/training/long_run.py data/mini_coco $(@D)

work_dirs/ablation/ablation.png:
	@echo 'Training 30 small classifiers'
	@$(MAKE) --no-print-directory env-cls
	test -d data/mini_digits || \
		.venv-mmpretrain/bin/python tools/make_mini_digits.py data/mini_digits
	.venv-mmpretrain/bin/python tools/ablate.py data/mini_digits --out $(@D)

work_dirs/overfit/overfit.png: | data/mini_coco data/mini_ade20k
	@echo 'Overfitting eight models: half an hour on 2 cores'
	$(BIN)/python tools/overfit_curves.py --out $(@D)

lint: $(VENV)/tests  ## ruff, as pre-commit runs it, and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
