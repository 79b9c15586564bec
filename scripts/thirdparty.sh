#!/bin/sh
# Builds the program that checks a log with other people's libraries (tests/thirdparty), into the user's cache, and prints its path.
set -eu
cache=${XDG_CACHE_HOME:-$HOME/.cache}/aureus/bin

go=$("$(dirname "$0")/go.sh")
mkdir -p "$cache"
cd "$(dirname "$0")/../tests/thirdparty"
built=$(mktemp -d "$cache/thirdparty.XXXXXX")
trap 'rm -rf "$built"' EXIT
GOTOOLCHAIN=auto CGO_ENABLED=0 nice "$go" build -trimpath -buildvcs=false -ldflags='-s -w' -o "$built/thirdparty" . >&2
mv "$built/thirdparty" "$cache/thirdparty"
echo "$cache/thirdparty"
