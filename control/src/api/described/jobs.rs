//! What people should read about the routes of jobs and workers.

use http::Method;
use serde_json::{Value, json};
use sideguard_types::control::Page;
use sideguard_types::control::jobs::{Ended, Progress, Start, Submit, Told, Work, Worker};
use sideguard_types::job::Job;

use super::super::jobs::{Drain, Whose};
use super::{TIME, page};
use crate::jobs::Wanted;
use crate::openapi::{Described, route};

/// Routes of jobs and workers.
pub(super) fn described() -> Vec<Described> {
    [submitted(), worked()].concat()
}

fn example() -> Value {
    json!({
        "id": "0199a1b2c3d4e5f601234567", "tenant": "acme",
        "spec": { "topic": "job.crm.enrich", "requires": ["gpu"], "idempotent": true, "limits": { "run": "5m" }, "input": { "customer": 7 } },
        "by": { "name": "planner" }, "state": "running", "created": TIME, "changed": TIME, "attempts": 1, "epoch": 1,
        "hold": { "worker": "0193a5c0", "agent": "enricher", "session": 1, "pool": "crm", "dispatched": TIME, "started": TIME },
        "traceId": "4bf92f3577b34da6a3ce929d0e0e4736",
    })
}

fn submitted() -> Vec<Described> {
    let part = "jobs";
    let spec = json!({ "topic": "job.crm.enrich", "input": { "customer": 7 }, "idempotent": true });
    vec![
        route(Method::POST, "/v1/jobs", part, "Takes a job, judges it and puts it into the queue.")
            .body::<Submit>(json!({ "spec": spec, "idempotencyKey": "order-7" }))
            .answer::<Job>(example()),
        route(
            Method::GET,
            "/v1/jobs",
            part,
            "Lists jobs: open ones, dead-lettered ones, then those that are over.",
        )
        .query::<Wanted>()
        .answer::<Page<Job>>(page(example())),
        route(Method::GET, "/v1/jobs/{id}", part, "One job, with its result and its life.")
            .query::<Whose>()
            .answer::<Job>(example()),
        route(Method::DELETE, "/v1/jobs/{id}", part, "Takes a job back, or gives a dead-lettered one up.")
            .query::<Whose>()
            .answer::<Job>(example()),
        route(Method::GET, "/v1/jobs/{id}/input", part, "A job's input, however large.")
            .query::<Whose>()
            .answer::<Value>(json!({ "customer": 7 })),
        route(Method::GET, "/v1/jobs/{id}/result", part, "A job's result, however large.")
            .query::<Whose>()
            .answer::<Value>(json!({ "rows": 3 })),
        route(Method::POST, "/v1/jobs/{id}/retry", part, "Puts a dead-lettered job into the queue again.")
            .query::<Whose>()
            .answer::<Job>(example()),
    ]
}

fn worked() -> Vec<Described> {
    let part = "workers";
    let skills = json!({ "agent": "enricher", "pools": ["crm"], "capabilities": ["gpu"], "maxParallel": 2 });
    let lease = json!({ "job": "0199a1b2c3d4e5f601234567", "epoch": 1 });
    let worker = json!({
        "id": "0193a5c0", "tenant": "acme", "health": "live", "seen": TIME, "jobs": [lease], "skills": skills,
    });
    vec![
        route(
            Method::POST,
            "/v1/work",
            part,
            "A worker's sign of life, which renews its leases, and its question for jobs. Held for 2 s.",
        )
        .body::<Work>(json!({ "skills": skills, "process": "7a1c", "leases": [lease] }))
        .answer::<Told>(json!({ "jobs": [{ "epoch": 1, "job": example() }], "leaseMs": 13_500 })),
        route(Method::POST, "/v1/jobs/{id}/start", part, "A worker is about to begin a job.")
            .body::<Start>(json!({ "epoch": 1 })),
        route(Method::POST, "/v1/jobs/{id}/progress", part, "How far a job is.")
            .body::<Progress>(json!({ "epoch": 1, "progress": { "rows": 2 } })),
        route(Method::POST, "/v1/jobs/{id}/result", part, "How a job ended.")
            .body::<Ended>(json!({ "epoch": 1, "outcome": { "succeeded": { "rows": 3 } } })),
        route(Method::GET, "/v1/workers", part, "Lists workers.")
            .query::<Whose>()
            .answer::<Page<Worker>>(page(worker.clone())),
        route(
            Method::POST,
            "/v1/workers/{tenant}/{id}",
            part,
            "Lets a worker have no more jobs, or some again.",
        )
        .body::<Drain>(json!({ "drain": true }))
        .answer::<Worker>(worker),
    ]
}
