//! Stage 3: what the request would do. Topic, verb and risk tags come from the bytes and the catalog; a body that
//! cannot be read for what it claims to be is refused.

use bytes::Bytes;
use http::{HeaderMap, header};
use sha2::{Digest, Sha256};
use sideguard_dialects::detect::{self, Detected, Operation};
use sideguard_dialects::refuse::Form;
use sideguard_dialects::request::{self, McpMessage, McpRequest, ModelRequest, Request};
use sideguard_policy::{Classifier, ToolHints};
use sideguard_types::call::{Class, HOSTED_TOOLS, Point, Verb};
use sideguard_types::refusal::{Code, Refusal};
use sideguard_types::resource::Dialect;
use sideguard_types::units::Tokens;

use crate::app::Sidecar;
use crate::call::{Classified, Exchange, Identified, Item, ModelFacts, Refused, Route};

/// Input that a request refers to but does not carry counts as a full context window; this long where the model's
/// is not known.
const CONTEXT: u64 = 200_000;

/// Finds out what the request would do.
pub(crate) fn classify(
    sidecar: &Sidecar,
    identified: Identified,
    headers: &HeaderMap,
) -> Result<Classified, Refused> {
    let Identified { mut exchange, body } = identified;
    let unjudgeable = |reason: String| Refusal::new(Code::Unjudgeable, "dialect", reason);
    let Some(route) = exchange.route.clone() else {
        return Err(exchange.refuse(unjudgeable("the request has no destination".to_owned())));
    };
    let governed = governed(&route);
    exchange.form =
        Form::of(Operation::Plain, governed.as_ref().map(|(name, dialect)| (name.as_str(), *dialect)));
    let path = route.upstream.as_ref().map_or(route.path(), |upstream| {
        route
            .path()
            .strip_prefix(upstream.base.path.as_str())
            .filter(|path| path.starts_with('/'))
            .unwrap_or(route.path())
    });
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let spoken = governed.as_ref().map(|(name, dialect)| (name.as_str(), *dialect));
    let (operation, operation_name, provider) =
        match detect::detect(spoken, &exchange.method, path, content_type, &body.decoded) {
            Detected::Known { provider, op, operation_name } => {
                (op, operation_name, provider.map(str::to_owned))
            }
            Detected::Unjudgeable { reason } => return Err(exchange.refuse(unjudgeable(reason))),
        };
    exchange.operation = operation;
    exchange.form = Form::of(operation, spoken);
    let provider = governed.map(|(name, _)| name).or(provider).unwrap_or_else(|| route.to.host.clone());
    let read = match request::read(operation, &body.decoded) {
        Ok(read) => read,
        Err(unreadable) => {
            exchange.unread =
                (operation == Operation::Mcp).then(|| request::Unread::of(&body.decoded, &unreadable));
            return Err(exchange.refuse(unjudgeable(unreadable.to_string())));
        }
    };
    let classifier = exchange.policy.set.classifier();
    let mut model = None;
    let items = match read {
        Request::Model(request) => {
            let facts = model_facts(sidecar, &request, &provider);
            let item = model_item(classifier, &request, &provider, operation_name, &body.decoded);
            let output = facts.output_cap.unwrap_or_default().times(facts.choices);
            exchange.tokens = facts.input.plus(output);
            exchange.cost = sidecar.prices.of(&facts.model).bound(facts.input, output);
            model = Some(facts);
            vec![item]
        }
        Request::Mcp(request) => {
            let method = headers.get("mcp-method").and_then(|value| value.to_str().ok());
            let name = headers.get("mcp-name").and_then(|value| value.to_str().ok());
            if let Some(mismatch) = request::header_mismatch(&request.messages, method, name) {
                exchange.items = mcp_items(classifier, &request, &server(&route), &body.decoded);
                exchange.mismatch = true;
                return Err(exchange.refuse(unjudgeable(mismatch)));
            }
            exchange.batch = request.batch;
            mcp_items(classifier, &request, &server(&route), &body.decoded)
        }
        Request::Plain if operation == Operation::ModelFree => {
            let class = classifier.model(&provider, operation_name);
            vec![item(Point::LlmRequest, class)]
        }
        Request::Plain => vec![plain_item(sidecar, &exchange, &route, headers, &body.decoded)],
    };
    exchange.items = items;
    if let (Some(agent), [only]) = (agent(&route), exchange.items.as_mut_slice())
        && only.point == Point::ToolCall
        && operation == Operation::Plain
    {
        // By the agent's name, wherever it listens.
        only.point = Point::A2aCall;
        only.class = exchange.policy.set.classifier().http(agent, &exchange.method, route.path());
    }
    if let Some(trace) = &exchange.trace {
        trace.classified(operation, &provider, model.as_ref());
    }
    Ok(Classified { exchange, body, model })
}

/// Name and dialect of the provider that a route leads to, where it is one.
fn governed(route: &Route) -> Option<(String, Dialect)> {
    if let Some(upstream) = &route.upstream
        && let Some(dialect) = upstream.dialect
    {
        return (dialect != Dialect::Plain || detect::provider_of_host(&route.to.host).is_some())
            .then(|| (upstream.name.clone(), dialect));
    }
    detect::provider_of_host(&route.to.host).map(|provider| (provider.name.to_owned(), provider.dialect))
}

/// The agent that a route leads to, where it leads to one.
fn agent(route: &Route) -> Option<&str> {
    route.upstream.as_ref()?.agent.as_deref()
}

/// Name of an MCP server: its upstream's, or its host's.
fn server(route: &Route) -> String {
    route.upstream.as_ref().map_or_else(|| route.to.host.clone(), |upstream| upstream.name.clone())
}

fn model_facts(sidecar: &Sidecar, request: &ModelRequest<'_>, provider: &str) -> ModelFacts {
    let price = sidecar.prices.of(&request.model);
    let unseen = if request.input.open { price.max_in.unwrap_or(CONTEXT) } else { 0 };
    ModelFacts {
        model: request.model.to_string(),
        provider: provider.to_owned(),
        stream: request.stream,
        output_cap: request.output_cap,
        choices: request.choices.max(1),
        include_usage: request.include_usage,
        background: request.background,
        changeable: request.changeable(),
        cap_sent: false,
        input: request.input.strict.plus(Tokens(unseen)),
        no_output: matches!(request.op, Operation::Embeddings | Operation::CountTokens),
    }
}

fn model_item(
    classifier: &Classifier,
    request: &ModelRequest<'_>,
    provider: &str,
    operation: &str,
    body: &Bytes,
) -> Item {
    let mut class = classifier.model(provider, operation);
    // Tools that run at the provider are out of the sidecar's sight: policy must be able to see that they are asked for.
    if !request.hosted_tools.is_empty() {
        class.risk_tags.push(HOSTED_TOOLS.into());
    }
    Item {
        model: Some(request.model.to_string()),
        args_hash: Some(hash(body)),
        ..item(Point::LlmRequest, class)
    }
}

fn mcp_items(classifier: &Classifier, request: &McpRequest<'_>, server: &str, body: &Bytes) -> Vec<Item> {
    let one = |message: &McpMessage<'_>| {
        let rpc_id = message.id.filter(|_| message.is_request()).map(<[u8]>::to_vec);
        let Some(tool) = &message.tool else {
            let method = message.method.as_deref().unwrap_or("response");
            return Item { rpc_id, ..item(Point::McpList, protocol(server, method)) };
        };
        let class = classifier.tool(server, tool, message.args, ToolHints::default());
        Item {
            tool: Some(tool.to_string()),
            args: message.args.and_then(|args| span(body, args)),
            args_hash: message.args.map(hash),
            rpc_id,
            ..item(Point::ToolCall, class)
        }
    };
    request.messages.iter().map(one).collect()
}

/// MCP's own traffic beside tool calls: topic `mcp.<server>.<method>`, read only.
fn protocol(server: &str, method: &str) -> Class<'static> {
    let method = method.replace('/', ".");
    Class {
        topic: format!("mcp.{server}.{method}").to_lowercase().into(),
        alias: None,
        verb: Verb::Read,
        risk_tags: Vec::new(),
    }
}

fn plain_item(
    sidecar: &Sidecar,
    exchange: &Exchange,
    route: &Route,
    headers: &HeaderMap,
    body: &Bytes,
) -> Item {
    // The end of a session that the server itself opened is MCP's own traffic, not a deletion.
    let session = headers.get("mcp-session-id").map(http::HeaderValue::as_bytes);
    if matches!(exchange.method.as_str(), "GET" | "DELETE")
        && session.is_some_and(|session| sidecar.mcp_sessions.knows(route, session))
    {
        return item(Point::McpList, protocol(&server(route), &format!("session.{}", exchange.method)));
    }
    let mut class = exchange.policy.set.classifier().http(&route.to.host, &exchange.method, route.path());
    // A WebSocket begins as a GET and goes both ways from then on.
    if headers.get_all(header::UPGRADE).iter().any(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket")) {
        class.verb = class.verb.max(Verb::Write);
    }
    let whole = (!body.is_empty()).then_some(0..body.len());
    Item { args: whole, args_hash: (!body.is_empty()).then(|| hash(body)), ..item(Point::ToolCall, class) }
}

fn item(point: Point, class: Class<'static>) -> Item {
    Item { point, class, tool: None, model: None, args: None, rpc_id: None, args_hash: None }
}

/// Where `part`, a slice of `whole`, stands in it.
pub(crate) fn span(whole: &[u8], part: &[u8]) -> Option<std::ops::Range<usize>> {
    let start = (part.as_ptr() as usize).checked_sub(whole.as_ptr() as usize)?;
    let end = start.checked_add(part.len())?;
    (end <= whole.len()).then_some(start..end)
}

/// SHA-256 in hex.
pub(crate) fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        for nibble in [byte >> 4, byte & 0xf] {
            text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
        }
        text
    })
}
