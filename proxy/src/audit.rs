//! The record of a call: its intent before anything leaves, its outcome afterwards, and every refusal.

use sideguard_policy::Grant;
use sideguard_types::audit::{Phase, Record};
use sideguard_types::refusal::{Code, Refusal};
use sideguard_types::verdict::Decision;

use crate::app::Sidecar;
use crate::call::{Exchange, Refused, Reserved};

/// Stage 6: writes the intent of every item. Only then may the call leave.
pub(crate) async fn intent(sidecar: &Sidecar, reserved: Reserved) -> Result<Reserved, Refused> {
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
                return Err(unwritten(reserved));
            }
        }
        sidecar.seen(&record);
    }
    if let Some(written) = last
        && sidecar.log.durable(written).await.is_err()
    {
        return Err(unwritten(reserved));
    }
    Ok(reserved)
}

fn unwritten(reserved: Reserved) -> Refused {
    let Reserved { exchange, held, .. } = reserved;
    held.release();
    let mut refusal =
        Refusal::new(Code::RecordUnavailable, "record", "the record cannot be written, so nothing may leave");
    refusal.hint = Some("make room on the sidecar's disk".to_owned());
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
