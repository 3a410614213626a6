//! An injector of the built binary, and the side of the API server: it asks, and checks what it is answered.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use sideguard_runtime::tasks;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::client::Reply;
use crate::sidecar;
use crate::tls::{self, Authority};

/// Name of the webhook's service, which its certificate is for.
pub const NAME: &str = "sideguard-injector.sideguard.svc";
/// Longest time for it to open its ports.
const START: Duration = Duration::from_secs(20);
/// A namespace `team` that is opted in, its Agent `researcher`, and namespaces beside it.
pub const KNOWN: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: team, labels: {sideguard.dev/inject: enabled, \
    sideguard.dev/default-profile: researcher}}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: other}\n---\n\
    apiVersion: sideguard.dev/v1\nkind: Agent\nmetadata: {name: researcher, namespace: team}\nspec: {}\n";

/// An injector. It ends with this.
pub struct Injector {
    child: Child,
    dir: TempDir,
    authority: Authority,
    /// Where the webhook is.
    pub webhook: SocketAddr,
    /// Where health and metrics are.
    pub admin: SocketAddr,
}

impl Injector {
    /// Starts one with further lines of its spec, and what is known.
    ///
    /// # Panics
    /// When it does not open its ports.
    #[must_use]
    pub fn start(spec: &str, known: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let authority = Authority::new();
        certify(&authority, dir.path());
        fs::write(dir.path().join("known.yaml"), known).expect("a file");
        let text = format!(
            "apiVersion: sideguard.dev/v1\nkind: Injector\nspec:\n  listen: {{webhook: \"127.0.0.1:0\", admin: \"127.0.0.1:0\"}}\n  \
             certificate: {{certificate: tls.crt, key: tls.key}}\n  known: known.yaml\n{spec}"
        );
        fs::write(dir.path().join("injector.yaml"), text).expect("a file");
        let mut child = Command::new(sidecar::binary())
            .arg("injector")
            .arg("-c")
            .arg(dir.path().join("injector.yaml"))
            .stderr(Stdio::piped())
            .spawn()
            .expect("a start");
        let (webhook, admin) = ports(&mut child);
        Self { child, dir, authority, webhook, admin }
    }

    /// Its directory: `tls.crt`, `tls.key` and `known.yaml` are followed.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The root that its certificate comes from.
    #[must_use]
    pub const fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Sends bytes to a path, as the API server would.
    ///
    /// # Errors
    /// When there is no connection, or no answer.
    pub async fn send(&self, roots: &str, path: &str, media: &str, body: Bytes) -> Result<Reply, String> {
        let tls = TlsConnector::from(tls::client(roots, &["http/1.1"]));
        let tcp = TcpStream::connect(self.webhook).await.map_err(|error| error.to_string())?;
        let name = ServerName::try_from(NAME).expect("a name");
        let stream = tls.connect(name, tcp).await.map_err(|error| error.to_string())?;
        let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        tasks::spawn("client", connection);
        let request = Request::post(format!("https://{NAME}{path}"))
            .header("host", NAME)
            .header("content-type", media)
            .body(Full::new(body))
            .expect("a request");
        let response = send.send_request(request).await.map_err(|error| error.to_string())?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
        Ok(Reply {
            status: head.status.as_u16(),
            headers: head.headers,
            body,
            trailers: http::HeaderMap::new(),
        })
    }

    /// Asks about a pod.
    ///
    /// # Panics
    /// When it is not answered as an API server wants it: status, version and uid.
    pub async fn review(&self, path: &str, review: &Value) -> Value {
        let body = Bytes::from(review.to_string());
        let reply = self.send(self.authority.pem(), path, "application/json", body).await.expect("an answer");
        assert_eq!(reply.status, 200, "{}", reply.text());
        let answer = reply.json();
        assert_eq!(
            (&answer["apiVersion"], &answer["kind"]),
            (&json!("admission.k8s.io/v1"), &json!("AdmissionReview"))
        );
        assert_eq!(answer["response"]["uid"], review["request"]["uid"]);
        answer["response"].clone()
    }

    /// Shows another certificate, of the same authority or another one.
    pub fn renew(&self, authority: &Authority) {
        certify(authority, self.dir.path());
    }

    /// Sends SIGTERM and waits for the end.
    ///
    /// # Panics
    /// When it cannot be sent.
    #[must_use]
    pub fn terminate(&mut self) -> ExitStatus {
        let sent = Command::new("kill").arg("-TERM").arg(self.child.id().to_string()).status();
        assert!(sent.expect("kill runs").success(), "the process is there");
        self.child.wait().expect("the process")
    }
}

impl Drop for Injector {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A review of a pod that is made.
#[must_use]
pub fn review(pod: &Value, namespace: &str) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": namespace,
            "operation": "CREATE",
            "userInfo": {"username": "alice", "groups": ["system:authenticated"]},
            "object": pod,
            "oldObject": null,
            "dryRun": false,
        },
    })
}

fn certify(authority: &Authority, dir: &Path) {
    let (certificate, key) = authority.issue(&[NAME]);
    fs::write(dir.join("tls.key"), key).expect("a file");
    fs::write(dir.join("tls.crt"), certificate).expect("a file");
}

/// Reads the line that says where the ports are, and lets the rest of the log pass to the test's own output.
fn ports(child: &mut Child) -> (SocketAddr, SocketAddr) {
    let stderr = child.stderr.take().expect("standard error");
    let (send, receive) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            eprintln!("{line}");
            if let Some((webhook, admin)) =
                line.strip_prefix("sideguard: webhook ").and_then(|rest| rest.split_once(" admin "))
            {
                // The test may have given up.
                let _ = send.send((webhook.parse().expect("an address"), admin.parse().expect("an address")));
            }
        }
    });
    receive.recv_timeout(START).expect("the injector opens its ports")
}
