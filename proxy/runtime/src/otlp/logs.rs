//! OTLP's messages for logs, as far as they are sent: what control passes the record on in. As for
//! [`messages`](super::messages), the numbers are the project's.

use prost::Message;

use super::messages::{AnyValue, KeyValue, Resource, Scope};

/// What is posted to `/v1/logs`.
#[derive(Clone, PartialEq, Message)]
pub struct Logs {
    /// The entries.
    #[prost(message, repeated, tag = "1")]
    pub resource_logs: Vec<ResourceLogs>,
}

/// Entries of one resource.
#[derive(Clone, PartialEq, Message)]
pub struct ResourceLogs {
    /// What they come from.
    #[prost(message, optional, tag = "1")]
    pub resource: Option<Resource>,
    /// The entries.
    #[prost(message, repeated, tag = "2")]
    pub scope_logs: Vec<ScopeLogs>,
}

/// Entries of one scope.
#[derive(Clone, PartialEq, Message)]
pub struct ScopeLogs {
    /// What made them.
    #[prost(message, optional, tag = "1")]
    pub scope: Option<Scope>,
    /// The entries.
    #[prost(message, repeated, tag = "2")]
    pub log_records: Vec<LogRecord>,
}

/// One entry.
#[derive(Clone, PartialEq, Message)]
pub struct LogRecord {
    /// When it happened, in nanoseconds since 1970.
    #[prost(fixed64, tag = "1")]
    pub time_unix_nano: u64,
    /// How grave it is: 9 for information, 13 for a warning.
    #[prost(int32, tag = "2")]
    pub severity_number: i32,
    /// The same in words.
    #[prost(string, tag = "3")]
    pub severity_text: String,
    /// The entry itself.
    #[prost(message, optional, tag = "5")]
    pub body: Option<AnyValue>,
    /// What it is found by.
    #[prost(message, repeated, tag = "6")]
    pub attributes: Vec<KeyValue>,
    /// The trace that it belongs to, 16 bytes, or none.
    #[prost(bytes = "vec", tag = "9")]
    pub trace_id: Vec<u8>,
    /// When it was seen, in nanoseconds since 1970.
    #[prost(fixed64, tag = "11")]
    pub observed_time_unix_nano: u64,
    /// What kind of event it is.
    #[prost(string, tag = "12")]
    pub event_name: String,
}

impl Logs {
    /// Entries of one resource, written out.
    #[must_use]
    pub fn written(resource: Resource, log_records: Vec<LogRecord>) -> bytes::Bytes {
        let scope_logs = vec![ScopeLogs { scope: Some(Scope::ours()), log_records }];
        let logs = Self { resource_logs: vec![ResourceLogs { resource: Some(resource), scope_logs }] };
        logs.encode_to_vec().into()
    }
}
