//! "Did you mean": the nearest of the known words.

/// The word in `known` that `word` is most likely meant to be, if any is near enough.
pub(crate) fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    const LONGEST: usize = 40;
    if word.chars().count() > LONGEST {
        return None;
    }
    let folded = fold(word);
    let limit = if folded.len() <= 4 { 1 } else { 2 };
    known
        .into_iter()
        .map(|candidate| (distance(&folded, &fold(candidate)), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Case and separators do not count.
fn fold(word: &str) -> Vec<char> {
    word.chars().filter(|c| !matches!(c, '_' | '-' | '.')).flat_map(char::to_lowercase).collect()
}

/// Insertions, removals, replacements and swaps of neighbours that lead from `a` to `b` (optimal string alignment).
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.iter().enumerate() {
        let mut next = vec![i.saturating_add(1)];
        for (j, cb) in b.iter().enumerate() {
            let at = |row: &[usize], index: usize| row.get(index).copied().unwrap_or(usize::MAX);
            let j1 = j.saturating_add(1);
            let mut least = at(&row, j).saturating_add(usize::from(ca != cb));
            least = least.min(at(&row, j1).saturating_add(1)).min(at(&next, j).saturating_add(1));
            let earlier =
                |text: &[char], index: usize| index.checked_sub(1).and_then(|index| text.get(index).copied());
            if earlier(a, i) == Some(*cb) && earlier(b, j) == Some(*ca) {
                least = least.min(at(&before, j.saturating_sub(1)).saturating_add(1));
            }
            next.push(least);
        }
        before = std::mem::replace(&mut row, next);
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn typing_errors_are_near_and_other_words_are_not() {
        let known = ["topics", "tools", "risk_tags", "hosts"];
        assert_eq!(nearest("topic", known), Some("topics"));
        assert_eq!(nearest("riskTags", known), Some("risk_tags"));
        assert_eq!(nearest("tolls", known), Some("tools"));
        assert_eq!(nearest("raed", ["read", "write"]), Some("read"));
        assert_eq!(nearest("velocity", known), None);
    }
}
