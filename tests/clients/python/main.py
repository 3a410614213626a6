"""The Python SDKs at every place of a script (see ../stage.py): `main.py SCRIPT [MATCH]`."""

import json
import sys
from pathlib import Path

import anthropic_checks
import mcp_checks
import openai_checks
from place import Place, Report

SDKS = {"openai": openai_checks, "anthropic": anthropic_checks, "mcp": mcp_checks}


def main(path, match=""):
    script = json.loads(Path(path).read_text())
    report = Report(match)
    for spec in script["places"]:
        place = Place(script, spec)
        for sdk, module in SDKS.items():
            for check in [value for name, value in vars(module).items() if name.startswith("check_")]:
                if place.takes(check):
                    report.run(place, sdk, check)
    print(f"{report.passed} passed, {report.failed} failed", flush=True)
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
