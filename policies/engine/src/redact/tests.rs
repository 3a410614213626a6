use proptest::prelude::*;

use super::{DETECTORS, Detectors, names};

fn all() -> Detectors {
    let names: Vec<String> = names().iter().map(|name| (*name).to_owned()).collect();
    Detectors::compile(&names).expect("known names")
}

#[test]
fn every_pattern_compiles_and_names_are_sorted() {
    for detector in &DETECTORS {
        assert!(detector.regex().is_some(), "{}", detector.name);
    }
    assert!(names().is_sorted());
}

#[test]
fn each_format_is_found_whole() {
    let long = |prefix: &str, count: usize| {
        format!("{prefix}{}", "aB3".repeat(count.div_ceil(3)).get(..count).unwrap_or_default())
    };
    for (name, secret) in [
        ("anthropic-key", long("sk-ant-api03-", 80)),
        ("aws-key", "AKIAIOSFODNN7EXAMPLE".to_owned()),
        ("azure-storage-key", long("", 86) + "=="),
        ("credit-card", "4111 1111 1111 1111".to_owned()),
        ("credit-card", "5500005555555559".to_owned()),
        ("credit-card", "3782 822463 10005".to_owned()),
        ("email", "jo.doe+x@mail.example.co.uk".to_owned()),
        ("github-token", long("ghp_", 36)),
        ("gitlab-token", long("glpat-", 20)),
        ("google-api-key", long("AIza", 35)),
        ("huggingface-token", long("hf_", 34)),
        ("iban", "DE89 3704 0044 0532 0130 00".to_owned()),
        ("npm-token", long("npm_", 36)),
        ("openai-key", long("sk-proj-", 20) + &long("T3BlbkFJ", 20)),
        ("stripe-key", long("sk_live_", 24)),
        ("us-ssn", "123-45-6789".to_owned()),
        ("slack-token", "xoxb-123456789012-abcdef".to_owned()),
    ] {
        let prefix = if name == "azure-storage-key" { "AccountKey=" } else { "value: " };
        let text = format!("{prefix}{secret} end");
        let found = all().find(text.as_bytes());
        let this = found.iter().find(|found| found.detector == name);
        assert_eq!(this.map(|found| &text[found.range.clone()]), Some(secret.as_str()), "{name}: {found:?}");
    }
}

#[test]
fn a_private_key_is_found_in_json_too_and_when_it_is_cut() {
    let key = "-----BEGIN RSA PRIVATE KEY-----\\nMIIE\\n-----END RSA PRIVATE KEY-----";
    let text = format!("{{\"k\":\"{key}\"}}");
    let found = all().find(text.as_bytes());
    assert_eq!(found.first().map(|found| &text[found.range.clone()]), Some(key));
    assert!(all().finds(b"-----BEGIN PRIVATE KEY-----\nMIIE"));
}

#[test]
fn what_only_looks_like_one_is_left_alone() {
    for text in [
        "4111 1111 1111 1112",
        "0000 0000 0000 0000",
        "order 1234567890123",
        "DE89 3704 0044 0532 0130 02",
        "000-12-3456 666-12-3456 912-12-3456",
        "AKIASHORT",
        "user at example.com",
        "sk-learn",
        "-----BEGIN PUBLIC KEY-----",
    ] {
        assert_eq!(all().find(text.as_bytes()), [], "{text}");
    }
}

#[test]
fn an_unknown_name_is_an_error() {
    let error = Detectors::compile(&["aws".to_owned()]).expect_err("no such detector");
    assert!(error.to_string().starts_with("there is no detector `aws`"));
}

proptest! {
    #[test]
    fn findings_are_ordered_apart_and_inside(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut end = 0;
        for found in all().find(&bytes) {
            prop_assert!(found.range.start >= end && found.range.end <= bytes.len());
            end = found.range.end;
        }
    }
}
