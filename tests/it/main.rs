//! Promises, end to end through the built binary.

mod layers;
mod breakers;
mod budgets;
mod seed;
mod mcp;
mod modes;
mod transport;
mod connections;
mod bodies;
mod tls;
mod side_doors;
mod faithful;
mod malformed;
mod upgrade;
mod lifecycle;
mod streams;
mod record;
mod run;
mod secrets;
