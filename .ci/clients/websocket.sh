#!/usr/bin/env bash
# Checks the example websocket with frames made by hand and with the Python library websockets, with and without TLS,
# and its stop. Its argument is the program.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
server=$1
work=$(mktemp -d)
pids=()
clean_up() {
  local status=$?
  for pid in "${pids[@]}"; do kill -KILL "$pid" 2>/dev/null || true; done
  ((status == 0)) || tail -n 20 "$work"/*.err >&2 || true
  rm -rf "$work"
}
trap clean_up EXIT

die() {
  echo "websocket.sh: $*" >&2
  exit 1
}

# Starts a server and waits for its address: `start NAME ARGUMENT...`; sets PID and ADDRESS.
start() {
  local name=$1
  shift
  : >"$work/$name.out"
  "$server" --listen 127.0.0.1:0 "$@" >"$work/$name.out" 2>"$work/$name.err" </dev/null &
  PID=$!
  pids+=("$PID")
  for _ in $(seq 200); do
    ! grep -q '^try: ' "$work/$name.out" || break
    sleep 0.05
  done
  ADDRESS=$(sed -n 's/^listening on //p' "$work/$name.out")
  [[ -n $ADDRESS ]] || die "the server $name did not print its address"
}

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost -days 2 \
  -addext subjectAltName=DNS:localhost -keyout "$work/key.pem" -out "$work/cert.pem" 2>/dev/null

start plain --threads 2
timeout 60 "$here/websocket.py" "${ADDRESS%:*}" "${ADDRESS##*:}" --pid "$PID"
timeout 60 "$here/websocket_library.py" "ws://$ADDRESS/"
timeout 60 "$here/websocket_library.py" "ws://$ADDRESS/" --await-stop "$PID"
wait "$PID" || die "the server ended with status $? after SIGTERM"

start tls --threads 2 --tls "$work/cert.pem" "$work/key.pem" --max-message 300000
url=wss://localhost:${ADDRESS##*:}/
timeout 60 "$here/websocket_library.py" "$url" --ca "$work/cert.pem" --maximum 300000
timeout 60 "$here/websocket_library.py" "$url" --ca "$work/cert.pem" --await-stop "$PID"
wait "$PID" || die "the server with TLS ended with status $? after SIGTERM"

timeout 100 "$here/reload.py" "$server" --listen 127.0.0.1:0 --threads 2 --tls CERT KEY

! "$server" --tls "$work/cert.pem" 2>/dev/null || die "a certificate without a key was accepted"
[[ $("$server" --help) == usage:* ]] || die "no usage"
for name in plain tls; do
  ! grep -q panicked "$work/$name.err" || die "a panic in the server $name"
done
echo "websocket: ok"
