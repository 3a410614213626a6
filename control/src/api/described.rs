//! What people should read about each route, with examples. The table of routes is in [`super`]; a test holds both together.

mod jobs;
mod runs;

use http::Method;
use serde_json::{Value, json};
use sideguard_types::control::approvals::{Answer, Approval, Ask, Callback, Redeem, Standing};
use sideguard_types::control::budgets::{Account, Answer as Granted, Ask as Wish, History, Turned, Turns};
use sideguard_types::control::feed::{Beat, Has, Leave};
use sideguard_types::control::keys::{KeyEntry, KeyRequest, NewKey, Session, SignIn};
use sideguard_types::control::records::{Entry, Journal, Position};
use sideguard_types::control::sinks::SinkState;
use sideguard_types::control::{
    Applied, Apply, Change, Enrol, Enrolled, Feed, Generation, Kill, Object, Page, Report, Sidecar, Token,
    TokenRequest,
};
use sideguard_types::delegation::{Passport, PassportRequest, Revoke};

use super::{approvals as approval, budgets as budget, desired, fleet, keys, records as record};
use crate::budgets::Wanted;
use crate::openapi::{Described, route};
use crate::records::query::Filter;

pub(super) const TIME: &str = "2026-11-27T10:00:00.000000Z";
const POLICY: &str = "apiVersion: sideguard.dev/v1\nkind: Policy\nmetadata: {name: no-deletes, tenant: acme}\nspec: \
    {default_decision: allow}\n";

/// Every route.
pub(crate) fn described() -> Vec<Described> {
    let own = [own(), people(), sidecars(), state(), records(), approvals(), budgets()].concat();
    [own, jobs::described(), runs::described()].concat()
}

pub(super) fn page(item: Value) -> Value {
    json!({ "items": [item] })
}

fn own() -> Vec<Described> {
    let (get, part) = (|path, part, text| route(Method::GET, path, part, text), "service");
    vec![
        get("/", "page", "The page.").text("text/html", "<!doctype html>…"),
        get("/page/{file}", "page", "A file of the page.").text("text/css", "…"),
        get("/healthz", part, "Whether the service runs.").text("text/plain", "ok\n"),
        get("/readyz", part, "Whether the service and its store take requests.")
            .text("text/plain", "ready\n"),
        get("/version", part, "Version of the service.")
            .answer::<fleet::Version>(json!({ "version": "0.1.0" })),
        get("/metrics", part, "What the service counts, for Prometheus.")
            .text("text/plain", "sideguard_control_requests_total{…} 7\n"),
        get("/v1/sinks", "record", "How far the record is passed on.")
            .answer::<Page<SinkState>>(page(json!({ "name": "lake", "to": "webhook", "delivered": 120, "filtered": 4, "skipped": 0, "waiting": 2 }))),
        get("/openapi.json", part, "This document.").answer::<Value>(json!({ "openapi": "3.1.0" })),
    ]
}

fn people() -> Vec<Described> {
    let part = "keys";
    let entry = json!({
        "id": "0123456789abcdef", "name": "alice", "role": "viewer", "tenant": "acme", "created": TIME,
    });
    let mut new = entry.clone();
    new["key"] = "sgk_…".into();
    let session = json!({ "name": "alice", "role": "operator", "version": "0.1.0" });
    vec![
        route(Method::POST, "/session", "page", "Signs in at the page: gives a cookie for a key.")
            .body::<SignIn>(json!({ "key": "sgk_…" }))
            .answer::<Session>(session.clone()),
        route(Method::GET, "/session", "page", "Who is signed in, or whose the key is.")
            .answer::<Session>(session),
        route(Method::DELETE, "/session", "page", "Signs out."),
        route(Method::GET, "/v1/keys", part, "Lists keys: of the tenant, or all. What they are is not kept.")
            .query::<keys::Which>()
            .answer::<Page<KeyEntry>>(page(entry)),
        route(Method::POST, "/v1/keys", part, "Makes a key, which is told this once.")
            .body::<KeyRequest>(
                json!({ "name": "alice", "role": "viewer", "tenant": "acme", "seconds": 86_400 }),
            )
            .answer::<NewKey>(new),
        route(
            Method::DELETE,
            "/v1/keys",
            part,
            "Takes a key back: it and its sessions are good for nothing more.",
        )
        .query::<keys::One>(),
    ]
}

fn sidecars() -> Vec<Described> {
    let part = "fleet";
    let report = json!({
        "agents": ["reader"], "version": "0.1.0", "generation": 7, "digest": "sha256:…", "ready": true, "calls": 120,
        "denied": 3, "breakers": ["openai: tripped"],
    });
    let mut sidecar = report.clone();
    sidecar["id"] = "0193a5c0".into();
    sidecar["tenant"] = "acme".into();
    sidecar["standing"] = "current".into();
    sidecar["seen"] = TIME.into();
    let kill = json!({
        "scope": { "agent": { "tenant": "acme", "agent": "reader" } }, "reason": "it runs wild", "by": "alice",
        "time": TIME,
    });
    let beat = json!({
        "tenant": "acme", "generation": 7, "since": TIME, "kills": 4, "nonce": "5e…", "time": TIME, "signature": "a1…",
    });
    let feed = json!({ "kills": { "number": 4, "scopes": ["fleet"] } });
    vec![
        route(Method::POST, "/v1/tokens", part, "Makes a token, good for one sidecar's enrolment.")
            .body::<TokenRequest>(json!({ "tenant": "acme", "agent": "reader", "seconds": 600 }))
            .answer::<Token>(json!({ "token": "sgt_…", "expires": TIME })),
        route(Method::POST, "/v1/enrol", part, "A sidecar's first word: gets its key for a token.")
            .body::<Enrol>(json!({ "token": "sgt_…", "sidecar": "0193a5c0" }))
            .answer::<Enrolled>(
                json!({ "key": "sgk_…", "tenant": "acme", "agent": "reader", "signer": "5f…" }),
            ),
        route(
            Method::POST,
            "/v1/passports",
            part,
            "A sidecar's passport, for the links of delegations that it signs.",
        )
        .body::<PassportRequest>(json!({ "key": "5f…" }))
        .answer::<Passport>(json!({
            "tenant": "acme", "sidecar": "0193a5c0", "key": "5f…", "expires": TIME, "signature": "a1…",
        })),
        route(
            Method::POST,
            "/v1/delegations/revoke",
            part,
            "Ends a link and all that was handed on under it.",
        )
        .body::<Revoke>(
            json!({ "id": "01a2b3c4d5e6f708192a3b4c", "tenant": "acme", "reason": "it runs wild" }),
        )
        .answer::<Kill>(json!({
            "scope": { "delegation": { "tenant": "acme", "id": "01a2b3c4d5e6f708192a3b4c" } },
            "reason": "it runs wild", "by": "alice", "time": TIME,
        })),
        route(Method::GET, "/v1/feed", part, "Waits for what is newer than what a sidecar has, up to 25 s.")
            .query::<Has>()
            .answer::<Feed>(feed),
        route(
            Method::GET,
            "/v1/feed/stream",
            part,
            "Tells what is newer as it comes, as server-sent events.",
        )
        .query::<Has>()
        .text("text/event-stream", "event: beat\ndata: {…}\n\n"),
        route(Method::POST, "/v1/leave", part, "A sidecar's farewell.")
            .body::<Leave>(json!({ "forget": true })),
        route(Method::POST, "/v1/report", part, "What a sidecar tells of itself.")
            .body::<Report>(report)
            .answer::<Option<Beat>>(beat),
        route(
            Method::GET,
            "/v1/sidecars",
            part,
            "Lists sidecars and how they stand to the generation in force.",
        )
        .query::<fleet::Which>()
        .answer::<Page<Sidecar>>(page(sidecar)),
        route(Method::GET, "/v1/kills", part, "Lists the kill switches that are on.")
            .answer::<Page<Kill>>(page(kill.clone())),
        route(Method::POST, "/v1/kills", part, "Stops everything in a scope.")
            .body::<fleet::Stop>(json!({ "scope": "agent/acme/reader", "reason": "it runs wild" }))
            .answer::<Kill>(kill),
        route(Method::DELETE, "/v1/kills", part, "Lets a scope go on.").query::<fleet::Off>(),
    ]
}

fn state() -> Vec<Described> {
    let part = "desired state";
    let change = json!({
        "action": "created", "tenant": "acme", "kind": "Policy", "name": "no-deletes", "after": POLICY,
    });
    let applied = json!({ "generation": 7, "digest": "sha256:…", "changes": [change] });
    let generation = json!({
        "number": 7, "digest": "sha256:…", "time": TIME, "by": "alice", "verb": "apply", "objects": 1,
        "summary": ["created policy/acme/no-deletes"],
    });
    let object = json!({
        "tenant": "acme", "kind": "Policy", "name": "no-deletes", "generation": 7, "text": POLICY,
    });
    let post = |path, text| route(Method::POST, path, part, text);
    let get = |path, text| route(Method::GET, path, part, text);
    vec![
        post("/v1/apply", "Makes objects part of the desired state: all of them or none.")
            .body::<Apply>(
                json!({ "documents": [{ "name": "policy.yaml", "text": POLICY }], "dryRun": true }),
            )
            .answer::<Applied>(applied.clone()),
        post("/v1/delete", "Takes objects out of the desired state.")
            .body::<desired::Delete>(
                json!({ "names": [{ "tenant": "acme", "kind": "Policy", "name": "no-deletes" }] }),
            )
            .answer::<Applied>(applied.clone()),
        post("/v1/rollback", "Puts an earlier generation's objects in force again, as a new generation.")
            .body::<desired::Rollback>(json!({ "to": 6 }))
            .answer::<Applied>(applied),
        get("/v1/generations", "Lists generations, the newest first.")
            .query::<desired::Since>()
            .answer::<Page<Generation>>(page(generation.clone())),
        get("/v1/generations/{number}", "One generation.").answer::<Generation>(generation),
        get(
            "/v1/generations/{number}/changes",
            "What changed from one generation to another, with both texts.",
        )
        .query::<desired::Before>()
        .answer::<Page<Change>>(page(change)),
        get("/v1/objects", "Lists objects of the desired state.")
            .query::<desired::Wanted>()
            .answer::<Page<Object>>(page(object.clone())),
        get("/v1/objects/{tenant}/{kind}/{name}", "One object, as its author wrote it.")
            .answer::<Object>(object),
    ]
}

fn records() -> Vec<Described> {
    let part = "record";
    let get = |path, text| route(Method::GET, path, part, text);
    let entry = json!({
        "sidecar": "0193a5c0", "tenant": "acme", "position": 41, "record": { "v": 1, "seq": 41, "decision": "deny" },
    });
    let journal = json!({
        "sidecar": "0193a5c0", "tenant": "acme", "key": "5f…", "first": 1, "last": 41, "time": TIME,
    });
    vec![
        route(Method::POST, "/v1/records/{sidecar}", part, "Takes in lines of a sidecar's record, in order.")
            .query::<record::Shipped>()
            .lines()
            .answer::<Position>(json!({ "next": 42, "prev": "9c…" })),
        get("/v1/records", "Finds records, the newest first.")
            .query::<Filter>()
            .answer::<Page<Entry>>(page(entry.clone())),
        get("/v1/records/stream", "Tells records as they come, as server-sent events.")
            .query::<Filter>()
            .text("text/event-stream", "data: {\"sidecar\":\"0193a5c0\",…}\n\n"),
        get("/v1/records/{sidecar}", "Records of one sidecar, in their order.")
            .query::<record::Part>()
            .answer::<Page<Entry>>(page(entry)),
        get("/v1/journals", "Lists the records that are kept, one for each sidecar.")
            .answer::<Page<Journal>>(page(journal)),
        get(
            "/v1/records/proof",
            "Proves that a record stands in a sidecar's chain; `audit verify --proof` checks it.",
        )
        .query::<record::Which>()
        .answer::<Value>(json!({ "v": 1 })),
    ]
}

fn approvals() -> Vec<Described> {
    let part = "approvals";
    let terms = json!({ "quorum": 1, "expires": 3600, "valid": 600, "cooldown": 300 });
    let request = json!({
        "method": "DELETE", "scheme": "https", "host": "crm.acme.com", "path": "/customers/4",
    });
    let ask = json!({
        "agent": "cleaner", "call": "01a2b3c4", "rule": "floor/ask-first", "reason": "it destroys data",
        "point": "tool.call", "topic": "job.crm.acme.com.delete", "policyDigest": "sha256:…", "hash": "9c…",
        "terms": terms, "request": request,
    });
    let standing = json!({ "id": "01a2b3c4", "state": "pending" });
    let approval = json!({
        "id": "01a2b3c4", "tenant": "acme", "agent": "cleaner", "chain": [], "state": "pending", "rule": "floor/ask-first",
        "reason": "it destroys data", "point": "tool.call", "topic": "job.crm.acme.com.delete", "method": "DELETE", "scheme": "https",
        "hash": "9c…", "policyDigest": "sha256:…", "sidecar": "0193a5c0", "call": "01a2b3c4", "terms": terms,
        "host": "crm.acme.com", "path": "/customers/4", "created": TIME, "expires": TIME, "quorum": 1, "votes": [],
    });
    vec![
        route(Method::POST, "/v1/approvals", part, "Asks for a held call; one that waits already is joined.")
            .body::<Ask>(ask)
            .answer::<Standing>(standing.clone()),
        route(Method::GET, "/v1/approvals/{id}/grant", part, "Waits for a decision.")
            .query::<approval::Wait>()
            .answer::<Standing>(standing.clone()),
        route(
            Method::POST,
            "/v1/approvals/{id}/grant",
            part,
            "Uses an approval, once, for the very request.",
        )
        .body::<Redeem>(
            json!({ "agent": "cleaner", "call": "01a2b3c4", "hash": "9c…", "policyDigest": "sha256:…" }),
        )
        .answer::<Standing>(standing),
        route(Method::GET, "/v1/approvals", part, "Lists calls that wait for people, or waited.")
            .query::<approval::Wanted>()
            .answer::<Page<Approval>>(page(approval.clone())),
        route(Method::GET, "/v1/approvals/{id}", part, "One of them, with the request as it would be sent.")
            .answer::<Approval>(approval.clone()),
        route(Method::POST, "/v1/approvals/{id}", part, "Says yes or no.")
            .body::<Answer>(json!({ "verdict": "approve", "reason": "the customer asked" }))
            .answer::<Approval>(approval.clone()),
        route(Method::POST, "/v1/approvals/{id}/webhook", part, "Says yes or no, signed, without a key.")
            .body::<Callback>(json!({ "nonce": "7a…", "verdict": "approve" }))
            .answer::<Approval>(approval),
    ]
}

fn budgets() -> Vec<Described> {
    let part = "budgets";
    let wish = json!({
        "lease": "01a2b3c4", "subject": { "agent": "reader", "model": "gpt-4o-mini" },
        "lines": [{ "limit": "daily/0", "least": 400, "want": 4000 }],
    });
    let account = json!({
        "tenant": "acme", "budget": "daily", "unit": "tokens", "key": "acme/reader", "limit": "100000", "spent": "4200",
        "held": "800", "left": "95000", "window": "day", "resetAt": TIME,
    });
    vec![
        route(
            Method::POST,
            "/v1/leases",
            part,
            "Holds part of every budget that a subject falls under, or of none.",
        )
        .body::<Wish>(wish)
        .answer::<Granted>(json!({ "held": { "granted": [4000], "free": [91_000], "millis": 30_000 } })),
        route(
            Method::POST,
            "/v1/leases/turns",
            part,
            "Tells what leases have spent, and keeps or ends them.",
        )
        .body::<Turns>(
            json!({ "turns": [{ "lease": "01a2b3c4", "number": 1, "spent": [1200], "keep": [800] }] }),
        )
        .answer::<Turned>(json!({ "standings": ["open"], "millis": 30_000 })),
        route(Method::GET, "/v1/budgets", part, "Lists the accounts of budgets.")
            .query::<budget::Which>()
            .answer::<Page<Account>>(page(account)),
        route(Method::GET, "/v1/budgets/history", part, "How an account was spent, for a plot.")
            .query::<Wanted>()
            .answer::<History>(json!({ "points": [{ "time": TIME, "spent": "4200", "limit": "100000" }] })),
    ]
}
