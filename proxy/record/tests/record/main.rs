//! The log through its public face: writing, bounds, recovery, tampering, reading.

mod log;
mod reading;
mod recovery;
mod tampering;

use std::path::Path;

use ed25519_dalek::SigningKey;
use sideguard_record::{Log, Settings};
use sideguard_types::audit::{Phase, Record};
use sideguard_types::resource::Sync;
use sideguard_types::time::Timestamp;

fn settings(dir: &Path) -> Settings {
    Settings {
        dir: dir.join("log"),
        sidecar: "sidecar-1".to_owned(),
        sync: Sync::Batch,
        segment_bytes: 64 << 20,
        max_bytes: None,
    }
}

fn key() -> SigningKey {
    SigningKey::from_bytes(&[3; 32])
}

fn open(settings: &Settings) -> Log {
    Log::open(settings.clone(), key(), Timestamp(0)).expect("a log").0
}

fn record(phase: Phase, call: usize) -> Record {
    let time = Timestamp(i64::try_from(call).expect("a small number") * 1_000);
    Record { call: call.to_string(), agent: "researcher".to_owned(), ..Record::new(phase, time) }
}

fn segment(settings: &Settings, first: u64) -> std::path::PathBuf {
    settings.dir.join(format!("{first:020}.ndjson"))
}
