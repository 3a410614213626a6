//! Promises, end to end through the built binary.

mod bodies;
mod breakers;
mod budgets;
mod client;
mod connections;
mod disguises;
mod escapes;
mod faithful;
mod isolate;
mod layers;
mod lifecycle;
mod malformed;
mod mcp;
mod modes;
mod pod;
mod reach;
mod readme;
mod record;
mod run;
mod secrets;
mod seed;
mod side_doors;
mod streams;
mod tls;
mod transport;
mod upgrade;
