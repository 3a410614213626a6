//! The interface's description, OpenAPI 3.1: made from the table of routes and from the types that go over the wire, so that
//! neither can change without it. What people should read about a route stands in `api/described.rs`.

use std::collections::BTreeMap;

use http::Method;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use sideguard_types::control::Problem;

use crate::api::Access;

type Make = fn(&mut SchemaGenerator) -> Schema;
type Check = fn(&Value) -> Result<(), String>;

/// A body, in one form.
#[derive(Debug, Clone)]
struct Form {
    kind: &'static str,
    schema: Option<Make>,
    example: Value,
    #[cfg_attr(not(test), expect(dead_code, reason = "the examples are held to the types by a test"))]
    check: Check,
}

/// What is told of a route.
#[derive(Debug, Clone)]
pub(crate) struct Described {
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    part: &'static str,
    text: &'static str,
    query: Option<Make>,
    body: Option<Form>,
    answer: Option<Form>,
}

/// Begins the description of a route: the part of the interface that it belongs to, and what it does.
pub(crate) fn route(method: Method, path: &'static str, part: &'static str, text: &'static str) -> Described {
    Described { method, path, part, text, query: None, body: None, answer: None }
}

fn form<T: JsonSchema + DeserializeOwned>(example: Value) -> Form {
    let check = |example: &Value| {
        serde_json::from_str::<T>(&example.to_string()).map(drop).map_err(|error| error.to_string())
    };
    Form { kind: "application/json", schema: Some(SchemaGenerator::subschema_for::<T>), example, check }
}

impl Described {
    /// What its query may say.
    pub(crate) fn query<T: JsonSchema>(self) -> Self {
        Self { query: Some(SchemaGenerator::subschema_for::<T>), ..self }
    }

    /// What its body says, with an example.
    pub(crate) fn body<T: JsonSchema + DeserializeOwned>(self, example: Value) -> Self {
        Self { body: Some(form::<T>(example)), ..self }
    }

    /// What is answered, with an example. Nothing (204) when this is not said.
    pub(crate) fn answer<T: JsonSchema + DeserializeOwned>(self, example: Value) -> Self {
        Self { answer: Some(form::<T>(example)), ..self }
    }

    /// Its body is lines of JSON.
    pub(crate) fn lines(self) -> Self {
        let body =
            Form { kind: "application/x-ndjson", schema: None, example: "{…}\n".into(), check: |_| Ok(()) };
        Self { body: Some(body), ..self }
    }

    /// What is answered when it is no JSON.
    pub(crate) fn text(self, kind: &'static str, example: &str) -> Self {
        let answer = Form { kind, schema: None, example: example.into(), check: |_| Ok(()) };
        Self { answer: Some(answer), ..self }
    }

    fn operation(&self, access: Access, schemas: &mut SchemaGenerator) -> Value {
        let mut operation = json!({
            "operationId": name(&self.method, self.path),
            "tags": [self.part],
            "summary": self.text,
            "description": told(access),
            "x-access": format!("{access:?}").to_lowercase(),
            "responses": self.responses(schemas),
        });
        let parameters = self.parameters(schemas);
        if !parameters.is_empty() {
            operation["parameters"] = parameters.into();
        }
        if let Some(body) = &self.body {
            operation["requestBody"] = json!({ "required": true, "content": body.content(schemas) });
        }
        if matches!(access, Access::Open | Access::Token | Access::Signature) {
            operation["security"] = json!([]);
        }
        operation
    }

    fn responses(&self, schemas: &mut SchemaGenerator) -> Value {
        let good = match &self.answer {
            Some(answer) => json!({ "200": { "description": "Done.", "content": answer.content(schemas) } }),
            None => json!({ "204": { "description": "Done." } }),
        };
        let mut responses = good;
        responses["default"] = json!({ "$ref": "#/components/responses/Problem" });
        responses
    }

    fn parameters(&self, schemas: &mut SchemaGenerator) -> Vec<Value> {
        let parts = self.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        let mut parameters: Vec<Value> = parts
            .map(|part| json!({ "name": part, "in": "path", "required": true, "schema": { "type": "string" } }))
            .collect();
        let Some(query) = self.query else { return parameters };
        let query = resolved(query(schemas), schemas);
        let required = query.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
        for (name, schema) in query.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let mut schema = schema.clone();
            let text = schema.as_object_mut().and_then(|schema| schema.remove("description"));
            parameters.push(json!({
                "name": name, "in": "query", "schema": schema, "required": required.contains(&name.as_str().into()),
                "description": text.unwrap_or_default(),
            }));
        }
        parameters
    }
}

impl Form {
    fn content(&self, schemas: &mut SchemaGenerator) -> Value {
        let schema = self.schema.map_or_else(|| json!({ "type": "string" }), |make| make(schemas).into());
        json!({ self.kind: { "schema": schema, "example": self.example } })
    }
}

/// A schema that stands among the components, taken out of them: parameters are listed one by one.
fn resolved(schema: Schema, schemas: &mut SchemaGenerator) -> Value {
    let reference = schema.get("$ref").and_then(Value::as_str).and_then(|path| path.rsplit('/').next());
    match reference.map(str::to_owned) {
        Some(name) => schemas.definitions_mut().remove(&name).unwrap_or_default(),
        None => schema.into(),
    }
}

fn name(method: &Method, path: &str) -> String {
    let words = path.trim_start_matches("/v1").split(['/', '.']).map(|word| word.trim_matches(['{', '}']));
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    let words = if words.is_empty() { vec!["page"] } else { words };
    format!("{}-{}", method.as_str().to_lowercase(), words.join("-"))
}

/// Who may, in words.
const fn told(access: Access) -> &'static str {
    match access {
        Access::Open => "Open to everybody.",
        Access::Token => "Open to whoever has the secret that the body brings.",
        Access::Scrape => {
            "For keys of operators and viewers of all tenants; open where the port is on loopback alone."
        }
        Access::Signature => "For whoever signs the body with the secret of a webhook.",
        Access::Voters => "For keys of operators and approvers.",
        Access::Sidecars => "For keys of sidecars.",
        Access::People => "For keys of operators, approvers and viewers.",
        Access::Overseers => "For keys of operators, approvers and viewers of all tenants.",
        Access::Operators => "For keys of operators.",
        Access::Submitters => "For keys of operators and sidecars.",
        Access::Known => "For keys of operators, approvers, viewers and sidecars.",
        Access::Owners => "For keys of operators of all tenants.",
    }
}

/// The document. A route that nothing is told of is in it all the same.
pub(crate) fn document(
    routes: impl Iterator<Item = (Method, &'static str, Access)>,
    described: Vec<Described>,
) -> Value {
    let settings = SchemaSettings::draft2020_12()
        .with(|settings| settings.definitions_path = "/components/schemas".into());
    let mut schemas = settings.into_generator();
    let mut known: BTreeMap<(String, &str), Described> =
        described.into_iter().map(|one| ((one.method.to_string(), one.path), one)).collect();
    let mut paths = Map::new();
    for (method, path, access) in routes {
        let one = known.remove(&(method.to_string(), path));
        let one = one.unwrap_or_else(|| route(method.clone(), path, "other", ""));
        let at = paths.entry(path).or_insert_with(|| json!({}));
        at[method.as_str().to_lowercase()] = one.operation(access, &mut schemas);
    }
    let problem = schemas.subschema_for::<Problem>();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Sideguard control",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "One place that governs a fleet of sidecars. Lists come in pages: what `next` says is the `after` of \
                the next one. What belongs to another tenant is answered as what is not there.",
            "license": { "name": "Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "security": [{ "key": [] }, { "session": [] }],
        "paths": paths,
        "components": {
            "schemas": schemas.take_definitions(true),
            "responses": { "Problem": {
                "description": "It was not done: why (RFC 9457). Status 429 says in `retry-after` when to ask again.",
                "content": { "application/problem+json": {
                    "schema": problem,
                    "example": { "status": 404, "code": "not_found", "detail": "there is no key `0123456789abcdef`" },
                } },
            } },
            "securitySchemes": {
                "key": { "type": "http", "scheme": "bearer", "description": "A key, as `sideguard key create` makes it." },
                "session": {
                    "type": "apiKey", "in": "cookie", "name": "sideguard_session",
                    "description": "The page's cookie; a change needs the header `x-sideguard-page` beside it.",
                },
            },
        },
    })
}

/// What is wrong with the examples.
#[cfg(test)]
pub(crate) fn misfits(described: &[Described]) -> Vec<String> {
    let mut misfits = Vec::new();
    for one in described {
        for form in one.body.iter().chain(&one.answer) {
            if let Err(error) = (form.check)(&form.example) {
                misfits.push(format!("{} {}: {error}: {}", one.method, one.path, form.example));
            }
        }
    }
    misfits
}
