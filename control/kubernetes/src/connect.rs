//! The way to the API server.

use std::path::Path;
use std::time::Duration;

use kube::api::{Api, ApiResource, DynamicObject};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// Longest time that a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest time that one question may take; watches, which stay open, are no questions.
pub const ANSWER: Duration = Duration::from_secs(10);

/// Why there is no way to the API server.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig cannot be used.
    #[error("kubeconfig: {0}")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
    /// There is no kubeconfig, and this is no pod with a service account.
    #[error("no `kubeconfig` is given, and this is no pod with a service account: {0}")]
    NoPod(#[from] kube::config::InClusterError),
    /// The connection cannot be set up.
    #[error("kubernetes: {0}")]
    Client(#[from] kube::Error),
}

/// A cluster, by its API server.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    namespace: String,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

impl Cluster {
    /// Reads how the API server is reached: from a kubeconfig, or as a pod's service account reaches it. Nothing is asked
    /// yet. Tokens and roots that are files are read anew when they change.
    ///
    /// # Errors
    /// When that cannot be read, or holds something that cannot be used.
    pub async fn open(kubeconfig: Option<&Path>) -> Result<Self, ConnectError> {
        let mut config = match kubeconfig {
            Some(file) => {
                let kubeconfig = Kubeconfig::read_from(file)?;
                Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?
            }
            None => Config::incluster()?,
        };
        config.connect_timeout = Some(CONNECT);
        let namespace = config.default_namespace.clone();
        Ok(Self { client: Client::try_from(config)?, namespace })
    }

    /// The namespace of the pod, or of the kubeconfig's context.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The client itself.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Objects of all namespaces, or those that are in none.
    #[must_use]
    pub fn everywhere(&self, resource: &ApiResource) -> Api<DynamicObject> {
        Api::all_with(self.client.clone(), resource)
    }

    /// Objects of one namespace.
    #[must_use]
    pub fn within(&self, namespace: &str, resource: &ApiResource) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, resource)
    }
}

/// Names a kind of object by its group (empty for the core), version, name and name in addresses.
#[must_use]
pub fn resource(group: &str, version: &str, kind: &str, plural: &str) -> ApiResource {
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version,
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    }
}

/// What an answer that is an error says.
#[must_use]
pub fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// Asks, but not for longer than [`ANSWER`].
///
/// # Errors
/// As the question has, or when it takes too long; in words.
pub async fn within_time<T>(question: impl Future<Output = Result<T, kube::Error>>) -> Result<T, AskError> {
    match tokio::time::timeout(ANSWER, question).await {
        Ok(answer) => answer.map_err(AskError::Refused),
        Err(_) => Err(AskError::Silent),
    }
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The API server says so, or is out of reach.
    #[error("the API server: {}", match .0 {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    })]
    Refused(#[source] kube::Error),
    /// It does not say anything.
    #[error("the API server does not answer within {} s", ANSWER.as_secs())]
    Silent,
}

impl AskError {
    /// Status of an answer that is an error.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Refused(error) => code(error),
            Self::Silent => None,
        }
    }
}
