//! A model's answer, streamed or whole.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header;
use sideguard_dialects::detect::Operation;
use sideguard_dialects::usage;
use sideguard_dialects::watch::{self, Answer, Flow, Options, StreamEnd, Watch, WholeError};
use sideguard_types::refusal::{Code, Refusal};
use sideguard_types::units::Tokens;

use super::inflate::Inflate;
use super::judge::{AnswerJudge, unjudgeable};
use super::settle::{Answered, Settlement};
use super::{End, Marks, relay};
use crate::app::Sidecar;
use crate::call::Exchange;
use crate::engine::{Down, Length, Up};
use crate::forward::{AnswerLimits, Sent, Unsent};

/// Largest answer that is read whole.
const MAX_WHOLE: usize = 32 << 20;
/// Most bytes of one stream that are held back at once.
const MAX_HELD: usize = 4 << 20;

/// `budgeted`: whether any budget holds something for the call.
fn options(sidecar: &Sidecar, sent: &Sent<'_>, budgeted: bool) -> Options {
    let answer = match sent.exchange.operation {
        Operation::Responses => Answer::Responses,
        Operation::Messages | Operation::CountTokens => Answer::Messages,
        Operation::Chat
        | Operation::Embeddings
        | Operation::Mcp
        | Operation::ModelFree
        | Operation::Plain => Answer::Chat,
    };
    // Only a cap that was sent binds the provider; without one the reserve is a guess at what it may give. Where no budget
    // holds anything there is nothing to use up.
    let capped =
        budgeted && sent.model.as_ref().is_some_and(|facts| facts.output_cap.is_some() || facts.cap_sent);
    let limit = if capped { sent.held.reserved.output } else { 0 };
    Options {
        answer,
        hide_usage_chunk: sent.limits.hide_usage,
        refuse: sidecar.config.refusals.tool_call,
        max_held: MAX_HELD,
        output_limit: (limit > 0).then_some(Tokens(limit)),
        call: sent.exchange.id.clone(),
    }
}

/// A streamed answer: text flows, tool calls are held, judged, released or replaced.
pub(super) async fn streamed(sidecar: &Arc<Sidecar>, sent: Sent<'_>, down: &mut Down) -> End {
    let marks = Marks::of(&sent);
    let mut watch = Watch::new(options(sidecar, &sent, marks.remaining.is_some()));
    let Sent { exchange, held, model, judged, limits, mut up, head, .. } = sent;
    let status = head.parts().status.as_u16();
    let inflate = Inflate::of(&head.parts().headers);
    let mut reply = head.into_reply(false);
    marks.put(&mut reply);
    reply.remove(header::CONTENT_ENCODING);
    reply.remove(header::TRAILER);
    let mut stream = Stream {
        sidecar,
        watch: &mut watch,
        down,
        time: limits.time,
        bytes_left: limits.bytes.unwrap_or(u64::MAX),
        rule: limits.rule,
    };
    let caller = exchange.caller.clone().unwrap_or_default();
    let mut judge = AnswerJudge { sidecar, exchange: &exchange, caller };
    let ended = match inflate {
        Ok(inflate) => match stream.down.reply(reply, Length::Streamed).await {
            Ok(()) => stream.run(&mut up, inflate, &mut judge).await,
            Err(_) => Ended::Gone,
        },
        Err(what) => {
            let refusal = unjudgeable(what);
            match stream.down.reply(reply, Length::Streamed).await {
                Ok(()) => stream.cut(refusal).await,
                Err(_) => Ended::Gone,
            }
        }
    };
    let end = match ended {
        Ended::Complete | Ended::Cut(_) => End::Whole,
        Ended::Gone | Ended::Incomplete => End::Broken,
    };
    match ended {
        Ended::Complete => up.release().await,
        _ => up.drop_rest().await,
    }
    let report = watch.report();
    let code = match ended {
        Ended::Complete if report.complete => None,
        Ended::Complete | Ended::Incomplete => Some("answer_incomplete"),
        Ended::Gone => Some("client_gone"),
        Ended::Cut(code) => Some(code),
    };
    let text = watch.emitted_text().to_owned();
    let more = report.emitted_text_bytes.saturating_sub(text.len() as u64);
    let answered = Answered {
        usage: report.usage,
        text,
        more,
        charged: true,
        code,
        model: report.model,
        ..Answered::default()
    };
    Settlement { exchange, held, model, judged, status }.settle(sidecar, answered).await;
    end
}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// As the upstream ended it.
    Complete,
    /// With an error event of ours, for the reason of this code.
    Cut(&'static str),
    /// The upstream broke off, and even the error event could not be written.
    Incomplete,
    /// The agent left.
    Gone,
}

/// One stream on its way.
struct Stream<'a> {
    sidecar: &'a Sidecar,
    watch: &'a mut Watch,
    down: &'a mut Down,
    time: Option<Duration>,
    bytes_left: u64,
    /// The rule that limits the answer.
    rule: Arc<str>,
}

impl Stream<'_> {
    async fn run(&mut self, up: &mut Up<'_>, mut inflate: Inflate, judge: &mut AnswerJudge<'_>) -> Ended {
        let mut out: Vec<Bytes> = Vec::with_capacity(4);
        let left = self.time.map(|time| time.saturating_sub(judge.exchange.since.elapsed()));
        let late = async {
            match left {
                Some(left) => tokio::time::sleep(left).await,
                None => std::future::pending().await,
            }
        };
        let exchange = judge.exchange;
        let stopped = self.sidecar.until_stopped(exchange);
        tokio::pin!(late, stopped);
        loop {
            let part = tokio::select! {
                biased;
                refusal = &mut stopped => return self.cut(refusal).await,
                part = up.part() => part,
                _ = self.down.gone() => return Ended::Gone,
                () = &mut late => {
                    let rule = Arc::clone(&self.rule);
                    let refusal = Refusal::new(Code::UpstreamTimeout, rule, "the answer took longer than the rule allows");
                    return self.cut(refusal).await;
                }
            };
            let flow = match part {
                Ok(Some(part)) => match inflate.part(part) {
                    // Counted before the watch sees it: what it has seen the end of cannot be cut any more.
                    Ok(part) if part.len() as u64 > self.bytes_left => {
                        let what = "the answer is longer than the rule allows";
                        let rule = Arc::clone(&self.rule);
                        return self.cut(Refusal::new(Code::PolicyDenied, rule, what)).await;
                    }
                    Ok(part) => {
                        self.bytes_left -= part.len() as u64;
                        self.watch.feed(part, judge, &mut out)
                    }
                    Err(what) => return self.cut(unjudgeable(what)).await,
                },
                Ok(None) => {
                    let flow = self.watch.finish(StreamEnd::Clean, judge, &mut out);
                    return match (self.send(&mut out, true).await, flow) {
                        (Err(ended), _) => ended,
                        (Ok(()), Flow::Go) => Ended::Complete,
                        (Ok(()), Flow::End) => Ended::Cut("stream_cut"),
                    };
                }
                Err(fault) => {
                    let what = format!("the upstream broke off its answer: {fault}");
                    return self.cut(Refusal::new(Code::UpstreamUnreachable, "upstream", what)).await;
                }
            };
            if let Err(ended) = self.send(&mut out, flow == Flow::End).await {
                return ended;
            }
            if flow == Flow::End {
                return Ended::Cut("stream_cut");
            }
        }
    }

    /// Sends what the watch let through, in one write.
    async fn send(&mut self, out: &mut Vec<Bytes>, end: bool) -> Result<(), Ended> {
        let whole = match out.len() {
            0 if !end => return Ok(()),
            0 => Bytes::new(),
            1 => out.pop().unwrap_or_default(),
            _ => {
                let mut whole = BytesMut::with_capacity(out.iter().map(Bytes::len).sum());
                out.drain(..).for_each(|part| whole.extend_from_slice(&part));
                whole.freeze()
            }
        };
        out.clear();
        self.down.send(whole, end).await.map_err(|_| Ended::Gone)
    }

    /// Ends the stream with the dialect's own error.
    async fn cut(&mut self, refusal: Refusal) -> Ended {
        let mut out = Vec::new();
        self.watch.cut(&refusal, &mut out);
        self.sidecar.metrics.refused(refusal.code);
        let whole: Vec<u8> = out.iter().flat_map(|part| part.iter().copied()).collect();
        match self.down.send(Bytes::from(whole), true).await {
            Ok(()) => Ended::Cut(refusal.code.as_str()),
            Err(_) => Ended::Incomplete,
        }
    }
}

/// An answer that comes whole. What seldom happens is boxed: every call would carry its futures about.
pub(super) async fn whole(sidecar: &Arc<Sidecar>, sent: Sent<'_>, down: &mut Down) -> Result<End, Unsent> {
    let options = options(sidecar, &sent, false);
    let mut marks = Marks::uncharged(&sent);
    let Sent { exchange, held, model, judged, limits, mut up, head, .. } = sent;
    let status = head.parts().status.as_u16();
    let settlement = Settlement { exchange, held, model, judged, status };
    let body = tokio::select! {
        biased;
        body = read(&mut up, &head.parts().headers, &limits, &settlement.exchange) => body,
        _ = down.gone() => {
            up.drop_rest().await;
            let answered = Answered { lost: true, code: Some("client_gone"), ..Answered::default() };
            Box::pin(settlement.settle(sidecar, answered)).await;
            return Ok(End::Broken);
        }
    };
    let (body, compressed) = match body {
        Ok(body) => {
            up.release().await;
            body
        }
        Err(refusal) => {
            up.drop_rest().await;
            let answered = Answered { lost: true, ..Answered::default() };
            return Err(Box::pin(refuse(sidecar, settlement, answered, refusal)).await);
        }
    };
    let caller = settlement.exchange.caller.clone().unwrap_or_default();
    let mut judge = AnswerJudge { sidecar, exchange: &settlement.exchange, caller };
    let judges =
        matches!(settlement.exchange.operation, Operation::Chat | Operation::Responses | Operation::Messages);
    let (body, usage, text, model) = if judges {
        match watch::whole(&options, body.clone(), &mut judge) {
            Ok((body, report)) => (body, report.usage, String::new(), report.model),
            Err(error) => {
                let refusal = match error {
                    WholeError::Refused(refusal) => refusal,
                    WholeError::Unjudgeable(what) => unjudgeable(what),
                };
                let usage = usage::whole(settlement.exchange.operation, &body);
                let answered = Answered { usage, charged: true, ..Answered::default() };
                return Err(Box::pin(refuse(sidecar, settlement, answered, refusal)).await);
            }
        }
    } else {
        let usage = usage::whole(settlement.exchange.operation, &body);
        (body, usage, String::new(), None)
    };
    let text = if usage.output.is_none() { String::from_utf8_lossy(&body).into_owned() } else { text };
    if limits.bytes.is_some_and(|most| body.len() as u64 > most) {
        let refusal =
            Refusal::new(Code::PolicyDenied, limits.rule, "the answer is longer than the rule allows");
        let answered = Answered { usage, text, charged: true, ..Answered::default() };
        return Err(Box::pin(refuse(sidecar, settlement, answered, refusal)).await);
    }
    let mut reply = head.into_reply(false);
    if compressed {
        reply.remove(header::CONTENT_ENCODING);
    }
    let free = settlement.exchange.operation == Operation::CountTokens;
    let answered = Answered { usage, text, charged: !free, model, ..Answered::default() };
    // Before the reply: an agent that has it finds what is left in its budget.
    let charged = settlement.charge(sidecar, answered).await;
    marks.remaining = charged.remaining(sidecar);
    marks.put(&mut reply);
    let sent = async {
        down.reply(reply, Length::Known(body.len())).await?;
        down.send(body, true).await
    };
    let (end, code) =
        if sent.await.is_ok() { (End::Whole, None) } else { (End::Broken, Some("client_gone")) };
    charged.record(sidecar, code);
    Ok(end)
}

/// What costs nothing passes, but a stored answer may hold tool calls like a fresh one.
pub(super) async fn free(sidecar: &Arc<Sidecar>, mut sent: Sent<'_>, down: &mut Down) -> Result<End, Unsent> {
    let path = sent.exchange.route.as_ref().map_or("", |route| route.path()).to_owned();
    if sent.exchange.method != "DELETE" && path.contains("/responses/") {
        sent.exchange.operation = Operation::Responses;
        return whole(sidecar, sent, down).await;
    }
    relay::plain(sidecar, sent, down).await
}

/// Settles a call whose answer the agent does not get.
pub(super) async fn refuse(
    sidecar: &Sidecar,
    settlement: Settlement,
    mut answered: Answered,
    refusal: Refusal,
) -> Unsent {
    let refused = settlement.exchange.clone().refuse(refusal.clone());
    answered.code = Some(refusal.code.as_str());
    settlement.settle(sidecar, answered).await;
    refused.into()
}

/// Reads a whole answer, decompressed. The second value is whether it came compressed.
pub(super) async fn read(
    up: &mut Up<'_>,
    headers: &http::HeaderMap,
    limits: &AnswerLimits,
    exchange: &Exchange,
) -> Result<(Bytes, bool), Refusal> {
    let mut inflate = Inflate::of(headers).map_err(unjudgeable)?;
    let reading = async {
        let mut first = Bytes::new();
        let mut whole = BytesMut::new();
        loop {
            let part = up.part().await.map_err(|fault| {
                let code = if fault.timeout { Code::UpstreamTimeout } else { Code::UpstreamUnreachable };
                Refusal::new(code, "upstream", format!("the upstream broke off its answer: {fault}"))
            })?;
            let Some(part) = part else { break };
            let part = inflate.part(part).map_err(unjudgeable)?;
            if first.len() + whole.len() + part.len() > MAX_WHOLE {
                return Err(unjudgeable(format_args!("it is larger than {MAX_WHOLE} bytes")));
            }
            if first.is_empty() && whole.is_empty() {
                first = part;
            } else {
                whole.extend_from_slice(&std::mem::take(&mut first));
                whole.extend_from_slice(&part);
            }
        }
        Ok(if whole.is_empty() { first } else { whole.freeze() })
    };
    let body = match limits.left(exchange) {
        None => reading.await?,
        Some(left) => tokio::time::timeout(left, reading).await.map_err(|_| {
            let rule = Arc::clone(&limits.rule);
            Refusal::new(Code::UpstreamTimeout, rule, "the answer took longer than the rule allows")
        })??,
    };
    Ok((body, !inflate.is_identity()))
}
