//! Budgets as pure sums.
