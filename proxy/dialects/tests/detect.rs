//! No spelling of a path is a side door.

use proptest::prelude::*;
use sideguard_dialects::detect::{Detected, Operation, detect, provider_of_host};
use sideguard_types::resource::Dialect;

const CHAT: &str = r#"{"model":"m","messages":[]}"#;
const JSON: Option<&str> = Some("application/json");

fn name(detected: &Detected<'_>) -> String {
    match detected {
        Detected::Known { op, operation_name, .. } => format!("{op:?} {operation_name}"),
        Detected::Unjudgeable { .. } => "refused".to_owned(),
    }
}

fn governed(provider: &str, dialect: Dialect, method: &str, path: &str, body: &str) -> String {
    name(&detect(Some((provider, dialect)), method, path, JSON, body.as_bytes()))
}

#[test]
fn known_paths_of_providers_are_their_operations() {
    use Dialect::{Anthropic, Openai};
    let table = [
        ("openai", Openai, "POST", "/v1/chat/completions", CHAT, "Chat chat"),
        ("openai", Openai, "POST", "/v1/responses", CHAT, "Responses responses"),
        ("openai", Openai, "POST", "/v1/embeddings", CHAT, "Embeddings embeddings"),
        ("openai", Openai, "GET", "/v1/models", "", "ModelFree models"),
        ("openai", Openai, "GET", "/v1/models/ft:gpt-4o:org::id", "", "ModelFree models"),
        ("openai", Openai, "GET", "/v1/responses/resp_1", "", "ModelFree responses"),
        ("openai", Openai, "DELETE", "/v1/responses/resp_1", "", "ModelFree responses"),
        ("openai", Openai, "POST", "/v1/responses/resp_1/cancel", "", "ModelFree responses"),
        ("openai", Openai, "POST", "/v1/responses/resp_1/cancel", "{}", "ModelFree responses"),
        ("anthropic", Anthropic, "POST", "/v1/messages", CHAT, "Messages messages"),
        ("anthropic", Anthropic, "POST", "/v1/messages/count_tokens", CHAT, "CountTokens count_tokens"),
        ("anthropic", Anthropic, "GET", "/v1/models", "", "ModelFree models"),
        ("groq", Openai, "POST", "/openai/v1/chat/completions", CHAT, "Chat chat"),
        ("openrouter", Openai, "POST", "/api/v1/chat/completions", CHAT, "Chat chat"),
        ("openrouter", Openai, "POST", "/api/v1/messages", CHAT, "Messages messages"),
        ("openrouter", Openai, "GET", "/api/v1/models/author/name/endpoints", "", "ModelFree models"),
        ("deepseek", Openai, "POST", "/chat/completions", CHAT, "Chat chat"),
        ("deepseek", Openai, "POST", "/anthropic/v1/messages", CHAT, "Messages messages"),
        ("gemini", Openai, "POST", "/v1beta/openai/chat/completions", CHAT, "Chat chat"),
        ("ours", Openai, "POST", "/llm/team-a/v1/chat/completions", CHAT, "Chat chat"),
        ("ours", Openai, "POST", "/chat/completions", CHAT, "Chat chat"),
        ("tools", Dialect::Mcp, "POST", "/mcp", r#"{"jsonrpc":"2.0"}"#, "Mcp mcp"),
        ("tools", Dialect::Mcp, "GET", "/mcp", "", "Plain plain"),
        ("tools", Dialect::Mcp, "DELETE", "/mcp", "", "Plain plain"),
    ];
    for (provider, dialect, method, path, body, expected) in table {
        assert_eq!(governed(provider, dialect, method, path, body), expected, "{provider} {method} {path}");
    }
}

#[test]
fn every_other_spelling_at_a_governed_provider_is_refused() {
    let paths = [
        "",
        "/",
        "//",
        "v1/chat/completions",
        "//v1/chat/completions",
        "/v1//chat/completions",
        "/v1/chat/completions/",
        "/v1/chat/completions//",
        "/V1/chat/completions",
        "/v1/Chat/completions",
        "/v1/chat/COMPLETIONS",
        "/v1/chat%2Fcompletions",
        "/v1/chat%2fcompletions",
        "/v1/%63hat/completions",
        "/v1/./chat/completions",
        "/v1/%2e/chat/completions",
        "/v1/x/../chat/completions",
        "/v1/x/%2e%2e/chat/completions",
        "/./v1/chat/completions",
        "/../v1/chat/completions",
        "/v1/chat;x=1/completions",
        "/v1/chat/completions;x",
        "/v1;/chat/completions",
        "/v1/chat\\completions",
        "/v1\\chat\\completions",
        "/v1/chat/completions?x=1",
        "/v1/chat/completions#x",
        "/v1/chat/completions ",
        " /v1/chat/completions",
        "/v1/chat/completions\t",
        "/v1/chat/completions%00",
        "/v1/chat/completions%20",
        "/v1/chat/completions.json",
        "/v1/chat/completions/x",
        "/v1/chat",
        "/v1",
        "/v1/completions",
        "/v1/files",
        "/v1/batches",
        "/v1/fine_tuning/jobs",
        "/v1/images/generations",
        "/v1/audio/speech",
        "/v1/realtime",
        "/v1/assistants",
        "/v1/threads",
        "/v1/vector_stores",
        "/v2/chat/completions",
        "/openai/v1/chat/completions",
        "/v1/v1/chat/completions",
        "/v1/chat/completions/../../responses",
        "/v1/ｃhat/completions",
        "/v1/chat\u{2215}completions",
        "http://api.openai.com/v1/chat/completions",
        "/v1/responses/",
        "/v1/responses/%2e%2e/files",
        "/v1/models/../files",
        "/v1/messages",
    ];
    for path in paths {
        for method in ["POST", "GET", "PUT", "DELETE", "post", "PATCH", "HEAD", "OPTIONS", ""] {
            assert_eq!(governed("openai", Dialect::Openai, method, path, CHAT), "refused", "{method} {path}");
        }
    }
    for provider in ["bedrock", "vertex"] {
        assert_eq!(governed(provider, Dialect::Openai, "POST", "/v1/chat/completions", CHAT), "refused");
    }
    assert_eq!(
        governed("gemini", Dialect::Openai, "POST", "/v1beta/models/g:generateContent", CHAT),
        "refused"
    );
}

#[test]
fn a_governed_call_that_is_not_json_is_refused() {
    let given = |content_type, body: &str| {
        name(&detect(
            Some(("openai", Dialect::Openai)),
            "POST",
            "/v1/chat/completions",
            content_type,
            body.as_bytes(),
        ))
    };
    for good in ["application/json", "Application/JSON; charset=UTF-8", "application/json;charset=\"utf-8\""]
    {
        assert_eq!(given(Some(good), CHAT), "Chat chat", "{good}");
    }
    for bad in
        ["text/plain", "multipart/form-data; boundary=x", "application/json; charset=utf-16", "", "json"]
    {
        assert_eq!(given(Some(bad), CHAT), "refused", "{bad}");
    }
    assert_eq!(given(None, CHAT), "refused");
    for body in ["", "[]", "model=m", "\u{feff}{}"] {
        assert_eq!(given(JSON, body), "refused", "{body}");
    }
    assert_eq!(governed("openai", Dialect::Openai, "GET", "/v1/models", CHAT), "refused");
    assert_eq!(governed("tools", Dialect::Mcp, "POST", "/mcp", "x"), "refused");
}

#[test]
fn what_looks_like_a_call_anywhere_is_judged_as_one() {
    let at = |path: &str, body: &[u8]| name(&detect(None, "POST", path, JSON, body));
    let spellings = [
        "/v1/chat/completions",
        "/chat/completions",
        "/api//v1/chat/completions/",
        "/V1/Chat/Completions",
        "/v1/%63hat/completions",
        "/v1/chat%2fcompletions",
        "/v1/x/../chat/completions",
        "/v1/chat;a/completions;b",
        "/v1\\chat\\completions",
        "/v1/%2563hat/completions",
    ];
    for path in spellings {
        assert_eq!(at(path, CHAT.as_bytes()), "Chat chat", "{path}");
    }
    assert_eq!(at("/v1/messages", CHAT.as_bytes()), "Messages messages");
    assert_eq!(at("/v1/messages/count_tokens", CHAT.as_bytes()), "CountTokens count_tokens");
    assert_eq!(at("/v1/responses", br#"{"model":"m","input":"x"}"#), "Responses responses");
    assert_eq!(at("/v1/embeddings", br#"{"model":"m","input":["x"]}"#), "Embeddings embeddings");
    assert_eq!(at("/v1/chat/completions", br#"{"Model":"m","MESSAGES":[]}"#), "Chat chat");
    for body in [
        r#"{"jsonrpc":"2.0","method":"ping"}"#,
        r#"[{"jsonrpc":"2.0","method":"ping"}]"#,
        r#"{"json\u0072pc":"2.0"}"#,
        r#"{"JSONRPC":"2.0"}"#,
        r#"{"id":1,"method":"tools/call","params":{}}"#,
    ] {
        assert_eq!(at("/x", body.as_bytes()), "Mcp mcp", "{body}");
        assert_eq!(
            name(&detect(None, "POST", "/x", Some("text/plain"), body.as_bytes())),
            "Mcp mcp",
            "{body}"
        );
    }
}

#[test]
fn what_may_hide_a_call_is_refused() {
    let at = |path: &str, body: &[u8]| name(&detect(None, "POST", path, JSON, body));
    assert_eq!(at("/x", br#"{"jsonrpc":"2.0","id":1,"id":2}"#), "refused");
    assert_eq!(at("/x", br#"{"json\u0072pc":"2.0",}"#), "refused");
    assert_eq!(at("/v1/chat/completions", br#"{"model":"m","model":"n","messages":[]}"#), "refused");
    assert_eq!(
        at(
            "/x",
            "{\"jsonrpc\":\"2.0\"}".encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>().as_slice()
        ),
        "refused"
    );
    assert_eq!(at("/x", b"\xEF\xBB\xBF{\"jsonrpc\":\"2.0\"}"), "refused");
}

#[test]
fn everything_else_is_plain() {
    let plain =
        |method: &str, path: &str, body: &str| name(&detect(None, method, path, JSON, body.as_bytes()));
    assert_eq!(plain("POST", "/orders", r#"{"a":1}"#), "Plain plain");
    assert_eq!(plain("POST", "/orders", r#"{"a":1,"a":2}"#), "Plain plain");
    assert_eq!(plain("POST", "/survey/responses", r#"{"answer":1}"#), "Plain plain");
    assert_eq!(plain("GET", "/v1/chat/completions", ""), "Plain plain");
    assert_eq!(plain("DELETE", "/mcp", ""), "Plain plain");
    assert_eq!(plain("POST", "/upload", "plain text"), "Plain plain");
}

#[test]
fn hosts_of_providers_are_known_however_they_are_written() {
    let table = [
        ("api.openai.com", Some("openai")),
        ("API.OpenAI.com.", Some("openai")),
        ("eu.api.openai.com", Some("openai")),
        ("x.openai.azure.com", Some("azure")),
        ("api.anthropic.com", Some("anthropic")),
        ("api.mistral.ai", Some("mistral")),
        ("api.groq.com", Some("groq")),
        ("openrouter.ai", Some("openrouter")),
        ("api.deepseek.com", Some("deepseek")),
        ("api.x.ai", Some("xai")),
        ("generativelanguage.googleapis.com", Some("gemini")),
        ("us-central1-aiplatform.googleapis.com", Some("vertex")),
        ("bedrock-runtime.us-east-1.amazonaws.com", Some("bedrock")),
        ("openai.com", None),
        ("api.openai.com.evil.example", None),
        ("xapi.openai.com", None),
        ("", None),
        (".", None),
        ("evilopenai.azure.com", None),
        ("openai.azure.com", None),
    ];
    for (host, expected) in table {
        assert_eq!(provider_of_host(host).map(|provider| provider.name), expected, "{host}");
    }
}

proptest! {
    #[test]
    fn a_governed_path_is_known_only_as_documented(path in "(/|//|/v1|/V1|/chat|/completions|%2e|%2F|\\.|;|/\\.\\.|/responses|x){0,7}") {
        let detected = governed("openai", Dialect::Openai, "POST", &path, CHAT);
        let documented = matches!(path.as_str(), "/v1/chat/completions" | "/v1/responses");
        prop_assert_eq!(detected != "refused", documented, "{}", path);
    }

    #[test]
    fn anything_is_detected_without_panic(
        provider in prop::option::of("openai|anthropic|gemini|ours"), dialect in 0..4, method in "GET|POST|.{0,5}",
        path in prop_oneof![".{0,30}", "[/%.;a-z0-9]{0,20}"], content_type in prop::option::of("application/json|.{0,12}"),
        body in prop_oneof![prop::collection::vec(any::<u8>(), 0..40), "[\\[{\":a-z\\\\u0}]{0,40}".prop_map(String::into_bytes)],
        host in ".{0,30}",
    ) {
        let dialect = [Dialect::Openai, Dialect::Anthropic, Dialect::Mcp, Dialect::Plain][dialect as usize];
        let governed = provider.as_deref().map(|name| (name, dialect));
        let detected = detect(governed, &method, &path, content_type.as_deref(), &body);
        if governed.is_some() && matches!(dialect, Dialect::Openai | Dialect::Anthropic) {
            let is_plain = matches!(detected, Detected::Known { op: Operation::Plain, .. });
            prop_assert!(!is_plain);
        }
        let _ = provider_of_host(&host);
    }
}
