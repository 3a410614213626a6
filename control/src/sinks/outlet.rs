//! The way to a sink's place, whatever kind it is.

use std::path::Path;

use super::Sink;
use super::ndjson::Ndjson;
use super::otlp::Otlp;
use super::shape::Shaped;
use super::syslog::Syslog;
use super::webhook::Webhook;

/// Most bytes that are delivered at once, one entry that is longer aside.
const MOST_BYTES: usize = 512 << 10;
/// Most entries that are delivered at once.
const MOST: usize = 500;

/// Why something was not delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Undelivered {
    /// The place took nothing now; it is tried again for as long as it takes.
    NotNow(String),
    /// It is larger than the place takes: less at once may go.
    TooLarge(String),
}

/// An open way.
#[derive(Debug)]
pub(super) struct Outlet {
    way: Way,
    /// Most entries at once, since the place said that more are too many.
    most: usize,
}

#[derive(Debug)]
enum Way {
    Ndjson(Ndjson),
    Otlp(Otlp),
    Webhook(Webhook),
    Syslog(Syslog),
}

impl Outlet {
    /// Opens the way of a sink; `files` is where files with relative paths stand.
    pub(super) async fn open(sink: &Sink, files: &Path) -> Result<Self, String> {
        let spec = &sink.spec;
        let way = if let Some(spec) = &spec.ndjson {
            Way::Ndjson(Ndjson::open(spec, files).await?)
        } else if let Some(spec) = &spec.otlp {
            Way::Otlp(Otlp::open(spec)?)
        } else if let Some(webhook) = &spec.webhook {
            Way::Webhook(Webhook::open(webhook, &sink.name)?)
        } else if let Some(spec) = &spec.syslog {
            Way::Syslog(Syslog::open(spec)?)
        } else {
            return Err("the sink leads nowhere".to_owned());
        };
        Ok(Self { way, most: MOST })
    }

    /// How many of the entries are delivered at once: at least one.
    pub(super) fn part(&self, all: &[Shaped]) -> usize {
        let mut bytes = 0_usize;
        let fits = |one: &&Shaped| {
            bytes = bytes.saturating_add(one.json.len());
            bytes <= MOST_BYTES
        };
        all.iter().take(self.most).take_while(fits).count().max(1).min(all.len())
    }

    /// So many were too many.
    pub(super) fn smaller(&mut self, than: usize) {
        self.most = (than / 2).max(1);
    }

    /// Delivers all of it, or says why not; some of it may have arrived then.
    pub(super) async fn deliver(&mut self, part: &[Shaped]) -> Result<(), Undelivered> {
        match &mut self.way {
            Way::Ndjson(file) => file.deliver(part).await,
            Way::Otlp(collector) => collector.deliver(part).await,
            Way::Webhook(hook) => hook.deliver(part).await,
            Way::Syslog(server) => server.deliver(part).await,
        }
    }
}
