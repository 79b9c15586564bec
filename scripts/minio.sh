#!/bin/sh
# Builds MinIO, the S3 server that the tests start, into the user's cache, and prints its path; does nothing when it is there.
set -eu
version=v0.0.0-20260212201848-7aac2a2c5b7c
cache=${XDG_CACHE_HOME:-$HOME/.cache}/aureus/bin

if ! grep -qsF "$version" "$cache/minio"; then # a Go program names the versions it was built from
    go=$("$(dirname "$0")/go.sh")
    mkdir -p "$cache"
    built=$(mktemp -d "$cache/minio.XXXXXX")
    trap 'rm -rf "$built"' EXIT
    echo "Building MinIO ..." >&2
    GOBIN=$built GOTOOLCHAIN=auto CGO_ENABLED=0 nice "$go" install -trimpath -ldflags='-s -w' "github.com/minio/minio@$version" >&2
    mv "$built/minio" "$cache/minio"
fi
echo "$cache/minio"
