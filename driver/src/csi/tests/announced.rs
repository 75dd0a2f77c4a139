//! What the services announce is what docs/kubernetes.md says, each capability with its duty and the place where it is
//! done.

use std::collections::BTreeSet;
use std::path::Path;

use stillpoint_csi_proto::v1;
use v1::controller_client::ControllerClient;
use v1::group_controller_client::GroupControllerClient;
use v1::group_controller_service_capability::Type as GroupType;
use v1::identity_client::IdentityClient;
use v1::node_client::NodeClient;
use v1::{
    controller_service_capability as controller, node_service_capability as node, plugin_capability as plugin,
};

use super::model::World;

const DOCS: &str = include_str!("../../../../docs/kubernetes.md");

/// (service, capability, duty, where) of each row.
fn table() -> Vec<[String; 4]> {
    let (_, section) = DOCS.split_once("## What the driver announces").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| Service"));
    let cells = |line: &str| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect();
    rows.map(|line| <Vec<String>>::try_into(cells(line)).unwrap_or_else(|_| panic!("four cells: {line}")))
        .collect()
}

async fn announced() -> BTreeSet<(String, String)> {
    let world = World::start().await;
    let mut all = BTreeSet::new();
    let mut add = |service: &str, name: &str| {
        assert!(all.insert((service.to_owned(), name.to_owned())), "{name} twice");
    };

    let mut identity = IdentityClient::new(world.controller.clone());
    let answer = identity.get_plugin_capabilities(v1::GetPluginCapabilitiesRequest {}).await.unwrap();
    for one in answer.into_inner().capabilities {
        add(
            "plugin",
            match one.r#type.unwrap() {
                plugin::Type::Service(service) => service.r#type().as_str_name(),
                plugin::Type::VolumeExpansion(kind) => kind.r#type().as_str_name(),
            },
        );
    }
    let mut client = ControllerClient::new(world.controller.clone());
    let answer = client.controller_get_capabilities(v1::ControllerGetCapabilitiesRequest {}).await.unwrap();
    for one in answer.into_inner().capabilities {
        let Some(controller::Type::Rpc(rpc)) = one.r#type else { panic!("empty") };
        add("controller", rpc.r#type().as_str_name());
    }
    let mut client = GroupControllerClient::new(world.controller.clone());
    let answer = client.group_controller_get_capabilities(v1::GroupControllerGetCapabilitiesRequest {}).await;
    for one in answer.unwrap().into_inner().capabilities {
        let Some(GroupType::Rpc(rpc)) = one.r#type else { panic!("empty") };
        add("group", rpc.r#type().as_str_name());
    }
    let mut client = NodeClient::new(world.node.clone());
    let answer = client.node_get_capabilities(v1::NodeGetCapabilitiesRequest {}).await.unwrap();
    for one in answer.into_inner().capabilities {
        let Some(node::Type::Rpc(rpc)) = one.r#type else { panic!("empty") };
        add("node", rpc.r#type().as_str_name());
    }
    all
}

#[tokio::test]
async fn each_announced_capability_is_in_the_documentation_with_its_duty_and_its_place() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let driver_object = include_str!("../../../../deploy/kustomize/driver.yaml");
    let mut documented = BTreeSet::new();
    for [service, name, duty, place] in table() {
        assert!(!duty.is_empty(), "{name} has no duty");
        let is_there = top.join("src").join(&place).is_file() || top.join("..").join(&place).is_file();
        assert!(is_there, "{name}: {place} is not there");
        if service == "CSIDriver" {
            assert!(driver_object.contains(&format!("  {name}\n")), "the CSIDriver does not say {name}");
        } else {
            assert!(documented.insert((service, name.clone())), "{name} is there twice");
        }
    }
    assert_eq!(announced().await, documented);
}

/// The kubelet leaves ownership to a driver that announces it, all of it, by both policies.
#[tokio::test]
async fn the_ownership_of_files_stays_with_the_kubelet() {
    let all = announced().await;
    assert!(!all.iter().any(|(_, name)| name == "VOLUME_MOUNT_GROUP"), "{all:?}");
    assert!(include_str!("../../../../deploy/kustomize/driver.yaml").contains("fsGroupPolicy: File"));
}
