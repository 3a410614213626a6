//! What is measured of calls for a collector: the conventions' own metrics, with their recommended buckets, and Sideguard's.

use sideguard_runtime::otlp::meter::Instrument;

use crate::metrics::OVERHEAD;

/// Tokens of model calls, by kind.
pub(super) static TOKENS: Instrument = Instrument {
    name: "gen_ai.client.token.usage",
    unit: "{token}",
    about: "Number of input and output tokens used.",
    bounds: &[
        1.0,
        4.0,
        16.0,
        64.0,
        256.0,
        1_024.0,
        4_096.0,
        16_384.0,
        65_536.0,
        262_144.0,
        1_048_576.0,
        4_194_304.0,
        16_777_216.0,
        67_108_864.0,
    ],
};

/// How long model and tool calls took.
pub(super) static DURATION: Instrument = Instrument {
    name: "gen_ai.client.operation.duration",
    unit: "s",
    about: "GenAI operation duration.",
    bounds: &[0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92],
};

/// What was decided.
pub(super) static DECISIONS: Instrument = Instrument {
    name: "sideguard.decisions",
    unit: "{decision}",
    about: "Judgements by point and decision.",
    bounds: &[],
};

/// What calls cost.
pub(super) static COST: Instrument =
    Instrument { name: "sideguard.cost", unit: "USD", about: "Cost of model calls.", bounds: &[] };

/// Sideguard's own time.
pub(super) static OWN_TIME: Instrument = Instrument {
    name: "sideguard.overhead",
    unit: "s",
    about: "Time of calls that Sideguard itself took, not waiting for agent or upstream.",
    bounds: &OVERHEAD,
};
