//! The only place that reads the environment.

use std::path::PathBuf;

/// Value of a variable, when it is set to non-empty Unicode.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is where the environment is read")]
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Every variable whose name starts with `prefix`, as pairs of name and value.
#[expect(clippy::disallowed_methods, reason = "this is where the environment is read")]
pub fn with_prefix(prefix: &str) -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| name.starts_with(prefix))
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
