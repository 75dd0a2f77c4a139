//! Lists in pages.
//!
//! A token says `after <id>`, not `from number n`: entries that come and go between two pages neither repeat nor
//! hide others, and a token whose entry has gone meanwhile is still good.

use std::fmt::Display;
use std::str::FromStr;

use crate::domain::Fault;

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
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The entries, sorted by key.
    pub entries: Vec<T>,
    /// Token of the next page; empty after the last.
    pub next: String,
}

/// Cuts a page out of a list. A token that this function did not make is ABORTED: start again without one.
pub fn page<T, K>(items: Vec<T>, key: impl Fn(&T) -> K, request: &PageRequest) -> Result<Page<T>, Fault>
where
    K: Ord + Display + FromStr,
{
    let after: Option<K> = match request.token.as_str() {
        "" => None,
        token => Some(token.strip_prefix(PREFIX).and_then(|id| id.parse().ok()).ok_or_else(bad_token)?),
    };
    let mut rest: Vec<T> =
        items.into_iter().filter(|item| after.as_ref().is_none_or(|after| key(item) > *after)).collect();
    rest.sort_by_key(|item| key(item));
    let more = rest.len() > request.limit;
    rest.truncate(request.limit);
    let next = match rest.last() {
        Some(last) if more => format!("{PREFIX}{}", key(last)),
        Some(_) | None => String::new(),
    };
    Ok(Page { entries: rest, next })
}

fn bad_token() -> Fault {
    Fault::aborted("starting_token was not given by this driver; list again without a token")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Code;
    use proptest::prelude::*;

    fn all_pages(items: &[u32], limit: i32) -> Vec<Vec<u32>> {
        let mut pages = Vec::new();
        let mut token = String::new();
        loop {
            let request = PageRequest::new(limit, &token).unwrap();
            let got = page(items.to_vec(), |n| *n, &request).unwrap();
            pages.push(got.entries);
            token = got.next;
            if token.is_empty() {
                return pages;
            }
        }
    }

    proptest! {
        #[test]
        fn pages_together_are_the_whole_list_in_order(
            items in proptest::collection::btree_set(0_u32..1000, 0..60), limit in 1_u8..20,
        ) {
            let items: Vec<u32> = items.into_iter().collect();
            let mut shuffled = items.clone();
            shuffled.reverse();
            let pages = all_pages(&shuffled, i32::from(limit));
            prop_assert_eq!(pages.concat(), items.clone());
            let full = pages.iter().rev().skip(1).all(|page| page.len() == usize::from(limit));
            prop_assert!(full, "a page before the last was not full: {:?}", pages);
            prop_assert!(items.is_empty() || pages.iter().all(|page| !page.is_empty()));
        }

        #[test]
        fn entries_that_come_and_go_between_pages_neither_repeat_nor_hide_others(
            before in proptest::collection::btree_set(0_u32..100, 2..40),
            after in proptest::collection::btree_set(0_u32..100, 2..40),
        ) {
            let first = PageRequest::new(1, "").unwrap();
            let first = page(before.iter().copied().collect(), |n| *n, &first).unwrap();
            let second = PageRequest::new(0, &first.next).unwrap();
            let second = page(after.iter().copied().collect(), |n| *n, &second).unwrap();
            let expected: Vec<u32> = after.into_iter().filter(|n| *n > first.entries[0]).collect();
            prop_assert_eq!(second.entries, expected);
        }
    }

    #[test]
    fn a_token_that_was_not_given_is_aborted() {
        for token in ["invalid-token", "after:", "after:x", "7"] {
            let request = PageRequest::new(0, token).unwrap();
            let refused = page(vec![1_u32], |n| *n, &request).unwrap_err();
            assert_eq!(refused.code, Code::Aborted, "{token}");
        }
    }

    #[test]
    fn a_negative_number_of_entries_is_invalid_and_zero_is_no_limit() {
        assert_eq!(PageRequest::new(-1, "").unwrap_err().code, Code::Invalid);
        assert_eq!(PageRequest::new(i32::MIN, "").unwrap_err().code, Code::Invalid);
        let request = PageRequest::new(0, "").unwrap();
        let got = page((0..100_u32).collect(), |n| *n, &request).unwrap();
        assert_eq!((got.entries.len(), got.next.as_str()), (100, ""));
    }

    #[test]
    fn a_list_beyond_the_limit_of_a_page_goes_on_in_the_next() {
        let items: Vec<u32> = (0..12_000).collect();
        assert_eq!(all_pages(&items, 0).iter().map(Vec::len).collect::<Vec<_>>(), [5000, 5000, 2000]);
        assert_eq!(all_pages(&items, i32::MAX).len(), 3);
    }
}
