// The interface, asked by the cookie of whoever is signed in.

export class Refused extends Error {
  constructor(status, code, detail, findings) {
    super(detail);
    Object.assign(this, { status, code, findings: findings ?? [] });
  }

  // Whether this version of the service has no such thing.
  get missing() {
    return this.status === 404 || this.status === 405 || this.status === 501;
  }
}

let lost = () => {};

// What to do when the session has ended.
export function whenLost(act) {
  lost = act;
}

export async function ask(method, path, { query, body, signal } = {}) {
  const values = Object.entries(query ?? {}).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  const url = values.length ? `${path}?${new URLSearchParams(values)}` : path;
  const headers = { accept: "application/json", "x-sideguard-page": "1" };
  if (body !== undefined) headers["content-type"] = "application/json";
  let reply;
  try {
    reply = await fetch(url, { method, headers, body: body === undefined ? undefined : JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "unreachable", "the control service cannot be reached");
  }
  if (reply.status === 204) return null;
  const answer = await reply.json().catch(() => null);
  if (reply.ok) return answer;
  if (reply.status === 401 && path !== "/session") lost();
  throw new Refused(reply.status, answer?.code ?? "", answer?.detail ?? `status ${reply.status}`, answer?.findings);
}

export const get = (path, query, signal) => ask("GET", path, { query, signal });

// All pages of a listing, up to so many items.
export async function all(path, query, most = 10000) {
  const items = [];
  let after;
  do {
    const page = await get(path, { ...query, after });
    items.push(...page.items);
    after = page.next;
  } while (after && items.length < most);
  return items;
}

// Asks again and again until stopped; the first time at once. `act` gets what came, or the refusal.
export function every(seconds, question, act) {
  let stopped = false;
  let timer;
  const turn = async () => {
    let found = null;
    let error = null;
    if (!document.hidden || !turn.asked) {
      turn.asked = true;
      try { found = await question(); } catch (refused) { error = refused; }
      if (stopped) return;
      if (found !== null || error !== null) act(found, error);
    }
    // What this version does not have, it will not have in a moment either.
    if (!stopped && !error?.missing) timer = setTimeout(turn, seconds * 1000);
  };
  turn();
  return {
    stop() { stopped = true; clearTimeout(timer); },
    now() { clearTimeout(timer); if (!stopped) turn(); },
  };
}
