//! Stage 8: the answer on its way back. Text flows; tool calls in a model's answer are judged before the agent gets
//! them; listings of tools are filtered; usage is gathered. At the end the call is settled and its outcome recorded,
//! whatever the end was.

mod answer;
mod inflate;
mod judge;
mod listing;
mod relay;
mod settle;
mod upgrade;

pub(crate) use relay::parts;

use std::sync::Arc;

use http::{HeaderName, HeaderValue, StatusCode, header};
use sideguard_dialects::detect::{Operation, provider_of_host};
use sideguard_types::call::Point;

use crate::app::Sidecar;
use crate::breaker::Event;
use crate::engine::{Down, Reply};
use crate::forward::{self, Sent, Unsent};

/// How an exchange ended, for the agent's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The reply is complete: the connection may go on.
    Whole,
    /// The reply broke off: the connection is closed, so that nobody takes it for whole.
    Broken,
}

const DECISION: HeaderName = HeaderName::from_static("x-sideguard-decision");
const RULE: HeaderName = HeaderName::from_static("x-sideguard-rule");
const CALL: HeaderName = HeaderName::from_static("x-sideguard-call");
const WARNING: HeaderName = HeaderName::from_static("x-sideguard-would");
const REMAINING: HeaderName = HeaderName::from_static("x-sideguard-budget-remaining");
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// Takes the answer back to the agent.
pub(crate) async fn observe(sidecar: &Arc<Sidecar>, sent: Sent<'_>, down: &mut Down) -> Result<End, Unsent> {
    let status = sent.head.parts().status;
    let event = if status.is_server_error() { Event::Failed } else { Event::Worked };
    forward::tell(sidecar, &sent.exchange, sent.breaker.as_ref(), event);
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Box::pin(upgrade::upgraded(sidecar, sent, down)).await);
    }
    let content_type = |kind: &str| {
        let value = sent.head.parts().headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        value.is_some_and(|value| value.trim_start().to_ascii_lowercase().starts_with(kind))
    };
    let streamed = content_type("text/event-stream");
    // Boxed: the stages before would carry the largest of these futures about with them.
    match sent.exchange.operation {
        _ if sent.head.no_body || !status.is_success() => Box::pin(relay::plain(sidecar, sent, down)).await,
        Operation::Chat | Operation::Responses | Operation::Messages if streamed => {
            Ok(Box::pin(answer::streamed(sidecar, sent, down)).await)
        }
        Operation::Chat
        | Operation::Responses
        | Operation::Messages
        | Operation::Embeddings
        | Operation::CountTokens => Box::pin(answer::whole(sidecar, sent, down)).await,
        Operation::Mcp => {
            remember_session(sidecar, &sent);
            let lists = sent
                .exchange
                .items
                .iter()
                .any(|item| item.point == Point::McpList && item.class.topic.ends_with(".tools.list"));
            if lists {
                Box::pin(listing::filtered(sidecar, sent, down, streamed)).await
            } else {
                Box::pin(relay::plain(sidecar, sent, down)).await
            }
        }
        Operation::ModelFree => Box::pin(answer::free(sidecar, sent, down)).await,
        Operation::Plain => Box::pin(relay::plain(sidecar, sent, down)).await,
    }
}

/// An MCP server that opens a session may be asked to end it.
fn remember_session(sidecar: &Sidecar, sent: &Sent<'_>) {
    if let Some(session) = sent.head.parts().headers.get("mcp-session-id")
        && let Some(route) = &sent.exchange.route
    {
        sidecar.mcp_sessions.remember(route, session.as_bytes());
    }
}

/// What the reply says of the decision, put on an upstream's head or one of our own.
struct Marks {
    decision: &'static str,
    rule: Arc<str>,
    call: String,
    remaining: Option<String>,
    warning: Option<String>,
    /// Whether the upstream is a provider whose own word on retries is to be believed.
    known: bool,
}

impl Marks {
    /// With what is left while the call is still held.
    fn of(sent: &Sent<'_>) -> Self {
        Self { remaining: sent.held.remaining(), ..Self::uncharged(sent) }
    }

    /// Without what is left, which is told once the call is charged.
    fn uncharged(sent: &Sent<'_>) -> Self {
        let (decision, rule) = sent.decision.clone();
        let known =
            sent.exchange.route.as_ref().is_some_and(|route| provider_of_host(&route.to.host).is_some());
        Self {
            decision,
            rule,
            call: sent.exchange.id.clone(),
            remaining: None,
            warning: sent.warning.clone(),
            known,
        }
    }

    /// Puts the marks on, and takes away what an upstream may not say in Sideguard's name.
    fn put(&self, reply: &mut Reply) {
        let foreign = |name: &&HeaderName| {
            name.as_str().starts_with("x-sideguard-") || (!self.known && **name == SHOULD_RETRY)
        };
        let names = reply.headers().into_iter().flat_map(http::HeaderMap::keys);
        let foreign: Vec<HeaderName> = names.filter(foreign).cloned().collect();
        foreign.into_iter().for_each(|name| reply.remove(name));
        reply.set(DECISION, HeaderValue::from_static(self.decision));
        let texts = [
            (RULE, Some(self.rule.as_ref())),
            (CALL, Some(self.call.as_str())),
            (REMAINING, self.remaining.as_deref()),
            (WARNING, self.warning.as_deref()),
        ];
        for (name, value) in texts {
            if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
                reply.set(name, value);
            }
        }
    }
}
