//! The `match` of a rule, compiled.

use std::borrow::Cow;

use sideguard_types::call::{Call, Caller, Point, Verb};
use sideguard_types::delegation::Hop;

use crate::content::Content;
use crate::glob::Glob;
use crate::path;

/// A key of `match`; in the order in which they are tried, cheap ones first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    Points,
    Verbs,
    RiskTags,
    Requires,
    Methods,
    Tenants,
    Agents,
    Tools,
    Models,
    Hosts,
    Topics,
    Paths,
    Labels,
    Capabilities,
    Delegation,
    Content,
}

impl Key {
    pub(crate) const ALL: [Self; 16] = [
        Self::Points,
        Self::Verbs,
        Self::RiskTags,
        Self::Requires,
        Self::Methods,
        Self::Tenants,
        Self::Agents,
        Self::Tools,
        Self::Models,
        Self::Hosts,
        Self::Topics,
        Self::Paths,
        Self::Labels,
        Self::Capabilities,
        Self::Delegation,
        Self::Content,
    ];

    /// The key as it stands in a rule.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Points => "points",
            Self::Verbs => "verbs",
            Self::RiskTags => "risk_tags",
            Self::Requires => "requires",
            Self::Methods => "methods",
            Self::Tenants => "tenants",
            Self::Agents => "agents",
            Self::Tools => "tools",
            Self::Models => "models",
            Self::Hosts => "hosts",
            Self::Topics => "topics",
            Self::Paths => "paths",
            Self::Labels => "labels",
            Self::Capabilities => "capabilities",
            Self::Delegation => "delegation",
            Self::Content => "content",
        }
    }
}

/// Which calls a rule is about. An empty list is about all.
#[derive(Debug, Default)]
pub(crate) struct Match {
    pub(crate) points: Vec<Point>,
    pub(crate) verbs: Vec<Verb>,
    pub(crate) risk_tags: Vec<Glob>,
    pub(crate) requires: Vec<Glob>,
    pub(crate) methods: Vec<Glob>,
    pub(crate) tenants: Vec<Glob>,
    pub(crate) agents: Vec<Glob>,
    pub(crate) tools: Vec<Glob>,
    pub(crate) models: Vec<Glob>,
    pub(crate) hosts: Vec<Glob>,
    pub(crate) topics: Vec<Glob>,
    pub(crate) paths: Vec<Glob>,
    pub(crate) labels: Vec<(String, Glob)>,
    pub(crate) capabilities: Vec<Glob>,
    pub(crate) delegation: Option<Delegation>,
    pub(crate) content: Option<Content>,
    /// The keys that are given, in the order of [`Key::ALL`].
    pub(crate) given: Vec<Key>,
}

/// Which delegation chains a rule is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delegation {
    pub(crate) max_depth: Option<usize>,
    pub(crate) issuers: Vec<Glob>,
    pub(crate) forbid_delegated: bool,
}

impl Delegation {
    /// Whether any of the delegations that a call is made under breaks a limit.
    fn fits(&self, caller: &Caller) -> bool {
        if caller.delegations.is_empty() {
            return self.breaks(caller.chain.first(), caller.chain.len());
        }
        let breaks = |hops: &[Hop]| self.breaks(hops.first().map(|hop| &hop.agent), hops.len());
        caller.delegations.iter().any(|hops| breaks(hops))
    }

    fn breaks(&self, root: Option<&String>, length: usize) -> bool {
        let too_deep = self.max_depth.is_some_and(|max| length > max);
        let strange = |root: &String| !self.issuers.is_empty() && !any(&self.issuers, root);
        too_deep || root.is_some_and(strange) || (self.forbid_delegated && length > 0)
    }
}

impl Match {
    /// Notes which keys are given; to be called once the rest is filled in.
    pub(crate) fn settled(mut self) -> Self {
        self.given = Key::ALL.into_iter().filter(|key| self.has(*key)).collect();
        self
    }

    /// The keys that are given.
    pub(crate) fn given(&self) -> &[Key] {
        &self.given
    }

    /// Whether a call fits all keys. A rule that restricts (`alias` is true) sees the alias of the topic too, and the
    /// path as another server may read it.
    pub(crate) fn fits(&self, call: &Call<'_>, alias: bool) -> bool {
        self.given.iter().all(|key| self.key_fits(*key, call, alias))
    }

    /// Whether a call fits one key.
    pub(crate) fn key_fits(&self, key: Key, call: &Call<'_>, alias: bool) -> bool {
        let tags = &call.class.risk_tags;
        match key {
            Key::Points => self.points.contains(&call.point),
            Key::Verbs => self.verbs.contains(&call.class.verb),
            Key::RiskTags => tags.iter().any(|tag| any(&self.risk_tags, tag)),
            Key::Requires => self.requires.iter().all(|wanted| tags.iter().any(|tag| wanted.matches(tag))),
            Key::Methods => any(&self.methods, call.method),
            Key::Tenants => any(&self.tenants, &call.caller.tenant),
            Key::Agents => any(&self.agents, &call.caller.agent),
            Key::Tools => call.tool.is_some_and(|tool| any(&self.tools, tool)),
            Key::Models => call.model.is_some_and(|model| any(&self.models, model)),
            Key::Hosts => !call.host.is_empty() && any(&self.hosts, call.host),
            Key::Topics => {
                let alias = call.class.alias.as_deref().filter(|_| alias);
                any(&self.topics, &call.class.topic) || alias.is_some_and(|alias| any(&self.topics, alias))
            }
            Key::Paths => any(&self.paths, call.path) || alias && any(&self.paths, &path::plain(call.path)),
            Key::Labels => self.labels.iter().all(|(name, wanted)| {
                call.caller.labels.get(name).is_some_and(|value| wanted.matches(value))
            }),
            Key::Capabilities => call.caller.capabilities.iter().any(|own| any(&self.capabilities, own)),
            Key::Delegation => self.delegation.as_ref().is_some_and(|limits| limits.fits(call.caller)),
            Key::Content => self.content.as_ref().is_some_and(|content| {
                content.finds(call.content) || content.finds(unsigned(call.query).as_bytes())
            }),
        }
    }

    /// The globs of a key that has globs.
    pub(crate) fn globs(&self, key: Key) -> &[Glob] {
        match key {
            Key::RiskTags => &self.risk_tags,
            Key::Requires => &self.requires,
            Key::Methods => &self.methods,
            Key::Tenants => &self.tenants,
            Key::Agents => &self.agents,
            Key::Tools => &self.tools,
            Key::Models => &self.models,
            Key::Hosts => &self.hosts,
            Key::Topics => &self.topics,
            Key::Paths => &self.paths,
            Key::Capabilities => &self.capabilities,
            Key::Points | Key::Verbs | Key::Labels | Key::Delegation | Key::Content => &[],
        }
    }

    fn has(&self, key: Key) -> bool {
        match key {
            Key::Points => !self.points.is_empty(),
            Key::Verbs => !self.verbs.is_empty(),
            Key::Labels => !self.labels.is_empty(),
            Key::Delegation => self.delegation.is_some(),
            Key::Content => self.content.is_some(),
            _ => !self.globs(key).is_empty(),
        }
    }
}

/// A query without the id of the key that it is signed with (AWS Signature Version 4, "query string"): the id is public.
fn unsigned(query: &str) -> Cow<'_, str> {
    const IDS: [&str; 2] = ["X-Amz-Credential=", "AWSAccessKeyId="];
    /// Characters of an id.
    const ID: usize = 20;
    let mut rest = Cow::Borrowed(query);
    for name in IDS {
        let start = rest.find(name).map(|at| at.saturating_add(name.len()));
        if let Some((before, after)) = start.and_then(|start| rest.split_at_checked(start))
            && let Some((id, after)) = after.split_at_checked(ID)
            && (id.starts_with("AKIA") || id.starts_with("ASIA"))
        {
            rest = Cow::Owned([before, after].concat());
        }
    }
    rest
}

fn any(globs: &[Glob], text: &str) -> bool {
    globs.iter().any(|glob| glob.matches(text))
}
