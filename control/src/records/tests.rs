//! The record taken in and found again, over the embedded store, with logs as sidecars write them.

use std::path::Path;

use ed25519_dalek::SigningKey;
use proptest::prelude::{Strategy, prop_oneof, proptest};
use proptest::test_runner::TestCaseError;
use sideguard_record::read::raw;
use sideguard_record::{Log, Settings};
use sideguard_store::Store;
use sideguard_types::audit::{Phase, Record};
use sideguard_types::control::records::{Entry, Position, Trouble};
use sideguard_types::resource::Sync;
use sideguard_types::time::Timestamp;
use sideguard_types::verdict::Decision;
use tempfile::TempDir;

use super::query::{Filter, query};
use super::{Head, Records, Sent, follow};
use crate::error::Failure;
use crate::keys::{Principal, Role};

const NOW: Timestamp = Timestamp(1_795_000_000_000_000);

struct Bench {
    store: Store,
    records: Records,
    dir: TempDir,
}

async fn bench() -> Bench {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open_embedded(&dir.path().join("store")).await.expect("a store");
    Bench { store, records: Records::new(), dir }
}

fn who(role: Role, name: &str, tenant: Option<&str>) -> Principal {
    Principal::new(name, role, tenant.map(str::to_owned))
}

fn all() -> Principal {
    who(Role::Viewer, "viewer", None)
}

/// A sidecar's log with these records.
fn log(dir: &Path, sidecar: &str, records: &[Record]) -> (Vec<u8>, String) {
    let settings = Settings {
        dir: dir.join(sidecar),
        sidecar: sidecar.to_owned(),
        sync: Sync::Batch,
        segment_bytes: 64 << 20,
        max_bytes: None,
    };
    let key = SigningKey::from_bytes(&[u8::try_from(sidecar.len()).expect("short"); 32]);
    let (log, _) = Log::open(settings, key, NOW).expect("a log");
    records.iter().for_each(|record| log.later(record));
    log.flush().expect("written");
    log.close();
    let key = log.public_key().to_owned();
    (raw(&dir.join(sidecar), 1).take(u64::MAX - 1, usize::MAX).expect("lines").bytes, key)
}

fn record(tenant: &str, agent: &str, number: i64) -> Record {
    let mut record = Record::new(Phase::Intent, Timestamp(NOW.0 + number * 1_000_000));
    record.tenant = tenant.to_owned();
    record.agent = agent.to_owned();
    record.call = format!("call-{number}");
    record
}

impl Bench {
    async fn send(&self, tenant: &str, sidecar: &str, key: &str, lines: &[u8]) -> Result<Position, Failure> {
        let from = who(Role::Sidecar, sidecar, Some(tenant));
        self.records.take(&self.store, NOW, &from, Sent { sidecar, key, lines }).await
    }

    async fn head(&self, tenant: &str, sidecar: &str) -> Head {
        Head::read(&self.store, NOW, tenant, sidecar).await.expect("a read").expect("a head").0
    }

    async fn find(&self, who: &Principal, mut filter: Filter) -> Vec<Entry> {
        let mut found = Vec::new();
        loop {
            let page = query(&self.store, NOW, who, &filter).await.expect("a page");
            found.extend(page.items);
            filter.after = page.next;
            if filter.after.is_none() {
                return found;
            }
        }
    }
}

fn trouble(answer: Result<Position, Failure>) -> Trouble {
    match answer {
        Err(Failure::Record { trouble, .. }) => trouble,
        other => panic!("{other:?}"),
    }
}

/// The lines of a log, cut after each.
fn lines(text: &[u8]) -> Vec<&[u8]> {
    text.split_inclusive(|byte| *byte == b'\n').collect()
}

#[tokio::test]
async fn a_batch_that_comes_again_is_kept_once() {
    let bench = bench().await;
    let records: Vec<Record> = (0..40).map(|number| record("acme", "a", number)).collect();
    let (text, key) = log(bench.dir.path(), "one", &records);
    let lines = lines(&text);
    assert_eq!(bench.send("acme", "one", &key, b"").await.expect("a position").next, 1);
    for (from, to) in [(0, 10), (0, 10), (5, 20), (19, 20), (0, 30), (25, lines.len()), (0, lines.len())] {
        let end = bench.head("acme", "one");
        let before = if from == 0 && to == 10 { 0 } else { end.await.chain.next - 1 };
        let answer = bench.send("acme", "one", &key, &lines[from..to].concat()).await.expect("taken");
        assert_eq!(answer.next - 1, before.max(to as u64).max(10), "{from} to {to}");
    }
    let found = bench.find(&all(), Filter::default()).await;
    let expected: Vec<&str> =
        lines.iter().rev().map(|line| std::str::from_utf8(line).expect("text").trim_end()).collect();
    assert_eq!(found.iter().map(|entry| entry.record.get()).collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn what_does_not_fit_is_refused_whole_and_raises_an_alarm() {
    let bench = bench().await;
    let records: Vec<Record> = (0..20).map(|number| record("acme", "a", number)).collect();
    let (text, key) = log(bench.dir.path(), "one", &records);
    let (others, _) = log(&bench.dir.path().join("copy"), "one", &records[..15]);
    let all = lines(&text);
    bench.send("acme", "one", &key, &all[..10].concat()).await.expect("taken");
    // Every byte of a line, wherever it stands.
    for at in (0..all[12].len()).step_by(7) {
        let mut bad = all[10..14].concat();
        let start = all[10].len() + all[11].len();
        bad[start + at] ^= 2;
        let answer = bench.send("acme", "one", &key, &bad).await;
        assert!(matches!(answer, Err(Failure::Record { .. } | Failure::Invalid(_))), "byte {at}: {answer:?}");
        assert_eq!(bench.head("acme", "one").await.chain.next, 11, "byte {at}");
    }
    assert_eq!(trouble(bench.send("acme", "one", &key, &all[11..].concat()).await), Trouble::Gap);
    let removed = [all[10], all[12]].concat();
    assert_eq!(trouble(bench.send("acme", "one", &key, &removed).await), Trouble::Gap);
    let swapped = [all[11], all[10]].concat();
    assert_eq!(trouble(bench.send("acme", "one", &key, &swapped).await), Trouble::Gap);
    let other = SigningKey::from_bytes(&[99; 32]).verifying_key();
    let other: String = other.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(trouble(bench.send("acme", "one", &other, &all[10..].concat()).await), Trouble::Broken);
    let first = bench.head("acme", "one").await.alarm.expect("an alarm");
    assert_eq!((first.trouble, first.position), (Trouble::Broken, 13));
    // The right ones go on; then the log of the same name that ended earlier shows as a fork.
    bench.send("acme", "one", &key, &all[10..].concat()).await.expect("taken");
    let copy = lines(&others);
    assert_eq!(trouble(bench.send("acme", "one", &key, copy.last().expect("a line")).await), Trouble::Fork);
    assert_eq!(trouble(bench.send("acme", "one", &key, &copy[10..].concat()).await), Trouble::Fork);
}

#[tokio::test]
async fn a_call_of_another_tenant_is_refused() {
    let bench = bench().await;
    let (text, key) = log(bench.dir.path(), "one", &[record("acme", "a", 0), record("beta", "a", 1)]);
    assert_eq!(trouble(bench.send("acme", "one", &key, &text).await), Trouble::Tenant);
    let other = who(Role::Sidecar, "two", Some("acme"));
    let sent = Sent { sidecar: "one", key: &key, lines: &text };
    let answer = bench.records.take(&bench.store, NOW, &other, sent).await;
    assert!(matches!(answer, Err(Failure::Missing(_))), "another sidecar's key: {answer:?}");
}

#[tokio::test]
async fn another_tenants_key_sees_nothing() {
    let bench = bench().await;
    let (text, key) = log(bench.dir.path(), "one", &[record("acme", "a", 0)]);
    bench.send("acme", "one", &key, &text).await.expect("taken");
    let beta = who(Role::Operator, "operator", Some("beta"));
    assert!(bench.find(&beta, Filter::default()).await.is_empty());
    for tenant in [None, Some("acme")] {
        let filter = Filter {
            tenant: tenant.map(str::to_owned),
            sidecar: Some("one".to_owned()),
            ..Filter::default()
        };
        assert!(bench.find(&beta, filter).await.is_empty());
        let journal = follow::journal(&bench.store, &beta, ("one", tenant), None).await;
        assert!(matches!(journal, Err(Failure::Missing(_))), "{journal:?}");
        let signer = crate::signer::Signer::open(&bench.store, NOW).await.expect("a key");
        let proof = super::prove::prove(&bench.store, NOW, &signer, &beta, ("one", tenant), 1).await;
        assert!(matches!(proof, Err(Failure::Missing(_))), "{proof:?}");
    }
    assert!(super::journals(&bench.store, NOW, &beta).await.expect("a list").is_empty());
    // The same id in another tenant is another sidecar.
    let (text, key) = log(&bench.dir.path().join("beta"), "one", &[record("beta", "b", 5)]);
    bench.send("beta", "one", &key, &text).await.expect("taken");
    assert_eq!(bench.find(&beta, Filter::default()).await.len(), 2);
    assert_eq!(bench.find(&all(), Filter::default()).await.len(), 4);
}

#[tokio::test]
async fn a_follower_gets_each_entry_and_goes_on_from_its_cursor() {
    let bench = bench().await;
    let records: Vec<Record> = (0..700).map(|number| record("acme", "a", number)).collect();
    let (text, key) = log(bench.dir.path(), "one", &records);
    let all = lines(&text);
    bench.send("acme", "one", &key, &all[..600].concat()).await.expect("taken");
    let mut following = follow::follow(&bench.store, follow::Cursor::default()).expect("a follower");
    let (first, cursor) = following.next().await.expect("entries");
    drop(following);
    let kept = serde_json::to_string(&cursor).expect("a text");
    let cursor: follow::Cursor = serde_json::from_str(&kept).expect("a cursor");
    let mut following = follow::follow(&bench.store, cursor).expect("a follower");
    let (second, _) = following.next().await.expect("entries");
    bench.send("acme", "one", &key, &all[600..].concat()).await.expect("taken");
    let (third, _) = following.next().await.expect("entries");
    let positions: Vec<u64> = first.iter().chain(&second).chain(&third).map(|entry| entry.position).collect();
    assert_eq!(positions, (1..=all.len() as u64).collect::<Vec<_>>());
}

/// Agent, rule and phase of a record, and by how many seconds it is later than the one before.
type Sketch = (u8, u8, u8, i64);

/// The records of two sidecars, and a question about them.
fn questions() -> impl Strategy<Value = (Vec<Sketch>, Vec<Sketch>, u8, u8, usize)> {
    // The clock is put back at times.
    let step = prop_oneof![20 => 0_i64..3, 1 => -50_i64..0, 1 => 50_i64..100];
    let one = (0_u8..3, 0_u8..4, 0_u8..2, step);
    let records = proptest::collection::vec(one, 1..900);
    (records.clone(), records, 0_u8..8, 0_u8..6, 1_usize..80)
}

fn made(tenant: &str, from: &[Sketch]) -> Vec<Record> {
    let mut time = 0;
    let make = |(number, (agent, rule, phase, step)): (usize, &Sketch)| {
        time += step;
        let mut record = record(tenant, &format!("agent-{agent}"), time);
        record.call = format!("call-{number}");
        record.rule = format!("policy/rule-{rule}");
        record.topic = format!("job.x.{rule}");
        record.phase = if *phase == 0 { Phase::Intent } else { Phase::Decision };
        record.decision = Some(if *rule == 0 { Decision::Deny } else { Decision::Allow });
        record
    };
    from.iter().enumerate().map(make).collect()
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(24))]

    #[test]
    fn a_question_finds_what_looking_at_everything_finds(
        (one, two, which, span, limit) in questions()
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let bench = bench().await;
            let mut expected = Vec::new();
            for (sidecar, records) in [("one", made("acme", &one)), ("seven", made("beta", &two))] {
                let tenant = if sidecar == "one" { "acme" } else { "beta" };
                let (text, key) = log(bench.dir.path(), sidecar, &records);
                for batch in lines(&text).chunks(97) {
                    bench.send(tenant, sidecar, &key, &batch.concat()).await.expect("taken");
                }
                let mut latest = Timestamp::default();
                for (line, position) in lines(&text).iter().zip(1_u64..) {
                    let record: Record = serde_json::from_slice(line).expect("a record");
                    latest = latest.max(record.time);
                    expected.push((latest, format!("{sidecar}/{tenant}"), position, record));
                }
            }
            expected.sort_by(|a, b| (b.0, &b.1, b.2).cmp(&(a.0, &a.1, a.2)));
            let mut filter = Filter { limit: Some(limit), ..Filter::default() };
            match which {
                1 => filter.agent = Some("agent-1".to_owned()),
                2 => filter.rule = Some("policy/*-2".to_owned()),
                3 => filter.decision = Some(Decision::Deny),
                4 => filter.phase = Some(Phase::Decision),
                5 => filter.call = Some("call-300".to_owned()),
                6 => filter.tenant = Some("beta".to_owned()),
                7 => filter.topic = Some("job.*.3".to_owned()),
                _ => {}
            }
            if span > 2 {
                filter.from = Some(Timestamp(NOW.0 + 100_000_000));
            }
            if span % 2 == 1 {
                filter.to = Some(Timestamp(NOW.0 + 500_000_000));
            }
            expected.retain(|(time, _, _, record)| {
                let text = serde_json::to_vec(record).expect("a text");
                let facts = super::Facts::read(&text).expect("facts");
                filter.fits(&facts)
                    && filter.from.is_none_or(|from| *time >= from)
                    && filter.to.is_none_or(|to| *time < to)
            });
            if filter.tenant.is_some() {
                expected.retain(|(_, journal, ..)| journal.ends_with("/beta"));
            }
            let found = bench.find(&all(), filter).await;
            let found: Vec<(String, u64)> =
                found.iter().map(|entry| (format!("{}/{}", entry.sidecar, entry.tenant), entry.position)).collect();
            let expected: Vec<(String, u64)> =
                expected.into_iter().map(|(_, journal, position, _)| (journal, position)).collect();
            if found == expected { Ok(()) } else {
                Err(TestCaseError::fail(format!("{} found, {} expected", found.len(), expected.len())))
            }
        })?;
    }
}
