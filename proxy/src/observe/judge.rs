//! Judges the tool calls that a model's answer proposes, each at point `llm.tool_call`.

use std::fmt;
use std::sync::Arc;

use sideguard_dialects::watch::{Judge, ProposedCall};
use sideguard_policy::ToolHints;
use sideguard_types::audit::Phase;
use sideguard_types::call::{Caller, Point};
use sideguard_types::refusal::{Code, Refusal};
use sideguard_types::verdict::Decision;

use crate::app::Sidecar;
use crate::call::{Exchange, Item};
use crate::{audit, classify, decide};

/// Service name in the topics of tools that the agent runs itself: `job.local.<tool>`.
const LOCAL: &str = "local";

/// The refusal of an answer that cannot be judged: the upstream is at fault, not the agent's call.
pub(super) fn unjudgeable(what: impl fmt::Display) -> Refusal {
    let reason = format!("the upstream's answer cannot be judged: {what}");
    let mut refusal = Refusal::new(Code::Unjudgeable, "dialect", reason);
    refusal.status = 502;
    refusal
}

/// The judge of one answer.
pub(super) struct AnswerJudge<'a> {
    pub(super) sidecar: &'a Sidecar,
    pub(super) exchange: &'a Exchange,
    pub(super) caller: Arc<Caller>,
}

impl Judge for AnswerJudge<'_> {
    fn judge(&mut self, proposed: &ProposedCall<'_>) -> Result<(), Refusal> {
        let classifier = self.exchange.policy.set.classifier();
        let item = Item {
            point: Point::LlmToolCall,
            class: classifier.tool(LOCAL, proposed.name, Some(proposed.args), ToolHints::default()),
            tool: Some(proposed.name.to_owned()),
            model: self.exchange.items.first().and_then(|item| item.model.clone()),
            args: Some(0..proposed.args.len()),
            rpc_id: None,
            args_hash: Some(classify::hash(proposed.args)),
        };
        let judged = decide::judge(self.sidecar, self.exchange, &self.caller, &item, proposed.args);
        let mut record = self.exchange.record(Phase::Decision, Some(&item));
        let verdict = match judged {
            Ok(grant) => {
                audit::judged(&mut record, &grant);
                // What cannot be carried out on a model's words is no leave to pass them on.
                match grant.constraints.as_deref() {
                    Some(limits)
                        if !limits.set_args.is_empty()
                            || !limits.drop_args.is_empty()
                            || !limits.redact.is_empty() =>
                    {
                        let reason =
                            "a constraint that rewrites arguments cannot be applied to a model's tool call";
                        Err(Refusal::new(Code::PolicyDenied, grant.rule.clone(), reason))
                    }
                    Some(_) | None => Ok(()),
                }
            }
            Err(refusal) => Err(refusal),
        };
        if let Err(refusal) = verdict {
            record.decision = Some(Decision::Deny);
            record.code = Some(refusal.code.as_str().to_owned());
            record.rule = refusal.rule.to_string();
            record.reason.clone_from(&refusal.reason);
            self.sidecar.note(&record);
            self.sidecar.metrics.refused(refusal.code);
            return Err(Refusal { call: self.exchange.id.clone(), ..refusal });
        }
        // On record before the agent can act on it.
        if let Err(error) = self.sidecar.log.intent(&record) {
            tracing::error!(%error, "record cannot be written: a tool call is refused");
            return Err(Refusal::new(Code::RecordUnavailable, "record", "the record cannot be written"));
        }
        self.sidecar.seen(&record);
        Ok(())
    }
}
