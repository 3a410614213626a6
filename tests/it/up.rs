//! `sideguard up`: control service and proxy in one process, on a machine with nothing else.

use harness::command::{Ran, sideguard};
use harness::{Fake, client};
use serde_json::Value;
use tempfile::TempDir;

/// A machine with nothing on it, on which it is up until the test ends.
struct Machine(TempDir);

const FREE: [&str; 6] = ["--control", "127.0.0.1:0", "--outbound", "127.0.0.1:0", "--admin", "127.0.0.1:0"];

impl Machine {
    async fn run(&self, arguments: &[&str]) -> Ran {
        sideguard(self.0.path(), arguments).await
    }

    async fn up(&self, more: &[&str]) -> Ran {
        self.run(&[&["up", "--detach"], &FREE[..], &["--private", "127.0.0.0/8"], more].concat()).await
    }

    fn ports(&self) -> Value {
        let text = std::fs::read_to_string(self.0.path().join("ports.json")).expect("the ports");
        serde_json::from_str(&text).expect("JSON")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let mut down = std::process::Command::new(harness::sidecar::binary());
        // It may be down already.
        let _ = down.arg("down").arg("--state").arg(self.0.path()).output();
    }
}

#[tokio::test]
async fn one_command_gives_control_and_proxy() {
    let machine = Machine(tempfile::tempdir().expect("a directory"));
    let (up, tool) = (machine.up(&[]).await, Fake::json("{}").await);
    assert_eq!(up.code, Some(0), "{}", up.err);
    let ports = machine.ports();
    let [control, outbound] =
        ["control", "outbound"].map(|name| ports[name].as_str().expect("a port").to_owned());
    assert!(up.out.contains(&control) && up.out.contains(&outbound), "{}", up.out);
    // The starter policy is in force: reads pass, destruction does not.
    let address = outbound.parse().expect("an address");
    let call = async |method: &str| {
        client::absolute_at(address, method, &format!("{}/{method}", tool.url()), &[], "").await.status
    };
    assert_eq!((call("GET").await, call("DELETE").await), (200, 403));
    // It reports within a moment.
    let mut agents = machine.run(&["get", "agents", "-o", "json"]).await;
    for _ in 0..100 {
        if agents.out.contains("current") {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        agents = machine.run(&["get", "agents", "-o", "json"]).await;
    }
    assert!(
        agents.out.contains("\"local\"") && agents.out.contains("current"),
        "{}{}",
        agents.out,
        agents.err
    );
    let twice = machine.up(&[]).await;
    assert_eq!(twice.code, Some(125));
    assert!(twice.err.contains("`sideguard down` ends it"), "{}", twice.err);
    let down = machine.run(&["down"]).await;
    assert_eq!((down.code, down.out.as_str()), (Some(0), "sideguard: down\n"), "{}", down.err);
    assert!(!machine.0.path().join("ports.json").exists());
    assert_eq!(machine.run(&["down"]).await.code, Some(1));
    // What was applied is still there; another sidecar would be a stranger in `get`.
    assert_eq!(machine.up(&[]).await.code, Some(0));
    let history = machine.run(&["history", "-o", "json"]).await;
    let history: Value = serde_json::from_str(&history.out).expect("JSON");
    assert_eq!(history.as_array().map(Vec::len), Some(1), "{history}");
    let sidecars = machine.run(&["get", "sidecars", "-o", "json"]).await;
    let sidecars: Value = serde_json::from_str(&sidecars.out).expect("JSON");
    assert_eq!(sidecars["items"].as_array().map(Vec::len), Some(1), "{sidecars}");
}

#[tokio::test]
async fn what_cannot_start_says_why_and_leaves_nothing_running() {
    let machine = Machine(tempfile::tempdir().expect("a directory"));
    std::fs::write(machine.0.path().join("bad.yaml"), "kind: Nonsense\n").expect("a file");
    let bad = machine.0.path().join("bad.yaml");
    let refused = machine.up(&["-f", bad.to_str().expect("a path")]).await;
    assert_eq!(refused.code, Some(125), "{}", refused.err);
    assert!(refused.err.contains("bad.yaml:1:"), "{}", refused.err);
    assert_eq!(machine.run(&["down"]).await.code, Some(1), "nothing is up");
}
