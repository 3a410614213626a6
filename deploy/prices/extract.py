#!/usr/bin/env python3
"""Makes proxy/prices.json, the shipped price table, from the PyPI wheel `litellm` (MIT, Berri AI).

README: `python3 deploy/prices/extract.py` downloads the pinned wheel with pip and rewrites the table; `--version N`
takes another release, `--wheel FILE` one that is there already. Read the diff before you commit it.

Prices are whole pico-dollars a token (1 USD for a million tokens is 1 000 000 of them), limits are tokens. `cached`
and `cache_write` are for input tokens read from and written to the provider's cache; `long` holds the prices of calls
with more input than `above`, where a provider charges those more. A model that costs nothing here is left out: it then
has the price of unknown models, which is never zero.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from datetime import date
from decimal import Decimal
from pathlib import Path

VERSION = "1.109.1"
TABLE = "litellm/model_prices_and_context_window_backup.json"
OUT = Path(__file__).resolve().parents[2] / "proxy" / "prices.json"

# As the table names providers, with the prefix that it puts before the names of their models.
PREFIXES = {
    "openai": "openai/",
    "text-completion-openai": "text-completion-openai/",
    "anthropic": "anthropic/",
    "gemini": "gemini/",
    "mistral": "mistral/",
    "groq": "groq/",
    "deepseek": "deepseek/",
    "xai": "xai/",
}
# The only provider whose own API takes model names with a slash in them (`openai/gpt-oss-120b`).
SLASHED = {"groq"}
MODES = {"chat", "completion", "responses", "embedding"}
PRICES = {
    "in": "input_cost_per_token",
    "out": "output_cost_per_token",
    "cached": "cache_read_input_token_cost",
    "cache_write": "cache_creation_input_token_cost",
}
LIMITS = {"max_in": "max_input_tokens", "max_out": "max_output_tokens"}
LONG = re.compile(r"input_cost_per_token_above_(\d+)k_tokens")
# Output that is charged by something dearer than text tokens.
NOT_TEXT = re.compile(r"output_cost_per_(audio|video|image|character|second)")
PICO = 10**12
LICENCE = "MIT, Berri AI (Copyright 2023 Berri AI); its text: deploy/prices/LICENSE.litellm"


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--version", default=VERSION, help=f"release of litellm ({VERSION})")
    arguments.add_argument("--wheel", type=Path, help="a wheel that was downloaded before")
    arguments.add_argument("--out", type=Path, default=OUT, help="file to write")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        wheel = given.wheel or download(given.version, Path(folder))
        table, version, built = read(wheel)
    models, left_out = take(table)
    head = {
        "source": f"https://pypi.org/project/litellm/{version}/ {TABLE}",
        "version": version,
        "licence": LICENCE,
        "date": built,
    }
    given.out.write_text(render(head, models), encoding="utf-8")
    print(f"litellm {version} of {built}: {len(models)} models to {given.out}")
    for why, names in sorted(left_out.items()):
        print(f"left out, {why}: {len(names)}: {' '.join(sorted(names))}")


def download(version, folder):
    """The wheel of a release, by pip, which checks its hash."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    subprocess.run([*command, "--dest", str(folder), f"litellm=={version}"], check=True)
    [wheel] = folder.glob("litellm-*.whl")
    return wheel


def read(wheel):
    """The table, the wheel's version, and the day on which it was built."""
    with zipfile.ZipFile(wheel) as archive:
        table = json.loads(archive.read(TABLE), parse_float=Decimal)
        [metadata] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        text = archive.read(metadata).decode("utf-8")
        version = re.search(r"^Version: (\S+)$", text, re.MULTILINE)[1]
        if "License-Expression: MIT" not in text and "License: MIT" not in text:
            sys.exit(f"`{wheel}` no longer says that its licence is MIT: find out before you go on")
        return table, version, build_date(archive)


def build_date(archive):
    """Reproducible wheels set their files to 1980; then the bill of materials inside still tells the day."""
    days = [date(*entry.date_time[:3]) for entry in archive.infolist() if entry.date_time[0] > 1980]
    for name in archive.namelist():
        if "/sboms/" in name:
            stamp = json.loads(archive.read(name)).get("metadata", {}).get("timestamp", "")
            days += [date.fromisoformat(stamp[:10])] if stamp else []
    return max(days).isoformat() if days else sys.exit("the wheel does not tell when it was built")


def take(table):
    """Models under the names that their providers' own APIs take, and what was left out and why."""
    models, left_out = {}, {}
    seen = Counter(entry.get("litellm_provider") for entry in table.values())
    if missing := [provider for provider in PREFIXES if not seen[provider]]:
        sys.exit(f"the table has no models of {', '.join(missing)}: its format has changed")
    for full, entry in table.items():
        provider = entry.get("litellm_provider")
        if provider not in PREFIXES or entry.get("mode") not in MODES:
            continue
        name = full.removeprefix(PREFIXES[provider])
        if why := unfit(name, provider, entry):
            left_out.setdefault(why, []).append(full)
            continue
        found = model(full, entry)
        models[name] = dearest(models[name], found) if name in models else found
    return models, left_out


def unfit(name, provider, entry):
    """Why an entry has no place in the table; None when it has one."""
    if name.startswith("ft:"):
        return "fine-tuned"
    if "/" in name and provider not in SLASHED:
        return "a variant by region or size"
    if any(NOT_TEXT.match(key) for key in entry) or "text" not in entry.get("supported_output_modalities", ["text"]):
        return "not only text"
    if not any(entry.get(key) for key in (PRICES["in"], PRICES["out"])):
        return "without a price by token"
    return None


def model(full, entry):
    """One line of our table from one entry of theirs."""
    found = prices(full, entry, "")
    if not {"in", "out"} <= found.keys():
        if entry["mode"] != "embedding" or "in" not in found:
            sys.exit(f"`{full}` has one of its two prices only")
        found["out"] = 0
    for ours, theirs in LIMITS.items():
        limit = entry.get(theirs)
        if limit is not None:
            found[ours] = whole(full, theirs, Decimal(limit))
    steps = [match for key in entry if (match := LONG.fullmatch(key))]
    if len(steps) > 1:
        sys.exit(f"`{full}` has {len(steps)} steps of prices, the table has room for one")
    for step in steps:
        found["long"] = {"above": int(step[1]) * 1000, **prices(full, entry, f"_above_{step[1]}k_tokens")}
    return found


def prices(full, entry, suffix):
    found = {}
    for ours, theirs in PRICES.items():
        price = entry.get(theirs + suffix)
        # Writing to the cache for nothing means that it costs what input costs.
        if price is not None and not (ours == "cache_write" and price == 0):
            found[ours] = whole(full, theirs + suffix, Decimal(price) * PICO)
    return found


def whole(full, key, value):
    if value < 0 or value != value.to_integral_value():
        sys.exit(f"`{full}`: `{key}` is {value}, not a whole number that is not negative")
    return int(value)


def dearest(one, other):
    """Of two entries under one name the higher price and the lower limit, so that a bound stays a bound."""
    merged = {}
    for key in one.keys() | other.keys():
        values = [side[key] for side in (one, other) if key in side]
        if key == "long":
            merged[key] = values[0] if len(values) == 1 else dearest(*values)
        else:
            merged[key] = min(values) if key.startswith("max_") or key == "above" else max(values)
    return merged


def render(head, models):
    """JSON with one model a line, so that diffs read well."""
    order = ["above", *PRICES, *LIMITS, "long"]

    def line(entry):
        parts = {key: entry[key] for key in order if key in entry}
        return {key: line(value) if key == "long" else value for key, value in parts.items()}

    lines = [f"  {json.dumps(key)}: {json.dumps(value)}," for key, value in head.items()]
    rows = [f"    {json.dumps(name)}: {json.dumps(line(models[name]))}" for name in sorted(models)]
    return "\n".join(["{", *lines, '  "models": {', ",\n".join(rows), "  }", "}", ""])


if __name__ == "__main__":
    main()
