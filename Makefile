# mailhooks. On a fresh Debian machine two commands do all set-up by themselves:
#
#   make demo          the main job on real servers; MAIL=path uses your own mail
#   make test          lint, unit, integration and end-to-end tests of the built wheel
#
# and of their parts:
#
#   make lint          ruff and mypy
#   make unit          tests of pure parts; integration: sockets; e2e: the whole way
#   make storm         two users move 2,000 messages each while a part is killed 50 times
#   make accuracy      how often each way of training is wrong, on real mail: CORPUS=path
#   make bench         how fast it is beside what people use today, in ten minutes: CORPUS=path
#   make matrix        the tests with real servers on Debian 12, 13 and 14, in fresh roots;
#                      RELEASES="12 13" for some of them, TESTS="setup core" for the main job
#   make deb           a Debian package of mailhooks for this release, in build;
#                      RELEASE=trixie for another one, built in a fresh root of it
#   make deb-test      install, use and remove it in a fresh Debian made for that, under
#                      systemd, OpenRC, runit and s6, with Redis and Valkey; RELEASE as above
#   make packages      only install the Debian packages that are missing
#   make clean         remove .venv and build
#
# Everything is kept in this folder and in temporary folders; Debian packages are
# installed only if they are missing, and their services are not started.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What pymilter is compiled with; and the servers, with Valkey if a host has that for Redis.
BUILD_PACKAGES := libmilter-dev gcc libc6-dev python3-dev python3-venv
REDIS := $(if $(wildcard /usr/bin/redis-server),redis,$(if $(wildcard \
	/usr/bin/valkey-server),valkey,redis))
PACKAGES := postfix postfix-sqlite dovecot-imapd dovecot-lmtpd dovecot-sieve dovecot-sqlite \
	rspamd $(REDIS)-server $(REDIS)-tools openssl $(BUILD_PACKAGES)
# What only tests need: databases, foreign programs to speak to, systemd's own
# judgement of our units, what shows manual pages, and fresh Debians.
TEST_PACKAGES := postgresql mariadb-server swaks miltertest systemd man-db mandoc debootstrap
# What a fresh Debian gets for the tests.
ROOT_PACKAGES := $(patsubst valkey-%,redis-%,$(filter-out debootstrap,$(PACKAGES) \
	$(TEST_PACKAGES))) iproute2 procps
SUDO := $(shell test "$$(id -u)" = 0 || echo sudo)
SOURCES := $(shell find src sieve -type f -not -name '*.pyc') pyproject.toml README.md \
	tools/manpages.py tools/build_man.py $(wildcard docs/*.md)

.DEFAULT_GOAL := help

.PHONY: help demo test lint unit integration e2e storm accuracy bench matrix deb deb-test packages \
	test-packages build-packages clean

help:
	@awk '!/^#/ { exit } { sub(/^# ?/, ""); print }' Makefile

# MAIL counts on make's command line only: login shells set it to /var/mail/$$USER.
ifeq ($(origin MAIL),command line)
DEMO_MAIL := --mail "$(MAIL)"
endif
demo: packages $(VENV)/.wheel
	$(SUDO) $(BIN)/mailhooks lab demo $(DEMO_MAIL)

# Two at once: much of the time is waiting for servers. The tests of a file share one
# lab, and the files that take longest come first.
test: test-packages lint
	$(SUDO) $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: packages $(VENV)/.wheel $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit integration e2e: test-packages $(VENV)/.wheel $(VENV)/.dev
	$(SUDO) $(BIN)/python -m pytest tests/$@

storm: packages $(VENV)/.wheel $(VENV)/.dev
	$(SUDO) $(BIN)/python -m pytest tests/storm -o log_cli=true -o log_cli_level=INFO

# Prints figures and keeps them in build/; DOCS=docs renews the published ones, too.
accuracy: packages $(VENV)/.wheel $(VENV)/.dev
	$(SUDO) env PYTHONPATH=tests/support $(if $(CORPUS),CORPUS="$(CORPUS)") $(BIN)/python \
	    -m accuracy $(if $(SEED),--seed $(SEED)) $(if $(DOCS),--docs "$(DOCS)")

# Prints figures and keeps them in build/; DOCS=docs renews the published table and plot, too.
bench: packages $(VENV)/.wheel $(VENV)/.dev
	$(SUDO) env PYTHONPATH=tests:tests/support $(if $(CORPUS),CORPUS="$(CORPUS)") $(BIN)/python \
	    -m bench $(if $(DOCS),--docs "$(DOCS)")

# Made in build/roots the first time, and kept there. Results: build/matrix.json.
matrix: test-packages $(VENV)/.wheel $(VENV)/.dev
	$(SUDO) env PYTHONPATH=tests:tests/support $(if $(CORPUS),CORPUS="$(CORPUS)") \
	    $(if $(MIRROR),MIRROR="$(MIRROR)") $(BIN)/python -m matrix build/wheel/*.whl \
	    --packages "$(ROOT_PACKAGES)" $(if $(RELEASES),--releases "$(RELEASES)") \
	    $(if $(TESTS),--tests "$(TESTS)")

# With Debian's own Python, which is what the package will run with. What is for another
# release is built there, by root, in a folder of its own.
DEB := build/deb$(addprefix /,$(RELEASE))
deb: $(DEB)/.built

$(DEB)/.built: $(VENV)/.wheel tools/build-deb tools/lintian-overrides CHANGELOG.md \
		$(shell find docs contrib -type f) $(if $(RELEASE),| build-packages)
	$(if $(RELEASE),$(SUDO)) rm -rf $(DEB)
	$(if $(RELEASE),$(SUDO)) tools/build-deb build/wheel/*.whl $(DEB) $(RELEASE)
	$(if $(RELEASE),$(SUDO)) touch $@

deb-test: PACKAGES += lintian
deb-test: deb test-packages
	lintian --allow-root --fail-on error,warning $(DEB)/*.deb
	$(SUDO) $(if $(RELEASE),RELEASE=$(RELEASE)) tools/test-deb $(DEB)/*.deb

# Debian starts what it installs; here only the lab shall run, so nothing is
# started now, and a new Postfix gets no configuration of its own.
test-packages: PACKAGES += $(TEST_PACKAGES)
build-packages: PACKAGES := $(BUILD_PACKAGES) $(if $(RELEASE),debootstrap)
packages test-packages build-packages:
	@missing=; for package in $(PACKAGES); do \
	    dpkg-query -W -f '$${Status}' $$package 2>/dev/null | grep -q 'ok installed' \
	        || missing="$$missing $$package"; \
	done; \
	if [ -n "$$missing" ]; then $(SUDO) sh tools/install-packages $$missing; fi

$(BIN)/python: | build-packages
	$(PYTHON) -m venv $(VENV)

# The wheel itself is what the demo and the tests run, never the source tree. Its manual
# pages are made of the commands' help, so what these import is there before it is built.
$(VENV)/.wheel: $(SOURCES) | $(BIN)/python
	rm -rf build/wheel
	$(BIN)/python -m pip install -q --use-pep517 --disable-pip-version-check $$($(BIN)/python -c \
	    'import tomllib; p = tomllib.load(open("pyproject.toml", "rb")); print(*p["build-system"]["requires"], *p["project"]["dependencies"])')
	$(BIN)/python -m pip wheel -q --disable-pip-version-check --no-deps --no-build-isolation \
	    -w build/wheel .
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --force-reinstall \
	    build/wheel/*.whl
	touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -q --disable-pip-version-check $$($(BIN)/python -c \
	    'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["dev"])')
	touch $@

clean:
	$(SUDO) rm -rf $(VENV) build
