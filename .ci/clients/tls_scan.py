"""A scan of the TLS example by testssl.sh: versions, suites and the known weaknesses of implementations."""

import json
import os
import subprocess

import peer

# It takes 20 seconds on two cores that are idle.
SECONDS = 400

# What testssl.sh must report: not only no problem, but also that it has found the server.
REQUIRED = {"SSLv2": "OK", "SSLv3": "OK", "TLS1": "INFO", "TLS1_1": "INFO", "TLS1_2": "OK", "TLS1_3": "OK", "heartbleed": "OK",
            "CCS": "OK", "secure_renego": "OK", "secure_client_renego": "OK", "CRIME_TLS": "OK", "POODLE_SSL": "OK",
            "SWEET32": "OK", "FREAK": "OK", "DROWN": "OK", "LOGJAM": "OK", "BEAST": "OK", "LUCKY13": "OK", "RC4": "OK",
            "cipherlist_NULL": "OK", "cipherlist_aNULL": "OK", "cipherlist_EXPORT": "OK", "cipherlist_LOW": "OK",
            "cipherlist_3DES_IDEA": "INFO", "cipherlist_AVERAGE": "INFO", "cipherlist_STRONG": "OK"}

ABSENT = ["TLS1", "TLS1_1", "cipherlist_3DES_IDEA", "cipherlist_AVERAGE"]

HARMLESS = {"OK", "INFO", "DEBUG", "LOW"}

# `engine_problem` is about the local OpenSSL. By default, rustls chooses the first suite of the client that it supports;
# all that it supports are of the strongest category, so a client cannot choose a weak one.
ACCEPTED = {"engine_problem", "cipher_order"}


def scan(port):
    """Scans the server on `port`. Fails at a finding that is neither harmless nor accepted."""
    command = ["testssl", "--quiet", "--color", "0", "--warnings", "off", "--jsonfile", "scan.json", "--ip", "one",
               "-p", "-s", "-P", "-U", f"localhost:{port}"]
    try:
        # Its exit status is the number of findings.
        output = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=False)
        if not os.path.exists("scan.json"):
            raise peer.CheckFailed(f"testssl has not scanned: {(output.stdout + output.stderr)[-2000:]!r}")
        with open("scan.json", encoding="utf-8") as report:
            findings = json.load(report)
    finally:
        if os.path.exists("scan.json"):
            os.remove("scan.json")
    severities = {finding["id"]: finding["severity"] for finding in findings}
    texts = {finding["id"]: finding["finding"] for finding in findings}
    problems = [f"{name}: {texts[name]}" for name, severity in severities.items()
                if severity not in HARMLESS and name not in ACCEPTED]
    problems += [f"{name}: {severities.get(name)}" for name, severity in REQUIRED.items() if severities.get(name) != severity]
    problems += [f"{name}: {texts.get(name)}" for name in ABSENT if texts.get(name) != "not offered"]
    if problems:
        raise peer.CheckFailed(f"testssl reports: {'; '.join(problems)}")
