#!/bin/sh
# Requests files from tls_file_server with openssl, with TLS 1.2 and 1.3: small, empty and large ones. Its argument is the
# program.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
server=$1
folder=$(mktemp -d)
pid=
trap 'test -z "$pid" || kill "$pid" 2>/dev/null; rm -rf "$folder"' EXIT
mkdir "$folder/files"
head -c 20000000 /dev/urandom >"$folder/files/large"
echo content >"$folder/files/small"
: >"$folder/files/empty"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost -days 2 \
    -addext subjectAltName=DNS:localhost -keyout "$folder/key.pem" -out "$folder/cert.pem" 2>/dev/null

for by in threads default; do
    option=
    test $by = default || option="--by $by"
    # The server is started in the background, and may empty the output of the one before late.
    : >"$folder/output"
    # shellcheck disable=SC2086
    "$server" --listen 127.0.0.1:0 --tls "$folder/cert.pem" "$folder/key.pem" $option "$folder/files" >"$folder/output" &
    pid=$!
    for _ in $(seq 100); do
        grep -q listening "$folder/output" && break
        sleep 0.1
    done
    address=$(sed -n 's/^listening on //p' "$folder/output")
    for version in -tls1_2 -tls1_3; do
        for name in small empty large; do
            size=$(stat -c %s "$folder/files/$name")
            { printf 'OK %s\n' "$size"; cat "$folder/files/$name"; } >"$folder/expected"
            : >"$folder/reply"
            # The client ends the connection when its input ends, so the input lasts until the reply is complete.
            {
                printf 'GET %s\n' $name
                for _ in $(seq 600); do
                    test "$(stat -c %s "$folder/reply")" -ge "$(stat -c %s "$folder/expected")" && break
                    sleep 0.05
                done
            } | openssl s_client -quiet $version -CAfile "$folder/cert.pem" -verify_return_error -servername localhost \
                -no_ign_eof -connect "$address" >"$folder/reply" 2>"$folder/errors" || { cat "$folder/errors"; exit 1; }
            cmp "$folder/reply" "$folder/expected" || { echo "$by $version $name differs"; exit 1; }
        done
    done
    kill -TERM "$pid"
    wait "$pid"
    pid=
done
timeout 100 "$here/reload.py" "$server" --listen 127.0.0.1:0 --tls CERT KEY "$folder/files"
# Its name is not that of the example which it includes.
if "$server" 2>"$folder/errors"; then exit 1; fi
grep -q '^tls_file_server: the directory is missing$' "$folder/errors"
grep -q '^usage: tls_file_server ' "$folder/errors"
# Without the key, and with another one.
if "$server" --listen 127.0.0.1:0 --tls "$folder/cert.pem" 2>/dev/null; then exit 1; fi
openssl ecparam -name prime256v1 -genkey -noout -out "$folder/other.pem"
if "$server" --listen 127.0.0.1:0 --tls "$folder/cert.pem" "$folder/other.pem" "$folder/files" 2>"$folder/errors"; then exit 1; fi
grep -q other.pem "$folder/errors"
echo "TLS of file_server: ok"
