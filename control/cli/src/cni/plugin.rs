//! The plugin: sets the rules in a pod's network before anything runs there.
//!
//! A pod is governed when its annotation `sideguard.dev/status`, which the injector writes, says so; the runtime hands
//! annotations on to plugins that ask for them. What the rules are stands in the node's list of plugins and nowhere in the
//! pod: whoever may change a pod's annotations cannot loosen them. A pod that lost its annotation gets no rules, and its own
//! check ends it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;

use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};
use serde::Deserialize;
use serde_json::{Value, json};
use sideguard_capture::rules;
use sideguard_runtime::environment;

use super::rules_of;

/// Versions of the specification that this speaks.
const VERSIONS: [&str; 5] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0", "0.3.0"];
/// The annotation in which the injector says what it did.
const STATUS: &str = "sideguard.dev/status";
/// Longest configuration that is read, in bytes.
const LONGEST: u64 = 4 << 20;

/// What the runtime says, as far as it matters here.
#[derive(Debug, Default, Deserialize)]
struct Config {
    #[serde(rename = "cniVersion", default)]
    version: String,
    /// What the plugins before this one have made.
    #[serde(rename = "prevResult")]
    made: Option<Value>,
    #[serde(rename = "runtimeConfig", default)]
    runtime: Runtime,
    /// Flags of `sideguard init`.
    #[serde(default)]
    rules: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Runtime {
    #[serde(rename = "io.kubernetes.cri.pod-annotations", default)]
    annotations: BTreeMap<String, String>,
}

/// Why not, with the specification's code.
#[derive(Debug, PartialEq, Eq)]
struct Refusal(u32, String);

/// An environment variable is wrong.
const ENVIRONMENT: u32 = 4;
/// The configuration cannot be read.
const UNREADABLE: u32 = 6;
/// The configuration is wrong.
const WRONG: u32 = 7;
/// The rules are not in force; codes from 100 are a plugin's own.
const NO_RULES: u32 = 100;

/// Does what the runtime asks.
pub(super) fn run(root: Option<&Path>) -> ExitCode {
    let mut text = String::new();
    let read = std::io::stdin().take(LONGEST).read_to_string(&mut text);
    let config = match read.map_err(|error| error.to_string()) {
        // Nothing at all is what VERSION may get.
        Ok(_) if text.trim().is_empty() => Ok(Config::default()),
        Ok(_) => serde_json::from_str(&text).map_err(|error| error.to_string()),
        Err(error) => Err(error),
    };
    let version = config.as_ref().map(|config| config.version.clone()).unwrap_or_default();
    let done = config
        .map_err(|error| Refusal(UNREADABLE, format!("the configuration cannot be read: {error}")))
        .and_then(|config| answer(&environment::variable("CNI_COMMAND").unwrap_or_default(), config, root));
    match done {
        Ok(Some(result)) => println!("{result}"),
        Ok(None) => {}
        Err(Refusal(code, message)) => {
            println!(
                "{}",
                json!({"cniVersion": version, "code": code, "msg": format!("sideguard: {message}")})
            );
            return ExitCode::from(1);
        }
    }
    ExitCode::SUCCESS
}

fn answer(command: &str, config: Config, root: Option<&Path>) -> Result<Option<Value>, Refusal> {
    match command {
        "VERSION" => Ok(Some(json!({"cniVersion": "1.1.0", "supportedVersions": VERSIONS}))),
        "ADD" => {
            if governed(&config)? {
                capture(&config, root)?;
            }
            let missing = || Refusal(WRONG, "no `prevResult`: this plugin comes after others".to_owned());
            config.made.map(Some).ok_or_else(missing)
        }
        "CHECK" if governed(&config)? => {
            enter(root)?;
            rules::counters().map(|_| None).map_err(|error| Refusal(NO_RULES, error.to_string()))
        }
        // The rules end with the namespace that they are in.
        "CHECK" | "DEL" | "GC" | "STATUS" => Ok(None),
        other => Err(Refusal(ENVIRONMENT, format!("CNI_COMMAND `{other}` is not known"))),
    }
}

/// Whether the pod's rules are this node's to set.
fn governed(config: &Config) -> Result<bool, Refusal> {
    let Some(status) = config.runtime.annotations.get(STATUS) else { return Ok(false) };
    let status: Value = serde_json::from_str(status)
        .map_err(|error| Refusal(WRONG, format!("annotation `{STATUS}` cannot be read: {error}")))?;
    Ok(status["capture"] == "cni")
}

fn capture(config: &Config, root: Option<&Path>) -> Result<(), Refusal> {
    let rules = rules_of(&config.rules).map_err(|what| Refusal(WRONG, format!("`rules`: {what}")))?;
    enter(root)?;
    rules::apply(&rules).map_err(|error| Refusal(NO_RULES, error.to_string()))?;
    if rules::hold() {
        return Ok(());
    }
    Err(Refusal(
        NO_RULES,
        "the rules are in place, but a connection that they redirect is not refused".to_owned(),
    ))
}

/// Goes into the pod's network, and to the files that the rules need.
fn enter(root: Option<&Path>) -> Result<(), Refusal> {
    let path = environment::variable("CNI_NETNS").unwrap_or_default();
    let refused =
        |error: &dyn std::fmt::Display| Refusal(ENVIRONMENT, format!("CNI_NETNS `{path}`: {error}"));
    let network = File::open(&path).map_err(|error| refused(&error))?;
    move_into_thread_name_spaces(network.as_fd(), ThreadNameSpaceType::NETWORK)
        .map_err(|error| refused(&error))?;
    let Some(root) = root else { return Ok(()) };
    let inside = rustix::process::chroot(root).and_then(|()| rustix::process::chdir("/"));
    inside.map_err(|error| Refusal(NO_RULES, format!("`{}`: {error}", root.display())))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Config, ENVIRONMENT, Refusal, WRONG, answer, governed};

    fn config(status: Option<&str>) -> Config {
        let annotations = status.map(|status| json!({"sideguard.dev/status": status})).unwrap_or(json!({}));
        let text = json!({"cniVersion": "1.0.0", "name": "n", "type": "sideguard-cni", "prevResult": {"ips": [1]},
            "runtimeConfig": {"io.kubernetes.cri.pod-annotations": annotations}, "args": {"cni": {}}});
        serde_json::from_value(text).expect("a configuration")
    }

    #[test]
    fn pods_that_are_not_captured_by_the_node_pass_unchanged() {
        for status in [None, Some(r#"{"capture": "init"}"#), Some("{}")] {
            assert_eq!(answer("ADD", config(status), None), Ok(Some(json!({"ips": [1]}))), "{status:?}");
        }
        assert_eq!(governed(&config(Some(r#"{"capture": "cni"}"#))), Ok(true));
    }

    #[test]
    fn when_in_doubt_a_pod_gets_no_network() {
        assert!(matches!(answer("ADD", config(Some("{")), None), Err(Refusal(WRONG, _))));
        assert!(matches!(answer("ADD", Config::default(), None), Err(Refusal(WRONG, _))));
        let mut wrong = config(Some(r#"{"capture": "cni"}"#));
        wrong.rules = vec!["--proxy-uid=0".to_owned()];
        assert!(matches!(answer("ADD", wrong, None), Err(Refusal(WRONG, what)) if what.contains("uid 0")));
        // No network is named.
        let governed = || config(Some(r#"{"capture": "cni"}"#));
        assert!(matches!(answer("ADD", governed(), None), Err(Refusal(ENVIRONMENT, _))));
        assert!(matches!(answer("CHECK", governed(), None), Err(Refusal(ENVIRONMENT, _))));
        assert!(matches!(answer("add", config(None), None), Err(Refusal(ENVIRONMENT, _))));
    }

    #[test]
    fn a_pod_can_always_be_taken_away() {
        for status in [None, Some("{"), Some(r#"{"capture": "cni"}"#)] {
            assert_eq!(answer("DEL", config(status), None), Ok(None));
        }
    }
}
