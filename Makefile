# Everything here may be repeated and is quick the second time.
PYTHON := .venv/bin/python
SPHINX := .venv/bin/sphinx-build
DATABASES := --extra postgresql --extra mariadb

# Only "test" does two things at a time, and knows which.
ifeq ($(MAKELEVEL),0)
.NOTPARALLEL:
endif
.PHONY: help packages setup setup-openstack setup-tempest demo check test pytest test-nfs test-tempest soak crash lint audit bench docs lock

help:
	@echo "make demo   show the main job on a real guest (installs what it needs)"
	@echo "make check  lint and the unit tests, in under three minutes: what one runs before each commit"
	@echo "make test   run every check and test (installs what it needs)"
	@echo "make pytest the same without installing Keystone and Glance beforehand: the tests that need them do it"
	@echo "make test-nfs  the whole driver suite on a real NFS mount, in a small machine: about half an hour"
	@echo "make test-tempest  Tempest, unmodified, against a real Keystone and Glance; writes docs/reference/tempest.md: ten minutes"
	@echo "make soak   100 sets over all kinds of volumes, then a random life, kills included, of 5,000 operations: hours"
	@echo "make crash  a kill at every step of every operation, those included that only look: about an hour"
	@echo "make setup  only install: system packages and .venv (setup-openstack: Keystone and Glance for the tests)"
	@echo "make lint   ruff, mypy, import-linter and the repository's own rules"
	@echo "make audit  look the pinned packages up in the registry's advisories"
	@echo "make bench  measure against virsh and qemu-img, side by side; writes docs/reference/bench*.md"
	@echo "make docs   build the documentation into docs/_build"
	@echo "make lock   pin the requirements anew (needs uv on the PATH)"

packages:
	@deploy/packages

setup: packages
	@deploy/setup

setup-openstack: packages
	@deploy/setup-openstack

setup-tempest: packages
	@deploy/setup-tempest

demo: setup
	@$(PYTHON) -m tests.demo

lint: setup
	.venv/bin/ruff format --check src tests docs
	.venv/bin/ruff check src tests docs
	.venv/bin/mypy
	.venv/bin/lint-imports --no-logo
	$(PYTHON) -m tests.repository

audit:
	@deploy/audit

# Keystone and Glance are installed beside the first tests; those that start them wait.
test:
	@$(MAKE) --no-print-directory -j 2 pytest setup-openstack

# "lint" and "docs" are among the tests. Many of them wait for a guest, so four files at a time keep two cores busy; the long
# ones come first.
pytest: setup
	$(PYTHON) -m pytest -n 4 --dist loadfile --no-loadscope-reorder --durations=25

# Of the unit tests two at a time: they compute and wait for nobody.
check: lint
	$(PYTHON) -m pytest tests/unit -n 2 -q

# The long forms of campaigns that "test" runs in short; STILLFRAME_SEED and STILLFRAME_ROUNDS say which, and how long.
soak: setup
	STILLFRAME_ROUNDS=$${STILLFRAME_ROUNDS:-100} $(PYTHON) -m pytest tests/crash/test_mixed_sets.py -s
	STILLFRAME_ROUNDS=$${STILLFRAME_ROUNDS:-5000} $(PYTHON) -m pytest tests/crash/test_soak.py -s

crash: setup
	STILLFRAME_EVERY_PLACE=1 $(PYTHON) -m pytest tests/crash -n 2 --dist loadfile

test-nfs: setup
	$(PYTHON) -m tests.support.nfs_vm

test-tempest: setup setup-openstack setup-tempest
	$(PYTHON) -m tests.tempest

bench: setup
	$(PYTHON) -m tests.bench

docs: setup
	$(SPHINX) -q -W --keep-going -b html docs docs/_build

lock:
	uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-header --no-annotate --python-version 3.11 \
	    pyproject.toml --extra server --extra libvirt --extra osc --extra client --extra s3 $(DATABASES) -o requirements/run.txt
	uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-header --no-annotate --python-version 3.11 \
	    pyproject.toml --extra osc --extra client -c requirements/run.txt -o requirements/client.txt
	uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-header --no-annotate --python-version 3.11 \
	    pyproject.toml --extra server --extra libvirt --extra osc --extra client --extra s3 $(DATABASES) --group dev -o requirements/dev.txt
	uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-header --no-annotate --python-version 3.11 \
	    requirements/openstack.in -o requirements/openstack.txt
	uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-header --no-annotate --python-version 3.11 \
	    requirements/audit.in -o requirements/audit.txt
	uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-header --no-annotate --python-version 3.11 \
	    requirements/tempest.in -o requirements/tempest.txt
