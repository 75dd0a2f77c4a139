//! Places. Ours are single hosts under one key; a term with any other key names a place that cannot be ours.

use stillpoint_csi_proto::v1;

use crate::controller::orders::{Place, Places};
use crate::domain::HostName;

/// The key under which a host is a place.
pub const TOPOLOGY_KEY: &str = "topology.stillpoint.dev/node";

fn host(term: &v1::Topology) -> Option<HostName> {
    if term.segments.len() != 1 {
        return None;
    }
    term.segments.get(TOPOLOGY_KEY)?.parse().ok()
}

/// Where a volume may be and should be. Terms that cannot be ours are left out.
pub fn places(given: Option<&v1::TopologyRequirement>) -> Places {
    let Some(given) = given else { return Places::default() };
    let hosts = |terms: &[v1::Topology]| terms.iter().filter_map(host).collect::<Vec<_>>();
    Places {
        requisite: (!given.requisite.is_empty()).then(|| hosts(&given.requisite)),
        preferred: hosts(&given.preferred),
    }
}

/// One place in a question for capacity.
pub fn place(given: Option<&v1::Topology>) -> Place {
    match given {
        None => Place::Anywhere,
        Some(term) if term.segments.is_empty() => Place::Anywhere,
        Some(term) => host(term).map_or(Place::Nowhere, Place::On),
    }
}
