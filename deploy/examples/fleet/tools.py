"""A tool server for the tour of a fleet: customers that can be read and deleted. It ends
when it is told to, and by itself after half an hour."""

import argparse
import json
import os
import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

customers = {str(number): {"id": number, "name": f"customer {number}"} for number in range(1, 10)}


class Tools(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        key = self.path.rsplit("/", 1)[-1]
        found = list(customers.values()) if key == "customers" else customers.get(key)
        self.answer(200 if found else 404, found)

    def do_DELETE(self):
        self.answer(200, {"deleted": customers.pop(self.path.rsplit("/", 1)[-1], None)})

    def do_POST(self):
        ends = self.path == "/end"
        self.answer(200 if ends else 404, {})
        if ends:
            threading.Thread(target=self.server.shutdown).start()

    def log_message(self, *_):
        pass


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=4790)
    parser.add_argument("--detach", action="store_true", help="go on in the background")
    parser.add_argument("--end", action="store_true", help="end the one in the background")
    arguments = parser.parse_args()
    if arguments.end:
        url = f"http://127.0.0.1:{arguments.port}/end"
        urllib.request.urlopen(urllib.request.Request(url, method="POST")).read()
        print("tools ended")
        return
    server = ThreadingHTTPServer(("127.0.0.1", arguments.port), Tools)
    print(f"tools at http://127.0.0.1:{arguments.port}/customers", flush=True)
    if arguments.detach:
        if os.fork():
            os._exit(0)
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (sys.stdin, sys.stdout, sys.stderr):
            os.dup2(null, stream.fileno())
    end = threading.Timer(1800, server.shutdown)
    end.daemon = True
    end.start()
    server.serve_forever()


if __name__ == "__main__":
    main()
