//! Takes what control says: checks who said it and that it is newer, and puts it in force.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ed25519_dalek::{Signature, Verifier, VerifyingKey};
use sideguard_policy::source::Source;
use sideguard_types::control::feed::Beat;
use sideguard_types::control::{Enrolled, Kills, Refused, Signed};

use super::{Fleet, NotTaken, kept};
use crate::app::Sidecar;

/// Why something is not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unfit {
    #[error("its signature is not control's")]
    Signature,
    #[error("it is generation {got}, and {have} is in force already: generations only go up")]
    Older { got: u64, have: u64 },
    #[error("control has another generation {0} than the one in force: was its store put back?")]
    Other(u64),
    #[error("they are older than those that are known")]
    OlderKills,
    #[error("{0}")]
    Policy(String),
}

pub(super) fn sources(signed: &Signed) -> Vec<Source> {
    signed.documents.iter().map(|text| Source::new(text.name.clone(), text.text.clone())).collect()
}

/// Whether control has signed a generation for this sidecar's tenant.
pub(super) fn verify(identity: &Enrolled, signed: &Signed) -> Result<(), Unfit> {
    let own = signed.tenant == identity.tenant;
    let good = own && is_good(&identity.signer, &signed.message(), &signed.signature);
    if good { Ok(()) } else { Err(Unfit::Signature) }
}

/// The same of kill switches.
pub(super) fn verify_kills(identity: &Enrolled, kills: &Kills) -> Result<(), Unfit> {
    let own = kills.tenant == identity.tenant;
    let good = own && is_good(&identity.signer, &kills.message(), &kills.signature);
    if good { Ok(()) } else { Err(Unfit::Signature) }
}

/// Whether control has signed a beat.
pub(super) fn is_signed(identity: &Enrolled, beat: &Beat) -> bool {
    is_good(&identity.signer, &beat.message(), &beat.signature)
}

fn is_good(signer: &str, message: &[u8], signature: &str) -> bool {
    let (Some(key), Some(signature)) = (unhex::<32>(signer), unhex::<64>(signature)) else { return false };
    let Ok(key) = VerifyingKey::from_bytes(&key) else { return false };
    key.verify(message, &Signature::from_bytes(&signature)).is_ok()
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != N * 2 || !text.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(at * 2..at * 2 + 2)?, 16).ok()?;
    }
    Some(bytes)
}

/// Puts kill switches in force.
pub(super) fn take_kills(sidecar: &Sidecar, fleet: &Fleet, identity: &Enrolled, kills: Kills) {
    let fit = verify_kills(identity, &kills).and_then(|()| {
        if kills.number < fleet.kills.borrow().number { Err(Unfit::OlderKills) } else { Ok(()) }
    });
    if let Err(error) = fit {
        tracing::error!(number = kills.number, %error, "kill switches refused: the old ones stay in force");
        return;
    }
    if kills.number == fleet.kills.borrow().number {
        return;
    }
    tracing::warn!(number = kills.number, stopped = kills.scopes.len(), "kill switches changed");
    // In force first: the disk may take its time.
    fleet.kills.send_replace(kills.clone());
    if let Err(error) = kept::keep_kills(&fleet.state, &kills) {
        tracing::error!(%error, "the kill switches cannot be kept");
        fleet.unkept();
    }
    sidecar.told("kills");
}

/// Puts a generation in force, or notes why not.
pub(super) async fn take_generation(
    sidecar: &Arc<Sidecar>,
    fleet: &Fleet,
    identity: &Enrolled,
    signed: &Signed,
) -> bool {
    let taken = take(sidecar, fleet, identity, signed).await;
    if let Err(error) = &taken {
        let told = Refused { generation: signed.number, reason: error.to_string() };
        let refused = Some(NotTaken { told, signed: !matches!(error, Unfit::Signature) });
        let mut known = fleet.refused.lock();
        if *known != refused {
            tracing::error!(generation = signed.number, %error, "generation refused: the old one stays in force");
            *known = refused;
        }
    }
    fleet.changed.notify_one();
    taken.is_ok()
}

async fn take(
    sidecar: &Arc<Sidecar>,
    fleet: &Fleet,
    identity: &Enrolled,
    signed: &Signed,
) -> Result<(), Unfit> {
    verify(identity, signed)?;
    let have = fleet.generation.load(Ordering::Acquire);
    if signed.number == have && have > 0 {
        return Err(Unfit::Other(have));
    }
    if signed.number <= have {
        return Err(Unfit::Older { got: signed.number, have });
    }
    let texts = Arc::new(sources(signed));
    // Another tenant's change: there is nothing to compile.
    if have == 0 || texts != fleet.sources.load_full() {
        let own = Arc::clone(sidecar);
        // Thousands of rules take a while to compile: not on a thread that serves calls.
        let adopted = tokio::task::spawn_blocking(move || own.adopt(texts)).await;
        adopted
            .map_err(|error| error.to_string())
            .and_then(|adopted| adopted.map(drop))
            .map_err(Unfit::Policy)?;
    }
    // Calls are judged by it already; after a restart without control they would be by the one before.
    if let Err(error) = kept::keep_generation(&fleet.state, signed) {
        tracing::error!(%error, "the generation cannot be kept");
        fleet.unkept();
    }
    fleet.in_force(signed);
    *fleet.refused.lock() = None;
    Ok(())
}
