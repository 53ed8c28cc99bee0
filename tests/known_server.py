"""A load server with known times: it streams as it is told, and tells when it really sent what.

The model's name is the script: `ttft=200,itl=20` (milliseconds), and with it

    tokens=N    of an answer, instead of max_tokens     per=N     tokens in one message
    join=N      messages in one write                   usage=0   no usage
    role=0      no message with the role before         early=1   the role at once
    cut=N       every Nth answer breaks off             error=N   every Nth request gets status 500
    broken=N    every Nth answer reports an error in its middle

`GET /sent` answers with one row a request, in the order of arrival: when it came and when each
message with tokens was written, on the clock that all processes of a machine share. A request
came when the kernel had it (on Linux), not when this process, busy with 200 others, has read it.
"""

import asyncio
import json
import socket
import struct
import subprocess
import sys
import time
import urllib.request

# linux/net_tstamp.h: the kernel's clock stamps what arrives, and the stamp comes with the bytes.
SO_TIMESTAMPING, RX_SOFTWARE, SOFTWARE = 37, 1 << 3, 1 << 4

HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


def event(delta, finish=None):
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return wrapped({"object": "chat.completion.chunk", "model": "known", "choices": [choice]})


def wrapped(body):
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def chunk(data):
    return b"%x\r\n%b\r\n" % (len(data), data)


rows = []
asked = 0


class Stream(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.data = transport, b""
        self.timer = None
        # asyncio reads without the kernel's stamps, so the reading is done here.
        transport.pause_reading()
        self.socket = transport.get_extra_info("socket").dup()
        asyncio.get_running_loop().add_reader(self.socket, self.readable)

    def connection_lost(self, _):
        asyncio.get_running_loop().remove_reader(self.socket)
        self.socket.close()
        if self.timer:
            self.timer.cancel()

    def readable(self):
        try:
            data, stamps, _, _ = self.socket.recvmsg(65536, 256)
        except ConnectionResetError:
            data = b""
        if not data:
            self.transport.close()
            return
        age = 0.0
        if stamps:
            seconds, nanoseconds = struct.unpack("qq", stamps[0][2][:16])
            age = time.time() - (seconds + nanoseconds / 1e9)
        self.data += data
        self.read(time.monotonic() - age)

    def read(self, arrived):
        head, found, body = self.data.partition(b"\r\n\r\n")
        if not found:
            return
        if head.startswith(b"GET"):
            self.reply(head.split()[1].decode())
            return
        length = next(
            int(line.split(b":")[1])
            for line in head.lower().split(b"\r\n")
            if line.startswith(b"content-length:")
        )
        if len(body) >= length:
            self.chat(json.loads(body[:length]), arrived)

    def plain(self, status, body):
        data = json.dumps(body).encode()
        head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nconnection: close\r\n"
        self.transport.write(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
        self.transport.close()

    def reply(self, path):
        if path == "/sent":
            self.plain(200, rows)
        elif path == "/v1/models":
            self.plain(
                200, {"object": "list", "data": [{"id": sys.argv[1], "max_model_len": 8192}]}
            )
        else:
            self.plain(404, {"detail": "Not Found"})

    def chat(self, wanted, arrived):
        global asked
        asked += 1
        told = dict(part.split("=") for part in wanted["model"].split(",") if "=" in part)
        self.told = {name: float(value) for name, value in told.items()}
        if self.every("error"):
            self.plain(500, {"error": {"message": "as told", "code": 500}})
            return
        self.row = {"received": arrived, "sent": [], "body": wanted}
        rows.append(self.row)
        self.left = int(
            self.told.get("tokens") or wanted.get("max_tokens") or wanted["max_completion_tokens"]
        )
        self.words = sum(len(str(m["content"]).split()) for m in wanted["messages"])
        self.tokens = self.left
        self.stop_at = self.left // 2 if self.every("cut") or self.every("broken") else 0
        self.breaks = self.every("broken")
        if self.told.get("early"):
            self.transport.write(HEAD + chunk(event({"role": "assistant", "content": ""})))
        self.at(arrived + self.told.get("ttft", 0) / 1000)

    def every(self, name):
        return bool(self.told.get(name)) and asked % int(self.told[name]) == 0

    def at(self, due):
        self.due = due
        self.timer = asyncio.get_running_loop().call_at(due, self.speak)

    def speak(self):
        data = b""
        if not self.row["sent"] and not self.told.get("early"):
            data = HEAD
            if self.told.get("role", 1):
                data += chunk(event({"role": "assistant", "content": ""}))
        joined, events = int(self.told.get("join", 1)), b""
        for _ in range(joined):
            if self.left:
                per = min(self.left, int(self.told.get("per", 1)))
                events += event({"content": " token" * per})
                self.left -= per
                self.row["sent"].append(0.0)
        count = min(joined, len(self.row["sent"]))
        self.transport.write(data + chunk(events))
        self.row["sent"][-count:] = [time.monotonic()] * count
        if self.left <= self.stop_at and self.stop_at:
            if self.breaks:
                self.transport.write(chunk(wrapped({"error": {"message": "broke", "code": 500}})))
            self.transport.close()
        elif self.left:
            self.at(self.due + self.told.get("itl", 0) / 1000)
        else:
            self.end()

    def end(self):
        data = chunk(event({}, "length"))
        if self.told.get("usage", 1):
            usage = {"prompt_tokens": self.words + 5, "completion_tokens": self.tokens}
            data += chunk(wrapped({"choices": [], "usage": usage}))
        self.transport.write(data + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        self.row["ended"] = time.monotonic()
        self.transport.close()


class KnownServer:
    """Starts it in a process of its own; `model` is what it lists."""

    def __init__(self, model="known"):
        command = [sys.executable, __file__, model]
        self._child = subprocess.Popen(command, stdout=subprocess.PIPE)
        self.url = f"http://127.0.0.1:{int(self._child.stdout.readline())}"

    def sent(self):
        with urllib.request.urlopen(f"{self.url}/sent") as answer:
            return json.load(answer)

    def stop(self):
        self._child.terminate()
        self._child.wait()
        self._child.stdout.close()


async def main():
    loop = asyncio.get_running_loop()
    listening = socket.create_server(("127.0.0.1", 0))
    if sys.platform == "linux":
        listening.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, RX_SOFTWARE | SOFTWARE)
    server = await loop.create_server(Stream, sock=listening, backlog=500)
    print(listening.getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
