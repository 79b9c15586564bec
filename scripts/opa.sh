#!/bin/sh
# Builds OPA, the policy server that the tests start, into the user's cache, and prints its path; does nothing when it is there.
set -eu
version=1.22.0
cache=${XDG_CACHE_HOME:-$HOME/.cache}/aureus/bin

if [ "$("$cache/opa" version 2>/dev/null | sed -n 's/^Version: //p')" != "$version" ]; then
    go=$("$(dirname "$0")/go.sh")
    mkdir -p "$cache"
    built=$(mktemp -d "$cache/opa.XXXXXX")
    trap 'rm -rf "$built"' EXIT
    echo "Building OPA ..." >&2
    GOBIN=$built GOTOOLCHAIN=auto CGO_ENABLED=0 nice "$go" install -trimpath -ldflags='-s -w' "github.com/open-policy-agent/opa@v$version" >&2
    mv "$built/opa" "$cache/opa"
fi
echo "$cache/opa"
