"""The anthropic package: messages, count_tokens, and its exceptions."""

import json

import anthropic
from place import AGENT_KEY, REASON, holds, only, raises, same

HELLO = [{"role": "user", "content": "hello"}]
TOOLS = [{"name": name, "input_schema": {"type": "object"}} for name in ("get_customer", "drop_table")]


def client(place, **more):
    return anthropic.Anthropic(api_key=AGENT_KEY, base_url=place.spec["anthropic"], timeout=20, **more)


def ask(place, model, **more):
    return client(place).messages.create(model=model, max_tokens=100, messages=HELLO, tools=TOOLS, **more)


def stream(place, model):
    """The final message of the SDK's own helper, and the pieces of JSON that it saw on the way."""
    pieces = []
    asked = {"model": model, "max_tokens": 100, "messages": HELLO, "tools": TOOLS}
    with client(place).messages.stream(**asked) as events:
        for event in events:
            if event.type == "content_block_delta" and event.delta.type == "input_json_delta":
                pieces.append(event.delta.partial_json)
        return events.get_final_message(), "".join(pieces)


def blocks(message):
    """Text and tool calls as (name, input)."""
    text = "".join(block.text for block in message.content if block.type == "text")
    return text, [(block.name, block.input) for block in message.content if block.type == "tool_use"]


def check_messages_answer_with_text_and_usage(place):
    model = place.model("text")
    raw = client(place).messages.with_raw_response.create(model=model, max_tokens=100, messages=HELLO)
    answer = raw.parse()
    same(blocks(answer), ("Hello from the fake.", []))
    same((answer.usage.input_tokens, answer.usage.cache_read_input_tokens, answer.usage.output_tokens), (8, 3, 7))
    same(place.attempts(model), 1)
    if place.governed:
        same(raw.headers["x-sideguard-decision"], "allow")


@only(governed=True)
def check_the_agents_key_never_reaches_the_provider(place):
    # The upstream's key goes into `x-api-key`, while the SDK sends the agent's as a bearer token.
    model = place.model("text")
    ask(place, model)
    same(place.keys(model), ["sk-upstream"])


def check_streamed_text_flows_before_the_answer_ends(place):
    model = place.model("slow")
    text, stop = "", None
    for event in ask(place, model, stream=True):
        if event.type == "content_block_delta":
            if text == "":
                place.go(model)
            text += event.delta.text
        if event.type == "message_delta":
            stop = event.delta.stop_reason
    same((text, stop), ("One two three.", "end_turn"))
    same(place.attempts(model), 1)


def check_tokens_are_counted(place):
    counted = client(place).messages.count_tokens(model=place.model("text"), messages=HELLO)
    same(counted.input_tokens, 11)


def check_an_allowed_tool_call_arrives_intact(place):
    wanted = ("Let me look.", [("get_customer", json.loads(place.script["arguments"]))])
    same(blocks(ask(place, place.model("tool-safe"))), wanted)
    message, pieces = stream(place, place.model("tool-safe"))
    same((blocks(message), message.stop_reason, pieces), (wanted, "tool_use", place.script["arguments"]))


@only(governed=True)
def check_a_refused_tool_call_becomes_text(place):
    model = place.model("tool-drop")
    for message in (ask(place, model), stream(place, model)[0]):
        text, calls = blocks(message)
        holds(text, REASON)
        same((calls, message.stop_reason), ([], "end_turn"))
    same(place.attempts(model), 2)


@only(governed=True)
def check_of_three_tool_calls_only_the_refused_one_is_missing(place):
    safe = ("get_customer", json.loads(place.script["arguments"]))
    for message in (ask(place, place.model("tool-both")), stream(place, place.model("tool-both"))[0]):
        text, calls = blocks(message)
        holds(text, REASON)
        same((calls, message.stop_reason), ([safe, safe], "tool_use"))


@only(style="error", governed=True)
def check_a_refused_tool_call_raises(place):
    with raises(anthropic.PermissionDeniedError, "policy_denied") as caught:
        ask(place, place.model("tool-drop"))
    same(caught[0].type, "permission_error")
    model = place.model("tool-drop")
    with raises(anthropic.APIStatusError, "policy_denied") as caught:
        stream(place, model)
    holds(str(caught[0]), REASON)
    same((caught[0].type, place.attempts(model)), ("permission_error", 1))


@only(governed=True)
def check_a_denied_model_raises_permission_denied(place):
    for streamed in (False, True):
        model = place.model("denied")
        with raises(anthropic.PermissionDeniedError, "policy_denied") as caught:
            ask(place, model, stream=streamed)
        holds(str(caught[0]), "This model is not approved")
        same((caught[0].type, place.attempts(model)), ("permission_error", 0))
        assert caught[0].request_id


@only(governed=True)
def check_a_used_up_budget_raises_payment_required(place):
    model = place.model("poor")
    with raises(anthropic.PaymentRequiredError, "budget_exhausted") as caught:
        ask(place, model)
    same((caught[0].status_code, caught[0].type, place.attempts(model)), (402, "billing_error", 0))


@only(governed=True)
def check_a_hurry_raises_rate_limit_error(place):
    # Retries are switched off: within a minute the SDK would rightly wait and try again.
    hasty = client(place, max_retries=0)
    first, second = place.model("hurried"), place.model("hurried")
    try:
        hasty.messages.create(model=first, max_tokens=100, messages=HELLO)
    except anthropic.RateLimitError:
        pass  # An earlier check had the one call of these 30 seconds.
    with raises(anthropic.RateLimitError, "rate_limited"):
        hasty.messages.create(model=second, max_tokens=100, messages=HELLO)
    same(place.attempts(second), 0)


@only(governed=True)
def check_a_tripped_breaker_raises_503(place):
    model = place.model("error500")
    hasty = client(place, max_retries=0)
    for _ in range(3):
        with raises(anthropic.InternalServerError):
            hasty.messages.create(model=model, max_tokens=100, messages=HELLO)
    with raises(anthropic.APIStatusError, "breaker_tripped") as caught:
        hasty.messages.create(model=model, max_tokens=100, messages=HELLO)
    same((caught[0].status_code, place.attempts(model)), (503, 3))
