#!/bin/sh
# Installs the named Debian packages when root runs it, and otherwise prints the one line to run.
set -eu
if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    echo "Installing Debian packages: $*"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update
    apt-get -qq install --yes --no-install-recommends "$@" >/dev/null
else
    echo "Missing on this machine: $*. Run this, then make again:  sudo apt-get install --yes $*" >&2
    exit 1
fi
