"""A tool server of the official MCP package over Streamable HTTP, both eras, with a certificate of the test CA.

`python mcp_server.py FOLDER` prints its URL and serves until it is stopped; `GET /__count` tells how often each tool
was really called. Needs the packages of tests/clients/python/requirements.txt.
"""

import socket
import sys
from collections import Counter
from pathlib import Path

import uvicorn
from mcp.server import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from starlette.responses import JSONResponse

CALLS = Counter({"query": 0, "drop_table": 0})
server = MCPServer("tools", log_level="ERROR")


@server.tool()
def query(sql: str) -> str:
    """Reads from the database."""
    CALLS["query"] += 1
    return f"rows of: {sql}"


@server.tool()
def drop_table(table: str) -> str:
    """Drops a table of the database."""
    CALLS["drop_table"] += 1
    return f"dropped {table}"


@server.custom_route("/__count", methods=["GET"])
async def count(_request):
    return JSONResponse(dict(CALLS))


def main(folder):
    listener = socket.create_server(("127.0.0.1", 0))
    # The host name is that of whom it plays, which the package's own check does not know.
    anyone = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    app = server.streamable_http_app(transport_security=anyone)
    tls = {"ssl_certfile": folder / "leaf.crt", "ssl_keyfile": folder / "leaf.key"}
    config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1, **tls)
    print(f"https://127.0.0.1:{listener.getsockname()[1]}/mcp", flush=True)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
