//! What ginkgo reports, and how it differs from what was expected.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::Expected;

/// How specs ended.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Names of specs that passed.
    pub passed: BTreeSet<String>,
    /// Specs that the suite itself skipped, with what it says.
    pub skipped: BTreeMap<String, String>,
    /// Names of specs that ginkgo was told not to start.
    pub not_started: BTreeSet<String>,
    /// Everything else that ended badly: specs, and what runs before and after them.
    pub failed: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SuiteReport {
    #[serde(default)]
    spec_reports: Option<Vec<SpecReport>>,
    #[serde(default)]
    special_suite_failure_reasons: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SpecReport {
    #[serde(default)]
    container_hierarchy_texts: Option<Vec<String>>,
    leaf_node_type: String,
    leaf_node_text: String,
    state: String,
    #[serde(default)]
    failure: Failure,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    #[serde(default)]
    message: String,
}

impl Outcome {
    /// Reads ginkgo's report in JSON.
    pub fn of(json: &str) -> Result<Self> {
        let suites: Vec<SuiteReport> = serde_json::from_str(json).context("cannot read ginkgo's report")?;
        let mut outcome = Self::default();
        for suite in suites {
            for reason in suite.special_suite_failure_reasons.unwrap_or_default() {
                outcome.failed.insert("the whole suite".into(), reason);
            }
            for spec in suite.spec_reports.unwrap_or_default() {
                outcome.add(spec);
            }
        }
        Ok(outcome)
    }

    fn add(&mut self, spec: SpecReport) {
        let mut words = spec.container_hierarchy_texts.unwrap_or_default();
        words.push(if spec.leaf_node_text.is_empty() {
            spec.leaf_node_type.clone()
        } else {
            spec.leaf_node_text
        });
        let name = words.join(" ").split_whitespace().collect::<Vec<_>>().join(" ");
        let is_spec = spec.leaf_node_type == "It";
        match spec.state.as_str() {
            "passed" if is_spec => {
                self.passed.insert(name);
            }
            "passed" => {}
            "skipped" if is_spec && spec.failure.message.is_empty() => {
                self.not_started.insert(name);
            }
            "skipped" if is_spec => {
                self.skipped.insert(name, first_line(&spec.failure.message));
            }
            state => {
                self.failed.insert(name, format!("{state}: {}", spec.failure.message.trim()));
            }
        }
    }

    /// What is different from the lists; with a focus, only for names that match it.
    pub fn compare(&self, expected: &Expected, focus: Option<&str>) -> Result<Verdict> {
        let focus = focus.map(regex::Regex::new).transpose().context("the focus is no regular expression")?;
        let in_focus = |name: &String| focus.as_ref().is_none_or(|regex| regex.is_match(name));
        let mut problems: Vec<String> =
            self.failed.iter().map(|(name, why)| format!("{name}: {why}")).collect();
        for name in self.passed.iter().filter(|name| !expected.specs().contains(*name)) {
            problems.push(format!("{name}: passed, but specs.txt does not list it: add it there"));
        }
        for (name, why) in self.skipped.iter().filter(|(name, _)| !expected.skipped().contains_key(*name)) {
            problems.push(format!("{name}: skipped, but skips.txt does not list it: the suite says {why:?}"));
        }
        let has_run = |name: &String| {
            self.passed.contains(name) || self.skipped.contains_key(name) || self.failed.contains_key(name)
        };
        let listed = expected.specs().iter().chain(expected.skipped().keys());
        for name in listed.filter(|name| in_focus(name) && !has_run(name)) {
            problems.push(format!("{name}: listed, but it did not run: the suite no longer offers it"));
        }
        for name in
            expected.excluded().keys().filter(|name| in_focus(name) && !self.not_started.contains(*name))
        {
            problems
                .push(format!("{name}: excluded, but the suite has no such spec: remove it from skips.txt"));
        }
        let has_part = |part: &&String| self.not_started.iter().any(|name| name.contains(part.as_str()));
        for part in expected.not_applicable().keys().filter(|part| !has_part(part)) {
            problems.push(format!(
                "{part}: not applicable, but no spec has it in its name: remove it from skips.txt"
            ));
        }
        let reason = |name: &String| expected.skipped().get(name).cloned();
        let mut skipped: BTreeMap<String, String> =
            self.skipped.keys().filter_map(|name| Some((name.clone(), reason(name)?))).collect();
        skipped.extend(expected.excluded().clone());
        if self.passed.is_empty() {
            problems.push("no spec passed, so nothing was proven".into());
        }
        Ok(Verdict { passed: self.passed.len(), skipped, problems })
    }
}

fn first_line(text: &str) -> String {
    text.trim().lines().next().unwrap_or_default().to_owned()
}

/// The comparison; as text, lines that CI counts.
#[derive(Debug)]
pub struct Verdict {
    passed: usize,
    skipped: BTreeMap<String, String>,
    problems: Vec<String>,
}

impl Verdict {
    /// Whether every spec did what the lists say.
    pub fn is_good(&self) -> bool {
        self.problems.is_empty()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, reason) in &self.skipped {
            writeln!(f, "suite: {name} skipped ({reason})")?;
        }
        for problem in &self.problems {
            writeln!(f, "suite: FAILED {problem}")?;
        }
        let (failed, skipped) = (self.problems.len(), self.skipped.len());
        let word = if failed == 0 { "ok" } else { "FAILED" };
        writeln!(f, "suite result: {word}. {} passed; {failed} failed; {skipped} skipped", self.passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, state: &str, message: &str) -> String {
        let (container, leaf) = name.split_once(' ').unwrap();
        format!(
            r#"{{"ContainerHierarchyTexts":["{container}"],"LeafNodeType":"It","LeafNodeText":"{leaf}","State":"{state}","Failure":{{"Message":"{message}"}}}}"#
        )
    }

    fn outcome(specs: &[String]) -> Outcome {
        Outcome::of(&format!(r#"[{{"SpecReports":[{}]}}]"#, specs.join(","))).unwrap()
    }

    fn expected() -> Expected {
        Expected::parse(
            "x passes\n",
            "skipped: no quota here\n  x skips\nexcluded: other node\n  x never\nnot applicable: y\n  (y)\n",
        )
        .unwrap()
    }

    fn good() -> Vec<String> {
        vec![
            spec("x passes", "passed", ""),
            spec("x skips", "skipped", "no quota"),
            spec("x never", "skipped", ""),
            spec("x of(y)", "skipped", ""),
        ]
    }

    #[test]
    fn a_run_as_listed_is_good_and_counts_exclusions_as_skips() {
        let verdict = outcome(&good()).compare(&expected(), None).unwrap();
        assert!(verdict.is_good(), "{verdict}");
        let text = verdict.to_string();
        assert!(text.contains("suite: x skips skipped (no quota here)\n"), "{text}");
        assert!(text.ends_with("suite result: ok. 1 passed; 0 failed; 2 skipped\n"), "{text}");
    }

    #[test]
    fn every_difference_from_the_lists_is_a_failure() {
        let cases = [
            (0, spec("x passes", "failed", "boom"), "failed: boom"),
            (0, spec("x passes", "timedout", ""), "timedout"),
            (0, spec("x passes", "skipped", "no support"), "skips.txt does not list it"),
            (0, spec("x passes", "skipped", ""), "did not run"),
            (1, spec("x skips", "passed", ""), "specs.txt does not list it"),
            (1, spec("x skips", "skipped", ""), "did not run"),
            (2, spec("x never", "passed", ""), "specs.txt does not list it"),
            (2, spec("x other", "skipped", ""), "has no such spec"),
            (3, spec("x other", "skipped", ""), "no spec has it in its name"),
        ];
        for (index, changed, says) in cases {
            let mut specs = good();
            specs[index] = changed;
            let verdict = outcome(&specs).compare(&expected(), None).unwrap();
            assert!(!verdict.is_good() && verdict.to_string().contains(says), "{says}: {verdict}");
        }
    }

    #[test]
    fn a_suite_that_broke_or_ran_nothing_is_a_failure() {
        let setup = r#"[{"SpecReports":[{"LeafNodeType":"SynchronizedBeforeSuite","LeafNodeText":"","State":"failed",
            "Failure":{"Message":"no nodes"}}],"SpecialSuiteFailureReasons":["Suite Timeout Elapsed"]}]"#;
        let nothing = Expected::parse("", "").unwrap();
        let verdict = Outcome::of(setup).unwrap().compare(&nothing, None).unwrap().to_string();
        assert!(verdict.contains("no nodes") && verdict.contains("Suite Timeout"), "{verdict}");
        assert!(!outcome(&[]).compare(&nothing, None).unwrap().is_good());
    }

    #[test]
    fn with_a_focus_only_its_specs_must_have_run() {
        let specs = [spec("x passes", "passed", ""), spec("x of(y)", "skipped", "")];
        assert!(outcome(&specs).compare(&expected(), Some("passes")).unwrap().is_good());
        assert!(!outcome(&specs).compare(&expected(), Some("x")).unwrap().is_good());
    }
}
