//! `kill -9` of what a fleet stands on, under load: nothing that was acknowledged is lost, calls go on by the last policy,
//! and everything recovers without a restart of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use harness::client;
use harness::servers::Servers;
use harness::service::shared;
use harness::sidecar::ALLOW;
use harness::{Fake, Service, Sidecar};
use parking_lot::Mutex;
use sideguard_client::{Client, Objects};
use sideguard_runtime::clock::Stopwatch;
use sideguard_runtime::secret::Secret;
use sideguard_runtime::tasks;
use sideguard_types::control::feed::Has;
use sideguard_types::control::{Apply, Enrol, Name, Text, TokenRequest};

/// What a fleet did and was told.
#[derive(Default)]
struct Load {
    over: AtomicBool,
    /// Generations that were acknowledged, with the object that came with each.
    applied: Mutex<Vec<(u64, String)>>,
    /// Keys of sidecars that were enrolled.
    enrolled: Mutex<Vec<String>>,
    failed: AtomicUsize,
    calls: AtomicUsize,
    refused: Mutex<Vec<u16>>,
}

impl Load {
    async fn apply(self: Arc<Self>, operator: Client) {
        for number in 0.. {
            if self.over.load(Ordering::Acquire) {
                return;
            }
            let name = format!("p{number}");
            let text = ALLOW.replace("name: allow", &format!("name: {name}"));
            let documents = vec![Text { name: "p.yaml".to_owned(), text }];
            let apply = Apply { documents, dry_run: false, prune: None, expect: None };
            match operator.apply(&apply).await {
                Ok(applied) => self.applied.lock().push((applied.generation, name)),
                Err(_) => self.pause().await,
            }
        }
    }

    async fn enrol(self: Arc<Self>, operator: Client) {
        for number in 0.. {
            if self.over.load(Ordering::Acquire) {
                return;
            }
            let asked = TokenRequest { tenant: None, agent: None, seconds: None };
            let Ok(token) = operator.token(&asked).await else {
                self.pause().await;
                continue;
            };
            let enrol = Enrol { token: token.token, sidecar: format!("enrolled-{number}"), key: None };
            match operator.enrol(&enrol).await {
                Ok(enrolled) => self.enrolled.lock().push(enrolled.key),
                Err(_) => self.pause().await,
            }
        }
    }

    async fn pause(&self) {
        self.failed.fetch_add(1, Ordering::AcqRel);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    async fn call(self: Arc<Self>, outbound: std::net::SocketAddr, to: String) {
        while !self.over.load(Ordering::Acquire) {
            let url = format!("{to}/{}", sideguard_runtime::id::token(8));
            let status = client::status_at(outbound, "GET", &url).await;
            self.calls.fetch_add(1, Ordering::AcqRel);
            if status != 200 {
                self.refused.lock().push(status);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn acknowledged(&self) -> usize {
        self.applied.lock().len().min(self.enrolled.lock().len())
    }

    /// Waits for so many more acknowledged applies and enrolments.
    async fn more(&self, count: usize) {
        let (since, wanted) = (Stopwatch::start(), self.acknowledged() + count);
        while self.acknowledged() < wanted {
            assert!(since.elapsed() < Duration::from_secs(30), "nothing goes on: {}", self.acknowledged());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Two replicas and two sidecars under load, before and after something has happened.
async fn under_load(happens: impl AsyncFnOnce(&Servers, &mut Vec<Service>)) {
    let (servers, tool) = (Servers::start(), Fake::json("{}").await);
    let one = Service::with(&shared(&servers));
    let mut services = vec![one.replica(), one];
    services.reverse();
    services[0].apply(ALLOW).await;
    let both = format!("{},{}", services[0].url(), services[1].url());
    let mut sidecars: Vec<Sidecar> = Vec::new();
    for agent in ["reader", "writer"] {
        sidecars.push(services[0].sidecar_at(&both, "", agent, "").await);
    }
    for sidecar in &sidecars {
        let since = Stopwatch::start();
        while client::status_at(sidecar.outbound(), "GET", &tool.url()).await != 200 {
            assert!(since.elapsed() < Duration::from_secs(10), "no policy");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let operator = Client::new(&both, Some(Secret::new(services[0].key())), None).expect("a client");
    let load = Arc::new(Load::default());
    let mut all = vec![
        tasks::spawn("apply", Arc::clone(&load).apply(operator.clone())),
        tasks::spawn("enrol", Arc::clone(&load).enrol(operator.clone())),
    ];
    all.extend(
        sidecars
            .iter()
            .map(|sidecar| tasks::spawn("call", Arc::clone(&load).call(sidecar.outbound(), tool.url()))),
    );
    load.more(5).await;
    happens(&servers, &mut services).await;
    load.more(5).await;
    load.over.store(true, Ordering::Release);
    for task in all {
        task.await.expect("an end");
    }
    nothing_is_lost(&load, &operator).await;
    assert_eq!(*load.refused.lock(), Vec::<u16>::new(), "calls went on by the last policy");
    println!(
        "{} applies and {} enrolments acknowledged, {} failed, {} calls passed",
        load.applied.lock().len(),
        load.enrolled.lock().len(),
        load.failed.load(Ordering::Acquire),
        load.calls.load(Ordering::Acquire),
    );
    for service in &services {
        service.all_stand(2, "current").await;
    }
}

async fn nothing_is_lost(load: &Load, operator: &Client) {
    let applied = load.applied.lock().clone();
    let objects = operator.all_objects(&Objects::default()).await.expect("objects");
    for (number, name) in &applied {
        let generation = operator.generation(*number).await.expect("a generation that was acknowledged");
        assert!(
            generation.summary.concat().contains(&format!("policy/default/{name}")),
            "{generation:?} {name}"
        );
        let wanted = Name { tenant: "default".to_owned(), kind: "Policy".to_owned(), name: name.clone() };
        assert!(objects.iter().any(|object| object.name == wanted), "{name} is gone");
    }
    let keys = load.enrolled.lock().clone();
    for key in keys {
        let sidecar = operator.with_key(&Secret::new(key)).expect("a client");
        sidecar.feed(&Has::default()).await.expect("a key that was acknowledged");
    }
}

#[tokio::test]
async fn kill_9_of_a_control_replica_loses_nothing() {
    under_load(async |_, services| {
        for at in [0, 1] {
            let mut victim = services.remove(at);
            victim.kill();
            tokio::time::sleep(Duration::from_millis(300)).await;
            services.insert(at, victim.again());
        }
    })
    .await;
}

#[tokio::test]
async fn kill_9_of_redis_loses_nothing() {
    under_load(async |servers, _| {
        for _ in 0..2 {
            servers.redis.kill();
            tokio::time::sleep(Duration::from_millis(500)).await;
            servers.redis.restart();
        }
    })
    .await;
}

#[tokio::test]
async fn kill_9_of_nats_loses_nothing() {
    under_load(async |servers, services| {
        servers.nats.kill();
        let ready = Client::new(services[0].url(), None, None).expect("a client");
        assert!(ready.ready().await.is_err(), "a service without its store is not ready");
        servers.nats.restart();
        let since = Stopwatch::start();
        while ready.ready().await.is_err() {
            assert!(since.elapsed() < Duration::from_secs(10), "never ready again");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_apply_without_an_answer_is_told_as_one_and_can_be_repeated() {
    let servers = Servers::start();
    let service = Service::with(&shared(&servers));
    service.apply(ALLOW).await;
    std::fs::write(service.dir().join("more.yaml"), ALLOW.replace("name: allow", "name: more"))
        .expect("a file");
    // Halted, it takes what is sent and answers nothing.
    servers.redis.signal("STOP");
    let ran = service.run(&["apply", "-f", "more.yaml"]).await;
    servers.redis.signal("CONT");
    assert_eq!(ran.code, Some(125), "{}", ran.err);
    assert!(ran.err.contains("may or may not"), "{}", ran.err);
    let since = Stopwatch::start();
    loop {
        let ran = service.run(&["apply", "-f", "more.yaml"]).await;
        if ran.code == Some(0) {
            break;
        }
        assert!(since.elapsed() < Duration::from_secs(10), "{}", ran.err);
    }
    let policies = service.json(&["get", "policies"]).await;
    assert_eq!(policies["items"].as_array().expect("a list").len(), 2);
    assert_eq!(service.json(&["history"]).await.as_array().expect("a list").len(), 2, "made once");
}

#[tokio::test]
async fn a_replica_that_has_lost_its_store_passes_nothing_off_as_fresh() {
    let (servers, tool) = (Servers::start(), Fake::json("{}").await);
    let service = Service::with(&shared(&servers));
    service.apply(ALLOW).await;
    let sidecar = service.sidecar_at(service.url(), ", maxStaleWrites: 8s", "reader", "").await;
    let answers = async |method: &str, wanted: u16| {
        let since = Stopwatch::start();
        loop {
            let url = format!("{}/{}", tool.url(), sideguard_runtime::id::token(8));
            let status = client::status_at(sidecar.outbound(), method, &url).await;
            if status == wanted {
                return;
            }
            assert!(since.elapsed() < Duration::from_secs(30), "{method}: {status}, not {wanted}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    answers("POST", 200).await;
    // The service is there, and takes connections; what it knows may be old.
    servers.redis.kill();
    answers("POST", 503).await;
    answers("GET", 200).await;
    servers.redis.restart();
    answers("POST", 200).await;
}
