//! The control service behind TLS, and behind certificates of clients.

use std::path::Path;

use harness::sidecar::ALLOW;
use harness::tls::Authority;
use harness::{Fake, Service, client, command};

/// Writes a certificate of an authority and its key; gives their names.
fn issue(authority: &Authority, dir: &Path, name: &str) -> (String, String) {
    let (certificate, key) = authority.issue(&["127.0.0.1"]);
    let path = |end: &str| dir.join(format!("{name}.{end}")).display().to_string();
    std::fs::write(path("crt"), certificate).expect("a file");
    std::fs::write(path("key"), key).expect("a file");
    (path("crt"), path("key"))
}

async fn run(
    service: &Service,
    roots: &Path,
    own: Option<&(String, String)>,
    arguments: &[&str],
) -> command::Ran {
    let mut command = command::command(&service.state(), arguments);
    command.current_dir(service.dir()).env("SIDEGUARD_CA_FILE", roots);
    if let Some((certificate, key)) = own {
        command.env("SIDEGUARD_CERTIFICATE_FILE", certificate).env("SIDEGUARD_CERTIFICATE_KEY_FILE", key);
    }
    command::ran(command).await
}

/// A sidecar of a service that this machine's commands reach in a way of their own.
fn sidecar(service: &Service, token: &str, keys: &str) -> harness::Sidecar {
    let file = service.dir().join("sidecar.token");
    std::fs::write(&file, token).expect("a file");
    harness::Sidecar::fleet(&format!(
        "  agent: {{name: reader}}\n  control: {{url: \"{}\", token: {{file: \"{}\"}}{keys}}}\n",
        service.url(),
        file.display()
    ))
}

async fn lets_through(sidecar: &harness::Sidecar) {
    let tool = Fake::json("{}").await;
    let since = sideguard_runtime::clock::Stopwatch::start();
    loop {
        let url = format!("{}/{}", tool.url(), sideguard_runtime::id::token(8));
        if client::absolute(sidecar, "GET", &url, &[], "").await.status == 200 {
            return;
        }
        assert!(since.elapsed().as_secs() < 10, "control is not reached: {}", sidecar.log());
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn commands_and_sidecars_check_the_services_certificate() {
    let (authority, other, dir) =
        (Authority::new(), Authority::new(), tempfile::tempdir().expect("a directory"));
    let (certificate, key) = issue(&authority, dir.path(), "server");
    let service = Service::with(&format!("  tls: {{certificate: \"{certificate}\", key: \"{key}\"}}\n"));
    assert!(service.url().starts_with("https://"), "{}", service.url());
    std::fs::write(service.dir().join("allow.yaml"), ALLOW).expect("a file");
    let applied = run(&service, authority.path(), None, &["apply", "-f", "allow.yaml"]).await;
    assert_eq!(applied.code, Some(0), "{}", applied.err);
    for roots in [other.path(), Path::new("/etc/ssl/certs/ca-certificates.crt")] {
        let refused = run(&service, roots, None, &["get", "kills"]).await;
        assert_eq!(refused.code, Some(125), "{}", refused.err);
    }
    let token = run(&service, authority.path(), None, &["token"]).await.out;
    let mistaken = sidecar(&service, &token, &format!(", ca: \"{}\"", other.path().display()));
    harness::until("it finds another's certificate", || mistaken.log().contains("control is out of reach"))
        .await;
    let trusting = sidecar(&service, &token, &format!(", ca: \"{}\"", authority.path().display()));
    lets_through(&trusting).await;
}

#[tokio::test]
async fn where_certificates_are_asked_for_nobody_gets_in_without_one() {
    let (authority, other, dir) =
        (Authority::new(), Authority::new(), tempfile::tempdir().expect("a directory"));
    let (certificate, key) = issue(&authority, dir.path(), "server");
    let service = Service::with(&format!(
        "  tls: {{certificate: \"{certificate}\", key: \"{key}\", clients: \"{}\"}}\n",
        authority.path().display()
    ));
    let (own, foreign) = (issue(&authority, dir.path(), "own"), issue(&other, dir.path(), "foreign"));
    let get = ["get", "kills"];
    let without = run(&service, authority.path(), None, &get).await;
    assert_eq!(without.code, Some(1), "{}", without.err);
    assert!(without.err.contains("client certificate"), "{}", without.err);
    assert_eq!(run(&service, authority.path(), Some(&foreign), &get).await.code, Some(125));
    assert_eq!(run(&service, authority.path(), Some(&own), &get).await.code, Some(0));
    // A probe has none.
    let tcp =
        tokio::net::TcpStream::connect(service.url().trim_start_matches("https://")).await.expect("a port");
    let stream =
        client::over_tls(tcp, authority.pem(), "127.0.0.1", client::Version::One).await.expect("TLS");
    let reply = client::over(stream, client::Version::One, "GET", "127.0.0.1", "/healthz").await;
    assert_eq!(reply.status, 200);
    std::fs::write(service.dir().join("allow.yaml"), ALLOW).expect("a file");
    let applied = run(&service, authority.path(), Some(&own), &["apply", "-f", "allow.yaml"]).await;
    assert_eq!(applied.code, Some(0), "{}", applied.err);
    let token = run(&service, authority.path(), Some(&own), &["token"]).await.out;
    let keys =
        format!(", ca: \"{}\", certificate: \"{}\", key: \"{}\"", authority.path().display(), own.0, own.1);
    lets_through(&sidecar(&service, &token, &keys)).await;
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_is_told_before_the_port_opens() {
    let (authority, dir) = (Authority::new(), tempfile::tempdir().expect("a directory"));
    let (certificate, _) = issue(&authority, dir.path(), "one");
    let (_, key) = issue(&authority, dir.path(), "two");
    let file = dir.path().join("control.yaml");
    let config = format!(
        "apiVersion: sideguard.dev/v1\nkind: Control\nspec: {{listen: \"127.0.0.1:0\", tls: {{certificate: \"{certificate}\", \
         key: \"{key}\"}}}}\n"
    );
    std::fs::write(&file, config).expect("a file");
    let ran = command::sideguard(dir.path(), &["control", "-c", &file.display().to_string()]).await;
    assert_eq!(ran.code, Some(64), "{}", ran.err);
    assert!(ran.err.contains("tls:"), "{}", ran.err);
}
