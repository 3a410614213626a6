//! A review: what the API server asks, and what it is answered (`admission.k8s.io/v1`). What cannot be read is never allowed.
//!
//! Source: Kubernetes, Dynamic Admission Control, AdmissionReview v1.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::inject::{Injected, Outcome, inject};
use crate::known::Facts;
use crate::label;
use crate::pod::{noted, text};
use crate::refusal::{Code, Refusal};
use crate::settings::Settings;
use crate::validate::{add_ephemeral, validate, validate_ephemeral, validate_update};

/// Version of reviews that are taken and given.
const API_VERSION: &str = "admission.k8s.io/v1";
/// Longest warning, in bytes: the API server cuts longer ones.
const LONGEST_WARNING: usize = 250;
/// Most warnings of one answer.
const MOST_WARNINGS: usize = 12;

/// Which of the two webhooks is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Webhook {
    /// The one that changes pods.
    Mutate,
    /// The one that has the last word.
    Validate,
}

impl Webhook {
    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mutate => "mutate",
            Self::Validate => "validate",
        }
    }
}

/// An answer, and what it says for metrics.
#[derive(Debug)]
pub struct Answer {
    /// The review that goes back.
    pub review: Value,
    /// Name of the outcome: of an [`Outcome`], or a refusal's code.
    pub outcome: &'static str,
    /// Why it was refused, if it was.
    pub refusal: Option<Refusal>,
}

/// Something that is no review: it has no uid to answer to.
#[derive(Debug, thiserror::Error)]
pub enum NoReview {
    /// It is no JSON, or nested too deeply.
    #[error("the body is no JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// It is another thing, or of another version.
    #[error("the body is no AdmissionReview of `{API_VERSION}`")]
    Version,
    /// It asks nothing.
    #[error("the review has no `request` with a `uid`")]
    Request,
}

/// Answers a review.
///
/// # Errors
/// When it is none.
pub fn answer(webhook: Webhook, body: &[u8], facts: &Facts, settings: &Settings) -> Result<Answer, NoReview> {
    let review: Value = serde_json::from_slice(body)?;
    if text(&review, "apiVersion") != API_VERSION || text(&review, "kind") != "AdmissionReview" {
        return Err(NoReview::Version);
    }
    let request = review.get("request").filter(|request| request.is_object()).ok_or(NoReview::Request)?;
    let uid = text(request, "uid");
    if uid.is_empty() {
        return Err(NoReview::Request);
    }
    Ok(match decide(webhook, request, facts, settings) {
        Ok(injected) => allowed(webhook, uid, &injected),
        Err(refusal) => denied(uid, refusal),
    })
}

fn decide(
    webhook: Webhook,
    request: &Value,
    facts: &Facts,
    settings: &Settings,
) -> Result<Injected, Refusal> {
    let pod = pod(request)?;
    let known = facts
        .known()
        .ok_or_else(|| Refusal::new(Code::NotKnown, "nothing is known of the cluster yet: try again"))?;
    let namespace = text(request, "namespace");
    if namespace.is_empty() {
        return Refusal::err(Code::Malformed, "the request names no namespace");
    }
    let old = request.get("oldObject").filter(|old| old.is_object());
    match (webhook, text(request, "operation"), text(request, "subResource")) {
        (Webhook::Mutate, "CREATE", "") if mirror(request, pod) => Ok(of_a_node()),
        (Webhook::Validate, "CREATE", "") if mirror(request, pod) => Ok(of_a_node()),
        (Webhook::Mutate, "CREATE", "") => inject(pod, namespace, &known, settings),
        (Webhook::Validate, "CREATE", "") => validate(pod, namespace, &known, settings),
        (Webhook::Mutate, "UPDATE", "ephemeralcontainers") => {
            add_ephemeral(pod, old, namespace, &known, settings)
        }
        (Webhook::Validate, "UPDATE", "ephemeralcontainers") => {
            validate_ephemeral(pod, old, namespace, &known, settings)
        }
        (Webhook::Validate, "UPDATE", "") => validate_update(pod, old, namespace, &known, settings),
        (_, operation, "") => {
            Refusal::err(Code::NotForUs, format!("operation `{operation}` on pods is not for this webhook"))
        }
        (_, operation, part) => Refusal::err(
            Code::NotForUs,
            format!("operation `{operation}` on `pods/{part}` is not for this webhook"),
        ),
    }
}

/// The pod that is asked about.
fn pod(request: &Value) -> Result<&Value, Refusal> {
    let kind = request.get("kind").unwrap_or(&Value::Null);
    let (group, version, name) = (text(kind, "group"), text(kind, "version"), text(kind, "kind"));
    if (group, version, name) != ("", "v1", "Pod") {
        return Refusal::err(Code::NotForUs, format!("this webhook is for pods, not for `{name}`"));
    }
    request
        .get("object")
        .filter(|object| object.is_object())
        .ok_or_else(|| Refusal::new(Code::Malformed, "the request has no object"))
}

/// Whether a node tells of a pod that it made of a file of its own. Anybody can write the annotation; only nodes are in the
/// group.
fn mirror(request: &Value, pod: &Value) -> bool {
    let groups = request.pointer("/userInfo/groups").and_then(Value::as_array).into_iter().flatten();
    noted(pod, "annotations", label::MIRROR).is_some()
        && groups.filter_map(Value::as_str).any(|group| group == "system:nodes")
}

fn of_a_node() -> Injected {
    let warning = "sideguard: a static pod of a node cannot be injected, and runs without the sidecar";
    Injected::untouched(Outcome::Mirror, Some(warning.to_owned()))
}

fn allowed(webhook: Webhook, uid: &str, injected: &Injected) -> Answer {
    let mut response = Map::new();
    response.insert("uid".to_owned(), json!(uid));
    response.insert("allowed".to_owned(), json!(true));
    if webhook == Webhook::Mutate && !injected.patch.is_empty() {
        let patch = STANDARD.encode(Value::from(injected.patch.clone()).to_string());
        response.insert("patchType".to_owned(), json!("JSONPatch"));
        response.insert("patch".to_owned(), json!(patch));
    }
    // Both webhooks see the same pod: once is enough.
    if webhook == Webhook::Mutate && !injected.warnings.is_empty() {
        let warnings: Vec<&str> =
            injected.warnings.iter().take(MOST_WARNINGS).map(|warning| cut(warning)).collect();
        response.insert("warnings".to_owned(), json!(warnings));
    }
    let outcome = injected.outcome.name();
    response.insert("auditAnnotations".to_owned(), json!({"outcome": outcome}));
    Answer { review: reviewed(response), outcome, refusal: None }
}

fn denied(uid: &str, refusal: Refusal) -> Answer {
    let (code, outcome) = (refusal.code.status(), refusal.code.name());
    let reason = match code {
        400 => "BadRequest",
        503 => "ServiceUnavailable",
        _ => "Forbidden",
    };
    let mut response = Map::new();
    response.insert("uid".to_owned(), json!(uid));
    response.insert("allowed".to_owned(), json!(false));
    let status = json!({"status": "Failure", "code": code, "reason": reason, "message": refusal.to_string()});
    response.insert("status".to_owned(), status);
    response.insert("auditAnnotations".to_owned(), json!({"outcome": outcome}));
    Answer { review: reviewed(response), outcome, refusal: Some(refusal) }
}

fn reviewed(response: Map<String, Value>) -> Value {
    json!({"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response})
}

/// The beginning of a text, cut between characters.
fn cut(text: &str) -> &str {
    let end =
        (0..=LONGEST_WARNING.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.get(..end).unwrap_or_default()
}
