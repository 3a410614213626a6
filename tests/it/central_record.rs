//! The record at control: every record of every sidecar once, in order, whatever dies; what does not fit is refused and told.

use std::collections::BTreeMap;
use std::time::Duration;

use harness::sidecar::ALLOW;
use harness::{Fake, Service, Sidecar, client};
use serde_json::Value;
use sideguard_client::{Client, Records};
use sideguard_runtime::clock::Stopwatch;
use sideguard_runtime::secret::Secret;

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
            complete &= there.len() >= record.len();
            for (own, (_, entry)) in record.iter().zip(&there) {
                assert_eq!(own, entry, "byte for byte the same");
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
