//! What the embedded store promises when its process is killed, and about its directory.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use rand::Rng;
use sideguard_runtime::tasks;
use sideguard_store::documents::{Edit, Expect};
use sideguard_store::ledger::{Hold, LeaseId, Line, Turn};
use sideguard_store::{Store, StoreError};

use crate::stores::{NOW, after, key};

const WRITERS: u64 = 6;

/// The body of the process that is killed. It reads the directory from its input, writes without end, and says on its
/// output what was acknowledged: `WRITER ROUND`, once all of that round's writes were.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a part of `a_killed_process_loses_nothing_it_acknowledged`, which starts it"]
async fn write_until_killed() {
    let mut dir = String::new();
    std::io::stdin().read_line(&mut dir).expect("an input");
    if dir.trim().is_empty() {
        return;
    }
    let store = Store::open_embedded(Path::new(dir.trim())).await.expect("a store");
    say("open");
    let writers = (0..WRITERS).map(|writer| tasks::spawn_plain(write(store.clone(), writer)));
    for writer in writers.collect::<Vec<_>>() {
        writer.await.expect("a writer");
    }
}

fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\nack {text}").expect("an output");
    out.flush().expect("an output");
}

async fn write(store: Store, writer: u64) {
    let (journal, account) =
        (key("acme", &format!("journal/{writer}")), key("acme", &format!("account/{writer}")));
    let mut round = store.journal.end(&journal).await.expect("an end");
    loop {
        let value = Bytes::from(round.to_string());
        let edits = ["a", "b"]
            .map(|half| Edit::put(key("acme", &format!("{writer}/{half}")), value.clone(), Expect::Any));
        store.documents.put_all(NOW, edits.to_vec()).await.expect("a put");
        let lease = LeaseId(key("acme", &format!("lease/{writer}/{round}")));
        let line = Line { account: account.clone(), limit: u64::MAX, want: 5, least: 5 };
        // A round that a kill cut short is done again.
        if let Hold::Held { .. } = store.ledger.hold(&lease, &[line], after(60)).await.expect("a hold") {
            let turn = Turn { number: 1, spent: vec![1], keep: vec![4], expires: after(60) };
            store.ledger.settle(&lease, &turn).await.expect("a settlement");
        }
        store.journal.append(&journal, round, vec![value]).await.expect("an append");
        say(&format!("{writer} {round}"));
        round += 1;
    }
}

fn start(dir: &Path) -> Child {
    let mut child = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "crash::write_until_killed", "--ignored", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a child");
    writeln!(child.stdin.take().expect("an input"), "{}", dir.display()).expect("an input");
    child
}

/// Runs the writer until it has acknowledged about `rounds` rounds, kills it, and notes the last of each writer.
fn run_and_kill(dir: &Path, rounds: usize, last: &mut BTreeMap<u64, u64>) {
    let mut child = start(dir);
    let lines = BufReader::new(child.stdout.take().expect("an output")).lines();
    let mut left = rounds;
    // What was said before the kill took hold is read to the end.
    for line in lines {
        let Ok(line) = line else { break };
        let Some(text) = line.strip_prefix("ack ") else { continue };
        if let Some((writer, round)) = text.split_once(' ') {
            let known = last.entry(writer.parse().expect("a writer")).or_default();
            *known = (*known).max(round.parse().expect("a round"));
        }
        left = left.saturating_sub(1);
        if left == 0 {
            child.kill().expect("a kill");
        }
    }
    child.wait().expect("an end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_loses_nothing_it_acknowledged() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut last = BTreeMap::new();
    for _ in 0..8 {
        let rounds = rand::rng().random_range(1..60);
        let path = dir.path().to_owned();
        last = tokio::task::spawn_blocking(move || {
            run_and_kill(&path, rounds, &mut last);
            last
        })
        .await
        .expect("a run");
        let store = Store::open_embedded(dir.path()).await.expect("it opens after a kill");
        for (writer, round) in &last {
            check(&store, *writer, *round).await;
        }
        store.close().await;
    }
    assert!(last.len() as u64 == WRITERS, "only {} writers wrote", last.len());
}

/// `round` was acknowledged; one more may have been begun.
async fn check(store: &Store, writer: u64, round: u64) {
    let end = store.journal.end(&key("acme", &format!("journal/{writer}"))).await.expect("an end");
    assert!(
        end == round + 1 || end == round + 2,
        "writer {writer}: round {round}, but the journal ends at {end}"
    );
    let mut values = Vec::new();
    for half in ["a", "b"] {
        let document =
            store.documents.get(NOW, &key("acme", &format!("{writer}/{half}"))).await.expect("an answer");
        let value = document.expect("a document").value;
        values.push(std::str::from_utf8(&value).expect("text").parse::<u64>().expect("a number"));
    }
    assert!(values[0] == values[1], "one half of a change is missing: {values:?}");
    assert!((round..=round + 2).contains(&values[0]), "writer {writer}: round {round}, but {values:?}");
    let accounts = [key("acme", &format!("account/{writer}"))];
    let balance = store.ledger.balance(&accounts).await.expect("an answer")[0];
    // Each round spends 1 and keeps 4; one hold may be there unsettled.
    let done = balance.spent;
    assert!((end..=end + 1).contains(&done), "{end} rounds, but {balance:?}");
    assert!([done * 4, done * 4 + 5].contains(&balance.held), "{balance:?}");
}

#[tokio::test]
async fn a_directory_is_for_one_process_at_a_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().to_owned();
    let mut child = start(&path);
    let mut lines = BufReader::new(child.stdout.take().expect("an output")).lines();
    assert!(lines.any(|line| line.expect("a line") == "ack open"));
    let error = Store::open_embedded(&path).await.expect_err("a refusal");
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    child.kill().expect("a kill");
    child.wait().expect("an end");
    let store = Store::open_embedded(&path).await.expect("the process is gone");
    let error = Store::open_embedded(&path).await.expect_err("a refusal within a process too");
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    store.close().await;
    let error = store.documents.get(NOW, &key("acme", "a")).await.expect_err("it is closed");
    assert!(matches!(error, StoreError::Closed), "{error}");
    assert!(matches!(store.health().await, Err(StoreError::Closed)));
    Store::open_embedded(&path).await.expect("it was closed").close().await;
}
