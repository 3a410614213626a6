//! One rule of an XAccessPolicy: whose right it is, and to what.

use serde_json::{Map, Value, json};

use super::{Unsupported, only, plain, text, unsupported};

/// What every client of an MCP server says before it can use a right, and to end. A listing of tools is told, tool by tool, as
/// far as they may be called.
const BASE: [&str; 6] = [
    "mcp.*.initialize",
    "mcp.*.ping",
    "mcp.*.notifications.*",
    "mcp.*.response",
    "mcp.*.session.*",
    "mcp.*.tools.list",
];

/// The rules of ours that a rule of theirs becomes.
pub(super) fn rules(
    namespace: &str,
    rule: &Value,
    place: &str,
    hosts: &[String],
) -> Result<Vec<Value>, Unsupported> {
    only(rule, place, &["name", "source", "authorization"])?;
    let name = plain(text(&rule["name"], &format!("{place}.name"))?, &format!("{place}.name"))?;
    let agent = agent(namespace, &rule["source"], &format!("{place}.source"))?;
    let rights = rights(&rule["authorization"], &format!("{place}.authorization"))?;
    let rule = |(at, right): (usize, Map<String, Value>)| {
        let mut matches = right;
        matches.insert("agents".to_owned(), json!([agent]));
        matches.insert("hosts".to_owned(), json!(hosts));
        json!({ "id": format!("{name}.{at}"), "match": matches, "decision": "allow" })
    };
    Ok(rights.into_iter().enumerate().map(rule).collect())
}

/// The agent that a source is: the one with the service account's name, in the policy's own namespace.
fn agent(namespace: &str, source: &Value, place: &str) -> Result<String, Unsupported> {
    let other = |own: &str| format!("is of the namespace `{own}`: that may be another tenant's");
    match source["type"].as_str() {
        Some("ServiceAccount") => {
            only(source, place, &["type", "serviceAccount"])?;
            let (account, place) = (&source["serviceAccount"], format!("{place}.serviceAccount"));
            only(account, &place, &["namespace", "name"])?;
            let own = account["namespace"].as_str().filter(|own| !own.is_empty()).unwrap_or(namespace);
            if own != namespace {
                return unsupported(place, other(own));
            }
            plain(text(&account["name"], &place)?, &place).map(str::to_owned)
        }
        Some("SPIFFE") => {
            only(source, place, &["type", "spiffe"])?;
            let place = format!("{place}.spiffe");
            let id = text(&source["spiffe"], &place)?;
            let parts: Vec<&str> = id.trim_start_matches("spiffe://").split('/').collect();
            match parts.as_slice() {
                [_, "ns", own, "sa", account] if *own == namespace => {
                    plain(account, &place).map(str::to_owned)
                }
                [_, "ns", own, "sa", _] => unsupported(place, other(own)),
                _ => unsupported(place, format!("`{id}` does not end in `/ns/NAMESPACE/sa/ACCOUNT`")),
            }
        }
        _ => unsupported(format!("{place}.type"), "is not known"),
    }
}

/// What is allowed, as keys of `match`.
fn rights(authorization: &Value, place: &str) -> Result<Vec<Map<String, Value>>, Unsupported> {
    if authorization.is_null() {
        return Ok(vec![Map::new()]);
    }
    if authorization["type"] != "Inline" {
        return unsupported(format!("{place}.type"), "only `Inline` is evaluated here");
    }
    only(authorization, place, &["type", "mcp"])?;
    let (mcp, place) = (&authorization["mcp"], format!("{place}.mcp"));
    if mcp.is_null() {
        return Ok(vec![Map::new()]);
    }
    only(mcp, &place, &["methods"])?;
    let methods = mcp["methods"].as_array().map(Vec::as_slice).unwrap_or_default();
    if methods.is_empty() {
        return Ok(vec![Map::new()]);
    }
    let mut rights = vec![keys(&["mcp.list"], json!({ "topics": BASE }))];
    for (at, method) in methods.iter().enumerate() {
        rights.extend(right(method, &format!("{place}.methods[{at}]"))?);
    }
    Ok(rights)
}

fn keys(points: &[&str], more: Value) -> Map<String, Value> {
    let mut keys = Map::new();
    keys.insert("points".to_owned(), json!(points));
    keys.extend(more.as_object().cloned().unwrap_or_default());
    keys
}

fn right(method: &Value, place: &str) -> Result<Vec<Map<String, Value>>, Unsupported> {
    const KNOWN: [&str; 8] = [
        "prompts/list",
        "prompts/get",
        "resources/list",
        "resources/templates/list",
        "resources/read",
        "resources/subscribe",
        "resources/unsubscribe",
        "tools/list",
    ];
    only(method, place, &["name", "params"])?;
    let name = text(&method["name"], &format!("{place}.name"))?;
    let params = method["params"].as_array().map(Vec::as_slice).unwrap_or_default();
    let topics = |glob: String| keys(&["mcp.list"], json!({ "topics": [glob] }));
    // Named tools, so that plain HTTP to the same host is none.
    let tools = |names: Value| keys(&["tool.call", "mcp.list"], json!({ "tools": names }));
    match name {
        "tools/call" if !params.is_empty() => {
            let plain =
                |param: &Value| param.as_str().is_some_and(|param| !param.contains(['*', '?', '[', '\\']));
            if !params.iter().all(plain) {
                return unsupported(format!("{place}.params"), "a character would mean more than itself");
            }
            Ok(vec![tools(json!(params))])
        }
        _ if !params.is_empty() => {
            unsupported(format!("{place}.params"), format!("parameters of `{name}` are not looked at here"))
        }
        "tools/call" => Ok(vec![tools(json!(["*"]))]),
        "tools" => Ok(vec![tools(json!(["*"])), topics("mcp.*.tools.*".to_owned())]),
        "prompts" | "resources" => Ok(vec![topics(format!("mcp.*.{name}.*"))]),
        known if KNOWN.contains(&known) => Ok(vec![topics(format!("mcp.*.{}", known.replace('/', ".")))]),
        other => unsupported(format!("{place}.name"), format!("`{other}` is not known")),
    }
}
