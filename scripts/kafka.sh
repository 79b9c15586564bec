#!/bin/sh
# Fetches Apache Kafka, the broker that tests and `make kafka` start, into the user's cache, and prints its path; does nothing when it is there.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
version=4.3.0
copy=org.apache.maven.plugins:maven-dependency-plugin:3.7.0:copy-dependencies
cache=${XDG_CACHE_HOME:-$HOME/.cache}/aureus/kafka-$version

command -v java >/dev/null || "$here/debian.sh" default-jre-headless >&2
if ! [ -d "$cache/libs" ]; then
    command -v mvn >/dev/null || "$here/debian.sh" maven >&2
    mkdir -p "$cache"
    fetched=$(mktemp -d "$cache/fetched.XXXXXX")
    trap 'rm -rf "$fetched"' EXIT
    echo "Fetching Kafka ..." >&2
    mvn --batch-mode --quiet --file "$here/kafka/pom.xml" "$copy" -DoutputDirectory="$fetched/libs" -DincludeScope=runtime >&2
    if ! (cd "$fetched/libs" && LC_ALL=C sha256sum -- *.jar) | diff "$here/kafka/libs.sha256" - >&2; then
        echo "What was fetched is not what scripts/kafka/libs.sha256 says: it is not used." >&2
        exit 1
    fi
    mv -T "$fetched/libs" "$cache/libs" || [ -d "$cache/libs" ] # somebody else was quicker
fi
echo "$cache/libs"
