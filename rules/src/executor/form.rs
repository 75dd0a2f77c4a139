//! Jobs as they are written, in the list `schedules:` of a configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::retain;
use crate::schedule::{self, read_span};
use crate::select::parse_selector;
use crate::text::{self, Fields, Node, TextError};

use super::{Job, What, defaults, limits};

/// A configuration that has schedules in it.
const CONFIG_BYTES: usize = 1024 * 1024;
/// Words that follow `stillpoint schedules` themselves.
const RESERVED: [&str; 5] = ["run", "plan", "suspend", "resume", "help"];
const FIELDS: &[&str] = &[
    "name",
    "every",
    "daily",
    "weekly",
    "monthly",
    "cron",
    "timeZone",
    "jitter",
    "catchUp",
    "suspend",
    "cut",
    "retention",
    "limits",
];

/// Reads the list `schedules` of a configuration; everything else in it is somebody else's. Places are those of the
/// configuration.
pub fn in_config(text: &str) -> Result<Vec<Job>, TextError> {
    text::decode(text, CONFIG_BYTES, |root| match root.value().get("schedules") {
        None => Some(Vec::new()),
        Some(list) => read_jobs(&root.child("schedules", list)),
    })
}

/// Reads a list of jobs at its place in a text.
fn read_jobs(list: &Node<'_>) -> Option<Vec<Job>> {
    let nodes = list.list()?;
    if nodes.len() > limits::SCHEDULES {
        list.fail(
            format!("{} schedules", nodes.len()),
            format!("at most {} are allowed", limits::SCHEDULES),
            "put what has the same times into one schedule",
        );
        return None;
    }
    let jobs: Vec<Option<Job>> = nodes.iter().map(read_job).collect();
    let jobs = jobs.into_iter().collect::<Option<Vec<Job>>>()?;
    let mut seen = BTreeSet::new();
    for (job, node) in jobs.iter().zip(&nodes) {
        if !seen.insert(job.name()) {
            node.fail(
                format!("a second schedule `{}`", job.name()),
                "a name means one schedule, and its cuts are named after it",
                "give it another name",
            );
            return None;
        }
    }
    Some(jobs)
}

fn read_job(node: &Node<'_>) -> Option<Job> {
    let fields = node.fields("a schedule", FIELDS)?;
    let schedule = schedule::read_from(&fields).filter(|schedule| free_name(&fields, schedule.name()));
    let cut = fields.required("cut").and_then(|cut| read_cut(&cut));
    let retention = fields.optional("retention", retain::read);
    let run_limit = fields.optional("limits", |node| {
        let fields = node.fields("the limits of a schedule", &["run"])?;
        fields.optional("run", |run| read_span(run, limits::SHORTEST_RUN, limits::LONGEST_RUN))
    });
    Some(Job {
        schedule: schedule?,
        cut: cut?,
        retention: retention?.unwrap_or_default(),
        run_limit: run_limit?.flatten().unwrap_or(defaults::RUN),
    })
}

fn free_name(fields: &Fields<'_>, name: &str) -> bool {
    let free = !RESERVED.contains(&name);
    if let (false, Some(node)) = (free, fields.get("name")) {
        node.fail(
            format!("a schedule cannot be called `{name}`"),
            format!("`stillpoint schedules {name}` means something else"),
            "choose another name",
        );
    }
    free
}

fn read_cut(node: &Node<'_>) -> Option<What> {
    let fields = node.fields("what is cut", &["selectors", "volumes", "namespaces", "rule", "params"])?;
    let selectors = fields.optional("selectors", read_selectors);
    let volumes = fields.optional("volumes", |node| node.texts(limits::VOLUMES));
    let namespaces = fields.optional("namespaces", |node| node.texts(limits::SELECTORS));
    let rule = fields.optional("rule", |node| Some(PathBuf::from(node.text()?)));
    let params = fields.optional("params", Node::text_map);
    let (selectors, volumes) = (selectors?.unwrap_or_default(), volumes?.unwrap_or_default());
    if selectors.is_empty() && volumes.is_empty() {
        node.fail(
            "nothing is to be cut",
            "no selector and no volume is given",
            "add `selectors: [\"app=db\"]`, or `volumes: [name]`",
        );
        return None;
    }
    let (rule, params) = (rule?, params?.unwrap_or_default());
    if let (None, Some(given)) = (&rule, fields.get("params")) {
        given.fail("parameters without a rule", "nothing would use them", "add `rule: FILE`, or remove them");
        return None;
    }
    Some(What {
        selectors,
        volumes,
        namespaces: namespaces?.unwrap_or_default(),
        rule,
        params: params.into_iter().collect::<BTreeMap<_, _>>(),
    })
}

fn read_selectors(node: &Node<'_>) -> Option<Vec<String>> {
    let selectors = node.texts(limits::SELECTORS)?;
    for selector in &selectors {
        if let Err(error) = parse_selector(selector) {
            node.fail(
                error.to_string(),
                "it is written as kubectl writes selectors",
                "write for example `app=db`",
            );
            return None;
        }
    }
    Some(selectors)
}
