//! The injector's configuration, checked.

use sideguard_types::resource::{Amount, InjectorSpec, NativeSidecar};

use crate::known::{Known, Version};
use crate::quantity;

/// Least room for the record of a sidecar, in thousandths of a byte.
const LEAST_STATE: i128 = (8 << 20) * 1_000;
/// Levels of a log.
pub(crate) const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];
/// Namespaces that are never injected, beside the injector's own: a cluster must be able to start.
const SYSTEM: [&str; 2] = ["kube-system", "kube-node-lease"];

/// What an injector puts into pods.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings {
    pub(crate) spec: InjectorSpec,
    version: Option<Version>,
}

/// A value of the configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("configuration: {0}")]
pub struct SettingsError(String);

impl Settings {
    /// Checks a configuration.
    ///
    /// # Errors
    /// The first value that cannot be used.
    pub fn new(spec: InjectorSpec) -> Result<Self, SettingsError> {
        let bad = |what: String| Err(SettingsError(what));
        let version = match &spec.kubernetes_version {
            None => None,
            Some(text) => match Version::parse(text) {
                None => return bad(format!("`kubernetesVersion`: `{text}` is no version such as `1.33`")),
                version => version,
            },
        };
        let proxy = &spec.proxy;
        if proxy.uid == 0 {
            return bad(
                "`proxy.uid` must not be 0: the init step is root, and not exempt from the rules".to_owned()
            );
        }
        if spec.mesh.uids.contains(&0) || spec.mesh.uids.contains(&proxy.uid) {
            return bad("`mesh.uids` must hold neither 0 nor `proxy.uid`".to_owned());
        }
        let ports = [proxy.outbound, proxy.dns, proxy.admin];
        if ports.contains(&0) || ports[0] == ports[1] || ports[1] == ports[2] || ports[0] == ports[2] {
            return bad("`proxy`: outbound, dns and admin must be three ports, none of them 0".to_owned());
        }
        amount("proxy.cpu", &proxy.cpu)?;
        amount("proxy.memory", &proxy.memory)?;
        if quantity::milli(&proxy.state).is_none_or(|state| state < LEAST_STATE) {
            return bad(format!("`proxy.state`: `{}` is no amount of at least `8Mi`", proxy.state));
        }
        if !LEVELS.contains(&proxy.log_level.as_str()) {
            return bad(format!("`proxy.logLevel`: `{}` is none of {}", proxy.log_level, LEVELS.join(", ")));
        }
        if spec.image.trim().is_empty() {
            return bad("`image` is empty".to_owned());
        }
        if spec.control.as_ref().is_some_and(|control| control.url.is_empty() || control.audience.is_empty())
        {
            return bad("`control`: url and audience must not be empty".to_owned());
        }
        Ok(Self { spec, version })
    }

    /// Whether pods of a namespace are never injected.
    pub(crate) fn leaves_alone(&self, namespace: &str) -> bool {
        SYSTEM.contains(&namespace) || namespace == self.spec.namespace
    }

    /// Whether the sidecar is a native one, in a cluster of which this is known.
    pub(crate) fn native(&self, known: &Known) -> bool {
        match self.spec.native_sidecar {
            NativeSidecar::Always => true,
            NativeSidecar::Never => false,
            NativeSidecar::Auto => {
                self.version.or(known.version).is_none_or(|version| version >= Version::NATIVE_SIDECARS)
            }
        }
    }
}

fn amount(name: &str, amount: &Amount) -> Result<(), SettingsError> {
    match (quantity::milli(&amount.request), quantity::milli(&amount.limit)) {
        (Some(request), Some(limit)) if 0 < request && request <= limit => Ok(()),
        _ => Err(SettingsError(format!("`{name}`: request must be above nothing, and limit not below it"))),
    }
}
