//! The admission webhook and `sideguard inject`, through the built binary.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use harness::command::{self, command};
use harness::injector::{KNOWN, review};
use harness::tls::Authority;
use harness::{Injector, client};
use serde_json::{Value, json};

const JSON: &str = "application/json";
const MANIFEST: &str = "# kept\nkind: ConfigMap\ndata: {a: b}   # kept too\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: crm}\n\
    spec:\n  template:\n    spec:\n      containers:\n      - {name: agent, image: a}\n";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").to_owned()
}

fn pod() -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [{"name": "agent", "image": "a"}]}})
}

/// The pod that an API server makes of another one by an answer.
fn patched(pod: &Value, response: &Value) -> Value {
    assert_eq!(
        (&response["allowed"], &response["patchType"]),
        (&json!(true), &json!("JSONPatch")),
        "{response}"
    );
    let patch = STANDARD.decode(response["patch"].as_str().expect("a text")).expect("base64");
    let patch: json_patch::Patch = serde_json::from_slice(&patch).expect("a patch");
    let mut pod = pod.clone();
    json_patch::patch(&mut pod, &patch).expect("it applies");
    pod
}

async fn admin(injector: &Injector, path: &str) -> (u16, String) {
    let reply = client::direct(&format!("http://{}", injector.admin), "GET", path, &[], "").await;
    (reply.status, reply.text())
}

#[tokio::test]
async fn what_is_sideguards_in_a_pod_that_runs_stays_as_it_is() {
    let injector = Injector::start("", KNOWN);
    let made = patched(&pod(), &injector.review("/mutate", &review(&pod(), "team")).await);
    let changed = async |change: &dyn Fn(&mut Value)| {
        let mut asked = review(&made, "team");
        asked["request"]["operation"] = json!("UPDATE");
        asked["request"]["oldObject"] = made.clone();
        change(&mut asked["request"]["object"]);
        injector.review("/validate", &asked).await["allowed"] == true
    };
    assert!(changed(&|_| {}).await);
    assert!(changed(&|pod| pod["metadata"]["labels"]["team"] = json!("x")).await);
    assert!(changed(&|pod| pod["spec"]["containers"][0]["image"] = json!("agent:2")).await);
    assert!(!changed(&|pod| pod["spec"]["initContainers"][1]["image"] = json!("evil")).await);
    assert!(!changed(&|pod| pod["metadata"]["labels"]["sideguard.dev/profile"] = json!("admin")).await);
    assert!(!changed(&|pod| pod["metadata"]["annotations"]["sideguard.dev/status"] = json!("{}")).await);
    let mut unknown = review(&made, "team");
    unknown["request"]["operation"] = json!("UPDATE");
    assert_eq!(injector.review("/validate", &unknown).await["allowed"], false, "nobody says how it was");
}

#[tokio::test]
async fn a_pod_is_patched_over_https_and_passes_the_last_word() {
    let injector = Injector::start("", KNOWN);
    let made = patched(&pod(), &injector.review("/mutate", &review(&pod(), "team")).await);
    let names: Vec<&Value> =
        made["spec"]["initContainers"].as_array().expect("a list").iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["sideguard-init", "sideguard-proxy"]);
    assert_eq!(made["spec"]["initContainers"][1]["restartPolicy"], "Always");
    let again = injector.review("/mutate", &review(&made, "team")).await;
    assert_eq!((&again["allowed"], again.get("patch")), (&json!(true), None));
    assert_eq!(injector.review("/validate", &review(&made, "team")).await["allowed"], true);
    let refused = injector.review("/validate", &review(&pod(), "team")).await;
    assert_eq!((&refused["allowed"], &refused["status"]["code"]), (&json!(false), &json!(403)));
    let other = injector.review("/mutate", &review(&pod(), "other")).await;
    assert_eq!((&other["allowed"], other.get("patch")), (&json!(true), None));
    let mut forged = pod();
    forged["spec"]["hostNetwork"] = json!(true);
    let refused = injector.review("/mutate", &review(&forged, "team")).await;
    let message = refused["status"]["message"].as_str().expect("a message");
    assert!(message.contains("`hostNetwork` is not permitted"), "{message}");
    let (status, metrics) = admin(&injector, "/metrics").await;
    assert_eq!(status, 200);
    for line in [
        "sideguard_injector_reviews_total{webhook=\"mutate\",outcome=\"injected\"} 1",
        "sideguard_injector_reviews_total{webhook=\"mutate\",outcome=\"host\"} 1",
        "sideguard_injector_reviews_total{webhook=\"validate\",outcome=\"changed\"} 1",
        "sideguard_injector_review_seconds_count{webhook=\"mutate\"} 4",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    let left = metrics.lines().find_map(|line| line.strip_prefix("sideguard_webhook_cert_expiry_seconds "));
    assert!(left.and_then(|left| left.parse::<f64>().ok()).expect("a number") > 86_400.0);
}

#[tokio::test]
async fn what_is_no_review_is_answered_with_an_error_and_never_allowed() {
    let injector = Injector::start("", KNOWN);
    let roots = injector.authority().pem();
    let body = Bytes::from(review(&pod(), "team").to_string());
    let deep = Bytes::from(format!("{}{}", "[".repeat(1_000), "]".repeat(1_000)));
    let huge = Bytes::from(vec![b' '; (4 << 20) + 1]);
    for (path, media, body, status) in [
        ("/mutate", "text/plain", body.clone(), 400),
        ("/mutate", "", body.clone(), 400),
        ("/mutate", JSON, body.slice(..body.len() / 2), 400),
        ("/validate", JSON, deep, 400),
        ("/mutate", JSON, Bytes::new(), 400),
        ("/mutate", JSON, huge, 413),
        ("/", JSON, body.clone(), 404),
        ("/mutate/x", JSON, body.clone(), 404),
        ("/mutate?timeout=5s", "application/json; charset=utf-8", body.clone(), 200),
    ] {
        let reply = injector.send(roots, path, media, body).await.expect("an answer");
        assert_eq!(reply.status, status, "{path} {media}: {}", reply.text());
    }
    // A whole body of the largest size that an object may have is read.
    let mut large = pod();
    large["metadata"]["annotations"] = json!({"large": "x".repeat(3 << 20)});
    assert_eq!(injector.review("/mutate", &review(&large, "team")).await["allowed"], true);
    // Whoever does not know the authority does not get as far.
    assert!(injector.send(Authority::new().pem(), "/mutate", JSON, body).await.is_err());
}

#[tokio::test]
async fn certificate_and_knowledge_are_replaced_while_it_runs() {
    let injector = Injector::start("", KNOWN);
    let body = || Bytes::from(review(&pod(), "team").to_string());
    let next = Authority::new();
    injector.renew(&next);
    let both = format!("{}{}", injector.authority().pem(), next.pem());
    let mut shown = false;
    for _ in 0..200 {
        // An API server that trusts both authorities is answered all the while.
        let reply = injector.send(&both, "/mutate", JSON, body()).await.expect("an answer");
        assert_eq!(reply.status, 200);
        shown = injector.send(next.pem(), "/mutate", JSON, body()).await.is_ok();
        if shown {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(shown, "the new certificate is shown");
    assert!(injector.send(injector.authority().pem(), "/mutate", JSON, body()).await.is_err());
    // What cannot be used changes nothing.
    std::fs::write(injector.dir().join("tls.crt"), "nonsense").expect("a file");
    std::fs::write(injector.dir().join("known.yaml"), KNOWN.replace("name: other", "name: third"))
        .expect("a file");
    let mut known = false;
    for _ in 0..200 {
        let asked = review(&pod(), "third").to_string();
        let reply = injector.send(next.pem(), "/mutate", JSON, asked.into()).await.expect("an answer");
        known = reply.json()["response"]["allowed"] == true;
        if known {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(known, "the new namespace is known");
}

#[tokio::test]
async fn health_readiness_and_the_end() {
    let mut injector = Injector::start("", KNOWN);
    assert_eq!(admin(&injector, "/healthz").await.0, 200);
    assert_eq!(admin(&injector, "/readyz").await, (200, "ready\n".to_owned()));
    assert_eq!(admin(&injector, "/nothing").await.0, 404);
    assert_eq!(injector.terminate().code(), Some(0));
}

#[tokio::test]
async fn a_bad_configuration_opens_no_port() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("injector.yaml");
    for (spec, what) in [
        ("  nonsense: 1\n", "nonsense"),
        ("  proxy: {uid: 0}\n", "`proxy.uid` must not be 0"),
        ("  kubernetesVersion: new\n", "`new` is no version"),
        ("  known: absent.yaml\n  certificate: {certificate: a, key: b}\n", "certificate: cannot read"),
        ("  nativeSidecar: perhaps\n", "perhaps"),
    ] {
        std::fs::write(&file, format!("apiVersion: sideguard.dev/v1\nkind: Injector\nspec:\n{spec}"))
            .expect("a file");
        let ran = command::sideguard(dir.path(), &["injector", "-c", &file.display().to_string()]).await;
        assert_eq!(ran.code, Some(64), "{spec}: {}", ran.err);
        assert!(ran.err.contains(what), "{spec}: {}", ran.err);
    }
}

#[tokio::test]
async fn every_golden_pod_has_the_published_schema() {
    let golden = root().join("deploy/injector/tests/golden");
    let python = root().join("target/clients/python/bin/python");
    assert!(python.exists(), "`{}` is missing: tests/setup makes it", python.display());
    let mut check = tokio::process::Command::new(python);
    check.arg(root().join("tests/clients/schemas.py")).arg("1.29,1.33,1.37");
    for file in std::fs::read_dir(golden).expect("golden files") {
        check.arg(file.expect("a file").path());
    }
    let ran = command::ran(check).await;
    assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
    let checked: u32 =
        ran.out.trim().strip_prefix("checked ").and_then(|n| n.parse().ok()).expect("a number");
    assert!(checked > 60, "{}", ran.out);
}

#[tokio::test]
async fn manifests_are_injected_on_standard_input() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("in.yaml");
    std::fs::write(&file, MANIFEST).expect("a file");
    let mut inject = command(dir.path(), &["inject", "--profile", "researcher", "-n", "team"]);
    inject.stdin(std::fs::File::open(&file).expect("a file"));
    let ran = command::ran(inject).await;
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(
        ran.out.starts_with("# kept\nkind: ConfigMap\ndata: {a: b}   # kept too\n---\napiVersion: apps/v1\n"),
        "{}",
        ran.out
    );
    assert!(ran.out.contains("sideguard-proxy") && ran.out.contains("sideguard.dev/status"), "{}", ran.out);
    // The same patch as the webhook's.
    let pod = pod();
    std::fs::write(&file, pod.to_string()).expect("a file");
    std::fs::write(dir.path().join("known.yaml"), KNOWN).expect("a file");
    let path = |name: &str| dir.path().join(name).display().to_string();
    let ran = command::sideguard(
        dir.path(),
        &["inject", "-f", &path("in.yaml"), "--known", &path("known.yaml"), "-n", "team"],
    )
    .await;
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let injector = Injector::start("", KNOWN);
    let made = patched(&pod, &injector.review("/mutate", &review(&pod, "team")).await);
    assert_eq!(serde_json::from_str::<Value>(&ran.out).expect("JSON"), made);
}

#[tokio::test]
async fn a_manifest_that_is_refused_prints_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("in.yaml");
    for (text, code, what) in [
        (
            MANIFEST.replace("spec:\n      containers", "spec:\n      hostPID: true\n      containers"),
            1,
            "Deployment/crm: sideguard: `hostPID`",
        ),
        ("a: [\n".to_owned(), 64, "document 1"),
    ] {
        std::fs::write(&file, text).expect("a file");
        let ran =
            command::sideguard(dir.path(), &["inject", "-f", &file.display().to_string(), "--profile", "p"])
                .await;
        assert_eq!((ran.code, ran.out.as_str()), (Some(code), ""), "{}", ran.err);
        assert!(ran.err.contains(what), "{}", ran.err);
    }
}
