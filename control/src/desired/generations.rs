//! Generations as they are kept: a document that names parts, and parts that hold entries and are named by their content.
//! An object is always in the part of the same number, so that a change of one object among thousands writes one part anew.

use std::collections::BTreeMap;

use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sideguard_store::Store;
use sideguard_store::documents::{Edit, Expect};
use sideguard_store::key::Key;
use sideguard_types::control::{Generation, Name};
use sideguard_types::time::Timestamp;

use super::{Entry, Kept};
use crate::error::Failure;
use crate::keys::own_key;
use crate::signer::hex;

/// Most parts of a generation.
const PARTS: u8 = 64;
/// Parts in one write, and that are read at once.
const BATCH: usize = 16;

/// Hashes of parts by their numbers; empty parts are left out.
pub(super) type Parts = BTreeMap<u8, String>;

#[derive(Debug, Serialize, Deserialize)]
struct Document {
    told: Generation,
    parts: Parts,
}

fn generation_key(number: u64) -> Result<Key, Failure> {
    own_key(&format!("generations/{number:020}"))
}

fn part_key(hash: &str) -> Result<Key, Failure> {
    own_key(&format!("parts/{hash}"))
}

/// The part that an object is in.
fn place(name: &Name) -> u8 {
    let Name { tenant, kind, name } = name;
    Sha256::digest(format!("{tenant}/{kind}/{name}")).first().map_or(0, |first| first % PARTS)
}

async fn document(store: &Store, now: Timestamp, number: u64) -> Result<Document, Failure> {
    let at = generation_key(number)?;
    let document = store.documents.get(now, &at).await?;
    let document = document.ok_or_else(|| Failure::Missing(format!("generation {number}")))?;
    serde_json::from_slice(&document.value).map_err(|_| Failure::Broken(at.to_string()))
}

/// A generation in short.
pub(crate) async fn told(store: &Store, now: Timestamp, number: u64) -> Result<Generation, Failure> {
    Ok(document(store, now, number).await?.told)
}

/// A generation with its entries, in the order of their names.
pub(crate) async fn whole(store: &Store, now: Timestamp, number: u64) -> Result<Kept, Failure> {
    let Document { told, parts } = document(store, now, number).await?;
    let part = |hash: &String| {
        let at = part_key(hash);
        async move {
            let at = at?;
            let broken = || Failure::Broken(at.to_string());
            let document = store.documents.get(now, &at).await?.ok_or_else(broken)?;
            serde_json::from_slice::<Vec<Entry>>(&document.value).map_err(|_| broken())
        }
    };
    let read: Vec<Vec<Entry>> = stream::iter(parts.values().map(part)).buffered(BATCH).try_collect().await?;
    let mut entries: Vec<Entry> = read.into_iter().flatten().collect();
    entries.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    Ok(Kept { told, entries, parts })
}

/// Writes the parts that `before` has not, and gives the edit that makes the generation.
pub(super) async fn write(
    store: &Store,
    now: Timestamp,
    before: &Kept,
    told: &Generation,
    entries: &[Entry],
) -> Result<Edit, Failure> {
    let unwritten = |error: serde_json::Error| Failure::Invalid(error.to_string());
    let mut apart: BTreeMap<u8, Vec<&Entry>> = BTreeMap::new();
    for entry in entries {
        apart.entry(place(&entry.name)).or_default().push(entry);
    }
    let (mut parts, mut edits) = (Parts::new(), Vec::new());
    for (number, entries) in apart {
        let value = serde_json::to_vec(&entries).map_err(unwritten)?;
        let hash = hex(&Sha256::digest(&value));
        if before.parts.get(&number) != Some(&hash) {
            edits.push(Edit::put(part_key(&hash)?, value.into(), Expect::Any));
        }
        parts.insert(number, hash);
    }
    for batch in edits.chunks(BATCH) {
        store.documents.put_all(now, batch.to_vec()).await?;
    }
    let document = Document { told: told.clone(), parts };
    let value = serde_json::to_vec(&document).map_err(unwritten)?;
    Ok(Edit::put(generation_key(told.number)?, value.into(), Expect::Absent))
}
