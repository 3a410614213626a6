//! The record at control: every record of every sidecar once, in order, whatever dies; what does not fit is refused and told.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use harness::sidecar::ALLOW;
use harness::{Fake, Service, Sidecar, client};
use serde_json::Value;
use sideguard_client::{Client, Records};
use sideguard_record::proof::Proof;
use sideguard_runtime::clock::Stopwatch;
use sideguard_runtime::secret::Secret;
use sideguard_runtime::tasks;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// No breaker for repeated calls: tests repeat theirs.
const CALM: &str = "  breakers: {agent: {repeats: 0}}\n";

async fn call(sidecar: &Sidecar, method: &str, to: &Fake) -> u16 {
    let url = format!("{}/{}", to.url(), sideguard_runtime::id::token(8));
    client::absolute(sidecar, method, &url, &[], "").await.status
}

async fn allowed(sidecar: &Sidecar, to: &Fake) {
    let since = Stopwatch::start();
    while call(sidecar, "GET", to).await != 200 {
        assert!(since.elapsed() < Duration::from_secs(10), "no policy came");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn asked(service: &Service, key: &str) -> Client {
    Client::new(service.url(), Some(Secret::new(key.to_owned())), None).expect("a client")
}

/// Every entry that control has of what is asked, the newest first.
async fn found(client: &Client, which: &Records) -> Vec<(String, u64, Value)> {
    let mut which = which.clone();
    let mut all = Vec::new();
    loop {
        let page = client.records(&which).await.expect("a page");
        for entry in page.items {
            let record = serde_json::from_str(entry.record.get()).expect("a record");
            all.push((entry.sidecar, entry.position, record));
        }
        which.after = page.next;
        if which.after.is_none() {
            return all;
        }
    }
}

/// Waits until control has all that the sidecars have on disk, and compares: each record once, in order.
async fn all_arrived(service: &Service, sidecars: &[&Sidecar]) -> Vec<(String, u64, Value)> {
    let client = asked(service, &service.key());
    let since = Stopwatch::start();
    loop {
        let kept: Vec<Vec<Value>> = sidecars.iter().map(|sidecar| sidecar.record()).collect();
        let mut arrived: BTreeMap<String, Vec<(u64, Value)>> = BTreeMap::new();
        let all = found(&client, &Records { limit: Some(500), ..Records::default() }).await;
        for (sidecar, position, record) in all.iter().rev() {
            arrived.entry(sidecar.clone()).or_default().push((*position, record.clone()));
        }
        let mut complete = true;
        for record in &kept {
            let id = record[0]["sidecar"].as_str().expect("an id");
            let there = arrived.get(id).cloned().unwrap_or_default();
            for (at, (position, entry)) in there.iter().enumerate() {
                assert_eq!(*position, at as u64 + 1, "{id}: each once, and in order");
                assert_eq!(entry["seq"], *position);
            }
            for own in record {
                // What control has may be gone here, so that the first one here is not the first.
                let at = usize::try_from(own["seq"].as_u64().expect("a number") - 1).expect("small");
                match there.get(at) {
                    Some((_, entry)) => assert_eq!(own, entry, "the same"),
                    None => complete = false,
                }
            }
        }
        if complete {
            return all;
        }
        assert!(since.elapsed() < Duration::from_secs(30), "not all arrived");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn every_record_of_two_sidecars_arrives_once_and_in_order() {
    let (service, tool) = (Service::start(), Fake::json("{}").await);
    service.apply(ALLOW).await;
    let one = service.sidecar("reader", CALM).await;
    let two = service.sidecar("writer", CALM).await;
    allowed(&one, &tool).await;
    allowed(&two, &tool).await;
    for _ in 0..60 {
        call(&one, "GET", &tool).await;
        call(&two, "POST", &tool).await;
    }
    let all = all_arrived(&service, &[&one, &two]).await;
    let times: Vec<&str> =
        all.iter().map(|(_, _, record)| record["time"].as_str().expect("a time")).collect();
    assert!(times.is_sorted_by(|a, b| a >= b), "the newest first");
}

/// What control says of the only sidecar's record, once it has an alarm.
async fn alarm(service: &Service) -> Value {
    let since = Stopwatch::start();
    loop {
        let known = service.json(&["get", "sidecars"]).await;
        let record = &known["items"][0]["record"];
        if !record["alarm"].is_null() {
            return record.clone();
        }
        assert!(since.elapsed() < Duration::from_secs(40), "no alarm: {known:#}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Calls on one connection after the other until told to stop; how often each status came.
async fn load(outbound: std::net::SocketAddr, url: String, stop: Arc<AtomicBool>) -> BTreeMap<u16, usize> {
    let mut answers = BTreeMap::new();
    while !stop.load(Ordering::Relaxed) {
        let url = format!("{url}/{}", sideguard_runtime::id::token(8));
        // While the sidecar is dead there is no answer.
        if let Some(status) = one_call(outbound, &url).await {
            *answers.entry(status).or_default() += 1;
        }
    }
    answers
}

async fn one_call(outbound: std::net::SocketAddr, url: &str) -> Option<u16> {
    let mut tcp = TcpStream::connect(outbound).await.ok()?;
    let host = url.trim_start_matches("http://").split('/').next()?;
    let request = format!("GET {url} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    tcp.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    tcp.read_to_end(&mut answer).await.ok()?;
    String::from_utf8_lossy(answer.get(9..12)?).parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn while_control_is_away_the_bound_holds_and_afterwards_every_record_arrives() {
    const BOUND: u64 = 2 << 20;
    let (mut service, tool) = (Service::start(), Fake::json("{}").await);
    service.apply(ALLOW).await;
    let spec = format!("{CALM}  audit: {{maxSpool: 2MiB}}\n");
    let sidecar = service.sidecar_at(service.url(), ", maxStale: 1h", "reader", &spec).await;
    allowed(&sidecar, &tool).await;
    let before = sidecar.memory();
    service.kill();
    // Far more than fits: some get through, those that come last wait and are refused.
    let stop = Arc::new(AtomicBool::new(false));
    let loads: Vec<_> = (0..24)
        .map(|_| tasks::spawn("load", load(sidecar.outbound(), tool.url(), Arc::clone(&stop))))
        .collect();
    let since = Stopwatch::start();
    let (mut most, mut memory, mut refused) = (0, 0, false);
    while !refused || since.elapsed() < Duration::from_secs(8) {
        most = most.max(sidecar.spooled());
        memory = memory.max(sidecar.memory());
        refused = refused || sidecar.log().contains("record cannot be written");
        assert!(since.elapsed() < Duration::from_secs(60), "never refused; {most} bytes");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut answers: BTreeMap<u16, usize> = BTreeMap::new();
    for load in loads {
        for (status, count) in load.await.expect("the load") {
            *answers.entry(status).or_default() += count;
        }
    }
    eprintln!("answers {answers:?}, spool {most} of {BOUND}, memory {before} to {memory}");
    assert!(answers[&200] > 200 && answers[&503] > 0, "{answers:?}");
    assert_eq!(answers.len(), 2, "{answers:?}");
    assert!(most <= BOUND, "{most}");
    assert!(memory < before + (48 << 20), "{before} to {memory}");
    let service = service.again();
    allowed(&sidecar, &tool).await;
    let all = all_arrived(&service, &[&sidecar]).await;
    // What left is there with what came of it.
    let of = |phase: &str| all.iter().filter(|(_, _, record)| record["phase"] == phase).count();
    assert!(of("intent") >= answers[&200], "{} of {}", of("intent"), answers[&200]);
    assert_eq!(of("intent"), tool.seen().len(), "an intent for every call that was let out");
    let first = sidecar.record()[0]["seq"].as_u64().expect("a number");
    assert!(first > 1 && sidecar.spooled() <= BOUND, "what control has is let go: {first} is the first here");
    // What is left here is sound by itself, and so is what control has.
    let state = sidecar.state().display().to_string();
    let ran = harness::command::sideguard(&sidecar.state(), &["audit", "verify", "--state", &state]).await;
    assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_of_either_side_while_shipping_loses_and_doubles_nothing() {
    let (mut service, tool) = (Service::start(), Fake::json("{}").await);
    service.apply(ALLOW).await;
    let mut sidecar = service.sidecar_at(service.url(), ", maxStale: 1h", "reader", CALM).await;
    allowed(&sidecar, &tool).await;
    for round in 0..8_usize {
        let stop = Arc::new(AtomicBool::new(false));
        let loads: Vec<_> = (0..4)
            .map(|_| tasks::spawn("load", load(sidecar.outbound(), tool.url(), Arc::clone(&stop))))
            .collect();
        let seen = tool.seen().len();
        harness::until("the load gets through", || tool.seen().len() > seen + 60 + round * 7).await;
        if round % 2 == 0 {
            sidecar = sidecar.again();
        } else {
            service = service.again();
        }
        stop.store(true, Ordering::Relaxed);
        for load in loads {
            load.await.expect("the load");
        }
        allowed(&sidecar, &tool).await;
    }
    all_arrived(&service, &[&sidecar]).await;
    let known = service.json(&["get", "sidecars"]).await;
    assert!(known["items"][0]["record"]["alarm"].is_null(), "{known:#}");
}

#[tokio::test]
async fn a_sidecar_that_stops_leaves_nothing_behind() {
    let (service, tool) = (Service::start(), Fake::json("{}").await);
    service.apply(ALLOW).await;
    let mut sidecar = service.sidecar("reader", CALM).await;
    allowed(&sidecar, &tool).await;
    call(&sidecar, "GET", &tool).await;
    assert!(sidecar.terminate().success());
    let own = sidecar.record();
    let central = found(&asked(&service, &service.key()), &Records::default()).await;
    assert_eq!(central.len(), own.len());
    assert!(own.iter().any(|entry| entry["code"] == "stop"));
    assert!(own.iter().zip(central.iter().rev()).all(|(own, (_, _, there))| own == there));
}

#[tokio::test]
async fn a_changed_byte_is_refused_and_told() {
    let (mut service, tool) = (Service::start(), Fake::json("{}").await);
    service.apply(ALLOW).await;
    let sidecar = service.sidecar_at(service.url(), ", maxStale: 1h", "reader", CALM).await;
    allowed(&sidecar, &tool).await;
    all_arrived(&service, &[&sidecar]).await;
    service.kill();
    let shipped = sidecar.record().len();
    for _ in 0..10 {
        assert_eq!(call(&sidecar, "GET", &tool).await, 200);
    }
    harness::until("it is written", || sidecar.record().len() >= shipped + 20).await;
    let file = fs::read_dir(sidecar.spool())
        .expect("the record")
        .map(|file| file.expect("a file").path())
        .find(|path| path.extension().is_some_and(|extension| extension == "ndjson"))
        .expect("a segment");
    let text = fs::read_to_string(&file).expect("a segment");
    let at = text.lines().take(shipped + 5).map(|line| line.len() + 1).sum::<usize>() + 30;
    use std::os::unix::fs::FileExt;
    let open = fs::OpenOptions::new().write(true).open(&file).expect("the segment");
    open.write_all_at(&[text.as_bytes()[at] ^ 1], at as u64).expect("a byte");
    let service = service.again();
    let record = alarm(&service).await;
    assert_eq!(record["alarm"]["trouble"], "broken", "{record:#}");
    assert_eq!(record["alarm"]["position"], shipped + 6, "{record:#}");
    harness::until("the sidecar tells", || sidecar.log().contains("record_broken")).await;
    assert!(service.log().contains("record refused"), "control tells");
    // Nothing of the batch was taken.
    assert!(record["last"].as_u64().expect("a number") <= shipped as u64 + 5, "{record:#}");
}

#[tokio::test]
async fn a_copied_state_directory_shows_as_a_fork() {
    let (service, tool) = (Service::start(), Fake::json("{}").await);
    service.apply(ALLOW).await;
    let mut one = service.sidecar("reader", CALM).await;
    allowed(&one, &tool).await;
    all_arrived(&service, &[&one]).await;
    one.kill();
    let other = one.copy();
    let one = one.again();
    allowed(&one, &tool).await;
    allowed(&other, &tool).await;
    let record = alarm(&service).await;
    assert_eq!(record["alarm"]["trouble"], "fork", "{record:#}");
    harness::until("one of them tells", || {
        one.log().contains("record_fork") || other.log().contains("record_fork")
    })
    .await;
    // What control has is one chain all the same.
    let exported = service.out(&["audit", "export", "--fleet"]).await;
    let numbers: Vec<u64> = exported
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("a record")["seq"].as_u64().expect("a number"))
        .collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_record_is_proved_and_no_other_byte_of_the_proof_holds() {
    let (service, tool) = (Service::start(), Fake::json("{}").await);
    service.apply(ALLOW).await;
    let sidecar = service.sidecar("reader", CALM).await;
    allowed(&sidecar, &tool).await;
    for _ in 0..5 {
        call(&sidecar, "GET", &tool).await;
    }
    let intent = sidecar.recorded(|entry| entry["phase"] == "intent").await.remove(0);
    let id = intent["call"].as_str().expect("an id");
    // A checkpoint comes by itself when nothing more happens.
    let since = Stopwatch::start();
    let proof = loop {
        let ran = service.run(&["audit", "prove", "--call", id]).await;
        if ran.code == Some(0) {
            break ran.out;
        }
        assert!(since.elapsed() < Duration::from_secs(20), "{}", ran.err);
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let file = service.dir().join("proof.json");
    fs::write(&file, &proof).expect("a file");
    let public = fs::read_to_string(sidecar.state().join("record.pub")).expect("a key");
    let elsewhere = tempfile::tempdir().expect("a directory");
    let verify = async |more: &[&str]| {
        let arguments = [&["audit", "verify", "--proof", file.to_str().expect("a path")], more].concat();
        harness::command::sideguard(elsewhere.path(), &arguments).await
    };
    let ran = verify(&["--key", public.trim()]).await;
    assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
    assert!(ran.out.contains(&format!("record {}", intent["seq"])), "{}", ran.out);
    let ran = verify(&["--key", &"11".repeat(32)]).await;
    assert_ne!(ran.code, Some(0), "another sidecar's key: {}", ran.out);
    for at in 0..proof.len() {
        let mut bad = proof.clone().into_bytes();
        bad[at] ^= 1;
        let held = String::from_utf8(bad.clone()).is_ok_and(|text| Proof::read(&text, None, None).is_ok());
        assert!(!held, "byte {at}");
        if at % 200 == 0 {
            fs::write(&file, &bad).expect("a file");
            let ran = verify(&[]).await;
            assert_eq!(ran.code, Some(1), "byte {at}: {}{}", ran.out, ran.err);
        }
    }
}

#[tokio::test]
async fn the_record_of_a_fleet_is_asked_for_exported_and_watched() {
    let (service, tool) = (Service::start(), Fake::json("{}").await);
    service.apply(ALLOW).await;
    let sidecar = service.sidecar("reader", CALM).await;
    allowed(&sidecar, &tool).await;
    let client = asked(&service, &service.key());
    let mut watch = client.watch(&Records::default()).await.expect("a stream");
    assert_eq!(call(&sidecar, "DELETE", &tool).await, 200);
    let seen = async {
        loop {
            let entry = watch.next().await.expect("a stream").expect("an entry");
            let record: Value = serde_json::from_str(entry.record.get()).expect("a record");
            if record["target"]["method"] == "DELETE" {
                return record;
            }
        }
    };
    let record = tokio::time::timeout(Duration::from_secs(10), seen).await.expect("it is seen");
    let id = record["call"].as_str().expect("an id");
    all_arrived(&service, &[&sidecar]).await;
    let table = service.out(&["audit", "query", "--fleet", "--call", id]).await;
    assert!(table.contains("intent") && table.contains("DELETE"), "{table}");
    let none = service.out(&["audit", "query", "--fleet", "--agent", "nobody"]).await;
    assert_eq!(none, "");
    let recent =
        ["audit", "query", "--fleet", "--since", "1h", "--phase", "intent", "--limit", "3", "-o", "json"];
    assert!(service.out(&recent).await.contains(id));
    let earlier = service.out(&["audit", "query", "--fleet", "--until", "1h"]).await;
    assert_eq!(earlier, "");
    let last = service.out(&["audit", "tail", "--fleet", "--once", "-n", "1", "-o", "json"]).await;
    assert_eq!(last.lines().count(), 1, "{last}");
    let state = sidecar.state().display().to_string();
    let own =
        harness::command::sideguard(&sidecar.state(), &["audit", "export", "--state", &state]).await.out;
    let central = service.out(&["audit", "export", "--fleet"]).await;
    assert!(!central.is_empty() && own.starts_with(&central), "byte for byte");
}
