"""Where an SDK is tried: directly, through the gateway path, or through CONNECT; and how it went."""

import contextlib
import json
import os
import ssl
import traceback
import urllib.request
from dataclasses import dataclass, field
from itertools import count

AGENT_KEY = "sk-agent"
REASON = "Destructive operations blocked by policy"


def only(*, style="replace", governed=False):
    """Marks a check: `style` is the form of refusal that it is about, `governed` keeps it from direct places."""

    def mark(check):
        check.style, check.governed = style, governed
        return check

    return mark


@dataclass
class Place:
    """One way to the providers."""

    script: dict
    spec: dict
    numbers: count = field(default_factory=count)

    @property
    def name(self):
        return f"{self.spec['via']}/{self.spec['style']}"

    @property
    def governed(self):
        return self.spec["via"] != "direct"

    def takes(self, check):
        if not self.governed:
            return not getattr(check, "governed", False)
        return getattr(check, "style", "replace") == self.spec["style"]

    def model(self, scenario):
        """A model of its own for each use, so that its attempts can be counted."""
        return f"{scenario}:python.{self.name.replace('/', '.')}.{next(self.numbers)}"

    @contextlib.contextmanager
    def entered(self):
        """The environment that an agent at this place has."""
        before = dict(os.environ)
        os.environ.update(self.spec["environment"])
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)

    def fetch(self, url):
        """Asks a fake directly, beside all proxies."""
        trust = ssl.create_default_context(cafile=self.script["ca"])
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust)
        )
        with opener.open(url, timeout=10) as answer:
            return json.load(answer)

    def go(self, model):
        """Lets the provider's `slow` answer go on."""
        self.fetch(f"{self.script['provider']}/__go?model={model}")

    def attempts(self, model):
        """How many requests for a model reached the provider."""
        seen = self.fetch(f"{self.script['provider']}/__count")["models"].get(model, {"attempts": 0})
        return seen["attempts"]

    def keys(self, model):
        return self.fetch(f"{self.script['provider']}/__count")["models"][model]["keys"]

    def tool_calls(self):
        """How often each MCP tool was really called."""
        return self.fetch(self.script["tools"].removesuffix("/mcp") + "/__count")


@contextlib.contextmanager
def raises(kind, code=None):
    """The block must raise this exception (or one below it), with this code where it has one."""
    caught = []
    try:
        yield caught
    except kind as error:
        found = getattr(error, "error_code", None) or getattr(error, "code", None)
        assert code is None or found == code, f"code is {found!r}: {error}"
        caught.append(error)
    else:
        raise AssertionError(f"{kind.__name__} was not raised")


def same(found, wanted):
    assert found == wanted, f"{found!r} is not {wanted!r}"


def holds(text, part):
    assert part in (text or ""), f"{part!r} is not in {text!r}"


class Report:
    """Counts and prints the checks."""

    def __init__(self, match):
        self.match, self.passed, self.failed = match, 0, 0

    def run(self, place, sdk, check):
        name = f"python {sdk} {place.name}: {check.__name__.removeprefix('check_').replace('_', ' ')}"
        if self.match not in name:
            return
        try:
            with place.entered():
                check(place)
        except Exception as error:
            self.failed += 1
            print(f"FAIL {name}: {type(error).__name__}: {error}", flush=True)
            where = traceback.extract_tb(error.__traceback__)
            print("".join(traceback.format_list([line for line in where if "/clients/python/" in line.filename][-2:])))
        else:
            self.passed += 1
            print(f"ok   {name}", flush=True)
