//! Asks Redis and NATS what they are.

use std::error::Error;
use std::time::Duration;

use async_nats::ConnectOptions;
use redis::aio::MultiplexedConnection;

use super::nats_server::addresses;
use super::redis_client;
use super::redis_server::in_time;
use crate::diagnose::Diagnosis;
use crate::error::StoreError;

const REDIS: &str = "redis";
const AOF: &str = "redis durable";
const MEMORY: &str = "redis memory";
const SINGLE: &str = "redis single";
const NATS: &str = "nats";
const JETSTREAM: &str = "jetstream";
/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// The oldest major version of Redis that the scripts are known to run on.
const OLDEST: u32 = 6;

/// The error and its causes in one line.
fn causes(error: &StoreError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

pub(crate) async fn redis(url: &str) -> Vec<Diagnosis> {
    let look = async {
        let client = redis_client(url)?;
        let mut connection = in_time(client.get_multiplexed_async_connection()).await?;
        let info: String = in_time(redis::cmd("INFO").query_async(&mut connection)).await?;
        Ok::<_, StoreError>((info, fsync(&mut connection).await))
    };
    match look.await {
        Ok((info, fsync)) => {
            vec![version(&info), single(&info), durable(&info, fsync.as_deref()), memory(&info)]
        }
        Err(error) => vec![Diagnosis::bad(
            REDIS,
            causes(&error),
            "is it running, and are address, user and password in the URL right? `redis-cli -u URL ping` says PONG",
        )],
    }
}

/// What `appendfsync` is, where Redis tells: a hosted one may not.
async fn fsync(connection: &mut MultiplexedConnection) -> Option<String> {
    let mut ask = redis::cmd("CONFIG");
    ask.arg("GET").arg("appendfsync");
    let pair: Vec<String> = in_time(ask.query_async(connection)).await.ok()?;
    pair.into_iter().nth(1)
}

/// The value of a line `name:value`.
fn field<'a>(info: &'a str, name: &str) -> &'a str {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map_or("", str::trim)
}

fn version(info: &str) -> Diagnosis {
    let version = field(info, "redis_version");
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major.is_some_and(|major| major >= OLDEST) {
        Diagnosis::good(REDIS, format!("version {version} answers"))
    } else {
        Diagnosis::bad(REDIS, format!("version {version} answers"), "use Redis 6 or a later one")
    }
}

fn single(info: &str) -> Diagnosis {
    if field(info, "cluster_enabled") == "1" {
        return Diagnosis::bad(
            SINGLE,
            "it is a cluster",
            "use one Redis, with replicas if you like: scripts name keys that they compute, which a cluster does not take",
        );
    }
    if field(info, "role") == "slave" {
        return Diagnosis::bad(SINGLE, "it is a replica, which takes no writes", "name the primary");
    }
    Diagnosis::good(SINGLE, "one primary")
}

fn durable(info: &str, fsync: Option<&str>) -> Diagnosis {
    match (field(info, "aof_enabled"), fsync) {
        ("1", Some("always")) => Diagnosis::good(AOF, "appendonly yes, appendfsync always"),
        ("1", Some(other)) => Diagnosis::risky(
            AOF,
            format!(
                "appendonly yes, appendfsync {other}: what it acknowledged in the last second can be lost in a crash"
            ),
            "set `appendfsync always` in redis.conf",
        ),
        ("1", None) => Diagnosis::good(AOF, "appendonly yes; how often it is synced it does not tell"),
        _ => Diagnosis::bad(
            AOF,
            "appendonly no: what it acknowledged is lost in a crash",
            "set `appendonly yes` and `appendfsync always` in redis.conf, or `redis-cli CONFIG SET appendonly yes`",
        ),
    }
}

fn memory(info: &str) -> Diagnosis {
    let (policy, most) = (field(info, "maxmemory_policy"), field(info, "maxmemory_human"));
    if policy == "noeviction" {
        let most = if field(info, "maxmemory") == "0" { "none" } else { most };
        return Diagnosis::good(MEMORY, format!("noeviction; limit {most}"));
    }
    Diagnosis::bad(
        MEMORY,
        format!("maxmemory-policy {policy}: it drops policies and budgets when memory is short"),
        "set `maxmemory-policy noeviction` in redis.conf",
    )
}

pub(crate) async fn nats(url: &str) -> Vec<Diagnosis> {
    const MEND: &str = "is it running, and are address, user and password in the URL right? \
        `nats-server -js` starts one";
    let addresses = match addresses(url) {
        Ok(addresses) => addresses,
        Err(error) => return vec![Diagnosis::bad(NATS, error.to_string(), MEND)],
    };
    let options = ConnectOptions::new().name("sideguard doctor").connection_timeout(PATIENCE);
    let client = match tokio::time::timeout(PATIENCE, options.connect(&addresses[..])).await {
        Ok(Ok(client)) => client,
        Ok(Err(error)) => return vec![Diagnosis::bad(NATS, error.to_string(), MEND)],
        Err(_) => {
            return vec![Diagnosis::bad(NATS, format!("no answer within {} s", PATIENCE.as_secs()), MEND)];
        }
    };
    let info = client.server_info();
    let there = Diagnosis::good(NATS, format!("version {} answers", info.version));
    let account = async_nats::jetstream::new(client.clone());
    let account = tokio::time::timeout(PATIENCE, account.query_account()).await;
    // It may not let us go in time: then the connection ends with this process.
    let _ = tokio::time::timeout(PATIENCE, client.drain()).await;
    let jetstream = match account {
        Ok(Ok(account)) => Diagnosis::good(
            JETSTREAM,
            format!("on; {} streams, {} bytes stored", account.streams, account.storage),
        ),
        Ok(Err(error)) => Diagnosis::bad(
            JETSTREAM,
            error.to_string(),
            "start the server with `-js`, or put `jetstream { store_dir: DIR, sync_interval: always }` in its configuration",
        ),
        Err(_) => Diagnosis::bad(JETSTREAM, "no answer", "it may have no leader: look at the servers' logs"),
    };
    vec![there, jetstream]
}

#[cfg(test)]
mod tests {
    use super::{durable, memory, single, version};

    #[test]
    fn what_redis_tells_is_judged() {
        let good = "redis_version:7.0.15\r\nrole:master\r\ncluster_enabled:0\r\naof_enabled:1\r\n\
            maxmemory:0\r\nmaxmemory_human:0B\r\nmaxmemory_policy:noeviction\r\n";
        for found in [version(good), single(good), durable(good, Some("always")), memory(good)] {
            assert_eq!(found.trouble, None, "{found:?}");
        }
        let fatal = |found: super::Diagnosis| found.trouble.is_some_and(|trouble| trouble.fatal);
        assert!(fatal(version(&good.replace("7.0", "5.0"))));
        assert!(fatal(single(&good.replace("cluster_enabled:0", "cluster_enabled:1"))));
        assert!(fatal(single(&good.replace("role:master", "role:slave"))));
        assert!(fatal(durable(&good.replace("aof_enabled:1", "aof_enabled:0"), Some("always"))));
        assert!(fatal(memory(&good.replace("noeviction", "allkeys-lru"))));
        assert!(durable(good, Some("everysec")).trouble.is_some_and(|trouble| !trouble.fatal));
    }
}
