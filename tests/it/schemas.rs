//! The JSON Schemas that editors use are those of the types.

use std::path::Path;

use harness::command::sideguard;

#[tokio::test]
async fn shipped_schemas_are_those_of_the_types() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies/schema");
    let state = tempfile::tempdir().expect("a directory");
    let mut files = 0;
    for file in std::fs::read_dir(&shipped).expect("the schemas") {
        let file = file.expect("a file").path();
        let kind = file.file_stem().and_then(|stem| stem.to_str()).expect("a name").to_owned();
        let ran = sideguard(state.path(), &["explain", &kind, "-o", "json"]).await;
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        let kept = std::fs::read_to_string(&file).expect("a schema");
        assert!(
            kept == ran.out,
            "write it anew: sideguard explain {kind} -o json > policies/schema/{kind}.json"
        );
        files += 1;
    }
    assert_eq!(files, 11, "one for each kind that people write");
}
