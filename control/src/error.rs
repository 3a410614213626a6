//! What can go wrong in a request, and how it is told.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use sideguard_store::StoreError;
use sideguard_types::control::Problem;
use sideguard_types::control::records::Trouble;

/// Why a request was not served.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No key, or one that nobody has.
    #[error("a key is needed: send it as `authorization: Bearer KEY`")]
    Unauthenticated,
    /// The key's role or tenant does not reach that far.
    #[error("this key may not {0}")]
    Forbidden(&'static str),
    /// There is no such thing; for a tenant also what is another one's.
    #[error("there is no {0}")]
    Missing(String),
    /// Somebody else was faster.
    #[error("{0}")]
    Conflict(String),
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The resulting set of objects is wrong; every error with its place.
    #[error("the resulting set of objects is not valid: nothing has changed")]
    Findings(Vec<String>),
    /// A sidecar's record does not fit what is known of it.
    #[error("{detail}")]
    Record {
        /// In what way.
        trouble: Trouble,
        /// In words.
        detail: String,
    },
    /// The store is away or broken.
    #[error("the store cannot be used now")]
    Store(#[from] StoreError),
    /// The store holds what this version did not write.
    #[error("the store holds something unreadable at `{0}`")]
    Broken(String),
}

impl Failure {
    const fn told(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Unauthenticated => (StatusCode::UNAUTHORIZED, "unauthenticated"),
            Self::Forbidden(_) => (StatusCode::FORBIDDEN, "forbidden"),
            Self::Missing(_) => (StatusCode::NOT_FOUND, "not_found"),
            Self::Conflict(_) => (StatusCode::CONFLICT, "conflict"),
            Self::Invalid(_) => (StatusCode::BAD_REQUEST, "invalid"),
            Self::Findings(_) => (StatusCode::UNPROCESSABLE_ENTITY, "findings"),
            Self::Record { trouble, .. } => (StatusCode::CONFLICT, trouble.code()),
            Self::Store(_) | Self::Broken(_) => (StatusCode::SERVICE_UNAVAILABLE, "store_unavailable"),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let (status, code) = self.told();
        if let Self::Store(error) = &self {
            tracing::error!(%error, "store");
        }
        let detail = self.to_string();
        let findings = if let Self::Findings(findings) = self { findings } else { Vec::new() };
        let body = Problem { status: status.as_u16(), code: code.to_owned(), detail, findings };
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
