#!/bin/sh
# Fetches Keycloak, the identity provider that tests start, into the user's cache, and prints its path; does nothing when it is there.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
version=26.4.0
sha256=1b6a11a2726ac8a8dc9c91d5fafe989a75ce4f1622d7f7b45c21d5bc16629c0a
copy=org.apache.maven.plugins:maven-dependency-plugin:3.7.0:copy
cache=${XDG_CACHE_HOME:-$HOME/.cache}/aureus/keycloak-$version

command -v java >/dev/null || "$here/debian.sh" default-jre-headless >&2
if ! [ -d "$cache" ]; then
    command -v mvn >/dev/null || "$here/debian.sh" maven >&2
    mkdir -p "${cache%/*}"
    fetched=$(mktemp -d "$cache.XXXXXX")
    trap 'rm -rf "$fetched"' EXIT
    echo "Fetching Keycloak ..." >&2
    mvn --batch-mode --quiet "$copy" -Dartifact="org.keycloak:keycloak-quarkus-dist:$version:zip" -DoutputDirectory="$fetched" >&2
    zip=$fetched/keycloak-quarkus-dist-$version.zip
    echo "$sha256  $zip" | sha256sum --check --quiet >&2
    python3 -m zipfile --extract "$zip" "$fetched"
    chmod u+x "$fetched/keycloak-$version/bin/kc.sh"
    # Once and here, so that no start has to: in memory, for nothing it learns is to be kept.
    "$fetched/keycloak-$version/bin/kc.sh" build --db=dev-mem >&2
    mv -T "$fetched/keycloak-$version" "$cache" || [ -d "$cache" ] # somebody else was quicker
fi
echo "$cache"
