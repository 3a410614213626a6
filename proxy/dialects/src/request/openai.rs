//! OpenAI's requests: chat completions, responses, embeddings.
//! Source: the types of OpenAI's SDKs, read in November 2026.

use std::borrow::Cow;

use sideguard_types::units::Tokens;
use smallvec::SmallVec;

use super::bound::{InputBound, Prompt};
use super::model::{CapName, ModelRequest, Places, StreamOptions};
use super::{Unreadable, count, flag, is_given, name, only_as_spelled, wrong};
use crate::detect::Operation;
use crate::json::{Document, Kind, Member, Value};

/// Members that decide what a call may do: no other spelling of them is let through.
const GOVERNED: [&str; 22] = [
    "model",
    "models",
    "messages",
    "input",
    "instructions",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "n",
    "tools",
    "functions",
    "previous_response_id",
    "conversation",
    "prompt",
    "web_search_options",
    "search_parameters",
    "plugins",
    "background",
    "response_format",
    "store",
];

/// Reads a chat completion.
pub(super) fn chat<'b>(document: &Document<'b>) -> Result<ModelRequest<'b>, Unreadable> {
    read(Operation::Chat, document)
}

/// Reads a response.
pub(super) fn responses<'b>(document: &Document<'b>) -> Result<ModelRequest<'b>, Unreadable> {
    read(Operation::Responses, document)
}

/// Reads embeddings.
pub(super) fn embeddings<'b>(document: &Document<'b>) -> Result<ModelRequest<'b>, Unreadable> {
    read(Operation::Embeddings, document)
}

fn read<'b>(op: Operation, document: &Document<'b>) -> Result<ModelRequest<'b>, Unreadable> {
    let root = document.root;
    if root.kind() != Kind::Object {
        return wrong("body", "must be an object");
    }
    let mut call = Call::new(op, document);
    for member in document.members() {
        let key = member.key();
        only_as_spelled(&key, &GOVERNED)?;
        match op {
            Operation::Chat => call.chat_member(&key, &member)?,
            Operation::Responses => call.responses_member(&key, &member)?,
            _ => call.common_member(&key, &member)?,
        }
    }
    call.finish()
}

/// Members of one tool.
type Parts<'b> = SmallVec<[Member<'b>; 8]>;

/// A request that is being read, member by member.
struct Call<'d, 'b> {
    document: &'d Document<'b>,
    request: ModelRequest<'b>,
    model: Option<Cow<'b, str>>,
    has_prompt: bool,
    prompt: Prompt,
}

impl<'d, 'b> Call<'d, 'b> {
    fn new(op: Operation, document: &'d Document<'b>) -> Self {
        let no_output = op == Operation::Embeddings;
        let request = ModelRequest {
            op,
            model: Cow::Borrowed(""),
            stream: false,
            background: false,
            output_cap: no_output.then_some(Tokens::ZERO),
            choices: 1,
            include_usage: false,
            tools: Vec::new(),
            hosted_tools: Vec::new(),
            input: InputBound::default(),
            places: Places { inside: document.root.span().start + 1, ..Places::default() },
        };
        let has_prompt = op == Operation::Responses;
        Self { document, request, model: None, has_prompt, prompt: Prompt::default() }
    }

    fn chat_member(&mut self, key: &str, member: &Member<'b>) -> Result<(), Unreadable> {
        match key {
            "messages" => self.has_prompt = is_given(member, Kind::Array)?,
            "max_tokens" => self.cap(CapName::MaxTokens, member)?,
            "max_completion_tokens" => self.cap(CapName::MaxCompletionTokens, member)?,
            "n" => self.request.choices = count(member)?.unwrap_or(1).max(1),
            "stream_options" => self.stream_options(member)?,
            "functions" if is_given(member, Kind::Array)? => {
                self.prompt.rendered += member.value.raw().len();
                for function in self.document.elements(member) {
                    self.request.tools.push(given_name(function.get("name"), "functions[].name")?);
                }
            }
            // xAI's and OpenRouter's ways to let the provider search.
            "web_search_options" | "search_parameters" | "plugins" if !member.value.is_null() => {
                self.request.hosted_tools.push(Cow::Owned(key.to_owned()));
                self.prompt.open = true;
            }
            _ => self.common_member(key, member)?,
        }
        Ok(())
    }

    fn responses_member(&mut self, key: &str, member: &Member<'b>) -> Result<(), Unreadable> {
        match key {
            "max_output_tokens" => self.cap(CapName::MaxOutputTokens, member)?,
            "background" => self.request.background = flag(member)?,
            "previous_response_id" | "conversation" | "prompt" if !member.value.is_null() => {
                self.prompt.open = true;
            }
            _ => self.common_member(key, member)?,
        }
        Ok(())
    }

    fn common_member(&mut self, key: &str, member: &Member<'b>) -> Result<(), Unreadable> {
        match key {
            "model" => {
                self.model = Some(name("model", member.value)?);
                self.request.places.model = member.value.span();
            }
            "models" if !member.value.is_null() => {
                return wrong("models", "names models to fall back on: name the one `model` instead");
            }
            "stream" => self.request.stream = flag(member)?,
            "input" if matches!(member.value.kind(), Kind::String | Kind::Array) => self.has_prompt = true,
            "input" => return wrong("input", "must be a string or an array"),
            "response_format" | "text" => self.prompt.rendered += member.value.raw().len(),
            "tools" if is_given(member, Kind::Array)? => {
                self.prompt.rendered += member.value.raw().len();
                for tool in self.document.elements(member) {
                    self.tool(&self.document.members_of(tool).collect())?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn cap(&mut self, cap: CapName, member: &Member<'b>) -> Result<(), Unreadable> {
        let limit = count(member)?.map(Tokens);
        self.request.output_cap = self.request.output_cap.max(limit);
        self.request.places.caps.push((cap, member.value.span(), limit.is_some()));
        Ok(())
    }

    fn stream_options(&mut self, member: &Member<'b>) -> Result<(), Unreadable> {
        let options = member.value;
        if !is_given(member, Kind::Object)? {
            self.request.places.stream_options = StreamOptions::Null(options.span());
            return Ok(());
        }
        let mut place = StreamOptions::Without {
            inside: options.span().start + 1,
            empty: options.members().next().is_none(),
        };
        for option in options.members() {
            let key = option.key();
            only_as_spelled(&key, &["include_usage"])?;
            if key == "include_usage" {
                self.request.include_usage = flag(&option)?;
                place = StreamOptions::Flag(option.value.span());
            }
        }
        self.request.places.stream_options = place;
        Ok(())
    }

    fn tool(&mut self, members: &Parts<'b>) -> Result<(), Unreadable> {
        let get = |name: &str| members.iter().find(|member| member.is(name)).map(|member| member.value);
        let kind = given_name(get("type"), "tools[].type")?;
        match &*kind {
            "function" | "custom" => {
                let nested = get(&kind).filter(|nested| nested.kind() == Kind::Object);
                let named = match nested.filter(|_| self.request.op == Operation::Chat) {
                    Some(nested) => nested.get("name"),
                    None => get("name"),
                };
                self.request.tools.push(given_name(named, "tools[].name")?);
            }
            // A group of tools that the model may look up.
            "namespace" => {
                for inner in get("tools").into_iter().flat_map(|tools| tools.elements()) {
                    self.tool(&inner.members().collect())?;
                }
            }
            "mcp" => {
                let server = get("server_url").or_else(|| get("connector_id")).and_then(|url| url.as_str());
                self.request.hosted_tools.push(Cow::Owned(format!("mcp:{}", server.unwrap_or_default())));
                self.prompt.open = true;
            }
            // Run by the agent, though the provider wrote their schemas.
            "local_shell" | "apply_patch" | "computer" | "computer_use_preview" => {
                self.request.tools.push(kind);
                self.prompt.built_in += 1;
            }
            _ => {
                self.request.hosted_tools.push(kind);
                self.prompt.open = true;
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<ModelRequest<'b>, Unreadable> {
        let Some(model) = self.model.take() else {
            return wrong("model", "is missing: name one");
        };
        if !self.has_prompt {
            let prompt = if self.request.op == Operation::Chat { "messages" } else { "input" };
            return wrong(prompt, "is missing");
        }
        self.request.model = model;
        self.request.input = self.prompt.bound(self.request.op, self.document);
        Ok(self.request)
    }
}

/// The name that `value` is; `shown` is what an error calls it.
fn given_name<'b>(value: Option<Value<'b>>, shown: &str) -> Result<Cow<'b, str>, Unreadable> {
    match value {
        Some(value) => name(shown, value),
        None => wrong(shown, "is missing"),
    }
}
