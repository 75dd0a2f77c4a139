//! Real processes and real files.

mod commands;
mod handover;
mod inventory;
mod journal;
mod requests;
mod sessions;
mod supervisor;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::kill;
use nix::unistd::Pid;
use proptest::prelude::*;
use tokio::time::{sleep, timeout};

use super::*;
use crate::api::Probe;
use crate::machine::Phase;
use crate::ports::*;
use crate::run::Run;

/// Far more than anything here takes; only a hang reaches it.
const SAFETY: Duration = Duration::from_secs(30);

fn definition(name: &str) -> PodDefinition {
    PodDefinition {
        name: name.into(),
        namespace: "default".into(),
        labels: BTreeMap::from([("app".into(), "db".into())]),
        host: "a".into(),
        containers: vec!["main".into()],
        volumes: vec!["data".into()],
        exec: vec![],
        env: BTreeMap::new(),
        cwd: None,
        address: None,
    }
}

fn pods(definition: PodDefinition) -> (StandalonePods, PodTarget) {
    let target = PodTarget {
        namespace: definition.namespace.clone(),
        pod: definition.name.clone(),
        uid: definition.uid(),
        container: "main".into(),
    };
    (StandalonePods::fixed(vec![definition], Arc::new(NamesAreIds)), target)
}

/// Another one at each call, as other steps have it.
fn mark() -> Mark {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let (_, target) = pods(definition("any"));
    Mark::of(&format!("{}-{number}", std::process::id()), "step", &target)
}

fn alive(pid: i32) -> bool {
    // A zombie has ended; only nobody has fetched it yet.
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    kill(Pid::from_raw(pid), None).is_ok() && !state.contains(") Z ")
}

async fn dies(pid: i32) {
    let gone = async {
        while alive(pid) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SAFETY, gone).await.unwrap_or_else(|_| panic!("{pid} is still there"));
}

async fn pid_in(path: &Path) -> i32 {
    let found = async {
        loop {
            if let Ok(Ok(pid)) = std::fs::read_to_string(path).map(|text| text.trim().parse()) {
                return pid;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SAFETY, found).await.expect("the process wrote its id")
}

#[tokio::test]
async fn secrets_are_files_of_one_directory_and_nothing_else_is() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("db")).unwrap();
    std::fs::write(dir.path().join("db/password"), "hunter2\n").unwrap();
    std::fs::write(dir.path().join("secret"), "no").unwrap();
    let secrets = FileSecrets::new(dir.path().to_owned());
    let wanted = |name: &str, key: &str| crate::api::SecretRef { name: name.into(), key: key.into() };
    assert_eq!(secrets.read("any", &wanted("db", "password")).await.unwrap(), "hunter2");
    for (name, key) in
        [("db", "user"), ("db", ".."), ("..", "passwd"), ("db/..", "secret"), ("db", "../secret")]
    {
        let error = secrets.read("any", &wanted(name, key)).await.unwrap_err().to_string();
        assert!(error.contains("cannot be read") && !error.contains("hunter2"), "{error}");
    }
}
