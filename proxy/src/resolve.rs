//! Names to addresses: static ones first, then the system's resolver, remembered for a short time.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::call::HostPort;

/// How long an answer of the system's resolver is used.
const REMEMBERED: Duration = Duration::from_secs(30);

/// The resolver.
#[derive(Debug)]
pub(crate) struct Resolver {
    fixed: BTreeMap<String, SocketAddr>,
    recent: moka::sync::Cache<HostPort, SocketAddr>,
    timeout: Duration,
}

impl Resolver {
    /// A resolver with static entries (`host` or `host:port` to `address:port`).
    ///
    /// # Errors
    /// The entry whose address is not one.
    pub(crate) fn new(fixed: &BTreeMap<String, String>, timeout: Duration) -> Result<Self, String> {
        let fixed = fixed
            .iter()
            .map(|(name, address)| match address.parse() {
                Ok(address) => Ok((name.to_ascii_lowercase(), address)),
                Err(_) => Err(format!(
                    "hosts: `{name}`: `{address}` is not an address and port such as `127.0.0.1:9443`"
                )),
            })
            .collect::<Result<_, _>>()?;
        let recent = moka::sync::Cache::builder().max_capacity(4_096).time_to_live(REMEMBERED).build();
        Ok(Self { fixed, recent, timeout })
    }

    /// The address to dial for a name.
    pub(crate) async fn resolve(&self, to: &HostPort) -> Result<SocketAddr, String> {
        if let Ok(address) = to.host.parse::<IpAddr>() {
            return Ok(SocketAddr::new(address, to.port));
        }
        if !self.fixed.is_empty() {
            let with_port = self.fixed.get(&format!("{}:{}", to.host, to.port));
            if let Some(address) = with_port.or_else(|| self.fixed.get(&to.host)) {
                return Ok(*address);
            }
        }
        if let Some(address) = self.recent.get(to) {
            return Ok(address);
        }
        let lookup = tokio::time::timeout(self.timeout, tokio::net::lookup_host((to.host.as_str(), to.port)));
        let found = Box::pin(lookup).await.map_err(|_| format!("resolving `{}` took too long", to.host))?;
        let address = found
            .map_err(|error| format!("`{}` cannot be resolved: {error}", to.host))?
            .next()
            .ok_or_else(|| format!("`{}` has no address", to.host))?;
        self.recent.insert(to.clone(), address);
        Ok(address)
    }
}
