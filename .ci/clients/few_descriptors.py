#!/usr/bin/env -S python3 -B
"""More clients than the server has descriptors: each is served or rejected, and none is left waiting.

usage: few_descriptors.py HOST PORT --limit DESCRIPTORS [--seed N]

Accepted clients continue to be served. When some of them disconnect, the same number of new clients is accepted.
"""

import peer

CLIENTS_MORE_THAN_DESCRIPTORS = 40
SECONDS_TO_SETTLE = 5


def is_served(sock):
    """Whether the server echoes a byte. If not, it has ended the connection."""
    try:
        sock.sendall(b"x")
        return sock.recv(8) == b"x"
    except TimeoutError:
        raise peer.CheckFailed("a client is neither served nor rejected") from None
    except ConnectionError:
        return False


def check(options):
    count = options.limit + CLIENTS_MORE_THAN_DESCRIPTORS
    clients = [peer.connect(options.host, options.port) for _ in range(count)]
    served = [sock for sock in clients if is_served(sock)]
    if not options.limit // 2 <= len(served) < options.limit:
        raise peer.CheckFailed(f"{len(served)} of {count} clients served with {options.limit} descriptors")
    leaving = served[: len(served) // 2]
    staying = served[len(served) // 2 :]
    for sock in leaving:
        sock.close()
    newcomers = [newcomer(options) for _ in leaving]
    for sock in staying + newcomers:
        peer.round_trip(sock, options.random.randbytes(1000), "a client that was served before")
    print(f"    {options.limit} descriptors, {count} clients: {len(served)} served, the others rejected")


def newcomer(options):
    """Returns a client that is served, soon after another client has disconnected."""
    accepted = []

    def one_is_served():
        sock = peer.connect(options.host, options.port)
        if is_served(sock):
            accepted.append(sock)
        return accepted

    if not peer.wait_until(one_is_served, SECONDS_TO_SETTLE):
        raise peer.CheckFailed("no new client is served after some have disconnected")
    return accepted[0]


if __name__ == "__main__":
    peer.run(check, peer.arguments(__doc__, limit=None))
