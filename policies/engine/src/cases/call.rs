//! A call as people write it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use sideguard_types::call::{Call, Caller, Class, Point, Verb};
use sideguard_types::delegation::{Hop, Rights};
use sideguard_types::time::Timestamp;
use sideguard_types::units::{MicroUsd, Tokens};

use crate::classify::{Classifier, ToolHints};

/// A call as it stands in a case or is given to `policy explain`. What is absent is worked out as for real traffic:
/// point, topic, verb and risk tags from `tool` and `server`, `model`, `provider` and `operation`, or `host`,
/// `method` and `path`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CallSpec {
    /// Tenant; `default` when absent.
    pub tenant: Option<String>,
    /// Agent; `agent` when absent.
    pub agent: Option<String>,
    /// The agent's labels.
    pub labels: BTreeMap<String, String>,
    /// The agent's capabilities.
    pub capabilities: Vec<String>,
    /// Agents from the root of a delegation down to the caller, the caller left out.
    pub chain: Vec<String>,
    /// The same with the rights that their links carry.
    pub delegated: Vec<HandedOn>,
    /// Where the call is judged.
    pub point: Option<Point>,
    /// Topic, in place of the one worked out.
    pub topic: Option<String>,
    /// Verb, in place of the one worked out.
    pub verb: Option<Verb>,
    /// Risk tags, in place of the ones worked out.
    pub risk_tags: Option<Vec<String>>,
    /// Name of the MCP server.
    pub server: Option<String>,
    /// Name of the tool.
    pub tool: Option<String>,
    /// The tool's arguments.
    pub args: Option<serde_json::Value>,
    /// What the server says of the tool: `readOnlyHint`.
    pub read_only: Option<bool>,
    /// What the server says of the tool: `destructiveHint`.
    pub destructive: Option<bool>,
    /// Model.
    pub model: Option<String>,
    /// Provider of the model; `openai` when absent.
    pub provider: Option<String>,
    /// What is asked of the provider; `chat` when absent.
    pub operation: Option<String>,
    /// Host name.
    pub host: Option<String>,
    /// HTTP method; `GET` when there is a host alone.
    pub method: Option<String>,
    /// Path without query; `/` when absent.
    pub path: Option<String>,
    /// Upper bound of tokens.
    pub tokens: u64,
    /// Upper bound of cost in dollars.
    pub cost_usd: MicroUsd,
    /// Session.
    pub session: Option<String>,
    /// When; the start of 1970 when absent.
    pub time: Option<Timestamp>,
    /// The bytes that would leave.
    pub content: Option<String>,
}

/// An agent that has handed its work on, as a case has it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HandedOn {
    /// Its name.
    pub agent: String,
    /// The rights in its link; what is absent is not limited.
    pub rights: Rights,
}

impl CallSpec {
    fn hops(&self) -> Arc<[Hop]> {
        let hop = |(number, from): (usize, &HandedOn)| Hop {
            link: number.to_string(),
            issuer: String::new(),
            agent: from.agent.clone(),
            rights: from.rights.clone(),
            expires: Timestamp::LAST,
        };
        self.delegated.iter().enumerate().map(hop).collect()
    }

    /// When the call is made.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        self.time.unwrap_or_default()
    }

    /// Makes the call of it and hands it to `judge`.
    pub fn with<R>(&self, classifier: &Classifier, judge: impl FnOnce(&Call<'_>) -> R) -> R {
        let or = |value: &Option<String>, default: &str| value.clone().unwrap_or_else(|| default.to_owned());
        let caller = Caller {
            tenant: or(&self.tenant, "default"),
            agent: or(&self.agent, "agent"),
            labels: self.labels.clone(),
            capabilities: self.capabilities.clone(),
            chain: self.chain.iter().chain(self.delegated.iter().map(|from| &from.agent)).cloned().collect(),
            delegations: if self.delegated.is_empty() { Vec::new() } else { vec![self.hops()] },
        };
        let args = self.args.as_ref().map(ToString::to_string);
        let method = or(&self.method, if self.host.is_some() && self.tool.is_none() { "GET" } else { "" });
        let host = or(&self.host, "").to_ascii_lowercase();
        let path = or(&self.path, if method.is_empty() { "" } else { "/" });
        let (path, query) = path.split_once('?').unwrap_or((&path, ""));
        let method = method.to_ascii_uppercase();
        judge(&Call {
            caller: &caller,
            point: self.point.unwrap_or(if self.model.is_some() {
                Point::LlmRequest
            } else {
                Point::ToolCall
            }),
            class: self.class(classifier, args.as_deref(), &host, &method, path),
            tool: self.tool.as_deref(),
            args: args.as_deref().map(str::as_bytes),
            model: self.model.as_deref(),
            host: &host,
            method: &method,
            path,
            query,
            tokens: Tokens(self.tokens),
            cost: self.cost_usd,
            session: self.session.as_deref(),
            content: self.content.as_deref().unwrap_or_default().as_bytes(),
        })
    }

    fn class(
        &self,
        classifier: &Classifier,
        args: Option<&str>,
        host: &str,
        method: &str,
        path: &str,
    ) -> Class<'static> {
        let mut class = if let Some(tool) = &self.tool {
            let hints = ToolHints { read_only: self.read_only, destructive: self.destructive };
            let server = self.server.as_deref().unwrap_or(if host.is_empty() { "tools" } else { host });
            classifier.tool(server, tool, args.map(str::as_bytes), hints)
        } else if self.model.is_some() {
            let provider = self.provider.as_deref().unwrap_or("openai");
            classifier.model(provider, self.operation.as_deref().unwrap_or("chat"))
        } else {
            classifier.http(host, method, path)
        };
        if let Some(topic) = &self.topic {
            class.topic = topic.clone().into();
            class.alias = None;
        }
        class.verb = self.verb.unwrap_or(class.verb);
        if let Some(tags) = &self.risk_tags {
            class.risk_tags = tags.iter().map(|tag| tag.clone().into()).collect();
        }
        class
    }
}
