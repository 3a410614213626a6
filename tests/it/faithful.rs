//! M2: what no rule rewrites reaches the upstream byte for byte.

use std::fmt::Write;

use harness::client::{self, Kept};
use harness::fake::{self, Fake, whole};
use harness::sidecar::ALLOW;
use harness::{RawFake, Seen, Sidecar, raw};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

const BODIES: u64 = 40;
const JSON: (&str, &str) = ("content-type", "application/json");

/// Numbers that follow from a seed (SplitMix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }

    fn one_of<'t>(&mut self, of: &[&'t str]) -> &'t str {
        let length = u64::try_from(of.len()).expect("a length");
        of[usize::try_from(self.below(length)).expect("an index")]
    }
}

/// Values that a parser and a printer would not give back as they were.
const VALUES: [&str; 22] = [
    "0",
    "-0",
    "-0.0",
    "1.0",
    "1.10",
    "1e2",
    "1E+2",
    "1e-7",
    "12345678901234567890123",
    "9007199254740993",
    "0.1000000000000000055511151231257827",
    "true",
    "null",
    r#""\u00e9""#,
    r#""é""#,
    r#""\ud83d\ude00""#,
    r#""😀""#,
    r#""\/""#,
    r#""a\u0000b""#,
    "[ ]",
    "{  }",
    r#"[1 ,  [2,{"deep" :[3]}]]"#,
];
const SPACES: [&str; 6] = ["", " ", "  ", "\n  ", "\t", "\r\n"];

/// An object with the given members, in any order, among ones that nobody knows.
fn object(chance: &mut Chance, known: &[(&str, String)]) -> String {
    let mut members: Vec<(String, String)> =
        known.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    for number in 0..chance.below(6) {
        let at = usize::try_from(chance.below(members.len() as u64 + 1)).expect("an index");
        let name = chance.one_of(&["x", "metadata ", "Zeta", "\\u0061lpha", "ключ", ""]);
        members.insert(at, (format!("{name}{number}"), chance.one_of(&VALUES).to_owned()));
    }
    let mut out = String::new();
    out.push_str(chance.one_of(&["", "", " ", "\n"]));
    out.push('{');
    for (number, (name, value)) in members.iter().enumerate() {
        if number > 0 {
            out.push(',');
        }
        let (before, after, between) =
            (chance.one_of(&SPACES), chance.one_of(&SPACES), chance.one_of(&SPACES));
        write!(out, "{before}\"{name}\"{after}:{between}{value}").expect("a text");
    }
    out.push_str(chance.one_of(&SPACES));
    out.push('}');
    out.push_str(chance.one_of(&["", "", "\n"]));
    out
}

fn text(chance: &mut Chance) -> String {
    let words = ["hi", "\\u00e9t\\u00e9", "two  spaces", "\\\"quoted\\\"", "naïve 😀", "\\ud83d\\ude00", ""];
    format!("\"{} {}\"", chance.one_of(&words), chance.one_of(&words))
}

fn messages(chance: &mut Chance) -> String {
    let content = text(chance);
    let message = object(chance, &[("role", "\"user\"".to_owned()), ("content", content)]);
    format!("[{message}]")
}

fn query(chance: &mut Chance) -> &'static str {
    chance.one_of(&[
        "",
        "?beta=true",
        "?beta=true&x=%2F",
        "?",
        "?a=1&a=2&b",
        "?q=%e2%82%ac+x&&",
        "?x=a/b?c:d@e",
    ])
}

/// Sends bodies over one connection and compares what the upstream got.
async fn go_through(dialect: &str, path: &str, answer: &'static str, make: impl Fn(&mut Chance) -> String) {
    let fake = Fake::json(answer).await;
    let spec = format!("  upstreams:\n    - {{name: up, baseUrl: \"{}\", dialect: {dialect}}}\n", fake.url());
    let sidecar = Sidecar::start(&spec, &[("allow.yaml", ALLOW)]);
    let mut kept = Kept::open(&sidecar).await;
    let mut chance = Chance(path.len() as u64);
    for number in 0..BODIES {
        let body = make(&mut chance);
        let query = query(&mut chance);
        let reply = kept.send("POST", &format!("/up{path}{query}"), &[JSON], body.clone()).await;
        assert_eq!(reply.status, 200, "body {number}: {body}\n{}", reply.text());
        assert_eq!(reply.body, answer, "answers come back as they are");
        let seen: Seen = fake.seen().pop().expect("a request");
        assert_eq!(seen.body, body, "body {number}");
        assert_eq!(seen.target, format!("{path}{query}"));
        assert_eq!(seen.headers["content-length"], body.len().to_string().as_str());
    }
    assert_eq!(fake.seen().len() as u64, BODIES);
}

#[tokio::test(flavor = "multi_thread")]
async fn chat_bodies_arrive_byte_for_byte() {
    let answer = r#"{ "id":"c","choices":[{"index":0,"message":{"role":"assistant","content":"ok"},"finish_reason":"stop"}] , "usage":{"prompt_tokens":1,"completion_tokens":1},"x":1.0}"#;
    go_through("openai", "/v1/chat/completions", answer, |chance| {
        let messages = messages(chance);
        object(chance, &[("model", "\"gpt-5\"".to_owned()), ("messages", messages), ("n", "1".to_owned())])
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_bodies_arrive_byte_for_byte() {
    let answer = r#"{"id":"r","object":"response","status":"completed","output":[],"usage":{"input_tokens":1,"output_tokens":1},"x":[1e2]}"#;
    go_through("openai", "/v1/responses", answer, |chance| {
        let input = text(chance);
        object(chance, &[("model", "\"gpt-5\"".to_owned()), ("input", input)])
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn embeddings_bodies_arrive_byte_for_byte() {
    let answer = r#"{"data":[{"embedding":[0.10,1E-7]}],"usage":{"prompt_tokens":1,"total_tokens":1}}"#;
    go_through("openai", "/v1/embeddings", answer, |chance| {
        let input = text(chance);
        object(chance, &[("input", input), ("model", "\"text-embedding-3-small\"".to_owned())])
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_bodies_arrive_byte_for_byte() {
    let answer = r#"{"type":"message","role":"assistant","content":[{"type":"text","text":"ok"}],"stop_reason":"end_turn","usage":{"input_tokens":1,"output_tokens":1},"x" : {}}"#;
    go_through("anthropic", "/v1/messages", answer, |chance| {
        let messages = messages(chance);
        let known = [
            ("max_tokens", "64".to_owned()),
            ("model", "\"claude-sonnet-4-5\"".to_owned()),
            ("messages", messages),
        ];
        object(chance, &known)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mcp_bodies_arrive_byte_for_byte() {
    let answer = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[],"x" :1.0}}"#;
    go_through("mcp", "/mcp", answer, |chance| {
        let arguments = object(chance, &[("q", chance_value())]);
        let params = object(chance, &[("name", "\"search\"".to_owned()), ("arguments", arguments)]);
        let id = chance.one_of(&["1", "\"a\"", "12345678901234567890"]).to_owned();
        let known = [
            ("jsonrpc", "\"2.0\"".to_owned()),
            ("id", id),
            ("method", "\"tools/call\"".to_owned()),
            ("params", params),
        ];
        object(chance, &known)
    })
    .await;
}

fn chance_value() -> String {
    "\"\\u0073elect  1\"".to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn any_bytes_arrive_at_a_plain_host_and_come_back() {
    let fake =
        Fake::start(None, |seen| fake::reply("application/octet-stream", whole(seen.body.clone()))).await;
    let spec =
        format!("  upstreams:\n    - {{name: up, baseUrl: \"{}/base/\", dialect: plain}}\n", fake.url());
    let sidecar = Sidecar::start(&spec, &[("allow.yaml", ALLOW)]);
    let mut kept = Kept::open(&sidecar).await;
    let mut chance = Chance(7);
    for number in 0..BODIES {
        let length = [0, 1, 2, 255, 4_096, 65_537, 300_000][usize::try_from(number % 7).expect("an index")];
        let body: Vec<u8> = (0..length).map(|_| u8::try_from(chance.below(256)).expect("a byte")).collect();
        let query = query(&mut chance);
        let reply = kept
            .send("PUT", &format!("/up/a%20b/%C3%A9{query}"), &[("content-type", "image/x")], body.clone())
            .await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert!(reply.body == body, "body {number} of {length} bytes came back");
        let seen = fake.seen().pop().expect("a request");
        assert!(seen.body == body, "body {number} of {length} bytes arrived");
        assert_eq!(seen.target, format!("/base/a%20b/%C3%A9{query}"));
    }
}

/// A raw upstream that tells of each request and answers with `reply`.
async fn telling(reply: &'static str) -> (RawFake, mpsc::Receiver<(String, Vec<u8>)>) {
    let (send, receive) = mpsc::channel(16);
    let fake = RawFake::start(move |mut tcp| {
        let send = send.clone();
        async move {
            loop {
                let (head, body) = raw::message(&mut tcp).await;
                if head.is_empty()
                    || send.send((head, body)).await.is_err()
                    || tcp.write_all(reply.as_bytes()).await.is_err()
                {
                    return;
                }
            }
        }
    })
    .await;
    (fake, receive)
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_keep_their_case_order_and_repetition_and_only_hop_headers_change() {
    let reply = "HTTP/1.1 200 Fine\r\nX-Odd-Case: One\r\nX-Odd-Case: Two\r\nset-cookie: a=1\r\nSet-Cookie: b=2\r\n\
                 Keep-Alive: timeout=9\r\nConnection: keep-alive, X-Hop\r\nX-Hop: here\r\nX-Sideguard-Decision: deny\r\n\
                 X-Should-Retry: true\r\nContent-Length: 2\r\n\r\nok";
    let (fake, mut requests) = telling(reply).await;
    let sidecar = Sidecar::start("", &[("allow.yaml", ALLOW)]);
    let mut tcp = TcpStream::connect(sidecar.outbound()).await.expect("the outbound port");
    let target = format!("{}/x/%7e?A=b&c", fake.url());
    let request = format!(
        "POST {target} HTTP/1.1\r\nHost: {}\r\nUSER-agent: odd/1\r\nX-Unknown: a  b\r\nX-Unknown: c\r\nx-EMPTY:\r\n\
         Accept-Encoding: gzip, br\r\nCookie: a=1; b=2\r\nAuthorization: Bearer own\r\nX-Bytes: caf\u{e9}\r\n\
         Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic eDp5\r\nConnection: keep-alive, X-Private\r\n\
         X-Private: hop\r\nKeep-Alive: 5\r\nTE: gzip\r\nX-Sideguard-Decision: allow\r\nX-Should-Retry: true\r\n\
         X-Sideguard-Session: s1\r\nContent-Type: text/PLAIN\r\nContent-Length: 3\r\n\r\na\0b",
        fake.address()
    );
    // The proxy password is not that of a known agent, so it is left out here.
    let request = request.replace("Proxy-Authorization: Basic eDp5\r\n", "");
    tcp.write_all(request.as_bytes()).await.expect("a request");
    let (answer, body) = raw::message(&mut tcp).await;
    assert_eq!(body, b"ok", "{answer}");
    let (head, body) = requests.recv().await.expect("a request");
    assert_eq!(body, b"a\0b");
    let lines: Vec<&str> = head.trim_end().split("\r\n").collect();
    assert_eq!(lines[0], "POST /x/%7e?A=b&c HTTP/1.1");
    let kept = [
        "USER-agent: odd/1",
        "X-Unknown: a  b",
        "X-Unknown: c",
        "Accept-Encoding: gzip, br",
        "Cookie: a=1; b=2",
        "Authorization: Bearer own",
        "X-Bytes: caf\u{e9}",
        "Content-Type: text/PLAIN",
        "Content-Length: 3",
    ];
    for line in kept {
        assert!(lines.contains(&line), "`{line}` arrives as it was: {head}");
    }
    assert!(lines.iter().any(|line| line.trim_end() == "x-EMPTY:"), "{head}");
    let host = format!("Host: {}", fake.address());
    assert!(lines.iter().any(|line| line.eq_ignore_ascii_case(&host)), "{head}");
    assert_eq!(lines.len(), kept.len() + 3, "and nothing else: {head}");
    // The answer, on its way back.
    for line in ["X-Odd-Case: One", "X-Odd-Case: Two", "Content-Length: 2"] {
        assert!(answer.contains(line), "{answer}");
    }
    assert!(answer.contains("a=1") && answer.contains("b=2"), "{answer}");
    for gone in ["X-Hop", "Keep-Alive: timeout", "X-Should-Retry", "deny"] {
        assert!(!answer.contains(gone), "`{gone}` does not come back: {answer}");
    }
    assert_eq!(raw::header(&answer, "x-sideguard-decision"), "allow");
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_with_unusual_bytes_arrive_as_they_are() {
    let (fake, mut requests) = telling("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let spec = format!("  upstreams:\n    - {{name: up, baseUrl: \"{}\", dialect: plain}}\n", fake.url());
    let sidecar = Sidecar::start(&spec, &[("allow.yaml", ALLOW)]);
    for target in [
        "/",
        "//double//slash/",
        "/a%2Fb%2e%ff",
        "/semi;a=b;c/x,y",
        "/~user/(x)'!*$&+=:@",
        "/a|b",
        "/p?q=a'b",
        "/x?a[]=1&b=%22",
        "/x?%zz&=&&",
        "/é/ü?ß=€",
        "/trailing?",
    ] {
        let mut tcp = TcpStream::connect(sidecar.outbound()).await.expect("the outbound port");
        tcp.write_all(format!("GET /up{target} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())
            .await
            .expect("a request");
        let (answer, _) = raw::message(&mut tcp).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{target}: {answer}");
        let (head, _) = requests.recv().await.expect("a request");
        assert_eq!(head.lines().next(), Some(format!("GET {target} HTTP/1.1").as_str()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_came_compressed_leaves_compressed() {
    let fake = Fake::json("{}").await;
    let spec = format!("  upstreams:\n    - {{name: up, baseUrl: \"{}\", dialect: plain}}\n", fake.url());
    let sidecar = Sidecar::start(&spec, &[("allow.yaml", ALLOW)]);
    let packed = crate::bodies::gzip(br#"{"a" : 1.0}"#);
    let headers = [JSON, ("content-encoding", "gzip")];
    let reply = client::gateway(&sidecar, "POST", "/up/x", &headers, packed.clone()).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let seen = fake.seen().pop().expect("a request");
    assert_eq!(seen.body, packed);
    assert_eq!(seen.headers["content-encoding"], "gzip");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_left_as_it_is_where_its_server_takes_no_further_fields() {
    const STREAM: &str = r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"hi"}]}"#;
    let fake =
        Fake::start(None, |_| harness::model::stream(harness::model::finish("stop") + "data: [DONE]\n\n"))
            .await;
    let url = fake.url();
    let spec = format!(
        "  upstreams:\n    - {{name: mistral, baseUrl: \"{url}\", dialect: openai}}\n    \
         - {{name: strict, baseUrl: \"{url}\", dialect: openai, streamUsage: leave}}\n    \
         - {{name: other, baseUrl: \"{url}\", dialect: openai}}\n"
    );
    let sidecar = Sidecar::start(&spec, &[("allow.yaml", ALLOW)]);
    for name in ["mistral", "strict", "other"] {
        let reply = client::post(&sidecar, &format!("/{name}/v1/chat/completions"), STREAM).await;
        assert_eq!(reply.status, 200, "{name}: {}", reply.text());
    }
    let seen = fake.seen();
    assert_eq!((&seen[0].body[..], &seen[1].body[..]), (STREAM.as_bytes(), STREAM.as_bytes()));
    assert!(String::from_utf8_lossy(&seen[2].body).contains("include_usage"));
}
