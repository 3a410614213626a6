//! Cutting the texts of a record that is too long to be kept whole.

use sideguard_types::audit::Record;

/// Longest text that stays whole, in bytes.
const TEXT: usize = 1024;
/// Most items of a list.
const ITEMS: usize = 16;

/// The record with each of its texts and lists cut.
pub(super) fn texts(mut record: Record) -> Record {
    let target = &mut record.target;
    let plain = [
        &mut record.tenant,
        &mut record.agent,
        &mut record.call,
        &mut record.topic,
        &mut record.rule,
        &mut record.reason,
        &mut record.policy_digest,
        &mut target.host,
        &mut target.method,
        &mut target.path,
    ];
    let optional = [
        &mut record.session,
        &mut record.trace_id,
        &mut record.args_hash,
        &mut record.code,
        &mut record.approval,
        &mut target.tool,
        &mut target.model,
    ];
    plain.into_iter().chain(optional.into_iter().flatten()).for_each(cut);
    for list in [&mut record.chain, &mut record.risk_tags] {
        list.truncate(ITEMS);
        list.iter_mut().for_each(cut);
    }
    record
}

fn cut(text: &mut String) {
    if text.len() > TEXT {
        text.truncate(text.floor_char_boundary(TEXT));
        text.push('…');
    }
}

#[cfg(test)]
mod tests {
    use sideguard_types::audit::{Phase, Record};
    use sideguard_types::time::Timestamp;

    use crate::chain::{LARGEST_BODY, write_body};

    #[test]
    fn a_record_of_any_length_is_kept_and_stays_a_record() {
        let mut record = Record::new(Phase::Intent, Timestamp(0));
        record.target.tool = Some("\u{1}é".repeat(1 << 20));
        record.risk_tags = vec!["x".repeat(9_000); 4_000];
        let mut body = Vec::new();
        write_body(&record, &mut body);
        assert!(body.len() < LARGEST_BODY * 2, "{}", body.len());
        body.push(b'}');
        let read: Record = serde_json::from_slice(&body).expect("a record");
        assert!(read.target.tool.is_some_and(|tool| tool.ends_with('…')));
    }
}
