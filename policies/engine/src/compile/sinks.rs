//! What may stand in a sink.

use sideguard_types::resource::SinkSpec;

use super::Checks;
use crate::glob::Case;
use crate::source::Step;

/// Checks that it leads to one place that can be one.
pub(super) fn check(checks: &mut Checks<'_>, spec: &SinkSpec) {
    let SinkSpec { ndjson, otlp, webhook, syslog, filter, .. } = spec;
    let ways = [ndjson.is_some(), otlp.is_some(), webhook.is_some(), syslog.is_some()];
    if ways.iter().filter(|given| **given).count() != 1 {
        let message = "a sink leads to exactly one place".to_owned();
        let hint = "write one of `ndjson`, `otlp`, `webhook` and `syslog`".to_owned();
        checks.error_with("sink", &[], message, hint);
    }
    if let Some(otlp) = otlp {
        url(checks, &[Step::Key("otlp"), Step::Key("endpoint")], &otlp.endpoint);
    }
    if let Some(webhook) = webhook {
        url(checks, &[Step::Key("webhook"), Step::Key("url")], &webhook.url);
        if webhook.secret.file.is_some() == webhook.secret.env.is_some() {
            let message = "the secret stands in one place".to_owned();
            let hint = "write `secret: {file: …}` or `secret: {env: …}`".to_owned();
            checks.error_with("sink", &[Step::Key("webhook"), Step::Key("secret")], message, hint);
        }
    }
    if let Some(syslog) = syslog {
        let rest = ["tcp://", "udp://"].iter().find_map(|scheme| syslog.address.strip_prefix(scheme));
        let port = rest.and_then(|rest| rest.rsplit_once(':')).filter(|(host, _)| !host.is_empty());
        if port.is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
            let message = format!("`{}` is not the address of a syslog server", syslog.address);
            let hint = "write `tcp://HOST:PORT` or `udp://HOST:PORT`".to_owned();
            checks.error_with("url", &[Step::Key("syslog"), Step::Key("address")], message, hint);
        }
    }
    checks.globs(&[Step::Key("filter"), Step::Key("agents")], &filter.agents, Case::Exact);
}

fn url(checks: &mut Checks<'_>, path: &[Step<'_>], url: &str) {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let host = rest.and_then(|rest| rest.split(['/', '?']).next()).unwrap_or_default();
    let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '#' | '@');
    if host.is_empty() || url.chars().any(odd) {
        let message = format!("`{url}` is not an address that can be posted to");
        let hint =
            "write scheme, host and path, such as `https://siem.example.com/hook`, without user or fragment";
        checks.error_with("url", path, message, hint.to_owned());
    }
}
