# make demo    sets up .venv and runs the main job in miniature: prepare, pretrain, extend, export
# make instruct-demo   then distills, mixes, trains, tests and exports an instructed model
# make test    sets up .venv with the test extra and runs every check
#
# PYTHON=python3.12 chooses the interpreter; .venv is made anew if it has another version.
# EXTRAS=test,plan,data,ray adds what more tests need: compilers for TPUs and GPUs, datatrove, Ray.

PYTHON ?= python3
EXTRAS ?= test
BIN := .venv/bin
DEMO := runs/demo
PRINT_VERSION := 'import sys; print("%d.%d" % sys.version_info[:2])'
VERSION := $(shell $(PYTHON) -c $(PRINT_VERSION) 2>/dev/null)
READY := .venv/ready-$(VERSION)
TESTABLE := $(READY)-$(EXTRAS)
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt

.PHONY: demo instruct-demo test lint clean-demo

demo: $(READY)
	@$(BIN)/python -m llama_jax.prepare --config=configs/demo_prepare.py
	@$(BIN)/python -m llama_jax.train --config=configs/demo_pretrain.py
	@$(BIN)/python -m llama_jax.train --config=configs/demo_extend.py
	@$(BIN)/python -m llama_jax.evaluate --config=configs/demo_evaluate.py
	@rm -rf $(DEMO)/huggingface
	@$(BIN)/python -m llama_jax.convert $(DEMO)/extend $(DEMO)/huggingface --format=hf
	@echo; echo "A continuation by the exported model:"
	@$(BIN)/python -m llama_jax.generate --checkpoint=$(DEMO)/huggingface \
	    --prompt="    def test_" --max-new-tokens=60 --temperature=0.7 --seed=1
	@echo; echo "made                     where"
	@echo "tokens and tokenizer     $(DEMO)/data"
	@echo "pretrained, 512 tokens   $(DEMO)/pretrain"
	@echo "extended, 2048 tokens    $(DEMO)/extend"
	@echo "perplexity by position   $(DEMO)/evaluation/perplexity_by_position.png"
	@echo "Hugging Face model       $(DEMO)/huggingface"

instruct-demo: $(READY)-distill
	@test -f $(DEMO)/extend/config.json || $(MAKE) --no-print-directory demo
	@$(BIN)/python benchmarks/instruct.py --output=$(DEMO)/instruct/results.md

test: $(TESTABLE) lint
	@$(BIN)/python -m pytest -n auto --dist loadfile

lint: $(TESTABLE)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

clean-demo:
	rm -rf $(DEMO)

$(READY): pyproject.toml constraints.txt
	@test -n "$(VERSION)" || { echo "error: $(PYTHON) does not run here. Type: make PYTHON=..." \
	    "with the path of a Python 3.11 or newer." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: $(PYTHON) is "\
	"Python %d.%d; llama_jax needs 3.11 or newer. Type: make PYTHON=python3.12" % sys.version_info[:2])'
	@echo "Setting up .venv with Python $(VERSION) (some minutes the first time)"
	@test "$$($(BIN)/python -c $(PRINT_VERSION) 2>/dev/null)" = "$(VERSION)" \
	    || $(PYTHON) -m venv --clear .venv
	@$(PIP) --editable .
	@touch $@

$(TESTABLE): $(READY)
	@echo "Installing the test tools"
	@$(PIP) --editable '.[$(EXTRAS)]'
	@touch $@

$(READY)-distill: $(READY)
	@$(PIP) --editable '.[distill]'
	@touch $@
