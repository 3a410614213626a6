//! Entries as events of the Open Cybersecurity Schema Framework (schema.ocsf.io, version 1.5.0): class API Activity (6003) of
//! category Application Activity (6), with the profile `security_control`.
//!
//! | OCSF | from the record |
//! | --- | --- |
//! | `class_uid`, `category_uid`, `type_uid` | 6003, 6, 600300 + `activity_id` |
//! | `activity_id` | what is done: by HTTP method (create 1, read 2, update 3, delete 4), else by verb; 99 with its name for the sidecar's own doings |
//! | `time`, `start_time`, `duration` | `time`, `time` − `latency_us`, `latency_us`, in milliseconds |
//! | `severity_id` | denied: medium 3; throttled or held for approval: low 2; else informational 1 |
//! | `status_id`, `status`, `status_code`, `status_detail` | success 1 or failure 2: denied, with a code, or HTTP status from 400; unknown 0 for an intent; `code` or `status`; `reason` |
//! | `action_id`, `disposition_id` | allowed 1 / 1, or denied 2 / blocked 2; changed on the way: 1 / corrected 11 |
//! | `policy` | rule that decided, digest of the set |
//! | `metadata` | `uid` sidecar/position, `correlation_uid` call, `product` Sideguard, `original_time`, `log_name` phase |
//! | `actor.user`, `actor.session`, `actor.app_name` | agent (`uid` tenant/agent, `org` tenant), session, root of the delegation chain |
//! | `api` | `operation` topic, `service.name` host, `request.uid` call, `response.code` status, `response.error` code |
//! | `src_endpoint`, `dst_endpoint` | the sidecar, the host and its port |
//! | `http_request` | method, path (values of the query hashed, as in the record) |
//! | `unmapped` | everything else, as it stands in the record |

use serde_json::{Map, Value, json};
use sideguard_types::audit::{Phase, Record};
use sideguard_types::call::Verb;
use sideguard_types::control::records::Entry;
use sideguard_types::verdict::Decision;

/// Version of the schema.
const SCHEMA: &str = "1.5.0";
/// API Activity.
const CLASS: u64 = 6003;
/// What of the record has a place in the event; the rest is `unmapped`.
const MAPPED: [&str; 15] = [
    "time",
    "phase",
    "tenant",
    "agent",
    "session",
    "call",
    "topic",
    "decision",
    "code",
    "rule",
    "reason",
    "policy_digest",
    "status",
    "latency_us",
    "target",
];

/// An entry as an event.
pub(super) fn event(entry: &Entry, record: &Record) -> Value {
    let (activity_id, activity) = activity(record);
    let millis = record.time.0.div_euclid(1_000);
    let (severity_id, severity) = severity(record);
    let (status_id, status) = status(record);
    let mut event = json!({
        "class_uid": CLASS,
        "class_name": "API Activity",
        "category_uid": 6,
        "category_name": "Application Activity",
        "activity_id": activity_id,
        "activity_name": activity,
        "type_uid": CLASS * 100 + activity_id,
        "type_name": format!("API Activity: {activity}"),
        "time": millis,
        "severity_id": severity_id,
        "severity": severity,
        "status_id": status_id,
        "status": status,
        "metadata": metadata(entry, record),
        "actor": actor(entry, record),
        "api": api(record),
        "src_endpoint": {
            "uid": entry.sidecar,
            "name": entry.sidecar,
            "type": "Sidecar",
            "type_id": 99,
        },
        "unmapped": unmapped(entry),
    });
    let Value::Object(fields) = &mut event else { return event };
    let optional = [
        (
            "status_code",
            record.code.clone().or_else(|| record.status.map(|status| status.to_string())).map(Value::from),
        ),
        ("status_detail", some(&record.reason)),
        ("dst_endpoint", destination(record)),
        ("http_request", http_request(record)),
        ("duration", record.latency_us.map(|micros| json!(micros / 1_000))),
        (
            "start_time",
            record
                .latency_us
                .and_then(|micros| i64::try_from(micros / 1_000).ok())
                .map(|took| json!(millis - took)),
        ),
    ];
    fields.extend(optional.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    fields.extend(control(record));
    event
}

fn some(text: &str) -> Option<Value> {
    (!text.is_empty()).then(|| json!(text))
}

/// What is done. The sidecar's own doings are none of the four.
fn activity(record: &Record) -> (u64, String) {
    let own = if record.phase == Phase::Control { record.code.as_deref() } else { None };
    let known = match (own, record.target.method.as_str(), record.verb) {
        (Some(_), ..) => None,
        (None, "POST", Some(Verb::Read)) | (None, "GET" | "HEAD" | "OPTIONS", _) => Some((2, "Read")),
        (None, "POST", _) => Some((1, "Create")),
        (None, "PUT" | "PATCH", _) => Some((3, "Update")),
        (None, "DELETE", _) => Some((4, "Delete")),
        (None, _, Some(Verb::Read)) => Some((2, "Read")),
        (None, _, Some(Verb::Write)) => Some((3, "Update")),
        (None, _, Some(Verb::Admin) | None) => None,
    };
    match (known, own) {
        (Some((id, name)), _) => (id, name.to_owned()),
        (None, Some(code)) => (99, code.to_owned()),
        (None, None) => (99, "Other".to_owned()),
    }
}

const fn severity(record: &Record) -> (u64, &'static str) {
    match record.decision {
        Some(Decision::Deny) => (3, "Medium"),
        Some(Decision::Throttle | Decision::RequireApproval) => (2, "Low"),
        Some(Decision::Allow | Decision::AllowWithConstraints) | None => (1, "Informational"),
    }
}

fn refused(record: &Record) -> bool {
    record.decision.is_some_and(|decision| decision >= Decision::Throttle)
}

fn status(record: &Record) -> (u64, &'static str) {
    let failed = record.code.is_some() || record.status.is_some_and(|status| status >= 400);
    match record.phase {
        _ if refused(record) => (2, "Failure"),
        Phase::Intent => (0, "Unknown"),
        Phase::Outcome if failed => (2, "Failure"),
        Phase::Outcome | Phase::Decision | Phase::Control => (1, "Success"),
    }
}

/// The profile `security_control`: what was done about it, and by which rule.
fn control(record: &Record) -> Map<String, Value> {
    let mut fields = Map::new();
    let Some(decision) = record.decision else { return fields };
    let (action_id, action, disposition_id, disposition) = match decision {
        Decision::Allow => (1, "Allowed", 1, "Allowed"),
        Decision::AllowWithConstraints => (1, "Allowed", 11, "Corrected"),
        Decision::Throttle | Decision::RequireApproval | Decision::Deny => (2, "Denied", 2, "Blocked"),
    };
    fields.insert("action_id".to_owned(), json!(action_id));
    fields.insert("action".to_owned(), json!(action));
    fields.insert("disposition_id".to_owned(), json!(disposition_id));
    fields.insert("disposition".to_owned(), json!(disposition));
    let policy = json!({
        "name": record.rule, "uid": record.rule, "version": record.policy_digest, "desc": record.reason,
    });
    fields.insert("policy".to_owned(), policy);
    fields
}

fn metadata(entry: &Entry, record: &Record) -> Value {
    json!({
        "version": SCHEMA,
        "profiles": ["security_control"],
        "product": { "name": "Sideguard", "vendor_name": "Sideguard", "version": env!("CARGO_PKG_VERSION") },
        "uid": format!("{}/{}", entry.sidecar, entry.position),
        "correlation_uid": record.call,
        "log_name": record.phase,
        "log_provider": "sideguard-control",
        "original_time": record.time,
        "sequence": entry.position,
        "tenant_uid": entry.tenant,
    })
}

/// The agent; the sidecar itself where no agent is known.
fn actor(entry: &Entry, record: &Record) -> Value {
    let (name, uid) = if record.agent.is_empty() {
        ("sidecar".to_owned(), entry.sidecar.clone())
    } else {
        (record.agent.clone(), format!("{}/{}", entry.tenant, record.agent))
    };
    let mut actor = json!({
        "user": {
            "name": name, "uid": uid, "type": "Agent", "type_id": 99,
            "org": { "name": entry.tenant, "uid": entry.tenant },
        },
    });
    if let Some(session) = &record.session {
        actor["session"] = json!({ "uid": session });
    }
    if let Some(root) = record.chain.first() {
        actor["app_name"] = json!(root);
    }
    actor
}

fn api(record: &Record) -> Value {
    let own = record.code.as_deref().filter(|_| record.phase == Phase::Control);
    let operation = own.map(str::to_owned).or_else(|| some(&record.topic).map(|_| record.topic.clone()));
    let mut api = json!({ "operation": operation.unwrap_or_else(|| "unknown".to_owned()) });
    if !record.target.host.is_empty() {
        api["service"] = json!({ "name": record.target.host });
    }
    if !record.call.is_empty() {
        api["request"] = json!({ "uid": record.call });
    }
    let code = record.status.map(|status| ("code", json!(status)));
    let error = record.code.as_ref().filter(|_| own.is_none()).map(|code| ("error", json!(code)));
    let response: Map<String, Value> =
        code.into_iter().chain(error).map(|(name, value)| (name.to_owned(), value)).collect();
    if !response.is_empty() {
        api["response"] = Value::Object(response);
    }
    api
}

fn destination(record: &Record) -> Option<Value> {
    let host = record.target.host.as_str();
    if host.is_empty() {
        return None;
    }
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, port.parse::<u16>().ok()),
        _ => (host, None),
    };
    let mut endpoint = json!({ "hostname": name.trim_matches(['[', ']']) });
    if let Some(port) = port {
        endpoint["port"] = json!(port);
    }
    Some(endpoint)
}

fn http_request(record: &Record) -> Option<Value> {
    let target = &record.target;
    (!target.method.is_empty()).then(|| {
        let (path, query) = target.path.split_once('?').unwrap_or((&target.path, ""));
        json!({
            "uid": record.call,
            "http_method": target.method,
            "url": { "hostname": target.host, "path": path, "query_string": query },
        })
    })
}

fn unmapped(entry: &Entry) -> Value {
    let mut fields: Map<String, Value> = serde_json::from_str(entry.record.get()).unwrap_or_default();
    let target = fields.get("target").and_then(Value::as_object).cloned().unwrap_or_default();
    fields.retain(|name, _| !MAPPED.contains(&name.as_str()));
    for name in ["tool", "model"] {
        if let Some(value) = target.get(name) {
            fields.insert(name.to_owned(), value.clone());
        }
    }
    Value::Object(fields)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use sideguard_types::audit::{Phase, Record};
    use sideguard_types::call::{Point, Verb};
    use sideguard_types::control::records::Entry;
    use sideguard_types::time::Timestamp;
    use sideguard_types::verdict::Decision;

    use super::event;

    fn of(record: &Record) -> Value {
        let text = serde_json::to_string(record).expect("JSON");
        let entry = Entry {
            sidecar: "s1".to_owned(),
            tenant: "acme".to_owned(),
            position: 7,
            record: serde_json::value::RawValue::from_string(text).expect("JSON"),
        };
        event(&entry, record)
    }

    fn denied() -> Record {
        let mut record = Record::new(Phase::Decision, Timestamp(1_700_000_000_000_000));
        record.agent = "reader".to_owned();
        record.call = "c1".to_owned();
        record.point = Some(Point::ToolCall);
        record.topic = "job.crm.delete".to_owned();
        record.verb = Some(Verb::Admin);
        record.target.host = "crm.acme.com:8443".to_owned();
        record.target.method = "DELETE".to_owned();
        record.target.path = "/rows/1?key=~abc".to_owned();
        record.target.tool = Some("drop".to_owned());
        record.decision = Some(Decision::Deny);
        record.code = Some("policy_denied".to_owned());
        record.rule = "safety/no".to_owned();
        record.reason = "kept".to_owned();
        record.status = Some(403);
        record.latency_us = Some(2_500);
        record.args_hash = Some("ab".to_owned());
        record
    }

    /// What the schema requires: of every event, of the class, and of the objects in it.
    fn required(event: &Value) {
        for path in [
            "/activity_id",
            "/category_uid",
            "/class_uid",
            "/type_uid",
            "/time",
            "/severity_id",
            "/metadata/version",
            "/metadata/product/vendor_name",
            "/actor/user/name",
            "/api/operation",
            "/src_endpoint/uid",
            "/status_id",
        ] {
            let value = event.pointer(path);
            assert!(value.is_some_and(|value| !value.is_null() && value != ""), "{path}: {event:#}");
        }
        let number = |name: &str| event[name].as_u64().expect("a number");
        assert_eq!(number("type_uid"), number("class_uid") * 100 + number("activity_id"));
        assert_eq!((number("class_uid"), number("category_uid")), (6003, 6));
        for (name, value) in event.as_object().expect("an object") {
            assert!(!value.is_null(), "{name} is left out where it is not known");
        }
    }

    #[test]
    fn a_denial_has_all_that_the_class_asks_for_and_nothing_is_lost() {
        let event = of(&denied());
        required(&event);
        assert_eq!(
            (&event["activity_id"], &event["severity_id"], &event["status_id"]),
            (&json!(4), &json!(3), &json!(2))
        );
        assert_eq!((&event["action_id"], &event["disposition"]), (&json!(2), &json!("Blocked")));
        assert_eq!(event["dst_endpoint"], json!({ "hostname": "crm.acme.com", "port": 8_443 }));
        assert_eq!(event["policy"]["name"], "safety/no");
        assert_eq!((&event["duration"], &event["time"]), (&json!(2), &json!(1_700_000_000_000_u64)));
        assert_eq!(event["start_time"], json!(1_699_999_999_998_u64));
        let rest = &event["unmapped"];
        for (name, value) in
            [("args_hash", "ab"), ("tool", "drop"), ("point", "tool.call"), ("verb", "admin")]
        {
            assert_eq!(rest[name], value, "{rest:#}");
        }
    }

    #[test]
    fn every_phase_has_what_the_class_asks_for() {
        let mut intent = denied();
        (intent.phase, intent.decision, intent.code, intent.status) =
            (Phase::Intent, Some(Decision::AllowWithConstraints), None, None);
        let mut outcome = Record::new(Phase::Outcome, Timestamp(1));
        (outcome.call, outcome.status) = ("c1".to_owned(), Some(500));
        let mut own = Record::new(Phase::Control, Timestamp(1));
        own.code = Some("policy_changed".to_owned());
        for (record, status, activity) in [(&intent, 0, 4), (&outcome, 2, 99), (&own, 1, 99)] {
            let event = of(record);
            required(&event);
            assert_eq!((&event["status_id"], &event["activity_id"]), (&json!(status), &json!(activity)));
        }
        assert_eq!(of(&intent)["disposition_id"], 11);
        assert_eq!(of(&own)["api"]["operation"], "policy_changed");
    }
}
