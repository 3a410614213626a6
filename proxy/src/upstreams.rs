//! Model providers and tool servers by name and by address, with the credential that each one gets.

use std::collections::HashMap;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use sideguard_dialects::detect::provider_of_host;
use sideguard_policy::path;
use sideguard_runtime::secret::Secret;
use sideguard_types::resource::{BreakerSpec, Dialect, StreamUsage, UpstreamSpec};

use crate::call::HostPort;

/// An upstream that is there without configuration.
struct BuiltIn {
    name: &'static str,
    url: &'static str,
    dialect: Dialect,
    key: Option<KeyVariable>,
}

/// Where a built-in upstream's key comes from and goes to.
struct KeyVariable {
    /// Environment variable that holds it.
    variable: &'static str,
    header: &'static str,
    /// Put before it in the header.
    prefix: &'static str,
}

const fn bearer(name: &'static str, url: &'static str, variable: &'static str) -> BuiltIn {
    let key = KeyVariable { variable, header: "authorization", prefix: "Bearer " };
    BuiltIn { name, url, dialect: Dialect::Openai, key: Some(key) }
}

const fn keyless(name: &'static str, url: &'static str, dialect: Dialect) -> BuiltIn {
    BuiltIn { name, url, dialect, key: None }
}

const BUILT_IN: [BuiltIn; 9] = [
    bearer("openai", "https://api.openai.com", "OPENAI_API_KEY"),
    BuiltIn {
        name: "anthropic",
        url: "https://api.anthropic.com",
        dialect: Dialect::Anthropic,
        key: Some(KeyVariable { variable: "ANTHROPIC_API_KEY", header: "x-api-key", prefix: "" }),
    },
    keyless("gemini", "https://generativelanguage.googleapis.com", Dialect::Plain),
    bearer("mistral", "https://api.mistral.ai", "MISTRAL_API_KEY"),
    bearer("groq", "https://api.groq.com/openai", "GROQ_API_KEY"),
    bearer("openrouter", "https://openrouter.ai/api", "OPENROUTER_API_KEY"),
    bearer("deepseek", "https://api.deepseek.com", "DEEPSEEK_API_KEY"),
    bearer("xai", "https://api.x.ai", "XAI_API_KEY"),
    keyless("ollama", "http://127.0.0.1:11434", Dialect::Openai),
];

/// Headers that carry credentials; when an upstream has one of ours, the agent's are all dropped.
pub(crate) const CREDENTIAL_HEADERS: [HeaderName; 4] = [
    http::header::AUTHORIZATION,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("api-key"),
    HeaderName::from_static("x-goog-api-key"),
];

/// Names of the environment variables that hold the built-in upstreams' keys.
pub fn key_variables() -> impl Iterator<Item = &'static str> {
    BUILT_IN.iter().filter_map(|built_in| built_in.key.as_ref().map(|key| key.variable))
}

/// Where an upstream is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Base {
    pub(crate) to: HostPort,
    pub(crate) tls: bool,
    /// Put before each path; empty or without a slash at its end.
    pub(crate) path: String,
}

impl Base {
    fn parse(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let tls = match scheme {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let plain = !authority.contains('@') && !path.contains(['?', '#']);
        let to = HostPort::parse(authority, if tls { 443 } else { 80 }).filter(|_| plain)?;
        Some(Self { to, tls, path: path.trim_end_matches('/').to_owned() })
    }

    /// Whether a path is below the base path.
    fn holds(&self, path: &str) -> bool {
        path.strip_prefix(self.path.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// One upstream.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) name: String,
    pub(crate) base: Base,
    /// What it speaks; by host and path where it does not say.
    pub(crate) dialect: Option<Dialect>,
    pub(crate) credential: Option<(HeaderName, Secret<HeaderValue>)>,
    pub(crate) breaker: Option<BreakerSpec>,
    /// Whether a streamed chat is made to report usage.
    pub(crate) stream_usage: StreamUsage,
    /// The agent that it is, behind a sidecar's inbound port.
    pub(crate) agent: Option<String>,
    /// Whether its address is the operator's word or its own nature, so that it need not be a public one.
    pub(crate) written: bool,
}

/// Why an upstream cannot be used as it is written.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The base URL is not one.
    #[error("upstream `{0}`: `{1}` is not a base URL: write `https://host[:port][/path]`")]
    Url(String, String),
    /// A variable or file that a credential names is not there.
    #[error("upstream `{0}`: credential: {1}")]
    Credential(String, String),
}

/// Fills in the values that a configuration text names (`${env:NAME}`, `${file:PATH}`).
pub trait Fill {
    /// The text with each name replaced.
    ///
    /// # Errors
    /// What is missing, without any value.
    fn fill(&self, text: &str) -> Result<String, String>;
    /// Value of an environment variable.
    fn variable(&self, name: &str) -> Option<String>;
}

/// All upstreams.
#[derive(Debug, Default)]
pub(crate) struct Upstreams {
    by_name: HashMap<String, Arc<Upstream>>,
    /// Those with the longest base path first.
    by_address: HashMap<(HostPort, bool), Vec<Arc<Upstream>>>,
    names: Vec<String>,
}

impl Upstreams {
    /// The built-in ones and those given; a given one replaces what stands before it under its name.
    pub(crate) fn new<'a>(
        given: impl Iterator<Item = (&'a str, &'a UpstreamSpec)>,
        fill: &dyn Fill,
    ) -> Result<Self, UpstreamError> {
        let mut all: Vec<Upstream> =
            BUILT_IN.iter().filter_map(|built_in| built_in_upstream(built_in, fill)).collect();
        for (name, spec) in given {
            let upstream = written_upstream(name, spec, &all, fill)?;
            all.retain(|earlier| earlier.name != upstream.name);
            all.push(upstream);
        }
        let mut upstreams = Self::default();
        for upstream in all.into_iter().map(Arc::new) {
            upstreams.names.push(upstream.name.clone());
            let here = upstreams.by_address.entry((upstream.base.to.clone(), upstream.base.tls)).or_default();
            // Of two at one place the later one goes first: the operator's own before one that is built in.
            here.insert(0, Arc::clone(&upstream));
            here.sort_by_key(|one| std::cmp::Reverse(one.base.path.len()));
            upstreams.by_name.insert(upstream.name.clone(), upstream);
        }
        Ok(upstreams)
    }

    /// The upstream of a gateway path.
    pub(crate) fn named(&self, name: &str) -> Option<&Arc<Upstream>> {
        self.by_name.get(name)
    }

    /// The upstream at an address: of several the one that the target is the deepest in, or the outermost.
    pub(crate) fn at(&self, to: &HostPort, tls: bool, target: &str) -> Option<Arc<Upstream>> {
        let found = self.by_address.get(&(to.clone(), tls));
        // One and the same, however an agent spells it.
        let other = match to.host.as_str() {
            "localhost" | "::1" => "127.0.0.1",
            "127.0.0.1" => "localhost",
            _ => to.host.as_str(),
        };
        let here = found.or_else(|| {
            let other = HostPort { host: other.to_owned(), port: to.port };
            self.by_address.get(&(other, tls))
        })?;
        // Read as its server will: the path decides whose rules and whose key apply.
        let path = path::plain(target.split_once('?').map_or(target, |(path, _)| path));
        here.iter().find(|upstream| upstream.base.holds(&path)).or(here.last()).cloned()
    }

    /// Ports of this host that upstreams are at.
    pub(crate) fn local_ports(&self) -> impl Iterator<Item = u16> {
        let local = |to: &&HostPort| matches!(to.host.as_str(), "127.0.0.1" | "localhost");
        self.by_name.values().map(|upstream| &upstream.base.to).filter(local).map(|to| to.port)
    }

    /// All names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }
}

/// Mistral refuses `stream_options` (422 `extra_forbidden`; avante.nvim#2347, 2025-06) and reports usage unasked.
fn stream_usage(name: &str) -> StreamUsage {
    if name == "mistral" { StreamUsage::Leave } else { StreamUsage::Inject }
}

fn built_in_upstream(built_in: &BuiltIn, fill: &dyn Fill) -> Option<Upstream> {
    let credential = built_in.key.as_ref().and_then(|key| {
        let value = HeaderValue::from_str(&format!("{}{}", key.prefix, fill.variable(key.variable)?)).ok()?;
        Some((HeaderName::from_static(key.header), Secret::new(value)))
    });
    let base = Base::parse(built_in.url)?;
    // A host that is governed but not spoken keeps no dialect of its own: `detect` refuses it.
    let dialect = provider_of_host(&base.to.host).map_or(built_in.dialect, |provider| provider.dialect);
    // The one that runs on this host.
    let written = base.to.host == "127.0.0.1";
    Some(Upstream {
        name: built_in.name.to_owned(),
        base,
        dialect: Some(dialect),
        credential,
        breaker: None,
        stream_usage: stream_usage(built_in.name),
        agent: None,
        written,
    })
}

fn written_upstream(
    name: &str,
    spec: &UpstreamSpec,
    earlier: &[Upstream],
    fill: &dyn Fill,
) -> Result<Upstream, UpstreamError> {
    let base = Base::parse(&spec.base_url)
        .ok_or_else(|| UpstreamError::Url(name.to_owned(), spec.base_url.clone()))?;
    let missing = |what: String| UpstreamError::Credential(name.to_owned(), what);
    let credential = match &spec.credential {
        None => None,
        Some(credential) => {
            let header = HeaderName::from_bytes(credential.header.to_ascii_lowercase().as_bytes())
                .map_err(|_| missing(format!("`{}` is not a header name", credential.header)))?;
            let value = fill.fill(&credential.value).map_err(missing)?;
            let value = HeaderValue::from_str(&value)
                .map_err(|_| missing("the value cannot stand in a header".to_owned()))?;
            Some((header, Secret::new(value)))
        }
    };
    let replaced = earlier.iter().find(|upstream| upstream.name == name);
    // A built-in one at another address keeps what it speaks, but its key stays with its own host.
    let dialect = spec.dialect.or_else(|| replaced.and_then(|upstream| upstream.dialect));
    let same_host = replaced.filter(|upstream| upstream.base.to == base.to && upstream.base.tls == base.tls);
    let credential = credential.or_else(|| same_host.and_then(|upstream| upstream.credential.clone()));
    let breaker = spec.breaker.clone();
    let stream_usage = spec.stream_usage.unwrap_or_else(|| stream_usage(name));
    Ok(Upstream {
        name: name.to_owned(),
        base,
        dialect,
        credential,
        breaker,
        stream_usage,
        agent: spec.agent.clone(),
        written: true,
    })
}

#[cfg(test)]
mod tests {
    use sideguard_types::resource::UpstreamSpec;

    use super::{Base, Fill, Upstreams};
    use crate::call::HostPort;

    struct Canary;

    impl Fill for Canary {
        fn fill(&self, text: &str) -> Result<String, String> {
            Ok(text.to_owned())
        }
        fn variable(&self, name: &str) -> Option<String> {
            (name == "OPENAI_API_KEY").then(|| "sk-canary".to_owned())
        }
    }

    #[test]
    fn a_built_in_key_does_not_follow_its_name_to_another_host() {
        let spec = UpstreamSpec {
            base_url: "http://127.0.0.1:9000/".to_owned(),
            dialect: None,
            credential: None,
            breaker: None,
            stream_usage: None,
            agent: None,
        };
        let upstreams = Upstreams::new([("openai", &spec)].into_iter(), &Canary).expect("valid upstreams");
        let moved = upstreams.named("openai").expect("the upstream");
        assert!(moved.credential.is_none());
        assert!(moved.dialect.is_some());
        let untouched = Upstreams::new(std::iter::empty(), &Canary).expect("valid upstreams");
        assert!(untouched.named("openai").expect("the upstream").credential.is_some());
        assert!(!format!("{untouched:?}").contains("sk-canary"));
    }

    #[test]
    fn of_several_upstreams_at_one_host_the_path_decides() {
        let spec = |path: &str| UpstreamSpec {
            base_url: format!("https://mcp.example{path}"),
            dialect: None,
            credential: None,
            breaker: None,
            stream_usage: None,
            agent: None,
        };
        let (mail, admin, deep) = (spec("/mail"), spec("/admin/"), spec("/mail/deep"));
        let given = [("deep", &deep), ("admin", &admin), ("mail", &mail)];
        let upstreams = Upstreams::new(given.into_iter(), &Canary).expect("valid upstreams");
        let to = HostPort { host: "mcp.example".to_owned(), port: 443 };
        let at = |target: &str| upstreams.at(&to, true, target).map(|found| found.name.clone());
        for (target, name) in [
            ("/mail", "mail"),
            ("/mail?x", "mail"),
            ("/mail/deep/er", "deep"),
            ("/mail/deeper", "mail"),
            ("/admin/x", "admin"),
            ("/mailing", "mail"),
            ("/%61dmin/x", "admin"),
            ("//admin?x", "admin"),
        ] {
            assert_eq!(at(target).as_deref(), Some(name), "{target}");
        }
        assert!(upstreams.at(&to, false, "/mail").is_none());
        let own = UpstreamSpec { base_url: "https://api.openai.com".to_owned(), ..spec("") };
        let upstreams = Upstreams::new([("team", &own)].into_iter(), &Canary).expect("valid upstreams");
        let to = HostPort { host: "api.openai.com".to_owned(), port: 443 };
        for target in ["/v1/models", "/"] {
            assert_eq!(
                upstreams.at(&to, true, target).map(|found| found.name.clone()).as_deref(),
                Some("team")
            );
        }
    }

    #[test]
    fn base_urls_are_read_strictly() {
        assert_eq!(Base::parse("https://a.b/x/").map(|base| base.path), Some("/x".to_owned()));
        for url in ["a.b", "ftp://a", "https://", "https://u:p@a", "https://a?x", "https://a:0"] {
            assert_eq!(Base::parse(url), None, "{url}");
        }
    }
}
