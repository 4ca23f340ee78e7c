#!/usr/bin/env python3
"""A small explorer of an ailo node, made of nothing but the OpenRPC document that the node serves.

    examples/explorer.py [URL] [--address ADDRESS] [--blocks N]

It asks `rpc.discover`, makes a client whose methods are those of the document, shows the node's status, the newest blocks and what happened
to an address (the node's own, unless told otherwise), and then follows N new blocks over WebSocket. Python's own library is enough.
"""

import argparse
import base64
import hashlib
import json
import os
import socket
import struct
import urllib.error
import urllib.request
from urllib.parse import urlsplit

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455
MAX_MESSAGE = 16 << 20
TIMEOUT = 60


class RpcError(Exception):
    """An error of the node's, with the name that does not change between versions."""

    def __init__(self, error):
        super().__init__(error["message"])
        self.code = (error.get("data") or {}).get("code", str(error["code"]))


class Client:
    """A node's methods, as its OpenRPC document names them."""

    def __init__(self, url):
        self.url = url
        self.document = self.call("rpc.discover", {})
        for method in self.document["methods"]:
            name = method["name"].removeprefix("ailo_")
            maker = self._subscription if "x-subscription" in method else self._method
            setattr(self, name, maker(method))

    def call(self, method, params):
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
        request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            reply = json.load(answer)
        if "error" in reply:
            raise RpcError(reply["error"])
        return reply["result"]

    def _checked(self, method, params):
        """The parameters, if the document knows them and none is missing."""
        known = {param["name"]: param.get("required", False) for param in method["params"]}
        for name in params:
            if name not in known:
                raise TypeError(f"{method['name']} takes no {name}: it takes {', '.join(known) or 'nothing'}")
        for name, required in known.items():
            if required and name not in params:
                raise TypeError(f"{method['name']} needs {name}")
        return params

    def _method(self, method):
        def call(**params):
            return self.call(method["name"], self._checked(method, params))

        call.__doc__ = method["summary"]
        return call

    def _subscription(self, method):
        def follow(**params):
            return subscribe(self.url, method, self._checked(method, params))

        follow.__doc__ = method["summary"]
        return follow


class WebSocket:
    """As much of RFC 6455 as a client of JSON-RPC needs."""

    def __init__(self, url):
        at = urlsplit(url)
        self.socket = socket.create_connection((at.hostname, at.port or 80), timeout=TIMEOUT)
        self.unread = b""
        key = base64.b64encode(os.urandom(16))
        self.socket.sendall(
            f"GET {at.path or '/'} HTTP/1.1\r\nHost: {at.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key.decode()}\r\n\r\n".encode()
        )
        while b"\r\n\r\n" not in self.unread:
            self._more()
        head, self.unread = self.unread.split(b"\r\n\r\n", 1)
        lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        accept = base64.b64encode(hashlib.sha1(key + GUID).digest()).decode()
        if " 101 " not in lines[0] + " " or headers.get("sec-websocket-accept") != accept:
            raise ConnectionError(f"the node does not speak WebSocket here: {lines[0]}")

    def _more(self):
        part = self.socket.recv(65536)
        if not part:
            raise ConnectionError("the node closed the connection")
        self.unread += part

    def _take(self, count):
        while len(self.unread) < count:
            self._more()
        taken, self.unread = self.unread[:count], self.unread[count:]
        return taken

    def _send(self, opcode, data):
        mask = os.urandom(4)
        size = len(data)
        if size < 126:
            head = struct.pack("!BB", 0x80 | opcode, 0x80 | size)
        elif size < 65536:
            head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, size)
        else:
            head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, size)
        self.socket.sendall(head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(data)))

    def send(self, text):
        self._send(0x1, text.encode())

    def receive(self):
        """The next message; pings are answered meanwhile."""
        message = b""
        while True:
            first, second = self._take(2)
            size = second & 0x7F
            if size == 126:
                (size,) = struct.unpack("!H", self._take(2))
            elif size == 127:
                (size,) = struct.unpack("!Q", self._take(8))
            if size + len(message) > MAX_MESSAGE:
                raise ConnectionError("a message of the node is too long")
            data = self._take(size)
            opcode = first & 0x0F
            if opcode == 0x8:
                raise ConnectionError("the node closed the connection")
            if opcode == 0x9:
                self._send(0xA, data)
            elif opcode in (0x0, 0x1):
                message += data
                if first & 0x80:
                    return json.loads(message)

    def close(self):
        self._send(0x8, b"")
        self.socket.close()


def subscribe(url, method, params):
    """What a subscription tells, one after another, until the caller has enough."""
    connection = WebSocket(url)
    try:
        connection.send(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method["name"], "params": params}))
        while True:
            message = connection.receive()
            if "error" in message:
                raise RpcError(message["error"])
            if message.get("method") == method["x-subscription"]["notification"]:
                yield message["params"]["result"]
    finally:
        connection.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:8645/rpc")
    parser.add_argument("--address", help="whose history to show [default: the node's wallet]")
    parser.add_argument("--blocks", type=int, default=3, help="new blocks to wait for")
    args = parser.parse_args()
    try:
        node = Client(args.url)
    except urllib.error.URLError as e:
        raise SystemExit(f"no node answers at {args.url} ({e.reason}): start one with `ailo-node run`")
    print(f"{node.document['info']['title']} {node.document['info']['version']}: {len(node.document['methods'])} methods")

    status = node.status()
    print(f"network {status['network_name']}, height {status['height']}, state root {status['state_root'][:16]}")
    print(f"round {status['round']['number']}: {status['round']['phase']}, {status['peers']} peers")

    print("newest blocks")
    for block in node.blocks(limit=5)["blocks"]:
        header = block["header"]
        print(f"  {header['height']}  {block['hash'][:16]}  {block['transactions']} transactions")

    address = args.address or status["wallet"]
    account = node.account(address=address)
    print(f"{address} has {account['free']} ALC")
    for entry in node.history(address=address, limit=5)["entries"]:
        print(f"  block {entry['height']}  {entry['free']} ALC then  {entry['event']['event']}")

    print("new blocks")
    for count, header in zip(range(args.blocks), node.subscribeBlocks()):
        print(f"  {header['height']}  state root {header['state_root'][:16]}", flush=True)
        if count + 1 == args.blocks:
            break


if __name__ == "__main__":
    try:
        main()
    except RpcError as e:
        raise SystemExit(f"the node refuses: {e} ({e.code})")
