//! Chains of delegation: how a link is added, how a chain is checked, and how far it lets a call reach.
//!
//! Rights are not intersected: each hop's are kept, and a call has to lie within all of them. So the order of hops does not
//! matter, and one hop more never allows more.

mod purse;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};
use sideguard_types::call::Call;
use sideguard_types::delegation::{Allowance, Chain, Hop, Link, Passport, Receipt, Rights};
use sideguard_types::time::Timestamp;

use crate::identity::Reach;
use crate::policy::PolicySet;

pub use purse::{Purse, Taken, Want};

/// Most links of any chain, whatever is configured.
pub const LONGEST: usize = 16;
/// How far ahead of the receiver's clock a link may have been made.
const SKEW: Duration = Duration::from_secs(30);

/// Why a chain is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// It has no link.
    #[error("the chain has no link")]
    Empty,
    /// It has more links than may be.
    #[error("the chain has {links} links, and {most} are the most")]
    TooDeep {
        /// How many it has.
        links: usize,
        /// How many may be.
        most: usize,
    },
    /// A link follows one that lets none follow.
    #[error("link `{0}` goes deeper than the one before it allows")]
    Deeper(String),
    /// A link or its issuer is another tenant's.
    #[error("link `{0}` is another tenant's")]
    Tenant(String),
    /// Control has not signed the issuer's passport.
    #[error("link `{0}`: its issuer is not known: control has not signed its passport")]
    Issuer(String),
    /// The issuer speaks for another agent.
    #[error("link `{0}`: its issuer does not speak for `{1}`")]
    Speaker(String, String),
    /// The signature is wrong: something was changed.
    #[error("link `{0}`: its signature is not its issuer's")]
    Signature(String),
    /// A link follows another one than the one before it.
    #[error("link `{0}` does not follow the one before it")]
    Order(String),
    /// A link holds longer, or lets more be used, than the one before it.
    #[error("link `{0}` is wider than the one before it")]
    Widened(String),
    /// A link is over.
    #[error("link `{0}` has expired")]
    Expired(String),
    /// A link was made in the future.
    #[error("link `{0}` is not yet valid: do the clocks differ?")]
    Early(String),
    /// The work was handed to somebody else.
    #[error("the chain is for `{0}`")]
    Holder(String),
}

/// What a chain is checked against.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// The receiver's tenant.
    pub tenant: &'a str,
    /// Control's public key.
    pub signer: &'a [u8; 32],
    /// Who the work must be for: an agent, or `pool/NAME`.
    pub holder: &'a str,
    /// Most links.
    pub depth: usize,
    /// The time now.
    pub now: Timestamp,
}

/// A chain that was checked.
#[derive(Debug, Clone)]
pub struct Verified {
    /// The chain itself, for the next link.
    pub chain: Arc<Chain>,
    /// Its hops, root first.
    pub hops: Arc<[Hop]>,
    /// The most that may be used under it.
    pub budget: Allowance,
    /// When its last link was made.
    pub issued: Timestamp,
    /// Until when it holds.
    pub expires: Timestamp,
}

impl Verified {
    /// Id of the last link.
    #[must_use]
    pub fn link(&self) -> &str {
        self.hops.last().map_or("", |hop| hop.link.as_str())
    }
}

/// Checks a chain.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn verify(chain: Chain, expected: &Expected<'_>) -> Result<Verified, Broken> {
    let most = expected.depth.min(LONGEST);
    if chain.links.len() > most {
        return Err(Broken::TooDeep { links: chain.links.len(), most });
    }
    let mut before: Option<&Link> = None;
    for link in &chain.links {
        genuine(link, expected)?;
        match before {
            None if !link.prev.is_empty() => return Err(Broken::Order(link.id.clone())),
            None => {}
            Some(before) => follows(link, before)?,
        }
        before = Some(link);
    }
    let last = before.ok_or(Broken::Empty)?;
    if last.to != expected.holder {
        return Err(Broken::Holder(last.to.clone()));
    }
    let (budget, issued, expires) = (last.budget, last.issued, last.expires);
    let hops = chain.links.iter().map(hop).collect();
    Ok(Verified { hops, budget, issued, expires, chain: Arc::new(chain) })
}

fn hop(link: &Link) -> Hop {
    Hop {
        link: link.id.clone(),
        issuer: link.issuer.sidecar.clone(),
        agent: link.from.clone(),
        rights: link.rights.clone(),
        expires: link.expires,
    }
}

/// Whether a link is what its issuer made, and the issuer one of this fleet.
fn genuine(link: &Link, expected: &Expected<'_>) -> Result<(), Broken> {
    let id = || link.id.clone();
    let Link { issuer, .. } = link;
    if link.tenant != expected.tenant || issuer.tenant != expected.tenant {
        return Err(Broken::Tenant(id()));
    }
    if !is_passport(issuer, expected.signer) {
        return Err(Broken::Issuer(id()));
    }
    if issuer.agent.as_ref().is_some_and(|agent| *agent != link.from) {
        return Err(Broken::Speaker(id(), link.from.clone()));
    }
    let key = unhex(&issuer.key);
    if !key.is_some_and(|key| is_signed(&key, &link.message(), &link.signature)) {
        return Err(Broken::Signature(id()));
    }
    if link.expires > issuer.expires {
        return Err(Broken::Widened(id()));
    }
    if link.expires <= expected.now {
        return Err(Broken::Expired(id()));
    }
    if link.issued > expected.now.plus(SKEW) {
        return Err(Broken::Early(id()));
    }
    Ok(())
}

/// Whether a link follows another one and is no wider.
fn follows(link: &Link, before: &Link) -> Result<(), Broken> {
    let id = || link.id.clone();
    // Which worker of a pool took the work is for its own sidecar to know, which signs.
    if link.prev != digest(before) || before.to != link.from && !before.to.contains('/') {
        return Err(Broken::Order(id()));
    }
    if link.depth >= before.depth {
        return Err(Broken::Deeper(id()));
    }
    if link.expires > before.expires || within(link.budget, before.budget) != link.budget {
        return Err(Broken::Widened(id()));
    }
    Ok(())
}

/// Whether control has signed a passport.
#[must_use]
pub fn is_passport(passport: &Passport, signer: &[u8; 32]) -> bool {
    is_signed(signer, &passport.message(), &passport.signature)
}

/// Checks what another sidecar says was used under a link.
#[must_use]
pub fn is_receipt(receipt: &Receipt, link: &Link, signer: &[u8; 32], now: Timestamp) -> bool {
    let Receipt { issuer, .. } = receipt;
    let speaks = issuer.agent.as_ref().is_none_or(|agent| *agent == link.to);
    receipt.link == link.id
        && issuer.tenant == link.tenant
        && speaks
        && issuer.expires > now
        && is_passport(issuer, signer)
        && unhex(&issuer.key).is_some_and(|key| is_signed(&key, &receipt.message(), &receipt.signature))
}

/// Signs what was used under a link.
#[must_use]
pub fn signed_receipt(mut receipt: Receipt, key: &SigningKey) -> Receipt {
    receipt.signature = hex(&key.sign(&receipt.message()).to_bytes());
    receipt
}

/// What a new link says of itself; what the links before it say narrows that.
#[derive(Debug, Clone)]
pub struct Terms {
    /// Its id.
    pub id: String,
    /// The agent that hands work on.
    pub from: String,
    /// Who it is for.
    pub to: String,
    /// What the agent that hands on may do itself.
    pub rights: Rights,
    /// The most that may be used under it.
    pub budget: Allowance,
    /// The time now.
    pub now: Timestamp,
    /// How long it holds at most.
    pub life: Duration,
    /// How many further links may follow at most.
    pub depth: u32,
    /// Session of the call.
    pub session: Option<String>,
    /// Id of the call.
    pub call: String,
}

/// Why no link can be added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// The links before it let none follow.
    #[error("work may not be handed on any further: the chain {0} is as deep as it may be")]
    Deep(String),
    /// The links before it, or the passport, are over.
    #[error("work can no longer be handed on: the chain or the sidecar's passport has expired")]
    Over,
}

/// Adds a link to a chain, or begins one. Whatever `terms` ask for, the link is no wider than the chain.
///
/// # Errors
/// When the chain lets none follow.
pub fn extend(
    parent: Option<&Chain>,
    terms: Terms,
    passport: &Passport,
    key: &SigningKey,
) -> Result<Chain, Ended> {
    let mut links = parent.map(|chain| chain.links.clone()).unwrap_or_default();
    let last = links.last();
    let depth = match last {
        Some(last) => last.depth.checked_sub(1).ok_or_else(|| Ended::Deep(path(&links, None)))?,
        None => terms.depth,
    };
    let expires = terms.now.plus(terms.life).min(passport.expires);
    let expires = last.map_or(expires, |last| expires.min(last.expires));
    if expires <= terms.now {
        return Err(Ended::Over);
    }
    let mut link = Link {
        id: terms.id,
        tenant: passport.tenant.clone(),
        from: terms.from,
        to: terms.to,
        issuer: passport.clone(),
        rights: terms.rights,
        budget: last.map_or(terms.budget, |last| within(terms.budget, last.budget)),
        issued: terms.now,
        expires,
        depth: depth.min(terms.depth),
        session: terms.session,
        call: terms.call,
        prev: last.map(digest).unwrap_or_default(),
        signature: String::new(),
    };
    link.signature = hex(&key.sign(&link.message()).to_bytes());
    links.push(link);
    Ok(Chain { links })
}

/// The lesser in each unit.
#[must_use]
pub fn within(one: Allowance, other: Allowance) -> Allowance {
    fn least<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
        match (one, other) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }
    Allowance {
        tokens: least(one.tokens, other.tokens),
        usd: least(one.usd, other.usd),
        calls: least(one.calls, other.calls),
    }
}

/// Agents of a chain with arrows between, as it is shown; `end` is who works now.
fn path(links: &[Link], end: Option<&str>) -> String {
    let end = end.or_else(|| links.last().map(|link| link.to.as_str()));
    shown(links.iter().map(|link| link.from.as_str()), end.unwrap_or_default())
}

fn shown<'a>(agents: impl Iterator<Item = &'a str>, end: &'a str) -> String {
    agents.chain([end]).collect::<Vec<_>>().join(" → ")
}

/// A call reaches beyond what its agent, or one above it, may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutOfScope {
    /// What says so: `agent/NAME` or `delegation/LINK`.
    pub rule: String,
    /// Why, for the reply and the record.
    pub reason: String,
}

impl PolicySet {
    /// Whether a call lies within the rights of its agent and of everybody above it: those that stand in the links, and
    /// those that the agents have now.
    ///
    /// # Errors
    /// When it does not, and whose rights it exceeds.
    pub fn scope(&self, call: &Call<'_>, now: Timestamp) -> Result<(), OutOfScope> {
        let caller = call.caller;
        let identity = |agent: &str| self.identity_by_name(&caller.tenant, agent);
        if let Some(Err(reason)) = identity(&caller.agent).map(|own| own.scope(call)) {
            return Err(OutOfScope { rule: format!("agent/{}", caller.agent), reason });
        }
        for hops in &caller.delegations {
            for hop in hops.iter() {
                let now_too = || identity(&hop.agent).map_or(Ok(()), |above| above.scope(call));
                if let Err(why) = reaches(hop, call, now).and_then(|()| now_too()) {
                    let chain = shown(hops.iter().map(|hop| hop.agent.as_str()), &caller.agent);
                    return Err(OutOfScope {
                        rule: format!("delegation/{}", hop.link),
                        reason: format!("{chain}: {why}"),
                    });
                }
            }
        }
        Ok(())
    }
}

fn reaches(hop: &Hop, call: &Call<'_>, now: Timestamp) -> Result<(), String> {
    if hop.expires <= now {
        return Err(format!("the delegation of `{}` has expired", hop.agent));
    }
    Reach::of(&hop.rights)?.holds(&hop.agent, call)
}

/// SHA-256 over a link and its signature, in hex.
#[must_use]
pub fn digest(link: &Link) -> String {
    let hash = Sha256::new().chain_update(link.message()).chain_update(link.signature.as_bytes());
    hex(&hash.finalize())
}

fn is_signed(key: &[u8; 32], message: &[u8], signature: &str) -> bool {
    let Some(signature) = unhex::<64>(signature) else { return false };
    let key = VerifyingKey::from_bytes(key);
    key.is_ok_and(|key| key.verify_strict(message, &Signature::from_bytes(&signature)).is_ok())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes of hex digits, in lower case: there is one way to write them.
#[must_use]
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    let mut bytes = [0_u8; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

fn digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => digit.checked_sub(b'0'),
        b'a'..=b'f' => digit.checked_sub(b'a' - 10),
        _ => None,
    }
}
