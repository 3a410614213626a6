//! The record: an append-only log of what every call asked, was answered and cost, chained by hash and signed.
//!
//! This crate writes it ([`Log`]), checks it ([`verify`]) and reads it ([`read`]). It judges nothing, ships
//! nothing and reads no clock: time comes in with the records.
//!
//! # On disk
//! A directory of segments, `00000000000000000001.ndjson` and so on, each named after its first record. A
//! segment holds one JSON object a line: the members of [`Record`](sideguard_types::audit::Record), then
//!
//! | member | meaning |
//! | --- | --- |
//! | `seq` | number of the record: 1, 2, 3, without a gap, across segments |
//! | `prev` | `hash` of the record before; 64 zeros in the first |
//! | `sidecar` | which sidecar wrote it |
//! | `since`, `root` | in checkpoints: the first record after the checkpoint before, and the root of the Merkle tree (RFC 6962) over the hashes from it up to this one, in hex |
//! | `key`, `signature` | in checkpoints: Ed25519 public key, and its signature over the bytes of the line before `,"signature":`, in hex |
//! | `hash` | SHA-256, in hex, of the bytes of the line before `,"hash":`; always the last member |
//!
//! So a record can be checked with what every machine has:
//! `sed -n 1p FILE | sed 's/,"hash":"[0-9a-f]*"}$//' | tr -d '\n' | sha256sum`.
//!
//! A *checkpoint* is a control record with code `checkpoint`. One stands at the end of every segment, after
//! every 1,000 records, after 10 s of activity and at the close. Because it signs `seq` and `prev`, it vouches
//! for everything before it.
//!
//! Beside the segments: `record.pub` (public keys, one a line), `lock` (held by the writer), and `torn-<seq>`
//! (bytes of a record that a crash cut short; a control record `torn_tail` tells of it).

pub mod arriving;
mod chain;
mod disk;
mod key;
mod log;
pub mod proof;
pub mod read;
mod recover;
mod tree;
pub mod verify;

pub use key::{KeyError, load_or_create_key};
pub use log::{Durable, Log, OpenError, Recovered, Settings, Torn, Unwritable, Written};
