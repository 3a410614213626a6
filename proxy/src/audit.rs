//! The record of a call: its intent before anything leaves, its outcome afterwards, and every refusal.

use std::time::Duration;

use sideguard_policy::Grant;
use sideguard_record::Unwritable;
use sideguard_types::audit::{Phase, Record};
use sideguard_types::refusal::{Code, Refusal};
use sideguard_types::verdict::Decision;

use crate::app::Sidecar;
use crate::call::{Exchange, Refused, Reserved};

/// Calls are slowed from here on, in percent of the record's bound taken by what control has not got.
const SLOW_FROM: u64 = 75;
/// So many percent further they are refused: what is left is kept for what comes of calls that have left.
const SLOW_STEPS: u32 = 18;
/// Longest time that a call is held back.
const SLOWEST: Duration = Duration::from_millis(250);

/// Stage 6: writes the intent of every item. Only then may the call leave.
pub(crate) async fn intent(sidecar: &Sidecar, reserved: Reserved) -> Result<Reserved, Refused> {
    slowed(sidecar).await;
    let mut last = None;
    for (item, grant) in reserved.exchange.items.iter().zip(&reserved.grants) {
        let mut record = reserved.exchange.record(Phase::Intent, Some(item));
        judged(&mut record, grant);
        record.budget = reserved.held.spend();
        match sidecar.log.intent(&record) {
            Ok(written) => last = Some(written),
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                tracing::error!(%error, cause, "record cannot be written: calls are refused");
                return Err(unwritten(reserved, &error));
            }
        }
        sidecar.seen(&record);
    }
    if let Some(written) = last
        && let Err(error) = sidecar.log.durable(written).await
    {
        return Err(unwritten(reserved, &error));
    }
    Ok(reserved)
}

/// Holds a call back for a moment when control takes the record too slowly for the disk: the less room is left, the longer.
async fn slowed(sidecar: &Sidecar) {
    let fill = sidecar.log.fill();
    sidecar.metrics.record_fill(fill);
    if let Some(beyond) = fill.checked_sub(SLOW_FROM) {
        let share = u32::try_from(beyond).unwrap_or(u32::MAX).min(SLOW_STEPS);
        tokio::time::sleep(SLOWEST * share / SLOW_STEPS).await;
    }
}

fn unwritten(reserved: Reserved, error: &Unwritable) -> Refused {
    let Reserved { exchange, held, .. } = reserved;
    held.release();
    let mut refusal =
        Refusal::new(Code::RecordUnavailable, "record", "the record cannot be written, so nothing may leave");
    let hint = match error {
        Unwritable::Full { .. } => "control has to take the record first: is it reachable from the sidecar?",
        _ => "make room on the sidecar's disk",
    };
    refusal.hint = Some(hint.to_owned());
    exchange.refuse(refusal)
}

/// Puts a grant's verdict into an entry.
pub(crate) fn judged(record: &mut Record, grant: &Grant) {
    record.decision = Some(grant.decision);
    record.rule = grant.rule.to_string();
    record.reason = grant.reason.to_string();
    record.mode = Some(grant.mode);
    if let Some(would) = &grant.would {
        record.mode = Some(would.mode);
        record.reason = format!("would {} by `{}`: {}", would.decision.as_str(), would.rule, would.reason);
    }
}

/// Writes a refusal of a whole exchange: one entry for each item that was refused.
pub(crate) fn refused(sidecar: &Sidecar, refused: &Refused, status: u16) {
    for (index, refusal) in &refused.refusals {
        decision(sidecar, &refused.exchange, *index, refusal, status);
    }
}

fn decision(sidecar: &Sidecar, exchange: &Exchange, index: usize, refusal: &Refusal, status: u16) {
    let mut record = exchange.record(Phase::Decision, exchange.items.get(index));
    record.decision = Some(match refusal.code {
        Code::ApprovalRequired => Decision::RequireApproval,
        Code::RateLimited => Decision::Throttle,
        _ => Decision::Deny,
    });
    record.code = Some(refusal.code.as_str().to_owned());
    record.rule = refusal.rule.to_string();
    record.reason.clone_from(&refusal.reason);
    record.status = Some(status);
    record.approval = refusal.approval.clone().or(record.approval);
    record.latency_us = Some(exchange.since.micros());
    sidecar.note(&record);
}

/// A target as it is recorded: the path, the names of query parameters, and hashes of their values.
pub(crate) fn recorded_path(target: &str) -> String {
    let Some((path, query)) = target.split_once('?') else { return target.to_owned() };
    let hashed = |pair: &str| match pair.split_once('=') {
        Some((name, value)) => format!("{name}=~{:.12}", crate::classify::hash(value.as_bytes())),
        None => pair.to_owned(),
    };
    let query: Vec<String> = query.split('&').map(hashed).collect();
    format!("{path}?{}", query.join("&"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn query_values_do_not_reach_the_record() {
        let recorded = super::recorded_path("/v1/x?key=sk-canary&beta=true&flag");
        assert!(recorded.starts_with("/v1/x?key=~") && recorded.ends_with("&flag"), "{recorded}");
        assert!(!recorded.contains("canary") && !recorded.contains("true"));
        assert_eq!(super::recorded_path("/v1/x"), "/v1/x");
    }
}
