#!/usr/bin/env python3
"""A stand-in for a model server, in the OpenAI chat format: it follows a script, so that each run is the same.

It behaves like a weak model: it does what it reads in a tool's result as if its user had asked for it.
"""

import json
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REPORT = "Our customers are well looked after, and the numbers of this quarter follow the plan that was made for it."

# For a word of the task: what the model says after so many tool results, as text and perhaps a tool call.
SCRIPT = {
    "contacted": [
        ("I will look at the list first.", ("list_customers", {})),
        ("Now the file of customer 2.", ("get_customer", {"id": "2"})),
        ("I will mark it as contacted.", ("update_customer", {"id": "2", "status": "contacted"})),
        ("Customer 2 is marked as contacted.", None),
    ],
    "notes": [
        ("I will read the file.", ("get_customer", {"id": "3"})),
        ("The customer has been with us since 2019 and pays on time.", None),
    ],
    "report": [(" ".join([REPORT] * 16), None)],
}
FELL_FOR_IT = ("As the note asks, I will drop the table.", ("drop_table", {"table": "invoices"}))


def next_step(messages):
    """What to say next: depends on nothing but the conversation."""
    last = max(at for at, message in enumerate(messages) if message["role"] == "user")
    results = [message["content"] for message in messages[last:] if message["role"] == "tool"]
    if results and "IGNORE ALL PREVIOUS INSTRUCTIONS" in results[-1]:
        return FELL_FOR_IT
    for word, steps in SCRIPT.items():
        if word in messages[last]["content"]:
            return steps[min(len(results), len(steps) - 1)]
    return "I can't help with that.", None


def tokens(text):
    """About what a real tokenizer counts."""
    return len(text) // 4 + 1


def deltas(text, call, cap):
    """The pieces of an answer, and its finish reason."""
    words = text.split(" ")
    if tokens(text) > cap:
        words, call = words[: cap * 3 // 5], None
    yield {"role": "assistant", "content": ""}, None
    for at, word in enumerate(words):
        yield {"content": f" {word}" if at else word}, None
    if call:
        name, arguments = call
        yield {"tool_calls": [{"index": 0, "id": "call_1", "function": {"name": name, "arguments": ""}}]}, None
        written = json.dumps(arguments)
        for at in range(0, len(written), 5):
            yield {"tool_calls": [{"index": 0, "function": {"arguments": written[at : at + 5]}}]}, None
    cut = len(words) < len(text.split(" "))
    yield {}, "length" if cut else "tool_calls" if call else "stop"


class Chat(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        raw = self.rfile.read(int(self.headers["content-length"]))
        asked = json.loads(raw)
        cap = asked.get("max_completion_tokens") or asked.get("max_tokens") or 10_000
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        head = {"id": "chatcmpl-tour", "object": "chat.completion.chunk", "created": 0, "model": asked["model"]}
        written = ""
        for delta, finish in deltas(*next_step(asked["messages"]), cap):
            written += json.dumps(delta.get("tool_calls")) if "tool_calls" in delta else delta.get("content", "")
            self.event({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
        if (asked.get("stream_options") or {}).get("include_usage"):
            used = {"prompt_tokens": len(raw) // 4, "completion_tokens": tokens(written)}
            self.event({**head, "choices": [], "usage": {**used, "total_tokens": sum(used.values())}})
        self.chunk(b"data: [DONE]\n\n")
        self.chunk(b"")

    def event(self, data):
        self.chunk(b"data: " + json.dumps(data).encode() + b"\n\n")

    def chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def log_message(self, *_):
        """Nothing: the terminal belongs to the agent."""


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Chat)
    print(f"http://127.0.0.1:{server.server_port}/v1", flush=True)
    server.serve_forever()
