#!/bin/bash
# Runs a command against a fresh PostgreSQL of Debian's (15 or newer), over TLS and with a password, and removes it after.
set -euo pipefail
here=$(dirname "$0")
newest() { find /usr/lib/postgresql -path '*/bin/initdb' 2>/dev/null | sort -V | tail -1; }

[ -n "$(newest)" ] || "$here/debian.sh" postgresql
command -v openssl >/dev/null || "$here/debian.sh" openssl
bin=$(dirname "$(newest)")

home=$(mktemp -d)
as_owner=()
if [ "$(id -u)" -eq 0 ]; then # PostgreSQL refuses to run as root
    chown postgres "$home"
    as_owner=(runuser -u postgres --)
fi
stop() {
    "${as_owner[@]}" "$bin/pg_ctl" --pgdata "$home/data" --mode immediate --silent stop || true
    rm -rf "$home"
}
trap stop EXIT

password=$(openssl rand -hex 16)
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cd "$home" && "${as_owner[@]}" bash -euo pipefail -s -- "$bin" "$home" "$password" "$port" <<'SERVER'
bin=$1 home=$2 password=$3 port=$4
echo "$password" >"$home/password"
"$bin/initdb" --pgdata "$home/data" --username aureus --pwfile "$home/password" --auth scram-sha-256 --encoding UTF8 --locale C.UTF-8 >/dev/null
openssl req -new -x509 -days 2 -nodes -subj /CN=localhost -keyout "$home/data/server.key" -out "$home/data/server.crt" 2>/dev/null
chmod 600 "$home/data/server.key"
sed -i 's/^host /hostssl /' "$home/data/pg_hba.conf"
"$bin/pg_ctl" --pgdata "$home/data" --log "$home/log" --wait --silent start \
    --options "-p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories=$home -c ssl=on" || { cat "$home/log" >&2; exit 1; }
SERVER
cd - >/dev/null

echo "PostgreSQL $("$bin/postgres" --version | awk '{print $3}') listens on port $port"
TEST_DATABASE_URL="postgresql://aureus:$password@127.0.0.1:$port/postgres?sslmode=require" "$@"
