//! Listings of an MCP server's tools: those that the agent may not call are taken out.

use crate::edit::{self, Edit};
use crate::json::{self, Value};

/// One tool of a listing, as its server describes it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Listed<'b> {
    /// Its name.
    pub name: &'b str,
    /// `annotations.readOnlyHint`.
    pub read_only: Option<bool>,
    /// `annotations.destructiveHint`.
    pub destructive: Option<bool>,
}

/// Takes the tools out of `message` (one JSON-RPC message, or a batch) that `keep` says no to. `None` when nothing
/// has to be taken out. A shortened list is marked as the agent's own (`cacheScope`, MCP 2026-07-28).
///
/// # Errors
/// When the message is not JSON, or a tool in it has no name.
pub fn filter(message: &[u8], keep: &mut dyn FnMut(Listed<'_>) -> bool) -> Result<Option<Vec<u8>>, String> {
    let document = json::read(message).map_err(|error| error.to_string())?;
    let mut edits = Vec::new();
    let single = std::iter::once(document.root).filter(|root| root.get("result").is_some());
    for reply in single.chain(document.root.elements()) {
        let Some(result) = reply.get("result") else { continue };
        if let Some(tools) = result.get("tools") {
            shorten(&result, &tools, keep, &mut edits)?;
        }
    }
    Ok((!edits.is_empty()).then(|| edit::apply(message, edits)))
}

fn shorten(
    result: &Value<'_>,
    tools: &Value<'_>,
    keep: &mut dyn FnMut(Listed<'_>) -> bool,
    edits: &mut Vec<Edit>,
) -> Result<(), String> {
    let mut kept = Vec::new();
    let mut hidden = false;
    for tool in tools.elements() {
        let name = tool.get("name").and_then(|name| name.as_str()).ok_or("a listed tool has no name")?;
        let hint =
            |key| tool.get("annotations").and_then(|hints| hints.get(key)).and_then(|hint| hint.as_bool());
        let listed =
            Listed { name: &name, read_only: hint("readOnlyHint"), destructive: hint("destructiveHint") };
        if keep(listed) {
            kept.push(tool.raw());
        } else {
            hidden = true;
        }
    }
    if hidden {
        edits.push(Edit::replace(tools.span(), format!("[{}]", kept.join(","))));
        if let Some(scope) = result.get("cacheScope") {
            edits.push(Edit::replace(scope.span(), "\"private\""));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::filter;

    const LIST: &[u8] = br#"{"jsonrpc":"2.0", "id":1,"result":{"tools":[{"name":"query"},{"name":"drop_table","annotations":{"destructiveHint":true}}],"cacheScope":"public","x":1e2}}"#;

    #[test]
    fn a_hidden_tool_is_taken_out_and_the_rest_keeps_its_bytes() {
        let shortened =
            filter(LIST, &mut |tool| tool.destructive != Some(true)).expect("JSON").expect("shortened");
        let expected = br#"{"jsonrpc":"2.0", "id":1,"result":{"tools":[{"name":"query"}],"cacheScope":"private","x":1e2}}"#;
        assert_eq!(String::from_utf8_lossy(&shortened), String::from_utf8_lossy(expected));
    }

    #[test]
    fn a_list_that_may_be_seen_whole_is_left_alone() {
        assert_eq!(filter(LIST, &mut |_| true), Ok(None));
        assert_eq!(filter(br#"{"id":1,"result":{}}"#, &mut |_| false), Ok(None));
    }

    #[test]
    fn batches_are_filtered_too_and_a_nameless_tool_is_refused() {
        let batch = br#"[{"id":1,"result":{"tools":[{"name":"a"}]}},{"id":2,"result":1}]"#;
        let shortened = filter(batch, &mut |_| false).expect("JSON").expect("shortened");
        assert_eq!(&shortened, br#"[{"id":1,"result":{"tools":[]}},{"id":2,"result":1}]"#);
        assert!(filter(br#"{"result":{"tools":[{}]}}"#, &mut |_| true).is_err());
    }
}
