"""What the SDKs' checks stand on: the fakes, two sidecars with different forms of refusal, and a script (JSON) that
tells the drivers where everything is.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from fakes import certificates, scenarios
from fakes.provider import Provider

HERE = Path(__file__).resolve().parent
# Forms of refusal, one sidecar each: the denied tool call replaced by text, or raised as an error.
STYLES = {
    "replace": {},
    "error": {"refusals": {"toolCall": "error", "mcp": "error"}},
}
# How long a sidecar may take to be ready and to stop, in seconds.
PATIENCE = 15


def clean_environment():
    """The environment without anything that would lead the SDKs elsewhere."""
    leading = ("_proxy", "openai_", "anthropic_", "sideguard_", "ssl_cert_", "node_extra_", "node_use_env_")
    kept = {key: value for key, value in os.environ.items() if not any(part in key.lower() for part in leading)}
    return kept


@contextlib.contextmanager
def built(folder, venv, binary):
    """Builds the stage in a folder and gives the script's path; without a binary the SDKs meet the fakes directly."""
    certificates.make(folder)
    with contextlib.ExitStack() as running:
        provider = running.enter_context(fake_provider(folder))
        tools = running.enter_context(fake_tools(folder, venv))
        script = {
            "provider": provider,
            "tools": tools,
            "ca": str(folder / "ca.crt"),
            "arguments": scenarios.ARGUMENTS,
            "input": scenarios.INPUT,
            "output": scenarios.OUTPUT,
            "places": [],
        }
        if binary is None:
            script["places"].append(direct(provider, tools, folder / "ca.crt"))
        else:
            for style, form in STYLES.items():
                outbound, root = running.enter_context(sidecar(binary, folder, style, form, provider, tools))
                script["places"] += [gateway(style, outbound), connect(style, outbound, root)]
        roots = [folder / "ca.crt", *folder.glob("state-*/ca/ca.crt")]
        (folder / "roots.pem").write_text("".join(root.read_text() for root in roots))
        path = folder / "script.json"
        path.write_text(json.dumps(script, indent=2))
        yield path


def direct(provider, tools, root):
    urls = {"openai": f"{provider}/v1", "anthropic": provider, "tools": tools}
    return {"via": "direct", "style": "none", **urls, "environment": {"SSL_CERT_FILE": str(root)}}


def gateway(style, outbound):
    base = f"http://{outbound}"
    urls = {"openai": f"{base}/openai/v1", "anthropic": f"{base}/anthropic", "tools": f"{base}/tools/mcp"}
    return {"via": "gateway", "style": style, **urls, "environment": {}}


def connect(style, outbound, root):
    urls = {
        "openai": "https://api.openai.com/v1",
        "anthropic": "https://api.anthropic.com",
        "tools": "https://tools.example.com/mcp",
    }
    environment = {"HTTPS_PROXY": f"http://{outbound}", "SSL_CERT_FILE": str(root)}
    return {"via": "connect", "style": style, **urls, "environment": environment}


@contextlib.contextmanager
def fake_provider(folder):
    provider = Provider(folder)
    threading.Thread(target=provider.serve_forever, daemon=True).start()
    yield f"https://127.0.0.1:{provider.server_port}"
    provider.shutdown()


@contextlib.contextmanager
def fake_tools(folder, venv):
    command = [str(venv / "bin" / "python"), str(HERE / "fakes" / "mcp_server.py"), str(folder)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=clean_environment())
    try:
        url = child.stdout.readline().strip()
        yield url or sys.exit("the fake MCP server did not start: run tests/setup")
    finally:
        stop(child)


def configuration(folder, state, form, provider, tools):
    """The proxy's configuration; JSON is YAML too."""
    provider, tools = (url.split("/")[2] for url in (provider, tools))
    bearer = {"header": "authorization", "value": "Bearer sk-upstream"}
    key = {"header": "x-api-key", "value": "sk-upstream"}
    spec = {
        "agent": {"name": "clients"},
        "listen": {"outbound": "127.0.0.1:0", "admin": "127.0.0.1:0"},
        "state": str(state),
        "policies": [str(HERE / "policies")],
        "tls": {"trust": [str(folder / "ca.crt")]},
        "hosts": {"api.openai.com": provider, "api.anthropic.com": provider, "tools.example.com": tools},
        "upstreams": [
            {"name": "openai", "baseUrl": "https://api.openai.com", "dialect": "openai", "credential": bearer},
            {"name": "anthropic", "baseUrl": "https://api.anthropic.com", "dialect": "anthropic", "credential": key},
            {"name": "tools", "baseUrl": "https://tools.example.com", "dialect": "mcp"},
        ],
        "breakers": {"upstream": {"failures": 3, "cooldown": "20s"}},
        **form,
    }
    return {"apiVersion": "sideguard.dev/v1", "kind": "Proxy", "spec": spec}


@contextlib.contextmanager
def sidecar(binary, folder, style, form, provider, tools):
    """A running sidecar: its outbound address and the file with its CA."""
    state = folder / f"state-{style}"
    config, log = folder / f"{style}.yaml", folder / f"{style}.log"
    config.write_text(json.dumps(configuration(folder, state, form, provider, tools), indent=2))
    with log.open("w") as out:
        command = [str(binary), "proxy", "-c", str(config)]
        child = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=clean_environment())
    try:
        ports = ready(child, state / "ports.json", log)
        yield ports["outbound"], state / "ca" / "ca.crt"
    finally:
        if code := stop(child):
            print(f"the sidecar `{style}` ended with {code} on SIGTERM:\n{log.read_text()}", file=sys.stderr)


def ready(child, ports, log):
    """Waits until the sidecar has written its ports, which it does once it is ready."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and child.poll() is None:
        with contextlib.suppress(OSError, ValueError):
            return json.loads(ports.read_text())
        time.sleep(0.02)
    sys.exit(f"the sidecar was not ready within {PATIENCE} s:\n{log.read_text()}")


def stop(child):
    """Ends a child that we started; its exit status."""
    child.terminate()
    try:
        return child.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.wait()
