use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::model::Listed;
use super::*;
use crate::domain::Code;

impl Keyed for u32 {
    type Key = u32;
    fn key(&self) -> u32 {
        *self
    }
}

type Hosts = Vec<Arc<Listed<u32>>>;

fn hosts(parts: &[BTreeSet<u32>]) -> Hosts {
    parts
        .iter()
        .enumerate()
        .map(|(host, part)| Listed::of(&format!("h{host}"), part.iter().copied()))
        .collect()
}

fn sources(hosts: &Hosts) -> Vec<Arc<dyn HostList<u32>>> {
    hosts.iter().map(|host| Arc::clone(host) as Arc<dyn HostList<u32>>).collect()
}

/// No host really waits, so the future is done at once.
fn done<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn page_of(hosts: &Hosts, limit: i32, token: &str) -> Page<u32> {
    done(page(sources(hosts), &PageRequest::new(limit, token).unwrap(), |_| true)).unwrap()
}

/// All pages, with a change of what is on the hosts after each.
fn all_pages(hosts: &Hosts, limit: i32, mut between: impl FnMut(usize)) -> Vec<Vec<u32>> {
    let (mut pages, mut token) = (Vec::new(), String::new());
    loop {
        let got = page_of(hosts, limit, &token);
        pages.push(got.entries);
        if got.next.is_empty() {
            return pages;
        }
        token = got.next;
        between(pages.len());
    }
}

fn change(hosts: &Hosts, host: usize, entry: u32, is_there: bool) {
    let mut entries = hosts[host % hosts.len()].entries.lock().unwrap();
    let entries = entries.as_mut().unwrap();
    let _ = if is_there { entries.insert(entry, entry) } else { entries.remove(&entry) };
}

/// Entries of a few hosts; each entry is on one host.
fn parts() -> impl Strategy<Value = Vec<BTreeSet<u32>>> {
    (1_usize..6, prop::collection::btree_map(0_u32..2000, 0_usize..6, 0..300)).prop_map(|(hosts, entries)| {
        let mut parts = vec![BTreeSet::new(); hosts];
        for (entry, host) in entries {
            parts[host % hosts].insert(entry);
        }
        parts
    })
}

proptest! {
    #[test]
    fn pages_together_are_the_whole_list_in_order(parts in parts(), limit in 1_u8..40) {
        let hosts = hosts(&parts);
        let pages = all_pages(&hosts, i32::from(limit), |_| {});
        let all: Vec<u32> = parts.iter().flatten().copied().collect::<BTreeSet<_>>().into_iter().collect();
        prop_assert_eq!(pages.concat(), all.clone());
        prop_assert!(pages.iter().rev().skip(1).all(|page| page.len() == usize::from(limit)), "{:?}", pages);
        prop_assert!(all.is_empty() || pages.iter().all(|page| !page.is_empty()));
    }

    /// The model: what existed all the time is there once, nothing is there twice, and nothing that never existed.
    #[test]
    fn entries_that_come_and_go_neither_repeat_nor_hide_others(
        parts in parts(),
        limit in 1_u8..40,
        changes in prop::collection::vec(
            prop::collection::vec((0_usize..6, 0_u32..2000, any::<bool>()), 0..20), 0..40),
    ) {
        let hosts = hosts(&parts);
        let home: BTreeMap<u32, usize> =
            parts.iter().enumerate().flat_map(|(host, part)| part.iter().map(move |entry| (*entry, host))).collect();
        let mut always: BTreeSet<u32> = home.keys().copied().collect();
        let mut ever = always.clone();
        let pages = all_pages(&hosts, i32::from(limit), |page| {
            for (host, entry, is_there) in changes.get(page).into_iter().flatten() {
                // An entry that was on a host stays with it: ids begin with their pool.
                let host = home.get(entry).copied().unwrap_or(*entry as usize + host);
                change(&hosts, host, *entry, *is_there);
                if *is_there { ever.insert(*entry); } else { always.remove(entry); }
            }
        });
        let listed = pages.concat();
        prop_assert!(listed.is_sorted_by(|a, b| a < b), "twice, or out of order: {:?}", listed);
        let listed: BTreeSet<u32> = listed.into_iter().collect();
        prop_assert!(listed.is_superset(&always), "hidden: {:?}", always.difference(&listed));
        prop_assert!(listed.is_subset(&ever));
    }
}

#[test]
fn a_page_costs_what_is_in_it() {
    // Ids begin with their pool: each host has a range of its own.
    let parts: Vec<BTreeSet<u32>> =
        (0..8).map(|host| (host * 10_000..host * 10_000 + 6_000).collect()).collect();
    let hosts = hosts(&parts);
    let first = page_of(&hosts, 500, "");
    assert_eq!((first.entries.len(), first.next.as_str()), (500, "after:499"));
    let asked = |host: usize| hosts[host].asked.lock().unwrap().clone();
    assert_eq!(asked(0), [63, 501], "what the first piece lacks comes in one more");
    assert!((1..8).all(|host| asked(host) == [63]), "the others are only asked for their heads");
}

#[test]
fn a_silent_host_makes_every_page_unavailable() {
    let hosts = hosts(&[BTreeSet::from([1, 2]), BTreeSet::from([3])]);
    *hosts[1].entries.lock().unwrap() = None;
    let fault = done(page(sources(&hosts), &PageRequest::new(1, "").unwrap(), |_| true)).unwrap_err();
    assert_eq!(fault.code, Code::Unavailable);
    assert!(fault.message.contains("without host h1"), "{fault}");
}

#[test]
fn what_is_not_wanted_fills_no_page() {
    let hosts = hosts(&[(0..100).collect(), (100..200).collect()]);
    let request = PageRequest::new(3, "").unwrap();
    let got = done(page(sources(&hosts), &request, |n| n % 50 == 49)).unwrap();
    assert_eq!((got.entries, got.next.as_str()), (vec![49, 99, 149], "after:149"));
    let last = PageRequest::new(3, "after:149").unwrap();
    let got = done(page(sources(&hosts), &last, |n| n % 50 == 49)).unwrap();
    assert_eq!((got.entries, got.next.as_str()), (vec![199], ""));
}

#[test]
fn an_entry_that_two_hosts_tell_of_is_given_once() {
    let hosts = hosts(&[BTreeSet::from([1, 2]), BTreeSet::from([2, 3])]);
    assert_eq!(all_pages(&hosts, 1, |_| {}).concat(), [1, 2, 3]);
}

#[test]
fn a_token_that_was_not_given_is_aborted() {
    for token in ["invalid-token", "after:", "after:x", "7"] {
        let request = PageRequest::new(0, token).unwrap();
        let refused = done(page(sources(&hosts(&[BTreeSet::from([1])])), &request, |_| true)).unwrap_err();
        assert_eq!(refused.code, Code::Aborted, "{token}");
    }
}

#[test]
fn a_negative_number_of_entries_is_invalid_and_zero_is_no_limit() {
    assert_eq!(PageRequest::new(-1, "").unwrap_err().code, Code::Invalid);
    assert_eq!(PageRequest::new(i32::MIN, "").unwrap_err().code, Code::Invalid);
    let got = page_of(&hosts(&[(0..100).collect()]), 0, "");
    assert_eq!((got.entries.len(), got.next.as_str()), (100, ""));
}

#[test]
fn a_list_beyond_the_limit_of_a_page_goes_on_in_the_next() {
    let hosts = hosts(&[(0..7_000).collect(), (7_000..12_000).collect()]);
    let lengths: Vec<usize> = all_pages(&hosts, 0, |_| {}).iter().map(Vec::len).collect();
    assert_eq!(lengths, [5000, 5000, 2000]);
    assert_eq!(all_pages(&hosts, i32::MAX, |_| {}).len(), 3);
    assert!(hosts.iter().all(|host| host.asked.lock().unwrap().iter().all(|limit| *limit <= 512)));
}
