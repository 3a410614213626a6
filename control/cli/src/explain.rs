//! `sideguard explain`: what can be written in an object, from the doc comments of the resource types.

use std::process::ExitCode;

use schemars::{Schema as Described, SchemaGenerator};
use serde_json::{Map, Value, json};
use sideguard_types::resource::{
    API_VERSION, AgentSpec, BudgetSpec, ControlSpec, InjectorSpec, Metadata, PolicySpec, ProxySpec, SinkSpec,
    ToolCatalogSpec, UpstreamSpec, WorkerPoolSpec, WorkflowSpec,
};

use crate::policy::Output;
use crate::remote::output::{put, put_json};
use crate::remote::{FOUND, Failure, Outcome, done};

/// A kind that people write, with its spec.
type Kind = (&'static str, fn(&mut SchemaGenerator) -> Described);

/// All of them: objects of the desired state, then configurations.
const KINDS: [Kind; 11] = [
    ("Policy", |to| to.subschema_for::<PolicySpec>()),
    ("Budget", |to| to.subschema_for::<BudgetSpec>()),
    ("ToolCatalog", |to| to.subschema_for::<ToolCatalogSpec>()),
    ("Agent", |to| to.subschema_for::<AgentSpec>()),
    ("Upstream", |to| to.subschema_for::<UpstreamSpec>()),
    ("Sink", |to| to.subschema_for::<SinkSpec>()),
    ("WorkerPool", |to| to.subschema_for::<WorkerPoolSpec>()),
    ("Workflow", |to| to.subschema_for::<WorkflowSpec>()),
    ("Proxy", |to| to.subschema_for::<ProxySpec>()),
    ("Control", |to| to.subschema_for::<ControlSpec>()),
    ("Injector", |to| to.subschema_for::<InjectorSpec>()),
];

/// Columns of a description.
const WIDTH: usize = 100;

/// Flags of `sideguard explain`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  sideguard explain policy\n  sideguard explain policy.rules.match\n  \
    sideguard explain budget.limits.window\n\nExit codes: 0 done, 1 there is no such field.")]
pub(crate) struct Arguments {
    /// policy, budget, toolcatalog, agent, upstream, sink, workerpool, workflow, proxy, control or injector, and below it the
    /// way to a field.
    #[arg(value_name = "KIND[.FIELD]")]
    what: String,
    /// Form of the output; JSON is a JSON Schema.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Runs the verb.
pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    done(explain(&arguments.what, arguments.output))
}

fn explain(what: &str, output: Output) -> Outcome {
    let (kind, path) = what.split_once('.').unwrap_or((what, ""));
    let kind = named(kind)?;
    let schema = Schema::of(kind);
    let field = schema.find(kind, path)?;
    match output {
        Output::Json if path.is_empty() => put_json(&schema.whole()),
        Output::Json => put_json(&field.schema),
        Output::Text => put(&schema.text(kind, &field)),
    }
}

fn is_configuration(kind: &str) -> bool {
    matches!(kind, "Proxy" | "Control" | "Injector")
}

fn named(name: &str) -> Outcome<Kind> {
    let one = name
        .strip_suffix("ies")
        .map_or_else(|| name.strip_suffix('s').unwrap_or(name).to_owned(), |stem| format!("{stem}y"));
    let fits = |(kind, _): &&Kind| kind.eq_ignore_ascii_case(name) || kind.eq_ignore_ascii_case(&one);
    KINDS.iter().find(fits).copied().ok_or_else(|| {
        let known: Vec<String> = KINDS.iter().map(|(kind, _)| kind.to_ascii_lowercase()).collect();
        Failure::new(2, format!("there is no kind `{name}`; there are {}", known.join(", ")))
    })
}

/// What can be written in a kind.
struct Schema {
    root: Value,
    definitions: Map<String, Value>,
}

/// One field.
struct Field {
    path: String,
    schema: Value,
    required: bool,
}

impl Schema {
    fn of((kind, spec): Kind) -> Self {
        let mut generator = SchemaGenerator::default();
        let metadata = generator.subschema_for::<Metadata>();
        let spec = spec(&mut generator);
        let definitions = generator.definitions().clone();
        // A configuration needs no name, and all of its keys have defaults.
        let required: &[&str] = if is_configuration(kind) {
            &["apiVersion", "kind"]
        } else {
            &["apiVersion", "kind", "metadata", "spec"]
        };
        let mut root = json!({
            "type": "object",
            "required": required,
            "additionalProperties": false,
            "properties": {
                "apiVersion": { "const": API_VERSION, "type": "string", "description": "Version of the format." },
                "kind": { "const": kind, "type": "string", "description": "What the object is." },
                "metadata": metadata,
                "spec": spec,
            },
        });
        let schema = Self { root: Value::Null, definitions };
        root["description"] = json!(schema.description(&root["properties"]["spec"]));
        Self { root, ..schema }
    }

    /// The whole of it, as a JSON Schema by itself.
    fn whole(&self) -> Value {
        let mut whole = self.root.clone();
        whole["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
        whole["$defs"] = json!(self.definitions);
        whole
    }

    /// The field at a path; the ones of `spec` need not say so.
    fn find(&self, (kind, _): Kind, path: &str) -> Outcome<Field> {
        let mut field = Field { path: String::new(), schema: self.root.clone(), required: true };
        let names = path.split('.').filter(|name| !name.is_empty());
        let first = names.clone().next().unwrap_or("spec");
        let implied = (self.root["properties"].get(first).is_none()).then_some("spec");
        for name in implied.into_iter().chain(names) {
            field = self.below(&field, name).ok_or_else(|| {
                let at = format!("{}{}", kind.to_ascii_lowercase(), dotted(&field.path));
                Failure::new(FOUND, format!("`{at}` has no field `{name}`"))
                    .hint(format!("`sideguard explain {at}` lists the fields"))
            })?;
        }
        Ok(field)
    }

    fn below(&self, field: &Field, name: &str) -> Option<Field> {
        let dot = if field.path.is_empty() { "" } else { "." };
        self.forms(&field.schema).into_iter().find_map(|form| {
            let schema = form["properties"].get(name)?.clone();
            let required = form["required"].as_array().is_some_and(|names| names.contains(&json!(name)));
            Some(Field { path: format!("{}{dot}{name}", field.path), schema, required })
        })
    }

    /// What a schema can be, once references, lists and maps are looked through.
    fn forms(&self, schema: &Value) -> Vec<Value> {
        if let Some(name) = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
            return self.definitions.get(name).map(|named| self.forms(named)).unwrap_or_default();
        }
        for inside in ["items", "additionalProperties"] {
            if schema[inside].is_object() {
                return self.forms(&schema[inside]);
            }
        }
        match schema["anyOf"].as_array() {
            Some(any) => any.iter().flat_map(|one| self.forms(one)).collect(),
            None => vec![schema.clone()],
        }
    }

    /// A schema's own description, else that of what it refers to; both where that says how a text is written.
    fn description(&self, schema: &Value) -> String {
        let told = |schema: &Value| schema["description"].as_str().map(str::to_owned);
        let forms = self.forms(schema);
        let written = forms.iter().filter(|form| form["type"] == "string" && *form != schema).find_map(told);
        match (told(schema), written) {
            (Some(own), Some(written)) => format!("{own} {written}"),
            (Some(own), None) => own,
            (None, _) => forms.iter().find_map(told).unwrap_or_default(),
        }
    }

    /// `string`, `[]object`, `map of string`, `string or object`.
    fn kind(&self, schema: &Value) -> String {
        if let Some(name) = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
            return self.definitions.get(name).map_or_else(String::new, |named| self.kind(named));
        }
        if schema["items"].is_object() {
            return format!("[]{}", self.kind(&schema["items"]));
        }
        if schema["additionalProperties"].is_object() {
            return format!("map of {}", self.kind(&schema["additionalProperties"]));
        }
        let mut kinds: Vec<String> = match (&schema["type"], schema["anyOf"].as_array()) {
            (Value::String(one), _) => vec![one.clone()],
            (Value::Array(several), _) => {
                several.iter().filter_map(Value::as_str).map(str::to_owned).collect()
            }
            (_, Some(any)) => any.iter().map(|one| self.kind(one)).collect(),
            _ if !values(schema).is_empty() => vec!["string".to_owned()],
            _ => vec!["any".to_owned()],
        };
        kinds.retain(|kind| kind != "null" && !kind.is_empty());
        kinds.dedup();
        kinds.join(" or ")
    }

    fn text(&self, (kind, _): Kind, field: &Field) -> String {
        let mut text = format!("KIND:     {}\nVERSION:  {API_VERSION}\n", kind);
        if !field.path.is_empty() {
            let needed = if field.required { " (required)" } else { "" };
            text.push_str(&format!("FIELD:    {} <{}>{needed}\n", field.path, self.kind(&field.schema)));
        }
        text.push_str(&format!("\n{}", wrapped(&self.description(&field.schema), "  ")));
        let forms = self.forms(&field.schema);
        let values: Vec<(String, String)> = forms.iter().flat_map(values).collect();
        if !values.is_empty() {
            text.push_str("\nVALUES:\n");
            for (value, meaning) in &values {
                text.push_str(&format!("  {value}\n{}", wrapped(meaning, "      ")));
            }
        }
        let fields = forms.iter().filter_map(|form| Some((form, form["properties"].as_object()?)));
        let mut head = "\nFIELDS:\n";
        for (form, properties) in fields {
            for (name, schema) in properties {
                let required = form["required"].as_array().is_some_and(|names| names.contains(&json!(name)));
                let needed = if required { " (required)" } else { "" };
                text.push_str(std::mem::take(&mut head));
                text.push_str(&format!("  {name} <{}>{needed}\n", self.kind(schema)));
                text.push_str(&wrapped(&self.description(schema), "      "));
            }
        }
        text
    }
}

fn dotted(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!(".{path}") }
}

/// The values of an enumeration with what they mean.
fn values(schema: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let plain = schema["enum"].as_array().into_iter().flatten();
    let plain = plain.filter_map(|value| Some((text(value)?, String::new())));
    let told = schema["oneOf"].as_array().into_iter().flatten();
    let told =
        told.filter_map(|one| Some((text(&one["const"])?, text(&one["description"]).unwrap_or_default())));
    plain.chain(told).chain(text(&schema["const"]).map(|value| (value, String::new()))).collect()
}

/// A text in lines of at most [`WIDTH`] characters, each behind `indent`.
fn wrapped(text: &str, indent: &str) -> String {
    let mut lines = String::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        let room = WIDTH.saturating_sub(indent.len());
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > room {
            lines.push_str(&format!("{indent}{line}\n"));
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    if !line.is_empty() {
        lines.push_str(&format!("{indent}{line}\n"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::{KINDS, Schema, named};

    fn text(kind: &str, path: &str) -> String {
        let kind = named(kind).expect("a kind");
        let schema = Schema::of(kind);
        let field = schema.find(kind, path).expect("a field");
        schema.text(kind, &field)
    }

    #[test]
    fn every_field_of_every_kind_is_described() {
        for kind in KINDS {
            let schema = Schema::of(kind);
            for (name, definition) in &schema.definitions {
                for (field, own) in definition["properties"].as_object().into_iter().flatten() {
                    assert!(!schema.description(own).is_empty(), "{name}.{field}");
                    assert!(!schema.kind(own).is_empty(), "{name}.{field}");
                }
            }
        }
    }

    #[test]
    fn a_path_leads_through_lists_maps_and_alternatives() {
        assert!(
            text("policies", "rules.match.topics").contains("FIELD:    spec.rules.match.topics <[]string>")
        );
        assert_eq!(text("policies", "spec.rules"), text("policies", "rules"));
        assert!(text("policies", "mode.points").contains("map of string"));
        assert!(text("policies", "rules.decision").contains("\nVALUES:\n  allow\n      It may go.\n"));
        assert!(text("Budget", "limits.amount").contains("<number or string> (required)"));
        assert!(
            text("Budget", "limits.window")
                .contains("<string>\n\n  In what time; absent is for ever. Not for `concurrency`. `day`")
        );
        assert!(text("upstream", "baseUrl").contains("gateway path"));
        let policy = named("policy").expect("a kind");
        let failure = Schema::of(policy).find(policy, "rules.nonsense").err().expect("no field");
        assert_eq!((failure.code, failure.what.as_str()), (1, "`policy.spec.rules` has no field `nonsense`"));
    }
}
