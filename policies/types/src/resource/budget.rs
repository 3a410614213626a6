//! Kind `Budget`.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use crate::time::Span;

/// Limits on what the calls in a scope may use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BudgetSpec {
    /// Which calls it is about; empty is all.
    #[serde(default)]
    pub scope: BudgetScope,
    /// The limits; each must hold.
    pub limits: Vec<Limit>,
    /// Shares of a limit at which control raises an alert when they are spent, such as `[0.5, 0.8]`; 0.8 and 1.0 when
    /// absent, none when empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alerts: Option<Vec<f64>>,
}

/// Which calls a budget is about: given keys AND together. Globs as in policies.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BudgetScope {
    /// Tenants.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tenants: Vec<String>,
    /// Agents.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub agents: Vec<String>,
    /// Labels that the agent must have, values as globs.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Models.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
    /// Sessions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sessions: Vec<String>,
}

/// One limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// What is counted.
    pub unit: Unit,
    /// How much of it: a whole number, or dollars as a decimal for `usd`.
    #[serde(deserialize_with = "amount", serialize_with = "show_amount")]
    #[schemars(extend("type" = ["number", "string"]))]
    pub amount: String,
    /// In what time; absent is for ever. Not for `concurrency`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// One account for each of these; absent is one account for the whole scope.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per: Option<Per>,
}

/// What a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Input and output tokens.
    Tokens,
    /// Input tokens.
    InputTokens,
    /// Output tokens.
    OutputTokens,
    /// US dollars.
    Usd,
    /// Calls that were let through.
    Calls,
    /// Calls under way at once.
    Concurrency,
}

impl Unit {
    /// The name used in budgets, records and replies.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tokens => "tokens",
            Self::InputTokens => "input_tokens",
            Self::OutputTokens => "output_tokens",
            Self::Usd => "usd",
            Self::Calls => "calls",
            Self::Concurrency => "concurrency",
        }
    }
}

/// What has an account of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// Each tenant.
    Tenant,
    /// Each agent.
    Agent,
    /// Each session of each agent.
    Session,
    /// Each model.
    Model,
}

/// Time in which a limit counts: rolling (`1m` to `30d`), or a calendar day or month in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Window {
    /// The last so many minutes, hours or days.
    Rolling(Span),
    /// From midnight UTC.
    Day,
    /// From midnight UTC of the first of the month.
    Month,
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rolling(span) => span.fmt(f),
            Self::Day => f.write_str("day"),
            Self::Month => f.write_str("month"),
        }
    }
}

impl JsonSchema for Window {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Window".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "`day`, `month` (both in UTC), or a span from `1m` to `30d`."
        })
    }
}

impl Serialize for Window {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Window {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const SHORTEST: std::time::Duration = std::time::Duration::from_secs(60);
        const LONGEST: std::time::Duration = std::time::Duration::from_secs(30 * 86_400);
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "day" => Ok(Self::Day),
            "month" => Ok(Self::Month),
            _ => {
                let span = Span::parse(&text).map_err(|_| {
                    D::Error::custom(format!(
                        "`{text}` is not a window: write `day`, `month`, or a span from `1m` to `30d`"
                    ))
                })?;
                if span.0 < SHORTEST || span.0 > LONGEST {
                    return Err(D::Error::custom(format!("window `{text}` is not between `1m` and `30d`")));
                }
                Ok(Self::Rolling(span))
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Amount {
    Whole(u64),
    Decimal(f64),
    Text(String),
}

fn amount<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    match Amount::deserialize(deserializer) {
        Ok(Amount::Whole(n)) => Ok(n.to_string()),
        Ok(Amount::Decimal(n)) if n >= 0.0 && n.is_finite() => Ok(n.to_string()),
        Ok(Amount::Text(text)) => Ok(text),
        Ok(Amount::Decimal(_)) | Err(_) => {
            Err(D::Error::custom("`amount` must be a number that is not negative"))
        }
    }
}

fn show_amount<S: Serializer>(amount: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(amount)
}
