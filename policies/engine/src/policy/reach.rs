//! Whether any call at all to a host could be let through: what a name server may tell of it.

use sideguard_types::call::{Caller, Point};
use sideguard_types::verdict::{Decision, Mode};

use super::{Key, PolicyDocument, PolicySet, Rule};

/// What a document says about a host, whatever the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Say {
    /// Some call may pass.
    Some,
    /// No call passes.
    None,
    /// Nothing.
    Nothing,
}

impl PolicySet {
    /// Whether some call of `caller` to `host` may be let through. Never `false` where one would be; `true` where it
    /// depends on the call.
    #[must_use]
    pub fn may_reach(&self, caller: &Caller, host: &str) -> bool {
        let own = self.identity_by_name(&caller.tenant, &caller.agent);
        if own.is_some_and(|identity| !identity.may_reach(host)) {
            return false;
        }
        let mut some = false;
        for document in self.documents.iter().filter(|document| document.is_about(&caller.tenant)) {
            let enforced = Point::ALL.iter().all(|point| document.mode(*point) == Mode::Enforce);
            match self.say(document, caller, host) {
                Say::None if enforced => return false,
                // Where it is not enforced it may not restrict.
                Say::None | Say::Some => some = true,
                Say::Nothing => {}
            }
        }
        some
    }

    fn say(&self, document: &PolicyDocument, caller: &Caller, host: &str) -> Say {
        let rules = self.rules.get(document.rules.clone()).unwrap_or_default();
        for rule in rules.iter().filter(|rule| may_be_about(rule, caller, host)) {
            if rule.answer.decision != Decision::Deny {
                return Say::Some;
            }
            if always(rule) {
                return Say::None;
            }
        }
        match document.default.as_ref().map(|answer| answer.decision) {
            Some(Decision::Deny) => Say::None,
            Some(_) => Say::Some,
            None => Say::Nothing,
        }
    }
}

fn may_be_about(rule: &Rule, caller: &Caller, host: &str) -> bool {
    let fits = |globs: &[crate::glob::Glob], text: &str| {
        globs.is_empty() || globs.iter().any(|glob| glob.matches(text))
    };
    let matches = &rule.matches;
    fits(&matches.hosts, host)
        && fits(&matches.agents, &caller.agent)
        && fits(&matches.tenants, &caller.tenant)
}

/// Whether a rule that may be about a call to a host is about every one.
fn always(rule: &Rule) -> bool {
    let settled = [Key::Hosts, Key::Agents, Key::Tenants];
    rule.when.is_none()
        && rule.velocity.is_none()
        && rule.matches.given().iter().all(|key| settled.contains(key))
}

#[cfg(test)]
mod tests {
    use sideguard_types::call::Caller;

    use crate::source::{Source, load};
    use crate::{PolicySet, compile};

    fn set(texts: &[&str]) -> PolicySet {
        let sources: Vec<Source> = (0..)
            .zip(texts)
            .map(|(at, text)| Source::new(format!("{at}.yaml"), (*text).to_owned()))
            .collect();
        compile(&load(&sources)).expect("a set")
    }

    fn policy(name: &str, spec: &str) -> String {
        format!("apiVersion: sideguard.dev/v1\nkind: Policy\nmetadata: {{name: {name}}}\nspec: {spec}\n")
    }

    fn caller() -> Caller {
        Caller { tenant: "default".to_owned(), agent: "a".to_owned(), ..Caller::default() }
    }

    #[test]
    fn a_host_that_no_rule_lets_through_does_not_exist() {
        let allow = policy("p", "{rules: [{id: r, match: {hosts: [api.example]}, decision: allow}]}");
        let listed = set(&[&allow]);
        assert!(listed.may_reach(&caller(), "api.example"));
        assert!(!listed.may_reach(&caller(), "evil.example"));
        let but = policy(
            "q",
            "{default_decision: allow, rules: [{id: r, match: {hosts: [\"*.evil.example\"]}, decision: deny}]}",
        );
        let open = set(&[&but]);
        assert!(open.may_reach(&caller(), "api.example") && !open.may_reach(&caller(), "x.evil.example"));
        assert!(!set(&[&but, &allow]).may_reach(&caller(), "x.evil.example"));
        assert!(
            set(&[&but, &allow]).may_reach(&caller(), "other.example"),
            "the other document lets it through"
        );
        assert!(!set(&[]).may_reach(&caller(), "api.example"));
    }

    #[test]
    fn what_depends_on_the_call_may_be_reached() {
        for spec in [
            "{default_decision: allow, rules: [{id: r, match: {hosts: [h], verbs: [admin]}, decision: deny}]}",
            "{default_decision: allow, rules: [{id: r, match: {hosts: [h]}, when: \"tokens > 5\", decision: deny}]}",
            "{default_decision: allow, rules: [{id: r, match: {hosts: [h], agents: [b]}, decision: deny}]}",
            "{default_decision: deny, rules: [{id: r, match: {hosts: [h]}, decision: require_approval}]}",
            "{mode: warn, default_decision: deny}",
        ] {
            assert!(set(&[&policy("p", spec)]).may_reach(&caller(), "h"), "{spec}");
        }
        for spec in [
            "{default_decision: allow, rules: [{id: r, match: {hosts: [h], agents: [a]}, decision: deny}]}",
            "{default_decision: allow, rules: [{id: r, decision: deny}]}",
            "{default_decision: deny}",
        ] {
            assert!(!set(&[&policy("p", spec)]).may_reach(&caller(), "h"), "{spec}");
        }
    }

    #[test]
    fn an_agents_own_egress_goes_before() {
        let agent =
            "apiVersion: sideguard.dev/v1\nkind: Agent\nmetadata: {name: a}\nspec: {egress: [api.example]}\n";
        let set = set(&[agent, &policy("p", "{default_decision: allow}")]);
        assert!(set.may_reach(&caller(), "api.example") && !set.may_reach(&caller(), "other.example"));
    }
}
