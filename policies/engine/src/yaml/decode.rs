//! Tree to types: a serde deserializer over [`Node`] whose errors know their place.
//!
//! Serde stops at the first error. To report all of them the caller decodes again with the offending node left out
//! ([`Pruned`]): each round gives one [`Fault`] and the node to leave out next.

use std::collections::HashSet;
use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, EnumAccess, Error as _, Expected, IntoDeserializer, MapAccess,
    SeqAccess, Unexpected, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::{Entry, Mark, Node, Style, Value};

/// Nodes that are left out, by address in one tree that does not move.
pub(crate) type Pruned = HashSet<*const Node>;

/// What is wrong with a node.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) kind: FaultKind,
    /// Where; set by the innermost node that the error passes.
    pub(crate) at: Option<Mark>,
    /// The node to leave out in order to read on.
    pub(crate) node: Option<*const Node>,
}

/// The kinds of fault that get their own hints.
#[derive(Debug, Clone)]
pub(crate) enum FaultKind {
    UnknownKey {
        key: String,
        known: &'static [&'static str],
    },
    UnknownValue {
        value: String,
        known: &'static [&'static str],
    },
    MissingKey(&'static str),
    /// A key is missing because it was left out: told already.
    Consequence,
    Other(String),
}

/// Reads `node` as a `T`, the nodes in `pruned` left out.
pub(crate) fn decode<T: DeserializeOwned>(node: &Node, pruned: &Pruned) -> Result<T, Fault> {
    T::deserialize(At { node, pruned })
}

/// Usual words for decisions beside their names.
const DECISION_ALIASES: &[(&str, &str)] = &[
    ("block", "deny"),
    ("reject", "deny"),
    ("permit", "allow"),
    ("accept", "allow"),
    ("approval", "require_approval"),
    ("human", "require_approval"),
    ("ask", "require_approval"),
    ("constrain", "allow_with_constraints"),
    ("rate_limit", "throttle"),
];

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            FaultKind::UnknownKey { key, .. } => write!(f, "there is no key `{key}` here"),
            FaultKind::UnknownValue { value, .. } => write!(f, "`{value}` is not a value that is known here"),
            FaultKind::MissingKey(key) => write!(f, "the key `{key}` is missing"),
            FaultKind::Consequence => f.write_str("a part of it cannot be read"),
            FaultKind::Other(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for Fault {}

impl From<FaultKind> for Fault {
    fn from(kind: FaultKind) -> Self {
        Self { kind, at: None, node: None }
    }
}

impl serde::de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        FaultKind::Other(message.to_string()).into()
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        FaultKind::UnknownKey { key: field.to_owned(), known: expected }.into()
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        FaultKind::UnknownValue { value: variant.to_owned(), known: expected }.into()
    }

    fn missing_field(field: &'static str) -> Self {
        FaultKind::MissingKey(field).into()
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::custom(format_args!("expected {expected}, found {unexpected}"))
    }
}

impl Fault {
    fn place(mut self, at: Mark, node: &Node) -> Self {
        if self.at.is_none() {
            self.at = Some(at);
            self.node = Some(node);
        }
        self
    }
}

/// A node about to be read.
#[derive(Clone, Copy)]
struct At<'t> {
    node: &'t Node,
    pruned: &'t Pruned,
}

impl<'t> At<'t> {
    fn child(self, node: &'t Node) -> Self {
        Self { node, pruned: self.pruned }
    }

    fn fail(self, message: impl fmt::Display) -> Fault {
        Fault::custom(message).place(self.node.at, self.node)
    }

    /// The text of a scalar that is to be read as `wanted`.
    fn scalar(self, wanted: &dyn fmt::Display) -> Result<(&'t str, Style), Fault> {
        match &self.node.value {
            Value::Scalar(text, style) => Ok((text, *style)),
            Value::List(_) | Value::Map(_) => {
                Err(self.fail(format_args!("expected {wanted}, found {}", self.node.kind())))
            }
        }
    }

    fn number<N: std::str::FromStr>(self, wanted: &str) -> Result<N, Fault> {
        let (text, style) = self.scalar(&wanted)?;
        let bad = || self.fail(format_args!("expected {wanted}, found `{}`", brief(text)));
        if style != Style::Plain { Err(bad()) } else { text.parse().map_err(|_| bad()) }
    }

    fn list<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
        let Value::List(items) = &self.node.value else { return Err(self.not("a list")) };
        visitor
            .visit_seq(Items { at: self, left: items.iter() })
            .map_err(|e| e.place(self.node.at, self.node))
    }

    fn map<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
        let Value::Map(entries) = &self.node.value else { return Err(self.not("a map")) };
        visitor
            .visit_map(Entries { at: self, left: entries.iter(), value: None })
            .map_err(|e| self.consequence(e, entries).place(self.node.at, self.node))
    }

    fn consequence(self, mut fault: Fault, entries: &[Entry]) -> Fault {
        if let (FaultKind::MissingKey(key), None) = (&fault.kind, fault.at) {
            let left_out =
                |entry: &Entry| entry.key == *key && self.pruned.contains(&std::ptr::from_ref(&entry.value));
            if entries.iter().any(left_out) {
                fault.kind = FaultKind::Consequence;
            }
        }
        fault
    }

    fn not(self, wanted: &str) -> Fault {
        match self.node.value {
            Value::Scalar(..) if self.node.is_null() => self.fail(format_args!(
                "expected {wanted}, found nothing; indent what belongs here, or remove the key"
            )),
            Value::Scalar(ref text, _) if wanted == "a list" => {
                let text = brief(text);
                self.fail(format_args!("expected a list, found text; write `[{text}]`"))
            }
            _ => self.fail(format_args!("expected {wanted}, found {}", self.node.kind())),
        }
    }
}

impl<'de> serde::Deserializer<'de> for At<'de> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.value {
            Value::List(_) => self.list(visitor),
            Value::Map(_) => self.map(visitor),
            Value::Scalar(text, Style::Plain) => plain(text, self.node.is_null(), visitor),
            Value::Scalar(text, _) => visitor.visit_borrowed_str(text),
        }
        .map_err(|e| e.place(self.node.at, self.node))
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let (text, style) = self.scalar(&"text")?;
        if text.is_empty() && style == Style::Plain {
            return Err(self.fail("expected text, found nothing; write `\"\"` for empty text"));
        }
        visitor.visit_borrowed_str(text).map_err(|e: Fault| e.place(self.node.at, self.node))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.scalar(&"`true` or `false`")? {
            ("true", Style::Plain) => visitor.visit_bool(true),
            ("false", Style::Plain) => visitor.visit_bool(false),
            (text, _) => Err(self.fail(format_args!("expected `true` or `false`, found `{}`", brief(text)))),
        }
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let number = self.number::<u64>("a whole number that is not negative")?;
        visitor.visit_u64(number).map_err(|e: Fault| e.place(self.node.at, self.node))
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_u32(self.number("a whole number from 0 to 4294967295")?)
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_u16(self.number("a whole number from 0 to 65535")?)
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_i64(self.number("a whole number")?)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_f64(self.number("a number")?)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        if self.node.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.list(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.map(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let (text, _) = self.scalar(&"one of a set of words")?;
        let aliases = if name == "Decision" { DECISION_ALIASES } else { &[] };
        let word = aliases.iter().find(|(alias, _)| *alias == text).map_or(text, |(_, word)| *word);
        visitor.visit_enum(Word(word)).map_err(|e| e.place(self.node.at, self.node))
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    forward_to_deserialize_any! {
        i8 i16 i32 u8 f32 char bytes byte_buf unit unit_struct tuple tuple_struct ignored_any
    }
}

/// Reads a plain scalar as YAML 1.2's core schema does.
fn plain<'de, V: Visitor<'de>>(text: &'de str, null: bool, visitor: V) -> Result<V::Value, Fault> {
    match text {
        _ if null => visitor.visit_unit(),
        "true" | "True" | "TRUE" => visitor.visit_bool(true),
        "false" | "False" | "FALSE" => visitor.visit_bool(false),
        _ => {
            let numeric = text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.'));
            if let (true, Ok(number)) = (numeric, text.parse::<u64>()) {
                visitor.visit_u64(number)
            } else if let (true, Ok(number)) = (numeric, text.parse::<i64>()) {
                visitor.visit_i64(number)
            } else if let (true, Ok(number)) = (numeric, text.parse::<f64>()) {
                visitor.visit_f64(number)
            } else {
                visitor.visit_borrowed_str(text)
            }
        }
    }
}

/// A text as it fits into a message.
fn brief(text: &str) -> String {
    const LONGEST: usize = 40;
    if text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    text.chars().take(LONGEST).chain(['…']).collect()
}

struct Items<'t> {
    at: At<'t>,
    left: std::slice::Iter<'t, Node>,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let pruned = self.at.pruned;
        let Some(item) = self.left.find(|node| !pruned.contains(&std::ptr::from_ref(*node))) else {
            return Ok(None);
        };
        seed.deserialize(self.at.child(item)).map(Some).map_err(|e| e.place(item.at, item))
    }
}

struct Entries<'t> {
    at: At<'t>,
    left: std::slice::Iter<'t, Entry>,
    value: Option<&'t Node>,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        let pruned = self.at.pruned;
        let Some(entry) = self.left.find(|entry| !pruned.contains(&std::ptr::from_ref(&entry.value))) else {
            return Ok(None);
        };
        self.value = Some(&entry.value);
        let key: StrDeserializer<'_, Fault> = entry.key.as_str().into_deserializer();
        seed.deserialize(Key(key)).map(Some).map_err(|e| e.place(entry.at, &entry.value))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let value = self.value.take().ok_or_else(|| Fault::custom("a value without its key"))?;
        seed.deserialize(self.at.child(value)).map_err(|e| e.place(value.at, value))
    }
}

/// A map's key: text, or the word of an enum.
struct Key<'t>(StrDeserializer<'t, Fault>);

impl<'de> serde::Deserializer<'de> for Key<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.0.deserialize_any(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.0.deserialize_enum(name, variants, visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

/// The word of an enum whose variants hold nothing.
struct Word<'t>(&'t str);

impl<'de> EnumAccess<'de> for Word<'_> {
    type Error = Fault;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Fault> {
        let word: StrDeserializer<'_, Fault> = self.0.into_deserializer();
        Ok((seed.deserialize(word)?, self))
    }
}

impl<'de> VariantAccess<'de> for Word<'_> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _: T) -> Result<T::Value, Fault> {
        Err(Fault::custom("expected one word"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Fault> {
        Err(Fault::custom("expected one word"))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], _: V) -> Result<V::Value, Fault> {
        Err(Fault::custom("expected one word"))
    }
}
