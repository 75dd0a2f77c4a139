//! Brings a cluster up, from nothing to three Ready nodes.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::launch::Started;
use super::layout::NODES;
use super::{
    Kubectl, Layout, Place, addons, certificates, controlplane, debian, down, images, network, node, place,
    services, tools,
};
use crate::harness::Step;

const API_LIMIT: Duration = Duration::from_secs(90);
const NODES_LIMIT: Duration = Duration::from_secs(90);

/// Builds what is missing and starts the cluster; a cluster that is healthy stays as it is and gets new images.
pub fn up(layout: &Layout) -> Result<Kubectl> {
    prepare(layout)?;
    if is_healthy(layout) {
        println!("  ✓ the cluster {:?} is up already", layout.name());
    } else {
        if down::exists(layout)? {
            let step = Step::begin("removing what is left of the last cluster");
            down::down(layout)?;
            step.done();
        }
        start(layout)?;
    }
    let kubectl = Kubectl::of(layout)?;
    let step = Step::begin("installing the snapshot CRDs and the snapshot controller");
    addons::install(layout, &kubectl)?;
    addons::wait(&kubectl)?;
    step.done();
    Ok(kubectl)
}

/// Builds what is missing, for all clusters of this machine.
pub fn prepare(layout: &Layout) -> Result<()> {
    let _lock = layout.lock_cache()?;
    tools::build(layout)?;
    debian::unpack(layout)
}

/// Builds what the external-storage suite needs; the caller has locked the cache.
pub fn prepare_suite(layout: &Layout) -> Result<()> {
    tools::build_suite(layout)?;
    debian::unpack(layout)
}

/// Whether the API server answers and all nodes are Ready.
pub fn is_healthy(layout: &Layout) -> bool {
    Place::all().all(|place| place::holder(layout, place).is_some())
        && Kubectl::of(layout)
            .is_ok_and(|kubectl| ready_nodes(&kubectl).is_ok_and(|ready| ready == usize::from(NODES)))
}

fn start(layout: &Layout) -> Result<()> {
    let step = Step::begin("making namespaces and network");
    certificates::write(layout)?;
    for place in Place::all() {
        place::make(layout, place)?;
    }
    let holder = |place| place::holder(layout, place).with_context(|| format!("{place} has ended"));
    network::connect(holder)?;
    step.done();

    let step = Step::begin("starting etcd, API server and containerd");
    let control_plane = holder(Place::ControlPlane)?;
    let mut started = controlplane::start_api(layout, control_plane)?;
    for node in Place::nodes() {
        started.push(node::start_containerd(layout, node, holder(node)?)?);
    }
    let kubectl = Kubectl::of(layout)?;
    wait_for("the API server", API_LIMIT, &started, || {
        kubectl.run(&["get", "--raw", "/readyz"]).map(|_| true)
    })?;
    step.done();

    load(layout)?;

    let step = Step::begin("starting controllers and kubelets");
    started.extend(controlplane::start_controllers(layout, control_plane)?);
    started.push(services::start_dns(layout, control_plane)?);
    for node in Place::nodes() {
        started.push(services::start_proxy(layout, node, holder(node)?)?);
        started.push(node::start_kubelet(layout, node, holder(node)?)?);
    }
    wait_for(
        "three Ready nodes",
        NODES_LIMIT,
        &started,
        || Ok(ready_nodes(&kubectl)? == usize::from(NODES)),
    )?;
    step.done();
    Ok(())
}

/// Imports pause, busybox and the sidecars.
fn load(layout: &Layout) -> Result<()> {
    // Packed where all clusters have them, and read from there.
    let _lock = layout.lock_cache()?;
    let step = Step::begin("packing images");
    let stock = images::stock::stock(layout)?;
    step.done();
    let step = Step::begin("importing images into the nodes");
    for image in &stock {
        step.detail(&image.name);
        images::import(layout, image)?;
    }
    step.done();
    Ok(())
}

/// Packs Stillpoint from the binaries in a directory and imports it.
pub fn load_stillpoint(layout: &Layout, binaries: &Path) -> Result<addons::Image> {
    let step = Step::begin("packing and importing stillpoint:dev");
    let image = images::stock::stillpoint(layout, binaries)?;
    let changed = images::import(layout, &image)?;
    step.done_with(if changed { "new" } else { "unchanged" });
    Ok(if changed { addons::Image::Changed } else { addons::Image::Same })
}

fn ready_nodes(kubectl: &Kubectl) -> Result<usize> {
    let path = r#"{.items[*].status.conditions[?(@.type=="Ready")].status}"#;
    Ok(kubectl.get(&["nodes"], path)?.split_whitespace().filter(|status| *status == "True").count())
}

/// Polls until something is so; fails early when a program has ended, and late with the last error.
fn wait_for(
    what: &str,
    limit: Duration,
    started: &[Started],
    mut is_so: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let end = Instant::now() + limit;
    loop {
        let last = is_so();
        if matches!(last, Ok(true)) {
            return Ok(());
        }
        started.iter().try_for_each(Started::check)?;
        if Instant::now() > end {
            match last {
                Err(error) => return Err(error).with_context(|| format!("{what}: not within {limit:?}")),
                Ok(_) => bail!("{what}: not within {limit:?}; the logs say why"),
            }
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}
