//! The admin port: health, metrics and whatever else a daemon shows about itself.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::tasks;

/// Connections served at once; further ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 64;

/// One request, without its body: nothing on this port takes one.
#[derive(Debug)]
pub struct Ask<'a> {
    /// Method.
    pub method: &'a Method,
    /// Path, without query.
    pub path: &'a str,
    /// Token of an `authorization: Bearer` header.
    pub token: Option<&'a str>,
}

/// One reply.
#[derive(Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: StatusCode,
    /// Media type.
    pub content_type: &'static str,
    /// Body.
    pub body: String,
}

impl Reply {
    /// A plain-text reply; a line feed is added.
    #[must_use]
    pub fn text(status: StatusCode, body: &str) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: format!("{body}\n") }
    }

    /// A JSON reply.
    #[must_use]
    pub fn json(body: &serde_json::Value) -> Self {
        Self { status: StatusCode::OK, content_type: "application/json", body: format!("{body:#}\n") }
    }
}

/// What answers requests on the admin port.
pub trait Answer: Send + Sync + 'static {
    /// Answers one request.
    fn answer(&self, ask: &Ask<'_>) -> Reply;
}

/// Serves `answer` on `listener` until the task is dropped.
pub async fn serve(listener: TcpListener, answer: Arc<dyn Answer>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "admin port cannot accept");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                continue;
            }
        };
        let answer = Arc::clone(&answer);
        tasks::spawn("admin-connection", async move {
            let service = service_fn(move |request| respond(request, Arc::clone(&answer)));
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(std::time::Duration::from_secs(10))
                .max_buf_size(16 << 10)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                tracing::debug!(%error, "admin connection ended");
            }
            drop(place);
        });
    }
}

async fn respond(
    request: Request<Incoming>,
    answer: Arc<dyn Answer>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let token = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    let reply = answer.answer(&Ask { method: request.method(), path: request.uri().path(), token });
    let mut response = Response::new(Full::new(Bytes::from(reply.body)));
    *response.status_mut() = reply.status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(reply.content_type));
    Ok(response)
}
