#!/bin/sh
# Prints the path of a Go that builds today's servers; where Debian's is too old, a newer one comes as the module Go publishes itself as.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
newer=v0.0.1-go1.26.8.linux-$(dpkg --print-architecture)

go=$(command -v go || echo /usr/local/go/bin/go)
if ! [ -x "$go" ]; then
    "$here/debian.sh" golang >&2
    go=$(command -v go)
fi
if [ -z "$("$go" env GOTOOLCHAIN)" ]; then # before 1.21, Go does not fetch the version that a program asks for by itself
    cd / # a go.mod here would have a say
    "$go" mod download "golang.org/toolchain@$newer" >&2
    root=$("$go" env GOMODCACHE)/golang.org/toolchain@$newer
    chmod +x "$root"/bin/* "$root"/pkg/tool/*/*
    go=$root/bin/go
fi
echo "$go"
