use sideguard_types::call::Verb;

use super::{Classifier, ToolHints};

fn tool(name: &str) -> (String, Verb, Vec<String>) {
    let class = Classifier::default().tool("db", name, None, ToolHints::default());
    (class.topic.into_owned(), class.verb, class.risk_tags.iter().map(ToString::to_string).collect())
}

#[test]
fn however_a_name_is_written_it_says_the_same() {
    for name in [
        "delete_rows",
        "deleteRows",
        "delete-rows",
        "DELETE_ROWS",
        "DeleteRows",
        "delete rows",
        "delete::rows",
    ] {
        assert_eq!(
            tool(name),
            ("job.db.delete_rows".to_owned(), Verb::Admin, vec!["destructive".to_owned()]),
            "{name}"
        );
    }
}

#[test]
fn verbs_come_from_the_first_word_that_is_known() {
    for (name, verb) in [
        ("list_users", Verb::Read),
        ("getPost", Verb::Read),
        ("users_list", Verb::Read),
        ("create_issue", Verb::Write),
        ("get_or_create_user", Verb::Write),
        ("grant_role", Verb::Admin),
        ("list_and_wipe", Verb::Admin),
        ("frobnicate", Verb::Write),
    ] {
        assert_eq!(tool(name).1, verb, "{name}");
    }
}

#[test]
fn hidden_letters_and_look_alikes_do_not_hide_what_a_tool_does() {
    for name in ["dr\u{200b}op_table", "d\u{0433}op_table", "\u{ff44}rop_table", "dropTable", "droptable"] {
        assert!(tool(name).2.contains(&"destructive".to_owned()), "{name}");
    }
    assert!(tool("читать").2.contains(&"unclassified".to_owned()));
}

#[test]
fn names_without_end_are_cut_and_marked() {
    let (topic, _, tags) = tool(&("a".repeat(5_000) + "_delete"));
    assert!(topic.len() < 200);
    assert_eq!(tags, ["unclassified", "destructive"]);
}

#[test]
fn an_alias_is_the_destructive_verb_alone() {
    let classifier = Classifier::default();
    let alias = |name: &str| classifier.tool("db", name, None, ToolHints::default()).alias;
    assert_eq!(alias("drop_table").as_deref(), Some("job.db.drop"));
    assert_eq!(alias("drop"), None, "the topic says it already");
    assert_eq!(alias("list"), None);
    assert_eq!(classifier.http("crm.acme.com", "DELETE", "/x").alias, None);
}

#[test]
fn a_hint_can_only_tighten() {
    let class = |name: &str, read_only, destructive| {
        Classifier::default().tool("db", name, None, ToolHints { read_only, destructive }).verb
    };
    assert_eq!(class("list", Some(false), None), Verb::Write);
    assert_eq!(class("list", None, Some(true)), Verb::Admin);
    assert_eq!(class("drop_it", Some(true), Some(false)), Verb::Admin);
    assert_eq!(class("frobnicate", Some(true), None), Verb::Write);
}
