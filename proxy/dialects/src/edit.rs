//! Splices: what is changed in a body, with everything else left byte for byte.

use std::ops::Range;

/// Puts `with` in the place of `range`; an empty range inserts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// Bytes of the original body that go.
    pub range: Range<usize>,
    /// What comes in their place.
    pub with: Vec<u8>,
}

impl Edit {
    /// Puts `with` in the place of `range`.
    #[must_use]
    pub fn replace(range: Range<usize>, with: impl Into<Vec<u8>>) -> Self {
        Self { range, with: with.into() }
    }

    /// Puts `with` before the byte at `at`.
    #[must_use]
    pub fn insert(at: usize, with: impl Into<Vec<u8>>) -> Self {
        Self { range: at..at, with: with.into() }
    }
}

/// The body with all `edits` made. Those at the same place keep their order. Where ranges overlap, none of
/// the bytes that any of them covers stays; what lies past the end is taken as the end.
#[must_use]
pub fn apply(body: &[u8], mut edits: Vec<Edit>) -> Vec<u8> {
    edits.sort_by_key(|edit| edit.range.start);
    let added: usize = edits.iter().map(|edit| edit.with.len()).sum();
    let mut edited = Vec::with_capacity(body.len() + added);
    let mut kept_from = 0;
    for edit in edits {
        let start = edit.range.start.min(body.len());
        edited.extend_from_slice(body.get(kept_from..start).unwrap_or_default());
        edited.extend_from_slice(&edit.with);
        kept_from = kept_from.max(edit.range.end.min(body.len())).max(start);
    }
    edited.extend_from_slice(body.get(kept_from..).unwrap_or_default());
    edited
}

#[cfg(test)]
mod tests {
    use super::{Edit, apply};

    #[test]
    fn no_edit_leaves_the_body_as_it_is() {
        assert_eq!(apply(b" {\"a\" :1}\n", Vec::new()), b" {\"a\" :1}\n");
    }

    #[test]
    fn edits_are_made_in_their_places_whatever_their_order() {
        let edits = vec![
            Edit::replace(4..6, "XY!"),
            Edit::insert(0, "<"),
            Edit::insert(0, "="),
            Edit::replace(1..2, ""),
        ];
        assert_eq!(apply(b"abcdefgh", edits), b"<=acdXY!gh");
    }

    #[test]
    fn overlapping_and_outlying_edits_leave_no_covered_byte() {
        let edits = vec![Edit::replace(1..4, "1"), Edit::replace(2..3, "2"), Edit::replace(6..99, "3")];
        assert_eq!(apply(b"abcdefgh", edits), b"a12ef3");
    }
}
