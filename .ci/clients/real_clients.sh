#!/usr/bin/env bash
# Checks the examples with independent clients and servers: nc, ncat, socat, the programs of Redis, systemd-socket-activate,
# OpenSSL, curl, nginx, stunnel, testssl.sh, and Python scripts.
#
# usage: real_clients.sh [DIRECTORY [CHECK...]]
#   DIRECTORY  the directory of the built examples; default: target/release/examples
#   CHECK      the names of the checks to run; default: all
#
# Needs nc (that of OpenBSD), ncat, socat, python3, redis-cli, redis-benchmark, redis-server, systemd-socket-activate,
# openssl, curl, nginx with its stream module, stunnel4, testssl and prlimit. Uses strace if it is allowed to attach. Uses only the loopback interface, with ports that the kernel selects.
# Every client runs under a time limit. At the end the script kills all processes that it has started, by id.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
examples=${1:-${CARGO_TARGET_DIR:-$here/../../target}/release/examples}
shift || true

readonly BLOB_BYTES=$((64 << 20))
readonly MANY=5000
readonly CONCURRENT=1000
readonly THREAD_COUNTS=(1 4)

work=$(mktemp -d)
current_check=setup
servers_started=0
declare -A log_of=() # process id of each server that may still run -> path of its log files
background=()        # process ids of clients that may still run
within=()            # a command that starts the next server

# --- Processes ------------------------------------------------------------------------------------

clean_up() {
  local status=$? pid
  trap - EXIT
  for pid in "${background[@]}"; do
    kill -TERM "$pid" 2>/dev/null || true
  done
  for pid in "${!log_of[@]}"; do
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
  if ((status != 0)); then
    for pid in "${!log_of[@]}"; do
      echo "the last output of the server:" >&2
      tail -q -n 20 "${log_of[$pid]}.out" "${log_of[$pid]}.err" >&2 || true
    done
    echo "FAILED: $current_check" >&2
  fi
  rm -rf "$work"
  exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

die() {
  echo "$current_check: $*" >&2
  exit 1
}

# Runs a client with a time limit: `bounded SECONDS COMMAND...`.
# It runs in the foreground, so that a signal to this script's process group also ends the client.
bounded() {
  timeout --foreground --kill-after=5 "$@"
}

# Starts a client in the background, with a time limit of 60 seconds.
in_background() {
  timeout --kill-after=5 60 "$@" </dev/null &
  background+=("$!")
}

# Waits for all clients in the background. Fails if one of them has failed.
await_background() {
  local pid
  for pid in "${background[@]}"; do
    wait "$pid" || die "a client in the background failed"
  done
  background=()
}

# Starts a server and waits until it prints its address: `start EXAMPLE ARGUMENT...`.
# Sets SERVER (its process id), HOST and PORT.
start() {
  launch "$@"
  await_address listening
}

# Starts an example in the background: `launch EXAMPLE ARGUMENT...`; sets SERVER.
launch() {
  local program=$1 log
  shift
  servers_started=$((servers_started + 1))
  log=$work/server.$servers_started
  : >"$log.out"
  # A shell makes background processes ignore SIGINT. One check sends this signal, so its default is restored.
  env --default-signal=INT "${within[@]}" "$examples/$program" "$@" >"$log.out" 2>"$log.err" </dev/null &
  SERVER=$!
  log_of[$SERVER]=$log
}

# Waits for the line `WHAT on ADDRESS` of the server just started; sets HOST and PORT.
await_address() {
  local log=${log_of[$SERVER]} address tries
  for ((tries = 0; tries < 200; tries++)); do
    address=$(sed -n "/\b$1 on / { s/^.*\b$1 on \([^ ]*:[0-9]*\).*$/\1/p; q }" "$log.out")
    if [[ -n $address ]]; then
      PORT=${address##*:}
      HOST=${address%:*}
      HOST=${HOST#[}
      HOST=${HOST%]}
      return
    fi
    kill -0 "$SERVER" 2>/dev/null || die "the server ended without the line: $1 on ..."
    sleep 0.05
  done
  die "the server did not print within 10 seconds: $1 on ..."
}

# Waits for a server to end: `await_exit PID SECONDS`; sets STATUS.
await_exit() {
  bounded "$2" tail --pid="$1" --sleep-interval=0.05 -f /dev/null ||
    die "the server did not end within $2 seconds"
  STATUS=0
  wait "$1" || STATUS=$?
}

# Stops a server by a signal and requires an orderly end: `stop PID [SIGNAL]`. Sets TOTALS.
stop() {
  local pid=$1 signal=${2:-TERM}
  kill -s "$signal" "$pid" || die "the server ended before SIG$signal"
  await_orderly_end "$pid" 10
}

# Requires exit status 0 in time, one line of totals, and no panic: `await_orderly_end PID SECONDS`.
# Sets TOTALS.
await_orderly_end() {
  local pid=$1 log=${log_of[$1]}
  await_exit "$pid" "$2"
  ((STATUS == 0)) || die "the server ended with status $STATUS"
  if grep -q 'panicked at' "$log.err"; then
    die "a panic in the server: $(grep -m 1 'panicked at' "$log.err")"
  fi
  TOTALS=$(grep -E 'connections?\b.*messages?\b.*bytes?\b' "$log.out") || die "the server printed no totals"
  [[ $TOTALS != *$'\n'* ]] || die "more than one line of totals: $TOTALS"
  forget "$pid"
}

# Called when the child has been reaped. From now on another process may have its id.
forget() {
  unset "log_of[$1]"
}

# --- Checks ---------------------------------------------------------------------------------------

# 64 MiB through each command-line client, compared by checksum.
check_large_file() {
  local threads expected
  head -c "$BLOB_BYTES" /dev/urandom >"$work/blob"
  expected=$(sha256sum <"$work/blob")
  for threads in "${THREAD_COUNTS[@]}"; do
    start echo --listen 127.0.0.1:0 --threads "$threads"
    same_back nc -N "$HOST" "$PORT"
    same_back ncat "$HOST" "$PORT"
    same_back socat -t10 - "TCP:$HOST:$PORT"
    stop "$SERVER"
  done
}

# Sends the blob with the given client and requires that the echo is equal. Uses the variables `expected` and `threads`
# of the caller.
same_back() {
  local back
  back=$(bounded 60 "$@" <"$work/blob" | sha256sum) || die "$1 failed with a file of $BLOB_BYTES bytes"
  [[ $back == "$expected" ]] || die "$1: the echo differs from the file of $BLOB_BYTES bytes"
  echo "    $1: $BLOB_BYTES bytes, same checksum, $threads thread(s)"
}

check_interleaved() {
  local threads
  for threads in "${THREAD_COUNTS[@]}"; do
    start echo --listen 127.0.0.1:0 --threads "$threads"
    bounded 60 "$here/interleave.py" "$HOST" "$PORT" --connections "$CONCURRENT"
    stop "$SERVER"
  done
}

check_killed_clients() {
  local threads
  for threads in "${THREAD_COUNTS[@]}"; do
    start echo --listen 127.0.0.1:0 --threads "$threads"
    bounded 60 "$here/killed_clients.py" "$HOST" "$PORT"
    must_be_idle "$SERVER"
    stop "$SERVER"
  done
}

check_many_open() {
  local threads
  for threads in "${THREAD_COUNTS[@]}"; do
    start echo --listen 127.0.0.1:0 --threads "$threads"
    bounded 60 "$here/many_open.py" "$HOST" "$PORT" --pid "$SERVER" --connections "$(affordable "$MANY")"
    stop "$SERVER"
  done
}

# Prints the number of connections to use: the given number, or fewer if the descriptor limit requires it.
affordable() {
  local most=$(($(ulimit -n) - 100))
  if ((most < $1)); then
    echo "    (only $most connections: the limit on descriptors is $(ulimit -n))" >&2
    echo "$most"
  else
    echo "$1"
  fi
}

check_half_close() {
  local threads
  head -c $((1 << 20)) /dev/urandom >"$work/mib"
  for threads in "${THREAD_COUNTS[@]}"; do
    start echo --listen 127.0.0.1:0 --threads "$threads"
    bounded 30 "$here/half_close.py" "$HOST" "$PORT"
    bounded 30 socat -t5 - "TCP:$HOST:$PORT" <"$work/mib" >"$work/back" || die "socat failed"
    cmp "$work/back" "$work/mib" || die "socat: the echo after the half-close differs"
    stop "$SERVER"
  done
}

check_bad_peers() {
  local threads
  for threads in "${THREAD_COUNTS[@]}"; do
    start echo --listen 127.0.0.1:0 --threads "$threads"
    bounded 60 "$here/bad_peers.py" "$HOST" "$PORT" --pid "$SERVER"
    must_be_idle "$SERVER"
    must_make_no_calls "$SERVER"
    stop "$SERVER"
  done
}

check_few_descriptors() {
  local threads limit=64
  for threads in "${THREAD_COUNTS[@]}"; do
    start echo --listen 127.0.0.1:0 --threads "$threads"
    prlimit --pid "$SERVER" --nofile="$limit:$limit"
    bounded 60 "$here/few_descriptors.py" "$HOST" "$PORT" --limit "$limit"
    must_be_idle "$SERVER"
    stop "$SERVER"
  done
}

# The limit is set before the server starts, because the server derives its memory limit from it at the start.
check_non_readers() {
  local threads
  for threads in "${THREAD_COUNTS[@]}"; do
    within=(prlimit --as=$((512 << 20)))
    start echo --listen 127.0.0.1:0 --threads "$threads"
    within=()
    bounded 60 "$here/non_readers.py" "$HOST" "$PORT" --pid "$SERVER"
    must_be_idle "$SERVER"
    stop "$SERVER"
  done
}

# Prints the clock ticks that a process has used in user and kernel mode: fields 14 and 15 of its stat file, which are
# counted from the end of its name.
ticks() {
  sed 's/^.*) //' "/proc/$1/stat" | awk '{ print $12 + $13 }'
}

# Requires that a server without clients uses at most two ticks in two seconds: `must_be_idle PID`. It has three attempts,
# because it may still be closing connections and releasing their memory. A loop that spins uses 200 ticks in each.
must_be_idle() {
  local before used
  for _ in 1 2 3; do
    before=$(ticks "$1")
    sleep 2
    used=$(($(ticks "$1") - before))
    ((used > 2)) || break
  done
  ((used <= 2)) || die "an idle server used $used ticks in 2 seconds"
  echo "    idle: $used ticks in 2 seconds"
}

# Requires that an idle server makes no system call: `must_make_no_calls PID`.
# Attaching interrupts the call in which each thread sleeps, so the first half second is not counted.
must_make_no_calls() {
  local log=$work/strace from calls
  from=$(date +%s.%N)
  timeout --foreground --kill-after=5 --signal=INT 2 strace -f -ttt -o "$log" -p "$1" 2>"$log.err" || true
  if ! grep -q attached "$log.err"; then
    grep -q 'not permitted\|not found\|No such file' "$log.err" || die "strace: $(head -n 3 "$log.err")"
    echo "    skipped: system calls while idle; $(head -n 1 "$log.err")"
    return
  fi
  calls=$(awk -v from="$from" '$2 > from + 0.5' "$log")
  [[ -z $calls ]] || die "system calls in 1.5 idle seconds: $(head -n 5 <<<"$calls")"
  echo "    idle: no system call in 1.5 seconds"
}

check_ipv6() {
  if ! python3 -c 'import socket; socket.socket(socket.AF_INET6).bind(("::1", 0))' 2>/dev/null; then
    echo "    skipped: this machine has no ::1"
    return
  fi
  start echo --listen '[::1]:0'
  [[ $HOST == ::1 ]] || die "the server listens on $HOST instead of ::1"
  bounded 30 "$here/interleave.py" "$HOST" "$PORT" --connections 50
  stop "$SERVER"
}

check_command_line() {
  rejects 2 echo --no-such-option
  rejects 2 echo --threads
  rejects 2 echo --threads many
  rejects 2 echo --threads 0
  rejects 2 echo --listen
  rejects 2 echo --listen nonsense
  start echo --listen 127.0.0.1:0
  rejects 1 echo --listen "$HOST:$PORT"
  stop "$SERVER"
}

# Requires that an example rejects its arguments: `rejects STATUS EXAMPLE ARGUMENT...`.
# With status 2 it must print its usage, with status 1 one line on stderr.
rejects() {
  local expected=$1 status=0 out=$work/rejected.out err=$work/rejected.err
  shift
  bounded 10 "$examples/$1" "${@:2}" >"$out" 2>"$err" </dev/null || status=$?
  ((status == expected)) || die "$*: status $status, not $expected; stderr: $(head -n 3 "$err")"
  if ((expected == 2)); then
    grep -qi usage "$out" "$err" || die "$*: no usage printed"
  else
    (($(wc -l <"$err") == 1)) || die "$*: not one line on stderr: $(head -n 3 "$err")"
  fi
  echo "    $*: status $status, $(head -n 1 "$err")"
}

check_signals() {
  local signal clients=3 client
  for signal in TERM INT; do
    start echo --listen 127.0.0.1:0
    for ((client = 0; client < clients; client++)); do
      [[ $(echo hello | bounded 10 nc -N "$HOST" "$PORT") == hello ]] || die "nc did not receive its line"
    done
    stop "$SERVER" "$signal"
    has_total connection "$clients"
    has_total message "$clients"
    has_total byte $((clients * 6))
    echo "    SIG$signal: $TOTALS"
  done
}

# Requires a number in the line of totals: `has_total UNIT NUMBER`.
has_total() {
  [[ $TOTALS =~ (^|[^0-9])$2\ $1 ]] || die "not $2 $1(s) in the totals: $TOTALS"
}

check_stop_under_load() {
  local threads
  for threads in "${THREAD_COUNTS[@]}"; do
    start echo --listen 127.0.0.1:0 --threads "$threads"
    bounded 60 "$here/stop_under_load.py" "$HOST" "$PORT" --pid "$SERVER"
    await_orderly_end "$SERVER" 10
    has_total connection 4
  done
}

# Two servers at the same time, each with its own clients.
check_two_servers() {
  local first second
  start echo --listen 127.0.0.1:0 --threads 2
  first=$SERVER
  in_background "$here/interleave.py" "$HOST" "$PORT" --connections 200
  start echo --listen 127.0.0.1:0
  second=$SERVER
  in_background "$here/interleave.py" "$HOST" "$PORT" --connections 200
  await_background
  stop "$first"
  stop "$second"
}

# --- Other examples -------------------------------------------------------------------------------

# Each example needs a function here, and the name of the function in `all_checks`.

check_udp_echo() {
  local size echoed
  launch udp_echo --listen 127.0.0.1:0
  await_address receiving
  for size in 1 64 1400 9000; do
    echoed=$(head -c "$size" /dev/zero | tr '\0' x | bounded 10 socat -t 1 -b 65536 - "UDP:$HOST:$PORT,shut-none" | wc -c)
    ((echoed == size)) || die "of a datagram of $size bytes, $echoed were echoed"
  done
  kill -TERM "$SERVER" || die "the server ended before SIGTERM"
  await_exit "$SERVER" 10
  ((STATUS == 0)) || die "status $STATUS after SIGTERM"
  rejects 2 udp_echo nonsense
  forget "$SERVER"
}

# A program of systemd listens on a TCP and on a Unix socket, and passes both when the first client connects.
check_socket_activation() {
  local port expected echoed client tries path=$work/activated.sock
  port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  within=(systemd-socket-activate -l "127.0.0.1:$port" -l "$path" --fdname=tcp:unix)
  launch socket_activation
  within=()
  for ((tries = 0; tries < 200; tries++)); do
    ! grep -q "Listening on $path as 4" "${log_of[$SERVER]}.err" || break
    kill -0 "$SERVER" 2>/dev/null || die "systemd-socket-activate has ended"
    sleep 0.05
  done
  head -c 1000000 /dev/urandom >"$work/input"
  expected=$(sha256sum <"$work/input")
  for client in "socat -t10 - UNIX-CONNECT:$path" "nc -N 127.0.0.1 $port" "socat -t10 - TCP:127.0.0.1:$port"; do
    # shellcheck disable=SC2086 # a command with arguments
    echoed=$(bounded 30 $client <"$work/input" | sha256sum) || die "$client failed"
    [[ $echoed == "$expected" ]] || die "$client: the echo differs"
  done
  await_address listening
  [[ $PORT == "$port" ]] || die "it listens on port $PORT instead of $port"
  kill -TERM "$SERVER" || die "the server ended before SIGTERM"
  await_exit "$SERVER" 10
  ((STATUS == 0)) || die "status $STATUS after SIGTERM"
  [[ -S $path ]] || die "the server has removed a path that is not its own"
  forget "$SERVER"
  # Without passed sockets it listens by itself.
  start socket_activation --listen 127.0.0.1:0
  [[ $(printf 'to and fro' | bounded 10 nc -N "$HOST" "$PORT") == 'to and fro' ]] || die "no echo without activation"
  kill -TERM "$SERVER" || die "the server ended before SIGTERM"
  await_exit "$SERVER" 10
  ((STATUS == 0)) || die "status $STATUS after SIGTERM"
  forget "$SERVER"
  rejects 2 socket_activation nonsense
}

# socat runs a program with its standard streams as a pseudo-terminal, as two pipes, and as one socket.
check_terminal() {
  local options shown expected
  for options in ,pty,raw,echo=0 ,pipes ''; do
    shown=$(printf 'ab\003cq' | bounded 10 socat -t5 - "EXEC:$examples/terminal$options" | tr -d '\r') ||
      die "socat with EXEC$options failed"
    expected=$(printf '%s\n' 'q ends' a b '\x03' c)
    [[ $shown == "$expected" ]] || die "$options: it shows: $shown"
  done
  # Without the last key it ends with its input. A terminal has no such end.
  for options in ,pipes ''; do
    shown=$(head -c 100000 /dev/zero | bounded 10 socat -t5 - "EXEC:$examples/terminal$options" | wc -c) ||
      die "socat with EXEC$options failed"
    ((shown == 7 + 100000 * 5)) || die "$options: $shown bytes"
  done
  [[ $("$examples/terminal" <"$examples/terminal" 2>/dev/null | head -n 2 | tail -n 1) == '\x7f' ]] || die "a file as input"
  [[ $("$examples/terminal" </dev/null) == 'q ends' ]] || die "/dev/null as input"
  rejects 2 terminal an-argument
}

# Loops inside another poller: echo servers that end in order.
check_embedded() {
  local example word
  for example in in_tokio in_mio; do
    launch "$example" --listen 127.0.0.1:0
    word=TCP
    [[ $example == in_mio ]] || word=echoing
    await_address "$word"
    [[ $(printf 'to and fro' | bounded 10 nc -q 1 "$HOST" "$PORT") == 'to and fro' ]] || die "no echo from $example"
    kill -TERM "$SERVER" || die "the server ended before SIGTERM"
    await_exit "$SERVER" 10
    ((STATUS == 0)) || die "status $STATUS after SIGTERM"
    forget "$SERVER"
    rejects 2 "$example" --listen 127.0.0.1:0 another
    rejects 2 "$example" nonsense
    bounded 5 "$examples/$example" --help | grep -q "^usage: $example" || die "no usage of $example"
  done
}

# Two processes and one counter. tests/examples checks the complete output.
check_eventfd() {
  local lines
  lines=$(bounded 20 "$examples/eventfd" -s --write-every 1ms --read-every 1ms 1 2 3 4 5 | grep -c '^Parent read 1 (0x1) from efd')
  ((lines == 15)) || die "a semaphore of 15 was read $lines times"
  rejects 2 eventfd not-a-number
}

# A guest that rings and is interrupted, if /dev/kvm is available. tests/examples checks the complete output.
check_kvm_doorbell() {
  local output
  output=$(bounded 20 "$examples/kvm_doorbell") || die "status $?: $output"
  case $output in
    "not run: "*) echo "    $output" ;;
    *"1 exit to user space") echo "    with /dev/kvm: ${output##*$'\n'}" ;;
    *) die "unexpected output: $output" ;;
  esac
}

# Files are printed byte for byte, through io_uring and through threads, and through threads if io_uring is not available.
check_uring_cat() {
  local by message errors=$work/cat.err
  head -c $((5 << 20)) /dev/urandom >"$work/large"
  : >"$work/empty"
  cat "$work/large" /etc/passwd >"$work/both"
  for by in $(readers uring_cat /etc/passwd); do
    prints_as_cat --by "$by"
    bounded 10 "$examples/uring_cat" --by "$by" "$work/large" - </etc/passwd | cmp - "$work/both" ||
      die "$by: the output differs from a file followed by the standard input"
    bounded 10 cat "$work/large" | bounded 10 "$examples/uring_cat" --by "$by" | cmp - "$work/large" ||
      die "$by: the output differs from the input of the pipe"
    # A closed output pipe causes no message.
    bounded 10 "$examples/uring_cat" --by "$by" "$work/large" 2>"$errors" | head -c 1 >"$work/one" || true
    [[ ! -s $errors ]] || die "$by: $(head -n 3 "$errors")"
    message=$(bounded 10 "$examples/uring_cat" --by "$by" /etc/passwd "$work/none" 2>&1 >/dev/null) &&
      die "$by: no failure for a missing file"
    [[ $message == "uring_cat: $work/none: No such file or directory" ]] || die "$by: $message"
    echo "    $by: same output as cat"
  done
  message=$("$here/without_io_uring.py" "$examples/uring_cat" -v /etc/passwd 2>&1 >"$work/printed")
  cmp "$work/printed" /etc/passwd || die "without io_uring: the output differs from the file"
  [[ $message == 'uring_cat: threads' ]] || die "without io_uring: $message"
  rejects 2 uring_cat --nonsense
  rejects 1 uring_cat /no/such/file
}

prints_as_cat() {
  local files=("$work/large" "$work/empty" /etc/passwd "$work/large" /proc/filesystems)
  cmp <(bounded 10 "$examples/uring_cat" "$@" "${files[@]}") <(cat "${files[@]}") || die "$*: the output differs from that of cat"
}

# Prints the back ends that the example supports: `readers EXAMPLE ARGUMENT...`. The example must end by itself.
readers() {
  if bounded 10 "$examples/$1" --by io_uring "${@:2}" >"$work/readers.out" 2>"$work/readers.err" </dev/null; then
    echo io_uring
  else
    echo "    skipped: io_uring; $(head -n 1 "$work/readers.err")" >&2
  fi
  echo threads
}

# Requires exit status 0 after a signal, and no panic: `end_in_order PID`.
end_in_order() {
  kill -TERM "$1" || die "the server ended before SIGTERM"
  await_exit "$1" 10
  ((STATUS == 0)) || die "status $STATUS after SIGTERM"
  ! grep 'panicked at' "${log_of[$1]}.err" || die "a panic in the server"
  forget "$1"
}

# The server with the clients of Redis.
check_redis() {
  local pipelined output
  start redis --listen 127.0.0.1:0
  replies_to OK SET key 5
  replies_to 6 INCR key
  replies_to 6 GET key
  replies_to 1 EXPIRE key 100
  replies_to 100 TTL key
  replies_to 1 DEL key none
  replies_to '' GET key
  replies_to "ERR unknown command 'FLUSHED', with args beginning with: " FLUSHED
  # The value is the standard input. redis-cli prints a line end after a value.
  head -c 5000000 /dev/urandom >"$work/value"
  bounded 10 redis-cli -h "$HOST" -p "$PORT" -x SET file <"$work/value" >/dev/null
  bounded 10 redis-cli -h "$HOST" -p "$PORT" GET file | head -c -1 | cmp - "$work/value" || die "a large value differs"
  for pipelined in 1 16; do
    output=$(bounded 60 redis-benchmark -h "$HOST" -p "$PORT" -t set,get,incr,ping -n 20000 -P "$pipelined" -q 2>&1) ||
      die "redis-benchmark failed: $output"
    (($(grep -c 'requests per second' <<<"${output//$'\r'/$'\n'}") >= 5)) && [[ ${output,,} != *error* ]] ||
      die "redis-benchmark: $output"
  done
  must_be_idle "$SERVER"
  end_in_order "$SERVER"
  grep -q '[0-9] commands$' "$work/server.$servers_started.out" || die "no totals"
}

# Requires a reply to redis-cli: `replies_to REPLY COMMAND ARGUMENT...`.
replies_to() {
  local reply
  reply=$(bounded 10 redis-cli -h "$HOST" -p "$PORT" "${@:2}") || die "redis-cli failed with ${*:2}"
  [[ $reply == "$1" ]] || die "the reply to ${*:2}: $reply"
}

# The client with the server of Redis, which ends and is started again.
check_redis_client() {
  local port client printed=$work/replies demonstration
  port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  # The client starts first: its requests wait.
  # `timeout` would pass on a signal twice, and the second would kill the client.
  "$examples/redis_client" --connect "127.0.0.1:$port" --retries 1000 --repeat 100000 --every 2 INCR count \
    >"$printed" 2>"$printed.err" </dev/null &
  client=$!
  background+=("$client")
  start_redis_server "$port"
  await_line "$printed" 1 1
  await_line "$printed" 20 1
  kill -TERM "$SERVER"
  await_exit "$SERVER" 10
  forget "$SERVER"
  start_redis_server "$port"
  # Nothing was stored, so the server counts from 1 again.
  await_line "$printed" 1 2
  await_line "$printed" 20 2
  kill -TERM "$client"
  await_exit "$client" 10
  background=()
  # The status is 1 if a request was lost.
  ((STATUS <= 1)) && ! grep 'panicked at' "$printed.err" || die "the client ended with status $STATUS"
  echo "    $(grep -c '^[0-9]*$' "$printed") replies, $(grep -c '^failed' "$printed") requests lost"
  # A subscription is renewed after a restart of the server.
  "$examples/redis_client" --connect "127.0.0.1:$port" --retries 1000 SUBSCRIBE news >"$printed" 2>"$printed.err" </dev/null &
  client=$!
  background+=("$client")
  await_line "$printed" subscribed 1
  redis-cli -h 127.0.0.1 -p "$port" PUBLISH news first >/dev/null
  await_line "$printed" '"first"' 1
  kill -TERM "$SERVER"
  await_exit "$SERVER" 10
  forget "$SERVER"
  await_line "$printed" 'the connection is lost; messages may be missed' 1
  start_redis_server "$port"
  await_line "$printed" subscribed 2
  redis-cli -h 127.0.0.1 -p "$port" PUBLISH news second >/dev/null
  await_line "$printed" '"second"' 1
  kill -TERM "$client"
  await_exit "$client" 10
  background=()
  ((STATUS == 0)) || die "the subscriber ended with status $STATUS"
  (($(grep -c 'the connection is lost' "$printed") == 1)) || die "the subscriber reports its own end as a loss"
  demonstration=$(bounded 10 "$examples/redis_client" --connect "127.0.0.1:$port") || die "the demonstration failed"
  [[ $demonstration == $'OK\n11\n12\n13\n"13"\n1' ]] || die "the demonstration: $demonstration"
  kill -TERM "$SERVER"
  await_exit "$SERVER" 10
  forget "$SERVER"
  # The example redis has no subscriptions. Its error ends the client.
  start redis --listen 127.0.0.1:0
  rejects 1 redis_client --connect "$HOST:$PORT" SUBSCRIBE news
  grep -q "error: ERR unknown command 'SUBSCRIBE'" "$work/rejected.err" || die "the error: $(cat "$work/rejected.err")"
  end_in_order "$SERVER"
  rejects 2 redis_client --connect nonsense
  rejects 2 redis_client SUBSCRIBE one two
  rejects 2 redis_client MONITOR
  rejects 1 redis_client --connect "127.0.0.1:$port" --retries 1 PING
}

# Starts the server of Redis and waits until it replies: `start_redis_server PORT`. Sets SERVER, HOST and PORT.
start_redis_server() {
  local log tries
  servers_started=$((servers_started + 1))
  log=$work/server.$servers_started
  redis-server --port "$1" --bind 127.0.0.1 --dir "$work" --save "" --appendonly no >"$log.out" 2>"$log.err" </dev/null &
  SERVER=$!
  log_of[$SERVER]=$log
  HOST=127.0.0.1
  PORT=$1
  for ((tries = 0; tries < 200; tries++)); do
    [[ $(bounded 5 redis-cli -h "$HOST" -p "$PORT" PING 2>/dev/null) != PONG ]] || return 0
    sleep 0.05
  done
  die "redis-server did not start"
}

# Waits until a file contains a line at least COUNT times: `await_line FILE LINE COUNT`.
await_line() {
  local tries
  for ((tries = 0; tries < 400; tries++)); do
    (($(grep -cxF -- "$2" "$1") < $3)) || return 0
    sleep 0.05
  done
  die "the line $2 was not printed $3 times, but $(wc -l <"$1") others; the last lines: $(tail -n 3 "$1"); $(grep -n -m 3 '^failed' "$1")"
}

# The server sends the files of a directory, and no others.
check_file_server() {
  local by expected before client
  mkdir -p "$work/served"
  head -c "$BLOB_BYTES" /dev/urandom >"$work/served/blob"
  expected=$(sha256sum <"$work/served/blob")
  echo secret >"$work/secret"
  ln -sf ../secret "$work/served/link"
  for by in $(readers uring_cat /etc/passwd); do
    start file_server --listen 127.0.0.1:0 --by "$by" "$work/served"
    is_served nc -N "$HOST" "$PORT"
    is_served ncat "$HOST" "$PORT"
    is_served socat -t10 - "TCP:$HOST:$PORT"
    is_refused ../secret "ERR invalid file name"
    is_refused "$work/secret" "ERR invalid file name"
    is_refused link 'ERR cannot be read'
    is_refused none 'ERR no such file'
    before=$(descriptors_of "$SERVER")
    # Clients that stop reading and are killed during a transfer.
    for client in 1 2 3 4; do
      echo 'GET blob' | timeout --foreground 0.3 nc "$HOST" "$PORT" | { head -c 100000 && sleep 0.5; } >/dev/null || true
    done
    must_be_idle "$SERVER"
    (($(descriptors_of "$SERVER") == before)) || die "the server leaks descriptors of killed clients"
    is_served nc -N "$HOST" "$PORT"
    kill -TERM "$SERVER" || die "the server ended before SIGTERM"
    await_exit "$SERVER" 10
    ((STATUS == 0)) || die "status $STATUS after SIGTERM"
    grep -q '^12 connections, ' "${log_of[$SERVER]}.out" || die "the totals: $(tail -n 1 "${log_of[$SERVER]}.out")"
    forget "$SERVER"
  done
  rejects 2 file_server
  rejects 1 file_server /etc/passwd
}

# Requires that the given client receives the length and the bytes of the blob. Uses the variables `expected` and `by` of
# the caller.
is_served() {
  local reply
  reply=$(echo 'GET blob' | bounded 60 "$@" | { IFS= read -r line && echo "$line" && sha256sum; }) || die "$1 failed"
  [[ $reply == "OK $BLOB_BYTES"$'\n'"$expected" ]] || die "$1: the reply differs from the file: $reply"
  echo "    $1: $BLOB_BYTES bytes, same checksum, $by"
}

# Requires that the server replies to a request for NAME with this line: `is_refused NAME REPLY`.
is_refused() {
  local reply
  reply=$(echo "GET $1" | bounded 10 nc -N "$HOST" "$PORT")
  [[ $reply == "$2" ]] || die "the reply for $1: $reply"
}

descriptors_of() {
  find "/proc/$1/fd" -mindepth 1 | wc -l
}

# The programs of the package `integrations` are next to the directory of the examples.
check_tls() {
  local program
  for program in tls_echo tls_client; do
    bounded 5 "$examples/../$program" --help | grep -q "^usage: $program" || die "no usage of $program"
  done
  bounded 600 "$here/tls.py" "$examples/.."
}

# An io_uring of the program itself. tests/examples checks the complete output.
check_own_ring() {
  local output
  output=$(bounded 10 "$examples/own_ring" /etc/passwd) || die "status $?: $output"
  [[ $output == *'5 operations completed' || $output == 'io_uring is not available: '* ]] || die "unexpected output: $output"
  echo "    $(tail -n 1 <<<"$output")"
  output=$("$here/without_io_uring.py" "$examples/own_ring" /etc/passwd) || die "without io_uring: status $?"
  [[ $output == 'io_uring is not available: '* ]] || die "without io_uring: $output"
  rejects 2 own_ring
  rejects 1 own_ring /no/such/file
}

# Two processes without a client. The example ends by itself with a table, and fails if it leaks a descriptor.
check_doorbell() {
  bounded 10 "$examples/doorbell" >"$work/doorbell" || die "the example failed, or did not end within 10 seconds"
  grep -q '^shared ring : socket pair = ' "$work/doorbell" || die "no ratio in the output: $(cat "$work/doorbell")"
  sed 's/^/    /' "$work/doorbell"
  rejects 2 doorbell an-argument
}

# --- All checks -----------------------------------------------------------------------------------

all_checks=(large_file interleaved killed_clients many_open half_close bad_peers non_readers few_descriptors ipv6
  command_line signals stop_under_load two_servers redis redis_client udp_echo socket_activation terminal embedded eventfd
  doorbell kvm_doorbell uring_cat file_server own_ring tls)

run_check() {
  local begin=$EPOCHREALTIME
  current_check=$1
  echo "  $1"
  "check_$1"
  awk -v a="$begin" -v b="$EPOCHREALTIME" 'BEGIN { printf "  ok %.1f s\n", b - a }'
}

# Enough descriptors for thousands of connections, but few enough for a client that closes every possible descriptor
# number at its start.
raise_descriptor_limit() {
  local wanted=20000 hard
  hard=$(ulimit -Hn)
  if [[ $hard != unlimited ]] && ((hard < wanted)); then
    wanted=$hard
  fi
  ulimit -Sn "$wanted"
}

[[ -x $examples/echo ]] || die "no echo example in $examples; build it with: cargo build --release --examples"
raise_descriptor_limit
(($# > 0)) || set -- "${all_checks[@]}"
for check in "$@"; do
  run_check "$check"
done
echo "real clients: $# checks passed"
