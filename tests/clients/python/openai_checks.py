"""The openai package: chat completions, responses, embeddings, and its exceptions."""

import json

import openai
from place import AGENT_KEY, REASON, holds, only, raises, same

HELLO = [{"role": "user", "content": "hello"}]
CHAT_TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}
    for name in ("get_customer", "drop_table")
]
RESPONSE_TOOLS = [{"type": "function", "strict": False, **tool["function"]} for tool in CHAT_TOOLS]


def client(place, **more):
    return openai.OpenAI(api_key=AGENT_KEY, base_url=place.spec["openai"], timeout=20, **more)


def chat(place, model, **more):
    return client(place).chat.completions.create(model=model, messages=HELLO, tools=CHAT_TOOLS, **more)


def respond(place, model, **more):
    return client(place).responses.create(model=model, input="hello", tools=RESPONSE_TOOLS, **more)


def streamed(chunks):
    """Text, refusals included once, and tool calls as (name, arguments), put together from a chat stream."""
    text, refusal, calls, finish = "", "", {}, None
    for chunk in chunks:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            refusal += choice.delta.refusal or ""
            finish = choice.finish_reason or finish
            for piece in choice.delta.tool_calls or []:
                call = calls.setdefault(piece.index, ["", ""])
                call[0] += piece.function.name or ""
                call[1] += piece.function.arguments or ""
    same(sorted(calls), list(range(len(calls))))
    return text + refusal, [tuple(calls[index]) for index in sorted(calls)], finish


def whole(answer):
    [choice] = answer.choices
    calls = [(call.function.name, call.function.arguments) for call in choice.message.tool_calls or []]
    return (choice.message.content or "") + (choice.message.refusal or ""), calls, choice.finish_reason


def items(response):
    """Text, refusals included, and tool calls of a response."""
    text, calls = "", []
    for item in response.output:
        if item.type == "function_call":
            calls.append((item.name, item.arguments))
        elif item.type == "message":
            text += "".join(getattr(part, "text", None) or getattr(part, "refusal", "") for part in item.content)
    return text, calls


def check_chat_answers_with_text_and_usage(place):
    model = place.model("text")
    raw = client(place).chat.completions.with_raw_response.create(model=model, messages=HELLO)
    answer = raw.parse()
    same(answer.choices[0].message.content, "Hello from the fake.")
    same((answer.usage.prompt_tokens, answer.usage.completion_tokens), (11, 7))
    same(place.attempts(model), 1)
    if place.governed:
        same(raw.headers["x-sideguard-decision"], "allow")
        assert raw.headers["x-sideguard-call"]


@only(governed=True)
def check_the_agents_key_never_reaches_the_provider(place):
    model = place.model("text")
    chat(place, model)
    same(place.keys(model), ["Bearer sk-upstream"])


def check_streamed_text_flows_before_the_answer_ends(place):
    model = place.model("slow")
    chunks = chat(place, model, stream=True)
    text = ""
    for chunk in chunks:
        assert chunk.choices and chunk.usage is None, "usage was not asked for"
        if text == "" and chunk.choices[0].delta.content:
            place.go(model)
        text += chunk.choices[0].delta.content or ""
    same(text, "One two three.")
    same(place.attempts(model), 1)


def check_streamed_usage_comes_when_asked_for(place):
    model = place.model("text")
    *_, last = chat(place, model, stream=True, stream_options={"include_usage": True})
    same((last.choices, last.usage.prompt_tokens, last.usage.completion_tokens), ([], 11, 7))


def check_an_allowed_tool_call_arrives_intact(place):
    wanted = ("Let me look.", [("get_customer", place.script["arguments"])], "tool_calls")
    same(whole(chat(place, place.model("tool-safe"))), wanted)
    same(streamed(chat(place, place.model("tool-safe"), stream=True)), wanted)


@only(governed=True)
def check_a_refused_tool_call_becomes_text(place):
    for model, read in [(place.model("tool-drop"), whole), (place.model("tool-drop"), streamed)]:
        text, calls, finish = read(chat(place, model, stream=read is streamed))
        assert text.startswith("Let me tidy up."), text
        holds(text, REASON)
        same((calls, finish), ([], "stop"))
        same(place.attempts(model), 1)


@only(governed=True)
def check_of_three_tool_calls_only_the_refused_one_is_missing(place):
    safe = ("get_customer", place.script["arguments"])
    for read in (whole, streamed):
        text, calls, finish = read(chat(place, place.model("tool-both"), stream=read is streamed))
        holds(text, REASON)
        same((calls, finish), ([safe, safe], "tool_calls"))


@only(governed=True)
def check_the_stream_helper_shows_the_refusal(place):
    asked = {"model": place.model("tool-drop"), "messages": HELLO, "tools": CHAT_TOOLS}
    with client(place).chat.completions.stream(**asked) as stream:
        for _ in stream:
            pass
        text, calls, _ = whole(stream.get_final_completion())
    holds(text, REASON)
    same(calls, [])


@only(style="error", governed=True)
def check_a_refused_tool_call_raises(place):
    model = place.model("tool-drop")
    with raises(openai.PermissionDeniedError, "policy_denied") as caught:
        chat(place, model)
    holds(str(caught[0]), REASON)
    same(place.attempts(model), 1)
    model = place.model("tool-drop")
    with raises(openai.APIError, "policy_denied") as caught:
        list(chat(place, model, stream=True))
    holds(str(caught[0]), REASON)
    same(place.attempts(model), 1)


def check_embeddings_arrive(place):
    model = place.model("text")
    answer = client(place).embeddings.create(model=model, input=["one", "two"])
    same([item.embedding for item in answer.data], [[0.25, -1.5, 3.0]] * 2)
    same((answer.usage.prompt_tokens, place.attempts(model)), (11, 1))


def check_responses_answer_whole_and_streamed(place):
    model = place.model("text")
    answer = respond(place, model)
    same((answer.output_text, answer.usage.input_tokens), ("Hello from the fake.", 11))
    same(place.attempts(model), 1)
    model = place.model("slow")
    text, last = "", None
    for event in respond(place, model, stream=True):
        if event.type == "response.output_text.delta":
            if text == "":
                place.go(model)
            text += event.delta
        last = event
    same((text, last.type, last.response.usage.output_tokens), ("One two three.", "response.completed", 7))


def check_responses_keep_an_allowed_tool_call_intact(place):
    wanted = ("Let me look.", [("get_customer", place.script["arguments"])])
    same(items(respond(place, place.model("tool-safe"))), wanted)
    events = list(respond(place, place.model("tool-safe"), stream=True))
    done = [event.arguments for event in events if event.type == "response.function_call_arguments.done"]
    pieces = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    same(("".join(pieces), done), (place.script["arguments"], [place.script["arguments"]]))
    same(items(events[-1].response), wanted)
    same([event.sequence_number for event in events], list(range(len(events))))


@only(governed=True)
def check_responses_replace_a_refused_tool_call(place):
    text, calls = items(respond(place, place.model("tool-drop")))
    holds(text, REASON)
    same(calls, [])
    events = list(respond(place, place.model("tool-drop"), stream=True))
    told = json.dumps([event.model_dump(mode="json") for event in events[:-1] if "delta" in event.type])
    holds(told, REASON)
    assert "function_call_arguments" not in told, told
    same([event.sequence_number for event in events], list(range(len(events))))
    text, calls = items(events[-1].response)
    holds(text, REASON)
    same(calls, [])
    with client(place).responses.stream(
        model=place.model("tool-both"), input="hello", tools=RESPONSE_TOOLS
    ) as stream:
        text, calls = items(stream.get_final_response())
    holds(text, REASON)
    same(calls, [("get_customer", place.script["arguments"])] * 2)


@only(style="error", governed=True)
def check_responses_raise_a_refused_tool_call(place):
    with raises(openai.PermissionDeniedError, "policy_denied"):
        respond(place, place.model("tool-drop"))
    model = place.model("tool-drop")
    with raises(openai.APIError, "policy_denied") as caught:
        list(respond(place, model, stream=True))
    holds(str(caught[0]), REASON)
    same(place.attempts(model), 1)
    with raises(openai.APIError, "policy_denied"):
        asked = {"model": place.model("tool-drop"), "input": "hello", "tools": RESPONSE_TOOLS}
        with client(place).responses.stream(**asked) as stream:
            stream.get_final_response()


@only(governed=True)
def check_a_denied_model_raises_permission_denied(place):
    calls = [
        lambda model: chat(place, model),
        lambda model: chat(place, model, stream=True),
        lambda model: respond(place, model),
        lambda model: respond(place, model, stream=True),
        lambda model: client(place).embeddings.create(model=model, input="one"),
    ]
    for call in calls:
        model = place.model("denied")
        with raises(openai.PermissionDeniedError, "policy_denied") as caught:
            call(model)
        holds(str(caught[0]), "This model is not approved")
        same(caught[0].response.headers["x-should-retry"], "false")
        same(place.attempts(model), 0)


@only(governed=True)
def check_a_used_up_budget_raises_402(place):
    model = place.model("poor")
    with raises(openai.APIStatusError, "budget_exhausted") as caught:
        chat(place, model)
    same(caught[0].status_code, 402)
    same(place.attempts(model), 0)


@only(governed=True)
def check_a_spent_budget_says_when_it_has_room_again(place):
    model = place.model("text").replace("text:", "text:once-")
    chat(place, model)
    with raises(openai.APIStatusError, "budget_exhausted") as caught:
        chat(place, model)
    same(caught[0].status_code, 402)
    assert caught[0].response.headers["x-sideguard-reset-at"]
    same(place.attempts(model), 1)


@only(governed=True)
def check_a_hurry_raises_rate_limit_error(place):
    # Retries are switched off: within a minute the SDK would rightly wait and try again.
    hasty = client(place, max_retries=0)
    first, second = place.model("hurried"), place.model("hurried")
    try:
        hasty.chat.completions.create(model=first, messages=HELLO)
    except openai.RateLimitError:
        pass  # An earlier check had the one call of these 30 seconds.
    with raises(openai.RateLimitError, "rate_limited") as caught:
        hasty.chat.completions.create(model=second, messages=HELLO)
    assert 0 < int(caught[0].response.headers["retry-after"]) <= 60
    same(place.attempts(second), 0)


@only(governed=True)
def check_a_tripped_breaker_raises_503(place):
    model = place.model("error500")
    hasty = client(place, max_retries=0)
    for _ in range(3):
        with raises(openai.InternalServerError) as caught:
            hasty.chat.completions.create(model=model, messages=HELLO)
        same(caught[0].status_code, 500)
    with raises(openai.InternalServerError, "breaker_tripped") as caught:
        hasty.chat.completions.create(model=model, messages=HELLO)
    same(caught[0].status_code, 503)
    assert 0 < int(caught[0].response.headers["retry-after"]) <= 30
    same(place.attempts(model), 3)
