//! Kind `Control`: the configuration of a control service.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::time::Span;

const LEASE: Span = Span(std::time::Duration::from_secs(30));

/// Configuration of a control service. Every key can also be set as `SIDEGUARD_<PATH>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct ControlSpec {
    /// Address of interface and page; port 0 picks a free one.
    pub listen: String,
    /// Directory of state: the embedded store and the first operator's key.
    pub state: Option<PathBuf>,
    /// Where things are kept; one machine's own directory when absent.
    pub store: Option<SharedStore>,
    /// TLS on the port; plain HTTP when absent.
    pub tls: Option<ControlTls>,
    /// How long a sidecar may draw on a lease of a budget without a word from control, `1s` to `10m`. A lease whose sidecar
    /// is lost is charged in full after twice as long.
    pub lease: Span,
}

impl Default for ControlSpec {
    fn default() -> Self {
        Self { listen: "127.0.0.1:4760".to_owned(), state: None, store: None, tls: None, lease: LEASE }
    }
}

/// A store that several control services share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SharedStore {
    /// Redis, such as `redis://user:password@host:6379/0`; its appendonly file must be on.
    pub redis: String,
    /// NATS with JetStream, such as `nats://user:password@host:4222`; several with commas between.
    pub nats: String,
    /// Name that everything in them begins with, so that several fleets can share servers.
    #[serde(default = "namespace")]
    pub namespace: String,
}

fn namespace() -> String {
    "sideguard".to_owned()
}

/// TLS of the control service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ControlTls {
    /// File with its certificate and those above it, in PEM.
    pub certificate: PathBuf,
    /// File with the certificate's private key, in PEM.
    pub key: PathBuf,
    /// File with the roots that clients' certificates must come from, in PEM; no certificate is asked for when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clients: Option<PathBuf>,
}
