//! JSON Schemas of our types as the structural schemas that a custom resource definition takes.
//!
//! A structural schema (Kubernetes documentation, "Extend the Kubernetes API with CustomResourceDefinitions", 2026) has no
//! references, a type wherever something stands, and no type below `anyOf` or `oneOf`. A value that can have several types
//! (`mode: warn`, `mode: {default: warn}`) is therefore left open; control reads every object again by the types themselves.
//! What this module does not know it refuses, so that nothing of a type is lost unnoticed.

use serde_json::{Map, Value, json};

/// Keyword of a value whose form the API server does not look at.
const OPEN: &str = "x-kubernetes-preserve-unknown-fields";
/// Keywords that mean nothing to the API server, or that it would act on by changing what was written.
const DROPPED: [&str; 6] = ["$schema", "title", "default", "examples", "deprecated", "writeOnly"];
/// Formats that the API server knows; others say only what a Rust number holds.
const FORMATS: [&str; 4] = ["int32", "int64", "double", "date-time"];

/// Why a schema has no structural form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// It contains itself.
    #[error("`{0}` contains itself")]
    Recursive(String),
    /// It refers to what is not there.
    #[error("`{0}` is not defined")]
    Undefined(String),
    /// It says something that has no structural form, or that this module does not know.
    #[error("the keyword `{0}` has no structural form")]
    Keyword(String),
}

/// The structural form of a schema whose references lead into `definitions`.
///
/// # Errors
/// When it has none.
pub fn structural(schema: &Value, definitions: &Map<String, Value>) -> Result<Value, SchemaError> {
    Forms { definitions }.form(schema, &mut Vec::new())
}

struct Forms<'d> {
    definitions: &'d Map<String, Value>,
}

impl Forms<'_> {
    fn form(&self, schema: &Value, within: &mut Vec<String>) -> Result<Value, SchemaError> {
        let Value::Object(schema) = schema else { return Ok(open(None)) };
        let told = schema.get("description");
        if let Some(path) = schema.get("$ref").and_then(Value::as_str) {
            return self.referred(path, told, within);
        }
        if let Some(any) = schema.get("anyOf").and_then(Value::as_array) {
            let (null, rest): (Vec<&Value>, Vec<&Value>) = any.iter().partition(|one| one["type"] == "null");
            let mut form = match rest.as_slice() {
                [one] => self.form(one, within)?,
                _ => open(None),
            };
            describe(&mut form, told);
            nullable(&mut form, !null.is_empty());
            return Ok(form);
        }
        if let Some(one) = schema.get("oneOf").and_then(Value::as_array) {
            return Ok(words(one, told));
        }
        self.plain(schema, within)
    }

    fn referred(
        &self,
        path: &str,
        told: Option<&Value>,
        within: &mut Vec<String>,
    ) -> Result<Value, SchemaError> {
        let name = path.rsplit('/').next().unwrap_or_default().to_owned();
        let schema = self.definitions.get(&name).ok_or_else(|| SchemaError::Undefined(name.clone()))?;
        if within.contains(&name) {
            return Err(SchemaError::Recursive(name));
        }
        within.push(name);
        let mut form = self.form(schema, within)?;
        within.pop();
        describe(&mut form, told);
        Ok(form)
    }

    /// One type, with what belongs to it.
    fn plain(&self, schema: &Map<String, Value>, within: &mut Vec<String>) -> Result<Value, SchemaError> {
        let mut form = json!({});
        for (keyword, value) in schema {
            match keyword.as_str() {
                "type" => match value {
                    Value::Array(types) => {
                        let rest: Vec<&Value> = types.iter().filter(|one| *one != "null").collect();
                        match rest.as_slice() {
                            [one] => form["type"] = (*one).clone(),
                            _ => form[OPEN] = json!(true),
                        }
                        nullable(&mut form, rest.len() < types.len());
                    }
                    one => form["type"] = one.clone(),
                },
                "properties" => {
                    form["properties"] = self.fields(value, within)?;
                }
                // What is not known must come to control, which refuses it: an API server would leave it out without a
                // word, and a rule that matches less would match more.
                "additionalProperties" if *value == json!(false) => {
                    form["x-kubernetes-preserve-unknown-fields"] = json!(true);
                }
                "additionalProperties" if schema.get("properties").is_some() => {}
                "additionalProperties" | "items" => form[keyword] = self.form(value, within)?,
                "required" | "enum" | "minimum" | "maximum" | "minLength" | "maxLength" | "minItems"
                | "maxItems" | "pattern" => form[keyword] = value.clone(),
                "description" => describe(&mut form, Some(value)),
                "const" => {
                    form["type"] = json!("string");
                    form["enum"] = json!([value]);
                }
                "format" if FORMATS.iter().any(|format| value == format) => form["format"] = value.clone(),
                "format" => {}
                dropped if DROPPED.contains(&dropped) => {}
                other => return Err(SchemaError::Keyword(other.to_owned())),
            }
        }
        if form.get("type").is_none() {
            form[OPEN] = json!(true);
        }
        Ok(form)
    }

    fn fields(&self, fields: &Value, within: &mut Vec<String>) -> Result<Value, SchemaError> {
        let form = |(name, field)| Ok((String::clone(name), self.form(field, within)?));
        let fields: Result<Map<String, Value>, SchemaError> =
            fields.as_object().into_iter().flatten().map(form).collect();
        fields.map(Value::Object)
    }
}

fn open(told: Option<&Value>) -> Value {
    let mut form = json!({ OPEN: true });
    describe(&mut form, told);
    form
}

fn describe(form: &mut Value, told: Option<&Value>) {
    if let Some(told) = told.and_then(Value::as_str) {
        form["description"] = json!(told.replace('\n', " "));
    }
}

fn nullable(form: &mut Value, null: bool) {
    // Where anything may stand, nothing may.
    if null && form[OPEN] != true {
        form["nullable"] = json!(true);
    }
}

/// An enumeration whose words each have a description.
fn words(alternatives: &[Value], told: Option<&Value>) -> Value {
    let mut words = Vec::new();
    for one in alternatives {
        words.extend(one.get("const").cloned());
        words.extend(one["enum"].as_array().into_iter().flatten().cloned());
    }
    if words.len() < alternatives.len() || !words.iter().all(Value::is_string) {
        return open(told);
    }
    let mut form = json!({ "type": "string", "enum": words });
    describe(&mut form, told);
    form
}
