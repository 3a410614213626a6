//! The one place where a refusal becomes a reply, in the form that the caller's own SDK expects.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use sideguard_dialects::refuse::{self, Answer, Form, Of};
use sideguard_types::refusal::{Code, Refusal};

use crate::app::Sidecar;
use crate::audit;
use crate::call::Refused;
use crate::engine::{Down, Length, Reply};

/// Answers a refused exchange and records it. Whether the agent heard it makes no difference to the record.
pub(crate) async fn refuse(sidecar: &Sidecar, down: &mut Down, refused: Refused) {
    let Some(reply) = recorded(sidecar, down, refused) else { return };
    down.drain().await;
    told(down, reply).await;
}

/// The same for a request whose head could not be read, so that nobody knows what follows it.
pub(crate) async fn refuse_unread(sidecar: &Sidecar, down: &mut Down, refused: Refused) {
    let Some(reply) = recorded(sidecar, down, refused) else { return };
    told(down, reply).await;
}

fn recorded(sidecar: &Sidecar, down: &mut Down, mut refused: Refused) -> Option<refuse::Reply> {
    for (_, refusal) in &mut refused.refusals {
        refusal.call.clone_from(&refused.exchange.id);
    }
    let first = refused.first()?;
    let reply = formed(sidecar, &refused, first);
    sidecar.metrics.refused(first.code);
    audit::refused(sidecar, &refused, reply.status);
    if matches!(first.code, Code::Malformed) {
        down.close_after();
    }
    Some(reply)
}

async fn told(down: &mut Down, reply: refuse::Reply) {
    if send(down, reply).await.is_err() {
        tracing::debug!("agent was gone before it was told of a refusal");
    }
}

fn formed(sidecar: &Sidecar, refused: &Refused, first: &Refusal) -> refuse::Reply {
    let exchange = &refused.exchange;
    if exchange.mismatch {
        let id = exchange.items.first().and_then(|item| item.rpc_id.as_deref());
        return refuse::mcp_header_mismatch(id, first);
    }
    let decided = !matches!(first.code, Code::Unauthenticated | Code::Malformed | Code::BodyTooLarge);
    if let Some(unread) = &exchange.unread {
        return refuse::mcp_unread(unread, first);
    }
    if exchange.form == Form::Mcp && !exchange.items.is_empty() && decided {
        // Every request of a batch is answered: the ones that could have gone say why they did not.
        let unsent = Refusal {
            reason: "not sent: another call of the same batch was refused".to_owned(),
            hint: Some("send it again without that call".to_owned()),
            ..first.clone()
        };
        let answers: Vec<Answer<'_>> = exchange
            .items
            .iter()
            .enumerate()
            .filter(|(_, item)| item.rpc_id.is_some())
            .map(|(index, item)| {
                let own = refused
                    .refusals
                    .iter()
                    .find(|(refused, _)| *refused == index)
                    .map(|(_, refusal)| refusal);
                let alone = refused.refusals.len() == 1 && exchange.items.len() == 1;
                let (refusal, of) = match own {
                    Some(own) => (own, Of::Itself),
                    None if alone => (first, Of::Itself),
                    None => (&unsent, Of::Another),
                };
                Answer { id: item.rpc_id.as_deref(), refusal, of }
            })
            .collect();
        let single_tool = exchange.items.iter().all(|item| item.tool.is_some());
        let style = if single_tool {
            sidecar.config.refusals.mcp
        } else {
            sideguard_types::resource::McpRefusal::Error
        };
        // Notifications wait for no answer, but the headers tell what became of them.
        let answers = if answers.is_empty() {
            vec![Answer { id: None, refusal: first, of: Of::Itself }]
        } else {
            answers
        };
        return refuse::mcp_reply(&answers, exchange.batch, style);
    }
    refuse::reply(exchange.form, first)
}

/// Writes a whole reply.
pub(crate) async fn send(down: &mut Down, reply: refuse::Reply) -> Result<(), crate::engine::Gone> {
    let status = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::FORBIDDEN);
    let mut head = Reply::new(status);
    head.set(header::CONTENT_TYPE, HeaderValue::from_static(reply.content_type));
    for (name, value) in reply.headers {
        if let Ok(value) = HeaderValue::from_str(&value) {
            head.set(HeaderName::from_static(name), value);
        }
    }
    down.reply(head, Length::Known(reply.body.len())).await?;
    down.send(Bytes::from(reply.body), true).await
}
