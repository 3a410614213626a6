//! What the ledger promises.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use sideguard_types::audit::Amounts;
use sideguard_types::resource::{BudgetScope, BudgetSpec, Limit, Metadata, Per, Unit, Window};
use sideguard_types::time::{Span, Timestamp};
use sideguard_types::units::MicroUsd;

use super::{Ledger, LimitFault, Reservation, Subject};

const SECOND: i64 = 1_000_000;

fn limit(unit: Unit, amount: &str, window: Option<&str>, per: Option<Per>) -> Limit {
    let window = window.map(|text| match text {
        "day" => Window::Day,
        "month" => Window::Month,
        span => Window::Rolling(Span::parse(span).expect("a span")),
    });
    Limit { unit, amount: amount.to_owned(), window, per }
}

fn budget(name: &str, scope: BudgetScope, limits: Vec<Limit>) -> (Metadata, BudgetSpec) {
    (Metadata { name: name.to_owned(), ..Metadata::default() }, BudgetSpec { scope, limits, alerts: None })
}

fn ledger(limits: Vec<Limit>) -> Ledger {
    Ledger::new(&[budget("b", BudgetScope::default(), limits)]).expect("a good budget")
}

fn who<'a>(agent: &'a str, session: Option<&'a str>) -> Subject<'a> {
    static LABELS: BTreeMap<String, String> = BTreeMap::new();
    Subject { tenant: "acme", agent, labels: &LABELS, session, model: Some("gpt-5") }
}

fn output(output: u64) -> Amounts {
    Amounts { output, ..Amounts::default() }
}

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).expect("a time")
}

/// What is spent and held in the first account.
fn sums(ledger: &Ledger, now: Timestamp) -> (u64, u64) {
    ledger.snapshot(now).first().map_or((0, 0), |view| (view.spent, view.held))
}

#[test]
fn work_of_a_deputy_is_counted_once_in_what_both_share() {
    let own = BudgetScope { agents: vec!["a".to_owned()], ..BudgetScope::default() };
    let budgets = [
        budget("own", own, vec![limit(Unit::OutputTokens, "100", None, None)]),
        budget(
            "each",
            BudgetScope::default(),
            vec![limit(Unit::OutputTokens, "100", None, Some(Per::Agent))],
        ),
        budget("all", BudgetScope::default(), vec![limit(Unit::OutputTokens, "60", None, None)]),
        budget("calls", BudgetScope::default(), vec![limit(Unit::Calls, "9", Some("day"), None)]),
    ];
    let mut ledger = Ledger::new(&budgets).expect("good budgets");
    let now = Timestamp(0);
    let held = ledger.reserve_for(&who("a", None), &who("b", None), output(80), now).expect("it fits");
    assert!(ledger.reserve(&who("a", None), output(30), now).is_err(), "held in its own");
    let deputy = ledger.reserve(&who("b", None), output(50), now).expect("it fits");
    ledger.settle(deputy, output(50), now);
    ledger.settle(held, output(50), now);
    let spent: Vec<(String, String, u64)> =
        ledger.snapshot(now).into_iter().map(|view| (view.budget, view.key, view.spent)).collect();
    let account = |budget: &str, key: &str, spent| (budget.to_owned(), key.to_owned(), spent);
    let expected = [
        account("own", "", 50),
        account("each", "acme/a", 50),
        account("each", "acme/b", 50),
        account("all", "", 50),
        account("calls", "", 2),
    ];
    assert_eq!(spent, expected);
}

#[test]
fn a_call_is_held_then_charged_for_what_it_used() {
    let mut ledger = ledger(vec![limit(Unit::Usd, "1.50", None, None)]);
    let usd = |micro| Amounts { usd: MicroUsd(micro), ..Amounts::default() };
    let now = Timestamp(0);
    let held = ledger.reserve(&who("a", None), usd(1_000_000), now).expect("it fits");
    let refused = ledger.reserve(&who("a", None), usd(500_001), now).expect_err("it does not");
    assert_eq!(
        (refused.limit.as_str(), refused.spent.as_str(), refused.held.as_str(), refused.wanted.as_str()),
        ("1.5", "0", "1", "0.500001")
    );
    assert!(refused.soon && refused.reset_at.is_none());
    ledger.settle(held, usd(200_000), now);
    assert_eq!(sums(&ledger, now), (200_000, 0));
    assert_eq!(ledger.room(&who("a", None), now).usd, Some(MicroUsd(1_300_000)));
}

#[test]
fn all_limits_hold_or_none_does() {
    let mut ledger =
        ledger(vec![limit(Unit::Tokens, "100", None, None), limit(Unit::InputTokens, "10", None, None)]);
    let want = Amounts { input: 11, output: 5, ..Amounts::default() };
    let refused = ledger.reserve(&who("a", None), want, Timestamp(0)).expect_err("too much input");
    assert_eq!((refused.unit, refused.soon), (Unit::InputTokens, false));
    assert_eq!(ledger.snapshot(Timestamp(0)), []);
}

#[test]
fn overuse_is_charged_in_full() {
    let mut ledger = ledger(vec![limit(Unit::OutputTokens, "100", None, None)]);
    let held = ledger.reserve(&who("a", None), output(100), Timestamp(0)).expect("it fits");
    ledger.settle(held, output(250), Timestamp(0));
    assert_eq!(sums(&ledger, Timestamp(0)), (250, 0));
    assert_eq!(ledger.room(&who("a", None), Timestamp(0)).output, Some(0));
    assert!(ledger.reserve(&who("a", None), output(0), Timestamp(0)).is_err());
}

#[test]
fn use_of_what_was_not_reserved_is_charged_even_after_a_sweep() {
    let mut ledger = ledger(vec![limit(Unit::OutputTokens, "100", Some("1m"), Some(Per::Session))]);
    let held = ledger.reserve(&who("a", Some("mine")), output(0), Timestamp(0)).expect("it fits");
    for n in 0..5_000 {
        let other =
            ledger.reserve(&who("a", Some(&n.to_string())), output(0), Timestamp(0)).expect("it fits");
        ledger.cancel(other);
    }
    ledger.settle(held, output(7), Timestamp(0));
    assert_eq!(sums(&ledger, Timestamp(0)), (7, 0));
}

#[test]
fn calls_count_when_they_are_let_through_and_a_cancelled_one_does_not() {
    let mut ledger = ledger(vec![limit(Unit::Calls, "2", Some("1m"), None)]);
    let first = ledger.reserve(&who("a", None), output(0), Timestamp(0)).expect("the first");
    let second = ledger.reserve(&who("a", None), output(0), Timestamp(SECOND)).expect("the second");
    let refused = ledger.reserve(&who("a", None), output(0), Timestamp(2 * SECOND)).expect_err("the third");
    assert_eq!(refused.reset_at, Some(Timestamp(61 * SECOND)));
    ledger.settle(first, output(0), Timestamp(50 * SECOND));
    assert!(ledger.reserve(&who("a", None), output(0), Timestamp(60 * SECOND)).is_err());
    ledger.cancel(second);
    assert!(ledger.reserve(&who("a", None), output(0), Timestamp(60 * SECOND)).is_ok());
    assert!(ledger.reserve(&who("a", None), output(0), Timestamp(61 * SECOND)).is_ok());
}

#[test]
fn concurrency_comes_back_with_the_end_of_a_call() {
    let mut ledger = ledger(vec![limit(Unit::Concurrency, "1", None, Some(Per::Agent))]);
    let now = Timestamp(0);
    let held = ledger.reserve(&who("a", None), output(0), now).expect("the first");
    let other = ledger.reserve(&who("b", None), output(0), now).expect("another agent's");
    assert!(ledger.reserve(&who("a", None), output(0), now).expect_err("the second").soon);
    ledger.settle(held, output(0), now);
    ledger.settle(other, output(0), now);
    assert!(ledger.reserve(&who("a", None), output(0), now).is_ok());
}

#[test]
fn calendar_windows_begin_anew_at_midnight_utc() {
    for (window, before, after) in [
        ("day", "2026-11-30T23:59:59Z", "2026-12-01T00:00:00Z"),
        ("month", "2026-11-02T00:00:00Z", "2026-12-01T00:00:00Z"),
    ] {
        let mut ledger = ledger(vec![limit(Unit::OutputTokens, "10", Some(window), None)]);
        let held = ledger.reserve(&who("a", None), output(10), at(before)).expect("it fits");
        ledger.settle(held, output(10), at(before));
        let refused = ledger.reserve(&who("a", None), output(1), at(before)).expect_err("it is spent");
        assert_eq!(refused.reset_at, Some(at(after)), "{window}");
        assert!(ledger.reserve(&who("a", None), output(10), at(after)).is_ok(), "{window}");
    }
}

#[test]
fn the_reset_is_the_first_moment_at_which_it_fits() {
    let mut ledger = ledger(vec![limit(Unit::OutputTokens, "10", Some("1h"), None)]);
    for minute in 0..10 {
        let now = Timestamp(minute * 60 * SECOND + 7);
        let held = ledger.reserve(&who("a", None), output(1), now).expect("it fits");
        ledger.settle(held, output(1), now);
    }
    let now = Timestamp(600 * SECOND);
    let reset = ledger.reserve(&who("a", None), output(4), now).expect_err("it is spent").reset_at;
    let reset = reset.expect("time helps");
    let just_before = Timestamp(reset.0 - 1);
    assert!(ledger.clone().reserve(&who("a", None), output(4), just_before).is_err());
    assert!(ledger.reserve(&who("a", None), output(4), reset).is_ok());
    let never = ledger.reserve(&who("a", None), output(11), now).expect_err("more than the limit");
    assert_eq!((never.reset_at, never.soon), (None, false));
}

#[test]
fn a_scope_says_which_calls_count() {
    let scope = BudgetScope {
        tenants: vec!["ac*".to_owned()],
        agents: vec!["research*".to_owned(), "writer".to_owned()],
        labels: [("team".to_owned(), "d*a".to_owned())].into(),
        models: vec!["gpt-*".to_owned()],
        sessions: Vec::new(),
    };
    let budgets = [budget("b", scope, vec![limit(Unit::Calls, "0", None, None)])];
    let mut ledger = Ledger::new(&budgets).expect("a good budget");
    let labels = [("team".to_owned(), "data".to_owned())].into();
    let inside = Subject { labels: &labels, ..who("researcher", None) };
    let mut refused = |who: &Subject<'_>| ledger.reserve(who, output(0), Timestamp(0)).is_err();
    assert!(refused(&inside));
    assert!(refused(&Subject { agent: "writer", ..inside }));
    assert!(refused(&Subject { model: Some("GPT-5"), ..inside }), "case does not lead past a budget");
    assert!(!refused(&Subject { agent: "writers", ..inside }));
    assert!(!refused(&Subject { tenant: "other", ..inside }));
    assert!(!refused(&Subject { model: None, ..inside }));
    assert!(!refused(&Subject { model: Some("claude"), ..inside }));
    assert!(!refused(&who("researcher", None)));
}

#[test]
fn a_budget_of_a_tenant_is_about_that_tenant_only() {
    let (metadata, spec) = budget("b", BudgetScope::default(), vec![limit(Unit::Calls, "0", None, None)]);
    let metadata = Metadata { tenant: Some("acme".to_owned()), ..metadata };
    let mut ledger = Ledger::new(&[(metadata, spec)]).expect("a good budget");
    assert!(ledger.reserve(&who("a", None), output(0), Timestamp(0)).is_err());
    let other = Subject { tenant: "other", ..who("a", None) };
    assert!(ledger.reserve(&other, output(0), Timestamp(0)).is_ok());
}

#[test]
fn a_bad_limit_is_named() {
    let bad = |limit: Limit| {
        let good = self::limit(Unit::Calls, "1", None, None);
        Ledger::new(&[budget("fleet", BudgetScope::default(), vec![good, limit])]).expect_err("a bad limit")
    };
    let money = bad(limit(Unit::Usd, "1.0000001", None, None));
    assert!(money.to_string().starts_with("budget `fleet`, limit 1: `1.0000001`"), "{money}");
    assert!(matches!(bad(limit(Unit::Calls, "1.5", None, None)).fault, LimitFault::Amount { .. }));
    let scope = BudgetScope { agents: vec!["[a-z]".to_owned()], ..BudgetScope::default() };
    let glob = Ledger::new(&[budget("b", scope, vec![limit(Unit::Calls, "1", None, None)])]);
    assert!(matches!(glob.expect_err("a bad glob").fault, LimitFault::Glob { .. }));
    assert!(matches!(bad(limit(Unit::Concurrency, "1", Some("1m"), None)).fault, LimitFault::Window));
}

#[test]
fn a_reload_keeps_the_sums_of_limits_that_stay_and_what_is_under_way() {
    let tokens = |amount: &str| limit(Unit::OutputTokens, amount, Some("1h"), Some(Per::Agent));
    let mut old = ledger(vec![limit(Unit::Calls, "9", None, None), tokens("100")]);
    let now = Timestamp(0);
    let spent = old.reserve(&who("a", None), output(30), now).expect("it fits");
    old.settle(spent, output(30), now);
    let under_way = old.reserve(&who("a", None), output(20), now).expect("it fits");
    let mut new = ledger(vec![tokens("60"), limit(Unit::Tokens, "100", None, None)]).with_accounts_of(&old);
    assert_eq!(new.room(&who("a", None), now).output, Some(10));
    assert_eq!(new.room(&who("a", None), now).tokens, Some(100));
    new.settle(under_way, output(5), now);
    assert_eq!(new.room(&who("a", None), now).output, Some(25));
    assert_eq!(new.room(&who("a", None), now).tokens, Some(100), "a new limit knows nothing of older calls");
}

#[test]
fn a_restart_builds_the_sums_from_the_record() {
    let limits =
        || vec![limit(Unit::OutputTokens, "100", Some("1h"), None), limit(Unit::Calls, "9", None, None)];
    let mut before = ledger(limits());
    for second in 0..5 {
        let now = Timestamp(second * 600 * SECOND);
        let held = before.reserve(&who("a", None), output(10), now).expect("it fits");
        before.settle(held, output(10), now);
    }
    let mut after = ledger(limits());
    for second in [3, 0, 4, 1, 2] {
        after.restore(&who("a", None), output(10), Timestamp(second * 600 * SECOND));
    }
    for minute in [40, 61, 75, 100, 121] {
        let now = Timestamp(minute * 60 * SECOND);
        assert_eq!(after.snapshot(now), before.snapshot(now), "minute {minute}");
    }
}

#[test]
fn a_million_sessions_do_not_fill_the_memory() {
    let mut ledger = ledger(vec![limit(Unit::Calls, "5", Some("1m"), Some(Per::Session))]);
    let mut crowded = 0;
    for n in 0..300_000_i64 {
        let session = format!("session-{n}");
        let now = Timestamp(n * 1_000); // 60,000 sessions in a window
        match ledger.reserve(&who("a", Some(&session)), output(0), now) {
            Ok(held) => ledger.settle(held, output(0), now),
            Err(refused) => crowded += u32::from(refused.crowded),
        }
        let accounts: usize = ledger.limits.iter().map(super::limit::Limit::accounts).sum();
        assert!(accounts <= Ledger::MOST_ACCOUNTS);
    }
    assert_eq!(crowded, 0);
    let now = Timestamp(300_000 * 1_000);
    for n in 0..Ledger::MOST_ACCOUNTS + 10 {
        let session = format!("burst-{n}");
        match ledger.reserve(&who("a", Some(&session)), output(0), now) {
            Ok(held) => ledger.settle(held, output(0), now),
            Err(refused) => crowded += u32::from(refused.crowded && refused.soon),
        }
    }
    assert!(crowded > 0);
    let later = now.plus(Duration::from_secs(120));
    assert!(ledger.reserve(&who("a", Some("new")), output(0), later).is_ok(), "idle accounts are forgotten");
}

#[derive(Debug, Clone)]
enum Step {
    Reserve { agent: u8, want: u64 },
    Settle { which: usize, share: u8 },
    Cancel { which: usize },
    Wait { seconds: i64 },
}

fn steps(backwards: bool) -> impl Strategy<Value = Vec<Step>> {
    let earliest: i64 = if backwards { -4_000 } else { 0 };
    let step = prop_oneof![
        6 => (0_u8..3, 0_u64..40).prop_map(|(agent, want)| Step::Reserve { agent, want }),
        4 => (any::<usize>(), any::<u8>()).prop_map(|(which, share)| Step::Settle { which, share }),
        1 => any::<usize>().prop_map(|which| Step::Cancel { which }),
        3 => prop_oneof![0_i64..120, earliest..8_000].prop_map(|seconds| Step::Wait { seconds }),
    ];
    proptest::collection::vec(step, 0..150)
}

fn window() -> impl Strategy<Value = Option<&'static str>> {
    prop_oneof![Just(None), Just(Some("1m")), Just(Some("61s")), Just(Some("1h")), Just(Some("day"))]
}

/// Carries the steps out; after each, hands over the time and every call that was settled: when, and for how much.
fn play(
    ledger: &mut Ledger,
    steps: &[Step],
    mut check: impl FnMut(
        &Ledger,
        Timestamp,
        &[(Timestamp, u64)],
    ) -> Result<(), proptest::test_runner::TestCaseError>,
) -> Result<(), proptest::test_runner::TestCaseError> {
    let mut now = at("2026-11-23T20:00:00Z");
    let mut open: Vec<(Reservation, u64)> = Vec::new();
    let mut settled = Vec::new();
    for step in steps {
        match *step {
            Step::Reserve { agent, want } => {
                let agent = format!("agent-{agent}");
                if let Ok(held) = ledger.reserve(&who(&agent, None), output(want), now) {
                    open.push((held, want));
                }
            }
            Step::Settle { which, share } if !open.is_empty() => {
                let (held, want) = open.swap_remove(which % open.len());
                let used = want * u64::from(share) / 255;
                ledger.settle(held, output(used), now);
                settled.push((now, used));
            }
            Step::Cancel { which } if !open.is_empty() => {
                let which = which % open.len();
                ledger.cancel(open.swap_remove(which).0);
            }
            Step::Settle { .. } | Step::Cancel { .. } => {}
            Step::Wait { seconds } => now = Timestamp(now.0 + seconds * SECOND),
        }
        check(ledger, now, &settled)?;
    }
    let held: u64 = open.iter().map(|(_, want)| want).sum();
    let all: u64 = ledger.snapshot(now).iter().map(|view| view.held).sum();
    prop_assert_eq!(all, held, "what is open is held, no more and no less");
    Ok(())
}

proptest! {
    #[test]
    fn settled_and_held_never_exceed_the_limit(steps in steps(true), window in window(), per in any::<bool>()) {
        let per = per.then_some(Per::Agent);
        let mut ledger = ledger(vec![limit(Unit::OutputTokens, "100", window, per)]);
        play(&mut ledger, &steps, |ledger, now, _| {
            for view in ledger.snapshot(now) {
                prop_assert!(view.spent + view.held <= view.limit, "{:?}", view);
            }
            Ok(())
        })?;
    }

    #[test]
    fn no_window_of_the_length_holds_more_than_the_limit(steps in steps(false), length in prop_oneof![Just(60), Just(61), Just(3_600)]) {
        let span = format!("{length}s");
        let mut ledger = ledger(vec![limit(Unit::OutputTokens, "100", Some(&span), None)]);
        play(&mut ledger, &steps, |ledger, now, settled| {
            let inside = |at: Timestamp| now.since(at) < Duration::from_secs(length);
            let exact: u64 = settled.iter().filter(|(at, _)| inside(*at)).map(|(_, used)| used).sum();
            let (spent, held) = sums(ledger, now);
            prop_assert!(exact <= spent, "{} in the window, {} counted", exact, spent);
            prop_assert!(exact + held <= 100);
            let slack = Duration::from_secs(length + length.div_ceil(60) + 1);
            let most: u64 = settled.iter().filter(|(at, _)| now.since(*at) < slack).map(|(_, used)| used).sum();
            prop_assert!(spent <= most, "{} counted, {} in the window and a part more", spent, most);
            Ok(())
        })?;
    }

    #[test]
    fn a_clock_that_was_ahead_holds_nothing_for_longer_than_a_window(ahead in 1_i64..1_000_000, used in 1_u64..=100) {
        let mut ledger = ledger(vec![limit(Unit::OutputTokens, "100", Some("1h"), None)]);
        let now = at("2026-11-23T20:00:00Z");
        let wrong = Timestamp(now.0 + ahead * SECOND);
        let held = ledger.reserve(&who("a", None), output(used), wrong).expect("it fits");
        ledger.settle(held, output(used), wrong);
        let after = ledger.reserve(&who("a", None), output(0), now).expect("it fits");
        ledger.settle(after, output(0), now);
        prop_assert_eq!(sums(&ledger, now).0, used);
        let past = now.plus(Duration::from_secs(3_700));
        prop_assert_eq!(sums(&ledger, past).0, 0);
    }
}
