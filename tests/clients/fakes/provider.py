#!/usr/bin/env python3
"""A fake model provider over HTTPS that plays api.openai.com and api.anthropic.com and counts what reaches it.

`GET /__count` tells, for each path and each model, how many requests came and with which keys. `GET /__go?model=M`
lets the `slow` answer to a model go on. By hand: `python3 tests/clients/fakes/provider.py FOLDER` (certificates are
made there) prints its URL and serves until it is stopped.
"""

import json
import ssl
import sys
import threading
from collections import Counter, defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from fakes import anthropic_api, certificates, openai_api
from fakes.scenarios import PAUSE, scenario

# Path to the whole answer, the streamed one if there is one, and the form of failures.
ROUTES = {
    "/v1/chat/completions": (openai_api.chat, openai_api.chat_stream, openai_api.failure),
    "/v1/responses": (openai_api.responses, openai_api.responses_stream, openai_api.failure),
    "/v1/embeddings": (openai_api.embeddings, None, openai_api.failure),
    "/v1/messages": (anthropic_api.messages, anthropic_api.messages_stream, anthropic_api.failure),
    "/v1/messages/count_tokens": (anthropic_api.count_tokens, None, anthropic_api.failure),
}
# How long a `slow` answer waits for `/__go` before it breaks off, in seconds.
PATIENCE = 10


class Provider(ThreadingHTTPServer):
    """The server with its counts."""

    daemon_threads = True

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "leaf.crt", folder / "leaf.key")
        self.tls = context
        self.lock = threading.Lock()
        self.paths = Counter()
        self.models = defaultdict(lambda: {"attempts": 0, "keys": []})
        self.gates = defaultdict(threading.Event)

    def finish_request(self, request, client_address):
        """The handshake is done by the connection's own thread, so that none holds up the others."""
        try:
            with self.tls.wrap_socket(request, server_side=True) as secured:
                super().finish_request(secured, client_address)
        except OSError:
            pass  # A client that hangs up is no news.

    def note(self, path, model, keys):
        with self.lock:
            self.paths[path] += 1
            self.models[model]["attempts"] += 1
            self.models[model]["keys"] += keys

    def counts(self):
        with self.lock:
            return {"paths": dict(self.paths), "models": dict(self.models)}

    def gate(self, model):
        with self.lock:
            return self.gates[model]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        asked = urlsplit(self.path)
        if asked.path == "/__count":
            self.reply(200, self.server.counts())
        elif asked.path == "/__go":
            self.server.gate(parse_qs(asked.query)["model"][0]).set()
            self.reply(200, {})
        else:
            self.reply(404, openai_api.failure(f"`{self.path}` is not served here"))

    def do_POST(self):
        path = urlsplit(self.path).path
        body = self.body()
        if path not in ROUTES:
            return self.reply(404, openai_api.failure(f"`{path}` is not served here"))
        asked = json.loads(body)
        keys = [self.headers[name] for name in ("authorization", "x-api-key") if name in self.headers]
        self.server.note(path, asked["model"], keys)
        whole, streamed, failure = ROUTES[path]
        if scenario(asked["model"]) == "error500":
            self.reply(500, failure("the fake fails on purpose"))
        elif asked.get("stream") and streamed:
            self.stream(asked["model"], streamed(asked))
        else:
            self.reply(200, whole(asked))

    def body(self):
        if self.headers.get("transfer-encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def reply(self, status, value):
        body = json.dumps(value, ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.send_header("x-request-id", "req_fake")
        self.end_headers()
        self.wfile.write(body)

    def stream(self, model, events):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream; charset=utf-8")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for event in events:
            if event is not PAUSE:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
            elif not self.server.gate(model).wait(PATIENCE):
                self.close_connection = True
                return
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_):
        """Nothing: the terminal belongs to the tests."""


if __name__ == "__main__":
    certificates.make(Path(sys.argv[1]))
    provider = Provider(Path(sys.argv[1]))
    print(f"https://127.0.0.1:{provider.server_port}", flush=True)
    provider.serve_forever()
