# `make example` and `make test` each do everything from scratch.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
# Whole files to each worker: the tests of a file share what its fixtures build.
JOBS ?= $(shell nproc)
WORKERS := --numprocesses=$(JOBS) --dist=loadfile

# The Debian packages to build, run and debug a kernel.
PACKAGES := python3-venv git gcc make flex bison bc libelf-dev libssl-dev cpio kmod rsync \
	xz-utils zstd ccache qemu-system-x86 qemu-utils gdb busybox-static linux-source-6.1 \
	mmdebstrap e2fsprogs openssh-client uidmap grub-pc-bin
MATRIX_PACKAGES := linux-source-6.12
# Debian's own kernel configuration.
DEBIAN_PACKAGES := linux-config-6.1

SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

# Installs the packages of a list that are missing.
define install
	@missing=$$(dpkg-query -W -f='$${Package} $${db:Status-Abbrev}\n' $(1) 2>/dev/null \
	  | awk '$$2 == "ii" {print $$1}' | sort > .packages.there; \
	  printf '%s\n' $(1) | sort | comm -23 - .packages.there; rm -f .packages.there); \
	if [ -n "$$missing" ]; then \
	  echo "installing:" $$missing; \
	  $(SUDO) apt-get update -q && \
	  $(SUDO) env DEBIAN_FRONTEND=noninteractive \
	    apt-get install -qy --no-install-recommends $$missing; \
	fi
endef

.PHONY: help
help:
	@echo 'make example      build a kernel and run example_suite/ on it'
	@echo 'make check        lint, types and unit tests, without a kernel, in three minutes: run it before'
	@echo '                  each commit'
	@echo 'make test         lint, types, unit, fault and real-kernel tests (Linux 6.1)'
	@echo 'make test-slow    the rest of the fault and real-kernel tests: gates, builds, docs/ci.md, guides'
	@echo 'make test-matrix  the real-kernel tests and the examples on Linux 6.1 and 6.12'
	@echo 'make test-trixie  the real-kernel tests and the examples in a Debian 13, on its Linux 6.12'
	@echo 'make test-shipped  tests and examples on the kernel that Debian ships; nothing is built'
	@echo 'make test-sanitized  tests on a kernel with KASAN, lockdep, kmemleak and the like;'
	@echo '                  10 minutes to build it, once, and a quarter of an hour to run'
	@echo 'make test-debian  all tests of a Debian on the disk: a browser, Debian'\''s own kernel configuration'
	@echo 'make test-doors   the real-kernel tests with gdb on QEMU'\''s stub'
	@echo 'make test-board   all tests over serial lines, and all examples with a boot for each test'
	@echo 'make test-labgrid  a board whose lines and power labgrid knows'
	@echo 'make test-faults-random  QEMU or gdb killed 200 times, and what a guest does to its lines; half an hour'
	@echo 'make fuzz         readers of what others wrote, given anything; half an hour'
	@echo 'make stress       hundreds of boots, stops and restores'
	@echo 'make bench        each figure of the budget next to its counterpart; about half an hour'
	@echo 'make coverage     how much of the package the unit and fault tests reach, and a floor for it'
	@echo 'make test-pythons  unit tests on Python 3.10, 3.12 and 3.13, as far as they are there'
	@echo 'make test-oldest  unit tests with the oldest versions that pyproject.toml allows: pytest 7.4'
	@echo 'make test-package  wheel and sdist, built and installed into a fresh environment'
	@echo 'make lint         ruff and mypy'
	@echo 'make docs         the pages, and an API reference from the docstrings, as a site in site/'
	@echo 'make diagram      draw docs/images/architecture.svg'
	@echo 'make dist         build the wheel and the sdist, in dist/'
	@echo 'make clean        remove the virtual environment, but not the cache'

.PHONY: deps
deps:
	$(call install,$(PACKAGES))

$(BIN)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q -e '.[dev]'
	@touch $@

.PHONY: ready
ready: deps $(BIN)/.installed
	@# With PYTHONDONTWRITEBYTECODE set, each start would otherwise compile the plugin again.
	@$(BIN)/python -m compileall -q pytest_kgdb

.PHONY: example
example: ready
	$(PYTEST) --kgdb-kernel=distro:6.1 --kgdb-require example_suite

# Tests compare values that equal numbers by themselves, and call what returns nothing in a lambda.
MYPY_TESTS := --no-strict-equality --disable-error-code=func-returns-value tests/unit

.PHONY: lint
lint: ready
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/python -m mypy $(MYPY_TESTS)

# A Debian as the guest; QEMU chooses a free port.
DEBIAN := --kgdb-disk=debian --kgdb-forward=tcp:0:22

.PHONY: unit
unit: ready
	$(PYTEST) $(WORKERS) tests/unit

.PHONY: check
check: lint unit

# The unit tests on the other Pythons that are on PATH, or are pyenv's.
PYTHONS ?= 3.10 3.12 3.13
.PHONY: test-pythons
test-pythons:
	@for version in $(PYTHONS); do \
	  python=$$(command -v python$$version || \
	    ls -d $${PYENV_ROOT:-$$HOME/.pyenv}/versions/$$version.*/bin/python 2>/dev/null | tail -n 1); \
	  if [ -z "$$python" ]; then echo "NOT TESTED: there is no python$$version"; missing=1; continue; fi; \
	  $(MAKE) unit PYTHON=$$python VENV=.venv-$$version || exit 1; \
	done; exit $${missing:-0}

# Of the package, by the unit and the fault tests; the floor, in percent, is what there is. A quarter
# of an hour.
FLOOR := 87
.PHONY: coverage
coverage: ready
	rm -f .coverage .coverage.*
	$(PYTEST) $(WORKERS) --cov --cov-report= tests/unit
	$(PYTEST) $(WORKERS) --cov --cov-append --cov-fail-under=$(FLOOR) \
	  --kgdb-kernel=distro:6.1 --kgdb-require tests/faults --ignore=tests/faults/slow

.PHONY: test
test: check
	$(PYTEST) --kgdb-kernel=distro:6.1 $(DEBIAN) --kgdb-require \
	  tests/debian example_suite/debian --ignore=tests/debian/slow
	$(PYTEST) $(WORKERS) --kgdb-kernel=distro:6.1 --kgdb-require \
	  -m 'not slow' tests/faults tests/kernel example_suite --ignore=tests/faults/slow
	$(PYTEST) --kgdb-kernel=distro:6.1 --kgdb-require -m short tests/board

# Those that take five seconds or more each: whole commands, builds, machines that are killed.
.PHONY: test-slow
test-slow: ready
	$(PYTEST) $(WORKERS) --kgdb-kernel=distro:6.1 --kgdb-require \
	  -m slow tests/faults tests/kernel --ignore=tests/faults/slow

# In an environment of its own: labgrid brings another pyserial.
.PHONY: test-labgrid
test-labgrid: deps
	$(MAKE) test-labgrid-inside VENV=.venv-labgrid

.PHONY: test-labgrid-inside
test-labgrid-inside: ready
	$(BIN)/python -m pip install -q -e '.[labgrid]'
	$(PYTEST) --kgdb-kernel=distro:6.1 --kgdb-require tests/board/with_labgrid

.PHONY: test-matrix
test-matrix: ready
	$(call install,$(MATRIX_PACKAGES))
	$(PYTEST) --kgdb-kernel=distro:6.1 --kgdb-kernel=distro:6.12 --kgdb-require \
	  tests/kernel example_suite
	$(PYTEST) --kgdb-kernel=distro:6.12 $(DEBIAN) --kgdb-require \
	  tests/debian example_suite/debian --ignore=tests/debian/slow

# A Debian 13 with its own QEMU, gdb, Python, busybox and gcc; 1 GB, and once 10 minutes to install it
# and to build its kernel.
TRIXIE ?= $(HOME)/.cache/pytest-kgdb-trixie
.PHONY: test-trixie
test-trixie: ready
	$(BIN)/python tests/trixie/chroot.py $(TRIXIE) make test-trixie-inside VENV=/root/venv

# In it; there is no `deps`, for all packages are installed.
.PHONY: test-trixie-inside
test-trixie-inside: $(BIN)/.installed
	$(PYTEST) $(WORKERS) --kgdb-kernel=distro:6.12 --kgdb-require $(ARGS) $(or $(TESTS),tests/kernel example_suite)

# Downloads 450 MB, once.
.PHONY: test-shipped
test-shipped: ready
	$(PYTEST) --kgdb-kernel=package:linux-image-cloud-amd64 \
	  tests/shipped/test_shipped.py tests/kernel/test_qemu_stub.py example_suite
	$(PYTEST) --kgdb-kernel=package:linux-image-cloud-amd64 --kgdb-disk=debian \
	  --kgdb-memory=512 --kgdb-require tests/shipped/disk

# A kernel with bug detectors, which needs more memory: ten minutes to build, once, and a quarter of
# an hour for the tests, half of it for kmemleak's scans.
.PHONY: test-sanitized
test-sanitized: ready
	$(PYTEST) --kgdb-kernel=distro:6.1 --kgdb-fragment=tests/sanitized/sanitizers.config \
	  --kgdb-memory=512 --kgdb-require tests/sanitized

# Everything about Debian, including a browser: a quarter of an hour, plus, once, an hour and a half
# to build a kernel with Debian's own configuration.
.PHONY: test-debian
test-debian: ready
	$(call install,$(DEBIAN_PACKAGES))
	$(PYTEST) --kgdb-kernel=distro:6.1 $(DEBIAN) --kgdb-disk-package=firefox-esr --kgdb-require \
	  --durations=10 tests/debian example_suite/debian
	$(PYTEST) --kgdb-kernel=distro:6.1 --kgdb-config=distro --kgdb-initrd=initramfs-tools \
	  --kgdb-append='root=LABEL=debian rw' $(DEBIAN) --kgdb-require --durations=10 tests/debian/distro

# What is about kgdb itself is skipped (marker kgdb(stub="kgdb")), and named at the end.
.PHONY: test-doors
test-doors: ready
	$(PYTEST) $(WORKERS) --kgdb-kernel=distro:6.1 --kgdb-stub=qemu tests/kernel example_suite

# All tests of boards, and all examples on them, with a boot for each test: half an hour. The short
# tests are part of `make test`.
.PHONY: test-board
test-board: ready
	$(PYTEST) --kgdb-kernel=distro:6.1 --kgdb-require --durations=10 tests/board

# pip takes the newest versions of everything, uv can take the oldest.
OLDEST := .venv-oldest

.PHONY: test-oldest
test-oldest: deps
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install -q uv
	$(OLDEST)/bin/uv pip install -q --python $(OLDEST)/bin/python --resolution lowest-direct -e '.[test]'
	$(OLDEST)/bin/python -m pytest tests/unit

.PHONY: test-faults-random
test-faults-random: ready
	$(PYTEST) --kgdb-kernel=distro:6.1 --kgdb-require tests/faults/slow

.PHONY: fuzz
fuzz: ready
	$(PYTEST) --hypothesis-profile=long tests/unit/test_fuzz.py
	$(BIN)/python -m pip install -q -e '.[fuzz]'
	$(BIN)/python tests/unit/guided_fuzz.py --seconds=$(or $(SECONDS),120)

# Downloads what the package declares.
.PHONY: test-package
test-package: ready
	$(PYTEST) --kgdb-kernel=distro:6.1 --kgdb-require tests/package

# A link that leads nowhere is an error.
.PHONY: docs
docs: ready
	$(BIN)/python -m pip install -q -e '.[docs]'
	$(BIN)/python tools/pages.py build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

.PHONY: diagram
diagram:
	$(PYTHON) tools/diagram.py docs/images/architecture.svg

.PHONY: dist
dist: ready
	rm -rf dist
	$(BIN)/python -m build

.PHONY: stress
stress: ready
	$(PYTEST) --kgdb-kernel=distro:6.1 --kgdb-require tests/stress

# BENCH passes options, such as --only='stops-*' or --skip='build-*': make bench BENCH=…
.PHONY: bench
bench: ready
	$(BIN)/python -m tests.bench --json=bench.json $(BENCH)

.PHONY: clean
clean:
	rm -rf $(VENV) $(OLDEST)
