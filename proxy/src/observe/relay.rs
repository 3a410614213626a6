//! Answers that pass as they come: plain HTTP, errors.

use std::time::Duration;

use bytes::Bytes;
use http::header;
use sideguard_types::refusal::{Code, Refusal};

use super::settle::{Answered, Settlement};
use super::{End, Marks, answer};
use crate::app::Sidecar;
use crate::engine::{Down, Length};
use crate::forward::{Sent, Unsent};

/// Relays an answer byte for byte. One that says itself that it is longer than a rule allows is refused whole.
pub(super) async fn plain(sidecar: &Sidecar, sent: Sent<'_>, down: &mut Down) -> Result<End, Unsent> {
    let marks = Marks::of(&sent);
    let Sent { exchange, held, model, judged, limits, mut up, head, .. } = sent;
    let status = head.parts().status.as_u16();
    let no_body = head.no_body;
    let headers = &head.parts().headers;
    let settlement = Settlement { exchange, held, model, judged, status };
    let sized =
        headers.contains_key(header::CONTENT_LENGTH) && !headers.contains_key(header::TRANSFER_ENCODING);
    let declared = headers.get(header::CONTENT_LENGTH).filter(|_| sized && !no_body);
    let declared = declared.and_then(|length| length.to_str().ok()?.trim().parse::<u64>().ok());
    if declared.zip(limits.bytes).is_some_and(|(length, most)| length > most) {
        up.drop_rest().await;
        let reason = "the answer is longer than the rule allows";
        let refusal = Refusal::new(Code::PolicyDenied, limits.rule, reason);
        return Err(answer::refuse(sidecar, settlement, Answered::default(), refusal).await);
    }
    let mut reply = head.into_reply(false);
    marks.put(&mut reply);
    let length = if no_body || sized { Length::AsIs } else { Length::Streamed };
    let mut answered = Answered::default();
    let mut end = End::Whole;
    if down.reply(reply, length).await.is_err() {
        (answered.code, end) = (Some("client_gone"), End::Broken);
    } else if no_body {
        if down.send(Bytes::new(), true).await.is_err() {
            end = End::Broken;
        }
    } else {
        let left = limits.left(&settlement.exchange);
        (answered.code, end) = tokio::select! {
            biased;
            stopped = sidecar.until_stopped(&settlement.exchange) => (Some(stopped.code.as_str()), End::Broken),
            ended = within(left, parts(&mut up, down, limits.bytes)) => ended,
        };
    }
    match end {
        End::Whole => up.release().await,
        End::Broken => up.drop_rest().await,
    }
    settlement.settle(sidecar, answered).await;
    Ok(end)
}

/// Ends what a rule gives no more time.
async fn within(
    left: Option<Duration>,
    parts: impl Future<Output = (Option<&'static str>, End)>,
) -> (Option<&'static str>, End) {
    match left {
        None => parts.await,
        Some(left) => tokio::time::timeout(left, parts)
            .await
            .unwrap_or((Some(Code::UpstreamTimeout.as_str()), End::Broken)),
    }
}

/// Relays the parts of a body, at most `most` bytes. The code says why it ended early.
pub(crate) async fn parts(
    up: &mut crate::engine::Up<'_>,
    down: &mut Down,
    most: Option<u64>,
) -> (Option<&'static str>, End) {
    let mut left = most.unwrap_or(u64::MAX);
    loop {
        let part = tokio::select! {
            biased;
            part = up.part() => part,
            _ = down.gone() => return (Some("client_gone"), End::Broken),
        };
        match part {
            Err(fault) => {
                tracing::info!(%fault, "answer broke off");
                return (Some("upstream_broke_off"), End::Broken);
            }
            Ok(Some(mut part)) => {
                let length = part.len() as u64;
                if length > left {
                    part.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                    // Whether or not it arrives: what follows is no proper end.
                    let _ = down.send(part, false).await;
                    return (Some("output_cut"), End::Broken);
                }
                left -= length;
                let end = up.finished() && !up.may_have_trailers();
                if down.send(part, end).await.is_err() {
                    return (Some("client_gone"), End::Broken);
                }
                if end {
                    return (None, End::Whole);
                }
            }
            Ok(None) => {
                let ended = match up.trailers().await {
                    Some(trailers) => down.trailers(trailers).await,
                    None => down.send(Bytes::new(), true).await,
                };
                return if ended.is_ok() { (None, End::Whole) } else { (Some("client_gone"), End::Broken) };
            }
        }
    }
}
