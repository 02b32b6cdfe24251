#!/usr/bin/env bash
# Checks the example hyper_http with curl, h2load and wrk, with clients that misbehave, and its stop. Its argument is the
# program. Each client is limited in its time and its number of requests.
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
  echo "hyper_http.sh: $*" >&2
  exit 1
}

# Starts a server and waits for its address: `start NAME ARGUMENT...`; sets PID and ADDRESS.
start() {
  local name=$1
  shift
  : >"$work/$name.out"
  env --default-signal=INT "$server" --listen 127.0.0.1:0 "$@" >"$work/$name.out" 2>"$work/$name.err" </dev/null &
  PID=$!
  pids+=("$PID")
  for _ in $(seq 200); do
    ! grep -q '^try: ' "$work/$name.out" || break
    sleep 0.05
  done
  ADDRESS=$(sed -n 's/^listening on //p' "$work/$name.out")
  [[ -n $ADDRESS ]] || die "the server $name did not print its address"
}

# Stops a server by a signal: it must end in order, and not at the end of a long grace period.
stop() {
  kill -s "$2" "$1"
  timeout 40 tail --pid="$1" --sleep-interval=0.05 -f /dev/null || die "the server did not end after SIG$2"
  wait "$1" || die "the server ended with status $? after SIG$2"
}

fetch() {
  curl --silent --show-error --max-time 30 "$@"
}

# Requests with one version over one transport: `requests VERSION URL OPTION...`.
requests() {
  local version=$1 url=$2 status
  shift 2
  [[ $(fetch "$@" -w '%{http_code} %{http_version}' "$url/") == "hello"$'\n'"200 $version" ]] ||
    die "a wrong greeting by $url, HTTP/$version"
  # Bodies in both directions: with a length, without one, and empty.
  fetch "$@" -T "$work/blob" -o "$work/back" "$url/echo"
  cmp "$work/blob" "$work/back"
  fetch "$@" -X POST -T - -o "$work/back" "$url/echo" <"$work/blob"
  cmp "$work/blob" "$work/back"
  [[ -z $(fetch "$@" -d '' "$url/echo") ]] || die "the echo of an empty body is not empty"
  fetch "$@" -o "$work/back" "$url/bytes/10000000"
  cmp "$work/pattern" "$work/back"
  # Many requests on few connections. curl 7.88 cannot use a connection of prior knowledge twice, with any server.
  if [[ $* != *prior-knowledge* ]]; then
    fetch "$@" --parallel --parallel-max 20 --no-progress-meter "$url/bytes/[1-200]" -o "$work/part#1"
    [[ $(stat -c %s "$work"/part* | awk '{ sum += $1 } END { print sum }') == 20100 ]] || die "parts are missing"
    rm "$work"/part*
  fi
  for status in "404 /other" "404 /bytes/x" "405 /echo" "405 / -X DELETE"; do
    # shellcheck disable=SC2086 # the options are separate words
    [[ $(fetch "$@" -o /dev/null -w '%{http_code}' "$url"${status#* }) == "${status%% *}" ]] || die "not $status"
  done
  [[ $(fetch "$@" -I -w '%{size_download} %header{content-length}' "$url/bytes/1000" | tail -n 1) == "0 1000" ]] ||
    die "a wrong response to HEAD"
  echo "    curl, HTTP/$version, ${url%%:*}: greeting, 20 MB in both directions, errors"
}

# A load whose requests must all succeed: `load NAME URL OPTION...`.
load() {
  local name=$1
  shift
  timeout 30 h2load "$@" >"$work/load" 2>&1 || die "$name: $(cat "$work/load")"
  grep -q '^requests: \([0-9]*\) total, \1 started, \1 done, \1 succeeded, 0 failed, 0 errored, 0 timeout$' \
    "$work/load" || die "$name: $(cat "$work/load")"
  echo "    h2load, $name: $(grep '^finished' "$work/load")"
}

head -c 20000000 /dev/urandom >"$work/blob"
python3 -c 'import sys; sys.stdout.buffer.write((bytes(range(251)) * 40000)[:10000000])' >"$work/pattern"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost -days 2 \
  -addext subjectAltName=DNS:localhost -keyout "$work/key.pem" -out "$work/cert.pem" 2>/dev/null

start plain --threads 2
plain=$PID plain_address=$ADDRESS
start tls --threads 2 --tls "$work/cert.pem" "$work/key.pem"
tls=$PID tls_address=$ADDRESS
secure=(--cacert "$work/cert.pem" --resolve "localhost:${tls_address##*:}:127.0.0.1")
tls_url=https://localhost:${tls_address##*:}

requests 1.1 "http://$plain_address" --http1.1
requests 2 "http://$plain_address" --http2-prior-knowledge
requests 1.1 "$tls_url" --http1.1 "${secure[@]}"
requests 2 "$tls_url" "${secure[@]}"
[[ $(fetch --verbose -H 'Expect: 100-continue' -T "$work/blob" "http://$plain_address/length" 2>"$work/verbose") == 20000000 ]] ||
  die "a wrong length"
grep -q '< HTTP/1.1 100 Continue' "$work/verbose" || die "no 100 Continue"
[[ $(fetch --http1.0 -w ' %{http_code}' "http://$plain_address/") == "hello"*200 ]] || die "HTTP/1.0"

load "HTTP/1.1" --h1 -n 20000 -c 50 "http://$plain_address/"
load "HTTP/2" -n 50000 -c 10 -m 50 "http://$plain_address/"
load "HTTP/2, large bodies" -n 500 -c 10 -m 10 "http://$plain_address/bytes/1000000"
load "HTTP/2, POST" -n 2000 -c 10 -m 10 -d "$work/key.pem" "http://$plain_address/echo"
load "HTTP/1.1 over TLS" --h1 -n 10000 -c 50 "https://$tls_address/"
load "HTTP/2 over TLS" -n 20000 -c 10 -m 50 "https://$tls_address/"
timeout 60 wrk -t 2 -c 100 -d 2 --timeout 60s "http://$plain_address/" >"$work/load" 2>&1 || die "wrk: $(cat "$work/load")"
! grep -qE 'Socket errors|Non-2xx' "$work/load" || die "wrk: $(cat "$work/load")"
echo "    wrk: $(grep 'requests in' "$work/load" | sed 's/^ *//')"

timeout 60 "$here/hyper_http.py" "${plain_address%:*}" "${plain_address##*:}" --pid "$plain"

# A stop completes the requests that have begun, and closes connections that wait for another.
for version in --http1.1 --http2-prior-knowledge; do
  : >"$work/back"
  start stopped --grace 120
  exec 3<>"/dev/tcp/${ADDRESS/://}"
  printf 'GET / HTTP/1.1\r\nHost: a\r\n\r\n' >&3
  read -r -t 10 -u 3 status && [[ $status == "HTTP/1.1 200 OK"* ]] || die "no response before a stop: $status"
  fetch "$version" --limit-rate 5M -o "$work/back" "http://$ADDRESS/bytes/10000000" &
  client=$!
  for _ in $(seq 200); do
    [[ ! -s $work/back ]] || break
    sleep 0.05
  done
  stop "$PID" TERM
  wait "$client" || die "a stop interrupted a response, $version"
  cmp "$work/pattern" "$work/back"
  exec 3>&-
done
echo "    a stop completes the responses and closes connections that wait"
stop "$plain" INT
stop "$tls" TERM

timeout 100 "$here/reload.py" "$server" --listen 127.0.0.1:0 --threads 2 --tls CERT KEY
echo "    SIGHUP loads the certificate again"

! "$server" --tls "$work/cert.pem" 2>/dev/null || die "a certificate without a key was accepted"
! "$server" --listen nowhere 2>/dev/null || die "a wrong address was accepted"
[[ $("$server" --help) == usage:* ]] || die "no usage"
for name in plain tls stopped; do
  ! grep -q panicked "$work/$name.err" || die "a panic in the server $name"
done
echo "hyper_http: ok"
