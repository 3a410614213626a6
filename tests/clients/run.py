#!/usr/bin/env python3
"""Runs the real model and MCP SDKs, unmodified, through the built binary, against fake providers on loopback.

    tests/setup && python3 tests/clients/run.py --bin target/release/sideguard

`--direct` leaves Sideguard out and shows that the fakes please the SDKs. Needs what tests/setup installs; itself only
the standard library. Ends with 1 when a check fails.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import stage  # noqa: E402  (found beside this file, wherever it is started from)

VENV = Path(os.environ.get("SIDEGUARD_CLIENTS_VENV", HERE.parents[1] / "target" / "clients" / "python"))
DRIVERS = {
    "python": [VENV / "bin" / "python", HERE / "python" / "main.py"],
    "node": ["node", HERE / "node" / "main.mjs"],
}


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--bin", default=os.environ.get("SIDEGUARD_BIN"), help="the binary (SIDEGUARD_BIN)")
    arguments.add_argument("--direct", action="store_true", help="without Sideguard: the SDKs against the fakes")
    arguments.add_argument("--only", choices=DRIVERS, help="the SDKs of one language")
    arguments.add_argument("--match", default="", help="only checks that have this in their name")
    given = arguments.parse_args()
    if not given.direct and not given.bin:
        arguments.error("give the binary with `--bin FILE` or SIDEGUARD_BIN, or say `--direct`")
    if not VENV.exists():
        arguments.error(f"`{VENV}` is not there: run tests/setup first")
    binary = None if given.direct else Path(given.bin).resolve()
    with tempfile.TemporaryDirectory(prefix="sideguard-clients-") as folder:
        with stage.built(Path(folder), VENV, binary) as script:
            languages = [given.only] if given.only else DRIVERS
            failed = [language for language in languages if run(language, script, given.match)]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def run(language, script, match):
    """One language's driver; it finds the places to test in the script, a JSON file. True when a check failed."""
    # Node reads its extra roots when it starts, hence those of all places at once.
    environment = {**stage.clean_environment(), "NODE_EXTRA_CA_CERTS": str(script.parent / "roots.pem")}
    command = [*map(str, DRIVERS[language]), str(script), match]
    return subprocess.run(command, env=environment).returncode != 0


if __name__ == "__main__":
    main()
