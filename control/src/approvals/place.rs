//! Under which names approvals are kept. All are the control service's own, with the tenant in the path: only code that
//! knows whose an approval is can name it.

use sha2::{Digest, Sha256};
use sideguard_store::key::Key;
use sideguard_types::control::approvals::{Ask, Held};

use crate::error::Failure;
use crate::keys::own_key;
use crate::signer::hex;

/// Where an approval is kept: the newest first.
pub(super) fn at(tenant: &str, id: &str) -> Result<Key, Failure> {
    own_key(&format!("approvals/{tenant}/{}", turned(id)?))
}

/// An id whose order is turned round; the same again gives the id back.
pub(super) fn turned(id: &str) -> Result<String, Failure> {
    let turn = |c: char| {
        c.to_digit(16).filter(|_| !c.is_ascii_uppercase()).and_then(|d| char::from_digit(15 - d, 16))
    };
    let turned: Option<String> = id.chars().map(turn).collect();
    turned.filter(|turned| turned.len() == 24).ok_or_else(|| missing(id))
}

pub(super) fn missing(id: &str) -> Failure {
    Failure::Missing(format!("approval `{}`", id.chars().take(64).collect::<String>()))
}

pub(super) fn held_at(tenant: &str, id: &str) -> Result<Key, Failure> {
    own_key(&format!("approvals-held/{tenant}/{id}"))
}

pub(super) fn open_at(tenant: &str, agent: &str, id: &str) -> Result<Key, Failure> {
    own_key(&format!("approvals-open/{tenant}/{}/{id}", short(agent)))
}

/// A name of any spelling as a segment of a path.
pub(super) fn short(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes())).chars().take(32).collect()
}

/// Which approval the requests of one agent with one hash are about. The hash is the sidecar's word: what people see, and on
/// which terms, is part of the name, so that a yes to one thing is none to another.
pub(super) fn index_at(tenant: &str, ask: &Ask) -> Result<Key, Failure> {
    let Held { method, scheme, host, path, arguments, constraints, .. } = &ask.request;
    let shown = (&ask.hash, &ask.rule, &ask.terms, method, scheme, host, path, arguments, constraints);
    let shown = serde_json::to_vec(&shown).map_err(|error| Failure::Invalid(error.to_string()))?;
    let shown = hex(&Sha256::digest(&shown));
    own_key(&format!("approvals-by/{tenant}/{}/{shown}", short(&ask.agent)))
}
