//! The whole of it as processes: three agents whose kernel is a model in memory, a standalone controller, volumes made
//! through CSI, and the command line. Needs neither root nor devices.

// Helpers of tests may unwrap like tests.
#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use serde_json::Value;
use stillpoint_csi_proto::v1::controller_client::ControllerClient;
use stillpoint_csi_proto::v1::{
    CreateVolumeRequest, Topology, TopologyRequirement, VolumeCapability, volume_capability,
};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

/// Generous: everything here takes well under a second.
const PATIENCE: Duration = Duration::from_secs(30);
const TOPOLOGY_KEY: &str = "topology.stillpoint.dev/node";

/// Processes that are ended with the test.
struct World {
    directory: tempfile::TempDir,
    processes: Vec<Child>,
}

impl Drop for World {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl World {
    fn start(hosts: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut world = Self { directory, processes: Vec::new() };
        let names: Vec<String> = (1..=hosts).map(|number| format!("node-{number}")).collect();
        let pki = world.path("pki");
        let mut words = vec!["pki", "init", pki.to_str().unwrap()];
        words.extend(names.iter().flat_map(|name| ["--agent", name]));
        assert!(world.stillpoint(&words).status.success());
        let mut agents = String::new();
        for name in &names {
            let port = free_port();
            world.agent(name, port);
            writeln!(agents, "- {{host: {name}, address: '127.0.0.1:{port}'}}").unwrap();
        }
        world.write("standalone.yaml", &format!("{CONTROLLER}\nagents:\n{agents}{PODS}"));
        world.serve("standalone", "standalone.yaml");
        world.wait_for("op.sock");
        world
    }

    fn agent(&mut self, name: &str, port: u16) {
        let pool = self.path(&format!("pool-{name}"));
        std::fs::create_dir(&pool).unwrap();
        let directory = self.directory.path().display();
        let text = format!(
            "host: {name}\nlisten: 127.0.0.1:{port}\n\
             tls: {{ca: {directory}/pki/ca.crt, cert: {directory}/pki/agents/{name}.crt, key: {directory}/pki/agents/{name}.key}}\n\
             pools: [{directory}/pool-{name}]\nstateDir: {directory}/state-{name}\nkernel: memory\n"
        );
        self.write(&format!("{name}.yaml"), &text);
        self.serve("agent", &format!("{name}.yaml"));
        let start = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(start.elapsed() < PATIENCE, "the agent of {name} does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn serve(&mut self, what: &str, config: &str) {
        let log = std::fs::File::create(self.path(&format!("{config}.log"))).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_stillpoint"))
            .args([what, "--config"])
            .arg(self.path(config))
            .stderr(log)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        self.processes.push(process);
    }

    fn wait_for(&self, socket: &str) {
        let start = Instant::now();
        while std::os::unix::net::UnixStream::connect(self.path(socket)).is_err() {
            assert!(start.elapsed() < PATIENCE, "{socket} does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn stillpoint(&self, words: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_stillpoint"))
            .args(words)
            .env("STILLPOINT_SOCKET", self.path("op.sock"))
            .env_remove("STILLPOINT_LOG")
            .output()
            .unwrap()
    }

    /// Standard output of a command that succeeds.
    fn ok(&self, words: &[&str]) -> String {
        let output = self.stillpoint(words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, words: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[words, &["-o", "json"]].concat())).unwrap()
    }

    /// Exit code and the one line of a command that fails.
    fn fails(&self, words: &[&str]) -> (i32, String) {
        let output = self.stillpoint(words);
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(told.lines().filter(|line| line.starts_with("stillpoint: ")).count(), 1, "{told}");
        (output.status.code().unwrap(), told)
    }
}

const CONTROLLER: &str = "csiSocket: csi.sock
operatorSocket: op.sock
stateDir: state
tls: {ca: pki/ca.crt, cert: pki/controller.crt, key: pki/controller.key}";

const PODS: &str = "pods:
- {name: db-0, labels: {app: db}, host: node-1, volumes: [data-1]}
- {name: db-1, labels: {app: db}, host: node-2, volumes: [data-2]}
- {name: other, labels: {app: other}, host: node-2, volumes: [data-9]}
";

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

async fn controller(socket: &Path) -> ControllerClient<Channel> {
    let path = socket.to_owned();
    let connector = service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://csi.sock");
    ControllerClient::new(endpoint.connect_with_connector(connector).await.unwrap())
}

fn volume_request(name: &str, host: &str) -> CreateVolumeRequest {
    let place = Topology { segments: [(TOPOLOGY_KEY.to_owned(), host.to_owned())].into() };
    let mode = volume_capability::access_mode::Mode::SingleNodeWriter;
    CreateVolumeRequest {
        name: name.into(),
        parameters: [("stillpoint.dev/backend".to_owned(), "memory".to_owned())].into(),
        volume_capabilities: vec![VolumeCapability {
            access_type: Some(
                volume_capability::AccessType::Mount(volume_capability::MountVolume::default()),
            ),
            access_mode: Some(volume_capability::AccessMode { mode: mode.into() }),
        }],
        accessibility_requirements: Some(TopologyRequirement { requisite: vec![place], preferred: vec![] }),
        ..CreateVolumeRequest::default()
    }
}

#[tokio::test]
async fn volumes_are_cut_over_hosts_shown_restored_and_deleted_from_the_command_line() {
    let world = World::start(2);
    let mut csi = controller(&world.path("csi.sock")).await;
    for (name, host) in [("data-1", "node-1"), ("data-2", "node-2")] {
        csi.create_volume(volume_request(name, host)).await.unwrap();
    }
    let listed = world.json(&["volumes"]);
    let names: Vec<_> =
        listed.as_array().unwrap().iter().map(|v| (v["name"].clone(), v["host"].clone())).collect();
    assert_eq!(names, [("data-1".into(), "node-1".into()), ("data-2".into(), "node-2".into())]);

    let touched = world.path("touched");
    let rule = format!(
        "kind: Rule\nname: touch\npodSelector: {{app: db}}\ntype: command\nvalue: touch {}\n",
        touched.display()
    );
    world.write("rule.yaml", &rule);
    let rule = world.path("rule.yaml");
    let snapshot = ["snapshot", "-l", "app=db", "--name", "first", "--rule", rule.to_str().unwrap()];

    let plan = world.ok(&[&snapshot[..], &["--plan"]].concat());
    for shown in ["db-0", "db-1", "data-1", "data-2", "node-1", "node-2", "touch"] {
        assert!(plan.contains(shown), "{shown} in\n{plan}");
    }
    assert!(!touched.exists(), "a plan has executed something");

    let made = world.json(&snapshot);
    assert!(touched.exists());
    assert_eq!(made["cut"]["volumes"], 2);
    assert_eq!(made["cut"]["hosts"], 2);
    assert_eq!(made["run"]["attempts"].as_array().unwrap().len(), 2);
    assert_eq!(world.json(&snapshot)["cut"]["id"], made["cut"]["id"], "the same name is the same cut");
    assert_eq!(world.json(&["snapshots"]).as_array().unwrap().len(), 1);

    let picture = world.ok(&["timeline", "first", "-o", "html"]);
    assert!(picture.contains("<svg") && picture.contains("data-2") && picture.contains("db-1"));
    let text = world.ok(&["timeline", "first"]);
    assert!(text.contains("data-1") && text.contains("touch"), "{text}");

    let restored = world.json(&["restore", "first", "--prefix", "r-"]);
    let places: Vec<_> =
        restored.as_array().unwrap().iter().map(|v| (v["name"].clone(), v["host"].clone())).collect();
    assert_eq!(places, [("r-data-1".into(), "node-1".into()), ("r-data-2".into(), "node-2".into())]);
    let mut again = world.json(&["restore", "first", "--prefix", "r-"]);
    for (again, made) in again.as_array_mut().unwrap().iter_mut().zip(restored.as_array().unwrap()) {
        assert_eq!((&made["existed"], &again["existed"]), (&false.into(), &true.into()), "it says so");
        again["existed"] = false.into();
    }
    assert_eq!(again, restored, "a restore can be repeated");
    let table = world.ok(&["restore", "first", "--prefix", "r-"]);
    assert!(table.contains("existed, made 20"), "{table}");

    world.ok(&["delete", "first"]);
    assert_eq!(world.fails(&["timeline", "first"]).0, 4);
    assert!(world.ok(&["volumes"]).contains("r-data-2"), "restored volumes live on without their cut");
}

#[tokio::test]
async fn what_is_wrong_is_told_in_one_line_with_its_exit_code() {
    let world = World::start(2);
    let mut csi = controller(&world.path("csi.sock")).await;
    csi.create_volume(volume_request("data-1", "node-1")).await.unwrap();
    world.write("misspelt.yaml", "kind: Rule\nname: x\npodSelector: {app: db}\ntype: command\nvlaue: x\n");
    world.write("garbage.yaml", &"[".repeat(10_000_000));
    let misspelt = world.path("misspelt.yaml");
    let garbage = world.path("garbage.yaml");
    for (words, code, part) in [
        (&["snapshot", "-l", "app=nobody"][..], 4, "app=nobody"),
        (&["snapshot", "-l", "app=other"], 1, "data-9"),
        (&["snapshot", "--volume", "nothing"], 4, "nothing"),
        (&["snapshot"], 2, "nothing to cut"),
        (&["snapshot", "--volume", "data-1", "--name", "../../etc"], 2, "../../etc"),
        (&["snapshot", "--volume", "data-1", "--rule", misspelt.to_str().unwrap()], 2, "vlaue"),
        (&["snapshot", "--volume", "data-1", "--rule", garbage.to_str().unwrap()], 2, "garbage.yaml"),
        (&["rule", "convert", misspelt.to_str().unwrap()], 2, "vlaue"),
        (&["restore", "nothing", "--prefix", "r-"], 4, "nothing"),
        (&["delete", "nothing"], 4, "nothing"),
        (&["schedules", "nothing"], 4, "nothing"),
        (&["schedules", "run", "nothing"], 4, "nothing"),
        (&["schedules", "plan", "nothing"], 4, "nothing"),
        (&["schedules", "suspend", "nothing"], 4, "nothing"),
        (&["snapshots", "--socket", "/nowhere.sock"], 3, "/nowhere.sock"),
        (&["standalone", "--config", misspelt.to_str().unwrap()], 2, "kind"),
        (&["standalone", "--config", garbage.to_str().unwrap()], 2, "garbage.yaml"),
    ] {
        let (got, told) = world.fails(words);
        assert_eq!(got, code, "{words:?}: {told}");
        assert!(told.contains(part), "{words:?}: {told}");
    }
    assert_eq!(world.json(&["snapshots"]).as_array().unwrap().len(), 0, "something was made nevertheless");
}

#[tokio::test]
async fn a_silent_host_is_not_taken_for_an_empty_one() {
    let mut world = World::start(2);
    let mut csi = controller(&world.path("csi.sock")).await;
    csi.create_volume(volume_request("data-1", "node-1")).await.unwrap();
    csi.create_volume(volume_request("data-2", "node-2")).await.unwrap();
    let second = &mut world.processes[1];
    second.kill().unwrap();
    second.wait().unwrap();
    let (code, told) = world.fails(&["snapshot", "-l", "app=db"]);
    assert_eq!(code, 3, "{told}");
    assert!(told.contains("node-2"), "{told}");
    let output = world.stillpoint(&["volumes"]);
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("data-1"));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not complete"));
}
