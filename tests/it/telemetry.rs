//! What OpenTelemetry and Prometheus are told: every call once, under the agent's own trace, with the right numbers; and
//! never at the calls' expense.

mod collector;

use harness::sidecar::ALLOW;
use harness::{Fake, Sidecar, client, model, setting};
use opentelemetry_proto::tonic::trace::v1::Span;

use collector::{Collector, attributes, hex};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const AGENT: &str = "b7ad6b7169203331";
const DENY: &str = "apiVersion: sideguard.dev/v1\nkind: Policy\nmetadata: {name: p}\nspec:\n  default_decision: allow\n  rules:\n    \
    - {id: no-delete, match: {methods: [DELETE]}, decision: deny, reason: kept}\n";

/// A sidecar that tells a collector, before a fake model.
fn told(fake: &Fake, collector: &Collector, more: &[&str]) -> Sidecar {
    let spec = format!("  agent: {{name: tester, tenant: acme}}\n{}", setting::upstreams(fake));
    Sidecar::under(&collector.wrapper(more), &spec, &[("p.yaml", DENY)])
}

async fn ask(sidecar: &Sidecar, more: &str, traceparent: Option<&str>) -> client::Reply {
    let mut headers = vec![("content-type", "application/json"), ("x-sideguard-session", "s-1")];
    headers.extend(traceparent.map(|value| ("traceparent", value)));
    client::gateway(sidecar, "POST", model::CHAT, &headers, model::ask("canary prompt", more)).await
}

fn named<'s>(spans: &'s [Span], name: &str) -> Vec<&'s Span> {
    spans.iter().filter(|span| span.name == name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_one_span_below_the_agents_and_above_the_upstreams() {
    let fake = Fake::start(None, |_| model::json(model::completion("fine", 7, 5))).await;
    let collector = Collector::start().await;
    let sidecar = told(&fake, &collector, &["OTEL_RESOURCE_ATTRIBUTES=deployment.environment.name=test"]);
    let parent = format!("00-{TRACE}-{AGENT}-01");
    let reply = ask(&sidecar, r#","max_tokens":50"#, Some(&parent)).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let spans = collector.spans_of(1).await;
    assert_eq!(spans.len(), 1, "{spans:#?}");
    let span = &spans[0];
    assert_eq!(hex(&span.trace_id), TRACE);
    assert_eq!(hex(&span.parent_span_id), AGENT);
    assert_eq!(span.name, "chat gpt-4o-mini");
    assert_eq!(span.kind, 3, "a client's");
    assert!(span.end_time_unix_nano >= span.start_time_unix_nano && span.start_time_unix_nano > 0);
    let sent = fake.seen().pop().expect("a request");
    assert_eq!(
        sent.headers["traceparent"],
        format!("00-{TRACE}-{}-01", hex(&span.span_id)).as_str(),
        "what the upstream does stands below the sidecar's span"
    );
    let told = attributes(&span.attributes);
    for (name, value) in [
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.provider.name", "openai"),
        ("gen_ai.request.model", "gpt-4o-mini"),
        ("gen_ai.response.model", "gpt-4o-mini"),
        ("gen_ai.request.max_tokens", "50"),
        ("gen_ai.usage.input_tokens", "7"),
        ("gen_ai.usage.output_tokens", "5"),
        ("gen_ai.conversation.id", "s-1"),
        ("server.address", "127.0.0.1"),
        ("http.request.method", "POST"),
        ("http.response.status_code", "200"),
        ("sideguard.decision", "allow"),
        ("sideguard.agent", "tester"),
        ("sideguard.tenant", "acme"),
        ("sideguard.call", &reply.header("x-sideguard-call")),
        ("server.port", &fake.address().port().to_string()),
    ] {
        assert_eq!(told.get(name).map(String::as_str), Some(value), "{name}: {told:#?}");
    }
    assert!(!told.contains_key("error.type"), "{told:#?}");
    let resource = collector.resource();
    assert_eq!(resource["service.name"], "sideguard-proxy");
    assert_eq!(resource["deployment.environment.name"], "test");
    let recorded = sidecar.recorded(|entry| entry["phase"] == "intent").await;
    assert_eq!(recorded[0]["trace_id"], TRACE);
    for seen in collector.fake.seen() {
        let text = String::from_utf8_lossy(&seen.body);
        assert!(!text.contains("canary"), "no prompt is told");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streamed_call_and_one_without_a_trace_have_their_numbers_too() {
    let fake = Fake::start(None, |_| {
        let events = [model::text("fi"), model::text("ne"), model::finish("stop"), model::usage(11, 3)];
        model::stream(events.concat() + model::DONE)
    })
    .await;
    let collector = Collector::start().await;
    let sidecar = told(&fake, &collector, &[]);
    assert_eq!(ask(&sidecar, r#","stream":true"#, None).await.status, 200);
    let spans = collector.spans_of(1).await;
    let told = attributes(&spans[0].attributes);
    assert_eq!(told["gen_ai.usage.input_tokens"], "11");
    assert_eq!(told["gen_ai.usage.output_tokens"], "3");
    assert!(spans[0].parent_span_id.is_empty(), "the root of its trace");
    let recorded = sidecar.recorded(|entry| entry["phase"] == "outcome").await;
    assert_eq!(recorded[0]["trace_id"], hex(&spans[0].trace_id).as_str(), "record and trace find each other");
    let sent = fake.seen().pop().expect("a request");
    let expected = format!("00-{}-{}-03", hex(&spans[0].trace_id), hex(&spans[0].span_id));
    assert_eq!(sent.headers["traceparent"], expected.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_call_and_a_dead_upstream_are_spans_with_an_error() {
    let fake = Fake::json("{}").await;
    let collector = Collector::start().await;
    let spec = format!(
        "  agent: {{name: tester}}\n  upstreams:\n    - {{name: web, baseUrl: \"{}\"}}\n    \
         - {{name: dead, baseUrl: \"http://127.0.0.1:1\"}}\n",
        fake.url()
    );
    let sidecar = Sidecar::under(&collector.wrapper(&[]), &spec, &[("p.yaml", DENY)]);
    assert_eq!(client::gateway(&sidecar, "DELETE", "/web/x", &[], "").await.status, 403);
    assert_eq!(client::gateway(&sidecar, "GET", "/dead/x", &[], "").await.status, 502);
    assert_eq!(client::gateway(&sidecar, "GET", "/nobody/x", &[], "").await.status, 403);
    let spans = collector.spans_of(3).await;
    assert_eq!(spans.len(), 3, "{spans:#?}");
    let errors: Vec<String> = spans
        .iter()
        .map(|span| {
            assert_eq!(span.status.as_ref().map(|status| status.code), Some(2), "{span:#?}");
            attributes(&span.attributes)["error.type"].clone()
        })
        .collect();
    for error in ["policy_denied", "unjudgeable", "upstream_unreachable"] {
        assert!(errors.iter().any(|one| one == error), "{errors:?}");
    }
    assert_eq!(named(&spans, "GET 127.0.0.1:1").len(), 1, "{spans:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_telemetry_the_agents_trace_passes_as_it_is() {
    let fake = Fake::start(None, |_| model::json(model::completion("fine", 7, 5))).await;
    let sidecar = Sidecar::start(&setting::upstreams(&fake), &[("allow.yaml", ALLOW)]);
    let parent = format!("00-{TRACE}-{AGENT}-01");
    assert_eq!(ask(&sidecar, "", Some(&parent)).await.status, 200);
    assert_eq!(ask(&sidecar, "", None).await.status, 200);
    let seen = fake.seen();
    assert_eq!(seen[0].headers["traceparent"], parent.as_str());
    assert!(!seen[1].headers.contains_key("traceparent"));
    let text = client::admin(&sidecar, "/metrics").await.text();
    assert!(!text.contains("sideguard_telemetry"), "nothing of it runs");
}
