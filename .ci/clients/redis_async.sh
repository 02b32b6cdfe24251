#!/usr/bin/env bash
# Checks the example redis_async with the server of Redis: its results, its timeout, and its errors. Its argument is the
# program.
set -euo pipefail
client=$1
work=$(mktemp -d)
pids=()
clean_up() {
  local status=$?
  for pid in "${pids[@]}"; do kill -KILL "$pid" 2>/dev/null || true; done
  ((status == 0)) || tail -n 20 "$work"/* >&2 || true
  rm -rf "$work"
}
trap clean_up EXIT

die() {
  echo "redis_async.sh: $*" >&2
  exit 1
}

# Requires a status, and one line on stderr unless it is 0: `returns STATUS ARGUMENT...`. The output is in $work/client.
returns() {
  local status=0
  timeout 30 "$client" "${@:2}" >"$work/client" 2>"$work/client.err" </dev/null || status=$?
  ((status == $1)) || die "status $status instead of $1 with ${*:2}: $(cat "$work/client.err")"
  ((status != 1)) || [[ $(wc -l <"$work/client.err") == 1 ]] || die "an error of several lines: $(cat "$work/client.err")"
}

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
returns 1 "127.0.0.1:$port" # nothing listens
returns 2
returns 2 --tasks 0 "127.0.0.1:$port"
returns 2 "127.0.0.1:$port" --requests 5
grep -qF "options stand before \`127.0.0.1:$port\`: \`--requests\`" "$work/client.err" || die "$(cat "$work/client.err")"

redis-server --port "$port" --bind 127.0.0.1 --dir "$work" --save "" --appendonly no >"$work/redis" 2>&1 </dev/null &
redis=$!
pids+=("$redis")
for _ in $(seq 200); do
  [[ $(timeout 5 redis-cli -p "$port" PING 2>/dev/null) != PONG ]] || break
  sleep 0.05
done
returns 0 --tasks 50 --requests 200 "localhost:$port"
diff "$work/client" - <<'END' || die "wrong results"
a pipeline: INCRBY returned 15, GET returned "15"
50 tasks with 200 requests each: the count is 10015
BLPOP: nothing within 100ms
1 key removed
END
[[ -z $(redis-cli -p "$port" KEYS '*') ]] || die "keys remain"

# A server that does not reply, one that ends, and one of another protocol.
redis-cli -p "$port" CLIENT PAUSE 5000 >/dev/null
returns 1 --timeout 1 "127.0.0.1:$port"
redis-cli -p "$port" CLIENT UNPAUSE >/dev/null
timeout 30 "$client" --tasks 1 --requests 100000000 "127.0.0.1:$port" >"$work/client" 2>"$work/client.err" </dev/null &
waiting=$!
for _ in $(seq 200); do
  [[ ! -s $work/client ]] || break
  sleep 0.05
done
kill -KILL "$redis"
status=0
wait "$waiting" || status=$?
((status == 1)) || die "status $status after the end of the server"
! grep -q panicked "$work/client.err" || die "a panic: $(cat "$work/client.err")"
wait "$redis" 2>/dev/null || true
(echo garbage | timeout 10 nc -l 127.0.0.1 "$port" >"$work/nc" || true) &
for _ in $(seq 200); do
  ! python3 -c "import sys; sys.exit(':%04X ' % $port not in open('/proc/net/tcp').read())" || break
  sleep 0.05
done
returns 1 --timeout 2 "127.0.0.1:$port"
echo "redis_async: ok"
