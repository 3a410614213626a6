//! `SIDEGUARD_<PATH>` variables as a second layer over the proxy's configuration.

use std::net::SocketAddrV6;

use crate::yaml::{self, Entry, Mark, Node, Style, Value};

const PREFIX: &str = "SIDEGUARD_";

/// A variable that cannot be put into the configuration.
pub(super) struct Misfit {
    pub(super) at: Mark,
    pub(super) message: String,
}

/// Puts each variable that names one of `known` keys (or something below it) in its place under `spec`. `line` is
/// the line that the first variable has in findings. Others are left alone: orchestrators set variables such as
/// `SIDEGUARD_SERVICE_HOST` by themselves.
pub(super) fn overlay(spec: &mut Node, known: &[&str], env: &[(String, String)], line: usize) -> Vec<Misfit> {
    let mut misfits = Vec::new();
    for (index, (name, value)) in env.iter().enumerate() {
        let at = Mark { line: line.saturating_add(index), column: 1 };
        let Some(path) = name.strip_prefix(PREFIX) else { continue };
        let path: Vec<String> = path.split("__").map(camel).collect();
        let [first, ..] = path.as_slice() else { continue };
        if !known.contains(&first.as_str()) {
            continue;
        }
        let column = name.chars().count().saturating_add(2);
        let put = read(value, Mark { column, ..at }).and_then(|node| put(spec, &path, at, node));
        if let Err(message) = put {
            misfits.push(Misfit { at, message: format!("`{name}` {message}") });
        }
    }
    misfits
}

/// `MAX_BODY` as `maxBody`.
fn camel(segment: &str) -> String {
    let mut upper = false;
    let mut out = String::with_capacity(segment.len());
    for c in segment.chars() {
        if c == '_' {
            upper = true;
        } else if std::mem::take(&mut upper) {
            out.extend(c.to_uppercase());
        } else {
            out.extend(c.to_lowercase());
        }
    }
    out
}

/// Text that begins as a list or a map is read as YAML, everything else stands for itself; so does an address of IPv6.
fn read(value: &str, at: Mark) -> Result<Node, String> {
    if !value.trim_start().starts_with(['[', '{']) || value.parse::<SocketAddrV6>().is_ok() {
        let value = Value::Scalar(value.to_owned(), Style::Plain);
        return Ok(Node { at, bytes: 0..0, value });
    }
    let parsed = yaml::parse(value);
    if let Some(refusal) = parsed.refusals.into_iter().next() {
        return Err(format!("holds a list or map that cannot be read: {}", refusal.message));
    }
    let mut node = parsed.roots.into_iter().next().ok_or("is empty")?;
    settle(&mut node, at);
    Ok(node)
}

fn settle(node: &mut Node, at: Mark) {
    node.at = at;
    match &mut node.value {
        Value::Scalar(..) => {}
        Value::List(items) => items.iter_mut().for_each(|item| settle(item, at)),
        Value::Map(entries) => {
            for entry in entries {
                entry.at = at;
                settle(&mut entry.value, at);
            }
        }
    }
}

fn put(map: &mut Node, path: &[String], at: Mark, value: Node) -> Result<(), String> {
    let [key, rest @ ..] = path else { return Ok(()) };
    if map.is_null() {
        map.value = Value::Map(Vec::new());
    }
    let Value::Map(entries) = &mut map.value else {
        return Err(format!("needs a map to put `{key}` in, and there is none"));
    };
    let index = entries.iter().position(|entry| entry.key == *key);
    match (index.and_then(|index| entries.get_mut(index)), rest) {
        (Some(entry), []) => entry.value = value,
        (Some(entry), rest) => return put(&mut entry.value, rest, at, value),
        (None, []) => entries.push(Entry { key: key.clone(), at, value }),
        (None, rest) => {
            let mut below = Node { at, bytes: 0..0, value: Value::Map(Vec::new()) };
            put(&mut below, rest, at, value)?;
            entries.push(Entry { key: key.clone(), at, value: below });
        }
    }
    Ok(())
}
