#!/usr/bin/python3 -B
"""The client of the Python library websockets against the `websocket` example.

usage: websocket_library.py URL [--ca FILE] [--maximum 1048576] [--await-stop PID] [--seed N]

Messages of random sizes on concurrent connections must be returned, whole or in fragments. With --await-stop, the
script stops the server PID by SIGTERM, and requires a close with 1001 on all connections.

Runs with the Python of Debian, whose package python3-websockets contains the library.
"""

import argparse
import asyncio
import os
import random
import signal
import ssl

import websockets

CONNECTIONS = 50
MESSAGES = 60
DEADLINE = 30


def random_message(source):
    size = source.choice([0, 1, 10, 125, 126, 1000, 10_000, 70_000])
    if source.random() < 0.5:
        return source.randbytes(size)
    at = source.randrange(4)
    return ("aé€😀" * (size // 10 + 1))[at : at + size // 3]


async def exchange(connect, seed):
    source = random.Random(seed)
    async with connect() as client:
        for _ in range(MESSAGES):
            message = random_message(source)
            if message and source.random() < 0.3:
                at = source.randrange(len(message))
                await client.send([message[:at], message[at:]])
            else:
                await client.send(message)
            if source.random() < 0.1:
                await (await client.ping())
            if await client.recv() != message:
                raise SystemExit("a message was not returned as it was sent")


async def closed_with(client):
    try:
        while True:
            await client.recv()
    except websockets.ConnectionClosed as closed:
        return closed.rcvd and closed.rcvd.code


async def limits(connect, maximum):
    async with connect() as client:
        await client.send(bytes(maximum))
        if len(await client.recv()) != maximum:
            raise SystemExit("the largest message was not returned")
        # The send may fail: the server closes while it is in progress.
        sending = asyncio.ensure_future(client.send(bytes(maximum + 1)))
        code = await closed_with(client)
        await asyncio.gather(sending, return_exceptions=True)
        if code != 1009:
            raise SystemExit(f"a message that is too long was closed with {code}")
    async with connect() as client:
        await client.close(4000, "why")
        if client.close_code != 4000:
            raise SystemExit(f"the close was returned with {client.close_code}")


async def await_stop(connect, pid):
    clients = [await connect() for _ in range(CONNECTIONS)]
    for client in clients:
        await client.send("hello")
        await client.recv()
    os.kill(pid, signal.SIGTERM)
    codes = set(await asyncio.gather(*[closed_with(client) for client in clients]))
    if codes != {1001}:
        raise SystemExit(f"a stop closed the connections with {codes}")


async def main(options):
    context = options.ca and ssl.create_default_context(cafile=options.ca)

    def connect():
        return websockets.connect(options.url, ssl=context, max_size=None, close_timeout=DEADLINE)

    if options.await_stop:
        await await_stop(connect, options.await_stop)
        print(f"    websockets {websockets.__version__}: a stop closes {CONNECTIONS} connections with 1001")
        return
    await asyncio.gather(*[exchange(connect, options.seed + n) for n in range(CONNECTIONS)])
    await limits(connect, options.maximum)
    print(f"    websockets {websockets.__version__}: {CONNECTIONS * MESSAGES} messages, limits, closes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--ca")
    parser.add_argument("--maximum", type=int, default=1 << 20)
    parser.add_argument("--await-stop", type=int)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    arguments = parser.parse_args()
    print(f"    websocket_library.py: seed {arguments.seed}", flush=True)
    asyncio.run(asyncio.wait_for(main(arguments), DEADLINE))
