//! Counting tokens.

/// Tokens of `text` in the o200k vocabulary (OpenAI's since 2024), special tokens taken as plain text. The
/// first call loads the vocabulary, which takes a few tens of milliseconds.
#[must_use]
pub fn text_tokens(text: &str) -> u64 {
    // A byte is never more than one token, so the length stands in should the vocabulary be missing.
    let tokens = tiktoken::get_encoding("o200k_base").map_or(text.len(), |o200k| o200k.count(text));
    u64::try_from(tokens).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::text_tokens;

    #[test]
    fn known_texts_have_their_known_counts() {
        assert_eq!(text_tokens(""), 0);
        assert_eq!(text_tokens("hello world"), 2);
        assert_eq!(text_tokens("<|endoftext|>"), 7);
    }
}
