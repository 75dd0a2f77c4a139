use super::*;
use proptest::prelude::*;

fn host(name: &str) -> HostName {
    name.parse().unwrap()
}

fn pool_id(n: u8) -> PoolId {
    PoolId::from_random([n; 6])
}

fn pool(n: u8, backend: &str, gib: u64) -> PoolInfo {
    PoolInfo {
        id: pool_id(n),
        backend: backend.into(),
        total: Bytes::gib(100),
        available: Bytes::gib(gib),
        path: format!("/pools/{n}").into(),
        conditions: vec![],
    }
}

fn up(name: &str, pools: Vec<PoolInfo>) -> HostFacts {
    HostFacts { host: host(name), pools: Ok(pools) }
}

fn down(name: &str) -> HostFacts {
    HostFacts { host: host(name), pools: Err(Fault::unavailable("no connection")) }
}

fn three() -> Vec<HostFacts> {
    vec![
        up("a", vec![pool(1, "btrfs", 10), pool(2, "xfs", 30)]),
        up("b", vec![pool(3, "btrfs", 40)]),
        up("c", vec![pool(4, "btrfs", 20), pool(5, "memory", 90)]),
    ]
}

fn places(requisite: Option<&[&str]>, preferred: &[&str]) -> Places {
    let hosts = |names: &[&str]| names.iter().map(|name| host(name)).collect();
    Places { requisite: requisite.map(hosts), preferred: hosts(preferred) }
}

fn wish(places: &Places, gib: u64) -> Wish<'_> {
    Wish { size: Bytes::gib(gib), backend: None, places, source: None, copies: Copies::BesideSource }
}

fn order(wish: Wish<'_>, hosts: &[HostFacts]) -> Result<Vec<PoolId>, Refusal> {
    let spots = rank(wish, hosts, &Policy::default())?;
    Ok(spots.into_iter().map(|spot| spot.pool).collect())
}

fn ids(ids: &[u8]) -> Vec<PoolId> {
    ids.iter().map(|n| pool_id(*n)).collect()
}

#[test]
fn without_a_wish_the_most_free_space_wins_and_memory_is_never_taken() {
    assert_eq!(order(wish(&Places::default(), 1), &three()), Ok(ids(&[3, 2, 4, 1])));
}

#[test]
fn preferred_hosts_come_first_in_their_order_and_pools_by_space_within_a_host() {
    let asked = places(Some(&["a", "b", "c"]), &["c", "a"]);
    assert_eq!(order(wish(&asked, 1), &three()), Ok(ids(&[4, 2, 1, 3])));
}

#[test]
fn requisite_hosts_are_the_only_ones() {
    let asked = places(Some(&["a", "not-ours"]), &[]);
    assert_eq!(order(wish(&asked, 1), &three()), Ok(ids(&[2, 1])));
    let asked = places(None, &["a"]);
    assert_eq!(order(wish(&asked, 1), &three()), Ok(ids(&[2, 1, 3, 4])), "preference alone allows all");
}

#[test]
fn places_that_are_not_ours_are_exhausted_and_name_our_hosts() {
    for asked in [places(Some(&["x"]), &[]), places(Some(&[]), &[])] {
        let refusal = order(wish(&asked, 1), &three()).unwrap_err();
        assert_eq!(refusal, Refusal::NoSuchPlace { known: "a, b, c".into() });
        assert_eq!(Fault::from(refusal).code, Code::Exhausted);
    }
}

#[test]
fn the_configured_host_takes_what_names_no_place_and_nothing_else() {
    let policy = Policy { without_topology: Some(host("a")) };
    let silent = Places::default();
    let spots = rank(wish(&silent, 1), &three(), &policy).unwrap();
    assert!(spots.iter().all(|spot| spot.host == host("a")) && !spots.is_empty());
    let asked = places(Some(&["b"]), &[]);
    assert_eq!(rank(wish(&asked, 1), &three(), &policy).unwrap()[0].host, host("b"));
    let policy = Policy { without_topology: Some(host("gone")) };
    let refusal = rank(wish(&silent, 1), &three(), &policy).unwrap_err();
    assert!(matches!(refusal, Refusal::NoSuchDefault { .. }), "{refusal}");
}

#[test]
fn the_configured_host_does_not_bind_a_copy() {
    let policy = Policy { without_topology: Some(host("a")) };
    let (silent, source) = (Places::default(), pool_id(3));
    let asked = Wish { source: Some(&source), ..wish(&silent, 1) };
    assert_eq!(rank(asked, &three(), &policy).unwrap()[0].host, host("b"));
}

#[test]
fn the_backend_that_was_asked_for_is_the_only_one_also_memory() {
    let anywhere = Places::default();
    let asked = |backend| Wish { backend: Some(backend), ..wish(&anywhere, 1) };
    assert_eq!(order(asked(BackendKind::Xfs), &three()), Ok(ids(&[2])));
    assert_eq!(order(asked(BackendKind::Memory), &three()), Ok(ids(&[5])));
    let asked_on_b = places(Some(&["b"]), &[]);
    let refusal = order(Wish { places: &asked_on_b, ..asked(BackendKind::Xfs) }, &three()).unwrap_err();
    assert_eq!(Fault::from(refusal.clone()).code, Code::Exhausted);
    assert!(refusal.to_string().starts_with("no allowed host has a xfs pool; make one"), "{refusal}");
}

#[test]
fn pools_that_are_too_full_are_left_out_and_all_full_says_how_much_there_is() {
    assert_eq!(order(wish(&Places::default(), 25), &three()), Ok(ids(&[3, 2])));
    let refusal = order(wish(&Places::default(), 50), &three()).unwrap_err();
    let expected = Refusal::Full { needed: Bytes::gib(50), most: Bytes::gib(40), silent: String::new() };
    assert_eq!(refusal, expected);
}

#[test]
fn a_copy_goes_to_its_sources_pool_and_elsewhere_only_where_it_must_or_is_asked_to() {
    let (anywhere, source) = (Places::default(), pool_id(1));
    let copy = Wish { source: Some(&source), ..wish(&anywhere, 99) };
    assert_eq!(order(copy, &three()), Ok(ids(&[1])), "how much room a copy needs is the agent's to say");
    let small = Wish { source: Some(&source), ..wish(&anywhere, 15) };
    assert_eq!(
        order(small, &three()),
        Ok(ids(&[1, 3, 2, 4])),
        "where its own pool refuses, all data is copied"
    );

    let elsewhere = places(Some(&["b", "c"]), &["c"]);
    let there = Wish { places: &elsewhere, ..small };
    assert_eq!(order(there, &three()), Ok(ids(&[4, 3])), "the source's host is not allowed");
    let refusal = order(Wish { places: &elsewhere, ..copy }, &three()).unwrap_err();
    assert_eq!(Fault::from(refusal).code, Code::Exhausted, "nobody there has room for all of it");

    let preferred = places(None, &["c", "a"]);
    let asked = Wish { places: &preferred, ..small };
    assert_eq!(order(asked, &three()), Ok(ids(&[1, 4, 2, 3])));
    let asked = Wish { copies: Copies::WherePreferred, ..asked };
    assert_eq!(
        order(asked, &three()),
        Ok(ids(&[4, 1, 2, 3])),
        "so that copies of several hosts come together"
    );

    let other_kind = Wish { backend: Some(BackendKind::Xfs), ..small };
    assert_eq!(order(other_kind, &three()), Ok(ids(&[2])));

    let unknown = pool_id(77);
    let refusal = order(Wish { source: Some(&unknown), ..copy }, &[down("a"), down("b")]).unwrap_err();
    assert!(refusal.to_string().contains("(no answer from a, b)"), "{refusal}");
    assert_eq!(Fault::from(refusal).code, Code::Unavailable);
}

#[test]
fn silent_hosts_are_passed_over_and_named() {
    let hosts = vec![down("a"), up("b", vec![pool(3, "btrfs", 4)])];
    assert_eq!(order(wish(&places(None, &["a"]), 1), &hosts), Ok(ids(&[3])));
    let refusal = order(wish(&Places::default(), 9), &hosts).unwrap_err();
    assert!(refusal.to_string().contains("the most is 4 GiB (no answer from a)"), "{refusal}");
    let refusal = order(wish(&places(Some(&["a"]), &[]), 1), &hosts).unwrap_err();
    assert_eq!(Fault::from(refusal).code, Code::Unavailable);
}

proptest! {
    #[test]
    fn whatever_is_chosen_is_allowed_has_room_and_is_ordered(
        free in proptest::collection::vec(0_u64..50, 1..8),
        requisite in proptest::option::of(proptest::collection::vec(0_usize..9, 0..4)),
        preferred in proptest::collection::vec(0_usize..9, 0..3),
        size in 1_u64..60,
    ) {
        let hosts: Vec<HostFacts> = (0..).zip(&free)
            .map(|(n, gib)| up(&format!("h{n}"), vec![pool(n, "btrfs", *gib)]))
            .collect();
        let name = |n: usize| host(&format!("h{n}"));
        let asked = Places {
            requisite: requisite.map(|hosts| hosts.into_iter().map(name).collect()),
            preferred: preferred.into_iter().map(name).collect(),
        };
        let fits = |facts: &HostFacts| {
            asked.allow(&facts.host)
                && facts.pools.as_ref().unwrap()[0].available >= Bytes::gib(size)
        };
        let expected = hosts.iter().filter(|facts| fits(facts)).count();
        let spots = rank(wish(&asked, size), &hosts, &Policy::default()).unwrap_or_default();
        prop_assert_eq!(spots.len(), expected, "refused only when nothing fits");
        let ranks: Vec<usize> = spots.iter().map(|spot| preference(&asked, &spot.host)).collect();
        prop_assert!(ranks.is_sorted());
        prop_assert!(spots.iter().all(|spot| asked.allow(&spot.host)));
    }
}
