//! A policy as it is written.

use serde::Serialize;

use crate::schedule::{Span, read_span};
use crate::text::Node;

use super::{Period, Retention, limits};

/// A policy as it is written. [`Retention`] is the same, checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RetentionForm {
    /// The newest good cuts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<u32>,
    /// The newest good cut of each of so many hours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hourly: Option<u32>,
    /// The same of days.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub daily: Option<u32>,
    /// The same of weeks, Monday to Sunday.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weekly: Option<u32>,
    /// The same of months.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub monthly: Option<u32>,
    /// The same of years.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub yearly: Option<u32>,
    /// Nothing older is kept, except the last good one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<String>,
    /// The newest failed cuts; 3 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<u32>,
}

impl From<Retention> for RetentionForm {
    fn from(policy: Retention) -> Self {
        let [hourly, daily, weekly, monthly, yearly] = policy.periods;
        Self {
            last: policy.last,
            hourly,
            daily,
            weekly,
            monthly,
            yearly,
            max_age: policy.max_age.map(|age| Span::new(age).to_string()),
            failed: policy.failed,
        }
    }
}

/// Reads a policy at its place in a text.
pub(crate) fn read(node: &Node<'_>) -> Option<Retention> {
    let fields = node.fields(
        "a retention policy",
        &["last", "hourly", "daily", "weekly", "monthly", "yearly", "maxAge", "failed"],
    )?;
    // 0 is refused: absent says the same and cannot be read as "keep none".
    let count = |key| fields.optional(key, |node| node.number(1, limits::COUNT));
    let last = count("last");
    let periods = Period::ALL.map(|period| count(period.word()));
    let max_age =
        fields.optional("maxAge", |node| read_span(node, limits::SHORTEST_AGE, limits::LONGEST_AGE));
    let failed = fields.optional("failed", |node| node.number(0, limits::FAILED));
    let [hourly, daily, weekly, monthly, yearly] = periods;
    Some(Retention {
        last: last?,
        periods: [hourly?, daily?, weekly?, monthly?, yearly?],
        max_age: max_age?,
        failed: failed?,
    })
}
