//! The chain: how a record becomes a line, and how a line is checked.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use sideguard_types::audit::{Phase, Record};
use sideguard_types::time::Timestamp;

use crate::tree::{Hash, Tree};

/// What stands between a line's hashed bytes and its hash.
const HASH_MARK: &[u8] = b",\"hash\":\"";
/// What stands between a checkpoint's signed bytes and its signature.
const SIGNATURE_MARK: &[u8] = b",\"signature\":\"";
/// What ends a line after its hash.
const LINE_END: &[u8] = b"\"}";

/// A SHA-256 in lower-case hex.
pub(crate) type HexHash = [u8; 64];

/// Where a chain stands: what the next record's `seq` and `prev` must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tip {
    pub(crate) next_seq: u64,
    pub(crate) prev: HexHash,
}

impl Tip {
    /// Before the first record.
    pub(crate) const START: Self = Self { next_seq: 1, prev: [b'0'; 64] };
}

/// Who writes the lines: the sidecar's id and the key that signs its checkpoints.
pub(crate) struct Author {
    /// `,"sidecar":"…"`, escaped once.
    sidecar: Vec<u8>,
    key: SigningKey,
    key_hex: String,
}

impl Author {
    pub(crate) fn new(sidecar: &str, key: SigningKey) -> Self {
        let sidecar = format!(",\"sidecar\":{}", serde_json::Value::from(sidecar)).into_bytes();
        let key_hex = hex(key.verifying_key().as_bytes());
        Self { sidecar, key, key_hex }
    }

    /// The public key, in hex.
    pub(crate) fn public_key(&self) -> &str {
        &self.key_hex
    }

    /// Most bytes that a line has beyond its body; what a checkpoint takes in all is below it too.
    pub(crate) fn overhead(&self) -> u64 {
        const MEMBERS: u64 = 1024;
        MEMBERS.saturating_add(self.sidecar.len() as u64)
    }

    /// Appends the line of `body`, a JSON object without its closing brace, and moves `tip` past it. Returns its hash.
    pub(crate) fn line(&self, tip: &mut Tip, body: &[u8], out: &mut Vec<u8>) -> Hash {
        let start = out.len();
        self.open(tip, body, out);
        close(tip, start, out)
    }

    /// Appends a checkpoint at `time`, signed and with the root of the `tree` over the records since the one before, and
    /// moves `tip` past it.
    pub(crate) fn checkpoint(&self, tip: &mut Tip, time: Timestamp, tree: &Tree, out: &mut Vec<u8>) {
        let start = out.len();
        let mut body = Vec::new();
        let record = Record { code: Some("checkpoint".to_owned()), ..Record::new(Phase::Control, time) };
        write_body(&record, &mut body);
        self.open(tip, &body, out);
        out.extend_from_slice(b",\"since\":");
        out.extend_from_slice(tip.next_seq.saturating_sub(tree.count().into()).to_string().as_bytes());
        out.extend_from_slice(b",\"root\":\"");
        out.extend_from_slice(hex(&tree.root()).as_bytes());
        out.extend_from_slice(b"\",\"key\":\"");
        out.extend_from_slice(self.key_hex.as_bytes());
        out.push(b'"');
        let signature = self.key.sign(out.get(start..).unwrap_or_default());
        out.extend_from_slice(SIGNATURE_MARK);
        out.extend_from_slice(hex(&signature.to_bytes()).as_bytes());
        out.push(b'"');
        close(tip, start, out);
    }

    fn open(&self, tip: &Tip, body: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(body);
        out.extend_from_slice(b",\"seq\":");
        out.extend_from_slice(tip.next_seq.to_string().as_bytes());
        out.extend_from_slice(b",\"prev\":\"");
        out.extend_from_slice(&tip.prev);
        out.push(b'"');
        out.extend_from_slice(&self.sidecar);
    }
}

fn close(tip: &mut Tip, start: usize, out: &mut Vec<u8>) -> Hash {
    let raw: Hash = Sha256::digest(out.get(start..).unwrap_or_default()).into();
    let mut hash = [0; 64];
    write_hex(&raw, &mut hash);
    out.extend_from_slice(HASH_MARK);
    out.extend_from_slice(&hash);
    out.extend_from_slice(LINE_END);
    out.push(b'\n');
    *tip = Tip { next_seq: tip.next_seq.saturating_add(1), prev: hash };
    raw
}

/// Appends `record` as a JSON object without its closing brace.
pub(crate) fn write_body(record: &Record, out: &mut Vec<u8>) {
    serde_json::to_writer(&mut *out, record)
        .expect("a record has string keys only, and memory takes all bytes");
    out.pop();
}

/// What is wrong with a line.
#[derive(Debug, thiserror::Error)]
pub enum Flaw {
    /// It is not a JSON object with `seq`, `prev` and, as its last member, `hash`.
    #[error("it is not a record")]
    Form,
    /// Its bytes have another hash than it says: it was changed.
    #[error("it was changed: its `hash` does not fit its bytes")]
    Hash,
    /// It does not follow the line before: something was removed, added or moved here.
    #[error("`seq` should be {expected} and is {found}: records were removed, added or moved here")]
    Seq {
        /// The `seq` that should stand here.
        expected: u64,
        /// The `seq` that stands here.
        found: u64,
    },
    /// It names another record as the one before.
    #[error("`prev` is not the hash of the record before: that record was changed or replaced")]
    Prev,
    /// A checkpoint's key is not among the trusted ones.
    #[error("its checkpoint is signed with the key `{0}`, which is not trusted")]
    Key(String),
    /// A checkpoint's root is not that of the records since the checkpoint before.
    #[error("its checkpoint's `root` does not fit the records before it")]
    Root,
    /// A checkpoint's signature is wrong.
    #[error("its checkpoint's `signature` is wrong: the chain was rewritten without the key")]
    Signature,
    /// More records than a log leaves between two checkpoints.
    #[error("no checkpoint among the {0} records before it: the chain was rewritten without the key")]
    Unsigned(u64),
    /// The file ends within a line although another segment follows.
    #[error("the file ends within a record")]
    Cut,
    /// The segment's name is not the `seq` of its first record.
    #[error("the file should be the one that starts with record {expected}: a segment is missing")]
    Segment {
        /// The `seq` that the segment's name should give.
        expected: u64,
    },
    /// The file cannot be read.
    #[error("it cannot be read")]
    Unreadable(#[source] std::io::Error),
}

/// The members of a line that make the chain.
#[derive(Debug, Deserialize)]
pub(crate) struct Link {
    pub(crate) time: Timestamp,
    pub(crate) seq: u64,
    pub(crate) prev: String,
    #[serde(default)]
    key: Option<String>,
    #[serde(default)]
    signature: Option<String>,
    /// The first record that a checkpoint's root is about.
    #[serde(default)]
    pub(crate) since: Option<u64>,
    #[serde(default)]
    pub(crate) root: Option<String>,
    #[serde(skip)]
    hash: Option<HexHash>,
}

impl Link {
    /// Reads a line (without its newline) and checks its hash.
    pub(crate) fn read(line: &[u8]) -> Result<Self, Flaw> {
        let (hashed, stated) = split_hash(line).ok_or(Flaw::Form)?;
        if hash(hashed) != stated {
            return Err(Flaw::Hash);
        }
        let link: Self = serde_json::from_slice(line).map_err(|_| Flaw::Form)?;
        Ok(Self { hash: Some(stated), ..link })
    }

    /// Checks that the line follows `tip`, and moves `tip` past it.
    pub(crate) fn follow(&self, tip: &mut Tip) -> Result<(), Flaw> {
        if self.seq != tip.next_seq {
            return Err(Flaw::Seq { expected: tip.next_seq, found: self.seq });
        }
        if self.prev.as_bytes() != tip.prev {
            return Err(Flaw::Prev);
        }
        *tip = self.tip();
        Ok(())
    }

    /// Where the chain stands after the line.
    pub(crate) fn tip(&self) -> Tip {
        Tip { next_seq: self.seq.saturating_add(1), prev: self.hash.unwrap_or(Tip::START.prev) }
    }

    /// The line's own hash.
    pub(crate) fn hash(&self) -> Hash {
        let text = self.hash.as_ref().and_then(|hash| std::str::from_utf8(hash).ok());
        text.and_then(unhex).unwrap_or_default()
    }

    /// Adds the line to the tree over the records since the last checkpoint, or compares that tree with what a checkpoint
    /// says of it and begins anew. Logs of an earlier version have checkpoints without a root.
    pub(crate) fn grow(&self, tree: &mut Tree) -> Result<(), Flaw> {
        if !self.is_checkpoint() {
            tree.add(self.hash());
            return Ok(());
        }
        let whole = std::mem::replace(tree, Tree::EMPTY);
        match (self.since, &self.root) {
            (None, None) => Ok(()),
            (Some(since), Some(root))
                if self.seq.checked_sub(since) == Some(whole.count().into())
                    && *root == hex(&whole.root()) =>
            {
                Ok(())
            }
            _ => Err(Flaw::Root),
        }
    }

    /// Whether the line is a checkpoint.
    pub(crate) fn is_checkpoint(&self) -> bool {
        self.signature.is_some()
    }

    /// Checks the signature that `line` has, if it has one, against the trusted keys.
    pub(crate) fn check_signature(&self, line: &[u8], trusted: &[VerifyingKey]) -> Result<(), Flaw> {
        let Some(signature) = &self.signature else { return Ok(()) };
        let key = self.key.as_deref().unwrap_or_default();
        let trusted = trusted
            .iter()
            .find(|trusted| hex(trusted.as_bytes()) == key)
            .ok_or_else(|| Flaw::Key(key.to_owned()))?;
        let signature = unhex::<64>(signature).ok_or(Flaw::Signature)?;
        let at = memchr::memmem::rfind(line, SIGNATURE_MARK).ok_or(Flaw::Signature)?;
        let signed = line.get(..at).ok_or(Flaw::Signature)?;
        trusted.verify_strict(signed, &Signature::from_bytes(&signature)).map_err(|_| Flaw::Signature)
    }
}

/// A line's hashed bytes and the hash that it states.
fn split_hash(line: &[u8]) -> Option<(&[u8], HexHash)> {
    let rest = line.strip_suffix(LINE_END)?;
    let (rest, stated) = rest.split_last_chunk::<64>()?;
    Some((rest.strip_suffix(HASH_MARK)?, *stated))
}

fn hash(bytes: &[u8]) -> HexHash {
    let mut text = [0; 64];
    write_hex(&Sha256::digest(bytes), &mut text);
    text
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = vec![0; bytes.len().saturating_mul(2)];
    write_hex(bytes, &mut text);
    String::from_utf8(text).unwrap_or_default()
}

fn write_hex(bytes: &[u8], text: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (byte, pair) in bytes.iter().zip(text.chunks_exact_mut(2)) {
        let digits =
            [byte >> 4, byte & 15].map(|nibble| DIGITS.get(usize::from(nibble)).copied().unwrap_or(b'0'));
        pair.copy_from_slice(&digits);
    }
}

/// Reads exactly `N` bytes of hex.
pub(crate) fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != N.checked_mul(2)? {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let mut digits = pair.iter().map(|digit| char::from(*digit).to_digit(16));
        let (high, low) = (digits.next()??, digits.next()??);
        *byte = u8::try_from(high * 16 + low).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn author() -> Author {
        Author::new("box \"1\"", SigningKey::from_bytes(&[7; 32]))
    }

    fn line(tip: &mut Tip) -> Vec<u8> {
        let (mut body, mut out) = (Vec::new(), Vec::new());
        write_body(&Record::new(Phase::Intent, Timestamp(0)), &mut body);
        author().line(tip, &body, &mut out);
        out
    }

    #[test]
    fn a_line_reads_back_and_follows() {
        let mut tip = Tip::START;
        let first = line(&mut tip);
        let second = line(&mut tip);
        let mut check = Tip::START;
        for line in [first, second] {
            let link = Link::read(line.trim_ascii_end()).expect("a good line");
            link.follow(&mut check).expect("it follows");
        }
        assert_eq!(check, tip);
        assert_eq!(check.next_seq, 3);
    }

    #[test]
    fn every_changed_byte_of_a_line_shows() {
        let good = line(&mut Tip::START.clone());
        let good = good.trim_ascii_end();
        for at in 0..good.len() {
            let mut bad = good.to_vec();
            bad[at] ^= 1;
            assert!(Link::read(&bad).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_checkpoint_needs_its_key() {
        let mut out = Vec::new();
        author().checkpoint(&mut Tip::START.clone(), Timestamp(0), &Tree::EMPTY, &mut out);
        let line = out.trim_ascii_end();
        let link = Link::read(line).expect("a good line");
        let key = SigningKey::from_bytes(&[7; 32]).verifying_key();
        let other = SigningKey::from_bytes(&[8; 32]).verifying_key();
        assert!(link.is_checkpoint());
        assert!(link.check_signature(line, &[other, key]).is_ok());
        assert!(matches!(link.check_signature(line, &[other]), Err(Flaw::Key(_))));
        assert!((out.len() as u64) < author().overhead());
    }

    #[test]
    fn hex_reads_what_it_writes() {
        assert_eq!(unhex::<3>(&hex(&[0, 171, 255])), Some([0, 171, 255]));
        assert_eq!(unhex::<3>("00ab"), None);
        assert_eq!(unhex::<2>("00g0"), None);
    }
}
