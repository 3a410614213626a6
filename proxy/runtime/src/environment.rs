//! The only place that reads the environment.

use std::collections::HashMap;
use std::path::PathBuf;

/// Prefix of the environment variables that set keys of the configuration.
const PREFIX: &str = "SIDEGUARD_";
/// Variables with that prefix that are not keys of the configuration.
const NOT_KEYS: [&str; 8] = [
    "SIDEGUARD_STATE",
    "SIDEGUARD_LOG",
    "SIDEGUARD_CONFIG",
    "SIDEGUARD_BIN",
    // The client commands' own.
    "SIDEGUARD_CONTROL_URL",
    "SIDEGUARD_KEY",
    "SIDEGUARD_KEY_FILE",
    "SIDEGUARD_CA_FILE",
];

/// Value of a variable, when it is set to non-empty Unicode.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is where the environment is read")]
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// What the environment says of a daemon's configuration: variables that begin with `SIDEGUARD_`, as pairs of name and
/// value, without those that are no keys of it.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is where the environment is read")]
pub fn configuration() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| name.starts_with(PREFIX) && !NOT_KEYS.contains(&name.as_str()))
        .collect()
}

/// This process's own arguments, without the program's name; those that are not Unicode are left out.
pub fn own_arguments() -> impl Iterator<Item = String> {
    std::env::args_os().skip(1).filter_map(|word| word.into_string().ok())
}

/// This host's name, in lower-case letters, digits, `-` and `.`.
#[must_use]
pub fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().to_ascii_lowercase();
    let plain = |c: &char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    let name: String = name.trim().chars().filter(plain).collect();
    if name.is_empty() { "unnamed".to_owned() } else { name }
}

/// What the environment says of OpenTelemetry: variables that begin with `OTEL_` and are not empty.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is where the environment is read")]
pub fn opentelemetry() -> HashMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, value)| name.starts_with("OTEL_") && !value.is_empty())
        .collect()
}

/// The state directory when none is given: `$SIDEGUARD_STATE`, else `$XDG_STATE_HOME/sideguard`, else
/// `~/.local/state/sideguard`, else `./.sideguard`.
#[must_use]
pub fn state_directory() -> PathBuf {
    if let Some(state) = variable("SIDEGUARD_STATE") {
        return state.into();
    }
    if let Some(state) = variable("XDG_STATE_HOME") {
        return PathBuf::from(state).join("sideguard");
    }
    variable("HOME")
        .map_or_else(|| ".sideguard".into(), |home| PathBuf::from(home).join(".local/state/sideguard"))
}
