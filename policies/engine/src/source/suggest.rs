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

/// Insertions, removals and replacements that lead from `a` to `b` (Levenshtein).
fn distance(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.iter().enumerate() {
        let mut previous = i;
        let mut left = i.saturating_add(1);
        let mut next = vec![left];
        for (cb, above) in b.iter().zip(row.iter().skip(1)) {
            let replaced = previous.saturating_add(usize::from(ca != cb));
            left = replaced.min(left.saturating_add(1)).min(above.saturating_add(1));
            previous = *above;
            next.push(left);
        }
        row = next;
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
        assert_eq!(nearest("velocity", known), None);
    }
}
