//! Routes of the record: shipping it, asking for it, proving it.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use sideguard_types::control::Page;
use sideguard_types::control::records::{Entry, Journal, Position};

use crate::query::{escaped, with_query};
use crate::{Ask, Client, ClientError, MAX_BODY, causes};

/// Longest silence of a stream, which says every 15 s that it is alive.
const SILENCE: Duration = Duration::from_secs(45);

/// Which records: given fields AND together. Globs: `*` stands for any run of characters.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Records {
    /// Not before this moment (RFC 3339).
    pub from: Option<String>,
    /// Before this moment (RFC 3339).
    pub to: Option<String>,
    /// The tenant.
    pub tenant: Option<String>,
    /// The agent.
    pub agent: Option<String>,
    /// The decision, as the record has it.
    pub decision: Option<String>,
    /// The rule that decided (glob).
    pub rule: Option<String>,
    /// The topic (glob).
    pub topic: Option<String>,
    /// The call's id.
    pub call: Option<String>,
    /// The sidecar's id.
    pub sidecar: Option<String>,
    /// The phase, as the record has it.
    pub phase: Option<String>,
    /// The point, as the record has it.
    pub point: Option<String>,
    /// Where to go on: a page's `next`.
    pub after: Option<String>,
    /// Most entries of the page; the service's own choice when absent.
    pub limit: Option<usize>,
}

impl Records {
    fn values(&self) -> Vec<(&'static str, Option<String>)> {
        let Self {
            from,
            to,
            tenant,
            agent,
            decision,
            rule,
            topic,
            call,
            sidecar,
            phase,
            point,
            after,
            limit,
        } = self.clone();
        vec![
            ("from", from),
            ("to", to),
            ("tenant", tenant),
            ("agent", agent),
            ("decision", decision),
            ("rule", rule),
            ("topic", topic),
            ("call", call),
            ("sidecar", sidecar),
            ("phase", phase),
            ("point", point),
            ("after", after),
            ("limit", limit.map(|limit| limit.to_string())),
        ]
    }
}

impl Client {
    /// `POST /v1/records/{sidecar}`: ships lines of a sidecar's log from record `from` on, each with its newline, written under
    /// the public key `key`; without lines it only asks where to go on.
    ///
    /// # Errors
    /// As every call: [`ClientError`]; refused with 409 when control has another record there.
    pub async fn ship(
        &self,
        sidecar: &str,
        key: &str,
        from: u64,
        lines: Bytes,
    ) -> Result<Position, ClientError> {
        let path = format!("/v1/records/{}", escaped(sidecar));
        let path = with_query(&path, &[("key", Some(key.to_owned())), ("from", Some(from.to_string()))]);
        self.ask(Ask { kind: "application/x-ndjson", ..Ask::post(&path, &lines) }).await
    }

    /// `GET /v1/records`: a page of the record, the newest first. It may hold fewer than asked for, even none, and still
    /// have a next one.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn records(&self, which: &Records) -> Result<Page<Entry>, ClientError> {
        self.ask(Ask::get(&with_query("/v1/records", &which.values()))).await
    }
}

impl Client {
    /// `GET /v1/journals`: whose record control has.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn journals(&self) -> Result<Vec<Journal>, ClientError> {
        self.all("/v1/journals", Vec::new()).await
    }

    /// `GET /v1/records/{sidecar}`: a page of one sidecar's record in its own order, from record `from` on.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn journal(&self, sidecar: &str, tenant: &str, from: &str) -> Result<Page<Entry>, ClientError> {
        let path = format!("/v1/records/{}", escaped(sidecar));
        let values = [("tenant", Some(tenant.to_owned())), ("after", Some(from.to_owned()))];
        self.ask(Ask::get(&with_query(&path, &values))).await
    }

    /// `GET /v1/records/proof`: the proof that a record is in a sidecar's log, as a text to keep. The tenant is needed only
    /// where sidecars of several tenants have the same id.
    ///
    /// # Errors
    /// As every call: [`ClientError`]; refused with 409 while the record is not under a signed checkpoint.
    pub async fn prove(
        &self,
        sidecar: &str,
        tenant: Option<&str>,
        position: u64,
    ) -> Result<String, ClientError> {
        let values = [
            ("sidecar", Some(sidecar.to_owned())),
            ("tenant", tenant.map(str::to_owned)),
            ("position", Some(position.to_string())),
        ];
        let answer = self.send(Ask::get(&with_query("/v1/records/proof", &values))).await?;
        String::from_utf8(answer.to_vec()).map_err(|error| self.protocol(error.to_string()))
    }

    /// `GET /v1/records/stream`: the record as it comes, from now on.
    ///
    /// # Errors
    /// As every call: [`ClientError`]; refused with 503 when too many watch already.
    pub async fn watch(&self, which: &Records) -> Result<Watch, ClientError> {
        let path = with_query("/v1/records/stream", &which.values());
        let ask = Ask::get(&path);
        let (response, _) = tokio::time::timeout(ask.within, self.begin(ask))
            .await
            .map_err(|_| self.unreachable(format!("no answer within {} s", ask.within.as_secs())))??;
        if !response.status().is_success() {
            return Err(self.refused(response).await);
        }
        Ok(Watch { client: self.clone(), body: response.into_body(), read: BytesMut::new() })
    }
}

/// Entries as they come.
#[derive(Debug)]
pub struct Watch {
    client: Client,
    body: Incoming,
    /// What has come of a line whose end has not.
    read: BytesMut,
}

impl Watch {
    /// The next entry; `None` when the service has ended the stream.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] when it breaks off or falls silent, [`ClientError::Protocol`] when it is no such stream.
    pub async fn next(&mut self) -> Result<Option<Entry>, ClientError> {
        // What stands after `event:` is about the `data:` that follows it.
        let mut other = false;
        loop {
            while let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line = self.read.split_to(end + 1);
                let line = line.trim_ascii();
                if line.starts_with(b"event:") {
                    other = true;
                } else if let Some(data) = line.strip_prefix(b"data:") {
                    if !std::mem::take(&mut other) {
                        return self.client.read(data, "/v1/records/stream").map(Some);
                    }
                }
            }
            if self.read.len() > MAX_BODY {
                return Err(self.client.protocol("a line of a stream does not end"));
            }
            let silent = || self.client.unreachable(format!("silent for {} s", SILENCE.as_secs()));
            match tokio::time::timeout(SILENCE, self.body.frame()).await.map_err(|_| silent())? {
                None => return Ok(None),
                Some(Err(error)) => return Err(self.client.unreachable(causes(&error))),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.read.extend_from_slice(data);
                    }
                }
            }
        }
    }
}
