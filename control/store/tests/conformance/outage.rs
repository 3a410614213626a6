//! What the shared store promises when its servers are killed, halted and started again.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, future};
use sideguard_runtime::clock::Stopwatch;
use sideguard_runtime::tasks;
use sideguard_store::documents::{Change, Edit, Expect};
use sideguard_store::key::{EveryTenant, Key};
use sideguard_store::ledger::{Balance, Hold, LeaseId, Line, Standing, Turn};
use sideguard_store::{Store, StoreError};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::stores::{NOW, after, key};
use harness::servers::{SERVERS, Server, Servers};

const WRITERS: u64 = 6;
const OUTAGES: u64 = 4;
/// How many rounds are acknowledged between two kills.
const BETWEEN: u64 = 40;

async fn open(servers: &Servers) -> Store {
    let (redis, nats) = servers.urls();
    Store::open_shared(&redis, &nats, "outage").await.expect("a store")
}

/// Repeats `call` while the server is away.
async fn until_answered<T, F: Future<Output = Result<T, StoreError>>>(
    call: impl Fn() -> F,
) -> Result<T, StoreError> {
    loop {
        match call().await {
            // A pause between attempts, as a caller would make; nothing depends on its length.
            Err(StoreError::Away { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
            answer => return answer,
        }
    }
}

/// What comes of `answer`, which a client that recovers by itself does not keep one waiting for.
async fn soon<T>(answer: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), answer).await.expect("the client recovers by itself")
}

/// Counts rounds that were acknowledged, and says when to stop.
#[derive(Clone)]
struct Progress {
    done: watch::Sender<u64>,
    stop: watch::Sender<bool>,
}

impl Progress {
    fn new() -> Self {
        Self { done: watch::Sender::new(0), stop: watch::Sender::new(false) }
    }

    /// Waits until `rounds` more rounds are acknowledged.
    async fn more(&self, rounds: u64, writers: &mut [JoinHandle<u64>]) {
        let mut done = self.done.subscribe();
        let goal = *done.borrow() + rounds;
        tokio::select! {
            acknowledged = soon(done.wait_for(|done| *done >= goal)) => {
                acknowledged.expect("the count goes on");
            }
            (ended, ..) = future::select_all(writers) => panic!("a writer ended too soon: {ended:?}"),
        }
    }
}

/// Kills `server` again and again under the load of `writers`, and gives the rounds that each of them has done.
async fn outages(
    server: &Server,
    progress: &Progress,
    mut writers: Vec<JoinHandle<u64>>,
) -> BTreeMap<u64, u64> {
    for _ in 0..OUTAGES {
        progress.more(BETWEEN, &mut writers).await;
        tokio::task::block_in_place(|| {
            server.kill();
            server.restart();
        });
    }
    progress.more(BETWEEN, &mut writers).await;
    progress.stop.send_replace(true);
    let mut rounds = BTreeMap::new();
    for (writer, task) in (0..).zip(writers) {
        rounds.insert(writer, task.await.expect("a writer"));
    }
    rounds
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_redis_loses_nothing_it_acknowledged_and_the_client_recovers() {
    let servers = tokio::task::block_in_place(Servers::start);
    let store = open(&servers).await;
    let progress = Progress::new();
    let writers =
        (0..WRITERS).map(|writer| tasks::spawn_plain(write(store.clone(), writer, progress.clone())));
    let writers = writers.collect();
    let rounds = outages(&servers.redis, &progress, writers).await;
    let fresh = open(&servers).await;
    for (writer, rounds) in rounds {
        assert!(rounds > 0);
        for half in ["a", "b"] {
            let found = fresh.documents.get(NOW, &document(writer, half)).await.expect("an answer");
            assert_eq!(found.expect("a document").value, Bytes::from(rounds.to_string()));
        }
        let balance = fresh.ledger.balance(&[account(writer)]).await.expect("an answer");
        assert_eq!(balance, [Balance { spent: rounds * 3, held: 0 }], "every turn was charged once");
    }
    let total: u64 = fresh.ledger.balance(&[key("acme", "total")]).await.expect("an answer")[0].spent;
    assert_eq!(total, *progress.done.borrow() * 3);
}

fn document(writer: u64, half: &str) -> Key {
    key("acme", &format!("{writer}/{half}"))
}

fn account(writer: u64) -> Key {
    key("acme", &format!("account/{writer}"))
}

async fn write(store: Store, writer: u64, progress: Progress) -> u64 {
    let mut round = 0;
    let mut revision = None;
    while !*progress.stop.borrow() {
        round += 1;
        let value = Bytes::from(round.to_string());
        let expect = revision.map_or(Expect::Absent, Expect::Revision);
        let edits = ["a", "b"].map(|half| Edit::put(document(writer, half), value.clone(), expect));
        let put = until_answered(|| store.documents.put_all(NOW, edits.to_vec())).await;
        revision = match put {
            Ok(revision) => Some(revision),
            // An earlier attempt was done though its answer was lost: nobody else writes this.
            Err(StoreError::Conflict { present, .. }) => {
                let found =
                    until_answered(|| store.documents.get(NOW, &edits[1].key)).await.expect("an answer");
                let found = found.expect("a document");
                assert_eq!((Some(found.revision), found.value), (present, value));
                present
            }
            Err(error) => panic!("{error:?}"),
        };
        let lease = LeaseId(key("acme", &format!("lease/{writer}/{round}")));
        let line = |account| Line { account, limit: u64::MAX, want: 5, least: 5 };
        let lines = [line(account(writer)), line(key("acme", "total"))];
        let held = until_answered(|| store.ledger.hold(&lease, &lines, after(60))).await.expect("a hold");
        assert_eq!(held, Hold::Held { granted: vec![5, 5] });
        for number in 1..4 {
            let keep = vec![5 - number; 2];
            let turn = Turn { number, spent: vec![1, 1], keep: keep.clone(), expires: after(60) };
            let standing = until_answered(|| store.ledger.settle(&lease, &turn)).await.expect("a settlement");
            assert_eq!(standing, Standing::Open { turn: number, held: keep });
        }
        until_answered(|| store.ledger.close(&lease, &[0, 0])).await.expect("a close");
        progress.done.send_modify(|done| *done += 1);
    }
    round
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_nats_loses_nothing_it_acknowledged_and_the_client_recovers() {
    let servers = tokio::task::block_in_place(Servers::start);
    let store = open(&servers).await;
    let progress = Progress::new();
    let writers =
        (0..WRITERS).map(|writer| tasks::spawn_plain(append(store.clone(), writer, progress.clone())));
    let writers = writers.collect();
    let mut notes = store.notices.subscribe("policies").await.expect("a subscription");
    let rounds = outages(&servers.nats, &progress, writers).await;
    let fresh = open(&servers).await;
    for (writer, rounds) in rounds {
        assert!(rounds > 0);
        let (mut found, journal) = (0, key("acme", &format!("journal/{writer}")));
        assert_eq!(fresh.journal.end(&journal).await.expect("an end"), rounds);
        while found < rounds {
            for (position, entry) in fresh.journal.read(&journal, found, 100).await.expect("a read") {
                assert_eq!((position, entry), (found, Bytes::from(found.to_string())));
                found += 1;
            }
        }
    }
    // The subscription is still there after all this.
    fresh.notices.publish("policies", Bytes::from("changed")).await.expect("a publish");
    assert_eq!(soon(notes.next()).await, Some(Bytes::from("changed")));
}

async fn append(store: Store, writer: u64, progress: Progress) -> u64 {
    let journal = key("acme", &format!("journal/{writer}"));
    let mut round = 0;
    while !*progress.stop.borrow() {
        let entry = vec![Bytes::from(round.to_string())];
        let next = until_answered(|| store.journal.append(&journal, round, entry.clone())).await;
        round += 1;
        assert_eq!(next.expect("an append"), round);
        progress.done.send_modify(|done| *done += 1);
    }
    round
}

/// Whether `call` says within two seconds that the server is away.
async fn is_away<T: std::fmt::Debug>(call: impl Future<Output = Result<T, StoreError>>) -> &'static str {
    let watch = Stopwatch::start();
    let answer = call.await;
    let took = watch.elapsed();
    let Err(StoreError::Away { server, .. }) = answer else { panic!("{answer:?}") };
    assert!(took < Duration::from_secs(2), "it took {took:?}");
    server
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_is_said_to_be_within_two_seconds() {
    let servers = tokio::task::block_in_place(Servers::start);
    let store = open(&servers).await;
    let key = key("acme", "a");
    for halt in [false, true] {
        for (server, name) in [(&servers.redis, "redis"), (&servers.nats, "nats")] {
            if halt {
                server.signal("STOP");
            } else {
                server.kill();
            }
            assert_eq!(is_away(store.health()).await, name);
            if name == "redis" {
                is_away(store.documents.get(NOW, &key)).await;
                is_away(store.documents.put(NOW, &key, Bytes::new(), Expect::Any, None)).await;
                is_away(store.documents.list(NOW, &EveryTenant.into(), None, 10)).await;
                is_away(store.ledger.balance(std::slice::from_ref(&key))).await;
                store.journal.end(&key).await.expect("nats is there");
            } else {
                is_away(store.journal.append(&key, 0, vec![Bytes::from("a")])).await;
                is_away(store.journal.read(&key, 0, 10)).await;
                is_away(store.journal.streams(&EveryTenant.into(), None, 10)).await;
                store.documents.get(NOW, &key).await.expect("redis is there");
            }
            let (redis, nats) = servers.urls();
            is_away(Store::open_shared(&redis, &nats, "outage")).await;
            if halt {
                server.signal("CONT");
            } else {
                tokio::task::block_in_place(|| server.restart());
            }
            soon(until_answered(|| store.health())).await.expect("it recovers");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_is_told_to_resync_after_a_reconnect() {
    let servers = tokio::task::block_in_place(Servers::start);
    let store = open(&servers).await;
    let mut changes = store.documents.watch(EveryTenant.into());
    for round in 0..2 {
        tokio::task::block_in_place(|| {
            servers.redis.kill();
            servers.redis.restart();
        });
        assert_eq!(soon(changes.next()).await, Some(Change::Resync));
        let key = key("acme", &format!("a{round}"));
        let put = until_answered(|| store.documents.put(NOW, &key, Bytes::new(), Expect::Any, None)).await;
        let revision = put.expect("a put");
        assert_eq!(soon(changes.next()).await, Some(Change::Changed { key, revision }));
    }
    store.close().await;
    assert_eq!(soon(changes.next()).await, None, "a watch ends with its store");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_url_or_namespace_is_no_outage_and_a_password_is_not_told() {
    let (redis, nats) = tokio::task::block_in_place(|| SERVERS.urls());
    for (redis, nats, namespace) in [
        ("http://user:hush@host", nats.as_str(), "bad"),
        (&redis, "nats://user:hush@host:port", "bad"),
        (&redis, &nats, ""),
        (&redis, &nats, "a.b"),
        (&redis, &nats, "a>"),
    ] {
        let error = Store::open_shared(redis, nats, namespace).await.expect_err("a refusal");
        assert!(matches!(error, StoreError::Invalid(_)), "{error:?}");
        assert!(!format!("{error:?}").contains("hush"));
    }
    let urls = format!("nats://127.0.0.1:1,{nats}");
    let store = Store::open_shared(&redis, &urls, "second").await.expect("the second server is there");
    store.health().await.expect("a healthy store");
}
