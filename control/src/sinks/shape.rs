//! An entry in the form that a sink gets it in.

use sideguard_types::audit::Record;
use sideguard_types::control::records::Entry;
use sideguard_types::resource::SinkFormat;

use super::ocsf;

/// An entry, ready to be delivered.
#[derive(Debug, Clone)]
pub(super) struct Shaped {
    pub(super) sidecar: String,
    pub(super) tenant: String,
    pub(super) position: u64,
    pub(super) record: Record,
    /// One JSON object, without a line feed.
    pub(super) json: String,
}

/// Shapes an entry; `None` for what is no record. That cannot be: control checks what it takes in.
pub(super) fn shape(entry: &Entry, format: SinkFormat) -> Option<Shaped> {
    let record: Record = serde_json::from_str(entry.record.get()).ok()?;
    let json = match format {
        SinkFormat::Record => serde_json::to_string(entry).ok()?,
        SinkFormat::Ocsf => ocsf::event(entry, &record).to_string(),
    };
    Some(Shaped {
        sidecar: entry.sidecar.clone(),
        tenant: entry.tenant.clone(),
        position: entry.position,
        record,
        json,
    })
}
