//! The record: before the call, after any crash, or no call at all.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use harness::command::sideguard;
use harness::fake::Fake;
use harness::sidecar::ALLOW;
use harness::{Sidecar, client, setting};
use sideguard_runtime::{clock, tasks};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Numbers that look random and come again from the same seed (Marsaglia's xorshift64).
struct Chance(u64);

impl Chance {
    /// Seeded by the clock; the seed is printed, so that a failure can be repeated.
    fn new() -> Self {
        let seed = clock::now().0.unsigned_abs() | 1;
        eprintln!("seed {seed}");
        Self(seed)
    }

    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end as u64).expect("small")
    }
}

/// Posts to `/n/<number>` on one kept connection until the sidecar is gone.
async fn load(to: std::net::SocketAddr, next: Arc<AtomicUsize>) {
    let Ok(mut tcp) = TcpStream::connect(to).await else { return };
    let mut buffer = vec![0; 4096];
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let request = format!("POST /web/n/{number} HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi");
        if tcp.write_all(request.as_bytes()).await.is_err() {
            return;
        }
        // Replies are small and come in one piece.
        match tcp.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

async fn verified(state: &Path) -> (Option<i32>, String) {
    let ran = sideguard(state, &["audit", "verify", "--state", &state.display().to_string()]).await;
    (ran.code, ran.out + &ran.err)
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_at_any_moment_leaves_an_intent_for_every_call_that_the_upstream_saw() {
    let mut chance = Chance::new();
    let fake = Fake::json("{}").await;
    let mut sidecar = Sidecar::start(&setting::upstreams(&fake), &[("allow.yaml", ALLOW)]);
    let next = Arc::new(AtomicUsize::new(0));
    for round in 0..50 {
        let loads: Vec<_> =
            (0..8).map(|_| tasks::spawn("load", load(sidecar.outbound(), Arc::clone(&next)))).collect();
        let enough = fake.seen().len() + 1 + chance.below(80);
        harness::until("the load gets through", || fake.seen().len() >= enough).await;
        // A moment of no known length within the calls that are under way.
        for _ in 0..chance.below(50) {
            tokio::task::yield_now().await;
        }
        sidecar = sidecar.again();
        for load in loads {
            load.await.expect("the load ends with the sidecar");
        }
        let (code, said) = verified(&sidecar.state()).await;
        assert_eq!(code, Some(0), "round {round}: {said}");
    }
    let record = sidecar.record();
    let intents: BTreeSet<&str> = record
        .iter()
        .filter(|entry| entry["phase"] == "intent")
        .filter_map(|entry| entry["target"]["path"].as_str())
        .collect();
    let seen = fake.seen();
    assert!(seen.len() > 500, "{} calls are a load", seen.len());
    let missing: Vec<&str> =
        seen.iter().map(|seen| seen.target.as_str()).filter(|path| !intents.contains(path)).collect();
    assert!(
        missing.is_empty(),
        "{} calls without intent: {:?}",
        missing.len(),
        &missing[..missing.len().min(10)]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_byte_changed_anywhere_is_named_by_file_and_line() {
    let mut chance = Chance::new();
    let fake = Fake::json("{}").await;
    let mut sidecar = Sidecar::start(&setting::upstreams(&fake), &[("allow.yaml", ALLOW)]);
    for number in 0..40 {
        client::gateway(&sidecar, "GET", &format!("/web/n/{number}"), &[], "").await;
    }
    assert_eq!(sidecar.terminate().code(), Some(0));
    assert_eq!(verified(&sidecar.state()).await.0, Some(0));
    let segment = fs::read_dir(sidecar.spool())
        .expect("the record")
        .map(|file| file.expect("a file").path())
        .find(|path| path.extension().is_some_and(|extension| extension == "ndjson"))
        .expect("a segment");
    let sound = fs::read(&segment).expect("a segment");
    let name = segment.file_name().expect("a name").to_string_lossy().into_owned();
    for _ in 0..25 {
        let at = chance.below(sound.len() - 1);
        let mut changed = sound.clone();
        changed[at] ^= 1 << chance.below(8);
        fs::write(&segment, &changed).expect("a write");
        let line = sound[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
        let (code, said) = verified(&sidecar.state()).await;
        assert_eq!(code, Some(1), "byte {at}: {said}");
        assert!(
            said.contains(&name) && said.contains(&format!("line {line},")),
            "byte {at} in line {line}: {said}"
        );
    }
    fs::write(&segment, &sound).expect("a write");
    assert_eq!(verified(&sidecar.state()).await.0, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_room_for_the_record_nothing_leaves_until_there_is_room() {
    let fake = Fake::json("{}").await;
    // A small disk that only the sidecar sees, and that goes when it ends. Needs the right to mount.
    let mount = "mkdir -p \"$0\" && mount -t tmpfs -o size=4m tmpfs \"$0\" && exec \"$@\"";
    let spec = format!("  agent: {{name: tester}}\n{}", setting::upstreams(&fake));
    let sidecar = Sidecar::under(
        &["unshare", "--mount", "sh", "-c", mount, "{state}"],
        &spec,
        &[("allow.yaml", ALLOW)],
    );
    let inside = format!("/proc/{}/root{}", sidecar.pid(), sidecar.state().display());
    let ballast = Path::new(&inside).join("ballast");
    assert!(Path::new(&inside).join("spool").exists(), "the disk is mounted");
    assert_eq!(client::gateway(&sidecar, "GET", "/web/before", &[], "").await.status, 200);

    let fill = || fs::OpenOptions::new().create(true).append(true).open(&ballast);
    let mut refused = None;
    let mut passed = 0;
    for number in 0..500 {
        // Whatever room is left in the last block of the record goes to the calls.
        for size in [1 << 20, 1 << 12, 1] {
            while std::io::Write::write_all(&mut fill().expect("a file"), &vec![0; size]).is_ok() {}
        }
        let seen = fake.seen().len();
        let reply = client::gateway(&sidecar, "GET", &format!("/web/full/{number}"), &[], "").await;
        if reply.status != 200 {
            assert_eq!(fake.seen().len(), seen, "what is refused does not leave");
            refused = Some(reply);
            break;
        }
        passed += 1;
    }
    let refused = refused.expect("a full disk stops calls");
    assert_eq!(
        (refused.status, refused.json()["code"].as_str()),
        (503, Some("record_unavailable")),
        "after {passed}"
    );
    assert_eq!(refused.header("x-should-retry"), "false");
    let seen = fake.seen().len();
    assert_eq!(client::admin(&sidecar, "/readyz").await.status, 503);
    assert_eq!(client::post(&sidecar, "/web/full", "{}").await.status, 503);
    assert_eq!(fake.seen().len(), seen, "nothing leaves");

    fs::remove_file(&ballast).expect("room");
    let mut recovered = false;
    for _ in 0..200 {
        recovered = client::gateway(&sidecar, "GET", "/web/after", &[], "").await.status == 200;
        if recovered {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(recovered, "it goes on by itself");
    assert_eq!(client::admin(&sidecar, "/readyz").await.status, 200);
    let (code, said) = verified(Path::new(&inside)).await;
    assert_eq!(code, Some(0), "{said}");
}
