#!/bin/sh
# Puts everything Aureus needs into .venv, at the versions and hashes that requirements/ pins.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
bin=.venv/bin

"$python" -c 'import ensurepip, venv' 2>/dev/null || scripts/debian.sh python3 python3-venv
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "Aureus needs Python 3.11 or newer, and $python is $("$python" --version). Name another one: make PYTHON=python3.11" >&2
    exit 1
}

[ -x $bin/python ] && $bin/python -c 'import pip' 2>/dev/null || "$python" -m venv --clear .venv
echo "Installing into .venv ..."
$bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/tools.txt

# uv installs in seconds, but reads no pip configuration: where a machine can only be reached through one, pip does it.
export UV_SYSTEM_CERTS=true
if $bin/uv pip sync --quiet --python $bin/python --require-hashes --compile-bytecode requirements/tools.txt requirements/dev.txt; then
    $bin/uv pip install --quiet --python $bin/python --no-deps --no-build-isolation --editable .
else
    echo "uv could not install; pip takes over ..." >&2
    $bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
    $bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
fi
