//! What a sidecar keeps of its fleet in its state directory.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sideguard_runtime::{clock, ports};
use sideguard_types::control::{Enrolled, Kills, Signed};
use sideguard_types::time::Timestamp;

use super::taking;

/// Name of the file with what enrolment gave.
const IDENTITY: &str = "control.json";
/// Name of the file with the key that enrolment asks for.
const OWN_KEY: &str = "control.key";
/// Name of the file with the last generation.
const GENERATION: &str = "generation.json";
/// Name of the file with the last kill switches.
const KILLS: &str = "kills.json";
/// Name of the file that says when control was heard of last.
const HEARD: &str = "control.heard";

/// Who the sidecar is.
pub(super) fn identity(state: &Path) -> Result<Option<Enrolled>, String> {
    read(&state.join(IDENTITY))
}

pub(super) fn keep_identity(state: &Path, identity: &Enrolled) -> Result<(), String> {
    keep(&state.join(IDENTITY), identity)?;
    // What it held is in the identity now.
    let _ = fs::remove_file(state.join(OWN_KEY));
    Ok(())
}

/// The key that this sidecar asks for: made once, until an enrolment succeeds.
pub(super) fn own_key(state: &Path) -> Result<String, String> {
    let path = state.join(OWN_KEY);
    if let Some(key) = read(&path)? {
        return Ok(key);
    }
    let key = format!("sgk_{}", sideguard_runtime::id::token(32));
    keep(&path, &key)?;
    Ok(key)
}

/// The last generation, if its signature still holds.
pub(super) fn generation(state: &Path, identity: &Enrolled) -> Result<Option<Signed>, String> {
    let last = read::<Signed>(&state.join(GENERATION))?;
    if let Some(last) = &last {
        taking::verify(identity, last).map_err(|error| format!("`{GENERATION}`: {error}"))?;
    }
    Ok(last)
}

pub(super) fn keep_generation(state: &Path, signed: &Signed) -> Result<(), String> {
    keep(&state.join(GENERATION), signed)
}

/// The last kill switches, if their signature still holds.
pub(super) fn kills(state: &Path, identity: &Enrolled) -> Result<Option<Kills>, String> {
    let last = read::<Kills>(&state.join(KILLS))?;
    if let Some(last) = &last {
        taking::verify_kills(identity, last).map_err(|error| format!("`{KILLS}`: {error}"))?;
    }
    Ok(last)
}

pub(super) fn keep_kills(state: &Path, kills: &Kills) -> Result<(), String> {
    keep(&state.join(KILLS), kills)
}

/// When control was heard of last.
pub(super) fn heard(state: &Path) -> Result<Timestamp, String> {
    let heard = read::<Timestamp>(&state.join(HEARD))?;
    // What lies ahead was written before the clock was set back: it says nothing of how long ago that was.
    Ok(heard.filter(|heard| *heard <= clock::now()).unwrap_or(Timestamp(0)))
}

/// Keeps that control was heard of so long ago.
pub(super) fn keep_heard(state: &Path, ago: Duration) {
    let ago = i64::try_from(ago.as_micros()).unwrap_or(i64::MAX);
    let at = Timestamp(clock::now().0.saturating_sub(ago));
    // Once a second, and worth nothing without the files before it: not worth a wait for the disk.
    let kept = serde_json::to_vec(&at).map_err(std::io::Error::other);
    if let Err(error) = kept.and_then(|bytes| ports::place(&state.join(HEARD), &bytes, 0o600)) {
        tracing::warn!(%error, "cannot keep when control was heard of");
    }
}

/// What is kept is no longer what control said last.
pub(super) fn forget_heard(state: &Path) {
    // It may not be there.
    let _ = fs::remove_file(state.join(HEARD));
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>, String> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| format!("`{}`: {error}: remove it to start anew", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("`{}`: {error}", path.display())),
    }
}

fn keep(path: &Path, what: &impl Serialize) -> Result<(), String> {
    let bytes = serde_json::to_vec(what).map_err(|error| error.to_string())?;
    ports::place_durably(path, &bytes, 0o600).map_err(|error| format!("`{}`: {error}", path.display()))
}
