#!/usr/bin/env python3
"""The tour: starts two servers that an agent works with, then the agent, governed by Sideguard.

The servers stand for what is out there: a database of customers (tool_server.py) and, unless OPENAI_API_KEY or
OPENAI_BASE_URL is set, a model (model_server.py). `--alone` starts the agent without Sideguard, for the contrast.
SIDEGUARD names the program; without it Cargo builds and runs it. Other arguments are flags of `sideguard run`.
"""

import contextlib
import os
import shlex
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]


@contextlib.contextmanager
def server(script):
    """Runs one of the servers; its first line is its URL, the rest is for the user, at the end."""
    child = subprocess.Popen([sys.executable, str(HERE / script)], stdout=subprocess.PIPE, text=True)
    try:
        yield child.stdout.readline().strip()
    finally:
        child.terminate()
        for line in child.communicate()[0].splitlines():
            print(f"{'end':>6} | {line}", flush=True)


def governed(urls, flags):
    """The command line of `sideguard run`, up to the command that it runs."""
    sideguard = shlex.split(os.environ.get("SIDEGUARD", "cargo run --release --"))
    # Servers of this machine that the agent may reach; what is out there on the internet needs no such flag.
    local = [part for url in urls for part in ("--local", str(urlsplit(url).port))]
    return [*sideguard, "run", "-v", "-f", "deploy/examples/tour/policies", *local, *flags, "--"]


def main(flags):
    alone = "--alone" in flags
    flags = [flag for flag in flags if flag != "--alone"]
    environment = dict(os.environ)
    with contextlib.ExitStack() as running:
        urls = [running.enter_context(server("tool_server.py"))]
        environment["TOOLS_URL"] = urls[0]
        if not os.environ.get("OPENAI_API_KEY") and not os.environ.get("OPENAI_BASE_URL"):
            urls.append(running.enter_context(server("model_server.py")))
            environment["OPENAI_BASE_URL"] = urls[1]
        agent = ["python3", "deploy/examples/tour/agent.py"]
        command = agent if alone else governed(urls, flags) + agent
        print("$ " + shlex.join(command), flush=True)
        return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
