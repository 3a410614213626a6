"""OpenAI's answers: chat completions, responses and embeddings, whole and streamed."""

import base64
import json
import struct

from .scenarios import CACHED, INPUT, OUTPUT, PAUSE, answer, bits, words

CHAT_USAGE = {
    "prompt_tokens": INPUT,
    "completion_tokens": OUTPUT,
    "total_tokens": INPUT + OUTPUT,
    "prompt_tokens_details": {"cached_tokens": CACHED},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
RESPONSE_USAGE = {
    "input_tokens": INPUT,
    "input_tokens_details": {"cached_tokens": CACHED},
    "output_tokens": OUTPUT,
    "output_tokens_details": {"reasoning_tokens": 2},
    "total_tokens": INPUT + OUTPUT,
}
VECTOR = [0.25, -1.5, 3.0]


def event(data, name=None):
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()


def chat(asked):
    text, calls = answer(asked["model"])
    message = {"role": "assistant", "content": text, "refusal": None}
    if calls:
        message["tool_calls"] = [chat_call(*call) for call in calls]
    finish = "tool_calls" if calls else "stop"
    return {
        "id": "chatcmpl-fake",
        "object": "chat.completion",
        "created": 1,
        "model": asked["model"],
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish}],
        "usage": CHAT_USAGE,
    }


def chat_call(id, name, arguments):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def chat_stream(asked):
    text, calls = answer(asked["model"])
    with_usage = (asked.get("stream_options") or {}).get("include_usage")
    head = {"id": "chatcmpl-fake", "object": "chat.completion.chunk", "created": 1, "model": asked["model"]}
    empty = {"usage": None} if with_usage else {}

    def chunk(delta, finish=None):
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return event({**head, "choices": [choice], **empty})

    yield chunk({"role": "assistant", "content": "", "refusal": None})
    for word in words(asked["model"], text):
        yield word if word is PAUSE else chunk({"content": word})
    for index, (id, name, arguments) in enumerate(calls):
        yield chunk({"tool_calls": [{"index": index, **chat_call(id, name, "")}]})
        for bit in bits(arguments):
            yield chunk({"tool_calls": [{"index": index, "function": {"arguments": bit}}]})
    yield chunk({}, "tool_calls" if calls else "stop")
    if with_usage:
        yield event({**head, "choices": [], "usage": CHAT_USAGE})
    yield event("[DONE]")


def responses(asked):
    text, calls = answer(asked["model"])
    items = [message_item(text, "completed"), *(call_item(*call, "completed") for call in calls)]
    return response(asked, "completed", items, RESPONSE_USAGE)


def response(asked, status, output, usage=None):
    return {
        "id": "resp_fake",
        "object": "response",
        "created_at": 1,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": asked["model"],
        "output": output,
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": asked.get("tools", []),
        "top_p": 1.0,
        "usage": usage,
    }


def text_part(text):
    return {"type": "output_text", "text": text, "annotations": []}


def message_item(text, status):
    content = [text_part(text)] if status == "completed" else []
    return {"type": "message", "id": "msg_0", "status": status, "role": "assistant", "content": content}


def call_item(id, name, arguments, status):
    call = {"call_id": id, "name": name, "arguments": arguments}
    return {"type": "function_call", "id": f"fc_{id}", "status": status, **call}


def responses_stream(asked):
    sequence = iter(range(10_000))

    def told(kind, /, **data):
        return event({"type": kind, "sequence_number": next(sequence), **data}, kind)

    whole = responses(asked)
    yield told("response.created", response=response(asked, "in_progress", []))
    yield told("response.in_progress", response=response(asked, "in_progress", []))
    for index, item in enumerate(whole["output"]):
        pieces = call_events if item["type"] == "function_call" else text_events
        yield from pieces(told, asked["model"], index, item)
        yield told("response.output_item.done", output_index=index, item=item)
    yield told("response.completed", response=whole)


def text_events(told, model, index, item):
    text = item["content"][0]["text"]
    begun = message_item("", "in_progress")
    at = {"item_id": item["id"], "output_index": index, "content_index": 0}
    yield told("response.output_item.added", output_index=index, item=begun)
    yield told("response.content_part.added", **at, part=text_part(""))
    for word in words(model, text):
        yield word if word is PAUSE else told("response.output_text.delta", **at, delta=word, logprobs=[])
    yield told("response.output_text.done", **at, text=text, logprobs=[])
    yield told("response.content_part.done", **at, part=text_part(text))


def call_events(told, _model, index, item):
    begun = {**item, "arguments": "", "status": "in_progress"}
    at = {"item_id": item["id"], "output_index": index}
    yield told("response.output_item.added", output_index=index, item=begun)
    for bit in bits(item["arguments"]):
        yield told("response.function_call_arguments.delta", **at, delta=bit)
    done = {"name": item["name"], "arguments": item["arguments"]}
    yield told("response.function_call_arguments.done", **at, **done)


def embeddings(asked):
    inputs = asked["input"] if isinstance(asked["input"], list) else [asked["input"]]
    vector = VECTOR
    if asked.get("encoding_format") == "base64":
        vector = base64.b64encode(struct.pack(f"<{len(VECTOR)}f", *VECTOR)).decode()
    data = [{"object": "embedding", "index": index, "embedding": vector} for index in range(len(inputs))]
    usage = {"prompt_tokens": INPUT, "total_tokens": INPUT}
    return {"object": "list", "data": data, "model": asked["model"], "usage": usage}


def failure(message):
    return {"error": {"message": message, "type": "server_error", "param": None, "code": None}}
