//! The Merkle tree over the records between two checkpoints (RFC 6962, section 2.1), whose root the checkpoint signs.
//!
//! A leaf is a record's own hash: the SHA-256 of its line, which begins with `{`. A node is the SHA-256 of a byte 1 and its two
//! children. So neither can stand for the other.

use sha2::{Digest, Sha256};

/// A SHA-256.
pub(crate) type Hash = [u8; 32];

/// A tree that grows leaf by leaf: the roots of its complete subtrees, the largest first. A log puts no more than 1,000
/// records between two checkpoints, which ten of them hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tree {
    count: u32,
    peaks: [Hash; Self::PEAKS],
}

impl Tree {
    const PEAKS: usize = 16;
    /// Without a leaf.
    pub(crate) const EMPTY: Self = Self { count: 0, peaks: [[0; 32]; Self::PEAKS] };

    /// How many leaves it has.
    pub(crate) const fn count(&self) -> u32 {
        self.count
    }

    /// The peaks that are in use.
    pub(crate) fn peaks(&self) -> &[Hash] {
        self.peaks.get(..self.count.count_ones() as usize).unwrap_or_default()
    }

    /// A tree of so many leaves with these peaks; `None` when they do not fit.
    pub(crate) fn from_peaks(count: u32, known: &[Hash]) -> Option<Self> {
        let mut tree = Self { count, ..Self::EMPTY };
        if known.len() != count.count_ones() as usize {
            return None;
        }
        tree.peaks.get_mut(..known.len())?.copy_from_slice(known);
        Some(tree)
    }

    /// Adds a leaf. Beyond 65,535, which no log comes near, it stays as it is.
    pub(crate) fn add(&mut self, leaf: Hash) {
        let mut at = self.count.count_ones() as usize;
        let mut node = leaf;
        // Each subtree of the same size as the new one becomes one with it.
        for _ in 0..self.count.trailing_ones() {
            at = at.saturating_sub(1);
            node = parent(&self.peaks.get(at).copied().unwrap_or_default(), &node);
        }
        if let Some(peak) = self.peaks.get_mut(at) {
            *peak = node;
            self.count = self.count.saturating_add(1);
        }
    }

    /// The root; of no leaf, the SHA-256 of nothing.
    pub(crate) fn root(&self) -> Hash {
        let mut peaks = self.peaks().iter().rev();
        let Some(last) = peaks.next() else { return Sha256::digest(b"").into() };
        peaks.fold(*last, |right, left| parent(left, &right))
    }
}

fn parent(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

fn root(leaves: &[Hash]) -> Hash {
    let mut tree = Tree::EMPTY;
    leaves.iter().for_each(|leaf| tree.add(*leaf));
    tree.root()
}

/// The hashes beside the way from leaf `index` up to the root, the lowest first.
pub(crate) fn path(leaves: &[Hash], index: usize) -> Vec<Hash> {
    if leaves.len() < 2 {
        return Vec::new();
    }
    let (left, right) = leaves.split_at(half(leaves.len()));
    let (mut below, beside) = if index < left.len() {
        (path(left, index), root(right))
    } else {
        (path(right, index - left.len()), root(left))
    };
    below.push(beside);
    below
}

/// The root that a leaf and its path lead to, in a tree of `count` leaves; `None` when the path has another length.
pub(crate) fn root_by(leaf: Hash, index: usize, count: usize, path: &[Hash]) -> Option<Hash> {
    if count < 2 {
        return (count == 1 && path.is_empty()).then_some(leaf);
    }
    let (beside, below) = path.split_last()?;
    let left = half(count);
    if index < left {
        Some(parent(&root_by(leaf, index, left, below)?, beside))
    } else {
        Some(parent(beside, &root_by(leaf, index - left, count - left, below)?))
    }
}

/// The largest power of two that is smaller than `count`, which is 2 or more.
const fn half(count: usize) -> usize {
    1 << (usize::BITS - 1 - (count - 1).leading_zeros())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(count: u32) -> Vec<Hash> {
        (0..count).map(|n| Sha256::digest(n.to_le_bytes()).into()).collect()
    }

    /// The definition, word by word.
    fn defined(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => Sha256::digest(b"").into(),
            [leaf] => *leaf,
            _ => {
                let (left, right) = leaves.split_at(half(leaves.len()));
                parent(&defined(left), &defined(right))
            }
        }
    }

    #[test]
    fn a_tree_that_grows_has_the_root_of_the_definition() {
        for count in 0..70 {
            let leaves = leaves(count);
            assert_eq!(root(&leaves), defined(&leaves), "{count} leaves");
            let mut tree = Tree::EMPTY;
            leaves.iter().for_each(|leaf| tree.add(*leaf));
            assert_eq!(Tree::from_peaks(tree.count(), tree.peaks()), Some(tree));
        }
    }

    #[test]
    fn each_leafs_path_leads_to_the_root_and_no_other_leafs_does() {
        for count in [1, 2, 3, 7, 8, 9, 33] {
            let leaves = leaves(count);
            let top = root(&leaves);
            for (index, leaf) in leaves.iter().enumerate() {
                let path = path(&leaves, index);
                assert_eq!(root_by(*leaf, index, leaves.len(), &path), Some(top));
                let other = leaves[(index + 1) % leaves.len()];
                assert_eq!(root_by(other, index, leaves.len(), &path) == Some(top), count == 1);
                let mut longer = path.clone();
                longer.push(top);
                assert_ne!(root_by(*leaf, index, leaves.len(), &longer), Some(top));
            }
        }
    }
}
