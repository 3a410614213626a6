//! The injector's side towards the cluster: its certificate is always one that the API server trusts, whatever changes, and
//! what it knows is what the cluster has.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use harness::{Cluster, tls, until};
use rustls::ServerConfig;
use rustls::pki_types::ServerName;
use serde_json::json;
use sideguard_injector::certificate::Certificate;
use sideguard_injector::cluster::{Ages, Place, start};
use sideguard_injector::known::{Facts, Version};
use sideguard_runtime::clock::Stopwatch;
use sideguard_runtime::tasks;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

const NAME: &str = "sideguard-injector.sideguard-system.svc";
const KINDS: [(&str, &str); 2] = [
    ("mutatingwebhookconfigurations", "MutatingWebhookConfiguration"),
    ("validatingwebhookconfigurations", "ValidatingWebhookConfiguration"),
];

fn configurations(cluster: &Cluster) {
    for (_, kind) in KINDS {
        cluster.put(&json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
            "metadata": { "name": "sideguard-injector" },
            "webhooks": [
                { "name": "pods.sideguard.dev", "clientConfig": { "service": { "name": "sideguard-injector" } } },
                { "name": "ephemeral.sideguard.dev", "clientConfig": { "service": { "name": "sideguard-injector" } } },
            ],
        }));
    }
}

/// The roots that every webhook has, if they all have the same.
fn bundle(cluster: &Cluster) -> Option<String> {
    let mut all = BTreeSet::new();
    for (plural, _) in KINDS {
        let object = cluster.object(plural, "", "sideguard-injector")?;
        for webhook in object["webhooks"].as_array()? {
            all.insert(webhook["clientConfig"]["caBundle"].as_str().unwrap_or_default().to_owned());
        }
    }
    let one = all.pop_first().filter(|one| all.is_empty() && !one.is_empty())?;
    String::from_utf8(STANDARD.decode(one).ok()?).ok()
}

fn place(cluster: &Cluster, ages: Ages) -> Place {
    Place { kubeconfig: Some(cluster.kubeconfig()), ages, ..Place::default() }
}

/// A port that shows a certificate, as the webhook's does.
async fn port(certificate: Certificate) -> (std::net::SocketAddr, tasks::Owned) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(certificate));
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let serve = async move {
        loop {
            let Ok((tcp, _)) = listener.accept().await else { continue };
            // Whoever does not trust it goes.
            drop(acceptor.accept(tcp).await);
        }
    };
    (address, tasks::Owned::new(&tasks::spawn("webhook", serve)))
}

/// Connects as the API server does, with these roots; gives the certificate that was shown.
async fn review(to: std::net::SocketAddr, roots: &str) -> Result<Vec<u8>, String> {
    let tcp = TcpStream::connect(to).await.map_err(|error| error.to_string())?;
    let connector = TlsConnector::from(tls::client(roots, &[]));
    let name = ServerName::try_from(NAME).expect("a name");
    let stream = connector.connect(name, tcp).await.map_err(|error| error.to_string())?;
    let shown = stream.get_ref().1.peer_certificates().expect("a certificate");
    Ok(shown[0].to_vec())
}

#[tokio::test]
async fn authority_and_certificate_change_without_a_refused_review() {
    let cluster = Cluster::start().await;
    configurations(&cluster);
    let seconds = Duration::from_secs;
    let ages = Ages { authority: seconds(9), certificate: seconds(4), settle: seconds(1) };
    // Two replicas, of which each shows what the Secret says.
    let (first, second) = (Certificate::default(), Certificate::default());
    let mut work =
        start(place(&cluster, ages), Some(Facts::default()), Some(first.clone())).await.expect("a cluster");
    work.extend(
        start(place(&cluster, ages), Some(Facts::default()), Some(second.clone())).await.expect("a cluster"),
    );
    let ((one, _one), (two, _two)) = (port(first.clone()).await, port(second.clone()).await);
    until("both have a certificate that is trusted", || {
        bundle(&cluster).is_some() && first.expires().is_some() && second.expires().is_some()
    })
    .await;
    let (mut leaves, mut bundles) = (BTreeSet::new(), BTreeSet::new());
    let since = Stopwatch::start();
    while since.elapsed() < seconds(16) {
        let Some(roots) = bundle(&cluster) else {
            // Between one configuration and the other: the API server has a whole one of each.
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        for port in [one, two] {
            let shown = review(port, &roots).await;
            leaves.insert(
                shown.unwrap_or_else(|error| {
                    panic!("a review is refused after {:?}: {error}", since.elapsed())
                }),
            );
        }
        bundles.insert(roots);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(leaves.len() >= 4, "{} certificates", leaves.len());
    assert!(bundles.len() >= 3, "{} bundles", bundles.len());
}

#[tokio::test]
async fn roots_that_somebody_has_wiped_are_put_back() {
    let cluster = Cluster::start().await;
    configurations(&cluster);
    let certificate = Certificate::default();
    let _work = start(place(&cluster, Ages::default()), Some(Facts::default()), Some(certificate.clone()))
        .await
        .expect("a cluster");
    until("the roots are told", || bundle(&cluster).is_some()).await;
    let before = bundle(&cluster);
    // As an upgrade of the chart does.
    configurations(&cluster);
    assert_eq!(bundle(&cluster), None);
    until("they are put back", || bundle(&cluster) == before).await;
    // A Secret that is gone is another authority, told before it is needed.
    cluster.remove("secrets", "sideguard-system", "sideguard-injector");
    until("another authority", || bundle(&cluster).is_some_and(|now| Some(now) != before)).await;
}

#[tokio::test]
async fn what_is_known_is_what_the_cluster_has() {
    let cluster = Cluster::start().await;
    configurations(&cluster);
    let facts = Facts::default();
    cluster.cut();
    let _work = start(place(&cluster, Ages::default()), Some(facts.clone()), Some(Certificate::default()))
        .await
        .expect("a cluster");
    assert!(facts.known().is_none(), "nothing is known before it was seen");
    cluster.namespace("team", json!({ "sideguard.dev/inject": "enabled" }));
    cluster.apply(
        "apiVersion: sideguard.dev/v1\nkind: Agent\nmetadata: {name: reader, namespace: team}\nspec: {models: [gpt-5]}\n",
    );
    cluster.mend();
    let knows = |wanted: &dyn Fn(&sideguard_injector::known::Known) -> bool| {
        facts.known().is_some_and(|known| wanted(&known))
    };
    until("all is known", || {
        knows(&|known| known.namespaces["team"].opted_in() && known.profile("team", "reader").is_some())
    })
    .await;
    assert_eq!(facts.known().and_then(|known| known.version), Some(Version { major: 1, minor: 33 }));
    cluster.namespace("team", json!({}));
    cluster.remove("agents", "team", "reader");
    until("what went is not known any more", || {
        knows(&|known| !known.namespaces["team"].opted_in() && known.profile("team", "reader").is_none())
    })
    .await;
    let asked = cluster.asked();
    let allowed = [
        "list namespaces",
        "watch namespaces",
        "list agents",
        "watch agents",
        "list secrets",
        "watch secrets",
        "create secrets",
        "patch secrets",
        "list mutatingwebhookconfigurations",
        "watch mutatingwebhookconfigurations",
        "patch mutatingwebhookconfigurations",
        "list validatingwebhookconfigurations",
        "watch validatingwebhookconfigurations",
        "patch validatingwebhookconfigurations",
    ];
    for one in asked {
        assert!(allowed.contains(&one.as_str()), "`{one}` is not among what the chart's role allows");
    }
}
