//! Logs and metrics.

use std::collections::HashSet;
use std::io::IsTerminal;

use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tracing_subscriber::EnvFilter;

use crate::environment;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging to standard error. The level comes from `SIDEGUARD_LOG` (as in `RUST_LOG`), else `default`.
/// A second call has no effect.
pub fn start_logs(default: &str, format: LogFormat) {
    let filter = environment::variable("SIDEGUARD_LOG").unwrap_or_else(|| default.to_owned());
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new(default));
    let ansi = environment::variable("NO_COLOR").is_none() && std::io::stderr().is_terminal();
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ansi);
    let started = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    // An earlier subscriber stays: two sidecars in one process share it.
    drop(started);
}

/// Names that may stand in a label, up to a number of them; further ones share `other`. What agents or users can make up
/// must not make as many series.
#[derive(Debug)]
pub struct Names {
    most: usize,
    known: Mutex<HashSet<String>>,
}

impl Names {
    /// Room for `most` names.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, known: Mutex::default() }
    }

    /// The label for a name.
    #[must_use]
    pub fn label<'n>(&self, name: &'n str) -> &'n str {
        let mut known = self.known.lock();
        if known.contains(name) {
            return name;
        }
        if known.len() >= self.most {
            return "other";
        }
        known.insert(name.to_owned());
        name
    }
}

/// A registry whose metrics all start with `sideguard_`.
#[must_use]
pub fn registry() -> Registry {
    Registry::with_prefix("sideguard")
}

/// The registry's contents in the OpenMetrics text format, which Prometheus reads.
#[must_use]
pub fn exposition(registry: &Registry) -> String {
    let mut text = String::with_capacity(16 << 10);
    // Writing to a String cannot fail.
    let _ = prometheus_client::encoding::text::encode(&mut text, registry);
    text
}
