# One command each; every target sets up what it needs in .venv.
PYTHON ?= $(shell for v in 3.11 3.12 3.10; do command -v python$$v && break; done || command -v python3)
BIN := .venv/bin
PHOTOS ?=
OUTPUT := outputs/demo/3dgs
NETWORKS ?= lvsm vggt dust3r rayzer
MINUTES ?= 8
OPTIONS ?=
SMALL := outputs/synthetic-rooms
TRAIN = $(BIN)/ns-train 3dgs --data "$(if $(PHOTOS),$(PHOTOS),sample)" --experiment-name demo --vis tensorboard

.PHONY: setup demo test lint bench train-small-gpu bench-vggt bench-dust3r bench-poses bench-refine bench-scenes gpu-check test-slow fuzz clean

setup: .venv/installed

.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 10) <= v <= (3, 12) or sys.exit("Python %d.%d was found, 3.10 to 3.12 is expected: make PYTHON=/path/to/python3.11" % v)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@

# The main job: photos -> cameras and points -> trained, evaluated, looked at; by feature matching, by
# a network (VGGT, in the small form that comes with the package) and, where they are known, with the
# exact cameras, to compare. make demo PHOTOS=folder does it with your photos.
# What nerfstudio's imports warn of on today's torch, before this package has a say, is hidden.
demo: export PYTHONWARNINGS := ignore::FutureWarning:torch.jit._script,ignore::FutureWarning:nerfstudio.field_components.activations
demo: setup
ifeq ($(PHOTOS),)
	$(BIN)/fm3d sample --output-dir sample --overwrite
endif
	$(TRAIN) --timestamp latest sfm
	$(TRAIN) --timestamp vggt vggt --weights small
ifeq ($(PHOTOS),)
	$(TRAIN) --timestamp exact nerfstudio-data
	@echo "Exact cameras:" && $(BIN)/fm3d show --load-config $(OUTPUT)/exact/config.yml --output result_exact.png
endif
	@echo "Cameras by vggt, small weights:" && $(BIN)/fm3d show --load-config $(OUTPUT)/vggt/config.yml --output result_vggt.png
	@echo "Cameras by sfm:" && $(BIN)/fm3d show --load-config $(OUTPUT)/latest/config.yml --output result.png

# In two processes, which is as many as need no more than 8 GiB.
test: setup
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

# Full-size networks: minutes, and 6 GiB of memory.
test-slow: setup
	$(BIN)/python -m pytest -q -m slow

# The recipes of the weights that come with the package (each file's metadata tells its own), on a
# GPU where there is one. A call takes MINUTES of the first network that is not done; repeat it.
# What they begin with are the packaged weights, which were older ones when these were made.
F32 := --pipeline.model.precision float32
BF16 := --pipeline.model.precision bfloat16
RECIPE_lvsm := $(BF16) --machine.seed 2 --max-num-iterations 2400 --pipeline.model.weights lvsm-small --pipeline.datamanager.seed 2 --pipeline.datamanager.size-shares 0.5 0.2 0.3
RECIPE_vggt := $(F32) --machine.seed 42 --max-num-iterations 1750
RECIPE_dust3r := $(BF16) --machine.seed 2 --max-num-iterations 1600 --pipeline.model.weights dust3r-small --pipeline.datamanager.seed 2 --pipeline.datamanager.scenes-per-step 16 --pipeline.datamanager.image-sizes 64 96 --pipeline.datamanager.size-shares 0.6 0.4
RECIPE_rayzer := $(BF16) --machine.seed 2 --max-num-iterations 3000 --pipeline.model.weights rayzer-small --pipeline.datamanager.seed 2 --pipeline.datamanager.scenes-per-step 8 --pipeline.datamanager.image-sizes 32 48 --pipeline.datamanager.size-shares 0.6 0.4 --pipeline.model.warm-start 0 --pipeline.model.ema-decay 0.98
train-small-gpu: setup
	@$(foreach n,$(NETWORKS),test -f $(SMALL)/$(n)-train/small/eval.json || exec $(BIN)/ns-train $(n)-train --timestamp small --max-minutes $(MINUTES) $(RECIPE_$(n)) $(OPTIONS); )echo "Done: $(foreach n,$(NETWORKS),$(SMALL)/$(n)-train/small)"

# Every reader of files, 2 000 damaged files each: a few minutes.
fuzz: setup
	$(BIN)/python tests/fuzz/run.py

lint: setup
	$(BIN)/python -m pip install --quiet --editable ".[lint]"
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

bench: setup
	$(BIN)/python tests/benchmarks/bench_kernels.py
	$(BIN)/python tests/benchmarks/bench_chunks.py
	$(BIN)/python tests/benchmarks/bench_loop.py
	$(BIN)/python tests/benchmarks/bench_training.py
	$(BIN)/python tests/benchmarks/bench_sfm.py
	$(BIN)/python tests/benchmarks/bench_nerf.py

bench-dust3r: setup
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/bench_dust3r.py
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/bench_alignment.py

bench-vggt: setup
	$(BIN)/python tests/benchmarks/bench_vggt.py

bench-poses: setup
	$(BIN)/python tests/benchmarks/bench_poses.py

bench-refine: setup
	$(BIN)/python tests/benchmarks/bench_refine.py

# Hours: both methods on every scene, cameras given and found. It goes on where it was stopped;
# make bench-scenes SCENES="fox sample:12" OPTIONS="--steps 300 --size 240" is a short one.
bench-scenes: setup
	$(BIN)/python tests/benchmarks/bench_scenes.py $(SCENES) $(OPTIONS)

# Minutes on a GPU; without one a small form, which shows that the script works.
gpu-check: setup
	$(BIN)/python tests/benchmarks/gpu_check.py

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache
