//! Lists in pages.
//!
//! A token says `after <id>`, not `from number n`: entries that come and go between two pages neither repeat nor
//! hide others, and a token whose entry has gone meanwhile is still good.

use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

use super::merge::{HostList, Merge, Silence, Steps};
use crate::domain::Fault;
use crate::domain::listing::Keyed;

/// Entries in a page when the caller sets no limit: about 2 MiB of answer, half of what gRPC clients accept.
pub const PAGE_LIMIT: usize = 5_000;

const PREFIX: &str = "after:";

/// Which page is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRequest {
    /// At most this many entries.
    limit: usize,
    /// Token of the page before; empty for the first.
    token: String,
}

impl PageRequest {
    /// As it stands in a request: zero entries means no wish, a negative number is refused.
    pub fn new(max_entries: i32, token: &str) -> Result<Self, Fault> {
        let limit = usize::try_from(max_entries).map_err(|_| {
            Fault::invalid(format!("max_entries is {max_entries}; give zero (no limit) or a positive number"))
        })?;
        let limit = if limit == 0 { PAGE_LIMIT } else { limit.min(PAGE_LIMIT) };
        Ok(Self { limit, token: token.to_owned() })
    }

    /// The key that the page begins behind. A token that no page has given is ABORTED: start again without one.
    fn after<K: FromStr>(&self) -> Result<Option<K>, Fault> {
        match self.token.as_str() {
            "" => Ok(None),
            token => {
                token.strip_prefix(PREFIX).and_then(|id| id.parse().ok()).ok_or_else(bad_token).map(Some)
            }
        }
    }
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The entries, sorted by key.
    pub entries: Vec<T>,
    /// Token of the next page; empty after the last.
    pub next: String,
}

impl<T> Page<T> {
    /// Of nothing.
    pub const fn empty() -> Self {
        Self { entries: Vec::new(), next: String::new() }
    }
}

/// A page of the entries that are wanted, over all hosts. An entry that two hosts tell of is given once. A host that
/// does not answer makes it UNAVAILABLE.
pub async fn page<T>(
    sources: Vec<Arc<dyn HostList<T>>>,
    request: &PageRequest,
    is_wanted: impl Fn(&T) -> bool,
) -> Result<Page<T>, Fault>
where
    T: Keyed + Send + 'static,
    T::Key: Display + FromStr,
{
    let after = request.after()?;
    // One more, which tells whether there is another page.
    let steps = Steps::for_page(request.limit + 1, sources.len());
    let mut merge = Merge::new(sources, after, steps, Silence::Refused);
    let mut page = Page::empty();
    let mut last: Option<T::Key> = None;
    while let Some((_, entry)) = merge.next().await? {
        let key = entry.key();
        if last.as_ref() == Some(&key) || !is_wanted(&entry) {
            continue;
        }
        if page.entries.len() == request.limit {
            page.next = last.map(|last| format!("{PREFIX}{last}")).unwrap_or_default();
            break;
        }
        page.entries.push(entry);
        last = Some(key);
    }
    Ok(page)
}

fn bad_token() -> Fault {
    Fault::aborted("starting_token was not given by this driver; list again without a token")
}

#[cfg(test)]
pub(crate) mod model;
#[cfg(test)]
mod tests;
