//! Promises about documents.

use bytes::Bytes;
use futures_util::StreamExt;
use sideguard_runtime::tasks;
use sideguard_store::documents::{Change, Changes, Edit, Expect, LARGEST_VALUE, Revision};
use sideguard_store::key::{EveryTenant, Key, Prefix, Scope};
use sideguard_store::{Store, StoreError};

use crate::stores::{NOW, after, key};

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn text(store: &Store, key: &Key) -> Option<String> {
    let document = store.documents.get(NOW, key).await.expect("an answer")?;
    assert_eq!(&document.key, key);
    Some(String::from_utf8(document.value.to_vec()).expect("text"))
}

async fn keys(store: &Store, scope: impl Into<Scope>) -> Vec<String> {
    let page = store.documents.list(NOW, &scope.into(), None, 1000).await.expect("a page");
    page.documents.iter().map(|document| document.key.to_string()).collect()
}

pub(crate) async fn a_document_is_what_was_last_put(one: Store, other: Store) {
    let key = key("acme", "agents/reviewer");
    assert_eq!(text(&one, &key).await, None);
    let first = one.documents.put(NOW, &key, bytes("a"), Expect::Any, None).await.expect("a put");
    let second = other.documents.put(NOW, &key, bytes("b"), Expect::Any, None).await.expect("a put");
    assert!(second > first);
    assert_eq!(text(&one, &key).await.as_deref(), Some("b"));
    let found = other.documents.get(NOW, &key).await.expect("an answer").expect("a document");
    assert_eq!((found.revision, found.expires), (second, None));
    let third = one.documents.delete(NOW, &key, Expect::Any).await.expect("a delete");
    assert!(third > second);
    assert_eq!(text(&other, &key).await, None);
    let fourth = other.documents.delete(NOW, &key, Expect::Any).await.expect("a delete of nothing");
    assert_eq!(fourth, third, "nothing changed");
}

pub(crate) async fn an_expectation_that_does_not_hold_changes_nothing(one: Store, other: Store) {
    let key = key("acme", "a");
    let conflict = |result: Result<Revision, StoreError>| match result {
        Err(StoreError::Conflict { key, present }) => (key.to_string(), present),
        result => panic!("{result:?}"),
    };
    let missing = Expect::Revision(Revision(7));
    let told = conflict(one.documents.put(NOW, &key, bytes("x"), missing, None).await);
    assert_eq!(told, ("acme/a".to_owned(), None));
    conflict(one.documents.delete(NOW, &key, missing).await);
    assert_eq!(text(&one, &key).await, None);
    let first = one.documents.put(NOW, &key, bytes("a"), Expect::Absent, None).await.expect("a put");
    let told = conflict(other.documents.put(NOW, &key, bytes("x"), Expect::Absent, None).await);
    assert_eq!(told, ("acme/a".to_owned(), Some(first)));
    let second =
        other.documents.put(NOW, &key, bytes("b"), Expect::Revision(first), None).await.expect("a put");
    let told = conflict(one.documents.put(NOW, &key, bytes("x"), Expect::Revision(first), None).await);
    assert_eq!(told.1, Some(second));
    let told = conflict(one.documents.delete(NOW, &key, Expect::Revision(first)).await);
    assert_eq!(told.1, Some(second));
    let told = conflict(one.documents.delete(NOW, &key, Expect::Absent).await);
    assert_eq!(told.1, Some(second));
    assert_eq!(text(&one, &key).await.as_deref(), Some("b"));
    one.documents.delete(NOW, &key, Expect::Revision(second)).await.expect("a delete");
    one.documents.delete(NOW, &key, Expect::Absent).await.expect("a delete of nothing, as expected");
}

pub(crate) async fn documents_change_together_or_not_at_all(one: Store, other: Store) {
    let (a, b, c) = (key("acme", "a"), key("beta", "b"), key("acme", "c"));
    let edits = vec![
        Edit::put(a.clone(), bytes("1"), Expect::Absent),
        Edit::put(b.clone(), bytes("1"), Expect::Absent),
        Edit::delete(c.clone(), Expect::Absent),
    ];
    let first = one.documents.put_all(NOW, edits.clone()).await.expect("both");
    for key in [&a, &b] {
        let found = other.documents.get(NOW, key).await.expect("an answer").expect("a document");
        assert_eq!(found.revision, first);
    }
    let edits = vec![
        Edit::put(c.clone(), bytes("2"), Expect::Absent),
        Edit::delete(a.clone(), Expect::Revision(first)),
        Edit::put(b.clone(), bytes("2"), Expect::Revision(Revision(first.0 + 1))),
    ];
    let error = other.documents.put_all(NOW, edits).await.expect_err("the last does not hold");
    assert!(matches!(&error, StoreError::Conflict { key, .. } if *key == b), "{error}");
    assert_eq!(text(&one, &c).await, None);
    assert_eq!(text(&one, &a).await.as_deref(), Some("1"));
    let twice = vec![Edit::put(a.clone(), bytes("3"), Expect::Any), Edit::delete(a.clone(), Expect::Any)];
    assert!(matches!(one.documents.put_all(NOW, twice).await, Err(StoreError::Invalid(_))));
    let moved = vec![Edit::delete(a.clone(), Expect::Any), Edit::put(c.clone(), bytes("4"), Expect::Absent)];
    assert!(one.documents.put_all(NOW, moved).await.expect("a move") > first);
    assert_eq!((text(&one, &a).await, text(&one, &c).await.as_deref()), (None, Some("4")));
    one.documents.put_all(NOW, Vec::new()).await.expect("nothing to do");
}

pub(crate) async fn concurrent_writers_lose_no_update(one: Store, other: Store) {
    const WRITERS: u64 = 12;
    const ROUNDS: u64 = 15;
    let writers = (0..WRITERS).map(|writer| {
        let store = if writer % 2 == 0 { one.clone() } else { other.clone() };
        tasks::spawn_plain(async move {
            let key = key("acme", "counter");
            let mut revisions = Vec::new();
            while (revisions.len() as u64) < ROUNDS {
                let found = store.documents.get(NOW, &key).await.expect("an answer");
                let expect = found.as_ref().map_or(Expect::Absent, |at| Expect::Revision(at.revision));
                let count = found.map_or(0, |at| {
                    std::str::from_utf8(&at.value).expect("text").parse::<u64>().expect("a number")
                });
                let value = Bytes::from((count + 1).to_string());
                match store.documents.put(NOW, &key, value, expect, None).await {
                    Ok(revision) => revisions.push(revision),
                    Err(StoreError::Conflict { .. }) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
            assert!(revisions.is_sorted(), "a writer saw revisions go down");
            revisions
        })
    });
    let mut revisions = Vec::new();
    for writer in writers.collect::<Vec<_>>() {
        revisions.extend(writer.await.expect("a writer"));
    }
    assert_eq!(text(&one, &key("acme", "counter")).await, Some((WRITERS * ROUNDS).to_string()));
    revisions.sort_unstable();
    revisions.dedup();
    assert_eq!(revisions.len() as u64, WRITERS * ROUNDS, "two writes have one revision");
}

pub(crate) async fn a_document_is_gone_when_its_time_is_over(one: Store, other: Store) {
    let (brief, long) = (key("acme", "brief"), key("acme", "long"));
    let put = one.documents.put(NOW, &brief, bytes("a"), Expect::Absent, Some(after(10))).await;
    let first = put.expect("a put");
    one.documents.put(NOW, &long, bytes("b"), Expect::Absent, Some(after(100))).await.expect("a put");
    let found = other.documents.get(after(9), &brief).await.expect("an answer").expect("a document");
    assert_eq!(found.expires, Some(after(10)));
    assert_eq!(other.documents.get(after(10), &brief).await.expect("an answer"), None);
    let scope: Scope = Prefix::whole("acme").expect("a prefix").into();
    let page = other.documents.list(after(10), &scope, None, 10).await.expect("a page");
    assert_eq!(page.documents.iter().map(|d| d.key.clone()).collect::<Vec<_>>(), std::slice::from_ref(&long));
    let error = other.documents.put(after(10), &brief, bytes("x"), Expect::Revision(first), None).await;
    assert!(matches!(error, Err(StoreError::Conflict { present: None, .. })), "{error:?}");

    let mut changes = other.documents.watch(scope.clone());
    assert_eq!(one.documents.sweep(after(9), 10).await.expect("a sweep"), 0);
    assert_eq!(one.documents.sweep(after(10), 10).await.expect("a sweep"), 1);
    assert_eq!(changed(&mut changes).await.0, brief);
    assert_eq!(one.documents.get(after(9), &brief).await.expect("an answer"), None, "it is removed");

    // Absent to a writer before it is swept, and written without an end it stays.
    other.documents.put(after(200), &long, bytes("c"), Expect::Absent, None).await.expect("a put");
    assert_eq!(one.documents.sweep(after(300), 10).await.expect("a sweep"), 0);
    let found = one.documents.get(after(300), &long).await.expect("an answer").expect("a document");
    assert_eq!((&found.value[..], found.expires), (&b"c"[..], None));
    for number in 0..5 {
        let key = key("acme", &format!("n/{number}"));
        one.documents.put(NOW, &key, bytes("d"), Expect::Any, Some(after(1))).await.expect("a put");
    }
    assert_eq!(other.documents.sweep(after(1), 3).await.expect("a sweep"), 3);
    assert_eq!(other.documents.sweep(after(1), 3).await.expect("a sweep"), 2);
}

pub(crate) async fn a_listing_has_every_document_once_and_in_order(one: Store, other: Store) {
    let mut expected = Vec::new();
    for number in 0..60 {
        for path in [format!("jobs/{number}"), format!("jobs-old/{number}"), format!("jobs.{number}")] {
            let key = key("acme", &path);
            // Every fifth is over, and must neither be listed nor end a page.
            let expires = (number % 5 == 0).then(|| after(0));
            one.documents.put(NOW, &key, bytes("v"), Expect::Any, expires).await.expect("a put");
            if path.starts_with("jobs/") && expires.is_none() {
                expected.push(key);
            }
        }
    }
    one.documents.put(NOW, &key("acme", "jobs"), bytes("v"), Expect::Any, None).await.expect("a put");
    expected.sort();
    for limit in [1, 7, 48, 1000] {
        let scope: Scope = Prefix::new("acme", "jobs").expect("a prefix").into();
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = other.documents.list(NOW, &scope, after.as_ref(), limit).await.expect("a page");
            assert!(page.documents.len() <= limit);
            found.extend(page.documents.into_iter().map(|document| document.key));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(found, expected, "in pages of {limit}");
    }
}

pub(crate) async fn tenants_do_not_see_each_other(one: Store, other: Store) {
    for (tenant, path) in [("acme", "a"), ("acme", "b"), ("acme-2", "a"), ("acm", "e/a"), ("beta", "a")] {
        let value = bytes(tenant);
        one.documents.put(NOW, &key(tenant, path), value, Expect::Absent, None).await.expect("a put");
    }
    assert_eq!(keys(&other, Prefix::whole("acme").expect("a prefix")).await, ["acme/a", "acme/b"]);
    assert_eq!(keys(&other, Prefix::whole("none").expect("a prefix")).await, Vec::<String>::new());
    let all = ["acm/e/a", "acme-2/a", "acme/a", "acme/b", "beta/a"];
    assert_eq!(keys(&other, EveryTenant).await, all);
    assert_eq!(text(&other, &key("acme-2", "a")).await.as_deref(), Some("acme-2"));
    // A page of one tenant cannot be made to go on into the next.
    let scope = Prefix::whole("acme").expect("a prefix").into();
    let page = other.documents.list(NOW, &scope, Some(&key("acm", "e/a")), 10).await.expect("a page");
    assert_eq!(page.documents.len(), 2);
    let page = other.documents.list(NOW, &scope, Some(&key("beta", "a")), 10).await.expect("a page");
    assert_eq!(page.documents.len(), 0);

    let mut theirs = other.documents.watch(scope);
    one.documents.put(NOW, &key("beta", "secret"), bytes("x"), Expect::Any, None).await.expect("a put");
    one.documents.put(NOW, &key("acme", "open"), bytes("x"), Expect::Any, None).await.expect("a put");
    assert_eq!(changed(&mut theirs).await.0, key("acme", "open"));
}

async fn changed(changes: &mut Changes) -> (Key, Revision) {
    match changes.next().await.expect("a change") {
        Change::Changed { key, revision } => (key, revision),
        Change::Resync => panic!("a resync without a reason"),
    }
}

pub(crate) async fn a_watch_tells_of_every_change(one: Store, other: Store) {
    let scope: Scope = Prefix::new("acme", "jobs").expect("a prefix").into();
    let (mut here, mut there) = (one.documents.watch(scope.clone()), other.documents.watch(scope));
    let (job, beside) = (key("acme", "jobs/1"), key("acme", "agents/1"));
    let first = one.documents.put(NOW, &job, bytes("a"), Expect::Any, None).await.expect("a put");
    let edits = vec![
        Edit::put(beside.clone(), bytes("a"), Expect::Any),
        Edit::put(job.clone(), bytes("b"), Expect::Any),
        Edit::delete(key("acme", "jobs/none"), Expect::Any),
    ];
    let second = other.documents.put_all(NOW, edits).await.expect("a put");
    one.documents.put(NOW, &job, bytes("x"), Expect::Absent, None).await.expect_err("it is there");
    let third = other.documents.delete(NOW, &job, Expect::Any).await.expect("a delete");
    for changes in [&mut here, &mut there] {
        for revision in [first, second, third] {
            assert_eq!(changed(changes).await, (job.clone(), revision));
        }
    }
    drop(there);
    let every = other.documents.watch(EveryTenant.into());
    let last = one.documents.put(NOW, &beside, bytes("c"), Expect::Any, None).await.expect("a put");
    let mut every = every;
    assert_eq!(changed(&mut every).await, (beside, last));
}

pub(crate) async fn values_are_any_bytes_up_to_a_size(one: Store, other: Store) {
    let key = key("acme", "bytes");
    let odd: Vec<u8> = (0..=255).chain(*b"\r\n$5\r\n").collect();
    for value in [Bytes::new(), Bytes::from(odd), Bytes::from(vec![0; LARGEST_VALUE])] {
        one.documents.put(NOW, &key, value.clone(), Expect::Any, None).await.expect("a put");
        let found = other.documents.get(NOW, &key).await.expect("an answer").expect("a document");
        assert!(found.value == value, "{} bytes came back otherwise", value.len());
    }
    let large = Bytes::from(vec![0; LARGEST_VALUE + 1]);
    let error = one.documents.put(NOW, &key, large, Expect::Any, None).await;
    assert!(matches!(error, Err(StoreError::Invalid(_))), "{error:?}");
}
