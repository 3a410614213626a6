//! Anthropic's requests: messages, and counting their tokens.
//! Source: the types of Anthropic's SDKs, read in November 2026.

use std::borrow::Cow;

use sideguard_types::units::Tokens;

use super::bound::{InputBound, Prompt};
use super::model::{CapName, ModelRequest, Places};
use super::{Unreadable, count, flag, is_given, name, only_as_spelled, wrong};
use crate::detect::Operation;
use crate::json::{Document, Kind, Member, Value};

/// Members that decide what a call may do: no other spelling of them is let through.
const GOVERNED: [&str; 9] =
    ["model", "messages", "system", "max_tokens", "stream", "tools", "mcp_servers", "container", "thinking"];

/// Tools whose schema is Anthropic's but which the agent runs, by the beginning of their `type`.
const RUN_BY_AGENT: [&str; 5] = ["bash_", "text_editor_", "computer_", "memory_", "custom"];

/// Reads a message, or one whose tokens are to be counted.
pub(super) fn messages<'b>(op: Operation, document: &Document<'b>) -> Result<ModelRequest<'b>, Unreadable> {
    let root = document.root;
    if root.kind() != Kind::Object {
        return wrong("body", "must be an object");
    }
    let mut request = ModelRequest {
        op,
        model: Cow::Borrowed(""),
        stream: false,
        background: false,
        output_cap: None,
        choices: 1,
        include_usage: false,
        tools: Vec::new(),
        hosted_tools: Vec::new(),
        input: InputBound::default(),
        places: Places { inside: root.span().start + 1, ..Places::default() },
    };
    let mut prompt = Prompt::default();
    let mut has_messages = false;
    for member in document.members() {
        let key = member.key();
        only_as_spelled(&key, &GOVERNED)?;
        match &*key {
            "messages" => has_messages = is_given(&member, Kind::Array)?,
            _ => read_member(document, &key, &member, &mut request, &mut prompt)?,
        }
    }
    if request.model.is_empty() {
        return wrong("model", "is missing: name one");
    }
    if !has_messages {
        return wrong("messages", "is missing");
    }
    if op == Operation::CountTokens {
        request.output_cap = Some(Tokens::ZERO);
    } else if request.output_cap.is_none() {
        return wrong("max_tokens", "is missing");
    }
    request.input = prompt.bound(op, document);
    Ok(request)
}

fn read_member<'b>(
    document: &Document<'b>,
    key: &str,
    member: &Member<'b>,
    request: &mut ModelRequest<'b>,
    prompt: &mut Prompt,
) -> Result<(), Unreadable> {
    match key {
        "model" => {
            request.model = name("model", member.value)?;
            request.places.model = member.value.span();
        }
        "stream" => request.stream = flag(member)?,
        "max_tokens" => {
            request.output_cap = count(member)?.map(Tokens);
            request.places.caps.push((CapName::MaxTokens, member.value.span(), request.output_cap.is_some()));
        }
        "container" if !member.value.is_null() => prompt.open = true,
        "output_config" | "output_format" => prompt.rendered += member.value.raw().len(),
        "mcp_servers" if is_given(member, Kind::Array)? => {
            for server in document.elements(member) {
                let url = server.get("url").and_then(|url| url.as_str()).unwrap_or_default();
                request.hosted_tools.push(Cow::Owned(format!("mcp:{url}")));
                prompt.open = true;
            }
        }
        "tools" if is_given(member, Kind::Array)? => {
            prompt.rendered += member.value.raw().len();
            for tool in document.elements(member) {
                read_tool(document, tool, request, prompt)?;
            }
        }
        _ => {}
    }
    Ok(())
}

fn read_tool<'b>(
    document: &Document<'b>,
    tool: Value<'b>,
    request: &mut ModelRequest<'b>,
    prompt: &mut Prompt,
) -> Result<(), Unreadable> {
    let get =
        |name: &str| document.members_of(tool).find(|member| member.is(name)).map(|member| member.value);
    let kind = match get("type").filter(|kind| !kind.is_null()) {
        Some(kind) => name("tools[].type", kind)?,
        None => Cow::Borrowed("custom"),
    };
    prompt.built_in += 1;
    if RUN_BY_AGENT.iter().any(|run| kind.starts_with(run)) {
        match get("name") {
            Some(value) => request.tools.push(name("tools[].name", value)?),
            None => return wrong("tools[].name", "is missing"),
        }
    } else {
        request.hosted_tools.push(kind);
        prompt.open = true;
    }
    Ok(())
}
