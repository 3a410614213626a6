//! What may stand in a pool of workers.

use std::time::Duration;

use sideguard_types::resource::WorkerPoolSpec;

use super::Checks;
use crate::glob::Case;
use crate::source::Step;

/// The shortest time after which a worker may count as lost.
const SOONEST: Duration = Duration::from_secs(5);

/// Checks that jobs can find it and that its times make sense.
pub(super) fn check(checks: &mut Checks<'_>, spec: &WorkerPoolSpec) {
    checks.globs(&[Step::Key("topics")], &spec.topics, Case::Exact);
    checks.globs(&[Step::Key("agents")], &spec.agents, Case::Exact);
    if spec.topics.is_empty() {
        let hint = "write the topics of its jobs, such as `job.crm.*`".to_owned();
        checks.error_with("pool", &[Step::Key("topics")], "the pool does no jobs at all".to_owned(), hint);
    }
    if spec.max_attempts == 0 || spec.max_parallel == Some(0) {
        let key = if spec.max_attempts == 0 { "maxAttempts" } else { "maxParallel" };
        checks.error("pool", &[Step::Key(key)], format!("`{key}` is 1 at least"));
    }
    let beat = spec.heartbeat;
    if beat.dead.0 < SOONEST || beat.stale.0 >= beat.dead.0 {
        let message = "a worker is stale before it is dead, and dead after 5s at the earliest".to_owned();
        checks.error("pool", &[Step::Key("heartbeat")], message);
    }
    if spec.backoff.base.0 > spec.backoff.max.0 {
        let message = "the first pause is longer than the longest one".to_owned();
        checks.error("pool", &[Step::Key("backoff")], message);
    }
}
