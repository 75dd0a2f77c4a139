//! A schedule as it is written.

use std::time::Duration;

use serde::Serialize;

use crate::api::is_dns_label;
use crate::text::{Fields, Node, clip};

use super::calendar::WEEKDAYS;
use super::{
    Activity, Clock, Cron, DayOfMonth, Every, Schedule, Span, When, Zone, defaults, limits, read_span,
};

/// A schedule as it is written; lengths and times are text. [`Schedule`] is the same, checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScheduleForm {
    /// Unique among schedules; a DNS label.
    #[cfg_attr(feature = "kube", schemars(length(min = 1, max = 63)))]
    pub name: String,
    /// An interval from 1s to 30d, counted from 1970-01-01 00:00 UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every: Option<String>,
    /// Each day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub daily: Option<DailyForm>,
    /// One day of each week.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weekly: Option<WeeklyForm>,
    /// One day of each month.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub monthly: Option<MonthlyForm>,
    /// Minute, hour, day of month, month, day of week.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cron: Option<String>,
    /// IANA name of the zone in which times are read; UTC when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// Longest delay of a start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter: Option<String>,
    /// How late a missed run may start; 1h when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub catch_up: Option<String>,
    /// True stops it until somebody changes it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,
}

/// A time of each day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DailyForm {
    /// Time of day, as `02:30`.
    pub at: String,
}

/// A time of one day of each week.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct WeeklyForm {
    /// `monday` to `sunday`.
    pub day: String,
    /// Time of day, as `02:30`.
    pub at: String,
}

/// A time of one day of each month.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct MonthlyForm {
    /// 1 to 31; in a shorter month its last day.
    pub day: u32,
    /// Time of day, as `02:30`.
    pub at: String,
}

impl From<Schedule> for ScheduleForm {
    fn from(schedule: Schedule) -> Self {
        let span = |length: Duration| Span::new(length).to_string();
        let mut form = Self {
            name: schedule.name,
            every: None,
            daily: None,
            weekly: None,
            monthly: None,
            cron: None,
            time_zone: Some(schedule.time_zone.name().to_owned()).filter(|name| name != "UTC"),
            jitter: Some(schedule.jitter).filter(|jitter| !jitter.is_zero()).map(span),
            catch_up: Some(schedule.catch_up).filter(|window| *window != defaults::CATCH_UP).map(span),
            suspend: schedule.activity == Activity::Suspended,
        };
        match schedule.when {
            When::Every(every) => form.every = Some(span(every.get())),
            When::Daily(at) => form.daily = Some(DailyForm { at: at.to_string() }),
            When::Weekly(day, at) => {
                form.weekly = Some(WeeklyForm { day: day.to_string(), at: at.to_string() });
            }
            When::Monthly(day, at) => {
                form.monthly = Some(MonthlyForm { day: day.get(), at: at.to_string() });
            }
            When::Cron(cron) => form.cron = Some(cron.text().to_owned()),
        }
        form
    }
}

const KINDS: [&str; 5] = ["every", "daily", "weekly", "monthly", "cron"];

/// What a schedule is written with.
const FIELDS: &[&str] =
    &["name", "every", "daily", "weekly", "monthly", "cron", "timeZone", "jitter", "catchUp", "suspend"];

/// Reads a schedule at its place in a text.
pub(crate) fn read(node: &Node<'_>) -> Option<Schedule> {
    read_from(&node.fields("a schedule", FIELDS)?)
}

/// Reads a schedule out of a mapping that has more than that.
pub(crate) fn read_from(fields: &Fields<'_>) -> Option<Schedule> {
    let name = fields.required("name").and_then(|name| {
        name.name(
            is_dns_label,
            "a name has 1 to 63 lower-case letters, digits and dashes, no dash at its ends",
        )
    });
    let given: Vec<&str> = KINDS.into_iter().filter(|kind| fields.get(kind).is_some()).collect();
    let when = match given.as_slice() {
        [kind] => fields.required(kind).and_then(|node| read_when(kind, &node)),
        [] => {
            fields.node().fail(
                "nothing says when runs are due",
                "a schedule has exactly one of `every`, `daily`, `weekly`, `monthly` and `cron`",
                "add for example `every: 15m`",
            );
            None
        }
        several => {
            fields.node().fail(
                format!("`{}` together", several.join("` and `")),
                "a schedule has exactly one of `every`, `daily`, `weekly`, `monthly` and `cron`",
                "keep one, and write the others as schedules of their own",
            );
            None
        }
    };
    let zone = fields.optional("timeZone", read_zone);
    let jitter = fields.optional("jitter", |node| {
        let longest = match &when {
            Some(When::Every(every)) => every.get().min(limits::JITTER),
            Some(When::Daily(_) | When::Weekly(..) | When::Monthly(..) | When::Cron(_)) | None => {
                limits::JITTER
            }
        };
        read_span(node, Duration::from_secs(1), longest)
    });
    let catch_up =
        fields.optional("catchUp", |node| read_span(node, limits::SHORTEST_CATCH_UP, limits::CATCH_UP));
    let suspend = fields.optional("suspend", Node::truth);
    Some(Schedule {
        name: name?,
        when: when?,
        time_zone: zone?.unwrap_or_default(),
        jitter: jitter?.unwrap_or_default(),
        catch_up: catch_up?.unwrap_or(defaults::CATCH_UP),
        activity: match suspend? {
            Some(true) => Activity::Suspended,
            Some(false) | None => Activity::Active,
        },
    })
}

fn read_when(kind: &str, node: &Node<'_>) -> Option<When> {
    match kind {
        "every" => read_span(node, limits::SHORTEST_EVERY, limits::LONGEST_EVERY)
            .and_then(Every::new)
            .map(When::Every),
        "daily" => {
            let fields = node.fields("a daily schedule", &["at"])?;
            Some(When::Daily(fields.required("at").and_then(|at| read_clock(&at))?))
        }
        "weekly" => {
            let fields = node.fields("a weekly schedule", &["day", "at"])?;
            let day = fields.required("day").and_then(|day| day.choice(&WEEKDAYS));
            let at = fields.required("at").and_then(|at| read_clock(&at));
            Some(When::Weekly(day?, at?))
        }
        "monthly" => {
            let fields = node.fields("a monthly schedule", &["day", "at"])?;
            let day = fields.required("day").and_then(|day| day.number(1, 31)).and_then(DayOfMonth::new);
            let at = fields.required("at").and_then(|at| read_clock(&at));
            Some(When::Monthly(day?, at?))
        }
        _ => read_cron(node),
    }
}

fn read_clock(node: &Node<'_>) -> Option<Clock> {
    if let Some(minutes) = node.value().as_u64() {
        // YAML 1.1 readers take 02:30 without quotes for a number to the base 60.
        node.fail(
            format!("the number {minutes}"),
            "a time of day is text, some readers take it for a number",
            "put it in quotes: \"02:30\"",
        );
        return None;
    }
    let text = node.text()?;
    let clock = Clock::parse(&text);
    if clock.is_none() {
        node.fail(
            format!("`{}` is not a time of day", clip(&text)),
            "it is hours and minutes from 00:00 to 23:59",
            "write for example \"02:30\"",
        );
    }
    clock
}

fn read_zone(node: &Node<'_>) -> Option<Zone> {
    let text = node.text()?;
    let zone = Zone::named(&text);
    if zone.is_none() {
        node.fail(
            format!("the time zone `{}` is unknown", clip(&text)),
            "abbreviations and offsets do not say when clocks change",
            "write an IANA name, as `Europe/Berlin` or `UTC`",
        );
    }
    zone
}

fn read_cron(node: &Node<'_>) -> Option<When> {
    let text = node.text()?;
    match Cron::parse(&text) {
        Ok(cron) => Some(When::Cron(cron)),
        Err(why) => {
            node.fail(
                format!("`{}` is not a cron pattern", clip(&text)),
                clip(&why),
                "write five fields: minute, hour, day of month, month, day of week, as \"30 2 * * *\"",
            );
            None
        }
    }
}
