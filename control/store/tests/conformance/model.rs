//! The ledger against a plain model of it, with operations at random.

use std::cell::Cell;
use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, TestCaseError, prop_oneof};
use proptest::test_runner::{Config, TestRunner};
use sideguard_store::key::Key;
use sideguard_store::ledger::{Balance, Hold, LeaseId, Line, Standing, Turn};
use sideguard_store::{Store, StoreError};
use sideguard_types::time::Timestamp;
use tokio::runtime::Handle;

use crate::stores::key;

const ACCOUNTS: usize = 3;
const LIMIT: u64 = 50;

#[derive(Debug, Clone)]
enum Operation {
    Hold { lease: u8, lines: Vec<(usize, u64, u64)>, expires: i64 },
    Settle { lease: u8, number: u64, shares: Vec<(u64, u64)>, expires: i64 },
    Close { lease: u8, shares: Vec<u64> },
    Expire { now: i64, limit: usize },
    Forget { account: usize },
}

fn operation() -> impl Strategy<Value = Operation> {
    let orders =
        prop_oneof![Just(vec![0]), Just(vec![1]), Just(vec![0, 1]), Just(vec![2, 0]), Just(vec![1, 2, 0])];
    let lines = (orders, vec((0_u64..30, 0_u64..20), ACCOUNTS)).prop_map(|(order, amounts)| {
        order.into_iter().zip(amounts).map(|(at, (want, least))| (at, want, least.min(want))).collect()
    });
    prop_oneof![
        4 => (0_u8..5, lines, 0_i64..40)
            .prop_map(|(lease, lines, expires)| Operation::Hold { lease, lines, expires }),
        4 => (0_u8..5, 0_u64..6, vec((0_u64..16, 0_u64..16), ACCOUNTS), 0_i64..60)
            .prop_map(|(lease, number, shares, expires)| Operation::Settle { lease, number, shares, expires }),
        1 => (0_u8..5, vec(0_u64..25, ACCOUNTS)).prop_map(|(lease, shares)| Operation::Close { lease, shares }),
        1 => (0_i64..60, 1_usize..3).prop_map(|(now, limit)| Operation::Expire { now, limit }),
        1 => (0..ACCOUNTS).prop_map(|account| Operation::Forget { account }),
    ]
}

#[derive(Debug, Clone)]
struct Lease {
    turn: u64,
    expires: i64,
    lines: Vec<(usize, u64)>,
}

#[derive(Debug, Default)]
struct Model {
    spent: [u64; ACCOUNTS],
    leases: BTreeMap<u8, Lease>,
}

impl Model {
    fn held(&self, account: usize) -> u64 {
        let lines = self.leases.values().flat_map(|lease| &lease.lines);
        lines.filter(|(at, _)| *at == account).map(|(_, held)| held).sum()
    }

    /// The answer to an operation, written out; the lease's lines may be fewer than the shares that were drawn.
    fn answer(&mut self, operation: &Operation) -> String {
        match operation {
            Operation::Hold { lease, lines, expires } => {
                if let Some(known) = self.leases.get(lease) {
                    let same = known.lines.iter().map(|(at, _)| at).eq(lines.iter().map(|(at, _, _)| at));
                    let granted: Vec<u64> = known.lines.iter().map(|(_, held)| *held).collect();
                    return if same { format!("held {granted:?}") } else { "invalid".to_owned() };
                }
                let mut granted = Vec::new();
                for (at, want, least) in lines {
                    let free = LIMIT - self.spent[*at] - self.held(*at);
                    if free < *least {
                        return format!("short {at} {free}");
                    }
                    granted.push((*at, free.min(*want)));
                }
                let amounts: Vec<u64> = granted.iter().map(|(_, held)| *held).collect();
                self.leases.insert(*lease, Lease { turn: 0, expires: *expires, lines: granted });
                format!("held {amounts:?}")
            }
            Operation::Settle { lease, number, shares, expires } => {
                let Some(known) = self.leases.get_mut(lease) else { return "gone".to_owned() };
                if *number > known.turn {
                    for ((at, held), (spent, keep)) in known.lines.iter().zip(shares) {
                        if spent + keep > *held {
                            return format!("beyond {at} {held}");
                        }
                    }
                    for ((at, held), (spent, keep)) in known.lines.iter_mut().zip(shares) {
                        self.spent[*at] += spent;
                        *held = *keep;
                    }
                    (known.turn, known.expires) = (*number, *expires);
                }
                let held: Vec<u64> = known.lines.iter().map(|(_, held)| *held).collect();
                format!("open {} {held:?}", known.turn)
            }
            Operation::Close { lease, shares } => {
                let Some(known) = self.leases.get(lease) else { return "closed".to_owned() };
                for ((at, held), spent) in known.lines.iter().zip(shares) {
                    if spent > held {
                        return format!("beyond {at} {held}");
                    }
                }
                for ((at, _), spent) in known.lines.iter().zip(shares) {
                    self.spent[*at] += spent;
                }
                self.leases.remove(lease);
                "closed".to_owned()
            }
            Operation::Expire { now, limit } => {
                let mut over: Vec<(i64, u8)> =
                    self.leases.iter().map(|(name, lease)| (lease.expires, *name)).collect();
                over.retain(|(expires, _)| expires <= now);
                over.sort_unstable();
                over.truncate(*limit);
                for (_, name) in &over {
                    for (at, held) in self.leases.remove(name).expect("it is known").lines {
                        self.spent[at] += held;
                    }
                }
                format!("over {:?}", over.iter().map(|(_, name)| *name).collect::<Vec<_>>())
            }
            Operation::Forget { account } => {
                let free = self.held(*account) == 0;
                if free {
                    self.spent[*account] = 0;
                }
                format!("forgotten {free}")
            }
        }
    }
}

/// The names of one run in a store that others share.
struct Names(String);

impl Names {
    fn account(&self, at: usize) -> Key {
        key("acme", &format!("{}/accounts/{at}", self.0))
    }

    fn lease(&self, lease: u8) -> LeaseId {
        LeaseId(key("acme", &format!("{}/leases/{lease}", self.0)))
    }

    fn number(key: &Key) -> String {
        key.path().rsplit('/').next().unwrap_or_default().to_owned()
    }

    /// What the store answers, written like the model's answer. `lines` is how many lines the lease has.
    async fn answer(&self, store: &Store, operation: &Operation, lines: usize) -> String {
        let written = match operation {
            Operation::Hold { lease, lines, expires } => {
                let lines: Vec<Line> = lines
                    .iter()
                    .map(|(at, want, least)| Line {
                        account: self.account(*at),
                        limit: LIMIT,
                        want: *want,
                        least: *least,
                    })
                    .collect();
                store.ledger.hold(&self.lease(*lease), &lines, Timestamp(*expires)).await.map(|answer| {
                    match answer {
                        Hold::Held { granted } => format!("held {granted:?}"),
                        Hold::Short { account, free } => format!("short {} {free}", Self::number(&account)),
                    }
                })
            }
            Operation::Settle { lease, number, shares, expires } => {
                let (spent, keep) = shares.iter().take(lines).copied().unzip();
                let turn = Turn { number: *number, spent, keep, expires: Timestamp(*expires) };
                store.ledger.settle(&self.lease(*lease), &turn).await.map(|standing| match standing {
                    Standing::Open { turn, held } => format!("open {turn} {held:?}"),
                    Standing::Gone => "gone".to_owned(),
                })
            }
            Operation::Close { lease, shares } => {
                let spent: Vec<u64> = shares.iter().take(lines).copied().collect();
                store.ledger.close(&self.lease(*lease), &spent).await.map(|()| "closed".to_owned())
            }
            Operation::Expire { now, limit } => {
                store.ledger.expire(Timestamp(*now), *limit).await.map(|leases| {
                    let names = leases.iter().map(|lease| Self::number(&lease.0)).collect::<Vec<_>>();
                    format!("over [{}]", names.join(", "))
                })
            }
            Operation::Forget { account } => {
                store.ledger.forget(&self.account(*account)).await.map(|free| format!("forgotten {free}"))
            }
        };
        written.unwrap_or_else(|error| match error {
            StoreError::Beyond { account, held } => format!("beyond {} {held}", Self::number(&account)),
            StoreError::Invalid(_) => "invalid".to_owned(),
            error => panic!("{error:?}"),
        })
    }
}

pub(crate) async fn the_ledger_does_what_a_plain_sum_does(one: Store, other: Store) {
    let config = Config { cases: 60, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let number = Cell::new(0_u32);
    tokio::task::block_in_place(|| {
        runner
            .run(&vec(operation(), 1..40), |operations| {
                number.set(number.get() + 1);
                let names = Names(format!("run-{}", number.get()));
                Handle::current().block_on(compare(&one, &other, &names, &operations))
            })
            .unwrap_or_else(|error| panic!("{error}"));
    });
}

async fn compare(
    one: &Store,
    other: &Store,
    names: &Names,
    operations: &[Operation],
) -> Result<(), TestCaseError> {
    let mut model = Model::default();
    for (step, operation) in operations.iter().enumerate() {
        let lines = match operation {
            Operation::Settle { lease, .. } | Operation::Close { lease, .. } => {
                model.leases.get(lease).map_or(1, |lease| lease.lines.len())
            }
            _ => 0,
        };
        let store = if step % 2 == 0 { one } else { other };
        let (expected, told) = (model.answer(operation), names.answer(store, operation, lines).await);
        if expected != told {
            return Err(TestCaseError::fail(format!("{operation:?}: `{told}`, not `{expected}`")));
        }
        let accounts: Vec<Key> = (0..ACCOUNTS).map(|at| names.account(at)).collect();
        let balances = other.ledger.balance(&accounts).await.expect("an answer");
        for (at, balance) in balances.into_iter().enumerate() {
            let expected = Balance { spent: model.spent[at], held: model.held(at) };
            if balance != expected || balance.spent + balance.held > LIMIT {
                return Err(TestCaseError::fail(format!("{operation:?}: {balance:?}, not {expected:?}")));
            }
        }
    }
    // The next run starts without leases that could come due in it.
    while !one.ledger.expire(Timestamp(i64::MAX), 100).await.expect("an answer").is_empty() {}
    Ok(())
}
