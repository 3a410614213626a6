//! The stand-in model: answers every POST with a chat completion, whole or streamed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use http_body_util::channel::Channel;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Request, Response};

use crate::certificates::Certificates;
use crate::model::{self, Streamed};
use crate::server::{self, Answers, Body};
use crate::tasks::Tasks;

/// How answers are streamed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Events of text in a streamed answer.
    pub(crate) chunks: u32,
    /// Time between them.
    pub(crate) spacing: Duration,
}

/// Serves plainly on `plain` and inside TLS on `tls`, for ever.
pub(crate) async fn serve(
    plain: SocketAddr,
    tls: SocketAddr,
    certificates: &Certificates,
    pace: Pace,
) -> Result<()> {
    let model = Arc::new(Model { completion: model::completion().into(), pace, streams: Tasks::default() });
    tokio::try_join!(
        server::listen(plain, None, Arc::clone(&model)),
        server::listen(tls, Some(certificates.server()?), model),
    )?;
    Ok(())
}

struct Model {
    completion: Bytes,
    pace: Pace,
    streams: Tasks,
}

impl Answers for Model {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let (kind, body) = match model::asks_for_stream(&body) {
            Some(streamed) => ("text/event-stream", self.stream(streamed)),
            None => ("application/json", whole(self.completion.clone())),
        };
        let mut response = Response::new(body);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        response.headers_mut().insert("x-request-id", HeaderValue::from_static("req_bench"));
        response
    }
}

impl Model {
    fn stream(&self, streamed: Streamed) -> Body {
        let (mut events, body) = Channel::new(1);
        let Pace { chunks, spacing } = self.pace;
        self.streams.start(async move {
            for number in 0..chunks {
                if number > 0 {
                    tokio::time::sleep(spacing).await;
                }
                if events.send_data(model::event().into()).await.is_err() {
                    return;
                }
            }
            let _reader_is_gone = events.send_data(model::last_events(&streamed).into()).await;
        });
        body.boxed()
    }
}

fn whole(body: Bytes) -> Body {
    Full::new(body).map_err(|never| match never {}).boxed()
}
