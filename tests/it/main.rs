//! Promises, end to end through the built binary.

mod layers;
