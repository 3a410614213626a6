//! What OpenTelemetry and Prometheus are told: every call once, under the agent's own trace, with the right numbers; and
//! never at the calls' expense.

mod collector;

use std::time::Duration;

use harness::fake;
use harness::sidecar::ALLOW;
use harness::{Fake, Service, Sidecar, client, model, setting};
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::io::AsyncWriteExt;

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

/// A metric's value, 0 where it is not there yet.
async fn metric(sidecar: &Sidecar, name: &str) -> f64 {
    let text = client::admin(sidecar, "/metrics").await.text();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.map_or(0.0, |value| value.trim().parse().expect("a number"))
}

/// Waits until the sum of metrics is this or more.
async fn reaches(sidecar: &Sidecar, names: &[&str], least: f64) {
    for _ in 0..1_000 {
        let mut sum = 0.0;
        for name in names {
            sum += metric(sidecar, name).await;
        }
        if sum >= least {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{names:?} do not reach {least}");
}

/// Names of the metrics that a text for Prometheus holds; not what telemetry tells of itself, which comes when it has sent
/// something.
fn families(text: &str) -> String {
    let named = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let named = named.filter(|line| !line.starts_with("sideguard_telemetry_"));
    named.map(|line| format!("{line}\n")).collect()
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

#[tokio::test(flavor = "multi_thread")]
async fn tokens_and_durations_are_measured_in_the_recommended_buckets() {
    let fake = Fake::start(None, |seen| {
        if String::from_utf8_lossy(&seen.body).contains("\"stream\":true") {
            let events = [model::text("fine"), model::finish("stop"), model::usage(11, 3)];
            return model::stream(events.concat() + model::DONE);
        }
        model::json(model::completion("fine", 7, 5))
    })
    .await;
    let collector = Collector::start().await;
    let sidecar = told(&fake, &collector, &[]);
    assert_eq!(ask(&sidecar, "", None).await.status, 200);
    assert_eq!(ask(&sidecar, r#","stream":true"#, None).await.status, 200);
    assert_eq!(client::gateway(&sidecar, "DELETE", "/web/x", &[], "").await.status, 403);
    let told = |name: &str, label: (&str, &str)| {
        let points = collector.histogram(name);
        points
            .into_iter()
            .find(|point| attributes(&point.attributes).get(label.0).map(String::as_str) == Some(label.1))
    };
    const TOKENS: &str = "gen_ai.client.token.usage";
    let whole = || told(TOKENS, ("gen_ai.token.type", "output")).is_some_and(|point| point.count == 2);
    harness::until("both calls are measured", whole).await;
    let input = told(TOKENS, ("gen_ai.token.type", "input")).expect("a series");
    let output = told(TOKENS, ("gen_ai.token.type", "output")).expect("a series");
    assert_eq!((input.sum, output.sum), (Some(18.0), Some(8.0)));
    assert_eq!(input.explicit_bounds.len(), 14);
    assert_eq!(input.bucket_counts[..4], [0, 0, 2, 0], "7 and 11 lie between 4 and 16");
    let took = told("gen_ai.client.operation.duration", ("gen_ai.operation.name", "chat")).expect("a series");
    assert_eq!((took.count, took.explicit_bounds[0]), (2, 0.01));
    let labels = attributes(&took.attributes);
    assert_eq!(
        (labels["gen_ai.provider.name"].as_str(), labels["gen_ai.request.model"].as_str()),
        ("openai", "gpt-4o-mini")
    );
    harness::until("the denied one too", || collector.sum("sideguard.decisions") >= 3.0).await;
    let mut names: Vec<String> = collector.metrics().into_iter().map(|metric| metric.name).collect();
    names.sort();
    assert_eq!(
        names,
        [
            "gen_ai.client.operation.duration",
            "gen_ai.client.token.usage",
            "sideguard.cost",
            "sideguard.decisions",
            "sideguard.overhead"
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_down_costs_no_call_and_what_is_lost_is_counted() {
    let fake = Fake::json("{}").await;
    let collector = Collector::start().await;
    collector.answers(503);
    let sidecar = told(&fake, &collector, &["OTEL_BSP_MAX_QUEUE_SIZE=8", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE=4"]);
    for number in 0..60 {
        assert_eq!(client::gateway(&sidecar, "GET", &format!("/web/{number}"), &[], "").await.status, 200);
    }
    const DROPPED: &str = "sideguard_telemetry_dropped_total{signal=\"traces\",reason=\"queue_full\"}";
    const EXPORTED: &str = "sideguard_telemetry_exported_total{signal=\"traces\"}";
    // At most eight wait in the queue, and four in the batch that is tried again and again. The last span ends after its reply.
    reaches(&sidecar, &[DROPPED], 48.0).await;
    assert!(metric(&sidecar, "sideguard_telemetry_failures_total{signal=\"traces\"}").await >= 1.0);
    collector.answers(200);
    // What waited arrives when the collector is back: no span is neither exported nor counted.
    reaches(&sidecar, &[EXPORTED, DROPPED], 60.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_sent_yet_is_sent_before_the_end() {
    let fake = Fake::json("{}").await;
    let collector = Collector::start().await;
    let mut sidecar = told(&fake, &collector, &["OTEL_BSP_SCHEDULE_DELAY=60000"]);
    assert_eq!(client::gateway(&sidecar, "GET", "/web/x", &[], "").await.status, 200);
    assert!(collector.spans().is_empty());
    let status = tokio::task::block_in_place(|| sidecar.terminate());
    assert_eq!((status.code(), collector.spans().len()), (Some(0), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sampler_that_takes_nothing_still_hands_the_trace_on() {
    let fake = Fake::json("{}").await;
    let collector = Collector::start().await;
    let sidecar = told(&fake, &collector, &["OTEL_TRACES_SAMPLER=always_off"]);
    let parent = format!("00-{TRACE}-{AGENT}-01");
    let headers = [("traceparent", parent.as_str()), ("tracestate", "a=1")];
    assert_eq!(client::gateway(&sidecar, "GET", "/web/x", &headers, "").await.status, 200);
    let sent = fake.seen().pop().expect("a request");
    let sent_on = sent.headers["traceparent"].to_str().expect("a text");
    assert!(sent_on.starts_with(&format!("00-{TRACE}-")) && sent_on.ends_with("-00"), "{sent_on}");
    assert_eq!(sent.headers["tracestate"], "a=1");
    harness::until("it is measured", || collector.sum("sideguard.decisions") >= 1.0).await;
    assert!(collector.spans().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_names_of_a_sidecars_metrics_stay() {
    let fake = Fake::start(None, |_| model::json(model::completion("fine", 7, 5))).await;
    let collector = Collector::start().await;
    let sidecar = told(&fake, &collector, &[]);
    assert_eq!(ask(&sidecar, "", None).await.status, 200);
    assert_eq!(client::gateway(&sidecar, "DELETE", "/web/x", &[], "").await.status, 403);
    insta::assert_snapshot!(families(&client::admin(&sidecar, "/metrics").await.text()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_sideguard_itself_takes_leaves_out_what_it_waits_for() {
    // The upstream thinks for half a second, and so does the agent over its body.
    let (send, mut asked) = tokio::sync::mpsc::channel(1);
    let fake = Fake::start(None, move |_| {
        let (parts, body) = fake::parts();
        send.try_send(parts).expect("room");
        fake::reply("text/plain", body)
    })
    .await;
    let sidecar = Sidecar::start(&setting::upstreams(&fake), &[("allow.yaml", ALLOW)]);
    let head = format!("POST /web/x HTTP/1.1\r\nhost: {}\r\ncontent-length: 4\r\n\r\nab", sidecar.outbound());
    let mut tcp = tokio::net::TcpStream::connect(sidecar.outbound()).await.expect("the port");
    tcp.write_all(head.as_bytes()).await.expect("a head");
    tokio::time::sleep(Duration::from_millis(400)).await;
    tcp.write_all(b"cd").await.expect("the rest");
    let parts = asked.recv().await.expect("a request");
    tokio::time::sleep(Duration::from_millis(400)).await;
    parts.send("done".into()).await.expect("a listener");
    drop(parts);
    sidecar.recorded(|entry| entry["phase"] == "outcome").await;
    let took = metric(&sidecar, "sideguard_call_duration_seconds_sum").await;
    let own = metric(&sidecar, "sideguard_overhead_seconds_sum").await;
    assert!(took >= 0.8, "{took}");
    assert!(own > 0.0 && own < 0.3, "{own} of {took}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_names_of_controls_metrics_stay_and_its_requests_are_counted() {
    let collector = Collector::start().await;
    let service = Service::under(&collector.wrapper(&[]), "");
    service.apply(ALLOW).await;
    let _sidecar = service.sidecar("reader", "").await;
    service.all_stand(1, "current").await;
    let address = service.url().trim_start_matches("http://").to_owned();
    let ask = format!("GET /metrics HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    let text = client::raw(address.parse().expect("an address"), ask.as_bytes()).await.expect("an answer");
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    for line in [
        "sideguard_control_sidecars{standing=\"current\"} 1",
        "sideguard_control_generation 1",
        "sideguard_control_requests_total{method=\"POST\",route=\"/v1/apply\",status=\"200\"} 1",
        "sideguard_control_feed_waiters ",
        "sideguard_control_store_operations_total{part=\"documents\",operation=\"put\",result=\"done\"} ",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    insta::assert_snapshot!(families(&text));
    harness::until("requests are traced", || !named(&collector.spans(), "POST /v1/apply").is_empty()).await;
    let spans = collector.spans();
    let apply = named(&spans, "POST /v1/apply")[0];
    assert_eq!((apply.kind, attributes(&apply.attributes)["http.route"].as_str()), (2, "/v1/apply"));
    assert_eq!(collector.resource()["service.name"], "sideguard-control");
}
