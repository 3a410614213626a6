//! The answer to `tools/list`: the agent sees the tools that it may call.

use std::sync::Arc;

use bytes::Bytes;
use http::header;
use sideguard_dialects::listing::{self, Listed};
use sideguard_dialects::sse::Splitter;
use sideguard_policy::ToolHints;
use sideguard_types::call::{Caller, Point};
use sideguard_types::refusal::{Code, Refusal};

use super::answer;
use super::inflate::Inflate;
use super::judge::unjudgeable;
use super::settle::{Answered, Settlement};
use super::{End, Marks};
use crate::app::Sidecar;
use crate::call::{Exchange, Item};
use crate::decide;
use crate::engine::{Down, Length, Up};
use crate::forward::{Sent, Unsent};

/// Largest event of a stream that is read.
const MAX_EVENT: usize = 8 << 20;

/// Relays an MCP answer, whole or streamed, with its listings filtered.
pub(super) async fn filtered(
    sidecar: &Arc<Sidecar>,
    sent: Sent<'_>,
    down: &mut Down,
    streamed: bool,
) -> Result<End, Unsent> {
    let marks = Marks::of(&sent);
    let Sent { exchange, held, model, judged, limits, mut up, head, .. } = sent;
    let status = head.parts().status.as_u16();
    let headers = head.parts().headers.clone();
    let settlement = Settlement { exchange, held, model, judged, status };
    let mut reply = head.into_reply(false);
    marks.put(&mut reply);
    reply.remove(header::CONTENT_ENCODING);
    reply.remove(header::TRAILER);
    let sight = Sight::new(sidecar, &settlement.exchange);
    if streamed {
        let mut answered = Answered::default();
        let end = match (Inflate::of(&headers), down.reply(reply, Length::Streamed).await) {
            (Ok(inflate), Ok(())) => {
                let events = events(&mut up, inflate, &sight, down);
                let in_time = async {
                    match limits.left(&settlement.exchange) {
                        None => events.await,
                        Some(left) => tokio::time::timeout(left, events)
                            .await
                            .unwrap_or(Err(Code::UpstreamTimeout.as_str())),
                    }
                };
                tokio::select! {
                    biased;
                    stopped = sidecar.until_stopped(&settlement.exchange) => Err(stopped.code.as_str()),
                    ended = in_time => ended,
                }
            }
            _ => Err("client_gone"),
        };
        let end = match end {
            Ok(()) => {
                up.release().await;
                End::Whole
            }
            Err(code) => {
                answered.code = Some(code);
                up.drop_rest().await;
                End::Broken
            }
        };
        drop(sight);
        settlement.settle(sidecar, answered).await;
        return Ok(end);
    }
    let read = answer::read(&mut up, &headers, &limits, &settlement.exchange).await;
    let seen = match read {
        Ok((body, _)) => {
            up.release().await;
            sight.of(&body).map(|shortened| shortened.unwrap_or(body))
        }
        Err(refusal) => {
            up.drop_rest().await;
            Err(refusal)
        }
    };
    drop(sight);
    match seen {
        Ok(body) => {
            let sent = async {
                down.reply(reply, Length::Known(body.len())).await?;
                down.send(body, true).await
            };
            let end = if sent.await.is_ok() { End::Whole } else { End::Broken };
            settlement.settle(sidecar, Answered::default()).await;
            Ok(end)
        }
        Err(refusal) => Err(answer::refuse(sidecar, settlement, Answered::default(), refusal).await),
    }
}

/// Relays a stream of JSON-RPC messages. The error is a stable code.
async fn events(
    up: &mut Up<'_>,
    mut inflate: Inflate,
    sight: &Sight<'_>,
    down: &mut Down,
) -> Result<(), &'static str> {
    let mut splitter = Splitter::new(MAX_EVENT);
    loop {
        let part = tokio::select! {
            biased;
            part = up.part() => part.map_err(|_| "upstream_broke_off")?,
            _ = down.gone() => return Err("client_gone"),
        };
        let Some(part) = part else { break };
        splitter.push(inflate.part(part).map_err(|_| "unjudgeable")?);
        while let Some(event) = splitter.next().map_err(|_| "unjudgeable")? {
            // Keep-alives and the like hold no message.
            let shortened = if event.data.is_empty() {
                None
            } else {
                sight.of(&event.data).map_err(|_| "unjudgeable")?
            };
            let bytes = shortened.map_or_else(|| event.raw.clone(), |data| event.with_data(&data));
            down.send(bytes, false).await.map_err(|_| "client_gone")?;
        }
    }
    if let Some(event) = splitter.rest() {
        // What would be taken out of it cannot be: the event is not whole.
        if !event.data.is_empty() && sight.of(&event.data).map_err(|_| "unjudgeable")?.is_some() {
            return Err("unjudgeable");
        }
        down.send(event.raw, false).await.map_err(|_| "client_gone")?;
    }
    down.send(Bytes::new(), true).await.map_err(|_| "client_gone")
}

/// What an agent may see.
struct Sight<'a> {
    sidecar: &'a Sidecar,
    exchange: &'a Exchange,
    caller: Arc<Caller>,
    server: String,
}

impl<'a> Sight<'a> {
    fn new(sidecar: &'a Sidecar, exchange: &'a Exchange) -> Self {
        let topic = exchange
            .items
            .iter()
            .map(|item| item.class.topic.as_ref())
            .find(|topic| topic.ends_with(".tools.list"));
        let server = topic
            .and_then(|topic| topic.strip_prefix("mcp.")?.strip_suffix(".tools.list"))
            .unwrap_or_default();
        Self {
            sidecar,
            exchange,
            caller: exchange.caller.clone().unwrap_or_default(),
            server: server.to_owned(),
        }
    }

    /// The message without what must not be seen; `None` when all of it may.
    fn of(&self, message: &[u8]) -> Result<Option<Bytes>, Refusal> {
        let shortened = listing::filter(message, &mut |tool| self.may_see(tool));
        shortened.map(|shortened| shortened.map(Bytes::from)).map_err(unjudgeable)
    }

    fn may_see(&self, tool: Listed<'_>) -> bool {
        let hints = ToolHints { read_only: tool.read_only, destructive: tool.destructive };
        let item = Item {
            point: Point::McpList,
            class: self.exchange.policy.set.classifier().tool(&self.server, tool.name, None, hints),
            tool: Some(tool.name.to_owned()),
            model: None,
            args: None,
            rpc_id: None,
            args_hash: None,
        };
        match decide::judge(self.sidecar, self.exchange, &self.caller, &item, &[]) {
            Ok(_) => true,
            // People can be asked when it is called.
            Err(refusal) => refusal.code == Code::ApprovalRequired && self.sidecar.fleet.is_some(),
        }
    }
}
