# make book   run every chapter at PROFILE (smoke, demo, yeast, immgen) and build that book
# make site   write the numbers of the record into its pages and build the book; runs no chapter
# make test   lint and test; LAYER=core, score, study or book tests one layer
# make look   save a picture of every page of the built book under _build/screenshots
# make faults break everything on purpose and record what came of it
# make fuzz   draw more than 10,000 inputs for functions, readers and commands: data/results/fuzz.csv
# make audit  look up the pinned packages for known vulnerabilities; needs pipx and internet
# make bench  time ISM, TISM and their peers on this machine: the chapter on run times at PROFILE,
#             and the engines on published architectures at their real lengths
# make wheels fetch what the machine of a GPU may lack beside PyTorch into wheels, for its Python
#             GPU_PYTHON (3.12); GPU_PACKAGES=... for some of it only
# make gpu    test and measure on the GPU of this machine, with the PyTorch of python3 and with
#             wheels where it lacks a package, in 9 minutes: data/results/gpu
# make record rerun the recorded profile and refresh the committed outputs
# make clean  delete the built books, executed chapters and tool caches

PROFILE ?= demo
PYTHON := $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/ready

# a read-only copy of the data beside the repository saves the downloads
MIRROR := $(wildcard $(abspath ../shared/data))
ifneq ($(MIRROR),)
export TISM_DATA_MIRROR ?= $(MIRROR)
endif

SNAKEMAKE = $(BIN)/python workflow/progress.py $(BIN)/snakemake --workflow-profile workflow/local --config profile=$(PROFILE)

.PHONY: book site test look faults fuzz audit bench wheels gpu record clean

book: $(READY)
	$(SNAKEMAKE)

site: $(READY)
	$(BIN)/jupyter-book build . --all -W -n --keep-going

test: export OMP_NUM_THREADS = 1
test: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder tests/$(LAYER)

look: $(READY)
	$(BIN)/python -m pytest tests/book/test_browser.py --site _build/html --screenshots _build/screenshots

faults: $(READY)
	$(BIN)/python tests/faults.py

fuzz: export OMP_NUM_THREADS = 1
fuzz: export TISM_FUZZ = nightly
fuzz: $(READY)
	$(BIN)/python -m pytest tests/core/test_fuzz.py tests/score/test_fuzz_readers.py

audit:
	pipx run pip-audit --requirement requirements.lock --no-deps --disable-pip

bench: $(READY)
	$(BIN)/python -m tism.study.compendium run $(PROFILE) 06_runtime
	$(BIN)/python -m tism.study.bench

GPU_PYTHON ?= 3.12
GPU_PACKAGES ?= certifi charset-normalizer filelock idna iniconfig llvmlite numba numpy packaging \
	pandas pluggy pygments pytest python-dateutil pyyaml requests safetensors scipy \
	tangermeme tqdm urllib3
wheels:
	rm -rf wheels
	$(PYTHON) -m pip download --no-deps --only-binary :all: --python-version $(GPU_PYTHON) \
	    --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 \
	    --constraint requirements.lock --dest wheels $(GPU_PACKAGES)

# its own packages come first, then those of the wheels
gpu: SITE = $(shell python3 -c "import os, torch; print(os.path.dirname(torch.__path__[0]))")
gpu: export PYTHONPATH = $(SITE):wheels/site
gpu:
	for wheel in $(wildcard wheels/*.whl); do python3 -m zipfile -e $$wheel wheels/site; done
	python3 -m pytest tests/core/test_running.py -k on_a_gpu
	python3 -m tism.study.gpu

record: PROFILE = yeast
record: COMPENDIUM = $(BIN)/python -m tism.study.compendium
record: $(READY)
	$(COMPENDIUM) missing evidence | xargs -r -n 1 -P $$(getconf _NPROCESSORS_ONLN) $(COMPENDIUM) model evidence
	$(COMPENDIUM) summarise evidence
	$(SNAKEMAKE)
	$(COMPENDIUM) record $(PROFILE) --executed
	$(MAKE) site

clean:
	rm -rf _build results .snakemake .pytest_cache .ruff_cache .hypothesis

$(READY): pyproject.toml requirements.lock
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -c requirements.lock -e '.[compendium,test]'
	touch $@
