//! What can go wrong between a client and the control service.

use sideguard_types::control::Problem;

/// Why a call of the control service came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The client was set up with an address, key or roots that cannot be used.
    #[error("{0}")]
    Setup(String),
    /// No answer: the connection failed, broke off, or took too long. The change may have been made all the same.
    #[error("cannot reach control at `{url}`: {reason}")]
    Unreachable {
        /// Where the service was looked for.
        url: String,
        /// Why it was not found there.
        reason: String,
    },
    /// The service answered no.
    #[error("{}", .0.detail)]
    Refused(Problem),
    /// Whoever answered does not speak as the control service does.
    #[error("`{url}` does not answer as a control service does: {reason}")]
    Protocol {
        /// Where the answer came from.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl ClientError {
    /// Stable code: the service's own, where it has refused.
    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Self::Setup(_) => "client_setup",
            Self::Unreachable { .. } => "control_unreachable",
            Self::Refused(problem) => &problem.code,
            Self::Protocol { .. } => "control_protocol",
        }
    }

    /// Whether what was asked for is not there.
    #[must_use]
    pub const fn is_missing(&self) -> bool {
        matches!(self, Self::Refused(Problem { status: 404, .. }))
    }
}
