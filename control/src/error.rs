//! What can go wrong in a request, and how it is told.

use std::time::Duration;

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use sideguard_store::StoreError;
use sideguard_types::control::Problem;
use sideguard_types::control::records::Trouble;

use crate::limits::TooMany;

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
    /// A worker's lease is over.
    #[error("{0}")]
    Fenced(String),
    /// Too much is going on.
    #[error("{0}: try again later")]
    Busy(String),
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The resulting set of objects is wrong; every error with its place.
    #[error("the resulting set of objects is not valid: nothing has changed")]
    Findings(Vec<String>),
    /// More was asked than one client may ask; the time after which it may ask again.
    #[error("too many requests at once: ask again in a while")]
    TooMany(Duration),
    /// The body is longer than the route takes.
    #[error("the body is longer than this route takes")]
    TooLarge,
    /// The request is for another host, or comes from another site's page.
    #[error("{0}")]
    Misdirected(String),
    /// A sidecar's record does not fit what is known of it.
    #[error("{detail}")]
    Record {
        /// In what way.
        trouble: Trouble,
        /// In words.
        detail: String,
    },
    /// The store is away or broken. What was sent to one that is away can have been done.
    #[error("{}", match .0 {
        StoreError::Away { .. } => "the store does not answer: what was asked for may or may not have been done, \
            and can be asked for again",
        _ => "the store cannot be used now",
    })]
    Store(#[from] StoreError),
    /// This replica does not know what is in force, as it has not heard of the store for a while.
    #[error("this replica cannot say what is in force now: ask another one, or later")]
    Unsure,
    /// More sidecars ask this replica than it takes.
    #[error("this replica has no place for a further sidecar: ask another one, or later")]
    Full,
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
            Self::Fenced(_) => (StatusCode::CONFLICT, "fenced"),
            Self::Busy(_) => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
            Self::Invalid(_) => (StatusCode::BAD_REQUEST, "invalid"),
            Self::Findings(_) => (StatusCode::UNPROCESSABLE_ENTITY, "findings"),
            Self::TooMany(_) => (StatusCode::TOO_MANY_REQUESTS, "rate_limited"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"),
            Self::Misdirected(_) => (StatusCode::MISDIRECTED_REQUEST, "misdirected"),
            Self::Record { trouble, .. } => (StatusCode::CONFLICT, trouble.code()),
            Self::Store(_) | Self::Broken(_) | Self::Unsure | Self::Full => {
                (StatusCode::SERVICE_UNAVAILABLE, "store_unavailable")
            }
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
        let again =
            if let Self::TooMany(again) = self { Some(again.as_secs().saturating_add(1)) } else { None };
        let findings = if let Self::Findings(findings) = self { findings } else { Vec::new() };
        let body = Problem { status: status.as_u16(), code: code.to_owned(), detail, findings };
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(again) = again {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(again));
        }
        response
    }
}

/// The same refusal in the form of every other one: what a framework says is plain text.
pub(crate) async fn problem(refusal: Response) -> Response {
    const LONGEST: usize = 4 << 10;
    let kind = refusal.headers().get(header::CONTENT_TYPE);
    let told = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/problem+json"));
    let status = refusal.status();
    if told || !(status.is_client_error() || status.is_server_error()) {
        return refusal;
    }
    let text = axum::body::to_bytes(refusal.into_body(), LONGEST).await.unwrap_or_default();
    let code = match status {
        StatusCode::PAYLOAD_TOO_LARGE => "body_too_large",
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => "not_found",
        status if status.is_client_error() => "invalid",
        _ => "internal",
    };
    let detail = match String::from_utf8_lossy(&text).trim() {
        "" => status.canonical_reason().unwrap_or("refused").to_lowercase(),
        text => text.to_owned(),
    };
    let body = Problem { status: status.as_u16(), code: code.to_owned(), detail, findings: Vec::new() };
    let kind = [(header::CONTENT_TYPE, "application/problem+json")];
    (status, kind, Json(body)).into_response()
}

impl From<TooMany> for Failure {
    fn from(TooMany(again): TooMany) -> Self {
        Self::TooMany(again)
    }
}
