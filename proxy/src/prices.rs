//! What tokens cost: the shipped table, with the user's own entries before it.

use std::collections::HashMap;

use ahash::RandomState;
use serde::Deserialize;
use sideguard_types::resource::PriceSpec;
use sideguard_types::units::{MicroUsd, Tokens};
use sideguard_types::usage::Usage;

/// The shipped table; its source, version and date stand in it.
const SHIPPED: &str = include_str!("../prices.json");
/// Price of a model that neither table knows, in dollars for a million tokens: that of the dearest common ones.
const UNKNOWN: (f64, f64) = (15.0, 75.0);
/// Pico-dollars in a micro-dollar.
const PICO: u128 = 1_000_000;

/// Prices of one model in pico-dollars a token, and its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) struct Price {
    #[serde(rename = "in")]
    input: u64,
    #[serde(rename = "out", default)]
    output: u64,
    #[serde(default)]
    cached: Option<u64>,
    #[serde(default)]
    cache_write: Option<u64>,
    /// Prices of a call whose input is longer than some number of tokens.
    #[serde(default)]
    long: Option<Long>,
    /// Most input tokens that the model takes.
    #[serde(default)]
    pub(crate) max_in: Option<u64>,
    /// Most output tokens that it gives.
    #[serde(default)]
    pub(crate) max_out: Option<u64>,
}

/// The price step for long inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
struct Long {
    above: u64,
    #[serde(rename = "in", default)]
    input: Option<u64>,
    #[serde(rename = "out", default)]
    output: Option<u64>,
    #[serde(default)]
    cached: Option<u64>,
    #[serde(default)]
    cache_write: Option<u64>,
}

#[derive(Deserialize)]
struct Shipped {
    date: String,
    models: HashMap<String, Price, RandomState>,
}

/// All prices.
#[derive(Debug)]
pub(crate) struct Prices {
    own: Vec<(String, Price)>,
    shipped: HashMap<String, Price, RandomState>,
    unknown: Price,
    /// Date of the shipped table.
    pub(crate) date: String,
}

impl Prices {
    /// The shipped table and the user's entries, of which the first that fits goes.
    ///
    /// # Errors
    /// The entry whose price is not a number that can be used.
    pub(crate) fn new(own: &[PriceSpec]) -> Result<Self, String> {
        let shipped: Shipped =
            serde_json::from_str(SHIPPED).map_err(|error| format!("shipped price table: {error}"))?;
        let mut unknown = of(UNKNOWN.0, UNKNOWN.1, None, None).ok_or("shipped price of unknown models")?;
        let mut entries = Vec::new();
        for spec in own {
            let price =
                of(spec.input, spec.output, spec.cached_input, spec.cache_write).ok_or_else(|| {
                    format!("prices: `{}`: prices are dollars for a million tokens, above zero", spec.model)
                })?;
            if spec.model == "*" {
                unknown = price;
            } else {
                entries.push((spec.model.clone(), price));
            }
        }
        Ok(Self { own: entries, shipped: shipped.models, unknown, date: shipped.date })
    }

    /// Price of a model: the user's entry, the shipped one, the shipped one of the same model without its date, or
    /// that of unknown models. Never zero.
    pub(crate) fn of(&self, model: &str) -> Price {
        if let Some((_, price)) = self.own.iter().find(|(glob, _)| fits(glob, model)) {
            return *price;
        }
        let bare = model.rsplit_once('/').map_or(model, |(_, bare)| bare);
        let shipped = self.shipped.get(model).or_else(|| self.shipped.get(bare));
        shipped.or_else(|| self.shipped.get(undated(bare))).copied().unwrap_or(self.unknown)
    }
}

impl Price {
    /// The price that applies to an input of this length.
    fn at(&self, input: Tokens) -> Self {
        let Some(long) = self.long.filter(|long| input.0 > long.above) else { return *self };
        Self {
            input: long.input.unwrap_or(self.input),
            output: long.output.unwrap_or(self.output),
            cached: long.cached.or(self.cached),
            cache_write: long.cache_write.or(self.cache_write),
            ..*self
        }
    }

    /// Cost of so many tokens at the dearest rate that could apply to them, rounded up.
    pub(crate) fn bound(&self, input: Tokens, output: Tokens) -> MicroUsd {
        let price = self.at(input);
        sum(&[(input, price.input.max(price.cache_write.unwrap_or(0))), (output, price.output)])
    }

    /// Most output tokens that `money` buys after `input` is paid for.
    pub(crate) fn affordable(&self, money: MicroUsd, input: Tokens) -> Tokens {
        let left = money.0.saturating_sub(self.bound(input, Tokens::ZERO).0);
        let output = u128::from(self.at(input).output.max(1));
        Tokens(u64::try_from(u128::from(left) * PICO / output).unwrap_or(u64::MAX))
    }

    /// Cost of what was used, rounded up.
    pub(crate) fn cost(&self, usage: &Usage) -> MicroUsd {
        let input = usage.input.unwrap_or_default().0;
        let price = self.at(Tokens(input));
        let cached = usage.cached.unwrap_or_default().0.min(input);
        let written = usage.cache_write.unwrap_or_default().0.min(input - cached);
        sum(&[
            (Tokens(input - cached - written), price.input),
            (Tokens(cached), price.cached.unwrap_or(price.input)),
            (Tokens(written), price.cache_write.unwrap_or(price.input)),
            (usage.output.unwrap_or_default(), price.output),
        ])
    }
}

fn sum(parts: &[(Tokens, u64)]) -> MicroUsd {
    let pico: u128 = parts.iter().map(|(tokens, price)| u128::from(tokens.0) * u128::from(*price)).sum();
    MicroUsd(u64::try_from(pico.div_ceil(PICO)).unwrap_or(u64::MAX))
}

/// Dollars for a million tokens to pico-dollars a token.
fn of(input: f64, output: f64, cached: Option<f64>, cache_write: Option<f64>) -> Option<Price> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to lie in range before"
    )]
    let pico = |dollars: f64| {
        (dollars.is_finite() && (0.0..1e6).contains(&dollars)).then(|| (dollars * 1e6).ceil() as u64)
    };
    let (input, output) = (pico(input)?, pico(output)?);
    if input == 0 && output == 0 {
        return None;
    }
    let cached = cached.map(pico).map_or(Some(None), |price| price.map(Some))?;
    let cache_write = cache_write.map(pico).map_or(Some(None), |price| price.map(Some))?;
    Some(Price { input, output, cached, cache_write, long: None, max_in: None, max_out: None })
}

/// A model's name without the date at its end (`-2024-08-06`, `-20250219`).
fn undated(model: &str) -> &str {
    let digits = |text: &str, count| text.len() == count && text.bytes().all(|b| b.is_ascii_digit());
    let Some((head, last)) = model.rsplit_once('-') else { return model };
    if digits(last, 8) {
        return head;
    }
    let mut parts = model.rsplitn(4, '-');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(day), Some(month), Some(year), Some(head))
            if digits(day, 2) && digits(month, 2) && digits(year, 4) =>
        {
            head
        }
        _ => model,
    }
}

/// Whether a glob with `*` fits a name.
fn fits(glob: &str, name: &str) -> bool {
    match glob.split_once('*') {
        None => glob == name,
        Some((head, rest)) => name.strip_prefix(head).is_some_and(|mut tail| {
            loop {
                if fits(rest, tail) {
                    return true;
                }
                let mut chars = tail.chars();
                if chars.next().is_none() {
                    return false;
                }
                tail = chars.as_str();
            }
        }),
    }
}

#[cfg(test)]
mod tests {
    use sideguard_types::resource::PriceSpec;
    use sideguard_types::units::{MicroUsd, Tokens};
    use sideguard_types::usage::Usage;

    use super::{Prices, fits, undated};

    fn spec(model: &str, input: f64, output: f64) -> PriceSpec {
        PriceSpec { model: model.to_owned(), input, output, cached_input: None, cache_write: None }
    }

    #[test]
    fn an_unknown_model_is_never_free() {
        let prices = Prices::new(&[]).expect("the shipped table");
        assert!(prices.of("no-such-model").bound(Tokens(1), Tokens(1)) > MicroUsd::ZERO);
        assert!(Prices::new(&[spec("*", 0.0, 0.0)]).is_err());
        assert!(Prices::new(&[spec("m", f64::NAN, 1.0)]).is_err());
    }

    #[test]
    fn own_prices_go_before_shipped_ones() {
        let prices = Prices::new(&[spec("gpt-4o*", 1.0, 2.0)]).expect("valid prices");
        let used =
            Usage { input: Some(Tokens(1_000_000)), output: Some(Tokens(1_000_000)), ..Usage::default() };
        assert_eq!(prices.of("gpt-4o-mini").cost(&used), MicroUsd(3_000_000));
    }

    #[test]
    fn cached_input_is_part_of_the_input() {
        let mut own = spec("m", 10.0, 0.0);
        own.cached_input = Some(1.0);
        let prices = Prices::new(&[own]).expect("valid prices");
        let used = Usage { input: Some(Tokens(1_000)), cached: Some(Tokens(400)), ..Usage::default() };
        assert_eq!(prices.of("m").cost(&used), MicroUsd(6_400));
    }

    #[test]
    fn what_money_buys_costs_no_more_than_it() {
        let prices = Prices::new(&[spec("m", 3.0, 15.0)]).expect("valid prices");
        let price = prices.of("m");
        for money in [0, 1, 999, 1_000_000] {
            let input = Tokens(10);
            let output = price.affordable(MicroUsd(money), input);
            assert!(output == Tokens::ZERO || price.bound(input, output) <= MicroUsd(money));
        }
    }

    #[test]
    fn dates_and_globs() {
        assert_eq!(undated("gpt-4o-2024-08-06"), "gpt-4o");
        assert_eq!(undated("claude-3-7-sonnet-20250219"), "claude-3-7-sonnet");
        assert_eq!(undated("gpt-4o"), "gpt-4o");
        assert!(fits("gpt-*-mini", "gpt-4o-mini") && !fits("gpt-*-mini", "gpt-4o") && fits("*", ""));
    }
}
