// Where an SDK is tried: directly, through the gateway path, or through CONNECT; and how it went.
import assert from "node:assert/strict";
import { ProxyAgent, fetch as undiciFetch } from "undici";

export const AGENT_KEY = "sk-agent";
export const REASON = "Destructive operations blocked by policy";

// A check: `style` is the form of refusal that it is about, `governed` keeps it from direct places.
export function check(name, run, { style = "replace", governed = false } = {}) {
  return { name, run, style, governed };
}

export class Place {
  #script;
  #spec;
  #uses = 0;

  constructor(script, spec) {
    this.#script = script;
    this.#spec = spec;
    this.name = `${spec.via}/${spec.style}`;
    this.governed = spec.via !== "direct";
    this.arguments = script.arguments;
    this.openai = spec.openai;
    this.tools = spec.tools;
    // Node 20's own fetch knows no proxy, so that an agent behind one gives its SDK a fetch that does.
    const proxy = spec.environment.HTTPS_PROXY;
    const dispatcher = proxy && new ProxyAgent(proxy);
    this.fetch = dispatcher ? (url, init) => undiciFetch(url, { ...init, dispatcher }) : undefined;
    this.close = async () => dispatcher?.close();
  }

  takes({ style, governed }) {
    return this.governed ? style === this.#spec.style : !governed;
  }

  // A model of its own for each use, so that its attempts can be counted.
  model(scenario) {
    return `${scenario}:node.${this.name.replace("/", ".")}.${this.#uses++}`;
  }

  // Lets the provider's `slow` answer go on.
  async go(model) {
    await fetch(`${this.#script.provider}/__go?model=${model}`);
  }

  // How many requests for a model reached the provider, and with which keys.
  async seen(model) {
    const counts = await (await fetch(`${this.#script.provider}/__count`)).json();
    return counts.models[model] ?? { attempts: 0, keys: [] };
  }

  async attempts(model) {
    return (await this.seen(model)).attempts;
  }

  // How often each MCP tool was really called.
  async toolCalls() {
    return (await fetch(this.#script.tools.replace(/mcp$/, "__count"))).json();
  }
}

// What a promise is rejected with: must be of this kind, with this code where one is given.
export async function raised(kind, code, run) {
  let value;
  try {
    value = await run();
  } catch (error) {
    assert.ok(error instanceof kind, `${error?.constructor?.name} is not ${kind.name}: ${error}`);
    if (code !== undefined) assert.equal(error.code, code);
    return error;
  }
  assert.fail(`${kind.name} was not raised: ${JSON.stringify(value)}`);
}

export function holds(text, part) {
  assert.ok((text ?? "").includes(part), `${JSON.stringify(part)} is not in ${JSON.stringify(text)}`);
}

// Counts and prints the checks.
export class Report {
  passed = 0;
  failed = 0;

  constructor(match) {
    this.match = match;
  }

  async run(place, sdk, { name, run }) {
    const title = `node ${sdk} ${place.name}: ${name}`;
    if (!title.includes(this.match)) return;
    try {
      await run(place);
      this.passed += 1;
      console.log(`ok   ${title}`);
    } catch (error) {
      this.failed += 1;
      console.log(`FAIL ${title}: ${error.stack ?? error}`);
    }
  }
}
