//! A call as an expression sees it: each value is made when its name is read, texts are borrowed.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use cel::Value;
use cel::common::types::CelString;
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;
use cel::objects::{Key, Map};
use chrono::DateTime;
use serde::Deserialize;
use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use sideguard_types::call::Call;
use sideguard_types::time::Timestamp;

/// Largest arguments that an expression may read, in bytes.
const MAX_ARGS: usize = 1 << 20;

/// What an expression may name.
pub(crate) const VARIABLES: [&str; 18] = [
    "tenant",
    "agent",
    "labels",
    "chain",
    "point",
    "topic",
    "verb",
    "risk_tags",
    "tool",
    "args",
    "model",
    "host",
    "method",
    "path",
    "tokens",
    "cost_usd",
    "session",
    "time",
];

/// One call at one moment. Absent texts are empty, absent arguments an empty map.
pub(crate) struct Facts<'c> {
    call: &'c Call<'c>,
    now: Timestamp,
    args: OnceLock<Result<Box<dyn Val>, String>>,
}

impl<'c> Facts<'c> {
    pub(crate) const fn new(call: &'c Call<'c>, now: Timestamp) -> Self {
        Self { call, now, args: OnceLock::new() }
    }

    /// Why the arguments could not be read, if an expression tried to.
    pub(crate) fn args_fault(&self) -> Option<&str> {
        self.args.get().and_then(|args| args.as_ref().err()).map(String::as_str)
    }

    /// Size of the arguments, in bytes.
    pub(crate) fn args_bytes(&self) -> usize {
        self.call.args.map_or(0, <[u8]>::len)
    }

    fn args(&self) -> Option<CowVal<'_, '_>> {
        let args = self.args.get_or_init(|| parse(self.call.args.unwrap_or(b"{}")));
        args.as_ref().ok().map(|args| CowVal::Borrowed(args.as_ref()))
    }
}

impl VariableResolver for Facts<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        let call = self.call;
        let value = match variable {
            "tenant" => return text(&call.caller.tenant),
            "agent" => return text(&call.caller.agent),
            "point" => return text(call.point.as_str()),
            "topic" => return text(&call.class.topic),
            "verb" => return text(call.class.verb.as_str()),
            "tool" => return text(call.tool.unwrap_or_default()),
            "model" => return text(call.model.unwrap_or_default()),
            "host" => return text(call.host),
            "method" => return text(call.method),
            "path" => return text(call.path),
            "session" => return text(call.session.unwrap_or_default()),
            "args" => return self.args(),
            "labels" => {
                let labels = call.caller.labels.iter();
                let map: HashMap<Key, Value> =
                    labels.map(|(k, v)| (Key::from(k.as_str()), string(v))).collect();
                Value::Map(Map { map: Arc::new(map) })
            }
            "chain" => list(call.caller.chain.iter().map(String::as_str)),
            "risk_tags" => list(call.class.risk_tags.iter().map(AsRef::as_ref)),
            "tokens" => Value::Int(i64::try_from(call.tokens.0).unwrap_or(i64::MAX)),
            "cost_usd" => Value::Float(dollars(call.cost.0)),
            "time" => Value::Timestamp(DateTime::from_timestamp_micros(self.now.0)?.fixed_offset()),
            _ => return None,
        };
        Box::<dyn Val>::try_from(value).ok().map(CowVal::Owned)
    }
}

#[expect(clippy::cast_precision_loss, reason = "micro-dollars are exact up to nine billion dollars")]
fn dollars(micro: u64) -> f64 {
    micro as f64 / 1e6
}

fn text(text: &str) -> Option<CowVal<'_, '_>> {
    Some(CowVal::owned(CelString::from(text)))
}

fn string(text: &str) -> Value {
    Value::String(Arc::new(text.to_owned()))
}

fn list<'t>(items: impl Iterator<Item = &'t str>) -> Value {
    Value::List(Arc::new(items.map(string).collect()))
}

fn parse(bytes: &[u8]) -> Result<Box<dyn Val>, String> {
    if bytes.len() > MAX_ARGS {
        return Err(format!("the arguments have more than the {MAX_ARGS} bytes that an expression may read"));
    }
    let Json(value) =
        serde_json::from_slice(bytes).map_err(|_| "the arguments are not JSON without repeated keys")?;
    Box::<dyn Val>::try_from(value).map_err(|_| "the arguments cannot be read".to_owned())
}

/// JSON straight to a CEL value. A repeated key is an error: which of the two counts is for the receiver to say, so
/// no judgement can rest on either.
struct Json(Value);

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor).map(Json)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(i64::try_from(value).map_or(Value::UInt(value), Value::Int))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(string(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Json(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(Arc::new(list)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = HashMap::new();
        while let Some((key, Json(value))) = entries.next_entry::<String, Json>()? {
            if map.insert(Key::from(key), value).is_some() {
                return Err(A::Error::custom("a key stands twice"));
            }
        }
        Ok(Value::Map(Map { map: Arc::new(map) }))
    }
}
