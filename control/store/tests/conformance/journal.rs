//! Promises about journals.

use bytes::Bytes;
use sideguard_runtime::tasks;
use sideguard_store::journal::LARGEST_ENTRY;
use sideguard_store::key::{EveryTenant, Key, Prefix};
use sideguard_store::{Store, StoreError};

use crate::stores::key;

fn entries(texts: &[&str]) -> Vec<Bytes> {
    texts.iter().map(|text| Bytes::copy_from_slice(text.as_bytes())).collect()
}

async fn append(store: &Store, key: &Key, from: u64, texts: &[&str]) -> u64 {
    store.journal.append(key, from, entries(texts)).await.expect("an append")
}

async fn read(store: &Store, key: &Key, from: u64) -> Vec<(u64, String)> {
    let (mut found, mut from) = (Vec::new(), from);
    loop {
        let part = store.journal.read(key, from, 1000).await.expect("a read");
        let Some((last, _)) = part.last() else { return found };
        from = last + 1;
        found.extend(
            part.into_iter().map(|(at, entry)| (at, String::from_utf8(entry.to_vec()).expect("text"))),
        );
    }
}

fn numbered(from: u64, texts: &[&str]) -> Vec<(u64, String)> {
    (from..).zip(texts.iter().map(|text| (*text).to_owned())).collect()
}

pub(crate) async fn entries_keep_their_positions(one: Store, other: Store) {
    let journal = key("acme", "audit/proxy.1");
    assert_eq!(one.journal.end(&journal).await.expect("an end"), 0);
    assert_eq!(one.journal.read(&journal, 0, 10).await.expect("a read"), []);
    assert_eq!(append(&one, &journal, 0, &["a", "b"]).await, 2);
    assert_eq!(append(&other, &journal, 2, &["c"]).await, 3);
    assert_eq!(append(&other, &journal, 3, &[]).await, 3);
    append(&other, &key("acme", "audit/proxy"), 0, &["x"]).await;
    append(&other, &key("beta", "audit/proxy.1"), 0, &["y"]).await;
    assert_eq!(append(&one, &journal, 3, &["", "e"]).await, 5);
    assert_eq!(other.journal.end(&journal).await.expect("an end"), 5);
    assert_eq!(read(&other, &journal, 0).await, numbered(0, &["a", "b", "c", "", "e"]));
    for from in 0..6 {
        let expected: Vec<u64> = (from..5).take(2).collect();
        let found = one.journal.read(&journal, from, 2).await.expect("a read");
        assert_eq!(found.into_iter().map(|(at, _)| at).collect::<Vec<_>>(), expected, "from {from}");
    }
    assert_eq!(one.journal.read(&journal, 99, 2).await.expect("a read"), []);
}

pub(crate) async fn a_repeated_append_is_skipped_and_another_entry_is_a_fork(one: Store, other: Store) {
    let journal = key("acme", "audit");
    append(&one, &journal, 0, &["a", "b"]).await;
    append(&one, &journal, 2, &["c"]).await;
    assert_eq!(append(&other, &journal, 0, &["a", "b"]).await, 2);
    assert_eq!(append(&other, &journal, 1, &["b", "c"]).await, 3);
    assert_eq!(append(&other, &journal, 1, &["b", "c", "d"]).await, 4);
    for (from, texts, position) in [
        (0, &["x"][..], 0),
        (1, &["b", "x", "d"], 2),
        (0, &["a", "b", "c", "x", "e"], 3),
        (3, &["e", "e"], 3),
    ] {
        match other.journal.append(&journal, from, entries(texts)).await {
            Err(StoreError::Fork { key, position: told }) => {
                assert_eq!((key, told), (journal.clone(), position))
            }
            answer => panic!("{answer:?}"),
        }
    }
    assert_eq!(read(&one, &journal, 0).await, numbered(0, &["a", "b", "c", "d"]));
}

pub(crate) async fn a_hole_is_refused(one: Store, other: Store) {
    let journal = key("acme", "audit");
    for (from, expected) in [(1, 0), (9, 0)] {
        let answer = one.journal.append(&journal, from, entries(&["x"])).await;
        assert!(
            matches!(answer, Err(StoreError::Gap { expected: told, .. }) if told == expected),
            "{answer:?}"
        );
    }
    append(&one, &journal, 0, &["a"]).await;
    let answer = other.journal.append(&journal, 2, entries(&["x"])).await;
    assert!(matches!(answer, Err(StoreError::Gap { expected: 1, .. })), "{answer:?}");
    assert_eq!(read(&one, &journal, 0).await, numbered(0, &["a"]));
}

pub(crate) async fn concurrent_appends_make_one_line(one: Store, other: Store) {
    const WRITERS: u64 = 8;
    const ROUNDS: u64 = 12;
    let writers = (0..WRITERS).map(|writer| {
        let store = if writer % 2 == 0 { one.clone() } else { other.clone() };
        tasks::spawn_plain(async move {
            let journal = key("acme", "audit");
            let mut mine = Vec::new();
            let mut from = 0;
            for round in 0..ROUNDS {
                let texts = [format!("{writer}.{round}.a"), format!("{writer}.{round}.b")];
                let texts = texts.each_ref().map(String::as_str);
                loop {
                    match store.journal.append(&journal, from, entries(&texts)).await {
                        Ok(next) => {
                            mine.extend(numbered(next - 2, &texts));
                            from = next;
                            break;
                        }
                        Err(StoreError::Fork { .. }) => {
                            from = store.journal.end(&journal).await.expect("an end");
                        }
                        Err(error) => panic!("{error:?}"),
                    }
                }
            }
            mine
        })
    });
    let mut expected = Vec::new();
    for writer in writers.collect::<Vec<_>>() {
        expected.extend(writer.await.expect("a writer"));
    }
    expected.sort();
    assert_eq!(expected.len() as u64, WRITERS * ROUNDS * 2);
    assert_eq!(read(&one, &key("acme", "audit"), 0).await, expected);
}

pub(crate) async fn large_entries_are_read_in_parts(one: Store, other: Store) {
    let journal = key("acme", "audit");
    let large: Vec<Bytes> = (0..24_u8).map(|byte| Bytes::from(vec![byte; LARGEST_ENTRY])).collect();
    assert_eq!(one.journal.append(&journal, 0, large.clone()).await.expect("an append"), 24);
    let small: Vec<Bytes> = (24..2000_u32).map(|number| Bytes::from(number.to_string())).collect();
    assert_eq!(other.journal.append(&journal, 24, small.clone()).await.expect("an append"), 2000);
    let (mut at, mut parts) = (0, 0);
    while at < 2000 {
        let part = other.journal.read(&journal, at, 700).await.expect("a read");
        assert!(!part.is_empty() && part.len() <= 700);
        for (position, entry) in part {
            assert_eq!(position, at);
            let expected = large.iter().chain(&small).nth(usize::try_from(at).expect("it fits"));
            assert!(expected == Some(&entry), "entry {at} came back otherwise");
            at += 1;
        }
        parts += 1;
    }
    assert!(parts > 3, "the large ones came at once");
    let found = one.journal.read(&journal, 1777, 1).await.expect("a read");
    assert_eq!(found, [(1777, Bytes::from("1777"))]);
    let too_large = vec![Bytes::from(vec![0; LARGEST_ENTRY + 1])];
    let answer = one.journal.append(&journal, 2000, too_large).await;
    assert!(matches!(answer, Err(StoreError::Invalid(_))), "{answer:?}");
}

pub(crate) async fn truncation_keeps_the_rest_and_the_end(one: Store, other: Store) {
    let journal = key("acme", "audit");
    for number in 0..10_u64 {
        let texts = [format!("{number}.a"), format!("{number}.b")];
        append(&one, &journal, number * 2, &texts.each_ref().map(String::as_str)).await;
    }
    append(&one, &key("acme", "audit/other"), 0, &["x"]).await;
    let whole = read(&one, &journal, 0).await;
    other.journal.truncate_before(&key("acme", "none"), 4).await.expect("nothing to do");
    other.journal.truncate_before(&journal, 0).await.expect("nothing to do");
    assert_eq!(read(&one, &journal, 0).await, whole);
    other.journal.truncate_before(&journal, 9).await.expect("a truncation");
    let left = read(&one, &journal, 0).await;
    assert!(left[0].0 >= 8 && left[0].0 <= 9, "it starts at {}", left[0].0);
    assert!(whole.ends_with(&left));
    assert_eq!(read(&one, &journal, 9).await, whole[9..]);
    assert_eq!(append(&other, &journal, 0, &["0.a", "other"]).await, 2, "what was truncated is skipped");
    assert_eq!(append(&other, &journal, 18, &["9.a", "9.b", "10.a"]).await, 21);
    other.journal.truncate_before(&journal, 99).await.expect("a truncation");
    assert_eq!(one.journal.end(&journal).await.expect("an end"), 21);
    assert!(read(&one, &journal, 21).await.is_empty());
    assert!(read(&one, &journal, 0).await.len() <= 1);
    assert_eq!(append(&other, &journal, 21, &["10.b"]).await, 22);
    assert_eq!(read(&one, &journal, 21).await, numbered(21, &["10.b"]));
    assert_eq!(one.journal.end(&key("acme", "audit/other")).await.expect("an end"), 1);
}

pub(crate) async fn journals_are_listed_by_scope(one: Store, other: Store) {
    for (tenant, path) in [
        ("acme", "audit/p.1"),
        ("acme", "audit/p.2"),
        ("acme", "audit"),
        ("acme", "x"),
        ("beta.eu", "audit/p"),
    ] {
        append(&one, &key(tenant, path), 0, &["a", "b"]).await;
    }
    let listed = async |scope, after: Option<&Key>, limit| {
        let keys = other.journal.streams(&scope, after, limit).await.expect("a listing");
        keys.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let audit = || Prefix::new("acme", "audit").expect("a prefix").into();
    assert_eq!(listed(audit(), None, 10).await, ["acme/audit/p.1", "acme/audit/p.2"]);
    let whole = || Prefix::whole("acme").expect("a prefix").into();
    assert_eq!(listed(whole(), None, 2).await, ["acme/audit", "acme/audit/p.1"]);
    let last = key("acme", "audit/p.1");
    assert_eq!(listed(whole(), Some(&last), 10).await, ["acme/audit/p.2", "acme/x"]);
    let all = ["acme/audit", "acme/audit/p.1", "acme/audit/p.2", "acme/x", "beta.eu/audit/p"];
    assert_eq!(listed(EveryTenant.into(), None, 10).await, all);
    assert_eq!(listed(Prefix::whole("beta").expect("a prefix").into(), None, 10).await, Vec::<String>::new());
}
