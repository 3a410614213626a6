//! The account of a link: what may be used under it, what is held, what was used.

use sideguard_types::delegation::Allowance;
use sideguard_types::units::MicroUsd;

/// An amount in every unit.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Want {
    /// Tokens.
    pub tokens: u64,
    /// Money.
    pub usd: MicroUsd,
    /// Calls.
    pub calls: u64,
}

impl Want {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            tokens: self.tokens.saturating_add(other.tokens),
            usd: self.usd.plus(other.usd),
            calls: self.calls.saturating_add(other.calls),
        }
    }

    fn minus(self, other: Self) -> Self {
        Self {
            tokens: self.tokens.saturating_sub(other.tokens),
            usd: MicroUsd(self.usd.0.saturating_sub(other.usd.0)),
            calls: self.calls.saturating_sub(other.calls),
        }
    }
}

/// The account of one link. What is held counts as used, so that held and used never exceed the limit as long as no call
/// uses more than it took.
#[derive(Debug, Clone, Default)]
pub struct Purse {
    limit: Allowance,
    held: Want,
    used: Want,
    closed: bool,
}

/// What was taken out of a purse. One that is lost stays taken: it is charged in full.
#[must_use = "what was taken stays taken until it is settled"]
#[derive(Debug)]
pub struct Taken(Want);

impl Purse {
    /// An account of so much.
    #[must_use]
    pub fn new(limit: Allowance) -> Self {
        Self { limit, ..Self::default() }
    }

    /// What is left in each unit that is limited; nothing once it is closed.
    #[must_use]
    pub fn left(&self) -> Allowance {
        let Want { tokens, usd, calls } = self.held.plus(self.used);
        let closed = self.closed;
        let left = |limit: u64, gone: u64| if closed { 0 } else { limit.saturating_sub(gone) };
        Allowance {
            tokens: self.limit.tokens.map(|limit| left(limit, tokens)),
            usd: self.limit.usd.map(|limit| MicroUsd(left(limit.0, usd.0))),
            calls: self.limit.calls.map(|limit| left(limit, calls)),
        }
    }

    /// Takes an amount out, where all of it fits.
    ///
    /// # Errors
    /// The unit that does not fit.
    pub fn take(&mut self, want: Want) -> Result<Taken, &'static str> {
        if self.closed {
            return Err("budget");
        }
        let left = self.left();
        if left.tokens.is_some_and(|left| want.tokens > left) {
            return Err("tokens");
        }
        if left.usd.is_some_and(|left| want.usd > left) {
            return Err("usd");
        }
        if left.calls.is_some_and(|left| want.calls > left) {
            return Err("calls");
        }
        self.held = self.held.plus(want);
        Ok(Taken(want))
    }

    /// Charges what was used of what was taken, and puts the rest back.
    pub fn settle(&mut self, Taken(taken): Taken, used: Want) {
        self.held = self.held.minus(taken);
        self.used = self.used.plus(used);
    }

    /// Ends the account and tells what was used; what is still held counts as used.
    pub fn close(&mut self) -> Want {
        self.closed = true;
        self.held.plus(self.used)
    }

    /// A share of what is left for work that is handed on: all that `wish` asks for where that is less than half, otherwise
    /// half, so that something stays. Only units that are limited here or in the wish are limited.
    #[must_use]
    pub fn share(&self, wish: Allowance) -> Allowance {
        let half = |left: u64| left.div_ceil(2);
        let left = self.left();
        let left = Allowance {
            tokens: left.tokens.map(half),
            usd: left.usd.map(|usd| MicroUsd(half(usd.0))),
            calls: left.calls.map(half),
        };
        super::within(wish, left)
    }
}

/// An allowance as an amount: what is not limited counts as nothing.
impl From<Allowance> for Want {
    fn from(Allowance { tokens, usd, calls }: Allowance) -> Self {
        Self { tokens: tokens.unwrap_or(0), usd: usd.unwrap_or_default(), calls: calls.unwrap_or(0) }
    }
}
