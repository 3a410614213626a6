//! What may become of an approval, as pure functions: pending → approved, denied or expired; approved → consumed, or
//! denied or expired after all. Nothing leads back.

use std::time::Duration;

use sideguard_types::control::approvals::{
    Answer, Approval, Ask, Redeem, Said, Standing, State, Terms, Use, Vote,
};
use sideguard_types::time::Timestamp;

use crate::error::Failure;
use crate::keys::{Principal, Role};

/// Longest that a request may stay open, and a denial may last.
const WEEK: u64 = 7 * 86_400;
/// Longest that a grant may be good.
const DAY: u64 = 86_400;
/// Most people that may be asked for.
const CROWD: u32 = 20;
/// Longest reason that is kept, in characters.
const REASON: usize = 1_000;
/// How everybody who answers by the signed webhook is known: they count as one person.
pub(crate) const WEBHOOK: &str = "webhook";

/// What an identical request comes upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Same {
    /// One that is open, granted, or denied not long ago.
    Stands,
    /// One that was open or granted under another policy: it is void.
    Void,
    /// One that is over.
    Over,
}

/// A new approval.
pub(super) fn asked(ask: &Ask, id: String, from: &Principal, tenant: &str, now: Timestamp) -> Approval {
    let terms = within_reason(&ask.terms);
    let request = &ask.request;
    Approval {
        id,
        tenant: tenant.to_owned(),
        agent: ask.agent.clone(),
        chain: ask.chain.clone(),
        state: State::Pending,
        rule: ask.rule.clone(),
        reason: ask.reason.clone(),
        point: ask.point.clone(),
        topic: ask.topic.clone(),
        tool: ask.tool.clone(),
        model: ask.model.clone(),
        method: request.method.clone(),
        scheme: request.scheme.clone(),
        host: request.host.clone(),
        path: request.path.clone(),
        arguments: request.arguments.clone(),
        cut: false,
        constraints: request.constraints.clone(),
        headers: Vec::new(),
        body: String::new(),
        hash: ask.hash.clone(),
        policy_digest: ask.policy_digest.clone(),
        sidecar: from.name.clone(),
        call: ask.call.clone(),
        created: now,
        expires: now.plus(Duration::from_secs(terms.expires)),
        quorum: terms.quorum,
        terms,
        votes: Vec::new(),
        decided: None,
        used: None,
        note: None,
    }
}

fn within_reason(terms: &Terms) -> Terms {
    Terms {
        quorum: terms.quorum.clamp(1, CROWD),
        expires: terms.expires.clamp(1, WEEK),
        valid: terms.valid.clamp(1, DAY),
        cooldown: terms.cooldown.min(WEEK),
        ..terms.clone()
    }
}

/// Ends what time has ended.
pub(super) fn lapse(approval: &mut Approval, now: Timestamp) {
    if now < approval.expires {
        return;
    }
    let note = match approval.state {
        State::Pending => "nobody answered in time",
        State::Approved => "the grant was not used in time",
        State::Denied | State::Expired | State::Consumed => return,
    };
    approval.state = State::Expired;
    approval.note = Some(note.to_owned());
}

/// What an identical request, judged by the policy set of this digest, comes upon.
pub(super) fn same(approval: &Approval, digest: &str, now: Timestamp) -> Same {
    match approval.state {
        State::Pending | State::Approved if approval.policy_digest != digest => Same::Void,
        State::Pending | State::Approved => Same::Stands,
        State::Denied if again_from(approval).is_some_and(|from| now < from) => Same::Stands,
        State::Denied | State::Expired | State::Consumed => Same::Over,
    }
}

/// Ends an approval that was asked for under a policy that is no longer in force.
pub(super) fn void(approval: &mut Approval) {
    approval.state = State::Expired;
    approval.note = Some("the policy has changed since it was asked for".to_owned());
}

fn again_from(approval: &Approval) -> Option<Timestamp> {
    Some(approval.decided?.plus(Duration::from_secs(approval.terms.cooldown)))
}

/// Takes a person's answer. One no is a no; a grant that is not used yet can still be taken back by one.
pub(super) fn vote(
    approval: &mut Approval,
    who: &Principal,
    answer: &Answer,
    now: Timestamp,
) -> Result<(), Failure> {
    may_vote(approval, who)?;
    let open = match approval.state {
        State::Pending => true,
        State::Approved => answer.verdict == Said::Deny,
        State::Denied | State::Expired | State::Consumed => false,
    };
    if !open {
        let (id, state) = (&approval.id, approval.state.as_str());
        return Err(Failure::Conflict(format!("approval `{id}` is {state} already")));
    }
    if approval.state == State::Pending && approval.votes.iter().any(|vote| same_person(&vote.by, &who.name))
    {
        return Err(Failure::Conflict(format!(
            "`{}` has answered already: one person has one vote",
            who.name
        )));
    }
    approval.votes.push(Vote {
        by: who.name.clone(),
        verdict: answer.verdict,
        time: now,
        reason: answer.reason.as_ref().map(|reason| reason.chars().take(REASON).collect()),
    });
    match answer.verdict {
        Said::Deny => decide(approval, State::Denied, now),
        Said::Approve if approval.votes.len() >= usize::try_from(approval.quorum).unwrap_or(usize::MAX) => {
            decide(approval, State::Approved, now);
            approval.expires = now.plus(Duration::from_secs(approval.terms.valid));
        }
        Said::Approve => {}
    }
    Ok(())
}

fn decide(approval: &mut Approval, state: State, now: Timestamp) {
    approval.state = state;
    approval.decided = Some(now);
}

fn same_person(one: &str, other: &str) -> bool {
    let whole = |name: &str| name.split_once(':').map_or(name, |(channel, _)| channel).to_lowercase();
    if [one, other].iter().all(|name| name.starts_with(WEBHOOK)) {
        return whole(one) == whole(other);
    }
    one.eq_ignore_ascii_case(other)
}

/// Whether a principal may answer: neither the agent, nor anybody in its chain, nor the sidecar, and only whom the rule
/// names.
fn may_vote(approval: &Approval, who: &Principal) -> Result<(), Failure> {
    let name = who.name.rsplit(':').next().unwrap_or(&who.name);
    let own = |link: &String| {
        let last = link.rsplit('/').next().unwrap_or(link);
        [link.as_str(), last].iter().any(|part| part.eq_ignore_ascii_case(name))
    };
    // Whoever speaks for an agent of the chain, by a label, is no other than the agent.
    let labelled = who.labels.get("agent");
    let speaks = |agent: &String| labelled.is_some_and(|label| label.eq_ignore_ascii_case(agent));
    if [&approval.agent, &approval.sidecar]
        .into_iter()
        .chain(&approval.chain)
        .any(|one| own(one) || speaks(one))
    {
        return Err(Failure::Forbidden("answer for a call of its own chain"));
    }
    let Terms { roles, approvers, .. } = &approval.terms;
    let role = match who.role {
        Role::Operator => "operator",
        Role::Approver => "approver",
        Role::Viewer | Role::Sidecar => return Err(Failure::Forbidden("answer approvals")),
    };
    let labelled = who.labels.get("role");
    if !roles.is_empty() && !roles.iter().any(|wanted| wanted == role || labelled == Some(wanted)) {
        return Err(Failure::Forbidden("answer this approval: its rule names other roles"));
    }
    let named = |wanted: &String| match wanted.split_once('=') {
        Some((label, value)) => who.labels.get(label).is_some_and(|own| own == value),
        None => same_person(wanted, &who.name),
    };
    if !approvers.is_empty() && !approvers.iter().any(named) {
        return Err(Failure::Forbidden("answer this approval: its rule names other approvers"));
    }
    Ok(())
}

/// Uses a grant up for one call. Whether this changes anything: the same call may ask again.
pub(super) fn redeem(
    approval: &mut Approval,
    redeem: &Redeem,
    sidecar: &str,
    now: Timestamp,
) -> Result<bool, Failure> {
    let refused = |what: &str| Err(Failure::Conflict(format!("approval `{}` {what}", approval.id)));
    if redeem.agent != approval.agent || redeem.hash != approval.hash {
        return refused("is for another request");
    }
    if redeem.policy_digest != approval.policy_digest {
        return refused("was given under another policy");
    }
    match (approval.state, &approval.used) {
        (State::Approved, _) => {}
        (State::Consumed, Some(used)) if used.call == redeem.call && used.sidecar == sidecar => {
            return Ok(false);
        }
        (State::Consumed, _) => return refused("has been used by another call"),
        (State::Pending | State::Denied | State::Expired, _) => {
            return refused(&format!("is {}", approval.state.as_str()));
        }
    }
    approval.state = State::Consumed;
    approval.used = Some(Use { call: redeem.call.clone(), sidecar: sidecar.to_owned(), time: now });
    Ok(true)
}

/// What a sidecar is told.
pub(super) fn standing(approval: &Approval) -> Standing {
    let no = approval.votes.iter().rev().find(|vote| vote.verdict == Said::Deny);
    let yes = approval.votes.iter().filter(|vote| vote.verdict == Said::Approve);
    let (by, reason, until) = match approval.state {
        State::Denied => {
            (no.into_iter().collect(), no.and_then(|vote| vote.reason.clone()), again_from(approval))
        }
        State::Pending | State::Approved => (yes.collect(), None, Some(approval.expires)),
        State::Expired | State::Consumed => (yes.collect::<Vec<_>>(), approval.note.clone(), None),
    };
    let by = by.into_iter().map(|vote| vote.by.clone()).collect();
    Standing { id: approval.id.clone(), state: approval.state, by, reason, until, replaces: None }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use proptest::prelude::*;
    use sideguard_types::control::approvals::{Answer, Approval, Ask, Held, Redeem, Said, State, Terms};
    use sideguard_types::time::Timestamp;

    use super::{Same, asked, lapse, may_vote, redeem, same, vote};
    use crate::keys::{Principal, Role};

    fn pending(quorum: u32, roles: &[&str], approvers: &[&str]) -> Approval {
        let texts = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        let terms = Terms {
            quorum,
            roles: texts(roles),
            approvers: texts(approvers),
            expires: 100,
            valid: 50,
            cooldown: 20,
        };
        let request = Held {
            method: "POST".to_owned(),
            scheme: "https".to_owned(),
            host: "h".to_owned(),
            path: "/".to_owned(),
            headers: Vec::new(),
            body: String::new(),
            arguments: serde_json::Value::Null,
            constraints: serde_json::Value::Null,
        };
        let ask = Ask {
            agent: "writer".to_owned(),
            chain: vec!["person/root".to_owned(), "planner".to_owned()],
            call: "c".to_owned(),
            rule: "p/r".to_owned(),
            reason: String::new(),
            point: "tool.call".to_owned(),
            topic: "job.h.post".to_owned(),
            tool: None,
            model: None,
            policy_digest: "d".to_owned(),
            hash: "h".to_owned(),
            terms,
            request,
        };
        asked(&ask, "i".to_owned(), &person("s", Role::Sidecar), "acme", Timestamp(0))
    }

    fn person(name: &str, role: Role) -> Principal {
        Principal::new(name, role, Some("acme".to_owned()))
    }

    fn said(verdict: Said) -> Answer {
        Answer { verdict, reason: None }
    }

    fn use_by(call: &str) -> Redeem {
        Redeem {
            agent: "writer".to_owned(),
            call: call.to_owned(),
            hash: "h".to_owned(),
            policy_digest: "d".to_owned(),
        }
    }

    #[test]
    fn nobody_of_the_chain_can_answer() {
        let approval = pending(1, &[], &[]);
        for name in
            ["writer", "WRITER", "planner", "root", "person/root", "s", "webhook:writer", "webhook:root"]
        {
            assert!(may_vote(&approval, &person(name, Role::Operator)).is_err(), "{name}");
        }
        for role in [Role::Viewer, Role::Sidecar] {
            assert!(may_vote(&approval, &person("alice", role)).is_err(), "{role:?}");
        }
        for role in [Role::Operator, Role::Approver] {
            assert!(may_vote(&approval, &person("alice", role)).is_ok(), "{role:?}");
        }
    }

    #[test]
    fn roles_and_approvers_limit_who_can_answer() {
        let may = |approval: &Approval, who: &Principal| may_vote(approval, who).is_ok();
        let mut alice = person("alice", Role::Approver);
        assert!(!may(&pending(1, &["operator"], &[]), &alice));
        assert!(may(&pending(1, &["operator", "approver"], &[]), &alice));
        assert!(!may(&pending(1, &["lead"], &[]), &alice));
        alice.labels.insert("role".to_owned(), "lead".to_owned());
        assert!(may(&pending(1, &["lead"], &[]), &alice));
        assert!(may(&pending(1, &[], &["bob", "role=lead"]), &alice));
        assert!(!may(&pending(1, &[], &["bob", "role=head"]), &alice));
        assert!(may(&pending(1, &[], &["webhook"]), &person("webhook:dora", Role::Approver)));
        assert!(!may(&pending(1, &[], &["dora"]), &person("webhook:dora", Role::Approver)));
    }

    #[test]
    fn all_who_answer_by_webhooks_are_one_person() {
        let mut approval = pending(2, &[], &[]);
        let yes = said(Said::Approve);
        assert!(vote(&mut approval, &person("webhook:a", Role::Approver), &yes, Timestamp(1)).is_ok());
        assert!(vote(&mut approval, &person("webhook:b", Role::Approver), &yes, Timestamp(1)).is_err());
        assert!(vote(&mut approval, &person("carol", Role::Approver), &yes, Timestamp(1)).is_ok());
        assert_eq!(approval.state, State::Approved);
    }

    #[test]
    fn a_denial_stands_for_its_cooldown() {
        let mut approval = pending(1, &[], &[]);
        let at = |seconds: u64| Timestamp(0).plus(Duration::from_secs(seconds));
        vote(&mut approval, &person("alice", Role::Approver), &said(Said::Deny), at(10)).expect("a vote");
        assert_eq!(same(&approval, "another", at(29)), Same::Stands);
        assert_eq!(same(&approval, "d", at(30)), Same::Over);
    }

    #[derive(Debug, Clone)]
    enum Event {
        Vote(usize, Said),
        Redeem(usize, bool, bool),
        Pass(u64),
    }

    fn event() -> impl Strategy<Value = Event> {
        let verdict = prop_oneof![4 => Just(Said::Approve), 1 => Just(Said::Deny)];
        prop_oneof![
            3 => (0..5_usize, verdict).prop_map(|(who, verdict)| Event::Vote(who, verdict)),
            3 => (0..4_usize, prop::bool::weighted(0.8), prop::bool::weighted(0.8))
                .prop_map(|(call, hash, digest)| Event::Redeem(call, hash, digest)),
            1 => (0..40_u64).prop_map(Event::Pass),
        ]
    }

    proptest! {
        /// Whatever comes in whatever order: one call at most uses the grant, after enough different people have said yes
        /// and none has said no, in time, and for what was asked.
        #[test]
        fn one_call_at_most_goes_and_only_when_enough_have_said_yes(
            quorum in 1..4_u32,
            events in prop::collection::vec(event(), 0..40),
        ) {
            let people = ["alice", "Alice", "bob", "webhook:a", "writer"];
            let mut approval = pending(quorum, &[], &[]);
            let mut now = Timestamp(0);
            let mut passed = BTreeSet::new();
            let (mut yes, mut no, mut granted) = (BTreeSet::new(), false, None);
            for event in events {
                lapse(&mut approval, now);
                let before = approval.state;
                match event {
                    Event::Pass(seconds) => now = now.plus(Duration::from_secs(seconds)),
                    Event::Vote(who, verdict) => {
                        let name = people[who];
                        if vote(&mut approval, &person(name, Role::Approver), &said(verdict), now).is_ok() {
                            prop_assert_ne!(name, "writer");
                            match verdict {
                                Said::Approve => prop_assert!(yes.insert(name.to_lowercase())),
                                Said::Deny => no = true,
                            }
                        }
                    }
                    Event::Redeem(call, hash, digest) => {
                        let mut wanted = use_by(&call.to_string());
                        if !hash { wanted.hash = "x".to_owned() }
                        if !digest { wanted.policy_digest = "x".to_owned() }
                        if redeem(&mut approval, &wanted, "s", now).is_ok() {
                            prop_assert!(hash && digest && !no);
                            prop_assert!(yes.len() >= quorum as usize);
                            passed.insert(call);
                            if before == State::Approved {
                                let granted: Timestamp = granted.expect("a grant");
                                prop_assert!(now.since(granted) < Duration::from_secs(50));
                            }
                        }
                    }
                }
                if before == State::Pending && approval.state == State::Approved {
                    granted = Some(now);
                }
                let over = |state| matches!(state, State::Denied | State::Expired | State::Consumed);
                prop_assert!(!over(before) || approval.state == before, "nothing leads back");
                prop_assert!(passed.len() <= 1);
            }
        }
    }
}
