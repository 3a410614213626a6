//! A change reaches a hundred sidecars within a second.

use std::time::Duration;

use harness::client;
use harness::sidecar::ALLOW;
use harness::{Backend, Fake, Service};
use sideguard_client::{Client, Told};
use sideguard_runtime::clock::Stopwatch;
use sideguard_runtime::secret::Secret;
use sideguard_runtime::tasks;
use sideguard_types::control::feed::Has;
use sideguard_types::control::{Apply, Enrol, Text, TokenRequest};
use tokio::sync::mpsc;

const SIDECARS: usize = 100;

harness::on_every_store! {
    a_change_reaches_a_hundred_sidecars_within_a_second
}

/// Enrols, follows the feed, and tells of each generation.
async fn follower(operator: Client, number: usize, seen: mpsc::Sender<u64>) {
    let asked = TokenRequest { tenant: None, agent: None, seconds: None };
    let token = operator.token(&asked).await.expect("a token").token;
    let enrol = Enrol { token, sidecar: format!("simulated-{number}"), key: None };
    let enrolled = operator.enrol(&enrol).await.expect("a key");
    let client = operator.with_key(&Secret::new(enrolled.key)).expect("a client");
    let has = Has { nonce: "n".to_owned(), ..Has::default() };
    let mut stream = client.feed_stream(&has).await.expect("a stream");
    loop {
        // The test ends with the stream.
        let Ok(told) = stream.next().await else { return };
        let number = match told {
            Told::Generation(signed) => signed.number,
            Told::Beat(beat) if beat.generation == 0 => 0,
            _ => continue,
        };
        if seen.send(number).await.is_err() {
            return;
        }
    }
}

async fn a_change_reaches_a_hundred_sidecars_within_a_second(backend: Backend) {
    let (service, tool) = (Service::on(backend), Fake::json("{}").await);
    let operator = Client::new(service.url(), Some(Secret::new(service.key())), None).expect("a client");
    let (send, mut seen) = mpsc::channel(4 * SIDECARS);
    let all: Vec<tasks::Owned> = (0..SIDECARS)
        .map(|number| {
            tasks::Owned::new(&tasks::spawn("follower", follower(operator.clone(), number, send.clone())))
        })
        .collect();
    let real = [service.sidecar("reader", "").await, service.sidecar("writer", "").await];
    // Each has said that nothing is in force yet.
    arrivals(&mut seen, 0).await;
    for generation in 1..=3 {
        let text =
            ALLOW.replace("{name: allow}", &format!("{{name: allow, labels: {{n: \"{generation}\"}}}}"));
        let documents = vec![Text { name: "allow.yaml".to_owned(), text }];
        let apply = Apply { documents, dry_run: false, prune: None, expect: None };
        let since = Stopwatch::start();
        operator.apply(&apply).await.expect("a generation");
        arrivals(&mut seen, generation).await;
        let took = since.elapsed();
        println!("generation {generation} reached {SIDECARS} within {took:?} of the request to apply it");
        assert!(took < Duration::from_secs(1), "{took:?}");
        for sidecar in &real {
            let url = format!("{}/{}", tool.url(), sideguard_runtime::id::token(8));
            while client::absolute(sidecar, "GET", &url, &[], "").await.status != 200 {
                assert!(since.elapsed() < Duration::from_secs(2), "a real one");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
    drop(all);
}

/// Waits until all have told of a generation.
async fn arrivals(seen: &mut mpsc::Receiver<u64>, generation: u64) {
    for missing in (1..=SIDECARS).rev() {
        let next = tokio::time::timeout(Duration::from_secs(20), seen.recv());
        let number = next.await.unwrap_or_else(|_| panic!("{missing} have not seen {generation}"));
        assert_eq!(number, Some(generation));
    }
}
