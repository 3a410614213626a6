//! What a request is, from the provider it goes to, its method, path, content type and body.

mod provider;

use sideguard_types::resource::Dialect;

use crate::json::{self, Kind, Value};
pub use provider::{Provider, provider_of_host};

/// An operation whose requests are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// `POST /v1/chat/completions`, OpenAI.
    Chat,
    /// `POST /v1/responses`, OpenAI.
    Responses,
    /// `POST /v1/embeddings`, OpenAI.
    Embeddings,
    /// `POST /v1/messages`, Anthropic.
    Messages,
    /// `POST /v1/messages/count_tokens`, Anthropic; free of charge.
    CountTokens,
    /// A JSON-RPC message or batch of MCP.
    Mcp,
    /// A provider's operation that uses no tokens of its own: listing models, fetching a response.
    ModelFree,
    /// Any other HTTP.
    Plain,
}

/// What a request turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Detected<'g> {
    /// An operation that is known.
    Known {
        /// Name of the governed provider; none where a compatible server was known by path and body.
        provider: Option<&'g str>,
        /// The operation.
        op: Operation,
        /// Its name in topics: `chat`, `responses`, `embeddings`, `messages`, `count_tokens`, `models`,
        /// `mcp`, `plain`.
        operation_name: &'static str,
    },
    /// It cannot be judged and must not be forwarded.
    Unjudgeable {
        /// Why, in one sentence.
        reason: String,
    },
}

/// Says what a request is. `governed` is the name and dialect of the upstream that it goes to, where that is
/// a known provider or a configured upstream with a dialect. `path` is without its query, either whole or
/// below the upstream's base URL, as it will be sent.
///
/// A governed provider's path must be spelled exactly as documented: what a server might take for the same
/// path (`//`, `%2e`, another case, a trailing slash) is refused, not guessed at. Elsewhere the spelling
/// does not matter: what looks like a model call or JSON-RPC is judged as one.
#[must_use]
pub fn detect<'g>(
    governed: Option<(&'g str, Dialect)>,
    method: &str,
    path: &str,
    content_type: Option<&str>,
    body: &[u8],
) -> Detected<'g> {
    match governed {
        Some((name, dialect @ (Dialect::Openai | Dialect::Anthropic))) => {
            match provider::endpoint(name, dialect, method, path) {
                Some((op, operation_name)) => {
                    governed_call(name, op, operation_name, method, content_type, body)
                }
                None => unjudgeable(format!("`{method} {path}` is not a known path of provider `{name}`")),
            }
        }
        Some((name, Dialect::Mcp)) => configured_mcp(name, method, content_type, body),
        Some((_, Dialect::Plain)) | None => by_looks(method, path, content_type, body),
    }
}

fn governed_call<'g>(
    provider: &'g str,
    op: Operation,
    operation_name: &'static str,
    method: &str,
    content_type: Option<&str>,
    body: &[u8],
) -> Detected<'g> {
    let known = Detected::Known { provider: Some(provider), op, operation_name };
    if op == Operation::ModelFree {
        return match opening(body) {
            None => known,
            Some(b'{') if method == "POST" => known,
            Some(_) => {
                unjudgeable(format!("a body does not belong to `{method}` `{operation_name}`: leave it out"))
            }
        };
    }
    if !content_type.is_some_and(is_json) {
        let given = content_type.unwrap_or("none");
        return unjudgeable(format!(
            "content type `{given}` of `{operation_name}` must be `application/json`"
        ));
    }
    if opening(body) != Some(b'{') {
        return unjudgeable(format!("the body of `{operation_name}` must be a JSON object"));
    }
    known
}

fn configured_mcp<'g>(name: &'g str, method: &str, content_type: Option<&str>, body: &[u8]) -> Detected<'g> {
    if let Some(other) = content_type.filter(|given| !body.is_empty() && !is_json(given)) {
        return unjudgeable(format!(
            "content type `{other}` to MCP server `{name}` must be `application/json`"
        ));
    }
    let known = |op, operation_name| Detected::Known { provider: Some(name), op, operation_name };
    match (method, opening(body)) {
        ("POST", Some(b'{' | b'[')) => known(Operation::Mcp, "mcp"),
        ("GET" | "DELETE" | "HEAD" | "OPTIONS", None) => known(Operation::Plain, "plain"),
        _ => unjudgeable(format!("`{method}` to MCP server `{name}` does not carry a JSON-RPC message")),
    }
}

/// A request to a host that nothing is known of.
fn by_looks<'g>(method: &str, path: &str, content_type: Option<&str>, body: &[u8]) -> Detected<'g> {
    let plain = Detected::Known { provider: None, op: Operation::Plain, operation_name: "plain" };
    if body.is_empty() {
        return plain;
    }
    if content_type.is_some_and(is_strange) {
        return unjudgeable(
            "the content type names a character set that cannot be judged: send UTF-8".to_owned(),
        );
    }
    if is_wide_json(body) || content_type.is_some_and(is_json) && is_wide(body) {
        return unjudgeable(
            "the body is JSON in UTF-16 or UTF-32, or has a byte order mark: send UTF-8".to_owned(),
        );
    }
    if !matches!(opening(body), Some(b'{' | b'[')) {
        return plain;
    }
    let by_path = provider::endpoint_by_suffix(path).filter(|_| method == "POST");
    match json::read(body) {
        Ok(document) if is_json_rpc(document.root) => {
            Detected::Known { provider: None, op: Operation::Mcp, operation_name: "mcp" }
        }
        Ok(document) => match by_path {
            Some((op, operation_name)) if has_shape(op, document.root) => {
                Detected::Known { provider: None, op, operation_name }
            }
            _ => plain,
        },
        Err(error) if by_path.is_some() || may_hide_json_rpc(body) => {
            unjudgeable(format!("the body is {error}, and looks like a call to a model or an MCP server"))
        }
        Err(_) => plain,
    }
}

/// Whether the content type is JSON in UTF-8 (RFC 8259 section 11, RFC 6839 section 3.1).
fn is_json(content_type: &str) -> bool {
    is_json_kind(content_type) && charsets(content_type).all(|charset| is_utf8(&charset))
}

fn is_json_kind(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    matches!(kind.as_str(), "application/json" | "text/json")
        || kind.starts_with("application/") && kind.ends_with("+json")
}

/// Whether the content type has a server read the body as something other than it looks like here.
fn is_strange(content_type: &str) -> bool {
    charsets(content_type).any(|charset| {
        !is_utf8(&charset)
            && (is_json_kind(content_type) || charset.starts_with("utf") || charset.starts_with("ibm"))
    })
}

/// What the parameters `charset` say, in lower case.
fn charsets(content_type: &str) -> impl Iterator<Item = String> {
    content_type.split(';').skip(1).filter_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let given = value.trim_matches([' ', '\t', '"', '\'']).to_ascii_lowercase();
        name.trim().eq_ignore_ascii_case("charset").then_some(given)
    })
}

/// Whether all that means something in JSON is the same as in UTF-8; what else there is must be valid UTF-8 anyway.
fn is_utf8(charset: &str) -> bool {
    matches!(charset, "utf-8" | "utf8" | "us-ascii" | "ascii" | "iso-8859-1" | "windows-1252")
}

/// The first byte that is not white space.
fn opening(body: &[u8]) -> Option<u8> {
    body.iter().copied().find(|b| !matches!(b, b' ' | b'\n' | b'\r' | b'\t'))
}

/// Whether it begins as UTF-16 or UTF-32 does (some servers read those as JSON too), or with a byte order mark
/// that servers skip.
fn is_wide(body: &[u8]) -> bool {
    let mark = [&[0xFE, 0xFF][..], &[0xFF, 0xFE], &[0xEF, 0xBB, 0xBF]];
    mark.iter().any(|mark| body.starts_with(mark)) || body.iter().take(4).any(|&b| b == 0)
}

/// Whether it opens as a JSON document in UTF-16 or UTF-32 does, or as one with a byte order mark.
fn is_wide_json(body: &[u8]) -> bool {
    const MARK: u32 = 0xFEFF;
    if let Some(rest) = body.strip_prefix(b"\xEF\xBB\xBF") {
        return matches!(opening(rest), Some(b'{' | b'['));
    }
    let units = |width: usize, big: bool| {
        body.chunks_exact(width).map(move |unit| {
            let join = |value: u32, byte: &u8| value << 8 | u32::from(*byte);
            if big { unit.iter().fold(0, join) } else { unit.iter().rev().fold(0, join) }
        })
    };
    [(2, true), (2, false), (4, true), (4, false)].into_iter().any(|(width, big)| {
        let blank = |unit: &u32| matches!(unit, 0x20 | 0x09 | 0x0A | 0x0D);
        let mut text = units(width, big).skip_while(|unit| *unit == MARK || blank(unit)).take(2);
        let opens = matches!(text.next(), Some(0x7B | 0x5B));
        // What other formats hold here by chance goes on with something else than a letter.
        opens && text.next().is_some_and(|next| matches!(next, 0x09..0x80))
    })
}

fn is_json_rpc(root: Value<'_>) -> bool {
    let is_message = |value: Value<'_>| {
        value.members().any(|member| {
            let key = member.key();
            key.eq_ignore_ascii_case("jsonrpc")
                || key.eq_ignore_ascii_case("method")
                    && member.value.as_str().is_some_and(|method| method == "tools/call")
        })
    };
    match root.kind() {
        Kind::Array => root.elements().any(is_message),
        _ => is_message(root),
    }
}

/// Whether a body that is not strict JSON might be JSON-RPC to a server that is less strict.
fn may_hide_json_rpc(body: &[u8]) -> bool {
    let contains = |word: &[u8]| body.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word));
    contains(b"jsonrpc") || contains(b"tools/call") || contains(b"\\u")
}

fn has_shape(op: Operation, root: Value<'_>) -> bool {
    let prompt = match op {
        Operation::Chat | Operation::Messages | Operation::CountTokens => "messages",
        _ => "input",
    };
    let named =
        |name: &str| root.members().find(|m| m.key().eq_ignore_ascii_case(name)).map(|m| m.value.kind());
    named("model") == Some(Kind::String) && matches!(named(prompt), Some(Kind::Array | Kind::String))
}

fn unjudgeable<'g>(reason: String) -> Detected<'g> {
    Detected::Unjudgeable { reason }
}
