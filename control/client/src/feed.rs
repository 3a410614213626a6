//! The feed as a stream: Server-Sent Events over one connection that stays.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::Response;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use sideguard_types::control::feed::{Beat, Has};
use sideguard_types::control::{Kills, Signed};

use crate::query::with_query;
use crate::{Ask, Client, ClientError, MAX_ANSWER};

/// A connection that brings nothing for so long is dead: the service sends something every 10 s.
const SILENCE: Duration = Duration::from_secs(25);

/// What the feed tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// A newer generation.
    Generation(Box<Signed>),
    /// Kill switches.
    Kills(Kills),
    /// What is in force, after it has been told.
    Beat(Beat),
}

/// An open stream; to drop it ends it.
#[derive(Debug)]
pub struct Stream {
    client: Client,
    url: String,
    body: Incoming,
    buffer: BytesMut,
    /// Bytes of the buffer that hold no end of an event.
    looked: usize,
}

impl Client {
    /// `GET /v1/feed/stream`: everything that is newer than what a sidecar has, from now on.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn feed_stream(&self, has: &Has) -> Result<Stream, ClientError> {
        let path = with_query("/v1/feed/stream", &has_values(has));
        let (response, url) = self.begin(Ask::get(&path)).await?;
        let event_stream = is_event_stream(&response);
        if !response.status().is_success() {
            return Err(self.refused(response).await);
        }
        if !event_stream {
            return Err(ClientError::Protocol { url, reason: "the feed is no event stream".to_owned() });
        }
        let body = response.into_body();
        Ok(Stream { client: self.clone(), url, body, buffer: BytesMut::new(), looked: 0 })
    }
}

/// A question of the feed, as values of a query.
pub(crate) fn has_values(has: &Has) -> [(&'static str, Option<String>); 3] {
    [
        ("generation", Some(has.generation.to_string())),
        ("kills", Some(has.kills.to_string())),
        ("nonce", (!has.nonce.is_empty()).then(|| has.nonce.clone())),
    ]
}

fn is_event_stream(response: &Response<Incoming>) -> bool {
    let kind = response.headers().get(http::header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("text/event-stream"))
}

impl Stream {
    /// The next event that means something to this version.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] when the stream ends or falls silent; [`ClientError::Protocol`] when it is none.
    pub async fn next(&mut self) -> Result<Told, ClientError> {
        loop {
            while let Some(event) = self.whole() {
                if let Some(told) = self.read(&event)? {
                    return Ok(told);
                }
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> Result<(), ClientError> {
        let ended = |reason: String| {
            // Another replica may go on at once.
            self.client.turn(&self.url);
            ClientError::Unreachable { url: self.url.clone(), reason }
        };
        let frame = tokio::time::timeout(SILENCE, self.body.frame())
            .await
            .map_err(|_| ended(format!("the feed was silent for {} s", SILENCE.as_secs())))?
            .ok_or_else(|| ended("the feed has ended".to_owned()))?
            .map_err(|error| ended(crate::causes(&error)))?;
        let Some(data) = frame.data_ref() else { return Ok(()) };
        if self.buffer.len() + data.len() > MAX_ANSWER {
            return Err(self.odd(format!("an event of more than {} MiB", MAX_ANSWER >> 20)));
        }
        self.buffer.extend_from_slice(data);
        Ok(())
    }

    /// An event that has come to its end, an empty line.
    fn whole(&mut self) -> Option<Bytes> {
        let from = self.looked.saturating_sub(1);
        let rest = self.buffer.get(from..).unwrap_or_default();
        match rest.windows(2).position(|pair| pair == b"\n\n") {
            Some(at) => {
                let event = self.buffer.split_to(from + at).freeze();
                self.buffer.advance(2);
                self.looked = 0;
                Some(event)
            }
            None => {
                self.looked = self.buffer.len();
                None
            }
        }
    }

    fn read(&self, event: &[u8]) -> Result<Option<Told>, ClientError> {
        let field = |name: &[u8]| {
            event.split(|byte| *byte == b'\n').find_map(|line| {
                let value = line.strip_prefix(name)?.strip_prefix(b":")?;
                Some(value.strip_prefix(b" ").unwrap_or(value))
            })
        };
        let Some(data) = field(b"data") else { return Ok(None) };
        Ok(match field(b"event") {
            Some(b"generation") => Some(Told::Generation(Box::new(self.json(data)?))),
            Some(b"kills") => Some(Told::Kills(self.json(data)?)),
            Some(b"beat") => Some(Told::Beat(self.json(data)?)),
            _ => None,
        })
    }

    fn json<T: DeserializeOwned>(&self, data: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(data).map_err(|error| self.odd(format!("{error} in an event of the feed")))
    }

    fn odd(&self, reason: String) -> ClientError {
        ClientError::Protocol { url: self.url.clone(), reason }
    }
}
