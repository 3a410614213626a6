//! How the accounts stand, for people.

use schemars::JsonSchema;
use serde::Deserialize;
use sideguard_policy::ledger::{Touched, shown};
use sideguard_runtime::clock;
use sideguard_store::Store;
use sideguard_store::documents::Document;
use sideguard_store::key::Key;
use sideguard_types::control::Page;
use sideguard_types::control::budgets::{Account, History, Point};
use sideguard_types::resource::Unit;

use super::account::{ACCOUNTS, EVERY, Kept, account};
use super::rules::Rules;
use super::tend::list;
use super::time::end_of;
use super::{Budgets, spent};
use crate::error::Failure;
use crate::keys::Principal;

/// Accounts of a page when nothing else is asked for, and at most.
const PAGE: usize = 200;
const MOST: usize = 500;

/// Which account's history is wanted.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct Wanted {
    /// Name of the budget.
    budget: String,
    /// What it counts.
    unit: Unit,
    /// Which of its accounts; empty for the whole scope's.
    #[serde(default)]
    key: String,
    /// Tenant of the budget.
    tenant: Option<String>,
}

/// What a tenant is called in answers.
fn called(space: &str) -> &str {
    if space == EVERY { "*" } else { space }
}

impl Budgets {
    /// Accounts that a principal may see, some of them, by tenant; those of all tenants' budgets are for who sees all.
    pub(crate) async fn list(
        &self,
        store: &Store,
        who: &Principal,
        tenant: Option<&str>,
        (after, limit): (Option<&str>, Option<usize>),
    ) -> Result<Page<Account>, Failure> {
        let rules = self.rules(store).await?;
        let most = limit.unwrap_or(PAGE).clamp(1, MOST);
        let after = after.map(cursor).transpose()?;
        let mut items = Vec::new();
        for space in visible(&rules, who, tenant) {
            let mut from = match &after {
                Some(after) if after.tenant() > space => continue,
                Some(after) if after.tenant() == space => Some(after.clone()),
                _ => None,
            };
            loop {
                let page = list(store, space, from.as_ref(), most - items.len()).await?;
                let last = page.documents.last().map(|document| document.key.clone());
                items.extend(self.shown(store, &rules, &page.documents).await?);
                if items.len() >= most {
                    return Ok(Page { items, next: last.map(|last| last.to_string()) });
                }
                let Some(next) = page.next else { break };
                from = Some(next);
            }
        }
        Ok(Page { items, next: None })
    }

    async fn shown(
        &self,
        store: &Store,
        rules: &Rules,
        documents: &[Document],
    ) -> Result<Vec<Account>, Failure> {
        let now = self.now();
        let limits = rules.by_name();
        let (mut known, mut accounts) = (Vec::new(), Vec::new());
        for document in documents {
            let kept: Kept = serde_json::from_slice(&document.value)
                .map_err(|_| Failure::Broken(document.key.to_string()))?;
            if let Some(limit) = limits.get(&*kept.limit) {
                accounts.push(account(&document.key, &kept.epoch)?);
                known.push((document.key.tenant(), kept, limit));
            }
        }
        let balances = store.ledger.balance(&accounts).await?;
        let one = |((space, kept, limit), balance): (
            (&str, Kept, &Touched<'_>),
            sideguard_store::ledger::Balance,
        )| {
            let (window, unit) = (limit.window, limit.unit);
            let used = spent(limit, &kept, now.of(window), balance);
            let last = kept.points.last().map_or(now.of(window), |point| point.time);
            let reset = (used > 0).then(|| end_of(window, last.max(now.of(window)))).flatten();
            Account {
                tenant: called(space).to_owned(),
                budget: limit.budget.to_owned(),
                unit,
                key: kept.key,
                limit: self::shown(unit, limit.amount),
                spent: self::shown(unit, used),
                held: self::shown(unit, balance.held),
                left: self::shown(unit, limit.amount.saturating_sub(used).saturating_sub(balance.held)),
                window: window.map(|window| window.to_string()),
                reset_at: reset.map(|at| now.shown(window, at, clock::now())),
                alert: kept.alert.map(|share| f64::from(share) / 1000.0),
                alerts: kept.alerts,
            }
        };
        Ok(known.into_iter().zip(balances).map(one).collect())
    }

    /// What was spent over time.
    pub(crate) async fn history(
        &self,
        store: &Store,
        who: &Principal,
        wanted: &Wanted,
    ) -> Result<History, Failure> {
        let rules = self.rules(store).await?;
        let (now, mut points) = (self.now(), Vec::new());
        let mut found = false;
        for space in visible(&rules, who, wanted.tenant.as_deref()) {
            let limits = rules.ledger.all().filter(|limit| {
                super::account::space(limit.tenant) == space
                    && limit.budget == wanted.budget
                    && limit.unit == wanted.unit
            });
            for mut limit in limits {
                limit.key = wanted.key.as_str().into();
                let Some((kept, _)) = super::read(store, &super::account::place(&limit)?).await? else {
                    continue;
                };
                found = true;
                points.extend(kept.points.iter().map(|point| Point {
                    time: now.shown(limit.window, point.time, clock::now()),
                    spent: shown(limit.unit, point.spent.saturating_sub(kept.base(limit.window, point.time))),
                    limit: shown(limit.unit, limit.amount),
                }));
            }
        }
        if !found {
            return Err(Failure::Missing(format!("account `{}` of budget `{}`", wanted.key, wanted.budget)));
        }
        points.sort_by_key(|point| point.time);
        Ok(History { points })
    }
}

/// The namespaces that a principal may see, in order.
fn visible<'a>(rules: &'a Rules, who: &Principal, tenant: Option<&str>) -> Vec<&'a str> {
    let mut spaces: Vec<&str> =
        rules.tenants.iter().map(String::as_str).filter(|space| who.reaches(space)).collect();
    if who.tenant.is_none() {
        spaces.push(EVERY);
    }
    spaces.retain(|space| tenant.is_none_or(|tenant| tenant == called(space)));
    spaces.sort_unstable();
    spaces
}

fn cursor(text: &str) -> Result<Key, Failure> {
    let (tenant, path) = text.split_once('/').unwrap_or_default();
    Key::new(tenant, path)
        .ok()
        .filter(|key| key.path().starts_with(ACCOUNTS))
        .ok_or_else(|| Failure::Invalid(format!("`{text}` is no place in this list")))
}
