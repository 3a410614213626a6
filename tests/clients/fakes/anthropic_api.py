"""Anthropic's answers: messages, whole and streamed, and count_tokens."""

import json

from .openai_api import event
from .scenarios import CACHED, INPUT, OUTPUT, PAUSE, answer, bits, words

# Their `input_tokens` leaves out what was read from the cache.
INPUT_USAGE = {
    "input_tokens": INPUT - CACHED,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": CACHED,
}


def message(asked, content, stop, output):
    return {
        "id": "msg_fake",
        "type": "message",
        "role": "assistant",
        "model": asked["model"],
        "content": content,
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": {**INPUT_USAGE, "output_tokens": output},
    }


def messages(asked):
    text, calls = answer(asked["model"])
    blocks = [{"type": "text", "text": text}]
    blocks += [{"type": "tool_use", "id": id, "name": name, "input": json.loads(given)} for id, name, given in calls]
    return message(asked, blocks, "tool_use" if calls else "end_turn", OUTPUT)


def messages_stream(asked):
    text, calls = answer(asked["model"])

    def told(kind, /, **data):
        return event({"type": kind, **data}, kind)

    def delta(index, **data):
        return told("content_block_delta", index=index, delta=data)

    yield told("message_start", message=message(asked, [], None, 1))
    yield told("ping")
    yield told("content_block_start", index=0, content_block={"type": "text", "text": ""})
    for word in words(asked["model"], text):
        yield word if word is PAUSE else delta(0, type="text_delta", text=word)
    yield told("content_block_stop", index=0)
    for index, (id, name, arguments) in enumerate(calls, 1):
        block = {"type": "tool_use", "id": id, "name": name, "input": {}}
        yield told("content_block_start", index=index, content_block=block)
        for bit in ["", *bits(arguments)]:
            yield delta(index, type="input_json_delta", partial_json=bit)
        yield told("content_block_stop", index=index)
    stop = {"stop_reason": "tool_use" if calls else "end_turn", "stop_sequence": None}
    yield told("message_delta", delta=stop, usage={**INPUT_USAGE, "output_tokens": OUTPUT})
    yield told("message_stop")


def count_tokens(_asked):
    return {"input_tokens": INPUT}


def failure(text):
    return {"type": "error", "error": {"type": "api_error", "message": text}, "request_id": "req_fake"}
