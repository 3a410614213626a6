//! What the daemons share and nothing else: the one place that reads a clock, spawns tasks, takes signals, reads
//! the environment, and serves health and metrics. It knows nothing of calls or policy.

pub mod admin;
pub mod chance;
pub mod clock;
pub mod drain;
pub mod environment;
pub mod https;
pub mod id;
pub mod limits;
pub mod otlp;
pub mod ports;
pub mod secret;
pub mod signal;
pub mod tasks;
pub mod telemetry;
pub mod velocity;
