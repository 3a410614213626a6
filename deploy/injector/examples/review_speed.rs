//! Prints how long the webhook takes for a review of an ordinary pod, how many it answers in a second on one core, and what
//! memory that takes: `cargo run --release -p sideguard-injector --example review_speed`. It starts itself anew as an injector,
//! pinned to core 0, and asks it over HTTPS as an API server does, on connections that are kept.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use sideguard_injector::daemon;
use sideguard_runtime::clock::Stopwatch;
use sideguard_runtime::tasks;
use sideguard_runtime::telemetry::LogFormat;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Reviews in all.
const REVIEWS: usize = 100_000;
/// Of these, one after the other on one connection.
const ALONE: usize = 10_000;
/// Connections at once for the rest.
const CONNECTIONS: usize = 4;
const NAME: &str = "sideguard-injector.sideguard.svc";
const KNOWN: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: team, labels: {sideguard.dev/inject: enabled, \
    sideguard.dev/default-profile: researcher}}\n---\napiVersion: sideguard.dev/v1\nkind: Agent\nmetadata: {name: researcher, \
    namespace: team}\nspec: {}\n";
const CONFIG: &str = "apiVersion: sideguard.dev/v1\nkind: Injector\nspec:\n  listen: {webhook: \"127.0.0.1:0\", admin: \"127.0.0.1:0\"}\n  \
    certificate: {certificate: tls.crt, key: tls.key}\n  known: known.yaml\n";

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> Result<ExitCode> {
    // The part that is measured.
    if let Some(config) = std::env::args_os().nth(1) {
        return Ok(daemon::run(Some(Path::new(&config)), LogFormat::Json).await);
    }
    let dir = tempfile::tempdir()?;
    let root = prepare(dir.path())?;
    let mut injector = Command::new("taskset")
        .args(["-c", "0"])
        .arg(std::env::current_exe()?)
        .arg(dir.path().join("injector.yaml"))
        .stderr(Stdio::piped())
        .spawn()?;
    let measured = measure(&mut injector, root).await;
    injector.kill()?;
    injector.wait()?;
    measured.map(|()| ExitCode::SUCCESS)
}

/// Writes configuration and certificate; gives the certificate to trust.
fn prepare(dir: &Path) -> Result<CertificateDer<'static>> {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
    fs::write(dir.join("tls.crt"), made.cert.pem())?;
    fs::write(dir.join("tls.key"), made.signing_key.serialize_pem())?;
    fs::write(dir.join("known.yaml"), KNOWN)?;
    fs::write(dir.join("injector.yaml"), CONFIG)?;
    Ok(made.cert.der().clone())
}

async fn measure(injector: &mut Child, root: CertificateDer<'static>) -> Result<()> {
    let stderr = injector.stderr.take().context("its log")?;
    let mut lines = BufReader::new(stderr).lines();
    let at = loop {
        let line = lines.next().context("the injector ended")??;
        if let Some((at, _)) =
            line.strip_prefix("sideguard: webhook ").and_then(|rest| rest.split_once(" admin "))
        {
            break at.parse::<SocketAddr>()?;
        }
    };
    let review = Bytes::from(review());
    let mut client = open(at, &root).await?;
    // What is made once is made before anything is measured.
    run(&mut client, &review, 1_000).await?;
    let before = resident(injector.id())?;
    let mut alone = run(&mut client, &review, ALONE).await?;
    alone.sort_unstable();
    let at_rank = |share: usize| alone.get(alone.len() * share / 1_000).copied().unwrap_or_default();
    println!("a review alone: median {:?}, p99 {:?}, p99.9 {:?}", at_rank(500), at_rank(990), at_rank(999));
    let each = (REVIEWS - ALONE) / CONNECTIONS;
    let watch = Stopwatch::start();
    let mut running = Vec::new();
    for _ in 0..CONNECTIONS {
        let (mut client, review) = (open(at, &root).await?, review.clone());
        running.push(tasks::spawn("client", async move { run(&mut client, &review, each).await }));
    }
    for task in running {
        task.await??;
    }
    let rate = (each * CONNECTIONS) as f64 / watch.elapsed().as_secs_f64();
    println!("{CONNECTIONS} connections, one core: {rate:.0} reviews/s");
    println!(
        "resident memory: {before} KiB before, {} KiB after {REVIEWS} reviews",
        resident(injector.id())?
    );
    Ok(())
}

async fn open(at: SocketAddr, root: &CertificateDer<'static>) -> Result<SendRequest<Full<Bytes>>> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone())?;
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = TcpStream::connect(at).await?;
    tcp.set_nodelay(true)?;
    let stream = TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(NAME)?, tcp).await?;
    let (send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tasks::spawn("connection", connection);
    Ok(send)
}

/// Asks so often, one after the other; how long each took.
async fn run(client: &mut SendRequest<Full<Bytes>>, review: &Bytes, times: usize) -> Result<Vec<Duration>> {
    let mut took = Vec::with_capacity(times);
    for _ in 0..times {
        let request = Request::post("/mutate")
            .header("host", NAME)
            .header("content-type", "application/json")
            .body(Full::new(review.clone()))?;
        let watch = Stopwatch::start();
        client.ready().await?;
        let response = client.send_request(request).await?;
        ensure!(response.status() == 200, "{}", response.status());
        let body = response.into_body().collect().await?.to_bytes();
        took.push(watch.elapsed());
        ensure!(body.windows(9).any(|part| part == b"JSONPatch"), "no patch");
    }
    Ok(took)
}

/// An ordinary pod: two containers, twenty variables, two volumes.
fn review() -> String {
    let env: Vec<_> = (0..20)
        .map(|n| serde_json::json!({"name": format!("SETTING_{n}"), "value": "x".repeat(32)}))
        .collect();
    let container = |name: &str| {
        serde_json::json!({"name": name, "image": "registry.example/agent@sha256:0", "env": env,
            "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}, "ports": [{"containerPort": 8080}],
            "volumeMounts": [{"name": "data", "mountPath": "/data"}]})
    };
    let pod = serde_json::json!({"metadata": {"generateName": "crm-", "labels": {"app": "crm"}},
        "spec": {"containers": [container("agent"), container("tools")],
            "volumes": [{"name": "data", "emptyDir": {}}, {"name": "config", "configMap": {"name": "c"}}]}});
    serde_json::json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "1", "namespace": "team",
        "operation": "CREATE", "kind": {"group": "", "version": "v1", "kind": "Pod"}, "object": pod}})
    .to_string()
}

/// What a process has in memory, in KiB.
fn resident(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
