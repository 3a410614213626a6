//! SQL that destroys, in any text of a tool's arguments.
//!
//! Not a parser: words in a row, comments and case aside. English that reads like SQL is taken for it; the catalog
//! can say that a tool takes none.

use std::fmt;
use std::sync::LazyLock;

use aho_corasick::AhoCorasick;
use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};

/// What can follow `DROP`.
const DROPPED: [&str; 27] = [
    "table",
    "database",
    "schema",
    "index",
    "view",
    "column",
    "user",
    "role",
    "function",
    "procedure",
    "trigger",
    "sequence",
    "type",
    "domain",
    "extension",
    "materialized",
    "constraint",
    "partition",
    "tablespace",
    "keyspace",
    "collection",
    "temporary",
    "foreign",
    "owned",
    "package",
    "policy",
    "if",
];

/// Most words between `DELETE` at the start of a statement and its `FROM`.
const DELETE_SPAN: usize = 8;

static VERBS: LazyLock<Option<AhoCorasick>> = LazyLock::new(|| {
    AhoCorasick::builder().ascii_case_insensitive(true).build(["delete", "drop", "truncate"]).ok()
});

/// The verb of the first destroying statement in any text of `args` (JSON; anything else is read as text).
pub(super) fn destroys(args: &[u8]) -> Option<&'static str> {
    // Escapes such as `\u0044ROP` hide the letters from the quick look.
    let escaped = args.windows(2).any(|pair| pair == br"\u");
    let suspicious = escaped || VERBS.as_ref().is_none_or(|verbs| verbs.is_match(args));
    if !suspicious {
        return None;
    }
    match serde_json::from_slice::<Texts>(args) {
        Ok(Texts(found)) => found,
        Err(_) => statement(&String::from_utf8_lossy(args)),
    }
}

/// The verb of the first destroying statement in `text`.
fn statement(text: &str) -> Option<&'static str> {
    let mut start = true;
    let mut deleting: Option<usize> = None;
    let mut verb: Option<&'static str> = None;
    for token in Tokens(text) {
        let Token::Word(word) = token else {
            start = true;
            deleting = None;
            verb = None;
            continue;
        };
        let is = |other: &str| word.eq_ignore_ascii_case(other);
        match verb {
            Some("delete") if is("from") => return Some("delete"),
            Some("drop") if DROPPED.iter().any(|what| is(what)) => return Some("drop"),
            Some("truncate") if is("table") || deleting == Some(0) => return Some("truncate"),
            _ => {}
        }
        if let Some(left) = deleting {
            if is("from") {
                return Some("delete");
            }
            deleting = left.checked_sub(1);
        }
        verb = ["delete", "drop", "truncate"].into_iter().find(|other| is(other));
        deleting = match verb {
            Some("delete") if start => Some(DELETE_SPAN),
            // At the start of a statement a bare name may follow: `TRUNCATE users`.
            Some("truncate") if start => Some(0),
            _ => deleting,
        };
        start = matches!(
            word.to_ascii_lowercase().as_str(),
            "explain" | "analyze" | "begin" | "do" | "then" | "as"
        );
    }
    None
}

enum Token<'t> {
    Word(&'t str),
    /// Where a statement ends.
    End,
}

/// Words and ends of statements; comments, quotes and everything else only separate.
struct Tokens<'t>(&'t str);

impl<'t> Iterator for Tokens<'t> {
    type Item = Token<'t>;

    fn next(&mut self) -> Option<Token<'t>> {
        loop {
            let text = self.0;
            let first = text.chars().next()?;
            // MySQL runs what stands in `/*! … */`.
            if let Some(rest) = text.strip_prefix("/*!") {
                self.0 = rest.trim_start_matches(|c: char| c.is_ascii_digit());
            } else if let Some(rest) = text.strip_prefix("/*") {
                self.0 = rest.split_once("*/").map_or("", |(_, rest)| rest);
            } else if let Some(rest) = text.strip_prefix("--") {
                self.0 = rest.find('\n').and_then(|at| rest.get(at..)).unwrap_or("");
            } else if is_word(first) {
                let end = text.find(|c| !is_word(c)).unwrap_or(text.len());
                let (word, rest) = text.split_at_checked(end)?;
                self.0 = rest;
                return Some(Token::Word(word));
            } else {
                self.0 = text.get(first.len_utf8()..)?;
                if matches!(first, ';' | '(') {
                    return Some(Token::End);
                }
            }
        }
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The first destroying statement in any text of a JSON value; keys are not looked at.
struct Texts(Option<&'static str>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor).map(Self)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Option<&'static str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(statement(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(Texts(item)) = items.next_element()? {
            found = found.or(item);
        }
        Ok(found)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while entries.next_key::<IgnoredAny>()?.is_some() {
            let Texts(value) = entries.next_value()?;
            found = found.or(value);
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::{destroys, statement};

    #[test]
    fn destroying_statements_are_seen_through_comments_case_and_escapes() {
        for (text, verb) in [
            ("DELETE FROM users", "delete"),
            ("delete/* x */from\nusers", "delete"),
            ("select 1; DELETE u FROM users u", "delete"),
            ("WITH x AS (DELETE FROM a RETURNING *) SELECT 1", "delete"),
            ("drop -- really\n table users", "drop"),
            ("DROP TABLE IF EXISTS a", "drop"),
            ("ALTER TABLE a DROP COLUMN b", "drop"),
            ("/*!50000 DROP TABLE a */", "drop"),
            ("TRUNCATE users", "truncate"),
            ("select 1;truncate table users", "truncate"),
        ] {
            assert_eq!(statement(text), Some(verb), "{text}");
        }
        assert_eq!(destroys(br#"{"q":["x",{"y":"\u0044ROP TABLE a"}]}"#), Some("drop"));
        assert_eq!(destroys(b"not json: drop table a"), Some("drop"));
    }

    #[test]
    fn other_texts_are_not() {
        for text in [
            "select * from deleted",
            "UPDATE a SET b = 1",
            "drop me a line about the table",
            "please truncate the text",
            "delete the old draft",
            "select drop_table from x",
        ] {
            assert_eq!(statement(text), None, "{text}");
        }
        assert_eq!(destroys(br#"{"drop table a":1}"#), None);
    }
}
