//! What many tests stand on: one fake behind upstreams of every dialect, budgets, and how a sidecar tells of itself.

use std::time::Duration;

use serde_json::Value;

use crate::{Fake, Sidecar, client};

/// Upstreams `openai`, `anthropic`, `db` (MCP) and `web` (plain) at one fake, and no breaker for repeated calls:
/// tests repeat theirs.
#[must_use]
pub fn upstreams(fake: &Fake) -> String {
    at(&fake.url(), "")
}

/// The same at any base URL, each with more keys, such as a credential.
#[must_use]
pub fn at(url: &str, more: &str) -> String {
    let dialects = [("openai", "openai"), ("anthropic", "anthropic"), ("db", "mcp"), ("web", "plain")];
    let one = |(name, dialect): (&str, &str)| {
        format!("    - {{name: {name}, baseUrl: \"{url}\", dialect: {dialect}{more}}}\n")
    };
    let all: String = dialects.into_iter().map(one).collect();
    format!("  upstreams:\n{all}  breakers: {{agent: {{repeats: 0}}}}\n")
}

/// A Budget named `all` with one limit.
#[must_use]
pub fn budget(limit: &str) -> String {
    format!(
        "apiVersion: sideguard.dev/v1\nkind: Budget\nmetadata: {{name: all}}\nspec: {{limits: [{{{limit}}}]}}\n"
    )
}

/// A Policy with these rules, beside what else may be given.
#[must_use]
pub fn policy(name: &str, spec: &str) -> String {
    format!("apiVersion: sideguard.dev/v1\nkind: Policy\nmetadata: {{name: {name}}}\nspec:\n{spec}")
}

/// What the admin port says at `/status`.
///
/// # Panics
/// When it does not answer in JSON.
pub async fn status(sidecar: &Sidecar) -> Value {
    client::admin(sidecar, "/status").await.json()
}

/// Spent and held of the first account of the first budget; nothing when none is open yet.
#[must_use]
pub fn account(status: &Value) -> (f64, f64) {
    let amount =
        |name: &str| status["budgets"][0][name].as_str().map_or(0.0, |text| text.parse().expect("a number"));
    (amount("spent"), amount("held"))
}

/// Waits until nothing is under way in a sidecar and nothing is held, and returns its status then.
///
/// # Panics
/// When that is not so within 30 s.
pub async fn idle(sidecar: &Sidecar) -> Value {
    let mut status = Value::Null;
    for _ in 0..600 {
        status = self::status(sidecar).await;
        if status["busy"] == 0 && account(&status).1 == 0.0 {
            return status;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("still busy after 30 s: {status:#}");
}

/// The outcomes on record, once there are so many: they are written up to 20 ms after the reply.
///
/// # Panics
/// When there are fewer after 10 s, or more.
pub async fn outcomes(sidecar: &Sidecar, count: usize) -> Vec<Value> {
    let outcomes = || phase(&sidecar.record(), "outcome");
    crate::until("the outcomes are on record", || outcomes().len() >= count).await;
    let outcomes = outcomes();
    assert_eq!(outcomes.len(), count, "{outcomes:#?}");
    outcomes
}

/// Entries of a phase.
#[must_use]
pub fn phase(record: &[Value], phase: &str) -> Vec<Value> {
    record.iter().filter(|entry| entry["phase"] == phase).cloned().collect()
}
