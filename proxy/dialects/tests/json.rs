//! The reader accepts what serde_json accepts, less what parsers disagree about, and its places are right.

use proptest::prelude::*;
use serde_json::Value as Tree;
use sideguard_dialects::json::{self, JsonError, Kind, Value};

/// What the place says, found by walking it.
fn tree(value: Value<'_>) -> Tree {
    match value.kind() {
        Kind::Object => {
            Tree::Object(value.members().map(|m| (m.key().into_owned(), tree(m.value))).collect())
        }
        Kind::Array => Tree::Array(value.elements().map(tree).collect()),
        Kind::String => Tree::String(value.as_str().expect("a string").into_owned()),
        Kind::Bool => Tree::Bool(value.as_bool().expect("a bool")),
        Kind::Null => Tree::Null,
        Kind::Number => serde_json::from_str(value.raw()).expect("a number"),
    }
}

fn every_place_holds_its_value(value: Value<'_>, body: &[u8]) {
    let parsed: Tree = serde_json::from_slice(&body[value.span()]).expect("a place holds one value");
    assert_eq!(parsed, tree(value));
    value.members().for_each(|member| {
        let alone = [b"{", &body[member.span()], b"}"].concat();
        let alone: Tree = serde_json::from_slice(&alone).expect("a place holds one member");
        assert_eq!(
            alone,
            Tree::Object([(member.key().into_owned(), tree(member.value))].into_iter().collect())
        );
        every_place_holds_its_value(member.value, body);
    });
    value.elements().for_each(|element| every_place_holds_its_value(element, body));
}

/// Values whose keys and strings like escapes, quotes and many scripts.
fn any_tree() -> impl Strategy<Value = Tree> {
    let text = prop_oneof![".{0,12}", "[\"\\\\/\n\u{1}\u{7f}é\u{2028}😀{}\\[\\],: ]{0,8}", "[ -~]{0,40}"];
    let leaf = prop_oneof![
        Just(Tree::Null),
        any::<bool>().prop_map(Tree::from),
        any::<i64>().prop_map(Tree::from),
        any::<u64>().prop_map(Tree::from),
        any::<f64>().prop_filter("finite", |n| n.is_finite()).prop_map(Tree::from),
        text.prop_map(Tree::from),
    ];
    leaf.prop_recursive(5, 60, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Tree::from),
            prop::collection::btree_map(".{0,6}", inner, 0..12)
                .prop_map(|map| Tree::Object(map.into_iter().collect())),
        ]
    })
}

/// Writes a tree with white space and, in strings, escapes wherever `salt` says.
fn write(tree: &Tree, salt: &mut impl FnMut() -> u8, out: &mut String) {
    let space = |salt: &mut dyn FnMut() -> u8, out: &mut String| {
        out.push_str(["", " ", "\n\t", "\r  "][usize::from(salt()) % 4]);
    };
    space(salt, out);
    match tree {
        Tree::String(text) => write_text(text, salt, out),
        Tree::Array(elements) => {
            out.push('[');
            for (i, element) in elements.iter().enumerate() {
                out.push_str(if i > 0 { "," } else { "" });
                write(element, salt, out);
            }
            space(salt, out);
            out.push(']');
        }
        Tree::Object(members) => {
            out.push('{');
            for (i, (key, value)) in members.iter().enumerate() {
                out.push_str(if i > 0 { "," } else { "" });
                space(salt, out);
                write_text(key, salt, out);
                space(salt, out);
                out.push(':');
                write(value, salt, out);
            }
            space(salt, out);
            out.push('}');
        }
        other => out.push_str(&other.to_string()),
    }
    space(salt, out);
}

fn write_text(text: &str, salt: &mut impl FnMut() -> u8, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        let mut units = [0; 2];
        match character {
            _ if salt().is_multiple_of(5) => {
                character
                    .encode_utf16(&mut units)
                    .iter()
                    .for_each(|unit| out.push_str(&format!("\\u{unit:04X}")));
            }
            '"' | '\\' => out.extend(['\\', character]),
            c if c < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}

fn salted(seed: Vec<u8>) -> impl FnMut() -> u8 {
    let mut at = 0;
    move || {
        at += 1;
        seed.get(at % seed.len().max(1)).copied().unwrap_or(1).wrapping_add(at as u8)
    }
}

/// Holds the reader against serde_json on any bytes.
fn agrees_with_serde(body: &[u8]) -> Result<(), TestCaseError> {
    let theirs = serde_json::from_slice::<Tree>(body);
    match json::read(body) {
        Ok(document) => {
            prop_assert_eq!(&tree(document.root), &theirs.expect("serde_json accepts what is accepted here"));
        }
        Err(JsonError::DuplicateKey { .. } | JsonError::TooDeep { .. }) => {}
        Err(error) => prop_assert!(theirs.is_err(), "{} refuses what serde_json accepts", error),
    }
    Ok(())
}

#[test]
fn a_large_document_is_read_as_a_small_one() {
    let elements = r#"{"a":1,"b":[2]},"#.repeat(5_000);
    let body = format!(r#"{{"first":[{elements}0],"last":[{{"c":3}}],"n":4}}"#);
    let document = json::read(body.as_bytes()).expect("it is JSON");
    let outer: Vec<_> = document.members().map(|m| (m.span(), m.value.span())).collect();
    let walked: Vec<_> = document.root.members().map(|m| (m.span(), m.value.span())).collect();
    assert_eq!(outer, walked);
    for member in document.members() {
        let known: Vec<_> = document.elements(&member).map(|element| element.span()).collect();
        let walked: Vec<_> = member.value.elements().map(|element| element.span()).collect();
        assert_eq!(known, walked);
        for element in document.elements(&member) {
            let known: Vec<_> = document.members_of(element).map(|m| m.span()).collect();
            let walked: Vec<_> = element.members().map(|m| m.span()).collect();
            assert_eq!(known, walked);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_value_is_read_whatever_its_spelling(value in any_tree(), seed in prop::collection::vec(any::<u8>(), 1..40)) {
        let mut text = String::new();
        write(&value, &mut salted(seed), &mut text);
        let document = json::read(text.as_bytes()).expect("it is JSON");
        prop_assert_eq!(&tree(document.root), &serde_json::from_str::<Tree>(&text).expect("it is JSON"));
        every_place_holds_its_value(document.root, text.as_bytes());
        let outer: Vec<_> = document.members().map(|m| (m.key().into_owned(), m.span(), m.value.span())).collect();
        let walked: Vec<_> = document.root.members().map(|m| (m.key().into_owned(), m.span(), m.value.span())).collect();
        prop_assert_eq!(outer, walked);
        for member in document.members() {
            let known: Vec<_> = document.elements(&member).map(|element| element.span()).collect();
            let walked: Vec<_> = member.value.elements().map(|element| element.span()).collect();
            prop_assert_eq!(known, walked);
            for element in member.value.elements() {
                let known: Vec<_> = document.members_of(element).map(|m| (m.span(), m.value.span())).collect();
                let walked: Vec<_> = element.members().map(|m| (m.span(), m.value.span())).collect();
                prop_assert_eq!(known, walked);
            }
        }
    }

    #[test]
    fn the_decoded_length_is_that_of_the_text_without_escapes(text in ".{0,40}", seed in prop::collection::vec(any::<u8>(), 1..40)) {
        let mut written = String::new();
        write_text(&text, &mut salted(seed), &mut written);
        prop_assert_eq!(json::read(written.as_bytes()).expect("a string").decoded, text.len() + 2);
    }

    #[test]
    fn damaged_json_is_accepted_just_when_serde_json_accepts_it(
        value in any_tree(), at in any::<prop::sample::Index>(), byte in any::<u8>(), how in 0..3,
    ) {
        let mut body = value.to_string().into_bytes();
        let at = at.index(body.len());
        match how {
            0 => body[at] = byte,
            1 => drop(body.remove(at)),
            _ => body.insert(at, byte),
        }
        agrees_with_serde(&body)?;
    }

    #[test]
    fn what_is_nearly_json_is_accepted_just_when_serde_json_accepts_it(
        body in r#"[\[\]{}",:0-9eE+.\\nutrflsab -]{0,16}"#,
    ) {
        agrees_with_serde(body.as_bytes())?;
    }

    #[test]
    fn any_bytes_are_read_without_panic(body in prop::collection::vec(any::<u8>(), 0..64)) {
        agrees_with_serde(&body)?;
    }

    #[test]
    fn a_key_given_twice_is_refused_at_any_depth(
        value in any_tree(), key in ".{1,6}", others in 0..20_usize, depth in 0..20_usize,
        seed in prop::collection::vec(any::<u8>(), 1..20),
    ) {
        let mut salt = salted(seed);
        let mut object = String::from("{");
        let mut twice = String::new();
        write_text(&key, &mut salt, &mut twice);
        object.push_str(&format!("{twice}:{value},"));
        (0..others).for_each(|i| object.push_str(&format!("\"{key}{i}\":1,", key = i)));
        let mut again = String::new();
        write_text(&key, &mut salt, &mut again);
        object.push_str(&format!("{again}:{value}}}"));
        let body = format!("{}{object}{}", "[".repeat(depth), "]".repeat(depth));
        prop_assert!(matches!(json::read(body.as_bytes()), Err(JsonError::DuplicateKey { .. })), "{}", body);
    }

    #[test]
    fn noted_members_are_all_of_that_name(value in any_tree()) {
        let body = serde_json::json!({"type": "a", "x": value, "y": [{"z": 1, "type": "b"}, {"type": 7}]}).to_string();
        let document = json::read_noting(body.as_bytes(), "type").expect("it is JSON");
        let noted: Vec<_> = document.noted().map(|n| n.value.span()).collect();
        let walked: Vec<_> = document.root.leaves()
            .filter(|leaf| leaf.is("type") && leaf.value.kind() == Kind::String).map(|leaf| leaf.value.span()).collect();
        prop_assert_eq!(noted, walked);
        for note in document.noted() {
            prop_assert_eq!(note.parent().get("type").map(|v| v.span()), Some(note.value.span()));
        }
    }

    #[test]
    fn strings_are_all_keys_and_values(value in any_tree()) {
        fn gather(value: &Tree, out: &mut Vec<(bool, String)>) {
            match value {
                Tree::String(text) => out.push((false, text.clone())),
                Tree::Array(elements) => elements.iter().for_each(|e| gather(e, out)),
                Tree::Object(members) => members.iter().for_each(|(key, value)| {
                    out.push((true, key.clone()));
                    gather(value, out);
                }),
                _ => {}
            }
        }
        let body = value.to_string();
        let mut expected = Vec::new();
        gather(&value, &mut expected);
        let document = json::read(body.as_bytes()).expect("it is JSON");
        let found: Vec<_> = document.root.strings()
            .map(|s| (s.is_key, s.value.as_str().expect("a string").into_owned())).collect();
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn what_parsers_disagree_about_is_refused_by_name() {
    let kind = |body: &[u8]| match json::read(body) {
        Ok(_) => "read",
        Err(JsonError::NotUtf8 { .. }) => "utf8",
        Err(JsonError::Syntax { .. }) => "syntax",
        Err(JsonError::LoneSurrogate { .. }) => "surrogate",
        Err(JsonError::DuplicateKey { .. }) => "duplicate",
        Err(JsonError::TooDeep { .. }) => "deep",
        Err(JsonError::NumberOutOfRange { .. }) => "range",
    };
    let nested = |n: usize| ["[".repeat(n), "]".repeat(n)].concat().into_bytes();
    let table: Vec<(Vec<u8>, &str)> = vec![
        (br#" {"a":1} "#.to_vec(), "read"),
        (br#"{"a":1,"\u0061":2}"#.to_vec(), "duplicate"),
        (br#"{"a":{"b":1,"c":[{"d":1,"d":1}]}}"#.to_vec(), "duplicate"),
        (br#"{"a":1,"A":2}"#.to_vec(), "read"),
        (br#""\ud83d\ude00""#.to_vec(), "read"),
        (br#""\ud83d""#.to_vec(), "surrogate"),
        (br#""\ude00\ud83d""#.to_vec(), "surrogate"),
        (br#""\ud83d\u0061""#.to_vec(), "surrogate"),
        (b"\"\x00\"".to_vec(), "syntax"),
        (b"{\"a\":1}\x00".to_vec(), "syntax"),
        (b"{\"a\":1}{}".to_vec(), "syntax"),
        (b"\xEF\xBB\xBF{}".to_vec(), "syntax"),
        (b"\"\xff\"".to_vec(), "utf8"),
        (b"\"\xc0\xaf\"".to_vec(), "utf8"),
        (b"".to_vec(), "syntax"),
        (b"[1,]".to_vec(), "syntax"),
        (b"[01]".to_vec(), "syntax"),
        (b"[1.]".to_vec(), "syntax"),
        (b"[+1]".to_vec(), "syntax"),
        (b"[NaN]".to_vec(), "syntax"),
        (b"// x\n1".to_vec(), "syntax"),
        (b"1e400".to_vec(), "range"),
        (b"1e-400".to_vec(), "read"),
        ("9".repeat(400).into_bytes(), "range"),
        (b"123456789012345678901234567890".to_vec(), "read"),
        (nested(128), "read"),
        (nested(129), "deep"),
    ];
    for (body, expected) in table {
        assert_eq!(kind(&body), expected, "{}", String::from_utf8_lossy(&body));
    }
}

#[test]
fn only_digits_are_a_count() {
    let count = |body: &str| json::read(body.as_bytes()).expect("it is JSON").root.as_count();
    assert_eq!(count("18446744073709551615"), Some(u64::MAX));
    assert_eq!(count("0"), Some(0));
    for other in ["18446744073709551616", "-0", "-1", "1.0", "1e2", "\"1\"", "null", "[]", "true"] {
        assert_eq!(count(other), None, "{other}");
    }
}
