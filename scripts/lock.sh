#!/bin/sh
# Pins requirements/*.in into *.txt with hashes; keeps what is pinned unless told otherwise: make lock ARGS=--upgrade
set -eu
cd "$(dirname "$0")/.."
export UV_SYSTEM_CERTS=true UV_CUSTOM_COMPILE_COMMAND="make lock"

pin() {
    .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate "$@"
}

pin "$@" requirements/tools.in -o requirements/tools.txt
pin "$@" requirements/run.in -o requirements/run.txt
pin "$@" -c requirements/run.txt requirements/dev.in -o requirements/dev.txt
