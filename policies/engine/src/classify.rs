//! What a call is about: topic, verb and risk tags, from the catalog where it knows the tool, or else from name,
//! method, arguments and annotations. Never from what the agent says of itself; what is derived errs to the strict
//! side, and the catalog corrects it.

mod sql;
mod words;

use std::borrow::Cow;
use std::collections::HashMap;

use ahash::RandomState;
use sideguard_types::call::{Class, HOSTED_TOOLS, RAW_TCP, Verb};
use sideguard_types::resource::{CatalogTool, ToolCatalogSpec};

use crate::glob::{Case, Glob};
use crate::path;

use words::Reading;

/// The risk tags that are derived without a catalog.
pub(crate) const DERIVED_TAGS: [&str; 4] = [DESTRUCTIVE, UNCLASSIFIED, HOSTED_TOOLS, RAW_TCP];
const DESTRUCTIVE: &str = "destructive";
const UNCLASSIFIED: &str = "unclassified";

/// What an MCP server says of its tool (MCP 2025-06-18, "Tool annotations"). It may be wrong or lie, so that it can
/// only tighten.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct ToolHints {
    /// `readOnlyHint`, where given.
    pub read_only: Option<bool>,
    /// `destructiveHint`, where given.
    pub destructive: Option<bool>,
}

/// Works out what calls are about.
#[derive(Debug, Default)]
pub struct Classifier {
    entries: Vec<Entry>,
    /// Entries with an exact name, by that name in lower case.
    exact: HashMap<Box<str>, Vec<usize>, RandomState>,
    /// The other entries.
    globs: Vec<usize>,
}

#[derive(Debug)]
struct Entry {
    server: Option<Glob>,
    tool: ToolGlob,
    topic: Option<String>,
    verb: Option<Verb>,
    risk_tags: Option<Vec<String>>,
}

#[derive(Debug)]
enum ToolGlob {
    Named(Glob),
    /// `METHOD /path`
    Http(Glob, Glob),
}

impl Classifier {
    /// The class of an MCP tool (or any named tool) on `server`, called with `args` (JSON text).
    #[must_use]
    pub fn tool(&self, server: &str, tool: &str, args: Option<&[u8]>, hints: ToolHints) -> Class<'static> {
        let reading = words::read(tool);
        let mut verb = reading.verb();
        let mut tags: Vec<&'static str> = Vec::new();
        let mut destroys = reading.destroys.clone();
        if reading.unknown() {
            tags.push(UNCLASSIFIED);
        }
        if destroys.is_none() {
            destroys = args.and_then(sql::destroys).map(str::to_owned);
        }
        if hints.read_only == Some(false) {
            verb = verb.max(Verb::Write);
        }
        if destroys.is_some() || hints.destructive == Some(true) {
            verb = Verb::Admin;
            tags.push(DESTRUCTIVE);
        }
        let service = words::service(server);
        let topic = format!("job.{service}.{}", reading.operation);
        let alias = destroys.map(|word| format!("job.{service}.{word}"));
        let entry = self.entry(server, tool);
        derived(topic, alias, verb, &tags, entry)
    }

    /// The class of a plain HTTP request; `method` in upper case, `path` without query.
    #[must_use]
    pub fn http(&self, host: &str, method: &str, path: &str) -> Class<'static> {
        let (mut verb, known) = match method {
            "GET" | "HEAD" | "OPTIONS" => (Verb::Read, true),
            "POST" | "PUT" | "PATCH" => (Verb::Write, true),
            "DELETE" => (Verb::Admin, true),
            _ => (Verb::Write, false),
        };
        // `POST /users/5/delete` does what it says.
        let plain = path::plain(path);
        let last = plain.rsplit('/').find(|segment| !segment.is_empty()).unwrap_or_default();
        let in_path = if verb == Verb::Write { words::read(last).destroys } else { None };
        let mut tags: Vec<&'static str> = Vec::new();
        if !known {
            tags.push(UNCLASSIFIED);
        }
        if in_path.is_some() || method == "DELETE" {
            verb = Verb::Admin;
            tags.push(DESTRUCTIVE);
        }
        let service = words::service(host);
        let operation = words::read(method).operation;
        let topic = format!("job.{service}.{operation}");
        let alias = in_path.map(|word| format!("job.{service}.{word}"));
        let entry = self.http_entry(host, method, path);
        let mut class = derived(topic.clone(), alias.clone(), verb, &tags, entry);
        if plain != path {
            // A server may read it so, or not: of both the stricter.
            let other = derived(topic, alias, verb, &tags, self.http_entry(host, method, &plain));
            class.verb = class.verb.max(other.verb);
            for tag in other.risk_tags {
                if !class.risk_tags.contains(&tag) {
                    class.risk_tags.push(tag);
                }
            }
            class.alias = class.alias.or_else(|| Some(other.topic).filter(|topic| *topic != class.topic));
        }
        class
    }

    /// The class of a call to a model provider. Asking a model changes nothing; what creates, changes or deletes
    /// things at the provider (files, fine-tunes, batches) does.
    #[must_use]
    pub fn model(&self, provider: &str, operation: &str) -> Class<'static> {
        let reading = words::read(operation);
        let service = words::service(provider);
        let topic = format!("llm.{service}.{}", reading.operation);
        let alias = reading.destroys.as_ref().map(|word| format!("llm.{service}.{word}"));
        let (verb, tags): (Verb, &[&'static str]) = match (&reading.destroys, reading.verb) {
            (Some(_), _) => (Verb::Admin, &[DESTRUCTIVE]),
            (None, verb) => (verb.unwrap_or(Verb::Read), &[]),
        };
        derived(topic, alias, verb, tags, self.entry(provider, operation))
    }

    /// The class of a job about `topic`, `job.<service>.<operation>`, with `args` as its input (JSON text): as that of a tool of
    /// this name on that server.
    #[must_use]
    pub fn job(&self, topic: &str, args: Option<&[u8]>) -> Class<'static> {
        let rest = topic.strip_prefix("job.").unwrap_or(topic);
        let (service, operation) = rest.rsplit_once('.').unwrap_or((rest, ""));
        let class = self.tool(service, operation, args, ToolHints::default());
        // What was submitted under this topic is judged under it, whatever its words would be read as.
        Class { topic: topic.to_owned().into(), ..class }
    }

    /// Adds a catalog; entries that come first go before later ones. Returns what is wrong: entry, key, message.
    pub(crate) fn add(&mut self, catalog: &ToolCatalogSpec) -> Vec<(usize, &'static str, String)> {
        let mut misfits = Vec::new();
        for (index, spec) in catalog.tools.iter().enumerate() {
            match Entry::parse(spec) {
                Err((key, message)) => misfits.push((index, key, message)),
                Ok(entry) => {
                    let at = self.entries.len();
                    match &entry.tool {
                        ToolGlob::Named(glob) if glob.is_exact() => {
                            self.exact.entry(glob.text().into()).or_default().push(at);
                        }
                        ToolGlob::Named(_) | ToolGlob::Http(..) => self.globs.push(at),
                    }
                    self.entries.push(entry);
                }
            }
        }
        misfits
    }

    /// The tags that its catalogs give.
    pub(crate) fn catalog_tags(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().flat_map(|entry| entry.risk_tags.iter().flatten()).map(String::as_str)
    }

    /// The topics that its catalogs give.
    pub(crate) fn catalog_topics(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().filter_map(|entry| entry.topic.as_deref())
    }

    fn entry(&self, server: &str, tool: &str) -> Option<&Entry> {
        let folded = if tool.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Cow::Owned(tool.to_ascii_lowercase())
        } else {
            Cow::Borrowed(tool)
        };
        let exact = self.exact.get(folded.as_ref()).map(Vec::as_slice).unwrap_or_default();
        self.first(exact, |entry| match &entry.tool {
            ToolGlob::Named(glob) => glob.matches(tool) && entry.on(server),
            ToolGlob::Http(..) => false,
        })
    }

    fn http_entry(&self, host: &str, method: &str, path: &str) -> Option<&Entry> {
        self.first(&[], |entry| match &entry.tool {
            ToolGlob::Http(methods, paths) => {
                methods.matches(method) && paths.matches(path) && entry.on(host)
            }
            ToolGlob::Named(_) => false,
        })
    }

    /// The first entry that fits, of those in `exact` and those with globs.
    fn first(&self, exact: &[usize], fits: impl Fn(&Entry) -> bool) -> Option<&Entry> {
        let fitting = |at: &&usize| self.entries.get(**at).is_some_and(&fits);
        let (a, b) = (exact.iter().find(fitting), self.globs.iter().find(fitting));
        let at = match (a, b) {
            (Some(a), Some(b)) => a.min(b),
            (a, b) => a.or(b)?,
        };
        self.entries.get(*at)
    }
}

impl Entry {
    fn parse(spec: &CatalogTool) -> Result<Self, (&'static str, String)> {
        let glob =
            |key: &'static str, text: &str| Glob::parse(text, Case::Folded).map_err(|message| (key, message));
        let tool = match spec.tool.split_once(' ') {
            Some((method, path)) => {
                let path = Glob::parse(path, Case::Exact).map_err(|message| ("tool", message))?;
                ToolGlob::Http(glob("tool", method)?, path)
            }
            None => ToolGlob::Named(glob("tool", &spec.tool)?),
        };
        if let Some(topic) = &spec.topic {
            let fits = |c: char| !c.is_uppercase() && !c.is_whitespace() && !matches!(c, '*' | '?');
            if !topic.contains('.') || topic.is_empty() || !topic.chars().all(fits) {
                let message =
                    format!("`{topic}` is not a topic: write `job.<service>.<operation>` in lower case");
                return Err(("topic", message));
            }
        }
        Ok(Self {
            server: spec.server.as_deref().map(|text| glob("server", text)).transpose()?,
            tool,
            topic: spec.topic.clone(),
            verb: spec.verb,
            risk_tags: spec.risk_tags.clone(),
        })
    }

    fn on(&self, server: &str) -> bool {
        self.server.as_ref().is_none_or(|glob| glob.matches(server))
    }
}

/// What was derived, each part replaced by the catalog's where it has one. With a topic or tags from the catalog the
/// derived alias goes: the operator has said what the tool is.
fn derived(
    topic: String,
    alias: Option<String>,
    verb: Verb,
    tags: &[&'static str],
    entry: Option<&Entry>,
) -> Class<'static> {
    let told = entry.and_then(|entry| entry.risk_tags.as_ref());
    let described = entry.is_some_and(|entry| entry.topic.is_some() || entry.risk_tags.is_some());
    let topic = entry.and_then(|entry| entry.topic.clone()).unwrap_or(topic);
    Class {
        alias: alias.filter(|alias| !described && *alias != topic).map(Cow::Owned),
        topic: Cow::Owned(topic),
        verb: entry.and_then(|entry| entry.verb).unwrap_or(verb),
        risk_tags: match told {
            Some(told) => told.iter().map(|tag| Cow::Owned(tag.clone())).collect(),
            None if entry.is_some_and(|entry| entry.verb.is_some() || entry.topic.is_some()) => {
                tags.iter().filter(|tag| **tag != UNCLASSIFIED).map(|tag| Cow::Borrowed(*tag)).collect()
            }
            None => tags.iter().map(|tag| Cow::Borrowed(*tag)).collect(),
        },
    }
}

impl Reading {
    fn verb(&self) -> Verb {
        if self.destroys.is_some() { Verb::Admin } else { self.verb.unwrap_or(Verb::Write) }
    }

    fn unknown(&self) -> bool {
        self.strange || (self.verb.is_none() && self.destroys.is_none())
    }
}

#[cfg(test)]
mod tests;
