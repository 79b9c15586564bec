#!/bin/sh
# Runs one Kafka broker on 127.0.0.1 until it is ended; its topics outlive it. Arguments are settings of Kafka, as name=value.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
libs=$("$here/kafka.sh")
home=${AUREUS_HOME:-$HOME/.aureus}/kafka
port=${AUREUS_KAFKA_PORT:-9092}
controller=${AUREUS_KAFKA_CONTROLLER_PORT:-$((port + 1))}

mkdir -p "$home/tmp"
{
    cat "$here/kafka/server.properties"
    echo "listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller"
    echo "controller.quorum.bootstrap.servers=127.0.0.1:$controller"
    echo "log.dirs=$home/data"
    [ $# -eq 0 ] || printf '%s\n' "$@" # of two that set the same, Kafka takes the last
} >"$home/server.properties"

kafka() { # CLASS ARGUMENT...
    exec java -Xmx384m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:-UsePerfData -Djava.io.tmpdir="$home/tmp" -Dlog4j2.level=WARN \
        -cp "$libs/*" "$@"
}
if ! [ -e "$home/data/meta.properties" ]; then
    (kafka kafka.tools.StorageTool format --standalone --cluster-id aureus --config "$home/server.properties" >/dev/null)
fi
echo "Kafka listens on 127.0.0.1:$port; its data lies in $home. Ctrl-C ends it."
kafka kafka.Kafka "$home/server.properties"
