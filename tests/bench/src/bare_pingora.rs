//! What a proxy costs in pingora that does nothing but pass on.

use std::net::SocketAddr;

use anyhow::{Result, anyhow};
use async_trait::async_trait;
use pingora_core::server::Server;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_proxy::{ProxyHttp, Session, http_proxy_service};

use crate::certificates::{Certificates, HOST};

/// Passes plain requests on to `plain` and those inside TLS to `tls`, on one thread, for ever.
pub(crate) fn serve(
    address: SocketAddr,
    tls_address: SocketAddr,
    plain: SocketAddr,
    tls: SocketAddr,
    certificates: &Certificates,
) -> Result<()> {
    let text = |file: std::path::PathBuf| file.display().to_string();
    let conf = ServerConf { threads: 1, ca_file: Some(text(certificates.root())), ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let mut open = http_proxy_service(&server.configuration, Pass { upstream: plain, tls: false });
    open.add_tcp(&address.to_string());
    let mut sealed = http_proxy_service(&server.configuration, Pass { upstream: tls, tls: true });
    sealed
        .add_tls(&tls_address.to_string(), &text(certificates.chain()), &text(certificates.key()))
        .map_err(|error| anyhow!("cannot listen on `{tls_address}`: {error}"))?;
    server.add_service(open);
    server.add_service(sealed);
    server.run_forever()
}

struct Pass {
    upstream: SocketAddr,
    tls: bool,
}

#[async_trait]
impl ProxyHttp for Pass {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(
        &self,
        _session: &mut Session,
        _ctx: &mut (),
    ) -> pingora_core::Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.upstream, self.tls, HOST.to_owned())))
    }
}
