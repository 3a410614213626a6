//! Requests to an API server.

use std::collections::BTreeMap;

use http::Response;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::objects::{Objects, Place, Refused, Scope, Watch};
use crate::fake::{Body, Seen, parts, whole};

/// Answers a request.
pub(super) fn answer(objects: &Mutex<Objects>, seen: &Seen, token: &str) -> Response<Body> {
    let mut objects = objects.lock();
    objects.requests += 1;
    if seen.headers.get("authorization").is_none_or(|value| value != &format!("Bearer {token}")) {
        return refused((401, "Unauthorized", "Unauthorized".to_owned()));
    }
    let (path, query) = seen.target.split_once('?').unwrap_or((&seen.target, ""));
    if path == "/version" {
        return told(
            200,
            &json!({ "major": "1", "minor": "33", "gitVersion": "v1.33.1", "gitCommit": "", "gitTreeState": "",
            "buildDate": "", "goVersion": "", "compiler": "", "platform": "linux/amd64" }),
        );
    }
    let Some(address) = Address::read(path) else { return refused(unknown(path)) };
    let query = pairs(query);
    let verb = verb(&seen.method, &address, &query);
    objects.asked.insert(match &address.part {
        Some(part) => format!("{verb} {}/{part}", address.plural),
        None => format!("{verb} {}", address.plural),
    });
    let body = serde_json::from_slice(&seen.body).unwrap_or_default();
    if address.plural == "tokenreviews" {
        return told(201, &review(&objects, &body));
    }
    let Some((kind, _)) = objects.kind(&address.plural) else { return refused(unknown(path)) };
    let place = Place {
        plural: address.plural.clone(),
        namespace: address.namespace.clone().unwrap_or_default(),
        name: address.name.clone().unwrap_or_default(),
    };
    let done = match verb {
        "get" => objects
            .get(&place)
            .cloned()
            .ok_or_else(|| (404, "NotFound", format!("`{}` not found", place.name))),
        "list" => Ok(json!({
            "kind": format!("{kind}List"),
            "apiVersion": address.version,
            "metadata": { "resourceVersion": objects.version().to_string() },
            "items": objects.listed(&scope(&address, &query)).into_iter().map(|mut item| {
                // As of the built-in kinds: items do not say what they are.
                if let Some(item) = item.as_object_mut().filter(|_| !address.version.contains("sideguard.dev")) {
                    item.remove("apiVersion");
                    item.remove("kind");
                }
                item
            }).collect::<Vec<_>>(),
        })),
        "watch" => {
            let from = query.get("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
            let (send, body) = parts();
            objects.watch(Watch { scope: scope(&address, &query), send }, from);
            return Response::builder()
                .header("content-type", "application/json")
                .body(body)
                .expect("a reply");
        }
        "create" => create(&mut objects, place, body),
        "update" => objects.replace(&place, body),
        "patch" => objects.patch(&place, &body, address.part.as_deref() == Some("status")),
        "delete" if objects.remove(&place) => Ok(json!({ "kind": "Status", "status": "Success" })),
        _ => Err(unknown(path)),
    };
    match done {
        Ok(object) => told(if verb == "create" { 201 } else { 200 }, &object),
        Err(error) => refused(error),
    }
}

fn create(objects: &mut Objects, mut place: Place, mut object: Value) -> Result<Value, Refused> {
    place.name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if !place.namespace.is_empty() {
        object["metadata"]["namespace"] = json!(place.namespace);
    }
    objects.create(&place, object)
}

struct Address {
    version: String,
    namespace: Option<String>,
    plural: String,
    name: Option<String>,
    part: Option<String>,
}

impl Address {
    /// `/api/v1/…` or `/apis/GROUP/VERSION/…`, then `[namespaces/NAMESPACE/]PLURAL[/NAME[/PART]]`.
    fn read(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let (version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ((*version).to_owned(), rest),
            ["apis", group, version, rest @ ..] => (format!("{group}/{version}"), rest),
            _ => return None,
        };
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some((*namespace).to_owned()), rest),
            _ => (None, rest),
        };
        let part = |at: usize| rest.get(at).map(|part| (*part).to_owned());
        Some(Self { version, namespace, plural: part(0)?, name: part(1), part: part(2) })
    }
}

fn verb(method: &str, address: &Address, query: &BTreeMap<String, String>) -> &'static str {
    match (method, &address.name) {
        ("GET", Some(_)) => "get",
        ("GET", None) if query.get("watch").is_some_and(|watch| watch == "true" || watch == "1") => "watch",
        ("GET", None) => "list",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", _) => "delete",
        _ => "unknown",
    }
}

fn scope(address: &Address, query: &BTreeMap<String, String>) -> Scope {
    let field = query.get("fieldSelector").and_then(|field| field.strip_prefix("metadata.name="));
    Scope {
        plural: address.plural.clone(),
        namespace: address.namespace.clone(),
        labels: query.get("labelSelector").cloned().unwrap_or_default(),
        name: field.map(str::to_owned),
    }
}

fn pairs(query: &str) -> BTreeMap<String, String> {
    let decoded = |text: &str| {
        text.replace("%2F", "/")
            .replace("%2f", "/")
            .replace("%3D", "=")
            .replace("%2C", ",")
            .replace("%3d", "=")
    };
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (decoded(key), decoded(value))).collect()
}

fn review(objects: &Objects, review: &Value) -> Value {
    let token = review["spec"]["token"].as_str().unwrap_or_default();
    let wanted = review["spec"]["audiences"].as_array().cloned().unwrap_or_default();
    let mut answer = review.clone();
    let reviewed = objects.tokens.get(token).filter(|known| wanted.iter().any(|one| *one == known.audience));
    answer["status"] = match reviewed {
        None => json!({ "authenticated": false, "error": "token is not known for these audiences" }),
        Some(known) => {
            let mut extra = json!({});
            if let Some((name, uid)) = &known.pod {
                extra["authentication.kubernetes.io/pod-name"] = json!([name]);
                extra["authentication.kubernetes.io/pod-uid"] = json!([uid]);
            }
            json!({
                "authenticated": true,
                "audiences": [known.audience],
                "user": {
                    "username": format!("system:serviceaccount:{}:{}", known.namespace, known.account),
                    "groups": ["system:serviceaccounts"],
                    "extra": extra,
                },
            })
        }
    };
    answer
}

fn unknown(path: &str) -> Refused {
    (404, "NotFound", format!("the server could not find the requested resource `{path}`"))
}

fn told(status: u16, body: &Value) -> Response<Body> {
    let response = Response::builder().status(status).header("content-type", "application/json");
    response.body(whole(body.to_string())).expect("a reply")
}

fn refused((code, reason, message): Refused) -> Response<Body> {
    told(
        code,
        &json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code,
        "reason": reason, "message": message }),
    )
}
