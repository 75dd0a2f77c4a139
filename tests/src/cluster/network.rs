//! A bridge in the control plane's namespace, one cable to each node, and routes to the nodes' pods. Nothing of it is
//! in the host's network, and it ends with the namespaces.

use std::fmt::Write as _;

use anyhow::{Context, Result};

use super::launch::run_with;
use super::layout::{API_SERVICE, DNS_SERVICE};
use super::{Place, place};

/// Connects the places; `holder` knows who keeps each.
pub fn connect(holder: impl Fn(Place) -> Result<i32>) -> Result<()> {
    let control_plane = holder(Place::ControlPlane)?;
    let mut links = format!(
        "link set lo up\naddr add {API_SERVICE}/32 dev lo\naddr add {DNS_SERVICE}/32 dev lo\nlink add bridge type bridge\n\
         addr add {}/24 dev bridge\nlink set bridge up\n",
        Place::ControlPlane.address()
    );
    for node in Place::nodes() {
        let pid = holder(node)?;
        // Writing to a string cannot fail.
        let _ = write!(
            links,
            "link add {node} type veth peer name eth0 netns {pid}\nlink set {node} master bridge up\n{}",
            route_to(node)
        );
    }
    apply(control_plane, &links).context("cannot connect the control plane")?;
    for node in Place::nodes() {
        apply(holder(node)?, &node_links(node)).with_context(|| format!("cannot connect {node}"))?;
    }
    Ok(())
}

/// Addresses and routes of a node: whatever is not a pod of another node goes to the control plane.
fn node_links(node: Place) -> String {
    let others: String = Place::nodes().filter(|other| *other != node).map(route_to).collect();
    format!(
        "link set lo up\naddr add {}/24 dev eth0\nlink set eth0 up\nroute add default via {}\n{others}",
        node.address(),
        Place::ControlPlane.address(),
    )
}

fn route_to(node: Place) -> String {
    node.pod_range().map_or_else(String::new, |range| format!("route add {range} via {}\n", node.address()))
}

fn apply(holder: i32, batch: &str) -> Result<()> {
    run_with(place::enter(holder).args(["ip", "-batch", "-"]), batch)?;
    place::script(holder, "echo 1 > /proc/sys/net/ipv4/ip_forward", &[])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_routes_to_the_pods_of_the_others_and_not_to_its_own() {
        let links = node_links(Place::Node(2));
        assert!(links.contains("route add 10.78.1.0/24 via 10.77.0.11"), "{links}");
        assert!(links.contains("route add 10.78.3.0/24 via 10.77.0.13"), "{links}");
        assert!(!links.contains("10.78.2.0"), "{links}");
    }
}
