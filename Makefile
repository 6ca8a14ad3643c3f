# Needs only Python >= 3.10 and make. Everything is installed into .venv, at the versions of constraints.txt.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.installed
# a model this small gains nothing from a second thread, and on busy cores two threads wait for each other
ONE_THREAD := OMP_NUM_THREADS=1

.PHONY: help demo test test-fast test-numerics test-slow test-cluster test-cuda lint types notebooks clean

help:
	@echo "make demo          train on real text with a uniform mixture and with DGA, and compare (about 4 minutes)"
	@echo "make test          lint, types and the fast tests (about 5 minutes on two cores)"
	@echo "make test-numerics numerical tests on each instruction set of the processor (about 4 minutes)"
	@echo "make test-slow     tests that train for minutes"
	@echo "make test-cluster  tests of DDP, FSDP2, two machines, SLURM, preemption, a fresh installation (about 8 minutes)"
	@echo "make test-cuda     tests on one CUDA GPU, skipped where there is none"
	@echo "make notebooks     run the notebooks from a clean kernel"

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "lightning-dga needs Python >= 3.10, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY)
	$(ONE_THREAD) $(BIN)/dga-train -m experiment=demo callbacks=uniform,dga overwrite=true
	$(BIN)/dga-report runs/demo/uniform_seed0 runs/demo/dga_seed0

# mypy takes most of a minute of one core, so the tests do not wait for it
test: lint
	@$(MAKE) --no-print-directory -j 2 types test-fast

# whole files to each of the two workers: what is compiled, imported or trained for several tests of a file is made once
test-fast: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow and not cluster'

# only the instruction sets of this processor, because torch crashes with others
test-numerics: $(READY)
	best=$$($(BIN)/python -c 'import torch; print(torch.backends.cpu.get_cpu_capability())'); \
	case $$best in AVX512) sets="default avx2 avx512";; AVX2) sets="default avx2";; *) sets=default;; esac; \
	echo "This processor has $$best: testing $$sets"; \
	for capability in $$sets; do for threads in 1 2; do \
	  echo "ATEN_CPU_CAPABILITY=$$capability, $$threads threads"; \
	  ATEN_CPU_CAPABILITY=$$capability OMP_NUM_THREADS=$$threads \
	    $(BIN)/python -m pytest -q -n 2 --dist loadfile -m 'numerics and not slow and not cluster' tests/alignment || exit 1; \
	done; done

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

test-cluster: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m cluster -rs

test-cuda: $(READY)
	$(BIN)/python -m pytest -m cuda -rs

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

notebooks: $(READY)
	$(ONE_THREAD) $(BIN)/python -m pytest -o addopts= --nbmake --nbmake-timeout=1800 notebooks

clean:
	rm -rf $(VENV) runs build dist
