//! What may stand in a budget.

use sideguard_types::resource::{BudgetSpec, Limit, Unit};
use sideguard_types::units::MicroUsd;

use super::Checks;
use crate::glob::Case;
use crate::source::Step;

/// Checks scope and limits.
pub(super) fn check(checks: &mut Checks<'_>, spec: &BudgetSpec) {
    let scope = &spec.scope;
    for (key, items, case) in [
        ("tenants", &scope.tenants, Case::Exact),
        ("agents", &scope.agents, Case::Exact),
        ("models", &scope.models, Case::Folded),
        ("sessions", &scope.sessions, Case::Exact),
    ] {
        checks.globs(&[Step::Key("scope"), Step::Key(key)], items, case);
    }
    checks.labels(&[Step::Key("scope"), Step::Key("labels")], scope.labels.iter());
    if spec.limits.is_empty() {
        checks.error("limit", &[Step::Key("limits")], "a budget without limits limits nothing".to_owned());
    }
    for (index, limit) in spec.limits.iter().enumerate() {
        check_limit(checks, index, limit);
    }
    for (index, share) in spec.alerts.iter().flatten().enumerate() {
        if !(*share > 0.0 && *share <= 1.0) {
            let message = format!("`{share}` is not a share above 0 and up to 1");
            checks.error("alert", &[Step::Key("alerts"), Step::Item(index)], message);
        }
    }
}

fn check_limit(checks: &mut Checks<'_>, index: usize, limit: &Limit) {
    let path = |key| [Step::Key("limits"), Step::Item(index), Step::Key(key)];
    let amount = &limit.amount;
    if limit.unit == Unit::Usd {
        if let Err(error) = MicroUsd::parse(amount) {
            checks.error("amount", &path("amount"), error.to_string());
        }
    } else if amount.parse::<u64>().is_err() {
        let message = format!("`{amount}` is not a whole number of {}", limit.unit.as_str());
        checks.error("amount", &path("amount"), message);
    }
    if limit.unit == Unit::Concurrency && limit.window.is_some() {
        let message = "`concurrency` counts calls under way and has no `window`".to_owned();
        checks.error_with("window", &path("window"), message, "remove `window`".to_owned());
    }
}
