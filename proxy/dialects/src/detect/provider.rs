//! Known providers, their hosts and their paths.

use sideguard_types::resource::Dialect;

use super::Operation::{self, Chat, CountTokens, Embeddings, Messages, ModelFree, Responses};

/// A provider that Sideguard governs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Provider {
    /// Its name, as in topics and gateway paths.
    pub name: &'static str,
    /// What it speaks on those of its paths that are known.
    pub dialect: Dialect,
}

/// The provider whose host this is; of no consequence are case and a final dot. Bedrock and Vertex are known
/// although none of their paths is: all they are sent is refused as unjudgeable.
#[must_use]
pub fn provider_of_host(host: &str) -> Option<Provider> {
    let host = host.to_ascii_lowercase();
    let host = host.strip_suffix('.').unwrap_or(&host);
    let below = |domain: &str| host.strip_suffix(domain).is_some_and(|sub| sub.ends_with('.'));
    let name = match host {
        "api.openai.com" => "openai",
        "api.anthropic.com" => "anthropic",
        "api.mistral.ai" | "codestral.mistral.ai" => "mistral",
        "api.groq.com" => "groq",
        "openrouter.ai" => "openrouter",
        "api.deepseek.com" => "deepseek",
        "api.x.ai" => "xai",
        "generativelanguage.googleapis.com" => "gemini",
        "aiplatform.googleapis.com" => "vertex",
        _ if below("api.openai.com") => "openai",
        _ if below("api.x.ai") => "xai",
        _ if ["openai.azure.com", "services.ai.azure.com", "cognitiveservices.azure.com"]
            .iter()
            .any(|d| below(d)) =>
        {
            "azure"
        }
        _ if host.ends_with("-aiplatform.googleapis.com") => "vertex",
        _ if host.starts_with("bedrock-")
            && (below("amazonaws.com") || below("amazonaws.com.cn") || below("api.aws")) =>
        {
            "bedrock"
        }
        _ => return None,
    };
    let dialect = if name == "anthropic" { Dialect::Anthropic } else { Dialect::Openai };
    Some(Provider { name, dialect })
}

/// The operation at `path` of the governed upstream `name`, if it is one of those known there.
pub(super) fn endpoint(
    name: &str,
    dialect: Dialect,
    method: &str,
    path: &str,
) -> Option<(Operation, &'static str)> {
    let segments: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
    if !segments.iter().all(|segment| is_plain(segment)) {
        return None;
    }
    let Some(prefixes) = prefixes(name) else {
        // A configured upstream may have any base path.
        return (0..segments.len()).find_map(|at| known(dialect, method, segments.get(at..)?));
    };
    prefixes.iter().find_map(|(dialect, prefix)| {
        let below = path.strip_prefix(prefix)?.strip_prefix('/')?;
        known(*dialect, method, &below.split('/').collect::<Vec<_>>())
    })
}

/// The operation that a path ends with on a server that may be compatible, however it is spelled.
pub(super) fn endpoint_by_suffix(path: &str) -> Option<(Operation, &'static str)> {
    let decoded = decode(path).to_ascii_lowercase();
    let mut segments = Vec::new();
    for segment in decoded.split(['/', '\\']) {
        match segment.split(';').next().unwrap_or_default().trim() {
            "" | "." => {}
            ".." => drop(segments.pop()),
            name => segments.push(name),
        }
    }
    match segments.as_slice() {
        [.., "chat", "completions"] => Some((Chat, "chat")),
        [.., "messages", "count_tokens"] => Some((CountTokens, "count_tokens")),
        [.., "v1", "messages"] => Some((Messages, "messages")),
        [.., "responses"] => Some((Responses, "responses")),
        [.., "embeddings"] => Some((Embeddings, "embeddings")),
        _ => None,
    }
}

/// Where a provider keeps which dialect. `/v1` is beside each for upstreams whose base URL holds the rest.
fn prefixes(name: &str) -> Option<&'static [(Dialect, &'static str)]> {
    use Dialect::{Anthropic, Openai};
    Some(match name {
        "openai" | "mistral" => &[(Openai, "/v1")],
        "anthropic" => &[(Anthropic, "/v1")],
        "groq" | "azure" => &[(Openai, "/openai/v1"), (Openai, "/v1")],
        "openrouter" => &[(Openai, "/api/v1"), (Openai, "/v1"), (Anthropic, "/api/v1"), (Anthropic, "/v1")],
        "deepseek" => &[(Openai, "/v1"), (Openai, "/beta"), (Openai, ""), (Anthropic, "/anthropic/v1")],
        "xai" | "ollama" => &[(Openai, "/v1"), (Anthropic, "/v1")],
        "gemini" => &[(Openai, "/v1beta/openai"), (Openai, "/openai")],
        "bedrock" | "vertex" => &[],
        _ => return None,
    })
}

/// What a dialect has at the path below its prefix.
fn known(dialect: Dialect, method: &str, path: &[&str]) -> Option<(Operation, &'static str)> {
    match (dialect, method, path) {
        (Dialect::Openai, "POST", ["chat", "completions"]) => Some((Chat, "chat")),
        (Dialect::Openai, "POST", ["responses"]) => Some((Responses, "responses")),
        (Dialect::Openai, "POST", ["embeddings"]) => Some((Embeddings, "embeddings")),
        (Dialect::Openai, "GET" | "DELETE", ["responses", _])
        | (Dialect::Openai, "POST", ["responses", _, "cancel"])
        | (Dialect::Openai, "GET", ["responses", _, "input_items"]) => Some((ModelFree, "responses")),
        (Dialect::Anthropic, "POST", ["messages"]) => Some((Messages, "messages")),
        (Dialect::Anthropic, "POST", ["messages", "count_tokens"]) => Some((CountTokens, "count_tokens")),
        (Dialect::Openai | Dialect::Anthropic, "GET", ["models"] | ["models", _]) => {
            Some((ModelFree, "models"))
        }
        // OpenRouter's ids have an author before the name.
        (Dialect::Openai, "GET", ["models", _, _] | ["models", _, _, "endpoints"]) => {
            Some((ModelFree, "models"))
        }
        _ => None,
    }
}

/// Whether no server can take the segment for another one.
fn is_plain(segment: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':' | b'~');
    segment.bytes().all(plain) && segment.bytes().any(|b| b != b'.')
}

/// Percent-decodes twice, as a chain of two servers would.
fn decode(path: &str) -> String {
    let once = |text: &str| {
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.as_bytes();
        while let Some((&first, tail)) = rest.split_first() {
            let code = tail.get(..2).filter(|_| first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
            match code.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
                Some(byte) => {
                    bytes.push(byte);
                    rest = tail.get(2..).unwrap_or_default();
                }
                None => {
                    bytes.push(first);
                    rest = tail;
                }
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    };
    once(&once(path))
}
