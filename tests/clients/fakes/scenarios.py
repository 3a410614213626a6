"""What the fake providers answer: chosen by the model's name up to its first colon, the same in every dialect."""

import json

# Arguments that are easily hurt on the way: quotes, escapes, braces, letters beyond ASCII, a number beyond 2^53.
ARGUMENTS = json.dumps(
    {"id": "42", "note": 'a "quoted" {brace} \\ and ünïcode 🦀', "big": 12345678901234567890, "none": None},
    ensure_ascii=False,
)
SAFE = ("get_customer", ARGUMENTS)
DROP = ("drop_table", '{"table": "customers"}')

# Text and tool calls of an answer. `slow` stops after its first word until `/__go` is asked for.
SCENARIOS = {
    "text": ("Hello from the fake.", []),
    "slow": ("One two three.", []),
    "tool-safe": ("Let me look.", [SAFE]),
    "tool-drop": ("Let me tidy up.", [DROP]),
    "tool-both": ("Let me see.", [SAFE, DROP, SAFE]),
}
# Any other model's answer: models that the proxy refuses have no scenario of their own.
DEFAULT = SCENARIOS["text"]
INPUT, CACHED, OUTPUT = 11, 3, 7
# Stands in a stream where it waits for `/__go`.
PAUSE = object()


def scenario(model):
    return model.partition(":")[0]


def answer(model):
    """Text and tool calls, these as (id, name, arguments)."""
    text, calls = SCENARIOS.get(scenario(model), DEFAULT)
    return text, [(f"call_{at}", name, arguments) for at, (name, arguments) in enumerate(calls)]


def words(model, text):
    """The text in pieces."""
    for at, word in enumerate(text.split(" ")):
        yield f" {word}" if at else word
        if at == 0 and scenario(model) == "slow":
            yield PAUSE


def bits(arguments):
    """A call's arguments in pieces that cut through escapes and names."""
    return [arguments[at : at + 7] for at in range(0, len(arguments), 7)]
