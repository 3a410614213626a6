//! Proving that a record is in a sidecar's log.

use sideguard_record::arriving::Line;
use sideguard_record::proof::{Proof, ProofError};
use sideguard_record::verify::CHECKPOINT_RECORDS;
use sideguard_store::Store;
use sideguard_types::time::Timestamp;

use super::head::Head;
use crate::error::Failure;
use crate::keys::Principal;
use crate::signer::Signer;

/// A proof of record `position` of a sidecar, as a text.
pub(crate) async fn prove(
    store: &Store,
    now: Timestamp,
    signer: &Signer,
    who: &Principal,
    (sidecar, tenant): (&str, Option<&str>),
    position: u64,
) -> Result<String, Failure> {
    let head = &Head::only(store, now, who, (sidecar, tenant)).await?;
    if position < head.first || position >= head.chain.next {
        return Err(Failure::Missing(format!("record {position} of sidecar `{sidecar}` here")));
    }
    // From the record on up to its checkpoint; then back to where that begins.
    let rest = read(store, head, position, CHECKPOINT_RECORDS.saturating_add(1)).await?;
    let signed = |line: &Vec<u8>| Line::read(line).is_ok_and(|line| line.is_checkpoint());
    let Some(end) = rest.iter().position(signed) else {
        let detail =
            format!("record {position} is not under a signed checkpoint yet: try again in some seconds");
        return Err(Failure::Conflict(detail));
    };
    let checkpoint = rest.get(end).map(|line| Line::read(line));
    let since = match checkpoint {
        Some(Ok(line)) => line.since(),
        _ => None,
    };
    let Some(since) = since.filter(|since| *since >= head.first) else {
        return Err(Failure::Conflict(format!(
            "record {position} has a checkpoint that proves no single record"
        )));
    };
    let last = position.saturating_add(end as u64);
    let mut lines = read(store, head, since, last.saturating_sub(since).saturating_add(1)).await?;
    lines.truncate(usize::try_from(last.saturating_sub(since)).unwrap_or(usize::MAX).saturating_add(1));
    let lines: Vec<&[u8]> = lines.iter().map(Vec::as_slice).collect();
    let made = || {
        let proof = Proof::new(&head.tenant, &head.sidecar, position, &lines, &head.key)?;
        let attested = signer.attest(&proof.message()?);
        proof.attest(signer.public(), attested).text()
    };
    made().map_err(|error: ProofError| Failure::Broken(format!("{}: {error}", head.name())))
}

/// Lines of a sidecar from record `from` on, so many at least where there are.
async fn read(store: &Store, head: &Head, from: u64, count: u64) -> Result<Vec<Vec<u8>>, Failure> {
    let journal = head.journal()?;
    let (mut at, end) =
        (from.saturating_sub(head.first), from.saturating_add(count).saturating_sub(head.first));
    let mut lines = Vec::new();
    while at < end.min(head.total()) {
        let wanted = usize::try_from(end - at).unwrap_or(usize::MAX);
        let read = store.journal.read(&journal, at, wanted).await?;
        if read.is_empty() {
            return Err(Failure::Broken(journal.to_string()));
        }
        at = at.saturating_add(read.len() as u64);
        lines.extend(read.into_iter().map(|(_, line)| line.to_vec()));
    }
    Ok(lines)
}
