//! Constraints of several documents as one: each takes the tightest.

use std::sync::Arc;

use sideguard_types::verdict::{Constraints, Rate};

/// Two documents want what cannot both be done. Then nothing is: the call is denied.
#[derive(Debug)]
pub(super) struct Conflict {
    pub(super) rule: Arc<str>,
    pub(super) reason: String,
}

/// Merges constraints, given with the rules that they come from.
pub(super) fn tightest(all: &[(&Arc<str>, &Arc<Constraints>)]) -> Result<Constraints, Conflict> {
    let mut merged = Constraints::default();
    for (rule, constraints) in all {
        merge(&mut merged, constraints).map_err(|what| Conflict {
            rule: Arc::clone(rule),
            reason: format!(
                "`{}` ask for different values of {what}; make their `constraints` agree",
                all.iter().map(|(rule, _)| &***rule).collect::<Vec<_>>().join("` and `")
            ),
        })?;
    }
    // What one document sets and another takes out is taken out.
    merged.set_args.retain(|key, _| !merged.drop_args.contains(key));
    Ok(merged)
}

fn merge(into: &mut Constraints, from: &Constraints) -> Result<(), String> {
    let Constraints {
        max_output_tokens,
        model,
        max_output_bytes,
        redact,
        set_args,
        drop_args,
        timeout,
        rate,
    } = from;
    into.max_output_tokens = least(into.max_output_tokens, *max_output_tokens);
    into.max_output_bytes = least(into.max_output_bytes, *max_output_bytes);
    into.timeout = least(into.timeout, *timeout);
    match (&into.model, model) {
        (Some(a), Some(b)) if a != b => return Err("`model`".to_owned()),
        (None, Some(model)) => into.model = Some(model.clone()),
        _ => {}
    }
    union(&mut into.redact, redact);
    union(&mut into.drop_args, drop_args);
    for (key, value) in set_args {
        if into.set_args.insert(key.clone(), value.clone()).is_some_and(|before| before != *value) {
            return Err(format!("the argument `{key}`"));
        }
    }
    into.rate = match (into.rate.take(), rate) {
        (Some(a), Some(b)) => Some(slower(a, b)),
        (a, b) => a.or_else(|| b.clone()),
    };
    Ok(())
}

fn least<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn union(into: &mut Vec<String>, from: &[String]) {
    for item in from {
        if !into.contains(item) {
            into.push(item.clone());
        }
    }
}

/// The rate that lets fewer calls through in the long run, with the smaller burst.
fn slower(a: Rate, b: &Rate) -> Rate {
    let speed = |calls: u32, per: &Rate| u128::from(calls).saturating_mul(per.per.0.as_millis().max(1));
    let burst = a.burst.unwrap_or(a.calls).min(b.burst.unwrap_or(b.calls));
    let slow = if speed(a.calls, b) <= speed(b.calls, &a) { a } else { b.clone() };
    Rate { burst: Some(burst), ..slow }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use sideguard_types::time::Span;
    use sideguard_types::verdict::{Constraints, Rate};

    use super::tightest;

    fn rate(calls: u32, seconds: u64, burst: Option<u32>) -> Option<Rate> {
        Some(Rate { calls, per: Span(Duration::from_secs(seconds)), burst })
    }

    fn merge(a: Constraints, b: Constraints) -> Result<Constraints, String> {
        let (one, two): (Arc<str>, Arc<str>) = ("a/one".into(), "b/two".into());
        tightest(&[(&one, &Arc::new(a)), (&two, &Arc::new(b))]).map_err(|conflict| conflict.reason)
    }

    #[test]
    fn each_constraint_takes_the_tightest() {
        let a = Constraints {
            max_output_tokens: Some(100),
            redact: vec!["email".into()],
            rate: rate(10, 1, None),
            set_args: [("limit".to_owned(), 5.into()), ("mode".to_owned(), "x".into())].into(),
            ..Constraints::default()
        };
        let b = Constraints {
            max_output_tokens: Some(50),
            max_output_bytes: Some(9),
            redact: vec!["email".into(), "aws-key".into()],
            rate: rate(60, 60, Some(2)),
            drop_args: vec!["mode".into()],
            ..Constraints::default()
        };
        let merged = merge(a, b).expect("no conflict");
        assert_eq!(merged.max_output_tokens, Some(50));
        assert_eq!(merged.max_output_bytes, Some(9));
        assert_eq!(merged.redact, ["email", "aws-key"]);
        assert_eq!(merged.rate, rate(60, 60, Some(2)));
        assert_eq!(merged.set_args.keys().collect::<Vec<_>>(), ["limit"]);
    }

    #[test]
    fn what_cannot_both_be_done_is_a_conflict() {
        let with = |model: &str| Constraints { model: Some(model.to_owned()), ..Constraints::default() };
        assert!(merge(with("a"), with("a")).is_ok());
        let reason = merge(with("a"), with("b")).expect_err("two models");
        assert!(reason.contains("`a/one` and `b/two`") && reason.contains("`model`"), "{reason}");
    }
}
