//! The composition root: opens the injector's ports and takes them down again.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sideguard_kubernetes::ConnectError;
use sideguard_runtime::{admin, tasks};
use sideguard_types::resource::InjectorSpec;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::admin::Admin;
use crate::certificate::{self, Certificate, CertificateError};
use crate::cluster::{self, Place};
use crate::known::{Facts, Known};
use crate::metrics::Metrics;
use crate::serve::{self, Desk};
use crate::settings::{Settings, SettingsError};

/// How often the file of what is known is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Why an injector cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A value of the configuration cannot be used.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The certificate in files cannot be used.
    #[error("certificate: {0}")]
    Certificate(#[from] CertificateError),
    /// The file of what is known cannot be used.
    #[error("known: `{}`: {reason}", path.display())]
    Known {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// It is not known how the cluster is reached.
    #[error("cluster: {0}")]
    Cluster(#[from] ConnectError),
    /// A port cannot be opened.
    #[error("cannot listen on `{address}`: {source}")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// TLS cannot be spoken.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

impl StartError {
    /// Whether the user's own files are at fault.
    #[must_use]
    pub const fn is_configuration(&self) -> bool {
        matches!(self, Self::Settings(_) | Self::Certificate(_) | Self::Known { .. } | Self::Cluster(_))
    }
}

/// An injector that runs.
pub struct Running {
    webhook: SocketAddr,
    admin: SocketAddr,
    stop: watch::Sender<bool>,
    stopping: Arc<AtomicBool>,
    serving: tokio::task::JoinHandle<()>,
    _tasks: Vec<tasks::Owned>,
}

/// Starts an injector. Where the configuration names no files for what is known and for the certificate, the cluster tells.
///
/// # Errors
/// Why it cannot start. The configuration is checked before any port opens.
pub async fn start(settings: Settings) -> Result<Running, StartError> {
    let (facts, certificate) = (Facts::default(), Certificate::default());
    let mut owned = Vec::new();
    let InjectorSpec { known, certificate: files, cluster, .. } = &settings.spec;
    if known.is_none() || files.is_none() {
        let watched = known.is_none().then(|| facts.clone());
        let kept = files.is_none().then(|| certificate.clone());
        owned.extend(cluster::start(Place::from(cluster), watched, kept).await?);
    }
    if let Some(files) = settings.spec.certificate.clone() {
        certificate.read(&files.certificate, &files.key)?;
        let follow = certificate::follow(certificate.clone(), files.certificate, files.key);
        owned.push(tasks::Owned::new(&tasks::spawn("certificate", follow)));
    }
    if let Some(file) = settings.spec.known.clone() {
        facts.replace(read(&file).map_err(|reason| StartError::Known { path: file.clone(), reason })?);
        owned.push(tasks::Owned::new(&tasks::spawn("known", follow(facts.clone(), file))));
    }
    let listen = settings.spec.listen.clone();
    let tls = serve::acceptor(&certificate)?;
    let (webhook, webhook_at) = open(&listen.webhook).await?;
    let (admin, admin_at) = open(&listen.admin).await?;
    let desk = Arc::new(Desk { facts, settings, certificate, metrics: Metrics::new() });
    let stopping = Arc::new(AtomicBool::new(false));
    let answer = Arc::new(Admin { desk: Arc::clone(&desk), stopping: Arc::clone(&stopping) });
    owned.push(tasks::Owned::new(&tasks::spawn("admin", admin::serve(admin, answer))));
    let (stop, stopped) = watch::channel(false);
    let serving = tasks::spawn_vital("webhook", serve::serve(webhook, tls, desk, stopped));
    Ok(Running { webhook: webhook_at, admin: admin_at, stop, stopping, serving, _tasks: owned })
}

impl Running {
    /// Where the webhook is.
    #[must_use]
    pub const fn webhook(&self) -> SocketAddr {
        self.webhook
    }

    /// Where health and metrics are.
    #[must_use]
    pub const fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Stops: reviews under way are answered.
    pub async fn stop(self) {
        self.stopping.store(true, Ordering::Release);
        self.stop.send_replace(true);
        // It ends within a bound of its own; should it have failed, the process has ended.
        let _ = self.serving.await;
    }
}

async fn open(address: &str) -> Result<(TcpListener, SocketAddr), StartError> {
    let shut = |source| StartError::Listen { address: address.to_owned(), source };
    let listener = TcpListener::bind(address).await.map_err(shut)?;
    let at = listener.local_addr().map_err(shut)?;
    Ok((listener, at))
}

fn read(file: &Path) -> Result<Known, String> {
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    Known::read(&text).map_err(|error| error.to_string())
}

/// Looks at the file for as long as it is polled.
async fn follow(facts: Facts, file: PathBuf) {
    let mut before = std::fs::read(&file).ok();
    loop {
        tokio::time::sleep(LOOK).await;
        let now = std::fs::read(&file).ok();
        if now == before {
            continue;
        }
        before = now;
        match read(&file) {
            Ok(known) => {
                facts.replace(known);
                tracing::info!(file = %file.display(), "what is known has changed");
            }
            Err(error) => {
                tracing::warn!(%error, file = %file.display(), "cannot be read: what was known stays");
            }
        }
    }
}
