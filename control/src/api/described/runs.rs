//! What people should read about the routes of runs of workflows.

use http::Method;
use serde_json::json;
use sideguard_types::control::Page;
use sideguard_types::control::workflows::{Cancel, Rerun, Start, Summary};
use sideguard_types::workflow::Run;

use super::super::workflows;
use super::{TIME, page};
use crate::openapi::{Described, route};

pub(super) fn described() -> Vec<Described> {
    let part = "workflows";
    let line = json!({
        "id": "01a2b3c4d5e6f708192a3b4c", "tenant": "acme", "workflow": "refund", "by": "alice", "created": TIME, "state": "running",
        "steps": 3, "over": 1,
    });
    let run = json!({
        "id": "01a2b3c4d5e6f708192a3b4c", "tenant": "acme", "workflow": "refund", "digest": "9c…", "by": "alice", "created": TIME,
        "spec": { "steps": [{ "id": "charge", "job": { "topic": "job.payments.charge" } }] }, "state": "running",
        "input": { "order": "A-17" },
        "steps": [{ "id": "charge", "state": "running", "works": [{ "state": "running", "attempt": 1, "job": "0193a5c0" }] }],
        "timeline": [{ "time": TIME, "step": "charge", "what": "submitted", "detail": "0193a5c0" }],
    });
    vec![
        route(Method::POST, "/v1/runs", part, "Starts a run of a workflow.")
            .body::<Start>(
                json!({ "workflow": "refund", "input": { "order": "A-17" }, "idempotencyKey": "order-A-17" }),
            )
            .answer::<Run>(run.clone()),
        route(Method::GET, "/v1/runs", part, "Lists runs, the newest of each tenant first.")
            .query::<workflows::Wanted>()
            .answer::<Page<Summary>>(page(line)),
        route(Method::GET, "/v1/runs/{id}", part, "One of them, with its steps and its timeline.")
            .answer::<Run>(run.clone()),
        route(
            Method::POST,
            "/v1/runs/{id}/cancel",
            part,
            "Has a run stop; with `compensate` it is undone as well.",
        )
        .body::<Cancel>(json!({ "compensate": true, "reason": "ordered twice" }))
        .answer::<Run>(run.clone()),
        route(Method::POST, "/v1/runs/{id}/rerun", part, "Starts a run that does a part of this one again.")
            .body::<Rerun>(json!({ "from": "charge" }))
            .answer::<Run>(run),
    ]
}
