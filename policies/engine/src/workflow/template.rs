//! Texts and values with expressions in them: `${{ EXPRESSION }}`.

use serde_json::{Map, Value};

use super::expression::{Expression, Facts, Local};
use super::infer::{Language, Type};
use super::json;
use crate::when::BadExpression;

const OPEN: &str = "${{";

/// A text with expressions in it.
#[derive(Debug)]
pub struct Template(Vec<Part>);

#[derive(Debug)]
enum Part {
    Text(String),
    Value(Expression),
}

/// A value with expressions in its texts.
#[derive(Debug)]
pub enum Shape {
    /// As it stands.
    Plain(Value),
    /// A text.
    Text(Template),
    /// A list.
    List(Vec<Self>),
    /// Names and values.
    Map(Vec<(String, Self)>),
}

impl Template {
    pub(super) fn compile(text: &str, language: &Language<'_>) -> Result<Self, BadExpression> {
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some(at) = rest.find(OPEN) {
            let (before, after) = rest.split_at_checked(at).unwrap_or((rest, ""));
            let inner = after.get(OPEN.len()..).unwrap_or_default();
            let start = text.len().saturating_sub(inner.len());
            let end = end(inner).ok_or_else(|| {
                let bad = BadExpression {
                    line: 1,
                    column: 1,
                    message: format!("`{OPEN}` has no `}}}}`"),
                    hint: None,
                };
                moved(bad, text, start)
            })?;
            let (expression, behind) = inner.split_at_checked(end).unwrap_or((inner, ""));
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            let compiled = Expression::compile(expression, language, Type::Any);
            parts.push(Part::Value(compiled.map_err(|bad| moved(bad, text, start))?));
            rest = behind.get(2..).unwrap_or_default();
        }
        if !rest.is_empty() || parts.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Self(parts))
    }

    /// What it comes to: the value itself of a text that is one expression and nothing else, else a text.
    ///
    /// # Errors
    /// When an expression cannot be evaluated.
    pub fn value(&self, facts: &Facts<'_>, local: Local<'_>) -> Result<Value, String> {
        match self.0.as_slice() {
            [Part::Value(expression)] => expression.evaluate(facts, local),
            _ => self.text(facts, local).map(Value::String),
        }
    }

    /// The same as text; what is no text is written as JSON.
    ///
    /// # Errors
    /// When an expression cannot be evaluated.
    pub fn text(&self, facts: &Facts<'_>, local: Local<'_>) -> Result<String, String> {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Text(part) => text.push_str(part),
                Part::Value(expression) => match expression.evaluate(facts, local)? {
                    Value::String(part) => text.push_str(&part),
                    other => text.push_str(&other.to_string()),
                },
            }
            json::room(json::LARGEST, text.len())?;
        }
        Ok(text)
    }
}

impl Shape {
    /// Compiles a value; `told` is given what is wrong, with the way to it.
    pub(super) fn compile(
        value: &Value,
        language: &Language<'_>,
        path: &mut Vec<super::Place>,
        told: &mut impl FnMut(&[super::Place], BadExpression),
    ) -> Self {
        match value {
            Value::String(text) if text.contains(OPEN) => match Template::compile(text, language) {
                Ok(template) => Self::Text(template),
                Err(bad) => {
                    told(path, bad);
                    Self::Plain(Value::Null)
                }
            },
            Value::Array(items) => {
                let mut list = Vec::with_capacity(items.len());
                for (at, item) in items.iter().enumerate() {
                    path.push(super::Place::Item(at));
                    list.push(Self::compile(item, language, path, told));
                    path.pop();
                }
                Self::List(list)
            }
            Value::Object(entries) => {
                let mut map = Vec::with_capacity(entries.len());
                for (key, value) in entries {
                    path.push(super::Place::Key(key.clone()));
                    map.push((key.clone(), Self::compile(value, language, path, told)));
                    path.pop();
                }
                Self::Map(map)
            }
            plain => Self::Plain(plain.clone()),
        }
    }

    /// What it comes to.
    ///
    /// # Errors
    /// When an expression cannot be evaluated, and when it comes to more than 1 MiB or is nested deeper than [`DEEPEST`].
    ///
    /// [`DEEPEST`]: sideguard_types::job::DEEPEST
    pub fn value(&self, facts: &Facts<'_>, local: Local<'_>) -> Result<Value, String> {
        let value = self.filled(facts, local, &mut json::LARGEST.clone())?;
        json::fits(&value)?;
        Ok(value)
    }

    fn filled(&self, facts: &Facts<'_>, local: Local<'_>, left: &mut usize) -> Result<Value, String> {
        let value = match self {
            Self::List(items) => {
                return items.iter().map(|item| item.filled(facts, local, left)).collect();
            }
            Self::Map(entries) => {
                let entry =
                    |(key, shape): &(String, Self)| Ok((key.clone(), shape.filled(facts, local, left)?));
                return entries.iter().map(entry).collect::<Result<Map<_, _>, String>>().map(Value::Object);
            }
            Self::Plain(value) => value.clone(),
            Self::Text(template) => template.value(facts, local)?,
        };
        *left = json::room(*left, json::weight(&value))?;
        Ok(value)
    }
}

/// Where the expression ends that a text begins with: at `}}` outside of quotes and of its own braces.
fn end(text: &str) -> Option<usize> {
    let (mut depth, mut quote, mut escaped) = (0_usize, None, false);
    for (at, c) in text.char_indices() {
        match quote {
            Some(_) if std::mem::take(&mut escaped) => {}
            Some(_) if c == '\\' => escaped = true,
            Some(end) if c == end => quote = None,
            Some(_) => {}
            None => match c {
                '"' | '\'' => quote = Some(c),
                '{' => depth = depth.saturating_add(1),
                '}' if depth > 0 => depth = depth.saturating_sub(1),
                '}' if text.get(at..).is_some_and(|rest| rest.starts_with("}}")) => return Some(at),
                _ => {}
            },
        }
    }
    None
}

/// What is wrong with a part of a text, with its place in the whole.
fn moved(bad: BadExpression, text: &str, start: usize) -> BadExpression {
    let before = text.get(..start).unwrap_or_default();
    let lines = before.matches('\n').count();
    let column = before.rsplit('\n').next().map_or(0, |tail| tail.chars().count());
    let column = if bad.line == 1 { bad.column.saturating_add(column) } else { bad.column };
    BadExpression { line: bad.line.saturating_add(lines), column, ..bad }
}
