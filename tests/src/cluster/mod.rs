//! A real Kubernetes of three nodes on one machine: no images, no registry, no containers around it.
//!
//! [`tools`] builds Kubernetes, etcd and containerd with Go; [`debian`] unpacks what Debian has; [`images`] writes
//! container images by hand. [`up`] puts it together: a [`place`] is a network and mount namespace with a
//! [`cgroups`] directory of its own, [`launch`] starts programs in it, [`network`] connects it, [`certificates`],
//! [`controlplane`], [`services`] and [`node`] fill it, [`addons`] brings the snapshot controller. [`kubectl`] asks it, [`suite`]
//! runs the external-storage suite of Kubernetes in it, [`down`] takes it apart. Where none of it can work, [`able`] says why.
//!
//! # Guarantees
//! * Networks, mounts and kernel settings exist only inside namespaces that end with their last process. The host
//!   has the run directory, the cache, and one cgroup directory `sp-<name>` per hierarchy.
//! * Every process is in such a cgroup, also containers and what outlived a crash: that is how [`down`] finds them.
//! * [`up::up`] and [`down::down`] can be repeated, also after a kill in the middle.

pub mod able;
pub mod addons;
pub mod certificates;
pub mod cgroups;
pub mod controlplane;
pub mod debian;
pub mod down;
pub mod images;
pub mod inside;
pub mod kubectl;
pub mod launch;
pub mod layout;
pub mod network;
pub mod node;
pub mod place;
pub mod services;
pub mod suite;
pub mod system;
pub mod tools;
pub mod up;
pub mod usage;
pub mod workspace;

pub use kubectl::Kubectl;
pub use layout::{Layout, Place};
