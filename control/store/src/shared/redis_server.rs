//! The connection to Redis and the scripts that run there.
//!
//! Each operation is one script, which Redis runs alone: nothing comes between its reads and its writes, and the
//! append-only file has all of its writes or none. All keys of a namespace carry one hash tag; scripts name keys that
//! they compute, so this is for one Redis (with replicas), not for a cluster.

use std::fmt;
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, ErrorKind, RedisError, Script, ServerErrorKind};

use crate::error::StoreError;

/// How long a command may take in all: after this the server counts as away.
pub(super) const DEADLINE: Duration = Duration::from_millis(1500);

/// The scripts.
pub(super) struct Scripts {
    pub(super) put_all: Script,
    pub(super) list: Script,
    pub(super) sweep: Script,
    pub(super) hold: Script,
    pub(super) settle: Script,
    pub(super) expire: Script,
    pub(super) balance: Script,
    pub(super) forget: Script,
}

/// A connection that comes back by itself.
pub(super) struct RedisServer {
    connection: ConnectionManager,
    tag: String,
    pub(super) scripts: Scripts,
}

impl fmt::Debug for RedisServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisServer").field("tag", &self.tag).finish_non_exhaustive()
    }
}

impl RedisServer {
    /// Connects, or says that the server is away.
    pub(super) async fn connect(client: Client, tag: String) -> Result<Self, StoreError> {
        // A lost connection is made anew by the next command. That command waits for one attempt only: the caller
        // hears soon that the server is away, and the command after it tries again.
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(0)
            .set_connection_timeout(Some(Duration::from_secs(1)))
            .set_response_timeout(Some(DEADLINE))
            .set_pipeline_buffer_size(1024);
        let connection = in_time(ConnectionManager::new_with_config(client, config)).await?;
        let scripts = Scripts {
            put_all: Script::new(include_str!("scripts/put_all.lua")),
            list: Script::new(include_str!("scripts/list.lua")),
            sweep: Script::new(include_str!("scripts/sweep.lua")),
            hold: Script::new(include_str!("scripts/hold.lua")),
            settle: Script::new(include_str!("scripts/settle.lua")),
            expire: Script::new(include_str!("scripts/expire.lua")),
            balance: Script::new(include_str!("scripts/balance.lua")),
            forget: Script::new(include_str!("scripts/forget.lua")),
        };
        let server = Self { connection, tag, scripts };
        server.warn_unless_durable().await;
        Ok(server)
    }

    /// Runs a script; all of them answer with an array of strings.
    pub(super) async fn run(&self, script: &Script, arguments: &[&[u8]]) -> Result<Vec<Vec<u8>>, StoreError> {
        let mut call = script.key(&self.tag);
        for argument in arguments {
            call.arg(*argument);
        }
        in_time(async {
            let first = call.invoke_async(&mut self.connection.clone()).await;
            match first {
                // The last attempt to connect failed, perhaps long ago; nothing was sent, and another is under way.
                Err(error) if error.is_connection_refusal() => {
                    call.invoke_async(&mut self.connection.clone()).await
                }
                first => first,
            }
        })
        .await
    }

    /// The fields of one document: revision, end, value.
    pub(super) async fn document(&self, key: &str) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        let mut command = redis::cmd("HMGET");
        command.arg(format!("{}:d:{key}", self.tag)).arg(&["revision", "expires", "value"]);
        in_time(command.query_async(&mut self.connection.clone())).await
    }

    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        in_time(redis::cmd("PING").query_async(&mut self.connection.clone())).await
    }

    /// Without an append-only file, Redis acknowledges what a crash loses.
    async fn warn_unless_durable(&self) {
        let mut command = redis::cmd("INFO");
        let info =
            in_time(command.arg("persistence").query_async::<String>(&mut self.connection.clone())).await;
        if info.is_ok_and(|info| info.contains("aof_enabled:0")) {
            tracing::warn!("redis runs without `appendonly yes`: a crash of it loses acknowledged writes");
        }
    }
}

/// Waits for `answer` for as long as a command may take.
pub(super) async fn in_time<T>(answer: impl Future<Output = Result<T, RedisError>>) -> Result<T, StoreError> {
    match tokio::time::timeout(DEADLINE, answer).await {
        Ok(answer) => answer.map_err(failed),
        Err(late) => Err(StoreError::Away { server: "redis", source: Some(Box::new(late)) }),
    }
}

fn failed(error: RedisError) -> StoreError {
    let starting = matches!(
        error.kind(),
        ErrorKind::Server(
            ServerErrorKind::BusyLoading
                | ServerErrorKind::MasterDown
                | ServerErrorKind::ReadOnly
                | ServerErrorKind::TryAgain
        )
    );
    if starting || error.is_io_error() || error.is_timeout() || error.is_connection_dropped() {
        return StoreError::Away { server: "redis", source: Some(Box::new(error)) };
    }
    StoreError::broken("a command of redis", error)
}

/// The error for an answer that no script gives.
pub(super) fn odd_answer() -> StoreError {
    StoreError::broken("a script of redis", "it gave an answer that it never gives")
}

/// Reads a number of an answer.
pub(super) fn number<T: std::str::FromStr>(bytes: &[u8]) -> Result<T, StoreError> {
    std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok()).ok_or_else(odd_answer)
}

/// Reads a key of an answer.
pub(super) fn key(bytes: &[u8]) -> Result<crate::key::Key, StoreError> {
    std::str::from_utf8(bytes).ok().and_then(|text| crate::key::Key::read(text).ok()).ok_or_else(odd_answer)
}
