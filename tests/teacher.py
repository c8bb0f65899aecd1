"""A teacher on loopback that answers, or misbehaves as a test says.

`behave(body, count)` decides for each request, `count` being how often this body came before: it
returns an answer (a text), or a function of the handler that writes what it likes.
"""

import contextlib
import http.server
import json
import socket
import struct
import threading
import time
from collections import Counter

KEY = "sk-tests-0123456789"


def say(body: dict) -> str:
    """Returns the usual answer: a function of the request."""
    asked = body["prompt"] if "prompt" in body else json.dumps(body["messages"])
    return f"answer {len(asked)} {hash_of(asked)}"


def hash_of(text: str) -> int:
    return sum(i * ord(letter) for i, letter in enumerate(text, 1)) % 9973


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        """A client that was killed is none of its business."""


class Teacher:
    """The server; `calls` are the bodies it got, `headers` what came with them."""

    def __init__(self, behave):
        self.behave, self.calls, self.headers = behave, [], []
        self.paths, self.most, self._now = [], 0, 0
        self._lock, self._count = threading.Lock(), Counter()
        teacher = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with contextlib.suppress(OSError):
                    teacher.serve(self, body)

            def log_message(self, *_):
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self._thread.start()

    def serve(self, handler, body):
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
            count = self._count[json.dumps(body)]
            self._count[json.dumps(body)] += 1
            self.calls.append(body)
            self.headers.append(dict(handler.headers))
            self.paths.append(handler.path)
        try:
            done = self.behave(body, count)
        finally:
            with self._lock:
                self._now -= 1
        (answer(done, body) if isinstance(done, str) else done)(handler)

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


def reply(data, status=200, kind="application/json", **headers):
    """Writes a whole response."""
    data = data if isinstance(data, bytes) else json.dumps(data).encode()

    def write(handler):
        handler.send_response(status)
        if kind:
            handler.send_header("content-type", kind)
        handler.send_header("content-length", str(len(data)))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(data)

    return write


def weights(text, body, tokens=10, vocab=100):
    """Returns log-probabilities as vLLM writes them: the written token first, even if it is rare.

    A function of the text and the request; each third token is none of the most probable.
    """
    content, k = [], body["top_logprobs"]
    for i in range(tokens):
        first = (hash_of(text) + 7 * i) % vocab
        top = [weight((first + j) % vocab, -1.0 - j) for j in range(k)]
        written = weight((first + k) % vocab, -1.0 - k) if i % 3 == 2 else top[0]
        others = [entry for entry in top if entry is not written][: k - 1]
        content.append({**written, "top_logprobs": [written, *others]})
    return {"content": content}


def weight(number, logprob):
    token = f"token_id:{number}"
    return {"token": token, "logprob": logprob, "bytes": list(token.encode())}


def answer(text, body, finish="stop", change=lambda logprobs: logprobs):
    """Writes an answer in the form of the API that was asked; `change` spoils log-probabilities."""
    usage = {"prompt_tokens": 100, "completion_tokens": 10}
    if "prompt" in body:
        choice = {"text": text, "finish_reason": finish}
        return reply({"output": {"choices": [choice], "usage": usage}})
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish}
    if body.get("logprobs"):
        choice["logprobs"] = change(weights(text, body))
    return reply({"choices": [choice], "usage": usage})


def reset(handler):
    """Ends the connection with a reset, without a word."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True
    handler.connection.close()


def half(handler):
    """Promises 1000 bytes and sends 20."""
    handler.send_response(200)
    handler.send_header("content-type", "application/json")
    handler.send_header("content-length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"output": {"choices')
    handler.close_connection = True


def drip(handler):
    """Sends a byte at a time, for ten seconds."""
    handler.send_response(200)
    handler.send_header("content-type", "application/json")
    handler.send_header("content-length", "1000")
    handler.end_headers()
    for _ in range(200):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.05)


def giant(handler):
    """Sends JSON without end."""
    handler.send_response(200)
    handler.send_header("content-type", "application/json")
    handler.send_header("connection", "close")
    handler.end_headers()
    handler.close_connection = True
    handler.wfile.write(b'{"output": {"choices": [{"text": "')
    for _ in range(200):
        handler.wfile.write(b"a" * (1 << 20))


def silent(handler):
    """Says nothing, for ten seconds."""
    for _ in range(100):
        time.sleep(0.1)
