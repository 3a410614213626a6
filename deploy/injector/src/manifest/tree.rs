//! A document of YAML or JSON with its keys in their order, which the types of serde_json do not keep.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_json::{Number, Value};
use serde_saphyr::DoubleQuoted;

/// A document or a part of one.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Tree {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Tree>),
    Map(Vec<(String, Tree)>),
}

impl Tree {
    /// The same as JSON.
    pub(super) fn value(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(flag) => Value::Bool(*flag),
            Self::Number(number) => Value::Number(number.clone()),
            Self::Text(text) => Value::String(text.clone()),
            Self::List(items) => items.iter().map(Self::value).collect(),
            Self::Map(entries) => {
                Value::Object(entries.iter().map(|(key, value)| (key.clone(), value.value())).collect())
            }
        }
    }

    /// What stands under a key of a map.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Map(entries) => entries.iter().find(|(own, _)| own == key).map(|(_, value)| value),
            _ => None,
        }
    }

    /// As [`Tree::get`], to be changed.
    pub(super) fn get_mut(&mut self, key: &str) -> Option<&mut Self> {
        match self {
            Self::Map(entries) => entries.iter_mut().find(|(own, _)| own == key).map(|(_, value)| value),
            _ => None,
        }
    }

    /// The text under a key; empty when there is none.
    pub(super) fn text(&self, key: &str) -> &str {
        match self.get(key) {
            Some(Self::Text(text)) => text,
            _ => "",
        }
    }

    /// Makes one change of a patch. Those that only look are passed over: the patch was made from this tree.
    pub(super) fn change(&mut self, operation: &Value) -> Option<()> {
        let path = operation.get("path")?.as_str()?;
        let (parent, last) = path.rsplit_once('/')?;
        let mut place = self;
        for part in parent.split('/').skip(1) {
            let key = plain(part);
            place = match place {
                Self::List(items) => items.get_mut(key.parse::<usize>().ok()?)?,
                map => map.get_mut(&key)?,
            };
        }
        let key = plain(last);
        match (operation.get("op")?.as_str()?, place) {
            ("test", _) => {}
            ("add", Self::Map(entries)) => {
                let value = Self::from(operation.get("value")?.clone());
                match entries.iter_mut().find(|(own, _)| *own == key) {
                    Some((_, old)) => *old = value,
                    None => entries.push((key, value)),
                }
            }
            ("add", Self::List(items)) => {
                let at = if key == "-" {
                    items.len()
                } else {
                    key.parse().ok().filter(|at| *at <= items.len())?
                };
                items.insert(at, Self::from(operation.get("value")?.clone()));
            }
            ("remove", Self::List(items)) => {
                let at = key.parse().ok().filter(|at: &usize| *at < items.len())?;
                items.remove(at);
            }
            _ => return None,
        }
        Some(())
    }
}

fn plain(key: &str) -> String {
    key.replace("~1", "/").replace("~0", "~")
}

impl From<Value> for Tree {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(flag) => Self::Bool(flag),
            Value::Number(number) => Self::Number(number),
            Value::String(text) => Self::Text(text),
            Value::Array(items) => Self::List(items.into_iter().map(Self::from).collect()),
            Value::Object(map) => {
                // As people write containers: what they are called comes first.
                let (mut first, rest): (Vec<_>, Vec<_>) = map.into_iter().partition(|(key, _)| key == "name");
                first.extend(rest);
                Self::Map(first.into_iter().map(|(key, value)| (key, Self::from(value))).collect())
            }
        }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        Tree::deserialize(deserializer)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Tree, E> {
        Ok(Tree::Bool(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Tree, E> {
        Ok(Tree::Number(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Tree, E> {
        Ok(Tree::Number(number.into()))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Tree, E> {
        Number::from_f64(number)
            .map(Tree::Number)
            .ok_or_else(|| E::custom("a number that JSON does not have"))
    }

    fn visit_str<E>(self, text: &str) -> Result<Tree, E> {
        Ok(Tree::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Tree::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut entries: Vec<(String, Tree)> = Vec::new();
        while let Some((key, value)) = map.next_entry::<String, Tree>()? {
            if entries.iter().any(|(own, _)| *own == key) {
                return Err(de::Error::custom(format!("the key `{key}` stands there twice")));
            }
            entries.push((key, value));
        }
        Ok(Tree::Map(entries))
    }
}

impl Serialize for Tree {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(flag) => serializer.serialize_bool(*flag),
            Self::Number(number) => number.serialize(serializer),
            Self::Text(text) if mistakable(text) => DoubleQuoted(text.as_str()).serialize(serializer),
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    list.serialize_element(item)?;
                }
                list.end()
            }
            Self::Map(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (key, value) in entries {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
    }
}

/// Whether some reader of YAML could take a text for something else: kubectl reads 1.1, where `on`, `1_000` and `12:30` are no
/// texts. What begins with a letter and is no word of that kind is safe; quotes do no harm to the rest.
fn mistakable(text: &str) -> bool {
    const WORDS: [&str; 11] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf"];
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/' | b' ' | b'\n');
    let starts = text.as_bytes().first().is_some_and(|b| b.is_ascii_alphabetic() || *b == b'/');
    let many = text.contains('\n');
    !many && (!starts || !text.bytes().all(plain) || WORDS.contains(&text.to_ascii_lowercase().as_str()))
}
