//! Routes of the record: shipping it, asking for it, proving it.

use bytes::Bytes;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use sideguard_types::control::Page;
use sideguard_types::control::records::{Entry, Position};

use crate::query::{escaped, with_query};
use crate::{Ask, Client, ClientError};

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
    /// Where to go on: a page's `next`.
    pub after: Option<String>,
    /// Most entries of the page; the service's own choice when absent.
    pub limit: Option<usize>,
}

impl Records {
    fn values(&self) -> Vec<(&'static str, Option<String>)> {
        let Self { from, to, tenant, agent, decision, rule, topic, call, sidecar, phase, after, limit } =
            self.clone();
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
        let ask = Ask::post(&path, &lines);
        let mut request = self.request(ask)?;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
        let answer = self.exchange(request, ask.within).await?;
        self.read(&answer, &path)
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
