//! What the suite is expected to do: the committed lists of specs that pass and of specs that do not run.
//!
//! `specs.txt` has one name per line. `skips.txt` has a reason, not indented, and below it the names it holds for,
//! indented. A reason begins with `skipped: ` (the suite itself skips the spec when it runs), with `excluded: ` (ginkgo is
//! told not to start the spec), or with `not applicable: ` (parts of names: specs for other kinds of drivers and
//! systems, which are not started and not counted as skipped). `#` begins a comment.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

const SPECS: &str = "specs.txt";
const SKIPS: &str = "skips.txt";

/// Both lists.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Expected {
    specs: BTreeSet<String>,
    skipped: BTreeMap<String, String>,
    excluded: BTreeMap<String, String>,
    not_applicable: BTreeMap<String, String>,
}

impl Expected {
    /// Reads both lists from a directory.
    pub fn read(directory: &Path) -> Result<Self> {
        let text = |name: &str| {
            let path = directory.join(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        Self::parse(&text(SPECS)?, &text(SKIPS)?)
    }

    /// Both lists from their texts; a name in two places is an error.
    pub fn parse(specs: &str, skips: &str) -> Result<Self> {
        let mut expected = Self::default();
        for name in lines(specs) {
            ensure!(expected.specs.insert(name.trim().into()), "{SPECS} has a spec twice: {name}");
        }
        let mut reason = None;
        for line in lines(skips) {
            if !line.starts_with(' ') {
                reason = Some(line.split_once(": ").with_context(|| format!("{SKIPS}: no reason: {line}"))?);
                continue;
            }
            let (kind, why) = reason.with_context(|| format!("{SKIPS}: a spec before any reason: {line}"))?;
            let list = match kind {
                "skipped" => &mut expected.skipped,
                "excluded" => &mut expected.excluded,
                "not applicable" => &mut expected.not_applicable,
                other => bail!(
                    "{SKIPS}: a reason begins with skipped, excluded or not applicable, not with {other:?}"
                ),
            };
            let name = line.trim();
            ensure!(!expected.specs.contains(name), "{SPECS} and {SKIPS} both have the spec {name}");
            ensure!(list.insert(name.into(), why.into()).is_none(), "{SKIPS} has a spec twice: {name}");
        }
        Ok(expected)
    }

    /// Specs that must pass.
    pub fn specs(&self) -> &BTreeSet<String> {
        &self.specs
    }

    /// Specs that the suite itself skips, with the reason.
    pub fn skipped(&self) -> &BTreeMap<String, String> {
        &self.skipped
    }

    /// Specs that are not started, with the reason.
    pub fn excluded(&self) -> &BTreeMap<String, String> {
        &self.excluded
    }

    /// Parts of names of specs for other kinds of drivers and systems, with the reason.
    pub fn not_applicable(&self) -> &BTreeMap<String, String> {
        &self.not_applicable
    }
}

/// Writes the list of specs that must pass.
pub fn write_specs(directory: &Path, passed: &BTreeSet<String>) -> Result<()> {
    let mut text = String::from("# Every spec of the external-storage suite that must pass. Written by:\n");
    text += "# stillpoint-cluster suite --write\n";
    for name in passed {
        writeln!(text, "{name}")?;
    }
    let path = directory.join(SPECS);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim_end).filter(|line| !line.trim_start().starts_with('#') && !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_belongs_to_the_reason_above_it() {
        let skips = "# why\nskipped: no quota\n  volumes a\n  volumes b\nexcluded: needs process 1\n  volumeMode c\n\
             not applicable: Windows\n  (ntfs)\n";
        let expected = Expected::parse("# all\nsubPath d\n", skips).unwrap();
        assert_eq!(expected.skipped()["volumes b"], "no quota");
        assert_eq!(expected.excluded()["volumeMode c"], "needs process 1");
        assert_eq!(expected.not_applicable()["(ntfs)"], "Windows");
        assert!(expected.specs().contains("subPath d"));
    }

    #[test]
    fn lists_that_contradict_each_other_are_refused() {
        for (specs, skips) in [
            ("a\na\n", ""),
            ("a\n", "skipped: x\n  a\n"),
            ("", "skipped: x\n  a\n  a\n"),
            ("", "  a\n"),
            ("", "perhaps: x\n  a\n"),
            ("", "no reason\n"),
        ] {
            assert!(Expected::parse(specs, skips).is_err(), "{specs:?} {skips:?}");
        }
    }
}
