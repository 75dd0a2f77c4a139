//! The manifests in deploy/kustomize, as far as they can be checked without a cluster: each is well-formed, nobody may do
//! more than the table in docs/kubernetes.md says, and what they set is what the program reads.

#![allow(clippy::unwrap_used, clippy::panic)] // what tests call is a test
#![allow(clippy::case_sensitive_file_extension_comparisons)] // our own files

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use serde_json::Value;
use stillpoint::args::Args;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kustomize")
}

/// Every document of a file. Text goes to a JSON value, which is what the API server would get.
fn documents(file: &str) -> Vec<Value> {
    let text = fs::read_to_string(directory().join(file)).unwrap();
    let parse = |part: &str| {
        let mut yaml: serde_yaml::Value =
            serde_yaml::from_str(part).unwrap_or_else(|why| panic!("{file}: {why}"));
        yaml.apply_merge().unwrap();
        serde_json::to_value(yaml).unwrap()
    };
    text.split("\n---\n").map(parse).filter(|document| !document.is_null()).collect()
}

fn resources() -> Vec<String> {
    let list = documents("kustomization.yaml").remove(0);
    strings(&list["resources"]).into_iter().filter(|name| name.ends_with(".yaml")).collect()
}

fn all() -> Vec<Value> {
    resources().iter().flat_map(|file| documents(file)).collect()
}

fn strings(list: &Value) -> Vec<String> {
    let items = list.as_array().map_or(&[][..], Vec::as_slice);
    items.iter().map(|item| item.as_str().unwrap().to_owned()).collect()
}

fn of_kind<'a>(all: &'a [Value], kind: &str) -> Vec<&'a Value> {
    all.iter().filter(|document| document["kind"] == kind).collect()
}

fn named<'a>(all: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let found = of_kind(all, kind).into_iter().find(|document| document["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("there is no {kind} {name}"))
}

#[test]
fn every_document_is_a_named_object_and_every_file_is_listed() {
    let mut seen = BTreeSet::new();
    for document in all() {
        assert!(document["apiVersion"].is_string(), "{document}");
        let id = format!("{} {}", document["kind"], document["metadata"]["name"].as_str().unwrap());
        assert!(seen.insert(id.clone()), "{id} is there twice");
    }
    let listed: BTreeSet<String> = resources().into_iter().collect();
    let files =
        fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let files: BTreeSet<String> = files.filter(|name| name != "kustomization.yaml").collect();
    assert_eq!(files, listed);
    assert!(seen.len() > 20);
}

#[test]
fn agent_and_guard_have_no_permission_and_no_token_of_the_api_server() {
    let all = all();
    for account in ["stillpoint-agent", "stillpoint-guard"] {
        assert_eq!(named(&all, "ServiceAccount", account)["automountServiceAccountToken"], false);
        let pod = &named(&all, "DaemonSet", account)["spec"]["template"]["spec"];
        assert_eq!(pod["automountServiceAccountToken"], false);
        assert_eq!(pod["serviceAccountName"], account);
    }
    let bindings = of_kind(&all, "ClusterRoleBinding").into_iter().chain(of_kind(&all, "RoleBinding"));
    let mut bound = 0;
    for binding in bindings {
        for subject in binding["subjects"].as_array().unwrap() {
            assert_eq!(subject["kind"], "ServiceAccount", "no user and no group: {binding}");
            assert_eq!(subject["name"], "stillpoint-controller", "{binding}");
            assert_eq!(subject["namespace"], "stillpoint-system");
            bound += 1;
        }
    }
    assert!(bound > 0, "the test looks at bindings");
    let projected = &named(&all, "DaemonSet", "stillpoint-agent")["spec"]["template"]["spec"]["volumes"];
    let tokens = projected.to_string().matches("serviceAccountToken").count();
    assert_eq!((tokens, projected.to_string().contains(r#""audience":"stillpoint""#)), (1, true));
}

#[test]
fn the_right_to_run_commands_is_bound_to_nobody() {
    let all = all();
    let exec = &named(&all, "ClusterRole", "stillpoint-exec")["rules"];
    assert_eq!(exec.as_array().unwrap().len(), 1);
    assert_eq!(strings(&exec[0]["resources"]), ["pods/exec"]);
    for binding in of_kind(&all, "ClusterRoleBinding").into_iter().chain(of_kind(&all, "RoleBinding")) {
        assert_ne!(binding["roleRef"]["name"], "stillpoint-exec");
        assert_ne!(binding["roleRef"]["name"], "stillpoint-secrets");
    }
}

#[test]
fn no_role_has_a_wildcard_and_secrets_are_read_by_name_only() {
    let all = all();
    for role in of_kind(&all, "ClusterRole").into_iter().chain(of_kind(&all, "Role")) {
        for rule in role["rules"].as_array().unwrap() {
            assert!(!rule.to_string().contains('*'), "{rule}");
            let resources = strings(&rule["resources"]);
            let is_exec = resources.iter().any(|resource| resource == "pods/exec");
            assert_eq!(is_exec, role["metadata"]["name"] == "stillpoint-exec", "{rule}");
            if role["metadata"]["name"] == "stillpoint-secrets" {
                assert_eq!(
                    (resources, strings(&rule["verbs"])),
                    (vec!["secrets".into()], vec!["get".into()])
                );
            } else if resources.iter().any(|resource| resource == "secrets") {
                assert_eq!(role["kind"], "Role", "only in the own namespace");
                let verbs = strings(&rule["verbs"]);
                let by_name = strings(&rule["resourceNames"]) == ["stillpoint-ca"] && verbs == ["get"];
                assert!(by_name || verbs == ["create"], "{rule}");
            }
        }
    }
}

/// One row per rule of a role, as the documentation shows it.
fn table() -> Vec<String> {
    let all = all();
    let mut rows = Vec::new();
    for role in of_kind(&all, "ClusterRole").into_iter().chain(of_kind(&all, "Role")) {
        let name = role["metadata"]["name"].as_str().unwrap();
        for rule in role["rules"].as_array().unwrap() {
            let groups = strings(&rule["apiGroups"]);
            let group = groups.iter().map(|group| if group.is_empty() { "core" } else { group });
            let names = strings(&rule["resourceNames"]);
            let only = if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) };
            rows.push(format!(
                "| {name} | {} | {}{only} | {} |",
                group.collect::<Vec<_>>().join(", "),
                strings(&rule["resources"]).join(", "),
                strings(&rule["verbs"]).join(", ")
            ));
        }
    }
    rows
}

#[test]
fn the_documented_table_of_permissions_is_the_one_that_is_installed() {
    let docs = fs::read_to_string(directory().join("../../docs/kubernetes.md")).unwrap();
    let documented: Vec<&str> = docs.lines().filter(|line| line.starts_with("| stillpoint-")).collect();
    let rows = table();
    assert_eq!(documented, rows, "docs/kubernetes.md must have these rows:\n{}", rows.join("\n"));
}

/// Values of the flags of a container, by `container` and `--flag`.
fn flags() -> BTreeMap<(String, String), String> {
    let all = all();
    let containers =
        &named(&all, "Deployment", "stillpoint-controller")["spec"]["template"]["spec"]["containers"];
    let mut flags = BTreeMap::new();
    for container in containers.as_array().unwrap() {
        for flag in strings(&container["args"]).iter().filter_map(|flag| flag.split_once('=')) {
            let name = container["name"].as_str().unwrap().to_owned();
            flags.insert((name, flag.0.to_owned()), flag.1.to_owned());
        }
    }
    flags
}

#[test]
fn the_sidecars_have_the_limits_that_the_documentation_says() {
    let docs = fs::read_to_string(directory().join("../../docs/kubernetes.md")).unwrap();
    let (_, section) = docs.split_once("## Limits of the sidecars").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let flags = flags();
    let mut compared = 0;
    for row in section.lines().filter(|line| line.starts_with("| ") && line.contains("`--")) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let sidecars = match cells[0] {
            "all" => vec!["csi-provisioner", "csi-snapshotter", "csi-resizer"],
            names => names.split(", ").collect(),
        };
        let names = cells[1].split(", ").map(|name| name.trim_matches('`'));
        for (flag, value) in names.zip(cells[3].split(", ")) {
            for sidecar in &sidecars {
                let set = flags.get(&((*sidecar).to_owned(), flag.to_owned()));
                assert_eq!(set.map(String::as_str), Some(value), "{flag} of {sidecar}");
                compared += 1;
            }
        }
    }
    assert!(compared > 20, "{compared}");
}

/// Environment variables that a subcommand reads, and their defaults.
fn options(subcommand: &str) -> BTreeMap<String, Option<String>> {
    let command = Args::command();
    let command = command.find_subcommand(subcommand).unwrap();
    let read = command.get_arguments().filter_map(|argument| {
        let default = argument.get_default_values().first().map(|value| value.to_string_lossy().into_owned());
        Some((argument.get_env()?.to_str()?.to_owned(), default))
    });
    read.collect()
}

#[test]
fn every_setting_is_an_option_of_the_program_and_nothing_that_is_needed_is_missing() {
    let all = all();
    for (kind, name, container, subcommand) in [
        ("DaemonSet", "stillpoint-agent", "agent", "node-agent"),
        ("Deployment", "stillpoint-controller", "controller", "controller"),
    ] {
        let containers = &named(&all, kind, name)["spec"]["template"]["spec"]["containers"];
        let container = containers.as_array().unwrap().iter().find(|one| one["name"] == container).unwrap();
        assert_eq!(strings(&container["args"]), [subcommand]);
        let direct = container["env"].as_array().unwrap().iter();
        let mut set: BTreeSet<String> = direct.map(|env| env["name"].as_str().unwrap().to_owned()).collect();
        let map = container["envFrom"][0]["configMapRef"]["name"].as_str().unwrap();
        let data = named(&all, "ConfigMap", map)["data"].as_object().unwrap();
        set.extend(data.keys().cloned());
        let known = options(subcommand);
        for name in &set {
            assert!(known.contains_key(name), "{subcommand} does not read {name}");
        }
        let needed = known.iter().filter(|(_, default)| default.is_none()).map(|(name, _)| name);
        for name in needed {
            assert!(set.contains(name), "{subcommand} needs {name}");
        }
        for (name, value) in data {
            let default = known[name].as_deref().unwrap_or_default();
            assert_eq!(value.as_str().unwrap(), default, "{name}: what is shipped is the default");
        }
    }
}

#[test]
fn paths_and_ports_of_the_agents_pod_are_those_that_the_program_uses() {
    let all = all();
    let pod = &named(&all, "DaemonSet", "stillpoint-agent")["spec"]["template"]["spec"];
    let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
    let mounted = |path: &str| {
        mounts.iter().find(|mount| Path::new(path).starts_with(mount["mountPath"].as_str().unwrap()))
    };
    let options = options("node-agent");
    let default = |name: &str| options[name].clone().unwrap();
    for (name, propagation) in [
        ("STILLPOINT_POOL", Some("Bidirectional")),
        ("STILLPOINT_POOL_FILE", Some("Bidirectional")),
        ("STILLPOINT_STATE_DIR", Some("Bidirectional")),
        ("STILLPOINT_KUBELET_DIR", Some("Bidirectional")),
        ("STILLPOINT_GUARD_SOCKET", None),
        ("STILLPOINT_TRUST", None),
        ("STILLPOINT_TOKEN", None),
    ] {
        let mount = mounted(&default(name)).unwrap_or_else(|| panic!("{name} is in no mount"));
        assert_eq!(mount["mountPropagation"].as_str(), propagation, "{name}");
    }
    // Paths are told to the kubelet and found in the mount table, so they are the same outside and inside.
    for mount in mounts {
        let volume =
            pod["volumes"].as_array().unwrap().iter().find(|one| one["name"] == mount["name"]).unwrap();
        if volume["hostPath"].is_object() {
            assert_eq!(volume["hostPath"]["path"], mount["mountPath"]);
        }
    }
    for (name, port) in [("STILLPOINT_LISTEN", "9700"), ("STILLPOINT_HEALTH_LISTEN", "9701")] {
        assert!(default(name).ends_with(&format!(":{port}")));
        assert!(pod["containers"][0]["ports"].to_string().contains(port));
    }
    let guard = &named(&all, "DaemonSet", "stillpoint-guard")["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(strings(&guard["args"]), ["--socket", &default("STILLPOINT_GUARD_SOCKET")]);
}

#[test]
fn a_rule_is_admitted_only_from_somebody_who_may_exec() {
    let all = all();
    let policy = &named(&all, "ValidatingAdmissionPolicy", "stillpoint-rule-author")["spec"];
    assert_eq!(policy["failurePolicy"], "Fail");
    let validation = policy["validations"][0]["expression"].as_str().unwrap();
    for part in [
        "resource('pods')",
        "subresource('exec')",
        "namespace(request.namespace)",
        "check('create').allowed()",
    ] {
        assert!(validation.contains(part), "{validation}");
    }
    assert_eq!(strings(&policy["matchConstraints"]["resourceRules"][0]["operations"]), ["CREATE", "UPDATE"]);
    let binding = &named(&all, "ValidatingAdmissionPolicyBinding", "stillpoint-rule-author")["spec"];
    assert_eq!(strings(&binding["validationActions"]), ["Deny"]);
}

#[test]
fn metrics_are_found_where_the_manifests_say() {
    let all = all();
    for (kind, name, command) in [
        ("DaemonSet", "stillpoint-agent", "node-agent"),
        ("Deployment", "stillpoint-controller", "controller"),
    ] {
        let template = &named(&all, kind, name)["spec"]["template"];
        let ports = template["spec"]["containers"][0]["ports"].as_array().unwrap();
        let port = ports.iter().find(|port| port["name"] == "metrics").unwrap()["containerPort"].to_string();
        let args = Args::command();
        let command = args.find_subcommand(command).unwrap();
        let option = command.get_arguments().find(|option| option.get_id() == "metrics_listen").unwrap();
        let default = option.get_default_values()[0].to_str().unwrap();
        assert!(default.ends_with(&format!(":{port}")), "{name}: {default} and {port}");
        let annotations = &template["metadata"]["annotations"];
        assert_eq!(annotations["prometheus.io/port"], port);
        assert_eq!(annotations["prometheus.io/scrape"], "true");
    }
}
