//! What an answer's model wrote and what its provider says of it.

use sideguard_types::units::Tokens;
use sideguard_types::usage::Usage;

use crate::json::Value;

/// Most bytes of text that are kept.
const KEPT: usize = 1 << 20;
/// Bytes of the longest tokens (runs of blanks, dashes) in the vocabularies in use.
const LONGEST_TOKEN: u64 = 128;
/// Words that one token could hold at most. Today's vocabularies split at white space, so that it is one; the
/// rest is room for those that will not.
const WORDS_IN_A_TOKEN: u64 = 4;

/// Counts an answer.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// What the provider says was used.
    pub(super) usage: Usage,
    /// Whether the answer came to its own end.
    pub(super) complete: bool,
    /// The model, as the provider names it.
    pub(super) model: Option<String>,
    text: String,
    bytes: u64,
    words: u64,
}

impl Tally {
    /// Takes in a piece of what the model wrote, where `value` is one.
    pub(super) fn wrote(&mut self, value: Option<Value<'_>>) {
        if let Some(text) = value.and_then(|value| value.as_str()) {
            self.wrote_text(&text);
        }
    }

    /// Takes in a piece of what the model wrote.
    pub(super) fn wrote_text(&mut self, text: &str) {
        let room = KEPT.saturating_sub(self.text.len());
        if let Some((kept, _)) = text.split_at_checked(text.floor_char_boundary(room)) {
            self.text.push_str(kept);
        }
        self.bytes = self.bytes.saturating_add(text.len() as u64);
        self.words = self.words.saturating_add(words_begun(text));
    }

    /// Takes in the model's name; the first one counts.
    pub(super) fn model_is(&mut self, value: Option<Value<'_>>) {
        if self.model.is_none() {
            self.model = value.and_then(|value| value.as_str()).map(Into::into);
        }
    }

    /// Tokens that the text takes in any vocabulary, at the least: far below what it does take, so that an
    /// answer within its cap never seems to exceed it.
    pub(super) fn least_tokens(&self) -> Tokens {
        Tokens((self.words / WORDS_IN_A_TOKEN).max(self.bytes / LONGEST_TOKEN))
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Words that begin after white space within one piece. Those that span pieces are not counted, for pieces of
/// several choices and blocks may come in turns.
fn words_begun(piece: &str) -> u64 {
    // Blocks whose count fits into a byte, and no branch: so the compiler takes many bytes at a time.
    const BLOCK: usize = 128;
    let bytes = piece.as_bytes();
    let begins = |(&blank, &next): (&u8, &u8)| {
        u8::from(((blank == b' ') | (blank == b'\n')) & next.is_ascii_alphanumeric())
    };
    let blocks = bytes.chunks(BLOCK).zip(bytes.get(1..).unwrap_or_default().chunks(BLOCK));
    blocks.map(|(blanks, nexts)| u64::from(blanks.iter().zip(nexts).map(begins).sum::<u8>())).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, proptest};
    use sideguard_types::units::Tokens;

    use super::{KEPT, Tally};

    fn tally(text: &str) -> Tally {
        let mut tally = Tally::default();
        tally.wrote_text(text);
        tally
    }

    #[test]
    fn text_beyond_the_first_mebibyte_is_counted_and_not_kept() {
        let mut tally = tally(&"é".repeat(KEPT / 2 - 1));
        tally.wrote_text("aé");
        tally.wrote_text("bcd");
        assert_eq!(tally.text().len(), KEPT);
        assert!(tally.text().ends_with("éab"));
        assert_eq!(tally.bytes(), KEPT as u64 - 2 + 3 + 3);
    }

    #[test]
    fn endless_text_is_noticed() {
        assert!(tally(&"so it goes on ".repeat(1000)).least_tokens() > Tokens(900));
        assert!(tally(&"字".repeat(10_000)).least_tokens() > Tokens(200));
    }

    proptest! {
        #[test]
        fn least_tokens_is_never_above_a_real_count(text in "([a-z]{1,4} ?|[ -]{1,200}|\\PC{0,8}|\n){0,60}") {
            prop_assert!(tally(&text).least_tokens() <= Tokens(crate::count::text_tokens(&text)));
        }
    }
}
