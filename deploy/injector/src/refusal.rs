//! Why a pod is refused.

/// A refusal: a stable code for metrics, and what the person is told who made the pod.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("sideguard: {message}")]
pub struct Refusal {
    /// Stable code, one of few.
    pub code: Code,
    /// What is wrong, and what to do.
    pub message: String,
}

/// Kinds of refusals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// The pod, or what is said of it, is not of the form that it must have.
    Malformed,
    /// Something else than a pod that is being made.
    NotForUs,
    /// Nothing is known of the namespace yet; to be tried again.
    NotKnown,
    /// It may not leave itself out.
    OptOut,
    /// An annotation or label cannot be followed.
    Annotation,
    /// There is no profile, or none of that name.
    Profile,
    /// It has something of the node's that would get round the sidecar.
    Host,
    /// It runs as the sidecar's uid.
    ProxyUser,
    /// It has capabilities that would get round the sidecar.
    Capabilities,
    /// It has names, ports or paths of the sidecar's.
    Forged,
    /// It is not for Linux.
    Windows,
    /// Pod Security forbids the init step.
    PodSecurity,
    /// What was injected has been changed since.
    Changed,
}

impl Code {
    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::NotForUs => "not_for_us",
            Self::NotKnown => "not_known",
            Self::OptOut => "opt_out",
            Self::Annotation => "annotation",
            Self::Profile => "profile",
            Self::Host => "host",
            Self::ProxyUser => "proxy_user",
            Self::Capabilities => "capabilities",
            Self::Forged => "forged",
            Self::Windows => "windows",
            Self::PodSecurity => "pod_security",
            Self::Changed => "changed",
        }
    }

    /// Status that the API server answers with: 503 where the same may go well a moment later.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::NotKnown => 503,
            Self::Malformed | Self::NotForUs => 400,
            _ => 403,
        }
    }
}

impl Refusal {
    /// A refusal.
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// A refusal, as the error of something.
    pub(crate) fn err<T>(code: Code, message: impl Into<String>) -> Result<T, Self> {
        Err(Self::new(code, message))
    }
}
