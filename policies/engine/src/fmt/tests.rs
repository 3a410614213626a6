use super::format;
use crate::source::Source;

fn formatted(text: &str) -> String {
    format(&Source::new("x.yaml", text)).expect("valid YAML")
}

#[test]
fn lists_stand_inside_their_key_and_comments_stay() {
    let text = "# top\nversion: v1   \nrules:\n- id: a   # why\n  # about match\n  match:\n      tools: [ x,\n               y ]\n  when: |\n      tool == 'x' &&\n        true\n  decision: deny\n\n\n\n-   id: b\n    decision: 'allow'\n# end\n";
    let expected = "# top\nversion: v1\nrules:\n  - id: a   # why\n    # about match\n    match:\n      tools: [ x,\n               y ]\n    when: |\n        tool == 'x' &&\n          true\n    decision: deny\n\n  - id: b\n    decision: 'allow'\n# end\n";
    let once = formatted(text);
    assert_eq!(formatted(&once), once, "a second time changes nothing");
    assert_eq!(once, expected);
}

#[test]
fn windows_line_ends_and_a_missing_last_one_are_mended() {
    assert_eq!(formatted("version: v1\r\nrules: []"), "version: v1\nrules: []\n");
}

#[test]
fn what_is_not_yaml_is_told() {
    assert!(format(&Source::new("x.yaml", "a: [")).is_err());
}
