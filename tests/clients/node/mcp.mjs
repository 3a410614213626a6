// The @modelcontextprotocol/sdk package over Streamable HTTP.
import assert from "node:assert/strict";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { McpError } from "@modelcontextprotocol/sdk/types.js";
import { REASON, check, holds, raised } from "./place.mjs";

// A check that gets a connected client.
function connected(name, run, options) {
  return check(name, async (place) => {
    const client = new Client({ name: "client-tests", version: "1" });
    const transport = new StreamableHTTPClientTransport(new URL(place.tools), place.fetch && { fetch: place.fetch });
    await client.connect(transport);
    try {
      await run(place, client);
    } finally {
      await transport.terminateSession();
      await client.close();
    }
  }, options);
}

const text = ({ content }) => content.map((part) => part.text).join("");
const drop = (client) => client.callTool({ name: "drop_table", arguments: { table: "customers" } });

async function usable(client) {
  const result = await client.callTool({ name: "query", arguments: { sql: "select 1" } });
  assert.deepEqual([Boolean(result.isError), text(result)], [false, "rows of: select 1"]);
}

export default [
  connected("an allowed tool is called once", async (place, client) => {
    const before = (await place.toolCalls()).query;
    await usable(client);
    assert.equal((await place.toolCalls()).query, before + 1);
  }),

  connected("tools are listed without the denied ones", async (place, client) => {
    const { tools } = await client.listTools();
    assert.deepEqual(tools.map(({ name }) => name), place.governed ? ["query"] : ["query", "drop_table"]);
  }),

  connected("a denied call is an error result and the session lives", async (place, client) => {
    const result = await drop(client);
    assert.equal(result.isError, true);
    holds(text(result), REASON);
    await usable(client);
    assert.equal((await place.toolCalls()).drop_table, 0);
  }, { governed: true }),

  connected("a denied call raises and the session lives", async (place, client) => {
    const error = await raised(McpError, -31403, () => drop(client));
    holds(error.message, REASON);
    await usable(client);
    assert.equal((await place.toolCalls()).drop_table, 0);
  }, { style: "error", governed: true }),
];
