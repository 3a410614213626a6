//! A proof that a record is in a sidecar's log, for whoever has neither the log nor access to control.
//!
//! It holds the record, the checkpoint after it, and the hashes that lead from the record up to the checkpoint's root
//! ([RFC 6962](https://www.rfc-editor.org/rfc/rfc6962), section 2.1.1). The checkpoint is signed with the sidecar's key, and
//! control has signed that this key is the one of this sidecar of this tenant, and that the checkpoint is one of the chain that
//! it was shipped.
//!
//! What it shows: the sidecar wrote this record, byte for byte, at this place of its log, no later than the checkpoint; control
//! had it when the proof was made. What it does not show: that what the record says is true, that nothing else happened, that
//! the clock was right, or that neither key was in other hands. No other record can be read from it.

use ed25519_dalek::{Signature, VerifyingKey};
use serde::{Deserialize, Serialize};

use crate::arriving::public_key;
use crate::chain::{Flaw, Link, hex, unhex};
use crate::tree::{self, Hash};

/// What a proof says. Made by [`Proof::new`] and [`Proof::attest`], read by [`Proof::read`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    /// Version of this form; 1.
    v: u8,
    tenant: String,
    sidecar: String,
    /// Number of the record.
    position: u64,
    /// The record, as it stands in the log.
    record: String,
    /// Hashes from the record up to the root, in hex.
    path: Vec<String>,
    /// The checkpoint after it, as it stands in the log; the record itself when that is one.
    checkpoint: String,
    /// Public key of the sidecar's record, in hex.
    key: String,
    /// Public key of control, in hex.
    control: String,
    /// Control's signature over [`Proof::message`], in hex.
    attested: String,
}

/// What a proof that holds shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The sidecar's tenant.
    pub tenant: String,
    /// The sidecar.
    pub sidecar: String,
    /// Number of the record.
    pub position: u64,
    /// The record, as it stands in the log.
    pub record: String,
    /// Number of the checkpoint that vouches for it.
    pub checkpoint: u64,
    /// Public key of the sidecar's record, in hex.
    pub key: String,
    /// Public key of control, in hex.
    pub control: String,
}

/// Why a proof cannot be made, or does not hold.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// It is not a proof, or not in the one form that a proof has.
    #[error("it is not a proof as `sideguard audit prove` writes it: {0}")]
    Form(String),
    /// The record or its checkpoint is wrong.
    #[error("its {what}: {flaw}")]
    Line {
        /// Which.
        what: &'static str,
        /// What is wrong.
        flaw: Flaw,
    },
    /// What it says does not belong together.
    #[error("{0}")]
    Apart(&'static str),
    /// Control's signature is wrong.
    #[error("`attested` is not control's signature over this sidecar, its key and this checkpoint")]
    Attested,
    /// A key is not one that is trusted.
    #[error("its {whose} key is `{key}`, which is not the one that was given")]
    Key {
        /// `record` or `control`.
        whose: &'static str,
        /// The key.
        key: String,
    },
}

impl Proof {
    /// A proof of record `position`, not attested yet: `lines` are those after the checkpoint before it up to the one after it,
    /// that one included.
    ///
    /// # Errors
    /// When they are not that.
    pub fn new(
        tenant: &str,
        sidecar: &str,
        position: u64,
        lines: &[&[u8]],
        key: &str,
    ) -> Result<Self, ProofError> {
        let apart = || ProofError::Apart("the lines are not those between two checkpoints");
        let text = |line: &[u8]| {
            String::from_utf8(line.to_vec()).map_err(|error| ProofError::Form(error.to_string()))
        };
        let (checkpoint, before) = lines.split_last().ok_or_else(apart)?;
        let first = lines.first().ok_or_else(apart)?;
        let first = Link::read(first).map_err(|flaw| ProofError::Line { what: "record", flaw })?.seq;
        let index =
            position.checked_sub(first).and_then(|index| usize::try_from(index).ok()).ok_or_else(apart)?;
        let record = lines.get(index).ok_or_else(apart)?;
        let hashes = before.iter().map(|line| Link::read(line).map(|link| link.hash()));
        let hashes: Vec<Hash> =
            hashes.collect::<Result<_, _>>().map_err(|flaw| ProofError::Line { what: "record", flaw })?;
        let path = if index < hashes.len() { tree::path(&hashes, index) } else { Vec::new() };
        Ok(Self {
            v: 1,
            tenant: tenant.to_owned(),
            sidecar: sidecar.to_owned(),
            position,
            record: text(record)?,
            path: path.iter().map(|hash| hex(hash)).collect(),
            checkpoint: text(checkpoint)?,
            key: key.to_owned(),
            control: String::new(),
            attested: String::new(),
        })
    }

    /// What control signs: a title, the tenant, the sidecar, its key, and number and hash of the checkpoint, each on a line.
    ///
    /// # Errors
    /// When its checkpoint is not a record.
    pub fn message(&self) -> Result<Vec<u8>, ProofError> {
        let link = Link::read(self.checkpoint.as_bytes())
            .map_err(|flaw| ProofError::Line { what: "checkpoint", flaw })?;
        let Self { tenant, sidecar, key, .. } = self;
        let (seq, hash) = (link.seq, hex(&link.hash()));
        Ok(format!("sideguard record proof 1\n{tenant}\n{sidecar}\n{key}\n{seq}\n{hash}\n").into_bytes())
    }

    /// The same, with control's public key and its signature over [`Proof::message`], in hex.
    #[must_use]
    pub fn attest(self, control: String, attested: String) -> Self {
        Self { control, attested, ..self }
    }

    /// As it is kept: the one form that [`Proof::read`] takes.
    ///
    /// # Errors
    /// Never, as a proof has strings and numbers only.
    pub fn text(&self) -> Result<String, ProofError> {
        let text = serde_json::to_string_pretty(self).map_err(|error| ProofError::Form(error.to_string()))?;
        Ok(text + "\n")
    }

    /// Reads a proof and checks it: against `record` as the sidecar's key and `control` as control's, where these are known;
    /// otherwise the keys in it are believed.
    ///
    /// # Errors
    /// Why it does not hold. A text of which any byte is another one does not.
    pub fn read(
        text: &str,
        record: Option<&VerifyingKey>,
        control: Option<&VerifyingKey>,
    ) -> Result<Shown, ProofError> {
        let proof: Self = serde_json::from_str(text).map_err(|error| ProofError::Form(error.to_string()))?;
        // There is one text for each proof: no other spacing, no other spelling of a string.
        if proof.v != 1 || proof.text()? != text {
            return Err(ProofError::Form("its text is not the one that was written".to_owned()));
        }
        proof.check(record, control)
    }

    fn check(
        self,
        record: Option<&VerifyingKey>,
        control: Option<&VerifyingKey>,
    ) -> Result<Shown, ProofError> {
        let key = known("record", &self.key, record)?;
        let line = self.line("record", &self.record)?;
        let checkpoint = self.line("checkpoint", &self.checkpoint)?;
        if line.seq != self.position {
            return Err(ProofError::Apart("`position` is not the number of its record"));
        }
        if !checkpoint.is_checkpoint() {
            return Err(ProofError::Apart("its `checkpoint` is none"));
        }
        checkpoint
            .check_signature(self.checkpoint.as_bytes(), &[key])
            .map_err(|flaw| ProofError::Line { what: "checkpoint", flaw })?;
        self.included(&line, &checkpoint)?;
        let control = known("control", &self.control, control)?;
        let signature = unhex::<64>(&self.attested).ok_or(ProofError::Attested)?;
        control
            .verify_strict(&self.message()?, &Signature::from_bytes(&signature))
            .map_err(|_| ProofError::Attested)?;
        Ok(Shown {
            tenant: self.tenant,
            sidecar: self.sidecar,
            position: self.position,
            record: self.record,
            checkpoint: checkpoint.seq,
            key: self.key,
            control: self.control,
        })
    }

    /// Checks that the path leads from the record to the checkpoint's root.
    fn included(&self, line: &Link, checkpoint: &Link) -> Result<(), ProofError> {
        if self.record == self.checkpoint {
            return if self.path.is_empty() {
                Ok(())
            } else {
                Err(ProofError::Apart("a checkpoint has no path"))
            };
        }
        let apart = || ProofError::Apart("its path does not lead from the record to the checkpoint's root");
        let path: Option<Vec<Hash>> = self.path.iter().map(|hash| unhex(hash)).collect();
        let small = |number: Option<u64>| number.and_then(|number| usize::try_from(number).ok());
        let (since, root) = checkpoint.since.zip(checkpoint.root.as_ref()).ok_or_else(apart)?;
        let index = small(line.seq.checked_sub(since)).ok_or_else(apart)?;
        let count =
            small(checkpoint.seq.checked_sub(since)).filter(|count| index < *count).ok_or_else(apart)?;
        let found = tree::root_by(line.hash(), index, count, &path.ok_or_else(apart)?);
        if found.is_some_and(|found| hex(&found) == *root) { Ok(()) } else { Err(apart()) }
    }

    /// Reads a line and checks that this sidecar wrote it.
    fn line(&self, what: &'static str, text: &str) -> Result<Link, ProofError> {
        #[derive(Deserialize)]
        struct By {
            sidecar: String,
        }
        let link = Link::read(text.as_bytes()).map_err(|flaw| ProofError::Line { what, flaw })?;
        let by = serde_json::from_str::<By>(text).map_err(|_| ProofError::Line { what, flaw: Flaw::Form })?;
        if by.sidecar != self.sidecar {
            return Err(ProofError::Apart("it holds a record of another sidecar"));
        }
        Ok(link)
    }
}

/// A key of a proof, which must be the one that is known, if one is.
fn known(
    whose: &'static str,
    text: &str,
    trusted: Option<&VerifyingKey>,
) -> Result<VerifyingKey, ProofError> {
    let wrong = || ProofError::Key { whose, key: text.to_owned() };
    public_key(text).filter(|key| trusted.is_none_or(|trusted| trusted == key)).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer, SigningKey};
    use sideguard_types::audit::{Phase, Record};
    use sideguard_types::time::Timestamp;

    use super::*;
    use crate::chain::{Author, Tip, write_body};
    use crate::tree::Tree;

    /// Lines of so many records and their checkpoint.
    fn lines(count: u64) -> Vec<Vec<u8>> {
        let author = Author::new("box", SigningKey::from_bytes(&[7; 32]));
        let (mut tip, mut tree, mut lines) = (Tip::START, Tree::EMPTY, Vec::new());
        for call in 0..count {
            let (mut body, mut out) = (Vec::new(), Vec::new());
            let reason = format!("é \"quoted\" \u{1} {call}");
            write_body(&Record { reason, ..Record::new(Phase::Intent, Timestamp(0)) }, &mut body);
            tree.add(author.line(&mut tip, &body, &mut out));
            lines.push(out.trim_ascii_end().to_vec());
        }
        let mut out = Vec::new();
        author.checkpoint(&mut tip, Timestamp(1), &tree, &mut out);
        lines.push(out.trim_ascii_end().to_vec());
        lines
    }

    fn proof(count: u64, position: u64) -> String {
        let lines = lines(count);
        let lines: Vec<&[u8]> = lines.iter().map(Vec::as_slice).collect();
        let key = hex(SigningKey::from_bytes(&[7; 32]).verifying_key().as_bytes());
        let control = SigningKey::from_bytes(&[9; 32]);
        let proof = Proof::new("acme", "box", position, &lines, &key).expect("a proof");
        let attested = hex(&control.sign(&proof.message().expect("a message")).to_bytes());
        proof.attest(hex(control.verifying_key().as_bytes()), attested).text().expect("a text")
    }

    #[test]
    fn every_record_can_be_proved_the_checkpoint_too() {
        for count in [1, 2, 5] {
            for position in 1..=count + 1 {
                let shown = Proof::read(&proof(count, position), None, None).expect("it holds");
                assert_eq!((shown.position, shown.checkpoint), (position, count + 1));
            }
        }
    }

    #[test]
    fn any_other_byte_anywhere_fails() {
        let good = proof(3, 2);
        for at in 0..good.len() {
            for change in [1, 2, 0x20, 0x80] {
                let mut bad = good.clone().into_bytes();
                bad[at] ^= change;
                let held = String::from_utf8(bad).is_ok_and(|text| Proof::read(&text, None, None).is_ok());
                assert!(!held, "byte {at} of {good}");
            }
        }
        assert!(Proof::read(good.trim_end(), None, None).is_err(), "cut at the end");
        assert!(Proof::read(&format!(" {good}"), None, None).is_err(), "another spacing");
    }

    #[test]
    fn other_keys_than_the_known_ones_are_refused() {
        let key = |seed| SigningKey::from_bytes(&[seed; 32]).verifying_key();
        let good = proof(3, 2);
        assert!(Proof::read(&good, Some(&key(7)), Some(&key(9))).is_ok());
        assert!(matches!(
            Proof::read(&good, Some(&key(8)), None),
            Err(ProofError::Key { whose: "record", .. })
        ));
        assert!(matches!(
            Proof::read(&good, None, Some(&key(8))),
            Err(ProofError::Key { whose: "control", .. })
        ));
    }
}
