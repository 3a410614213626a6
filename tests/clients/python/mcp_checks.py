"""The mcp package over Streamable HTTP, in both eras of the protocol."""

import asyncio

from mcp import Client, MCPError
from place import REASON, holds, only, same

# `legacy` begins with initialize and has a session; `auto` finds the stateless protocol of 2026-07-28.
ERAS = ("legacy", "auto")


def in_both_eras(check):
    """Makes a plain check of an async one that takes a connected client."""

    def run(place):
        for era in ERAS:
            asyncio.run(connected(check, place, era))

    run.__name__, run.style, run.governed = check.__name__, check.style, check.governed
    return run


async def connected(check, place, era):
    async with Client(place.spec["tools"], mode=era, read_timeout_seconds=20) as client:
        await check(place, client)


def text(result):
    return "".join(part.text for part in result.content)


async def usable(client):
    result = await client.call_tool("query", {"sql": "select 1"})
    same((bool(result.is_error), text(result)), (False, "rows of: select 1"))


async def names(client):
    return [tool.name for tool in (await client.list_tools()).tools]


@in_both_eras
@only()
async def check_an_allowed_tool_is_called_once(place, client):
    before = place.tool_calls()["query"]
    await usable(client)
    same(place.tool_calls()["query"], before + 1)


@in_both_eras
@only()
async def check_tools_are_listed_without_the_denied_ones(place, client):
    same(await names(client), ["query"] if place.governed else ["query", "drop_table"])


@in_both_eras
@only(governed=True)
async def check_a_denied_call_is_an_error_result_and_the_session_lives(place, client):
    result = await client.call_tool("drop_table", {"table": "customers"})
    assert result.is_error, result
    holds(text(result), REASON)
    await usable(client)
    same(place.tool_calls()["drop_table"], 0)


@in_both_eras
@only(style="error", governed=True)
async def check_a_denied_call_raises_and_the_session_lives(place, client):
    try:
        found = await client.call_tool("drop_table", {"table": "customers"})
    except MCPError as error:
        holds(str(error), REASON)
        same(error.code, -31403)
    else:
        raise AssertionError(f"MCPError was not raised: {found}")
    await usable(client)
    same(place.tool_calls()["drop_table"], 0)
