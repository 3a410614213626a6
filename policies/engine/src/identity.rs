//! Who an agent is and how far its own rights reach, whatever policy says.

use std::collections::HashMap;

use ahash::RandomState;
use sha2::{Digest, Sha256};
use sideguard_types::call::{Call, Caller, Verb};
use sideguard_types::delegation::Rights;
use sideguard_types::resource::{AgentSpec, Metadata};

use crate::glob::{Case, Glob};
use crate::source::nearest;

/// An agent as its resource describes it.
#[derive(Debug)]
pub struct Identity {
    /// How calls of it name their caller.
    pub caller: Caller,
    /// Its rights as they are written; what it does not limit is absent.
    pub rights: Rights,
    /// Who may approve calls that are made for it.
    pub approvers: Vec<String>,
    reach: Reach,
}

impl Identity {
    /// Whether a call stays within the agent's capabilities, models and egress. A capability of a higher verb
    /// includes the lower ones; what is not listed at all is not limited here.
    ///
    /// # Errors
    /// When it does not; the reason, for the reply and the record.
    pub fn scope(&self, call: &Call<'_>) -> Result<(), String> {
        self.reach.holds(&self.caller.agent, call)
    }

    /// Whether its egress lets it reach a host at all.
    #[must_use]
    pub fn may_reach(&self, host: &str) -> bool {
        self.reach.egress.as_ref().is_none_or(|globs| globs.iter().any(|glob| glob.matches(host)))
    }
}

/// How far rights reach. What is absent is not limited.
#[derive(Debug, Default)]
pub(crate) struct Reach {
    capabilities: Option<Vec<Capability>>,
    models: Option<Vec<Glob>>,
    egress: Option<Vec<Glob>>,
}

impl Reach {
    /// Reads rights.
    ///
    /// # Errors
    /// What cannot be read: nobody knows how far it would reach.
    pub(crate) fn of(rights: &Rights) -> Result<Self, String> {
        fn all<T>(
            texts: Option<&Vec<String>>,
            read: impl Fn(&str) -> Result<T, String>,
        ) -> Result<Option<Vec<T>>, String> {
            texts.map(|texts| texts.iter().map(|text| read(text)).collect()).transpose()
        }
        Ok(Self {
            capabilities: all(rights.capabilities.as_ref(), Capability::parse)?,
            models: all(rights.models.as_ref(), glob)?,
            egress: all(rights.egress.as_ref(), glob)?,
        })
    }

    /// Whether a call stays within; `agent` is whose rights they are.
    ///
    /// # Errors
    /// When it does not; the reason.
    pub(crate) fn holds(&self, agent: &str, call: &Call<'_>) -> Result<(), String> {
        let class = &call.class;
        let capable = |own: &Capability| own.verb >= class.verb && own.topics.matches(&class.topic);
        if self.capabilities.as_ref().is_some_and(|all| !all.iter().any(capable)) {
            return Err(format!("`{agent}` has no capability for `{}:{}`", class.verb, class.topic));
        }
        if let (Some(model), Some(globs)) = (call.model, &self.models)
            && !globs.iter().any(|glob| glob.matches(model))
        {
            return Err(format!("`{agent}` may not use the model `{model}`"));
        }
        let reaches = |glob: &Glob| glob.matches(call.host);
        if !call.host.is_empty() && self.egress.as_ref().is_some_and(|globs| !globs.iter().any(reaches)) {
            return Err(format!("`{agent}` may not reach the host `{}`", call.host));
        }
        Ok(())
    }
}

fn glob(text: &str) -> Result<Glob, String> {
    Glob::parse(text, Case::Folded)
}

/// An empty list limits nothing in an agent's resource.
fn limit<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

/// A right: a verb over topics.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Capability {
    verb: Verb,
    topics: Glob,
}

impl Capability {
    fn parse(text: &str) -> Result<Self, String> {
        let (verb, topics) = text.split_once(':').ok_or_else(|| {
            format!("`{text}` is not a capability: write `verb:topic`, such as `read:job.db.*`")
        })?;
        let verb = match verb {
            "read" => Verb::Read,
            "write" => Verb::Write,
            "admin" => Verb::Admin,
            other => {
                let hint = nearest(other, ["read", "write", "admin"]).unwrap_or("read`, `write` or `admin");
                return Err(format!("`{other}` is not a verb: write `{hint}`"));
            }
        };
        Ok(Self { verb, topics: Glob::parse(topics, Case::Folded)? })
    }
}

/// What is wrong in an agent's resource: the list, the item and the message.
pub(crate) type Misfit = (&'static str, usize, String);

/// All agents.
#[derive(Debug, Default)]
pub(crate) struct Identities {
    all: Vec<Identity>,
    by_key: HashMap<[u8; 32], usize, RandomState>,
    by_name: HashMap<(String, String), usize, RandomState>,
}

impl Identities {
    pub(crate) fn by_key(&self, key: &[u8]) -> Option<&Identity> {
        let digest: [u8; 32] = Sha256::digest(key).into();
        self.by_key.get(&digest).and_then(|at| self.all.get(*at))
    }

    pub(crate) fn by_name(&self, tenant: &str, agent: &str) -> Option<&Identity> {
        self.by_name.get(&(tenant.to_owned(), agent.to_owned())).and_then(|at| self.all.get(*at))
    }

    /// Adds an agent and returns what is wrong with it.
    pub(crate) fn add(&mut self, metadata: &Metadata, spec: &AgentSpec) -> Vec<Misfit> {
        let mut misfits = Vec::new();
        let tenant = metadata.tenant.clone().unwrap_or_else(|| "default".to_owned());
        let identity = Identity {
            caller: Caller {
                tenant: tenant.clone(),
                agent: metadata.name.clone(),
                labels: metadata.labels.clone(),
                capabilities: spec.capabilities.clone(),
                ..Caller::default()
            },
            rights: Rights {
                capabilities: limit(spec.capabilities.clone()),
                models: limit(spec.models.clone()),
                egress: limit(spec.egress.clone()),
            },
            approvers: spec.approvers.clone(),
            // What is wrong in a list keeps the set from compiling.
            reach: Reach {
                capabilities: limit(each(
                    "capabilities",
                    &spec.capabilities,
                    Capability::parse,
                    &mut misfits,
                )),
                models: limit(each("models", &spec.models, glob, &mut misfits)),
                egress: limit(each("egress", &spec.egress, glob, &mut misfits)),
            },
        };
        let at = self.all.len();
        for (index, key) in spec.keys.iter().enumerate() {
            match digest(&key.sha256) {
                None => {
                    let message =
                        "a key is given as its SHA-256: 64 hex digits (`printf %s KEY | sha256sum`)";
                    misfits.push(("keys", index, message.to_owned()));
                }
                Some(digest) => {
                    if self.by_key.insert(digest, at).is_some() {
                        misfits.push(("keys", index, "this key belongs to another agent already".to_owned()));
                    }
                }
            }
        }
        self.by_name.insert((tenant, metadata.name.clone()), at);
        self.all.push(identity);
        misfits
    }
}

fn each<T>(
    list: &'static str,
    items: &[String],
    parse: impl Fn(&str) -> Result<T, String>,
    misfits: &mut Vec<Misfit>,
) -> Vec<T> {
    let mut parsed = Vec::new();
    for (index, item) in items.iter().enumerate() {
        match parse(item) {
            Ok(value) => parsed.push(value),
            Err(message) => misfits.push((list, index, message)),
        }
    }
    parsed
}

fn digest(hex: &str) -> Option<[u8; 32]> {
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    if pairs.len() != 32 || !rest.is_empty() {
        return None;
    }
    let mut digest = [0_u8; 32];
    for (byte, [high, low]) in digest.iter_mut().zip(pairs) {
        let value = char::from(*high).to_digit(16)? << 4 | char::from(*low).to_digit(16)?;
        *byte = u8::try_from(value).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use sideguard_types::call::{Call, Class, Point, Verb};
    use sideguard_types::resource::{AgentKey, AgentSpec, Metadata};
    use sideguard_types::units::{MicroUsd, Tokens};

    use super::Identities;

    fn agent() -> Identities {
        let mut identities = Identities::default();
        let spec = AgentSpec {
            capabilities: vec!["write:job.db.*".into(), "read:llm.*".into()],
            models: vec!["gpt-*".into()],
            egress: vec!["*.acme.com".into()],
            approvers: Vec::new(),
            // SHA-256 of `secret`.
            keys: vec![AgentKey {
                sha256: "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b".into(),
            }],
            ..AgentSpec::default()
        };
        let metadata = Metadata { name: "bot".into(), tenant: Some("acme".into()), ..Metadata::default() };
        assert_eq!(identities.add(&metadata, &spec), []);
        identities
    }

    #[test]
    fn a_key_finds_its_agent_and_no_other() {
        let identities = agent();
        assert_eq!(identities.by_key(b"secret").map(|id| id.caller.agent.as_str()), Some("bot"));
        assert!(identities.by_key(b"Secret").is_none());
        assert!(
            identities.by_name("acme", "bot").is_some() && identities.by_name("default", "bot").is_none()
        );
    }

    #[test]
    fn a_higher_verb_includes_the_lower_and_never_the_other_way() {
        let identities = agent();
        let identity = identities.by_name("acme", "bot").expect("was added");
        let scope = |topic: &str, verb: Verb, model: Option<&str>, host: &str| {
            identity.scope(&Call {
                caller: &identity.caller,
                point: Point::ToolCall,
                class: Class { topic: topic.to_owned().into(), alias: None, verb, risk_tags: vec![] },
                tool: None,
                args: None,
                model,
                host,
                method: "",
                path: "",
                query: "",
                tokens: Tokens(0),
                cost: MicroUsd(0),
                session: None,
                content: b"",
            })
        };
        assert_eq!(scope("job.db.get", Verb::Read, None, "db.acme.com"), Ok(()));
        assert_eq!(scope("job.db.put", Verb::Write, None, ""), Ok(()));
        assert!(scope("job.db.drop", Verb::Admin, None, "").is_err());
        assert!(scope("llm.openai.chat", Verb::Write, None, "").is_err());
        assert!(scope("llm.openai.chat", Verb::Read, Some("claude-x"), "").is_err());
        assert!(scope("job.db.get", Verb::Read, None, "evil.com").is_err());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let spec = AgentSpec {
            capabilities: vec!["read:a.*".into(), "raed:x".into()],
            keys: vec![AgentKey { sha256: "abc".into() }],
            ..AgentSpec::default()
        };
        let misfits = Identities::default().add(&Metadata::default(), &spec);
        let places: Vec<_> = misfits.iter().map(|(list, at, _)| (*list, *at)).collect();
        assert_eq!(places, [("capabilities", 1), ("keys", 0)]);
    }
}
