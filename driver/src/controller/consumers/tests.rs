use proptest::prelude::*;

use super::*;

fn node(name: &str) -> HostName {
    name.parse().unwrap()
}

fn nodes() -> Vec<HostName> {
    ["a", "b", "c"].map(node).to_vec()
}

/// A pod that fits everywhere.
fn pod(name: &str, unbound: usize) -> Pod {
    Pod {
        name: format!("shop/{name}"),
        uid: format!("uid-{name}"),
        node: None,
        unbound,
        fits: nodes().into_iter().map(|node| (node, Fit::Fits)).collect(),
    }
}

fn with(mut pod: Pod, at: &str, fit: Fit) -> Pod {
    pod.fits.insert(node(at), fit);
    pod
}

fn unsure() -> Fit {
    Fit::Unsure("its pod affinity may rule it out".into())
}

fn refuses() -> Fit {
    Fit::Refuses("node a cannot reach its volume".into())
}

fn waiting(selected: Option<&str>, pods: Vec<Pod>) -> Consumers {
    Consumers { selected: selected.map(node), pods }
}

/// All nodes are allowed, the first is preferred: what the provisioner sends without strict topology.
fn request(preferred: &str) -> Places {
    let mut order = nodes();
    order.sort_by_key(|one| one.as_str() != preferred);
    Places { requisite: Some(nodes()), preferred: order }
}

/// The nodes to which the volume may go, best first.
fn course(asked: Copies, consumers: &Consumers, source: Option<&str>) -> Vec<String> {
    let source = source.map(node);
    let preferred = consumers.selected.as_ref().map_or("b", HostName::as_str);
    let course = decide(asked, &request(preferred), consumers, &nodes(), source.as_ref());
    let mut allowed = course.places.requisite.unwrap();
    if course.copies == Copies::BesideSource {
        allowed.sort_by_key(|one| Some(one) != source.as_ref());
    }
    allowed.iter().map(ToString::to_string).collect()
}

#[test]
fn with_a_selected_node_a_copy_stays_at_its_source_only_where_its_pod_surely_can_run() {
    let table = [
        // The one claim of a pod that fits there.
        (vec![pod("p", 0)], Some("a"), vec!["a", "b"]),
        // Two claims at once: each would go to its own source.
        (vec![pod("p", 1)], Some("a"), vec!["b"]),
        // Another volume of the pod is elsewhere, or the pod may not run there.
        (vec![with(pod("p", 0), "a", refuses())], Some("a"), vec!["b"]),
        (vec![with(pod("p", 0), "a", unsure())], Some("a"), vec!["b"]),
        // Two pods share the claim, and one of them cannot follow.
        (vec![pod("p", 0), with(pod("q", 0), "a", refuses())], Some("a"), vec!["b"]),
        // Nobody knows for whom it is.
        (vec![], Some("a"), vec!["b"]),
        // The source is where the scheduler wants the pod.
        (vec![pod("p", 2)], Some("b"), vec!["b"]),
        // New volumes: never to a node that the scheduler has not selected.
        (vec![pod("p", 0)], None, vec!["b"]),
    ];
    for (pods, source, expected) in table {
        let consumers = waiting(Some("b"), pods);
        assert_eq!(course(Copies::Auto, &consumers, source), expected, "{consumers:?} from {source:?}");
    }
}

#[test]
fn the_class_can_force_either_way() {
    for pods in [vec![], vec![pod("p", 0)], vec![pod("p", 2)]] {
        let consumers = waiting(Some("b"), pods);
        assert_eq!(course(Copies::BesideSource, &consumers, Some("a"))[0], "a");
        assert_eq!(course(Copies::WherePreferred, &consumers, Some("a")), ["b"]);
    }
    let new = course(Copies::BesideSource, &waiting(Some("b"), vec![pod("p", 1)]), None);
    assert_eq!(new, ["b"], "the parameter is about copies");
}

#[test]
fn a_pod_that_runs_already_decides() {
    let running = Pod { node: Some(node("c")), ..pod("p", 0) };
    for source in [None, Some("a")] {
        assert_eq!(course(Copies::Auto, &waiting(Some("b"), vec![running.clone()]), source), ["c"]);
    }
}

#[test]
fn without_a_selected_node_a_volume_goes_where_the_other_volumes_of_its_pod_are() {
    let tied = with(with(pod("p", 0), "a", refuses()), "b", refuses());
    assert_eq!(course(Copies::Auto, &waiting(None, vec![tied.clone()]), Some("a")), ["c"]);
    assert_eq!(course(Copies::Auto, &waiting(None, vec![tied]), None), ["c"]);
    assert_eq!(course(Copies::Auto, &waiting(None, vec![pod("p", 0)]), Some("a")), ["a", "b", "c"]);
    let doubtful = with(pod("p", 0), "a", unsure());
    assert_eq!(course(Copies::Auto, &waiting(None, vec![doubtful]), Some("a")), ["b", "c", "a"]);
    assert_eq!(course(Copies::Auto, &waiting(None, vec![]), Some("a"))[0], "a", "nobody waits yet");
}

#[test]
fn what_the_request_forbids_is_never_chosen() {
    let only_a = Places { requisite: Some(vec![node("a")]), preferred: vec![] };
    for consumers in
        [waiting(Some("b"), vec![pod("p", 1)]), waiting(None, vec![pod("p", 1)]), waiting(None, vec![])]
    {
        let course = decide(Copies::Auto, &only_a, &consumers, &nodes(), Some(&node("c")));
        assert_eq!(course.places.requisite, Some(vec![node("a")]), "{consumers:?}");
    }
}

proptest! {
    /// However many claims a pod has, wherever their sources are, in whichever order they are provisioned and however many
    /// of them are bound meanwhile: there is a node that can reach all of its volumes.
    #[test]
    fn all_volumes_of_a_pod_can_be_reached_from_one_node(
        selected in proptest::option::of(0_usize..3),
        sources in proptest::collection::vec(proptest::option::of(0_usize..3), 1..5),
        doubts in proptest::collection::vec(0_u8..3, 3),
        at_once: bool,
        uid in "[a-z]{1,8}",
    ) {
        let all = nodes();
        // The scheduler selects no node that refuses the pod.
        let refused = |at: usize| doubts[at] == 2 && selected != Some(at);
        prop_assume!((0..3).any(|at| !refused(at)));
        let mut made: Vec<HostName> = Vec::new();
        for (index, source) in sources.iter().enumerate() {
            let bound: &[HostName] = if at_once { &[] } else { &made };
            let mut one = Pod { uid: uid.clone(), ..pod("p", sources.len() - 1 - bound.len()) };
            for (at, node) in all.iter().enumerate() {
                let fit = match doubts[at] {
                    _ if refused(at) || bound.iter().any(|bound| bound != node) => refuses(),
                    0 => Fit::Fits,
                    _ => unsure(),
                };
                one.fits.insert(node.clone(), fit);
            }
            // Where volumes are bound, the scheduler can select only their node.
            let selected = selected.map(|at| bound.first().cloned().unwrap_or_else(|| all[at].clone()));
            let consumers = Consumers { selected, pods: vec![one] };
            let source = source.map(|at| all[at].clone());
            let course = decide(Copies::Auto, &request("b"), &consumers, &all, source.as_ref());
            let nodes = course.places.requisite.unwrap();
            // The best one, or any other where the best ones are full.
            made.push(nodes[index % nodes.len()].clone());
        }
        let first = &made[0];
        prop_assert!(made.iter().all(|node| node == first), "{made:?}");
        let at = all.iter().position(|node| node == first).unwrap();
        prop_assert!(!refused(at), "the pod cannot run on {first}");
    }
}
