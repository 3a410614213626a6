//! Names to addresses: static ones first, then the system's resolver, remembered for a short time. The address that is
//! checked here is the one that is dialled.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use sideguard_capture::address::{self, Exemption, Kind};
use sideguard_types::refusal::{Code, Refusal};

use crate::call::{HostPort, Route};

/// How long an answer of the system's resolver is used.
const REMEMBERED: Duration = Duration::from_secs(30);

/// The resolver.
#[derive(Debug)]
pub(crate) struct Resolver {
    fixed: BTreeMap<String, SocketAddr>,
    exempt: Vec<Exemption>,
    /// What was found and checked, by host and whether an upstream lists it.
    recent: moka::sync::Cache<(HostPort, bool), SocketAddr>,
    timeout: Duration,
}

impl Resolver {
    /// A resolver with static entries (`host` or `host:port` to `address:port`) and with the addresses that may be
    /// reached although they are not public.
    ///
    /// # Errors
    /// The entry that is not one.
    pub(crate) fn new(
        fixed: &BTreeMap<String, String>,
        private: &[String],
        timeout: Duration,
    ) -> Result<Self, String> {
        let fixed = fixed
            .iter()
            .map(|(name, address)| match address.parse() {
                Ok(address) => Ok((name.to_ascii_lowercase(), address)),
                Err(_) => Err(format!(
                    "hosts: `{name}`: `{address}` is not an address and port such as `127.0.0.1:9443`"
                )),
            })
            .collect::<Result<_, _>>()?;
        let exempt = private
            .iter()
            .map(|text| Exemption::parse(text).map_err(|error| format!("private: {error}")))
            .collect::<Result<_, _>>()?;
        let recent = moka::sync::Cache::builder().max_capacity(4_096).time_to_live(REMEMBERED).build();
        Ok(Self { fixed, exempt, recent, timeout })
    }

    /// The address to dial for a route.
    ///
    /// # Errors
    /// When its host has none, or only such as may not be reached.
    pub(crate) async fn resolve(&self, route: &Route) -> Result<SocketAddr, Refusal> {
        let to = &route.to;
        // Found by its address (or by another spelling of this host's), so that the route's is the upstream's.
        let listed = route.upstream.as_ref().is_some_and(|upstream| upstream.written);
        if let Ok(address) = to.host.parse::<IpAddr>() {
            let address = SocketAddr::new(address, to.port);
            // An upstream's address that is written out is listed by that.
            return if listed { Ok(address) } else { self.permitted(address, to).map(|()| address) };
        }
        if let Some(address) = self.fixed(to) {
            return Ok(address);
        }
        if let Some(address) = self.recent.get(&(to.clone(), listed)) {
            return Ok(address);
        }
        let unreachable = |what: String| Refusal::new(Code::UpstreamUnreachable, "upstream", what);
        let lookup = tokio::time::timeout(self.timeout, tokio::net::lookup_host((to.host.as_str(), to.port)));
        let found = Box::pin(lookup)
            .await
            .map_err(|_| unreachable(format!("resolving `{}` took too long", to.host)))?
            .map_err(|error| unreachable(format!("`{}` cannot be resolved: {error}", to.host)))?;
        let found: Vec<SocketAddr> = found.collect();
        if found.is_empty() {
            return Err(unreachable(format!("`{}` has no address", to.host)));
        }
        let address = self.checked(&found, to, listed)?;
        self.recent.insert((to.clone(), listed), address);
        Ok(address)
    }

    fn fixed(&self, to: &HostPort) -> Option<SocketAddr> {
        if self.fixed.is_empty() {
            return None;
        }
        let with_port = self.fixed.get(&format!("{}:{}", to.host, to.port));
        with_port.or_else(|| self.fixed.get(&to.host)).copied()
    }

    /// The first address that may be reached. The operator's own upstreams may be on a private network, but not where
    /// clouds have their metadata services.
    fn checked(&self, found: &[SocketAddr], to: &HostPort, listed: bool) -> Result<SocketAddr, Refusal> {
        let inner = |address: &SocketAddr| {
            listed && matches!(address::kind(address.ip()), Kind::Private | Kind::Loopback)
        };
        let mut refusal = None;
        for address in found {
            match self.permitted(*address, to) {
                Ok(()) => return Ok(*address),
                Err(_) if inner(address) => return Ok(*address),
                Err(why) => refusal = refusal.or(Some(why)),
            }
        }
        Err(refusal.unwrap_or_else(|| Refusal::new(Code::UpstreamUnreachable, "upstream", "no address")))
    }

    fn permitted(&self, address: SocketAddr, to: &HostPort) -> Result<(), Refusal> {
        let kind = match address::kind(address.ip()) {
            Kind::Public if address::is_own(address.ip()) => Kind::Loopback,
            kind => kind,
        };
        // A name of somebody's that happens to lead to this host is not what the operator listed.
        let meant = kind != Kind::Loopback || to.host == "localhost" || to.host.parse::<IpAddr>().is_ok();
        let listed = || self.exempt.iter().any(|one| one.holds(address.ip(), address.port()));
        if kind == Kind::Public || meant && listed() {
            return Ok(());
        }
        let reason = format!("`{}` leads to {}, which is a {} address", to.host, address.ip(), kind.as_str());
        let mut refusal = Refusal::new(Code::PolicyDenied, "private", reason);
        refusal.hint = Some(format!(
            "where that is meant, list `{address}` under `private` (`sideguard run --private`, or `--local` for a port of this host), or as an upstream"
        ));
        Err(refusal)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use sideguard_types::refusal::Code;

    use super::Resolver;
    use crate::call::{HostPort, Route};

    fn resolver(private: &[&str]) -> Resolver {
        let fixed = BTreeMap::from([("crm.example".to_owned(), "127.0.0.1:9443".to_owned())]);
        let private: Vec<String> = private.iter().map(|text| (*text).to_owned()).collect();
        Resolver::new(&fixed, &private, Duration::from_secs(5)).expect("a resolver")
    }

    fn to(text: &str) -> Route {
        let to = HostPort::parse(text, 80).expect("host and port");
        Route { to, tls: false, target: "/".to_owned(), upstream: None }
    }

    #[tokio::test]
    async fn what_is_not_public_is_refused_unless_listed() {
        let strict = resolver(&[]);
        for text in
            ["127.0.0.1:80", "10.0.0.1", "169.254.169.254", "[::1]:80", "[::ffff:10.0.0.1]", "localhost"]
        {
            let refusal = strict.resolve(&to(text)).await.expect_err(text);
            assert_eq!((refusal.code, &*refusal.rule), (Code::PolicyDenied, "private"), "{text}");
        }
        assert!(strict.resolve(&to("8.8.8.8")).await.is_ok());
        assert!(strict.resolve(&to("crm.example")).await.is_ok_and(|address| address.port() == 9443));
        let listed = resolver(&["127.0.0.1:8000", "10.0.0.0/8"]);
        assert!(listed.resolve(&to("127.0.0.1:8000")).await.is_ok());
        assert!(listed.resolve(&to("127.0.0.1:8001")).await.is_err());
        assert!(listed.resolve(&to("localhost:8000")).await.is_ok());
        assert!(listed.resolve(&to("10.9.8.7")).await.is_ok());
        assert!(Resolver::new(&BTreeMap::new(), &["10.0.0".to_owned()], Duration::ZERO).is_err());
    }
}
