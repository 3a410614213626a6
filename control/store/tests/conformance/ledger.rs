//! Promises about the ledger.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rand::Rng;
use sideguard_runtime::tasks;
use sideguard_store::key::Key;
use sideguard_store::ledger::{Balance, Hold, LeaseId, Line, MOST, Standing, Turn};
use sideguard_store::{Store, StoreError};

use crate::stores::{after, key};

pub(crate) fn lease(name: &str) -> LeaseId {
    LeaseId(key("acme", &format!("leases/{name}")))
}

fn account(name: &str) -> Key {
    key("acme", &format!("accounts/{name}"))
}

fn line(name: &str, limit: u64, want: u64, least: u64) -> Line {
    Line { account: account(name), limit, want, least }
}

async fn hold(store: &Store, name: &str, lines: &[Line]) -> Hold {
    store.ledger.hold(&lease(name), lines, after(60)).await.expect("an answer")
}

fn held(granted: &[u64]) -> Hold {
    Hold::Held { granted: granted.to_vec() }
}

async fn settle(store: &Store, name: &str, number: u64, spent: &[u64], keep: &[u64]) -> Standing {
    let turn = Turn { number, spent: spent.to_vec(), keep: keep.to_vec(), expires: after(120) };
    store.ledger.settle(&lease(name), &turn).await.expect("an answer")
}

async fn balance(store: &Store, name: &str) -> (u64, u64) {
    let Balance { spent, held } = store.ledger.balance(&[account(name)]).await.expect("an answer")[0];
    (spent, held)
}

pub(crate) async fn a_hold_gets_between_least_and_want_on_every_line_or_nothing(one: Store, other: Store) {
    let lines = [line("agent", 100, 60, 10), line("team", 1000, 60, 60), line("calls", 5, 1, 0)];
    assert_eq!(hold(&one, "a", &lines).await, held(&[60, 60, 1]));
    assert_eq!(hold(&other, "b", &[line("agent", 100, 60, 10)]).await, held(&[40]));
    let short = hold(&one, "c", &[line("team", 1000, 10, 1), line("agent", 100, 60, 1)]).await;
    assert_eq!(short, Hold::Short { account: account("agent"), free: 0 });
    assert_eq!(balance(&other, "team").await, (0, 60), "a short hold leaves nothing held");
    assert_eq!(hold(&other, "c", &[line("agent", 100, 60, 0)]).await, held(&[0]));
    // A limit that was lowered below what is held leaves nothing, and does not go below nothing.
    let short = hold(&one, "d", &[line("agent", 50, 1, 1)]).await;
    assert_eq!(short, Hold::Short { account: account("agent"), free: 0 });
    let accounts = [account("calls"), account("none"), account("agent")];
    let balances = other.ledger.balance(&accounts).await.expect("an answer");
    let expected = [(0, 1), (0, 0), (0, 100)].map(|(spent, held)| Balance { spent, held });
    assert_eq!(balances, expected);
    for lines in [vec![], vec![line("x", 9, 1, 2)], vec![line("x", 9, 1, 1), line("x", 9, 1, 1)]] {
        let answer = one.ledger.hold(&lease("e"), &lines, after(60)).await;
        assert!(matches!(answer, Err(StoreError::Invalid(_))), "{answer:?}");
    }
}

pub(crate) async fn a_hold_that_is_repeated_holds_once(one: Store, other: Store) {
    let lines = [line("agent", 100, 30, 10)];
    assert_eq!(hold(&one, "a", &lines).await, held(&[30]));
    assert_eq!(hold(&other, "a", &lines).await, held(&[30]));
    assert_eq!(balance(&one, "agent").await, (0, 30));
    let answer = other.ledger.hold(&lease("a"), &[line("team", 100, 30, 10)], after(60)).await;
    assert!(matches!(answer, Err(StoreError::Invalid(_))), "{answer:?}");
    assert_eq!(balance(&one, "team").await, (0, 0));
}

pub(crate) async fn a_turn_counts_once(one: Store, other: Store) {
    hold(&one, "a", &[line("agent", 100, 50, 1), line("team", 100, 50, 1)]).await;
    let first = settle(&one, "a", 1, &[10, 20], &[30, 30]).await;
    assert_eq!(first, Standing::Open { turn: 1, held: vec![30, 30] });
    assert_eq!((balance(&one, "agent").await, balance(&one, "team").await), ((10, 30), (20, 30)));
    for number in [1, 0] {
        let again = settle(&other, "a", number, &[5, 5], &[0, 0]).await;
        assert_eq!(again, Standing::Open { turn: 1, held: vec![30, 30] });
    }
    assert_eq!((balance(&one, "agent").await, balance(&one, "team").await), ((10, 30), (20, 30)));
    let third = settle(&other, "a", 3, &[30, 0], &[0, 30]).await;
    assert_eq!(third, Standing::Open { turn: 3, held: vec![0, 30] });
    assert_eq!(settle(&one, "a", 2, &[0, 30], &[0, 0]).await, third);
    assert_eq!((balance(&one, "agent").await, balance(&one, "team").await), ((40, 0), (20, 30)));
    assert_eq!(settle(&one, "unknown", 1, &[1], &[1]).await, Standing::Gone);
}

pub(crate) async fn a_lease_cannot_spend_more_than_it_holds(one: Store, other: Store) {
    hold(&one, "a", &[line("agent", 100, 50, 1), line("team", 100, 50, 1)]).await;
    for (spent, keep) in [([0, 51], [0, 0]), ([0, 20], [50, 31]), ([0, 0], [0, 60])] {
        let turn = Turn { number: 1, spent: spent.to_vec(), keep: keep.to_vec(), expires: after(120) };
        let answer = other.ledger.settle(&lease("a"), &turn).await;
        assert!(
            matches!(&answer, Err(StoreError::Beyond { account: line, held: 50 }) if *line == account("team")),
            "{answer:?}"
        );
    }
    let answer = other.ledger.close(&lease("a"), &[50, 51]).await;
    assert!(matches!(answer, Err(StoreError::Beyond { held: 50, .. })), "{answer:?}");
    let answer = other.ledger.close(&lease("a"), &[50]).await;
    assert!(matches!(answer, Err(StoreError::Invalid(_))), "{answer:?}");
    assert_eq!((balance(&one, "agent").await, balance(&one, "team").await), ((0, 50), (0, 50)));
    let standing = settle(&one, "a", 1, &[50, 0], &[0, 50]).await;
    assert_eq!(standing, Standing::Open { turn: 1, held: vec![0, 50] });
}

pub(crate) async fn a_closed_lease_gives_back_what_is_left(one: Store, other: Store) {
    let lines = [line("agent", 100, 50, 1)];
    hold(&one, "a", &lines).await;
    settle(&one, "a", 1, &[5], &[40]).await;
    for store in [&one, &other] {
        store.ledger.close(&lease("a"), &[7]).await.expect("a close");
        assert_eq!(balance(store, "agent").await, (12, 0));
    }
    assert_eq!(settle(&other, "a", 2, &[1], &[1]).await, Standing::Gone);
    assert_eq!(other.ledger.expire(after(999), 10).await.expect("an answer"), []);
    assert_eq!(hold(&other, "b", &lines).await, held(&[50]));
}

pub(crate) async fn a_lease_whose_time_is_over_is_charged_in_full(one: Store, other: Store) {
    for (name, expires) in [("a", 10), ("b", 20), ("c", 30), ("d", 10)] {
        let held = one.ledger.hold(&lease(name), &[line("agent", 100, 10, 10)], after(expires)).await;
        held.expect("a hold");
    }
    // A settlement moves the end of a lease.
    settle(&one, "d", 1, &[3], &[5]).await;
    assert_eq!(other.ledger.expire(after(9), 10).await.expect("an answer"), []);
    assert_eq!(other.ledger.expire(after(10), 10).await.expect("an answer"), [lease("a")]);
    assert_eq!(balance(&one, "agent").await, (13, 25));
    assert_eq!(settle(&one, "a", 1, &[0], &[0]).await, Standing::Gone);
    assert_eq!(other.ledger.expire(after(500), 2).await.expect("an answer"), [lease("b"), lease("c")]);
    assert_eq!(one.ledger.expire(after(500), 2).await.expect("an answer"), [lease("d")]);
    assert_eq!(balance(&one, "agent").await, (38, 0));
}

pub(crate) async fn an_account_is_forgotten_when_nothing_is_held(one: Store, other: Store) {
    hold(&one, "a", &[line("agent", 100, 50, 1)]).await;
    assert!(!other.ledger.forget(&account("agent")).await.expect("an answer"));
    assert_eq!(balance(&one, "agent").await, (0, 50));
    settle(&one, "a", 1, &[50], &[0]).await;
    assert!(other.ledger.forget(&account("agent")).await.expect("an answer"));
    assert!(other.ledger.forget(&account("agent")).await.expect("an answer"), "it is gone");
    assert_eq!(balance(&one, "agent").await, (0, 0));
    one.ledger.close(&lease("a"), &[0]).await.expect("a close of a lease on a forgotten account");
    assert_eq!(balance(&one, "agent").await, (0, 0));
}

pub(crate) async fn amounts_are_exact_up_to_the_largest(one: Store, other: Store) {
    let lines = [line("agent", u64::MAX, MOST - 2, MOST - 2)];
    assert_eq!(hold(&one, "a", &lines).await, held(&[MOST - 2]));
    assert_eq!(hold(&one, "b", &[line("agent", u64::MAX, u64::MAX, 1)]).await, held(&[2]));
    settle(&other, "a", 1, &[MOST - 5], &[1]).await;
    settle(&other, "b", 1, &[1], &[1]).await;
    assert_eq!(balance(&one, "agent").await, (MOST - 4, 2));
    let short = hold(&other, "c", &[line("agent", u64::MAX, u64::MAX, 3)]).await;
    assert_eq!(short, Hold::Short { account: account("agent"), free: 2 });
    let short = hold(&other, "c", &[line("other", u64::MAX, u64::MAX, u64::MAX)]).await;
    assert_eq!(short, Hold::Short { account: account("other"), free: MOST });
}

pub(crate) async fn concurrent_leases_never_exceed_a_limit(one: Store, other: Store) {
    const WORKERS: usize = 10;
    const LIMITS: [(&str, u64); 3] = [("agent", 300), ("team", 500), ("fleet", 700)];
    let over = Arc::new(AtomicBool::new(false));
    let (watching, stop) = (other.clone(), over.clone());
    let watcher = tasks::spawn_plain(async move {
        let accounts = LIMITS.map(|(name, _)| account(name));
        let mut looks = 0_u32;
        while !stop.load(Ordering::Acquire) || looks == 0 {
            let balances = watching.ledger.balance(&accounts).await.expect("an answer");
            for ((name, limit), at) in LIMITS.iter().zip(balances) {
                assert!(at.spent + at.held <= *limit, "{name}: {at:?} exceeds {limit}");
            }
            looks += 1;
        }
    });
    let workers = (0..WORKERS).map(|worker| {
        let store = if worker % 2 == 0 { one.clone() } else { other.clone() };
        tasks::spawn_plain(async move { work(&store, worker, &LIMITS).await })
    });
    let mut spent = [0; 3];
    for worker in workers.collect::<Vec<_>>() {
        for (sum, amount) in spent.iter_mut().zip(worker.await.expect("a worker")) {
            *sum += amount;
        }
    }
    over.store(true, Ordering::Release);
    watcher.await.expect("the limit holds at every moment");
    for ((name, limit), spent) in LIMITS.into_iter().zip(spent) {
        assert_eq!(balance(&one, name).await, (spent, 0), "what workers spent is what was charged");
        assert!(spent <= limit);
    }
    assert!(spent[0] > 280, "the workers used the budget up: {spent:?}");
}

/// Holds, settles and closes leases at random; tells what it spent of each account.
async fn work(store: &Store, worker: usize, limits: &[(&str, u64)]) -> [u64; 3] {
    let mut total = [0; 3];
    for round in 0..30 {
        let lines: Vec<Line> = limits
            .iter()
            .map(|(name, limit)| {
                let want = rand::rng().random_range(1..8);
                line(name, *limit, want, rand::rng().random_range(0..=1))
            })
            .collect();
        let name = format!("{worker}-{round}");
        let Hold::Held { mut granted } = hold(store, &name, &lines).await else { continue };
        for number in 1..3 {
            let spent: Vec<u64> = granted.iter().map(|held| rand::rng().random_range(0..=*held)).collect();
            let keep: Vec<u64> = granted
                .iter()
                .zip(&spent)
                .map(|(held, spent)| rand::rng().random_range(0..=held - spent))
                .collect();
            total.iter_mut().zip(&spent).for_each(|(sum, spent)| *sum += spent);
            if number == 2 {
                store.ledger.close(&lease(&name), &spent).await.expect("a close");
            } else {
                let standing = settle(store, &name, number, &spent, &keep).await;
                assert_eq!(standing, Standing::Open { turn: number, held: keep.clone() });
                granted = keep;
            }
        }
    }
    total
}
